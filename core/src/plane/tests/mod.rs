//! Tests of the plane, told from outside: by requests and by events.

mod contract;
mod jobs;
mod random;
mod results;
mod stream;
mod upload;

use super::*;
use crate::limits::PLANE_START;
use crate::pipeline::{CommandStep, Dependency, StepSpec, WaitStep};
use crate::secret::Secret;
use crate::wall::WallTime;
use bytes::Bytes;
use serde_json::{Value, json};
use std::time::Duration;

/// A plane with a clock, and what it has said so far.
struct Bench {
    plane: Plane,
    now: Instant,
    said: Vec<PlaneCommand>,
    next: u64,
}

/// A registered agent.
#[derive(Clone)]
struct Peer {
    id: String,
    token: String,
}

/// A job as its agent knows it.
#[derive(Clone)]
struct Held {
    id: String,
    token: String,
    env: Value,
}

impl Bench {
    fn new() -> Bench {
        Bench::with(PlaneConfig::hosted(Secret::new("reg")))
    }

    fn with(config: PlaneConfig) -> Bench {
        Bench { plane: Plane::new(config, Rng::from_seed(7)), now: Instant::ZERO, said: Vec::new(), next: 0 }
    }

    fn event(&mut self, event: PlaneEvent) {
        self.plane.handle(self.now, event, &mut self.said);
        self.plane.check_invariants().unwrap();
    }

    fn after(&mut self, wait: Duration) {
        let end = self.now + wait;
        while let Some(at) = self.plane.deadline().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.plane.expire(self.now, &mut self.said);
            self.plane.check_invariants().unwrap();
        }
        self.now = end;
    }

    /// Sends a request; its id.
    fn send(&mut self, method: &str, path: &str, token: &str, body: impl Into<Bytes>) -> u64 {
        self.send_to(method, format!("/v3/{path}"), token, body)
    }

    fn send_to(&mut self, method: &str, path: String, token: &str, body: impl Into<Bytes>) -> u64 {
        self.next += 1;
        let request = PlaneRequest { method: method.into(), path, token: Secret::new(token), body: body.into(), received: WallTime::from_nanos(0) };
        self.event(PlaneEvent::Request { id: self.next, request: Box::new(request) });
        self.next
    }

    fn answer(&self, id: u64) -> Option<(u16, Value)> {
        let mut answers = self.said.iter().filter_map(|c| match c {
            PlaneCommand::Respond { id: other, response } if *other == id => Some(response),
            _ => None,
        });
        let response = answers.next()?;
        assert!(answers.next().is_none(), "request {id} was answered twice");
        Some((response.status, serde_json::from_slice(&response.body).unwrap_or(Value::Null)))
    }

    fn call(&mut self, method: &str, path: &str, token: &str, body: Value) -> (u16, Value) {
        let body = if body.is_null() { Bytes::new() } else { body.to_string().into() };
        let id = self.send(method, path, token, body);
        self.answer(id).expect("every request is answered at once, but for held pings")
    }

    fn agent(&mut self, tags: &[&str]) -> Peer {
        let body = json!({
            "name": "a", "hostname": "h", "os": "", "arch": "amd64", "script_eval_enabled": true,
            "ignore_in_dispatches": false, "version": "1", "build": "x", "meta_data": tags, "features": [],
        });
        let (status, answer) = self.call("POST", "register", "reg", body);
        assert_eq!(status, 200, "{answer}");
        let peer = Peer { id: answer["id"].as_str().unwrap().into(), token: answer["access_token"].as_str().unwrap().into() };
        assert_eq!(self.call("POST", "connect", &peer.token, Value::Null).0, 204);
        peer
    }

    fn ping(&mut self, peer: &Peer) -> Value {
        let (status, answer) = self.call("GET", "ping", &peer.token, Value::Null);
        assert_eq!(status, 200, "{answer}");
        answer
    }

    /// The job that is offered to the agent, if one is.
    fn offered(&mut self, peer: &Peer) -> Option<String> {
        self.ping(peer)["job"]["id"].as_str().map(str::to_owned)
    }

    fn accept(&mut self, peer: &Peer, id: &str) -> Held {
        let (status, job) = self.call("PUT", &format!("jobs/{id}/accept"), &peer.token, Value::Null);
        assert_eq!(status, 200, "{job}");
        Held { id: id.into(), token: job["token"].as_str().unwrap().into(), env: job["env"].clone() }
    }

    fn start(&mut self, held: &Held) -> u16 {
        self.call("PUT", &format!("jobs/{}/start", held.id), &held.token, json!({"started_at": "now"})).0
    }

    /// Pings, accepts and starts.
    fn begin(&mut self, peer: &Peer) -> Option<Held> {
        let id = self.offered(peer)?;
        let held = self.accept(peer, &id);
        assert_eq!(self.start(&held), 204);
        Some(held)
    }

    fn finish(&mut self, held: &Held, exit_status: i32) -> u16 {
        self.finish_with(held, exit_status, "", "")
    }

    fn finish_with(&mut self, held: &Held, exit_status: i32, signal: &str, reason: &str) -> u16 {
        let body = json!({
            "exit_status": exit_status.to_string(), "signal": signal, "signal_reason": reason, "finished_at": "now", "chunks_failed_count": 0,
        });
        self.call("PUT", &format!("jobs/{}/finish", held.id), &held.token, body).0
    }

    fn poll(&mut self, held: &Held) -> (u16, Value) {
        self.call("GET", &format!("jobs/{}", held.id), &held.token, Value::Null)
    }

    fn chunk(&mut self, held: &Held, sequence: u64, offset: u64, data: &str) -> u16 {
        let path = format!("jobs/{}/chunks?sequence={sequence}&offset={offset}&size={}", held.id, data.len());
        let id = self.send("POST", &path, &held.token, data.to_owned());
        self.answer(id).unwrap().0
    }

    fn build(&mut self, steps: Vec<StepSpec>) {
        self.event(PlaneEvent::CreateBuild(Box::new(BuildSpec { steps, ..BuildSpec::default() })));
        assert!(!self.said.iter().any(|c| matches!(c, PlaneCommand::BuildRefused { .. })), "{:?}", self.said.last());
    }

    fn refused(&mut self, steps: Vec<StepSpec>) -> String {
        self.event(PlaneEvent::CreateBuild(Box::new(BuildSpec { steps, ..BuildSpec::default() })));
        match self.said.last() {
            Some(PlaneCommand::BuildRefused { message }) => message.clone(),
            other => panic!("the build was not refused: {other:?}"),
        }
    }

    /// Runs everything that can run, one job after the other; a command is a list of exit statuses, one per run of its step.
    /// Gives the commands that ran, in order of their starts.
    fn run_all(&mut self) -> Vec<String> {
        let peer = self.agent(&[]);
        let mut ran = Vec::new();
        while let Some(held) = self.begin(&peer) {
            self.after(Duration::from_secs(1));
            let command = held.env["BUILDKITE_COMMAND"].as_str().unwrap().to_owned();
            let statuses = command.split_once(' ').map_or("0", |(_, s)| s);
            let parallel: usize = held.env["BUILDKITE_PARALLEL_JOB"].as_str().map_or(0, |n| n.parse().unwrap());
            let retry: usize = held.env["BUILDKITE_RETRY_COUNT"].as_str().unwrap().parse().unwrap();
            let status = statuses.split(',').nth(parallel + retry).expect("the step ran more often than expected");
            assert_eq!(self.finish(&held, status.parse().unwrap()), 204);
            ran.push(command.split(' ').next().unwrap().to_owned());
            assert_eq!(self.call("POST", "heartbeat", &peer.token, json!({"sent_at": ""})).0, 200);
        }
        ran
    }

    fn state(&self) -> &'static str {
        self.plane.builds()[0].state.name()
    }
}

/// A command step whose command is `text`: a name, and what its runs exit with.
fn step(text: &str) -> CommandStep {
    CommandStep { key: text.split(' ').next().map(str::to_owned), ..CommandStep::new(text) }
}

fn steps(list: Vec<StepSpec>) -> Vec<StepSpec> {
    list
}

fn wait() -> StepSpec {
    WaitStep::default().into()
}

fn wait_on_failure() -> StepSpec {
    WaitStep { continue_on_failure: true, ..WaitStep::default() }.into()
}

fn needs(step: CommandStep, on: &[(&str, Option<bool>)]) -> CommandStep {
    let list = on.iter().map(|(key, allow)| Dependency { step: (*key).to_owned(), allow_failure: *allow });
    CommandStep { depends_on: Some(list.collect()), ..step }
}
