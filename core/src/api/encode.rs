//! From a call to the bytes of its request (agent-api §2, §5, §9).

use super::stream::encode_ping_request;
use super::types::*;
use bytes::Bytes;
use serde::Serialize;

/// The request of one attempt. `user_agent` is the product's own (agent-api §2.3).
pub fn encode(call: &ApiCall, user_agent: &str) -> RawRequest {
    let mut parts = parts(&call.operation);
    if let Some(ms) = call.timeout_ms.filter(|ms| *ms > 0) {
        parts.headers.push(("buildkite-timeout-milliseconds", ms.to_string()));
    }
    let mut headers = common_headers(&call.session, user_agent);
    headers.append(&mut parts.headers);
    let body = match (parts.body, parts.method) {
        (Some(body), _) => Some(body),
        (None, "GET" | "DELETE") => None,
        (None, _) => Some(Bytes::new()),
    };
    if let Some(body) = &body {
        headers.push(("content-length", body.len().to_string()));
    }
    RawRequest { method: parts.method, url: join(&call.session.endpoint, &parts.path), headers, extra_headers: call.session.headers.clone(), body }
}

/// The request that opens a ping stream (agent-api §8.2).
pub fn encode_stream(call: &StreamCall, user_agent: &str) -> RawRequest {
    let body = encode_ping_request(&call.agent_id);
    let mut headers = common_headers(&call.session, user_agent);
    headers.extend([
        ("content-type", "application/grpc".to_owned()),
        ("te", "trailers".to_owned()),
        ("accept-encoding", "identity".to_owned()),
        ("content-length", body.len().to_string()),
    ]);
    RawRequest {
        method: "POST",
        url: format!("{}/agentedge.v1.AgentEdgeService/StreamPings", origin(&call.session.endpoint)),
        headers,
        extra_headers: call.session.headers.clone(),
        body: Some(body),
    }
}

/// Escapes one path segment (agent-api §2.2): `.` becomes `%2E` too.
pub fn escape_segment(segment: &str) -> String {
    escape(segment, false)
}

/// Escapes the slug of a cache registry, in which `.` stays (agent-api §2.2).
pub fn escape_registry(slug: &str) -> String {
    escape(slug, true)
}

/// Form encoding of one query key or value: space becomes `+`.
pub fn escape_query(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for b in text.bytes() {
        match b {
            b' ' => out.push('+'),
            b if b.is_ascii_alphanumeric() || b"-_.~".contains(&b) => out.push(char::from(b)),
            b => push_escaped(&mut out, b),
        }
    }
    out
}

/// URL = endpoint without trailing `/` + `/` + path without leading `/` (agent-api §2.1).
pub fn join(endpoint: &str, path: &str) -> String {
    format!("{}/{}", endpoint.trim_end_matches('/'), path.trim_start_matches('/'))
}

/// Scheme, host and port of a URL.
pub(crate) fn origin(url: &str) -> &str {
    let start = url.find("://").map_or(0, |i| i + 3);
    let end = url[start..].find(['/', '?', '#']).map_or(url.len(), |i| start + i);
    &url[..end]
}

/// A URL for logs and error texts: a password in it becomes `xxxxx`, everything else stays, be it a URL or not.
pub fn shown_url(url: &str) -> std::borrow::Cow<'_, str> {
    let origin = origin(url);
    let start = origin.find("://").map_or(0, |i| i + 3);
    match origin[start..].rsplit_once('@').and_then(|(user, host)| Some((user.split_once(':')?.0, host))) {
        Some((user, host)) => format!("{}{user}:xxxxx@{host}{}", &url[..start], &url[origin.len()..]).into(),
        None => url.into(),
    }
}

struct Parts {
    method: &'static str,
    path: String,
    headers: Vec<(&'static str, String)>,
    body: Option<Bytes>,
}

impl Parts {
    fn new(method: &'static str, path: impl Into<String>) -> Parts {
        Parts { method, path: path.into(), headers: Vec::new(), body: None }
    }

    fn header(mut self, name: &'static str, value: impl Into<String>) -> Parts {
        self.headers.push((name, value.into()));
        self
    }

    fn json(self, value: &impl Serialize) -> Parts {
        let text = serde_json::to_string(value).expect("request bodies are plain structs with string keys");
        self.json_text(text)
    }

    /// One JSON value and a newline, which counts in `Content-Length` (agent-api §2.5).
    fn json_text(mut self, mut text: String) -> Parts {
        text.push('\n');
        self.body = Some(Bytes::from(text));
        self.header("content-type", "application/json")
    }
}

fn parts(operation: &Operation) -> Parts {
    let job_path = |job: &str, rest: &str| format!("jobs/{}{rest}", escape_segment(job));
    match operation {
        Operation::Register(body) => Parts::new("POST", "register").json(body),
        Operation::Connect => Parts::new("POST", "connect"),
        Operation::Disconnect => Parts::new("POST", "disconnect"),
        Operation::Heartbeat { sent_at } => Parts::new("POST", "heartbeat").json(&serde_json::json!({ "sent_at": sent_at })),
        Operation::Ping => Parts::new("GET", "ping"),
        Operation::Accept { job } => Parts::new("PUT", job_path(job, "/accept")),
        Operation::Acquire { job, sequence } => Parts::new("PUT", job_path(job, "/acquire"))
            .header("x-buildkite-lock-acquire-job", "1")
            .header("x-buildkite-backoff-sequence", sequence.to_string()),
        Operation::Start { job, started_at } => Parts::new("PUT", job_path(job, "/start")).json(&serde_json::json!({ "started_at": started_at })),
        Operation::JobState { job } => Parts::new("GET", job_path(job, "")),
        // The order of the query is fixed, and the body is not JSON (agent-api §9.6).
        Operation::Chunk { job, sequence, offset, size, body } => {
            let mut parts = Parts::new("POST", job_path(job, &format!("/chunks?sequence={sequence}&offset={offset}&size={size}")))
                .header("content-type", "text/plain")
                .header("content-encoding", "gzip");
            parts.body = Some(body.clone());
            parts
        }
        Operation::HeaderTimes { job, times } => {
            let times: serde_json::Map<String, serde_json::Value> = times.iter().map(|(i, t)| (i.to_string(), t.as_str().into())).collect();
            Parts::new("POST", job_path(job, "/header_times")).json(&serde_json::json!({ "header_times": times }))
        }
        Operation::Finish { job, body } => Parts::new("PUT", job_path(job, "/finish")).json(body),
        Operation::Json(request) => {
            let mut parts = Parts::new(request.method, request.path.clone());
            if let Some(body) = &request.body {
                parts = parts.json_text(body.clone());
            }
            parts.headers.extend(request.headers.iter().cloned());
            parts
        }
    }
}

fn common_headers(session: &Session, user_agent: &str) -> Vec<(&'static str, String)> {
    let mut headers = Vec::with_capacity(8);
    if !session.credential.is_empty() {
        headers.push(("authorization", format!("Token {}", session.credential.expose())));
    }
    headers.push(("user-agent", user_agent.to_owned()));
    headers
}

fn escape(segment: &str, keep_dots: bool) -> String {
    let mut out = String::with_capacity(segment.len());
    for b in segment.bytes() {
        match b {
            b if b.is_ascii_alphanumeric() || b"-_~$&+=:@".contains(&b) => out.push(char::from(b)),
            b'.' if keep_dots => out.push('.'),
            b => push_escaped(&mut out, b),
        }
    }
    out
}

fn push_escaped(out: &mut String, b: u8) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    out.push('%');
    out.push(char::from(HEX[usize::from(b >> 4)]));
    out.push(char::from(HEX[usize::from(b & 15)]));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;
    use std::sync::Arc;
    use std::time::Duration;

    fn session(credential: &str) -> Session {
        let headers = Arc::new(vec![("Buildkite-Hello".to_owned(), "world".to_owned())]);
        Session { endpoint: "http://h/v3//".into(), credential: Secret::new(credential), headers }
    }

    fn call(operation: Operation) -> ApiCall {
        ApiCall { session: session("tok"), operation, limit: Duration::from_secs(60), timeout_ms: None }
    }

    /// A request as a reader of the wire sees it.
    fn wire(r: &RawRequest) -> String {
        let headers: Vec<String> = r.headers.iter().map(|(n, v)| format!("{n}: {v}")).collect();
        let body = r.body.as_ref().map(|b| String::from_utf8_lossy(b).into_owned());
        format!("{} {}\n{}\n{body:?}", r.method, r.url, headers.join("\n"))
    }

    #[test]
    fn segments_are_escaped_as_the_table_says() {
        assert_eq!(escape_segment("path.segment/containing#various?characters%lol"), "path%2Esegment%2Fcontaining%23various%3Fcharacters%25lol");
        assert_eq!(escape_segment("aZ0-_~$&+=:@"), "aZ0-_~$&+=:@");
        assert_eq!(escape_segment(" ,;é"), "%20%2C%3B%C3%A9");
        assert_eq!(escape_registry("a.b~"), "a.b~");
        assert_eq!(escape_query("a b&c=d"), "a+b%26c%3Dd");
    }

    #[test]
    fn requests_without_a_body_say_so() {
        assert_eq!(
            wire(&encode(&call(Operation::Connect), "ua")),
            "POST http://h/v3/connect\nauthorization: Token tok\nuser-agent: ua\ncontent-length: 0\nSome(\"\")"
        );
        assert_eq!(wire(&encode(&call(Operation::Ping), "ua")), "GET http://h/v3/ping\nauthorization: Token tok\nuser-agent: ua\nNone");
        assert_eq!(encode(&call(Operation::Ping), "ua").extra_headers[0].0, "Buildkite-Hello");
    }

    #[test]
    fn an_empty_credential_sends_no_authorization() {
        let call = ApiCall { session: session(""), ..call(Operation::Ping) };
        assert_eq!(wire(&encode(&call, "ua")), "GET http://h/v3/ping\nuser-agent: ua\nNone");
    }

    #[test]
    fn json_bodies_end_in_a_newline_that_counts() {
        let request = encode(&call(Operation::Start { job: "a.b".into(), started_at: "T".into() }), "ua");
        assert_eq!(
            wire(&request),
            "PUT http://h/v3/jobs/a%2Eb/start\nauthorization: Token tok\nuser-agent: ua\ncontent-type: application/json\ncontent-length: 19\nSome(\"{\\\"started_at\\\":\\\"T\\\"}\\n\")"
        );
    }

    #[test]
    fn acquire_and_finish_carry_their_headers() {
        let acquire = ApiCall { timeout_ms: Some(329_000), ..call(Operation::Acquire { job: "j".into(), sequence: 2 }) };
        assert_eq!(
            wire(&encode(&acquire, "ua")),
            "PUT http://h/v3/jobs/j/acquire\nauthorization: Token tok\nuser-agent: ua\nx-buildkite-lock-acquire-job: 1\nx-buildkite-backoff-sequence: 2\nbuildkite-timeout-milliseconds: 329000\ncontent-length: 0\nSome(\"\")"
        );
        let body = FinishRequest { exit_status: "-1".into(), finished_at: "T".into(), ..FinishRequest::default() };
        let finish = ApiCall { timeout_ms: Some(0), ..call(Operation::Finish { job: "j".into(), body: Box::new(body) }) };
        assert_eq!(
            wire(&encode(&finish, "ua")),
            "PUT http://h/v3/jobs/j/finish\nauthorization: Token tok\nuser-agent: ua\ncontent-type: application/json\ncontent-length: 63\nSome(\"{\\\"exit_status\\\":\\\"-1\\\",\\\"finished_at\\\":\\\"T\\\",\\\"chunks_failed_count\\\":0}\\n\")"
        );
    }

    #[test]
    fn chunks_have_a_fixed_query_order_and_no_json() {
        let chunk = Operation::Chunk { job: "j".into(), sequence: 1, offset: 2, size: 3, body: Bytes::from_static(b"gz") };
        assert_eq!(
            wire(&encode(&call(chunk), "ua")),
            "POST http://h/v3/jobs/j/chunks?sequence=1&offset=2&size=3\nauthorization: Token tok\nuser-agent: ua\ncontent-type: text/plain\ncontent-encoding: gzip\ncontent-length: 2\nSome(\"gz\")"
        );
    }

    #[test]
    fn header_times_keep_their_indexes() {
        let times = Operation::HeaderTimes { job: "j".into(), times: vec![(9, "A".into()), (10, "B".into())] };
        let body = encode(&call(times), "ua").body.unwrap();
        assert_eq!(&body[..], b"{\"header_times\":{\"9\":\"A\",\"10\":\"B\"}}\n");
    }

    #[test]
    fn the_stream_goes_to_the_origin_with_one_frame_of_43_bytes() {
        let stream = StreamCall {
            session: Session { endpoint: "https://e:8443/v3/x".into(), ..session("tok") },
            agent_id: "0190a0b0-0000-4000-8000-000000000000".into(),
            limit: Duration::from_secs(60),
        };
        let request = encode_stream(&stream, "ua");
        assert_eq!(request.url, "https://e:8443/agentedge.v1.AgentEdgeService/StreamPings");
        let body = request.body.unwrap();
        assert_eq!(body.len(), 43);
        assert_eq!(&body[..7], [0, 0, 0, 0, 0x26, 0x0a, 0x24]);
        assert!(request.headers.contains(&("content-length", "43".to_owned())));
        assert!(request.headers.contains(&("te", "trailers".to_owned())));
    }
}
