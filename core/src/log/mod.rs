//! The data plane: raw bytes in, ordered chunks out (specification: job-runner-and-process §6, header-times).
//!
//! [`TimestampMode`] and [`LogConfig`] say how; the `LogStream` machine of one job is driven by a task of its own.

mod config;

pub use config::*;
