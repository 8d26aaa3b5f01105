//! What end-to-end tests share: a scripted control plane behind loopback, and the built binary under observation.
//!
//! No test sleeps: it waits for an observable ([`Plane::wait`], [`wait_for`]) with a bound.
#![allow(dead_code, unused_imports, unreachable_pub, missing_docs, reason = "every test binary uses another part of this module")]

pub mod agent;
pub mod plane;

pub use agent::{Agent, alive, kill, pid_in, wait_for};
pub use plane::{Act, Job, Plane, Req};

use std::time::Duration;

/// Bound of waits that should end at once but share a busy machine.
pub const SOON: Duration = Duration::from_secs(20);

/// Plays every case at the same time: most of their time is waiting.
pub fn each<T: Send>(cases: impl IntoIterator<Item = T>, play: impl Fn(T) + Sync) {
    std::thread::scope(|scope| {
        for case in cases {
            scope.spawn(|| play(case));
        }
    });
}

/// A private directory that vanishes with the test.
pub fn dir() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("ibex-e2e-").tempdir().expect("a temporary directory")
}
