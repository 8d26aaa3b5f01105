//! The `start` process as one machine: `Agent = Shutdown + Pool + Worker*` (specification: start-and-worker).

mod command;
mod config;
mod event;

pub use command::*;
pub use config::*;
pub use event::*;
