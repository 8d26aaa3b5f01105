//! Races of the field on the built binary: R33–R36 and R41–R46 of the specification's chapter on races, in sizes for a
//! development build. The sizes of the chapter are for a release build:
//!
//!     cargo build --release && IBEX=target/release/ibex cargo test --test races -- --ignored --nocapture --test-threads 1

#[path = "../common/mod.rs"]
mod common;
mod groups;
mod logs;
mod spawning;

use common::{Job, Plane};
use std::path::Path;
use std::time::Duration;

fn result(job: &Job) -> (Option<&str>, Option<&str>, Option<&str>) {
    (job.finished("exit_status"), job.finished("signal"), job.finished("signal_reason"))
}

/// A job of a scripted agent, with `DIR` and `FILE` set.
fn with_file(plane: &Plane, work: &Path, file: &str) -> String {
    plane.job(&[("DIR", work.to_str().unwrap()), ("FILE", file)])
}

/// From the start call to the finish call.
fn took(plane: &Plane, job: &str) -> Duration {
    plane.wait_request("PUT", &format!("{job}/finish"), 1).at - plane.wait_request("PUT", &format!("{job}/start"), 1).at
}

/// Processes for which `f` holds; `f` gets the fields of `/proc/<pid>/stat` from the state on: state, parent, group.
fn processes(f: impl Fn(&[&str]) -> bool) -> Vec<u32> {
    let pids = std::fs::read_dir("/proc").unwrap().filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(')').is_some_and(|(_, rest)| f(&rest.split_whitespace().collect::<Vec<_>>()))
    })
    .collect()
}
