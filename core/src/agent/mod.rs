//! The `start` process as one machine: `Agent = Shutdown + Pool + Worker*` (specification: start-and-worker).
//!
//! ```text
//! machine.rs         register → startup hook → pool → shutdown hook → exit
//! ├── registration.rs    one request per worker, in parallel
//! ├── shutdown.rs        the ladder of signals, the force timer
//! ├── exit.rs            errors of workers, exit code
//! ├── otlp.rs            metrics over OTLP: protocol, attributes
//! └── pool.rs            workers, watchdog
//!     ├── idle.rs            idle monitor
//!     ├── timers.rs          the least deadline of many workers
//!     └── worker.rs          connect → serve; leaving.rs: drain → disconnect
//!         ├── heartbeat.rs       keep-alive
//!         ├── acquire.rs         one-shot for one job
//!         ├── health.rs          status page, watchdog
//!         └── serving.rs         who may deliver, and the job in hand
//!             ├── poll.rs            polling
//!             ├── stream.rs          streaming, debouncer.rs behind it
//!             ├── action.rs          what a message leads to
//!             ├── accept.rs          accepting a job
//!             └── active.rs          running it (job/runner.rs)
//! ```

mod accept;
mod acquire;
mod action;
mod active;
mod command;
mod config;
mod debouncer;
mod desk;
mod event;
mod exit;
mod health;
mod heartbeat;
mod idle;
mod leaving;
mod machine;
mod otlp;
mod poll;
mod pool;
mod registration;
mod retrying;
mod serving;
mod shutdown;
mod stream;
mod timers;
mod worker;

pub use command::*;
pub use config::*;
pub use event::*;
pub use exit::WorkerError;
pub use machine::Agent;
pub use otlp::{MetricAttributes, OtlpProtocol};

#[cfg(test)]
mod tests;
