//! Ping streams (agent-api §8): what a ping would say, said as soon as it is so.
//!
//! A stream is opened by a request, says where the agent stands, then what changes, and is ended exactly once.

use super::route::{Answer, Refusal};
use super::{AgentNo, ControlAction, JobState, Out, Plane, PlaneCommand, PlaneRequest, PlaneResponse, transition};
use crate::api::{StreamMessage, decode_ping_request};
use crate::machine::Instant;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Path of the call.
pub(super) const PATH: [&str; 2] = ["agentedge.v1.AgentEdgeService", "StreamPings"];

/// An open stream; an agent has at most one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct PingStream {
    /// Its request.
    pub(super) id: u64,
    /// When it is ended, as the service does before the client's own limit (start-and-worker §9.7).
    pub(super) until: Instant,
    told: Option<Told>,
}

/// What was said last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
enum Told {
    Resume,
    Pause,
    Disconnect,
    Job(usize),
}

/// How a stream ends: gRPC status and its text.
type Status = (u32, &'static str);

const OK: Status = (0, "");
const REPLACED: Status = (1, "the agent has opened another stream");
const DEADLINE: Status = (4, "stream deadline");
const SILENT: Status = (14, "the agent was silent for too long");

impl Plane {
    /// `POST /agentedge.v1.AgentEdgeService/StreamPings`; an answer refuses the stream.
    pub(super) fn open_stream(&mut self, now: Instant, id: u64, request: &PlaneRequest, out: &mut Out) -> Option<Answer> {
        let Some(limit) = self.config.streaming else { return Some(Err(Refusal::unknown("ping stream"))) };
        let no = match self.agent_of(request) {
            Ok(no) => no,
            Err(refusal) => return Some(Err(refusal)),
        };
        match decode_ping_request(&request.body) {
            None => return Some(Err(Refusal(400, "the body is not one request message".into()))),
            Some(agent) if agent != *self.agent(no).id => return Some(Err(Refusal(403, "the session is another agent's".into()))),
            Some(_) => {}
        }
        self.alive(now, no, "stream", out);
        self.end_stream(no, "replaced", REPLACED, out);
        let headers = [("content-type", "application/grpc"), ("trailer", "grpc-status, grpc-message")];
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        let response = Box::new(PlaneResponse { status: 200, headers, body: Bytes::new() });
        out.push(transition("plane-stream", "none", "open", "open"));
        out.push(PlaneCommand::StreamStart { id, response });
        self.streams.insert(no, PingStream { id, until: now + limit, told: None });
        None
    }

    /// Says what is new on every stream.
    pub(super) fn serve_streams(&mut self, now: Instant, out: &mut Out) {
        let open: Vec<AgentNo> = self.streams.keys().copied().collect();
        for no in open {
            let Some(say) = self.stream_news(now, no, out) else { continue };
            self.say(no, say, out);
            // There is nothing to add to it.
            if say == Told::Disconnect {
                self.end_stream(no, "stop", OK, out);
            }
        }
    }

    /// What is to be said on an agent's stream, if anything. An agent that has a job hears of no other.
    fn stream_news(&mut self, now: Instant, no: AgentNo, out: &mut Out) -> Option<Told> {
        let told = self.streams.get(&no)?.told;
        let unless_told = |say| (told != Some(say)).then_some(say);
        match self.agent(no).control {
            Some(ControlAction::Disconnect) => return unless_told(Told::Disconnect),
            Some(ControlAction::Pause) => return unless_told(Told::Pause),
            Some(ControlAction::Resume) | None => {}
        }
        let resume = matches!(told, None | Some(Told::Pause)).then_some(Told::Resume);
        match self.agent(no).job {
            // Offered, not accepted yet: what was said on an earlier stream or in a ping may have been lost.
            Some(job) if matches!(self.jobs[job].state, JobState::Assigned { .. }) => unless_told(Told::Job(job)),
            Some(_) => resume,
            // The same job offered again is news, too.
            None => self.offer(now, no, out).map(Told::Job).or(resume),
        }
    }

    fn say(&mut self, no: AgentNo, say: Told, out: &mut Out) {
        let message = match say {
            Told::Resume => StreamMessage::Resume,
            Told::Pause => StreamMessage::Pause { reason: String::new() },
            Told::Disconnect => StreamMessage::Disconnect { reason: String::new() },
            Told::Job(job) => StreamMessage::Job { id: self.jobs[job].id.clone() },
        };
        let Some(stream) = self.streams.get_mut(&no) else { return };
        stream.told = Some(say);
        out.push(PlaneCommand::StreamSend { id: stream.id, message });
    }

    /// The stream's time is over.
    pub(super) fn stream_deadline(&mut self, no: AgentNo, out: &mut Out) {
        self.end_stream(no, "deadline", DEADLINE, out);
    }

    /// The client has closed the stream; told all the same, into the void. Whether it was one.
    pub(super) fn stream_gone(&mut self, id: u64, out: &mut Out) -> bool {
        let no = self.streams.iter().find(|(_, s)| s.id == id).map(|(no, _)| *no);
        no.map(|no| self.end_stream(no, "gone", OK, out)).is_some()
    }

    /// The agent has left, or was silent.
    pub(super) fn stream_of_absent(&mut self, no: AgentNo, event: &'static str, left: bool, out: &mut Out) {
        self.end_stream(no, event, if left { OK } else { SILENT }, out);
    }

    fn end_stream(&mut self, no: AgentNo, event: &'static str, (status, message): Status, out: &mut Out) {
        if let Some(stream) = self.streams.remove(&no) {
            out.push(transition("plane-stream", "open", event, "none"));
            out.push(PlaneCommand::StreamEnd { id: stream.id, status, message });
        }
    }
}
