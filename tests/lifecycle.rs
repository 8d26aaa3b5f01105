//! Lifecycle hooks and the systemd watchdog on the built binary (specification: start-and-worker §3, §8).

mod common;

use common::agent::Setup;
use common::{Act, Plane, SOON, dir};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::{Duration, Instant};

fn hook(dir: &Path, name: &str, text: &str) -> String {
    std::fs::create_dir_all(dir).unwrap();
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn hooks_of_all_directories_run_in_order_and_their_lines_are_log_lines_of_any_length() {
    let (work, plane) = (dir(), Plane::start());
    plane.with(|s| s.action = "disconnect".into());
    let (one, two) = (work.path().join("hooks"), work.path().join("more"));
    let first = hook(&one, "agent-startup", "#!/bin/sh\necho out; echo err >&2\nhead -c 200000 /dev/zero | tr '\\0' x; echo\n");
    // The name with .ps1 counts only where the other one is missing.
    hook(&two, "agent-startup.ps1", "#!/bin/sh\necho never\n");
    let second = hook(&two, "agent-startup", "#!/bin/sh\necho \"two $BUILDKITE_AGENT_NAMES\"\n");
    let failing = hook(&one, "agent-shutdown", "#!/bin/sh\nexit 4\n");
    hook(&two, "agent-shutdown", "#!/bin/sh\necho never\n");
    let mut agent = Setup::script("#!/bin/sh\n").arg(&["--additional-hooks-paths", two.to_str().unwrap()]).start(&plane, work.path());
    assert_eq!(agent.wait(SOON), 0, "a failing shutdown hook changes nothing: {}", agent.text());
    let text = agent.text();
    let mut rest = text.as_str();
    for line in [
        format!("INFO   agent-startup $ {first}\n"),
        "INFO   agent-startup out\n".into(),
        "INFO   agent-startup err\n".into(),
        format!("INFO   agent-startup $ {second}\n"),
        "INFO   agent-startup two agent-1\n".into(),
        "Connecting to Buildkite...\n".into(),
        "Disconnected\n".into(),
        format!("INFO   agent-shutdown $ {failing}\n"),
        "ERROR  \"agent-shutdown\" hook: exit status 4\n".into(),
    ] {
        rest = rest.split_once(&line).unwrap_or_else(|| panic!("{line:?} is missing or out of order: {text}")).1;
    }
    assert_eq!(text.matches('x').count() / 200_000, 1, "a long line is split, not lost");
    assert!(!text.contains("never"), "the first failure ends the sequence");
}

#[test]
fn without_a_hooks_path_the_working_directory_is_not_searched() {
    let (work, plane) = (dir(), Plane::start());
    plane.with(|s| s.action = "disconnect".into());
    hook(work.path(), "agent-startup", "#!/bin/sh\necho never\n");
    let mut agent = Setup::script("#!/bin/sh\n").arg(&["--hooks-path", ""]).start(&plane, work.path());
    assert_eq!(agent.wait(SOON), 0, "{}", agent.text());
    assert!(!agent.text().contains("never"), "{}", agent.text());
}

/// An agent that systemd watches: the interval is 200 ms.
fn watched(work: &Path, plane: &Plane, more: &[(&str, &str)]) -> (common::Agent, UnixDatagram) {
    let socket = work.join("notify");
    let listener = UnixDatagram::bind(&socket).unwrap();
    listener.set_read_timeout(Some(SOON)).unwrap();
    let mut setup = Setup::script("#!/bin/sh\n");
    setup.env.extend([("WATCHDOG_USEC".into(), "200000".into()), ("NOTIFY_SOCKET".into(), socket.to_str().unwrap().into())]);
    setup.env.extend(more.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
    (setup.start(plane, work), listener)
}

#[test]
fn the_watchdog_is_fed_with_exact_datagrams_and_with_nothing_else_until_the_pool_has_ended() {
    let (work, plane) = (dir(), Plane::start());
    let (mut agent, listener) = watched(work.path(), &plane, &[]);
    let mut buffer = [0; 64];
    for _ in 0..4 {
        let n = listener.recv(&mut buffer).expect("a datagram every 100 ms");
        assert_eq!(&buffer[..n], b"WATCHDOG=1");
    }
    plane.wait_request("GET", "/ping", 1);
    agent.signal("TERM");
    assert_eq!(agent.wait(SOON), 0);
    listener.set_nonblocking(true).unwrap();
    while let Ok(n) = listener.recv(&mut buffer) {
        assert_eq!(&buffer[..n], b"WATCHDOG=1");
    }
    assert!(agent.text().contains("NOTICE Systemd watchdog enabled with a 200ms timeout\n"), "{}", agent.text());
}

#[test]
fn the_watchdog_is_not_fed_while_heartbeats_fail() {
    let (work, plane) = (dir(), Plane::with_intervals(1, 1, 1));
    plane.rule("POST", "/heartbeat", 100, Act::Status(500));
    let (agent, listener) = watched(work.path(), &plane, &[]);
    agent.wait_text(
        "Buildkite heartbeat has not succeeded; not sending systemd watchdog notification: worker 1 has not successfully contacted Buildkite for ",
    );
    listener.set_nonblocking(true).unwrap();
    let mut buffer = [0; 64];
    while listener.recv(&mut buffer).is_ok() {}
    plane.wait("another heartbeat", Duration::from_secs(20), |s| {
        (s.requests.iter().filter(|r| r.is("POST", "/heartbeat")).count() >= 2).then_some(())
    });
    assert!(listener.recv(&mut buffer).is_err(), "nothing was sent meanwhile");
}

#[test]
fn a_listener_that_never_reads_does_not_hold_up_the_agent() {
    let (work, plane) = (dir(), Plane::start());
    let (mut agent, _listener) = watched(work.path(), &plane, &[]);
    agent.wait_text("Failed to notify the systemd watchdog: ");
    let job = plane.job(&[]);
    assert_eq!(plane.wait_finish(&job).finished("exit_status"), Some("0"));
    agent.signal("TERM");
    assert_eq!(agent.wait(SOON), 0);
}

#[test]
fn a_watchdog_of_another_process_is_not_ours_and_one_without_a_socket_ends_the_start() {
    let (work, plane) = (dir(), Plane::start());
    let (agent, listener) = watched(work.path(), &plane, &[("WATCHDOG_PID", "1")]);
    plane.wait_request("GET", "/ping", 1);
    listener.set_nonblocking(true).unwrap();
    assert!(listener.recv(&mut [0; 64]).is_err() && !agent.text().contains("watchdog"), "{}", agent.text());
    drop(agent);

    let (work, plane, began) = (dir(), Plane::start(), Instant::now());
    for (micros, text) in [
        ("200000", "systemd watchdog is enabled but NOTIFY_SOCKET is not set"),
        ("0", "read systemd watchdog configuration: WATCHDOG_USEC is \"0\", which is no positive number"),
    ] {
        let mut setup = Setup::script("#!/bin/sh\n");
        setup.env.push(("WATCHDOG_USEC".into(), micros.into()));
        let mut agent = setup.start(&plane, work.path());
        assert_eq!(agent.wait(SOON), 1);
        assert!(agent.text().ends_with(&format!("buildkite-agent: fatal: configure systemd watchdog: {text}\n")), "{}", agent.text());
    }
    assert!(plane.with(|s| s.requests.is_empty()) && began.elapsed() < SOON, "nothing was registered");
}

/// start-flags §2.1: `debug` is log level debug, and more; `log-level` alone shows the same lines.
#[test]
fn debug_lines_are_shown_by_either_option_and_only_one_of_them_reaches_the_job() {
    common::each([(&["--debug"][..], true, "true"), (&["--log-level", "DEBUG"], true, "false"), (&[], false, "false")], |(args, shown, debug)| {
        let (work, plane) = (dir(), Plane::with_intervals(1, 1, 1));
        let agent = Setup::script("#!/bin/sh\necho \"debug $BUILDKITE_AGENT_DEBUG\"\n").arg(args).start(&plane, work.path());
        let done = plane.wait_finish(&plane.job(&[]));
        assert!(done.text().contains(&format!("debug {debug}")), "{args:?}: {}", done.text());
        plane.wait("a heartbeat's answer", SOON, |s| s.requests.iter().any(|r| r.is("POST", "/heartbeat") && r.ended.is_some()).then_some(()));
        if shown {
            agent.wait_text("Heartbeat sent");
        }
        agent.signal("HUP");
        if shown {
            agent.wait_text("Ignoring SIGHUP");
        }
        plane.wait_request("POST", "/heartbeat", 2);
        let text = agent.text();
        for line in ["Heartbeat sent", "Ignoring SIGHUP"] {
            assert_eq!(text.contains(line), shown, "{args:?} {line}: {text}");
        }
        assert_eq!(text.contains(" command=buildkite-agent start"), args == ["--debug"], "{args:?}: {text}");
    });
}
