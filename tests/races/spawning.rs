//! R44–R46: programs that do not start, and executors that do not end by themselves.

use crate::common::agent::Setup;
use crate::common::{Agent, Plane, SOON, alive, dir, each, kill, pid_in, wait_for};
use crate::result;
use std::path::Path;
use std::time::Duration;

#[test]
fn r44_a_program_that_is_still_being_written_is_tried_again() {
    let (work, plane) = (dir(), Plane::start());
    let agent = Setup::script("#!/bin/sh\necho ran\n").start(&plane, work.path());
    plane.wait_request("GET", "/ping", 1);
    let writing = std::fs::OpenOptions::new().append(true).open(work.path().join("bootstrap.sh")).unwrap();
    let job = plane.job(&[]);
    plane.wait_request("PUT", "/start", 1);
    drop(writing);
    let done = plane.wait_finish(&job);
    assert_eq!((done.text().as_str(), result(&done)), ("ran\r\n", (Some("0"), None, None)));
    // Not for ever: it is said what is in the way.
    let writing = std::fs::OpenOptions::new().append(true).open(work.path().join("bootstrap.sh")).unwrap();
    let done = plane.wait_finish(&plane.job(&[]));
    drop(writing);
    assert_eq!(result(&done), (Some("-1"), None, Some("process_run_error")));
    assert!(done.text().starts_with("Error running job: ") && done.text().to_lowercase().contains("text file busy"), "{}", done.text());
    drop(agent);
}

/// A hook that is a program, and that somebody has open for writing until what comes back is dropped; and the job that has come to it.
fn at_a_busy_hook(plane: &Plane, work: &Path, agent: &Agent) -> (std::fs::File, String) {
    let hook = work.join("hooks/pre-command");
    std::fs::copy("/bin/true", &hook).expect("a program");
    let writing = std::fs::OpenOptions::new().append(true).open(&hook).expect("the hook");
    let job = plane.command(work, "echo after the hook");
    plane.wait("the hook to be tried", SOON, |s| s.jobs[&job].text().contains("pre-command hook").then_some(()));
    // Far longer than a spawn of the agent's own would be tried.
    let polls = |s: &crate::common::plane::State| s.requests.iter().filter(|r| r.method == "GET" && r.path.ends_with(&job)).count();
    let seen = plane.with(|s| polls(s));
    plane.wait("two more polls", SOON, |s| (polls(s) >= seen + 2).then_some(()));
    assert!(plane.get(&job).finish.is_none(), "{}", agent.text());
    (writing, job)
}

#[test]
fn r44_a_hook_that_is_still_being_written_is_tried_again_and_a_cancel_ends_that() {
    let (work, plane) = (dir(), Plane::start());
    let agent = Setup::builtin().start(&plane, work.path());
    let (writing, job) = at_a_busy_hook(&plane, work.path(), &agent);
    drop(writing);
    let done = plane.wait_finish(&job);
    assert_eq!(result(&done), (Some("0"), None, None), "{}", done.text());
    assert!(done.text().contains("after the hook"), "{}", done.text());

    std::fs::remove_file(work.path().join("hooks/pre-command")).unwrap();
    let (writing, job) = at_a_busy_hook(&plane, work.path(), &agent);
    plane.with(|s| s.jobs.get_mut(&job).unwrap().state = "canceling".into());
    let done = plane.wait_finish(&job);
    drop(writing);
    assert_eq!(result(&done), (Some("-1"), Some("SIGTERM"), Some("cancel")), "{}", done.text());
    assert!(done.text().contains("context canceled") && !done.text().contains("$ echo after the hook"), "{}", done.text());
}

#[test]
fn r44_scripts_of_parallel_jobs_are_never_busy() {
    let (work, plane) = (dir(), Plane::start());
    let jobs: Vec<String> = (0..24).map(|n| plane.command(work.path(), &format!("echo first {n}\necho second {n}"))).collect();
    let _agent = Setup::builtin()
        .hook("environment", "#!/bin/sh\nexport HOOKED=yes\n")
        .hook("pre-command", "#!/bin/bash\necho hook $HOOKED\n")
        .arg(&["--spawn", "8"])
        .start(&plane, work.path());
    for (n, job) in jobs.iter().enumerate() {
        let done = plane.wait_finish(job);
        assert_eq!(result(&done), (Some("0"), None, None), "{}", done.text());
        let text = done.text();
        assert!(text.contains("hook yes") && text.contains(&format!("first {n}\r\r\nsecond {n}\r\r\n")), "{text}");
    }
}

#[test]
fn r45_a_protected_agent_does_not_protect_its_jobs() {
    let (work, plane) = (dir(), Plane::start());
    let agent = Setup::script("#!/bin/sh\ncat /proc/self/oom_score_adj\nkill -KILL $$\n").arg(&["--no-pty"]).start(&plane, work.path());
    plane.wait_request("GET", "/ping", 1);
    if std::fs::write(format!("/proc/{}/oom_score_adj", agent.pid()), "-500").is_err() {
        eprintln!("not checked: this user may not protect processes");
        return;
    }
    let done = plane.wait_finish(&plane.job(&[]));
    assert_eq!((done.text().as_str(), result(&done)), ("0\n", (Some("-1"), Some("SIGKILL"), None)));
    let next = plane.wait_finish(&plane.job(&[]));
    assert_eq!(next.text(), "0\n", "the agent lives on");
}

#[test]
fn r46_an_executor_that_is_killed_is_reported_without_waiting_for_its_command() {
    each([(&[][..], Duration::from_secs(12)), (&["--no-pty"], Duration::from_secs(5))], |(args, bound)| {
        let (work, plane) = (dir(), Plane::start());
        let job = plane.command(
            work.path(),
            "echo up; echo $PPID > \"$DIR/executor\"; echo $$ > \"$DIR/command\"; trap '' HUP TERM; while :; do sleep 0.05; done",
        );
        let agent = Setup::builtin().arg(args).start(&plane, work.path());
        let (executor, command) = (pid_in(&work.path().join("executor")), pid_in(&work.path().join("command")));
        assert_ne!(executor, agent.pid());
        let begun = plane.now();
        kill(executor);
        let done = plane.wait_finish(&job);
        let took = plane.wait_request("PUT", "/finish", 1).at - begun;
        // The kernel kills it with its parent; it may still have to notice.
        wait_for("the command to go with its executor", Duration::from_secs(5), || (!alive(command)).then_some(()));
        assert_eq!(result(&done), (Some("-1"), Some("SIGKILL"), None), "{args:?}");
        assert!(took < bound, "{args:?}: {took:?}");
        assert_eq!(done.finishes, 1);
        next_is_fine(&plane, work.path(), &agent);
    });
}

#[test]
fn r46_an_executor_that_is_killed_before_its_first_byte_or_in_the_middle_is_reported() {
    for (script, text) in [("kill -KILL $$", ""), ("echo some; kill -KILL $$; echo never", "some\r\n")] {
        let (work, plane) = (dir(), Plane::start());
        let _agent = Setup::script(&format!("#!/bin/sh\n{script}\n")).start(&plane, work.path());
        let done = plane.wait_finish(&plane.job(&[]));
        assert_eq!((done.text().as_str(), result(&done)), (text, (Some("-1"), Some("SIGKILL"), None)));
    }
}

/// The worker is free again: the next job runs.
fn next_is_fine(plane: &Plane, work: &Path, agent: &Agent) {
    let next = plane.wait_finish(&plane.command(work, "echo next"));
    assert_eq!(next.finished("exit_status"), Some("0"), "{}", agent.text());
}
