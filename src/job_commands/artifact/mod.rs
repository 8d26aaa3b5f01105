//! `artifact upload` (specification: artifacts, agent-api §13).
//!
//! Default (hosted) storage only: a destination in another store is refused.

mod collect;
mod transfer;
mod upload;

pub(super) use upload::UPLOAD;
