//! Which request is which, and who may make it (agent-api §1–3, §5).

use super::{AgentNo, AgentState, Out, Plane, PlaneCommand, PlaneRequest, PlaneResponse};
use crate::machine::Instant;
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

/// An answer: a response, or a refusal.
pub(super) type Answer = Result<PlaneResponse, Refusal>;

/// Status and message of an error response (agent-api §3.3).
#[derive(Debug)]
pub(super) struct Refusal(pub(super) u16, pub(super) String);

impl Refusal {
    pub(super) fn unprocessable(message: impl Into<String>) -> Refusal {
        Refusal(422, message.into())
    }

    pub(super) fn unknown(what: &str) -> Refusal {
        Refusal(404, format!("{what} not found"))
    }
}

/// A response with a JSON body.
pub(super) fn json<T: Serialize>(status: u16, body: &T) -> Answer {
    let body = serde_json::to_vec(body).map_err(|e| Refusal(500, e.to_string()))?;
    Ok(PlaneResponse { status, headers: vec![("content-type".into(), "application/json".into())], body: body.into() })
}

/// A response without a body.
pub(super) fn no_content() -> Answer {
    Ok(PlaneResponse { status: 204, headers: Vec::new(), body: Bytes::new() })
}

/// The body as JSON.
pub(super) fn body<T: DeserializeOwned>(request: &PlaneRequest) -> Result<T, Refusal> {
    serde_json::from_slice(&request.body).map_err(|e| Refusal(400, format!("body is not what it should be: {e}")))
}

/// A target split up: decoded path segments and query.
pub(super) struct Target {
    segments: Vec<String>,
    query: Vec<(String, String)>,
}

impl Target {
    pub(super) fn parse(path: &str) -> Target {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let mut segments: Vec<String> = path.split('/').filter(|s| !s.is_empty()).map(|s| decode(s, false)).collect();
        if segments.first().is_some_and(|s| s == "v3") {
            segments.remove(0);
        }
        let pair = |p: &str| {
            let (k, v) = p.split_once('=').unwrap_or((p, ""));
            (decode(k, true), decode(v, true))
        };
        Target { segments, query: query.split('&').filter(|p| !p.is_empty()).map(pair).collect() }
    }

    pub(super) fn query(&self, key: &str) -> Option<&str> {
        self.query.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// A query value as a number.
    pub(super) fn number(&self, key: &str) -> Result<u64, Refusal> {
        let text = self.query(key).unwrap_or_default();
        text.parse().map_err(|_| Refusal(400, format!("query needs a number for `{key}`")))
    }
}

/// Undoes percent encoding; `plus` also turns `+` into a blank. What is malformed stays as it is.
fn decode(text: &str, plus: bool) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let hex = |at: usize| bytes.get(at).and_then(|b| char::from(*b).to_digit(16));
        match (bytes[i], hex(i + 1), hex(i + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                i += 3;
                continue;
            }
            (b'+', ..) if plus => out.push(b' '),
            (b, ..) => out.push(b),
        }
        i += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

impl Plane {
    /// Answers a request, or holds it.
    pub(super) fn request(&mut self, now: Instant, id: u64, request: &PlaneRequest, out: &mut Out) {
        let target = Target::parse(&request.path);
        let segments: Vec<&str> = target.segments.iter().map(String::as_str).collect();
        if let ("GET", ["ping"]) = (request.method.as_str(), &segments[..]) {
            let answer = match self.agent_of(request) {
                Ok(no) => self.ping(now, id, no, out),
                Err(refusal) => Some(Err(refusal)),
            };
            if let Some(answer) = answer {
                self.respond(id, answer, out);
            }
            return;
        }
        if request.method == "POST" && segments == super::stream::PATH {
            if let Some(refusal) = self.open_stream(now, id, request, out) {
                self.respond(id, refusal, out);
            }
            return;
        }
        let answer = self.route(now, request, &target, &segments, out);
        self.respond(id, answer, out);
    }

    fn route(&mut self, now: Instant, request: &PlaneRequest, target: &Target, segments: &[&str], out: &mut Out) -> Answer {
        match (request.method.as_str(), segments) {
            ("POST", ["register"]) => match same(request.token.expose(), self.config.registration_token.expose()) {
                true => self.register(now, request, out),
                false => Err(Refusal(401, "the registration token is not valid".into())),
            },
            ("POST", ["connect"]) => self.agent_of(request).and_then(|no| self.connect(now, no, out)),
            ("POST", ["disconnect"]) => self.agent_of(request).and_then(|no| self.disconnect(now, no, out)),
            ("POST", ["heartbeat"]) => self.agent_of(request).and_then(|no| self.heartbeat(now, no, request, out)),
            ("PUT", ["jobs", job, "accept"]) => self.agent_of(request).and_then(|no| self.accept(now, no, job, out)),
            ("PUT", ["jobs", job, "acquire"]) => self.agent_of(request).and_then(|no| self.acquire(now, no, job, out)),
            ("GET", ["jobs", job]) => self.job_of(request, job).and_then(|j| self.poll_job(j, out)),
            ("PUT", ["jobs", job, "start"]) => self.job_of(request, job).and_then(|j| self.start(now, j, out)),
            ("PUT", ["jobs", job, "finish"]) => self.job_of(request, job).and_then(|j| self.finish(now, j, request, out)),
            ("POST", ["jobs", job, "chunks"]) => self.job_of(request, job).and_then(|j| self.chunk(j, request, target, out)),
            ("POST", ["jobs", job, "header_times"]) => self.job_of(request, job).and_then(|j| self.header_times(j, request)),
            ("PUT", ["jobs", job, "promise_failure"]) => self.job_of(request, job).and_then(|j| self.promise(now, j, request, out)),
            ("POST", ["jobs", job, "data", what]) => self.job_of(request, job).and_then(|j| self.job_data(j, what, request)),
            ("POST", ["builds", build, "data", what]) => self.build_of(request, build).and_then(|b| self.read_data(b, what, request)),
            ("POST", ["jobs", job, "annotations"]) => self.job_of(request, job).and_then(|j| self.annotate(j, request)),
            ("DELETE", ["jobs", job, "annotations", context]) => {
                self.job_of(request, job).and_then(|j| self.remove_annotation(j, context, target.query("scope").unwrap_or_default()))
            }
            ("POST", ["jobs", job, "pipelines"]) => self.job_of(request, job).and_then(|j| self.upload(now, j, request, target, out)),
            ("GET", ["jobs", job, "pipelines", uuid]) => self.job_of(request, job).and_then(|j| self.upload_state(j, uuid)),
            ("POST" | "PUT", ["jobs", job, "artifacts"]) => self
                .job_of(request, job)
                .and_then(|_| Err(Refusal::unprocessable("this control plane keeps no artifacts; write files where later steps find them"))),
            // None is kept, so none is found.
            ("GET", ["builds", build, "artifacts", "search"]) => self.build_of(request, build).and_then(|_| json(200, &json!([]))),
            ("POST", ["steps", step, "export"]) => self.job_with(request).and_then(|j| self.export_step(j, step, request)),
            ("POST", ["steps", step, "cancel"]) => self.job_with(request).and_then(|j| self.cancel_step(now, j, step, request, out)),
            ("PUT", ["steps", _]) => {
                self.job_with(request).and_then(|_| Err(Refusal::unprocessable("this control plane does not change steps of a running build")))
            }
            ("POST", ["builds", build, "cancel"]) => self.build_of(request, build).and_then(|b| {
                self.cancel_build(now, b, out);
                json(200, &json!({"uuid": self.builds[b].id}))
            }),
            ("GET", []) => self.people(request, target).and_then(|()| self.build_page()),
            ("GET", ["builds", number]) => self.people(request, target).and_then(|()| self.numbered_page(number, target)),
            ("POST", ["builds"]) => self.people(request, target).and_then(|()| self.post_build(now, request, target, out)),
            ("GET", ["jobs", job, "log"]) => self.people(request, target).and_then(|()| self.log_page(job)),
            _ => Err(Refusal(404, format!("no such endpoint: {} {}", request.method, request.path.split('?').next().unwrap_or_default()))),
        }
    }

    pub(super) fn respond(&mut self, id: u64, answer: Answer, out: &mut Out) {
        let response = answer.unwrap_or_else(|Refusal(status, message)| PlaneResponse {
            status,
            headers: vec![("content-type".into(), "application/json".into())],
            body: json!({ "message": message }).to_string().into(),
        });
        out.push(PlaneCommand::Respond { id, response: Box::new(response) });
    }

    /// The agent whose session token this is.
    pub(super) fn agent_of(&self, request: &PlaneRequest) -> Result<AgentNo, Refusal> {
        let token = request.token.expose();
        owner(token, "agent")
            .and_then(|no| AgentNo::try_from(no).ok())
            .filter(|no| self.agents.get(no).is_some_and(|a| a.state != AgentState::Disconnected && same(a.token.expose(), token)))
            .ok_or_else(|| Refusal(401, "the agent access token is not valid".into()))
    }

    /// The job whose token this is, which must be the job of the path.
    fn job_of(&mut self, request: &PlaneRequest, id: &str) -> Result<usize, Refusal> {
        let job = self.job_with(request)?;
        if &*self.jobs[job].id != id {
            return Err(Refusal::unknown("job"));
        }
        // It lives: what the agent said by asking for other work no longer counts.
        if let Some(no) = self.jobs[job].state.holder() {
            self.agent_mut(no).doubted = None;
        }
        Ok(job)
    }

    /// The build of the path, for a running job of that build.
    fn build_of(&self, request: &PlaneRequest, id: &str) -> Result<usize, Refusal> {
        let job = &self.jobs[self.job_with(request)?];
        if &*self.builds[job.build].id != id {
            return Err(Refusal::unknown("build"));
        }
        if !job.state.is_active() {
            return Err(Refusal::unprocessable("the job is not running"));
        }
        Ok(job.build)
    }

    pub(super) fn job_with(&self, request: &PlaneRequest) -> Result<usize, Refusal> {
        let token = request.token.expose();
        owner(token, "job")
            .and_then(|no| usize::try_from(no).ok())
            .filter(|no| self.jobs.get(*no).is_some_and(|j| same(j.token.expose(), token)))
            .ok_or_else(|| Refusal(401, "the job token is not valid".into()))
    }

    /// People show the registration token, in the header or as `?token=`.
    fn people(&self, request: &PlaneRequest, target: &Target) -> Result<(), Refusal> {
        let wanted = self.config.registration_token.expose();
        let shown = [request.token.expose(), target.query("token").unwrap_or_default()];
        if shown.iter().any(|s| same(s, wanted)) {
            return Ok(());
        }
        Err(Refusal(401, "add ?token=… with the token that the plane printed when it started".into()))
    }
}

/// The number inside `kind_<number>_<random>`.
fn owner(token: &str, kind: &str) -> Option<u64> {
    token.strip_prefix(kind)?.strip_prefix('_')?.split('_').next()?.parse().ok()
}

/// Compares secrets in a time that depends on their length only.
fn same(a: &str, b: &str) -> bool {
    !a.is_empty() && a.len() == b.len() && a.bytes().zip(b.bytes()).fold(0, |d, (x, y)| d | (x ^ y)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_split_and_decoded_and_v3_is_dropped() {
        let t = Target::parse("/v3//jobs/a%2Fb%2Ec/chunks?sequence=1&offset=0&q=a+b");
        assert_eq!(t.segments, ["jobs", "a/b.c", "chunks"]);
        assert_eq!(t.number("sequence").unwrap(), 1);
        assert_eq!(t.query("q"), Some("a b"));
        assert!(t.number("size").is_err());
        assert_eq!(Target::parse("/a%zz%4").segments, ["a%zz%4"]);
    }

    #[test]
    fn an_empty_token_equals_nothing() {
        assert!(!same("", ""));
        assert!(same("x", "x"));
        assert!(!same("x", "y"));
    }
}
