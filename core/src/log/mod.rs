//! The data plane: raw bytes in, ordered chunks out (specification: job-runner-and-process §6, header-times).
//!
//! [`TimestampMode`] and [`LogConfig`] say how; the [`LogStream`] machine of one job is driven by a task of its own. The
//! transducers ([`Timestamper`], [`LineStamper`], [`HeaderScanner`], and the executor's [`Redactor`]) are usable alone.

mod buffer;
mod config;
mod content;
mod context;
mod cutter;
mod escape;
mod gzip;
mod header_times;
mod headers;
mod lines;
mod needles;
mod redact;
mod sink;
mod stream;
mod timestamps;
mod window;

pub use config::*;
pub use escape::EscapeParser;
pub use gzip::gzip;
pub use headers::{HeaderScanner, LineKind};
pub use lines::LineStamper;
pub use needles::{REDACTION_MINIMUM_BYTES, RedactionWarning, secrets_from_env};
pub use redact::{REDACTED, Redactor};
pub use sink::Sink;
pub use stream::LogStream;
pub use timestamps::Timestamper;

#[cfg(test)]
mod tests;
