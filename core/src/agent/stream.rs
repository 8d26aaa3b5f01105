//! The stream source (specification: start-and-worker §9.7).

use super::debouncer::Message;
use super::desk::{Cx, Desk};
use super::{AgentCommand, Level, PingMode, WorkerError};
use crate::api::{GrpcCode, StreamCall, StreamEnd, StreamMessage};
use crate::limits;
use crate::machine::{Instant, RequestId};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Opens ping streams, one after the other, in windows that double while nothing good comes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Stream {
    /// Attempts since the last good message.
    attempt: u32,
    /// The next good message is worth a line.
    first: bool,
    state: State,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
enum State {
    /// The random wait at the beginning of a window.
    Window {
        /// When to open.
        open_at: Instant,
        /// End of the window.
        until: Instant,
    },
    /// A stream is open, or being opened.
    Open {
        /// Which.
        id: RequestId,
        /// End of the window.
        until: Instant,
        /// It has delivered a well-formed message.
        heard: bool,
    },
    /// The stream has ended within its window.
    Rest {
        /// End of the window.
        until: Instant,
    },
    /// For good.
    Ended,
}

/// What the stream means to its debouncer and to the worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StreamVerdict {
    /// Nothing new.
    Nothing,
    /// A message.
    Message(Message),
    /// The stream is not to be relied on.
    Unhealthy,
    /// The source has ended for good; an error, where it is one, is written and remembered.
    Ended,
}

impl Stream {
    /// The first window.
    pub(crate) fn start(now: Instant, desk: &mut Desk, cx: &mut Cx<'_>) -> Stream {
        let mut stream = Stream { attempt: 0, first: true, state: State::Ended };
        stream.window(now, "start", desk, cx);
        stream
    }

    fn name(&self) -> &'static str {
        match self.state {
            State::Window { .. } => "Window",
            State::Open { .. } => "Open",
            State::Rest { .. } => "Rest",
            State::Ended => "Ended",
        }
    }

    pub(crate) fn ended(&self) -> bool {
        self.state == State::Ended
    }

    pub(crate) fn awaits(&self, id: RequestId) -> bool {
        matches!(&self.state, State::Open { id: mine, .. } if *mine == id)
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Window { open_at, .. } => Some(open_at),
            State::Rest { until } => Some(until),
            State::Open { .. } | State::Ended => None,
        }
    }

    /// Window k+1 is min(2^k, 64) s long and begins now; the stream opens at a random instant of it.
    fn window(&mut self, now: Instant, event: &'static str, desk: &mut Desk, cx: &mut Cx<'_>) {
        let length = Duration::from_secs(1 << self.attempt.min(6)).min(limits::STREAM_WINDOW_MAX);
        let from = self.name();
        self.attempt = self.attempt.saturating_add(1);
        self.state = State::Window { open_at: now + desk.rng.duration_below(length), until: now + length };
        desk.step("stream", from, event, "Window", cx);
    }

    /// After a stream: the rest of its window, of which a long stream leaves nothing.
    fn rest(&mut self, now: Instant, until: Instant, event: &'static str, desk: &mut Desk, cx: &mut Cx<'_>) {
        if until <= now {
            self.window(now, event, desk, cx);
        } else {
            let from = self.name();
            self.state = State::Rest { until };
            desk.step("stream", from, event, "Rest", cx);
        }
    }

    /// Opens a stream, or begins the next window.
    pub(crate) fn expire(&mut self, now: Instant, desk: &mut Desk, cx: &mut Cx<'_>) {
        match self.state {
            State::Window { open_at, until } if open_at <= now => {
                let id = desk.ids.issue();
                let stream = StreamCall { session: desk.session.clone(), agent_id: desk.id.clone(), limit: limits::STREAM };
                cx.out.push(AgentCommand::OpenStream { id, stream: Box::new(stream) });
                self.state = State::Open { id, until, heard: false };
                desk.step("stream", "Window", "jitter over", "Open", cx);
            }
            State::Rest { until } if until <= now => self.window(now, "window over", desk, cx),
            _ => {}
        }
    }

    /// A message of the open stream; the caller has asked [`Stream::awaits`].
    pub(crate) fn message(&mut self, now: Instant, message: StreamMessage, desk: &mut Desk, cx: &mut Cx<'_>) -> StreamVerdict {
        let State::Open { id, until, heard } = &mut self.state else { return StreamVerdict::Nothing };
        if matches!(&message, StreamMessage::Job { id } if id.is_empty()) {
            let text = "Ping stream yielded a JobAssigned message with nil job or empty job ID, so assuming the stream is broken";
            desk.log(Level::Error, text, cx);
            let (id, until) = (*id, *until);
            desk.abandon_stream(id, cx);
            self.first = true;
            self.rest(now, until, "job without id", desk, cx);
            return StreamVerdict::Unhealthy;
        }
        *heard = true;
        self.attempt = 0;
        if std::mem::take(&mut self.first) {
            desk.log(Level::Info, "Ping stream connection established", cx);
        }
        let (event, message) = match message {
            StreamMessage::Resume => ("resume", Message::Idle),
            StreamMessage::Pause { reason } => {
                log_reason("Pause", &reason, desk, cx);
                ("pause", Message::Pause)
            }
            StreamMessage::Disconnect { reason } => {
                log_reason("Disconnect", &reason, desk, cx);
                ("disconnect", Message::Disconnect)
            }
            StreamMessage::Job { id } => ("job", Message::Job(id)),
        };
        desk.step("stream", "Open", event, "Open", cx);
        StreamVerdict::Message(message)
    }

    /// The open stream has ended; the caller has asked [`Stream::awaits`].
    pub(crate) fn over(&mut self, now: Instant, end: StreamEnd, desk: &mut Desk, cx: &mut Cx<'_>) -> StreamVerdict {
        let State::Open { until, heard, .. } = self.state else { return StreamVerdict::Nothing };
        let (event, error) = match end {
            StreamEnd::Code { code, text } if code.is_final() => {
                self.state = State::Ended;
                if cx.config.ping_mode == PingMode::StreamOnly {
                    let error = format!("Streaming ping mode failed due to an unrecoverable error: {text}");
                    desk.log(Level::Error, error.as_str(), cx);
                    desk.errors.push(WorkerError::Other(error));
                } else {
                    let line = format!(
                        "Streaming ping mode is unavailable, permanently falling back to polling-based ping mode (the underlying error was: {text})"
                    );
                    desk.log(Level::Info, line, cx);
                }
                desk.step("stream", "Open", "final code", "Ended", cx);
                return StreamVerdict::Ended;
            }
            // The normal end of a long stream, or a clean one: no verdict, if it has delivered anything at all (R12).
            StreamEnd::Code { code: GrpcCode::DeadlineExceeded, .. } if heard => ("deadline", None),
            StreamEnd::Clean if heard => ("clean end", None),
            StreamEnd::Code { code: GrpcCode::DeadlineExceeded, text } => ("deadline, silent", Some(text)),
            StreamEnd::Clean => ("clean end, silent", Some("stream ended without a message".to_owned())),
            StreamEnd::Code { text, .. } => ("failure", Some(text)),
            StreamEnd::Closed => ("failure", Some("stream closed".to_owned())),
        };
        self.rest(now, until, event, desk, cx);
        let Some(error) = error else { return StreamVerdict::Nothing };
        self.first = true;
        desk.debug(|| format!("Ping stream ended: {error}"), cx);
        StreamVerdict::Unhealthy
    }

    /// The worker stops.
    pub(crate) fn stop(self, desk: &mut Desk, cx: &mut Cx<'_>) {
        desk.step("stream", self.name(), "stop", "Ended", cx);
        if let State::Open { id, .. } = self.state {
            desk.abandon_stream(id, cx);
        }
    }
}

fn log_reason(kind: &str, reason: &str, desk: &Desk, cx: &mut Cx<'_>) {
    if !reason.is_empty() {
        desk.log(Level::Info, format!("{kind} reason: {reason}"), cx);
    }
}
