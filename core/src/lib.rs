//! # ibex-core: everything that decides
//!
//! Pure state machines and pure transformations. Nothing in this crate performs I/O, holds a clock, spawns a task or
//! draws randomness that it does not own. A driver feeds timestamped events and executes the commands that come back.
//!
//! How the machines nest:
//!
//! ```text
//! Agent (one per process)                    agent/
//! ├── Shutdown   the ladder of signals       agent/shutdown.rs
//! ├── Pool       workers, combined result    agent/pool.rs, agent/idle.rs
//! └── Worker*    connect, ping, run, leave   agent/worker.rs, heartbeat.rs, dispatch.rs
//!     └── JobRunner   one job                job/runner.rs
//!         └── Process one process group      process.rs
//! LogStream (one per job, its own task)      log/stream.rs
//! Executor  (the `bootstrap` process)        executor/
//! Plane     (the embedded control plane)     plane/
//! ```
//!
//! Children are owned by value and report to their parent by *returning* a verdict; all machines keep the contract of
//! [`machine`].
#![forbid(unsafe_code)]

pub mod agent;
pub mod api;
pub mod artifact;
pub mod executor;
pub mod job;
pub mod limits;
pub mod log;
pub mod machine;
pub mod pipeline;
pub mod plane;
pub mod process;
pub mod retry;
pub mod rng;
pub mod secret;
#[cfg(feature = "testing")]
pub mod testing;
pub mod wall;
