//! A program that somebody still has open for writing ("text file busy"): bootstrap §3.8, R44. One test, for another one's fork
//! may hold the file open as well.

use ibex_core::process::ExitStatus;
use ibex_io::effects::{Output, Process};
use ibex_io::executor::{BUSY_RETRIES, BUSY_WAIT};
use ibex_io::tokio::{Spawn, StdioMode, spawn, spawn_patiently};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;
use tokio::time::Instant;

/// A program at `path`, and what makes it busy until it is dropped.
fn busy(path: &Path) -> (Spawn, File) {
    std::fs::write(path, "#!/bin/sh\necho ran\n").unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    let writing = OpenOptions::new().append(true).open(path).unwrap();
    let spawn = Spawn { argv: vec![path.into()], env: Default::default(), dir: None, stdio: StdioMode::Pipe, dies_with_parent: false };
    (spawn, writing)
}

#[test]
fn a_busy_program_is_tried_every_100_ms_up_to_100_times() {
    assert_eq!((BUSY_RETRIES, BUSY_WAIT), (100, Duration::from_millis(100)), "bootstrap §3.8");
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        // Busy to the end.
        let (program, writing) = busy(&dir.path().join("for-ever"));
        let began = Instant::now();
        let error = spawn_patiently(&program, BUSY_RETRIES, BUSY_WAIT).await.expect_err("it is busy");
        assert_eq!(began.elapsed(), Duration::from_secs(10));
        assert!(error.starts_with("error starting command: exec ") && error.contains("Text file busy"), "{error}");
        drop(writing);

        // Free just before the last try; the simulated clock stands still while something can be done.
        let (program, writing) = busy(&dir.path().join("freed"));
        tokio::task::spawn_local(async move {
            tokio::time::sleep(Duration::from_millis(9_950)).await;
            drop(writing);
        });
        let began = Instant::now();
        let (group, mut output) = spawn_patiently(&program, BUSY_RETRIES, BUSY_WAIT).await.expect("it is free in time");
        assert_eq!(began.elapsed(), Duration::from_secs(10));
        tokio::time::resume();
        let mut text = Vec::new();
        while let Some(data) = output.read().await {
            text.extend_from_slice(&data);
        }
        assert_eq!((group.wait().await, text.as_slice()), (ExitStatus::Code(0), &b"ran\n"[..]));

        // The agent's own spawns try for a moment only: a stop that comes meanwhile has its bounds to keep.
        tokio::time::pause();
        let (program, writing) = busy(&dir.path().join("agent"));
        let began = Instant::now();
        assert!(spawn(&program).await.is_err());
        // Timers of a clock that ran in between end with the next whole millisecond.
        let took = began.elapsed();
        assert!(took >= Duration::from_millis(200) && took <= Duration::from_millis(220), "{took:?}");
        drop(writing);
    });
}
