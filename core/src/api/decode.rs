//! From what came back to an outcome, and the exact texts of failures (agent-api §3).

use super::bodies::{self, BodyError};
use super::encode::shown_url;
use super::types::*;
use crate::limits::ERROR_SNIPPET_BYTES;
use bytes::Bytes;
use std::time::Duration;

/// Classifies one exchange. Redirects have been followed.
pub fn decode(operation: &Operation, request: &RawRequest, response: Result<RawResponse, TransportError>) -> Outcome {
    let response = match response {
        Ok(response) => response,
        Err(e) => return Outcome::Transport(Box::new(e)),
    };
    if !(200..300).contains(&response.status) {
        return Outcome::Status(Box::new(status_error(request.method, &response)));
    }
    match reply(operation, &response) {
        Ok(reply) => Outcome::Ok(reply),
        Err(e) => Outcome::Undecodable(undecodable_text(request.method, &response, &e).into()),
    }
}

/// `<METHOD> <URL>: <cause>` as one transport failure.
pub fn transport_error(kind: TransportKind, method: &str, url: &str, cause: &str) -> TransportError {
    TransportError { kind, text: format!("{method} {}: {cause}", shown_url(url)) }
}

/// `<code> <reason>`; the code alone where it has no registered reason.
pub fn status_text(status: u16) -> String {
    let reason = match status {
        100 => "Continue",
        101 => "Switching Protocols",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        203 => "Non-Authoritative Information",
        204 => "No Content",
        205 => "Reset Content",
        206 => "Partial Content",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        305 => "Use Proxy",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Request Entity Too Large",
        414 => "Request URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Requested Range Not Satisfiable",
        417 => "Expectation Failed",
        418 => "I'm a teapot",
        421 => "Misdirected Request",
        422 => "Unprocessable Entity",
        423 => "Locked",
        424 => "Failed Dependency",
        425 => "Too Early",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        451 => "Unavailable For Legal Reasons",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        507 => "Insufficient Storage",
        508 => "Loop Detected",
        511 => "Network Authentication Required",
        _ => return status.to_string(),
    };
    format!("{status} {reason}")
}

/// `Retry-After` (agent-api §4.1): decimal seconds, optionally with a fraction; zero or negative means at once.
pub fn parse_retry_after(text: &str) -> Option<Duration> {
    let text = text.trim();
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return None;
    }
    let seconds: f64 = text.parse().ok()?;
    Duration::try_from_secs_f64(seconds.max(0.0)).ok()
}

fn reply(operation: &Operation, response: &RawResponse) -> Result<Reply, BodyError> {
    let body = &response.body;
    Ok(match operation {
        Operation::Register(_) => Reply::Registered(Box::new(bodies::registered(body)?)),
        Operation::Heartbeat { .. } => bodies::object(body).map(|()| Reply::Empty)?,
        Operation::Ping => Reply::Ping(Box::new(bodies::ping(body)?)),
        Operation::Accept { .. } | Operation::Acquire { .. } => Reply::Job(Box::new(bodies::job(body)?)),
        Operation::JobState { .. } => Reply::State(bodies::state(body)?.into()),
        Operation::Json(request) => Reply::Json(Box::new(JsonReply {
            status: response.status,
            location: header(response, "location").map(str::to_owned),
            retry_after: header(response, "retry-after").and_then(parse_retry_after),
            body: if request.decoded { bodies::first_value(body)? } else { String::new() },
        })),
        Operation::Connect
        | Operation::Disconnect
        | Operation::Start { .. }
        | Operation::Chunk { .. }
        | Operation::HeaderTimes { .. }
        | Operation::Finish { .. } => Reply::Empty,
    })
}

/// agent-api §3.3.
fn status_error(method: &str, response: &RawResponse) -> StatusError {
    let status_text = status_text(response.status);
    let mut text = format!("{method} {}: {status_text}", shown_url(&response.url));
    let parsed = serde_json::from_slice::<serde_json::Value>(&response.body);
    if let Some(message) = parsed.as_ref().ok().and_then(|v| v.get("message")).and_then(|m| m.as_str()).filter(|m| !m.is_empty()) {
        text += &format!(": {message}");
    }
    let content_type = header(response, "content-type").unwrap_or_default();
    if parsed.is_err() && !response.body.is_empty() && !is_json(content_type) {
        let ellipsis = if response.body.len() > ERROR_SNIPPET_BYTES { "…" } else { "" };
        let snippet = quote(&format!("{}{ellipsis}", snippet(&response.body)));
        text += &format!(": non-JSON body (content-type {}) starting with {snippet}", quote(content_type));
    }
    StatusError { status: response.status, status_text, retry_after: header(response, "retry-after").and_then(parse_retry_after), text }
}

/// agent-api §3.2. The body of a JSON answer is never quoted: it may hold a credential.
fn undecodable_text(method: &str, response: &RawResponse, error: &BodyError) -> String {
    let content_type = header(response, "content-type").unwrap_or_default();
    let mut text = format!("{method} {}: {}: could not decode response body", shown_url(&response.url), status_text(response.status));
    if !content_type.is_empty() {
        text += &format!(" (content-type {})", quote(content_type));
    }
    text += &format!(": {error}");
    if !is_json(content_type) && !response.body.is_empty() {
        text += &format!(": body starts with {}", quote(&snippet(&response.body)));
    }
    text
}

fn header<'a>(response: &'a RawResponse, name: &str) -> Option<&'a str> {
    response.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
}

/// `application/json` or `application/*+json`, any case, parameters ignored.
fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
}

fn snippet(body: &Bytes) -> String {
    let cut = &body[..body.len().min(ERROR_SNIPPET_BYTES)];
    cut.utf8_chunks().map(|c| c.valid()).collect()
}

/// Text in double quotes on one line: quotes, backslashes and control characters escaped.
fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if u32::from(c) < 0x20 || c == '\u{7f}' => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: &'static str) -> RawRequest {
        RawRequest { method, url: "http://h/v3/x".into(), headers: Vec::new(), extra_headers: RequestHeaders::default(), body: None }
    }

    fn answer(status: u16, content_type: &str, body: &str) -> Result<RawResponse, TransportError> {
        let headers = if content_type.is_empty() { vec![] } else { vec![("content-type".into(), content_type.into())] };
        Ok(RawResponse { proto: "HTTP/1.1", status, headers, body: Bytes::copy_from_slice(body.as_bytes()), url: "http://h/v3/x".into() })
    }

    #[test]
    fn error_texts_are_those_of_the_specification() {
        let outcome = |ct: &str, body: &str| decode(&Operation::Connect, &request("PUT"), answer(422, ct, body)).text().to_owned();
        assert_eq!(
            outcome("application/json", r#"{"message":"job is not assigned"}"#),
            "PUT http://h/v3/x: 422 Unprocessable Entity: job is not assigned"
        );
        assert_eq!(outcome("", ""), "PUT http://h/v3/x: 422 Unprocessable Entity");
        assert_eq!(outcome("application/json", "{oops"), "PUT http://h/v3/x: 422 Unprocessable Entity");
        assert_eq!(
            outcome("text/html", "<p>\n\"no\""),
            r#"PUT http://h/v3/x: 422 Unprocessable Entity: non-JSON body (content-type "text/html") starting with "<p>\n\"no\"""#
        );
        let long = outcome("text/plain", &"a".repeat(513));
        assert!(long.ends_with(&format!("\"{}…\"", "a".repeat(512))), "{long}");
    }

    #[test]
    fn a_password_in_an_endpoint_is_in_no_text() {
        for (url, shown) in [
            ("http://u:p@h/v3/x?a@b", "http://u:xxxxx@h/v3/x?a@b"),
            ("https://u:p@q@h:1", "https://u:xxxxx@h:1"),
            ("http://u@h/x", "http://u@h/x"),
            ("http://h/a:b@c", "http://h/a:b@c"),
            ("http://a b/x", "http://a b/x"),
            ("/ping", "/ping"),
            ("", ""),
        ] {
            assert_eq!(shown_url(url), shown);
        }
        let url = "http://u:secret@h/v3/x".to_owned();
        let failed = transport_error(TransportKind::Refused, "GET", &url, "refused");
        let with = |status, body: &str| Ok(RawResponse { url: url.clone(), ..answer(status, "text/html", body).unwrap() });
        for outcome in [
            decode(&Operation::Ping, &request("GET"), Err(failed)),
            decode(&Operation::Ping, &request("GET"), with(500, "")),
            decode(&Operation::Ping, &request("GET"), with(200, "<html>")),
        ] {
            assert!(outcome.text().starts_with("GET http://u:xxxxx@h/v3/x: "), "{}", outcome.text());
        }
    }

    #[test]
    fn an_undecodable_success_quotes_only_what_is_not_json() {
        let outcome = |ct: &str, body: &str| match decode(&Operation::Ping, &request("GET"), answer(200, ct, body)) {
            Outcome::Undecodable(text) => text.into_string(),
            other => panic!("{other:?}"),
        };
        let html = outcome("text/html", "<html>");
        assert!(html.starts_with("GET http://h/v3/x: 200 OK: could not decode response body (content-type \"text/html\"): "), "{html}");
        assert!(html.ends_with(": body starts with \"<html>\""), "{html}");
        let json = outcome("Application/Problem+JSON; charset=utf-8", "{\"token\":\"s3cret\"");
        assert!(!json.contains("s3cret"), "{json}");
        assert!(outcome("", "").starts_with("GET http://h/v3/x: 200 OK: could not decode response body: "));
        outcome("application/json", "[]");
        outcome("application/json", "null");
        outcome("application/json", r#"{"action": 7}"#);
    }

    #[test]
    fn retry_after_is_seconds_with_an_optional_fraction() {
        let table = [("5", Some(5000)), ("0.5", Some(500)), ("1.000000", Some(1000)), ("0", Some(0)), ("-3", Some(0)), (" 2 ", Some(2000))];
        for (text, ms) in table.into_iter().chain(["", "soon", "Wed, 21 Oct 2015 07:28:00 GMT", "1e3", "inf", "NaN", "."].map(|t| (t, None))) {
            assert_eq!(parse_retry_after(text), ms.map(Duration::from_millis), "{text:?}");
        }
    }

    #[test]
    fn endpoints_that_are_not_decoded_ignore_the_body() {
        for operation in [Operation::Connect, Operation::Disconnect] {
            assert_eq!(decode(&operation, &request("POST"), answer(204, "text/html", "<html>")), Outcome::Ok(Reply::Empty));
        }
        let heartbeat = Operation::Heartbeat { sent_at: String::new() };
        assert_eq!(decode(&heartbeat, &request("POST"), answer(200, "", "{} trailing")), Outcome::Ok(Reply::Empty));
        assert!(matches!(decode(&heartbeat, &request("POST"), answer(204, "", "")), Outcome::Undecodable(_)));
    }

    #[test]
    fn json_replies_carry_status_location_and_the_first_value() {
        let json = JsonRequest { method: "GET", path: "p".into(), body: None, headers: vec![], decoded: true };
        let mut response = answer(202, "application/json", " {\"a\": [1]} rest").unwrap();
        response.headers.push(("location".into(), "/l".into()));
        response.headers.push(("retry-after".into(), "3".into()));
        let want = JsonReply { status: 202, location: Some("/l".into()), retry_after: Some(Duration::from_secs(3)), body: "{\"a\": [1]}".into() };
        assert_eq!(decode(&Operation::Json(Box::new(json)), &request("GET"), Ok(response)), Outcome::Ok(Reply::Json(Box::new(want))));
    }
}
