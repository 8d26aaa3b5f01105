//! The ping stream as data (agent-api §8).

use super::Session;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

/// A ping stream to open (start-and-worker §9.7).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct StreamCall {
    /// Where and as whom.
    pub session: Session,
    /// Agent UUID.
    pub agent_id: Arc<str>,
    /// Client limit of the whole call.
    pub limit: Duration,
}

/// A message of the ping stream.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum StreamMessage {
    /// Resume, or a message with no or an unknown action.
    Resume,
    /// Pause.
    Pause {
        /// May be empty.
        reason: String,
    },
    /// Disconnect.
    Disconnect {
        /// May be empty.
        reason: String,
    },
    /// A job; the id may be empty (a broken stream).
    Job {
        /// Job id.
        id: Arc<str>,
    },
}

/// How a ping stream ended; exactly one per stream opened.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum StreamEnd {
    /// `Grpc-Status: 0`.
    Clean,
    /// A gRPC status other than OK, from the server or by the mapping of agent-api §8.3.
    Code {
        /// gRPC code.
        code: GrpcCode,
        /// Message for the log.
        text: String,
    },
    /// Closed by `CloseStream`.
    Closed,
}

/// gRPC codes that decide something (start-and-worker §0.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum GrpcCode {
    /// 1
    Canceled,
    /// 2
    Unknown,
    /// 3
    InvalidArgument,
    /// 4: the normal end of a long stream.
    DeadlineExceeded,
    /// 7: final.
    PermissionDenied,
    /// 8
    ResourceExhausted,
    /// 12: final.
    Unimplemented,
    /// 13
    Internal,
    /// 14
    Unavailable,
    /// 16: final.
    Unauthenticated,
    /// Any other number.
    Other(u32),
}

impl GrpcCode {
    /// Whether the stream is given up for the life of the worker.
    pub fn is_final(self) -> bool {
        matches!(self, GrpcCode::Unauthenticated | GrpcCode::PermissionDenied | GrpcCode::Unimplemented)
    }
}
