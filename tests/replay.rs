//! The flight recorder on a whole session of the built binary: what was recorded replays to the same commands.

mod common;

use common::agent::Setup;
use common::{Act, Plane, SOON, dir, wait_for};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn recordings(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect()
}

fn replay(args: &[&str], file: &Path) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_ibex")).arg("replay").args(args).arg(file).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (status.code(), text(&stdout), text(&stderr))
}

/// A session with a good job, a cancelled one, failing calls, and a stop; gives the recording.
fn session(work: &Path) -> PathBuf {
    let plane = Plane::start();
    plane.rule("GET", "/ping", 1, Act::Status(503));
    plane.rule("PUT", "/start", 1, Act::Status(500));
    let script =
        "#!/bin/sh\necho \"secret-$SECRET\"\n[ -z \"$WAIT\" ] && exit 3\ntrap 'exit 5' TERM\ntouch \"$DIR/up\"\nwhile :; do sleep 0.05; done\n";
    let mut agent = Setup::script(script).arg(&["--spawn", "2", "--record", work.join("rec").to_str().unwrap()]).start(&plane, work);
    let first = plane.job(&[("SECRET", "s3cr3t")]);
    assert_eq!(plane.wait_finish(&first).finished("exit_status"), Some("3"), "{}", agent.text());
    let second = plane.job(&[("DIR", work.to_str().unwrap()), ("WAIT", "1")]);
    wait_for("the job to run", SOON, || work.join("up").exists().then_some(()));
    plane.with(|s| s.jobs.get_mut(&second).unwrap().state = "canceling".into());
    assert_eq!(plane.wait_finish(&second).finished("signal_reason"), Some("cancel"));
    agent.signal("TERM");
    assert_eq!(agent.wait(SOON), 0, "{}", agent.text());
    assert!(agent.text().contains("Recording events to "), "{}", agent.text());
    let mut files = recordings(&work.join("rec"));
    assert_eq!(files.len(), 1);
    files.remove(0)
}

#[test]
fn a_recorded_session_replays_to_the_same_commands_and_holds_no_secret() {
    use std::os::unix::fs::PermissionsExt;
    let work = dir();
    let file = session(work.path());
    let (code, out, err) = replay(&[], &file);
    assert_eq!(code, Some(0), "{err}");
    assert!(out.trim_end().ends_with(" steps, all as recorded"), "{out}");
    for part in ["Begin", "canceling", "Term", "Exit"] {
        assert!(out.to_lowercase().contains(&part.to_lowercase()), "no {part} in the timeline: {out}");
    }
    let (code, quiet, _) = replay(&["--quiet"], &file);
    assert_eq!((code, quiet.lines().count()), (Some(0), 1), "{quiet}");
    assert_eq!(quiet.lines().last(), out.lines().last());
    let text = std::fs::read_to_string(&file).unwrap();
    for secret in ["s3cr3t", "registration-token", "session-1", "job-token"] {
        assert!(!text.contains(secret), "{secret} is in the recording");
    }
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o77, 0, "nobody else may read it");

    // A recording in which one decision was altered is found out, at its step.
    let lines: Vec<&str> = text.lines().collect();
    let cut = file.with_extension("cut");
    let without_one: Vec<&str> = lines.iter().enumerate().filter(|(i, _)| *i != lines.len() / 2).map(|(_, l)| *l).collect();
    std::fs::write(&cut, without_one.join("\n") + "\n").unwrap();
    let (code, out, err) = replay(&["--quiet"], &cut);
    assert_eq!(code, Some(1), "{out}{err}");
    assert!(out.contains("the decisions are not those of the recording") || err.contains(" line "), "{out}{err}");
}
