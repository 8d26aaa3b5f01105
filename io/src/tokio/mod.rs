//! The real world: sockets, terminals, processes, files and signals.

mod dial;
mod files;
mod group;
mod hooks;
mod http;
mod launch;
mod memory;
#[cfg(feature = "otel")]
mod otlp;
mod output;
mod proc;
mod pty;
mod signals;
mod spawn;
mod stdout;
mod storage;
mod watchdog;
mod world;

pub use dial::{CONNECT, HANDSHAKE};
pub use group::{Group, inherits_orphans, reap_orphans};
pub use hooks::HookPlaces;
pub use http::{Http, HttpStream};
pub use memory::return_memory_early;
#[cfg(feature = "otel")]
pub use otlp::{Otlp, Service};
pub use output::ReadEnd;
pub use pty::SIZE;
pub use signals::{deliver, die_by, hold};
pub use spawn::{Spawn, StdioMode, find_in_path, overlaid, spawn, spawn_patiently};
pub use storage::{Body, Piece, Storage};
pub use world::{HttpObserver, LogSink, MetricSink, Parts, TokioWorld, Verifier};
