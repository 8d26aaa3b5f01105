//! Requests and responses of the Agent API as data, and how an exchange is classified (specification: agent-api).
//!
//! A machine emits an [`ApiCall`]; the driver turns it into bytes with `encode`, exchanges them, and turns what came back
//! into an [`Outcome`] with `decode`. Both functions are pure, so the transport interprets nothing.

mod types;

pub use types::*;
