//! Races of the field on the built binary: R33–R36 and R41–R46 of the specification's chapter on races, in sizes for a
//! development build.

mod common;

use common::agent::Setup;
use common::{Act, Agent, Job, Plane, SOON, alive, dir, each, kill, pid_in, wait_for};
use std::path::Path;
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;

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

#[test]
fn r33_an_endless_line_is_exact_and_costs_no_more_than_short_ones() {
    const SIZE: usize = 4_000_000;
    let (work, plane) = (dir(), Plane::start());
    let endless = "x".repeat(SIZE) + "\nnormal\nlines\n";
    let long = ("y".repeat(10_000) + "\n").repeat(SIZE / 10_001);
    let short = ("z".repeat(99) + "\n").repeat(SIZE / 100);
    let agent = Setup::script("#!/bin/sh\nexec cat \"$DIR/$FILE\"\n").arg(&["--no-pty"]).start(&plane, work.path());
    let cost: Vec<Duration> = [("endless", &endless), ("long", &long), ("short", &short)]
        .into_iter()
        .map(|(name, text)| {
            std::fs::write(work.path().join(name), text).unwrap();
            let before = agent.cpu();
            let done = plane.wait_finish(&with_file(&plane, work.path(), name));
            assert!(done.text() == *text, "{name}: the log is not what was printed");
            assert_eq!(done.finish.unwrap()["chunks_failed_count"], 0);
            agent.cpu() - before
        })
        .collect();
    let bound = cost[2] * 2 + Duration::from_millis(300);
    assert!(cost[0] < bound && cost[1] < bound, "CPU of one endless line, lines of 10,000, lines of 100: {cost:?}");
}

#[test]
fn r33_an_endless_line_in_a_terminal_is_exact() {
    let (work, plane) = (dir(), Plane::start());
    let _agent = Setup::script("#!/bin/sh\nhead -c 2000000 /dev/zero | tr '\\0' x; echo; echo normal\n").start(&plane, work.path());
    let done = plane.wait_finish(&plane.job(&[]));
    assert!(done.text() == "x".repeat(2_000_000) + "\r\nnormal\r\n", "the log is not what was printed");
}

#[test]
fn r34_after_a_burst_that_could_not_be_sent_a_trickle_needs_neither_memory_nor_cpu() {
    let (work, plane) = (dir(), Plane::start());
    let burst = ("b".repeat(9_999) + "\n").repeat(8_000);
    std::fs::write(work.path().join("burst"), &burst).unwrap();
    let script = "#!/bin/sh\ncat \"$DIR/$FILE\"\ntouch \"$DIR/printed\"\nuntil [ -e \"$DIR/go\" ]; do printf .; sleep 0.2; done\n";
    let agent = Setup::script(script).arg(&["--no-pty"]).start(&plane, work.path());
    plane.wait_request("GET", "/ping", 1);
    let baseline = agent.memory("VmRSS");
    let held = plane.rule("POST", "/chunks", usize::MAX, Act::Hold);
    let job = with_file(&plane, work.path(), "burst");
    // The buffer is full when nothing more is read.
    let (mut last, mut since) = (0, Instant::now());
    wait_for("the buffer to fill", SOON, || {
        let now = agent.memory("VmRSS");
        if now != last {
            (last, since) = (now, Instant::now());
        }
        (now > baseline + 32 * MIB && since.elapsed() > Duration::from_millis(500)).then_some(())
    });
    assert!(!work.path().join("printed").exists(), "80 MB do not fit: the job's own writes have to wait");
    plane.release(held);
    wait_for("the burst to be read", SOON, || work.path().join("printed").exists().then_some(()));
    let peak = agent.memory("VmHWM");
    assert!(peak < baseline + 64 * MIB + 32 * MIB, "the buffer's limit and a constant: {} MiB over the baseline", (peak - baseline) / MIB);
    wait_for("memory to fall back", SOON, || (agent.memory("VmRSS") < baseline + 32 * MIB).then_some(()));
    let polls = || plane.with(|s| s.requests.iter().filter(|r| r.method == "GET" && r.path.starts_with("/jobs/")).count());
    let (seen, before) = (polls(), agent.cpu());
    wait_for("two seconds of trickle", SOON, || (polls() >= seen + 2).then_some(()));
    let cpu = agent.cpu() - before;
    assert!(cpu < Duration::from_millis(200), "CPU during two polls of a trickle: {cpu:?}");
    std::fs::write(work.path().join("go"), "").unwrap();
    let done = plane.wait_finish(&job);
    let text = done.text();
    assert!(text.len() > burst.len() && text[burst.len()..].bytes().all(|b| b == b'.') && text.starts_with(&burst), "the log is not exact");
}

#[test]
fn r35_a_background_child_that_prints_for_ever_delays_the_finish_by_the_drain_bound_only() {
    // Deaf to the hang-up of the terminal and to the end of the pipe, in the leader's group and in a session of its own.
    let script = "#!/bin/sh\necho result\nset --\n$HOW sh -c 'trap \"\" HUP TERM PIPE; echo late; echo $$ > \"$DIR/child\"; while :; do echo late; sleep 0.02; done' &\nuntil [ -s \"$DIR/child\" ]; do sleep 0.01; done\nexit 6\n";
    let cases = [
        (&[][..], "", Duration::from_secs(12)),
        (&[], "setsid", Duration::from_secs(12)),
        // S + 1 s = 3 s.
        (&["--no-pty"], "", Duration::from_secs(5)),
        (&["--no-pty"], "setsid", Duration::from_secs(5)),
    ];
    each(cases, |(args, how, bound)| {
        let (work, plane) = (dir(), Plane::start());
        let job = plane.job(&[("DIR", work.path().to_str().unwrap()), ("HOW", how)]);
        let _agent = Setup::script(script).arg(args).start(&plane, work.path());
        let done = plane.wait_finish(&job);
        let child = pid_in(&work.path().join("child"));
        let survives = alive(child);
        kill(child);
        assert_eq!(result(&done), (Some("6"), None, None), "{args:?} {how}: the result is the leader's");
        assert!(done.text().starts_with("result") && done.text().contains("late"), "{args:?} {how}: {}", done.text());
        let took = took(&plane, &job);
        assert!(took < bound, "{args:?} {how}: {took:?}");
        assert!(survives || args.is_empty(), "{how}: nobody signals what a job leaves behind");
    });
}

#[test]
fn r36_what_is_printed_in_the_first_millisecond_is_all_there() {
    const JOBS: usize = 100;
    each([(&[][..], "\r\n"), (&["--no-pty"], "\n")], |(args, end)| {
        let (work, plane) = (dir(), Plane::start());
        // 1 byte to 100 KB, with lines of changing lengths.
        let text = |n: usize| {
            let mut text = String::new();
            while text.len() < 1 + n * 1_024 {
                text += &format!("{n}:{}\n", "o".repeat((text.len() * 7 + n) % 300));
            }
            text.truncate(1 + n * 1_024);
            text
        };
        let jobs: Vec<(String, String)> = (0..JOBS)
            .map(|n| {
                let name = format!("out-{n}");
                std::fs::write(work.path().join(&name), text(n)).unwrap();
                (with_file(&plane, work.path(), &name), text(n).replace('\n', end))
            })
            .collect();
        let _agent = Setup::script("#!/bin/sh\nexec cat \"$DIR/$FILE\"\n").arg(args).arg(&["--spawn", "16"]).start(&plane, work.path());
        for (n, (job, expected)) in jobs.iter().enumerate() {
            let done = plane.wait_finish(job);
            let seen = done.text();
            let head: String = seen.chars().take(300).collect();
            let how = result(&done);
            assert!(seen == *expected, "{args:?}: repetition {n}: {how:?}: {} of {} bytes, beginning {head:?}", seen.len(), expected.len());
            assert_eq!(how, (Some("0"), None, None), "{args:?}: repetition {n}");
        }
    });
}

#[test]
fn r41_the_innermost_process_gets_the_first_signal() {
    // Deaf to the hang-up that the kernel sends when the shells around it die first.
    let prog = "#!/bin/sh\ntrap '' HUP\ntrap 'echo innermost > \"$DIR/marker\"; exit 0' TERM\ntouch \"$DIR/up\"\nwhile :; do sleep 0.05; done\n";
    let cases = [(true, "sh -c 'sh \"$DIR/prog\"; true'"), (true, "bash \"$DIR/outer\""), (false, "sh -c 'sh \"$DIR/prog\"; true'; true")];
    each(cases, |(builtin, command)| {
        for args in [&[][..], &["--no-pty"]] {
            let (work, plane) = (dir(), Plane::start());
            std::fs::write(work.path().join("prog"), prog).unwrap();
            std::fs::write(work.path().join("outer"), "sh \"$DIR/prog\"\ntrue\n").unwrap();
            let job = plane.command(work.path(), command);
            let setup = if builtin { Setup::builtin() } else { Setup::script(&format!("#!/bin/sh\n{command}\n")) };
            let _agent = setup.arg(args).start(&plane, work.path());
            wait_for("the job to run", SOON, || work.path().join("up").exists().then_some(()));
            plane.with(|s| s.jobs.get_mut(&job).unwrap().state = "canceling".into());
            let done = plane.wait_finish(&job);
            assert_eq!(done.finished("signal_reason"), Some("cancel"), "{command} {args:?}");
            assert_ne!(done.finished("exit_status"), Some("0"));
            let marker = std::fs::read_to_string(work.path().join("marker"));
            assert_eq!(marker.ok().as_deref(), Some("innermost\n"), "{command} {args:?}: {}", done.text());
        }
    });
}

#[test]
fn r42_leftovers_of_a_normal_end_touch_nothing_of_the_next_job() {
    // (a) a sleeper in the group, (b) a daemon in its own session, (c) a writer on the old terminal or pipe.
    let script = "#!/bin/bash\n\
        [ -n \"$NEXT\" ] && { echo two; exit 0; }\n\
        trap '' HUP\n\
        sh -c 'echo $$ > \"$DIR/a\"; exec sleep 300' >/dev/null 2>&1 </dev/null &\n\
        setsid sh -c 'echo $$ > \"$DIR/b\"; exec sleep 300' >/dev/null 2>&1 </dev/null &\n\
        setsid sh -c 'trap \"\" PIPE; echo $$ > \"$DIR/c\"; while :; do echo old 2>/dev/null; sleep 0.02; done' &\n\
        until [ -s \"$DIR/a\" ] && [ -s \"$DIR/b\" ] && [ -s \"$DIR/c\" ]; do sleep 0.01; done\n\
        echo one\n";
    each([&[][..], &["--no-pty"]], |args| {
        let (work, plane) = (dir(), Plane::start());
        let place = ("DIR", work.path().to_str().unwrap());
        let agent = Setup::script(script).arg(args).start(&plane, work.path());
        let warm = plane.wait_finish(&plane.job(&[place, ("NEXT", "1")]));
        assert_eq!(result(&warm), (Some("0"), None, None));
        plane.wait_request("GET", "/ping", 2);
        let baseline = agent.descriptors();
        let first = plane.job(&[place]);
        let done = plane.wait_finish(&first);
        assert_eq!(result(&done), (Some("0"), None, None), "{args:?}");
        assert!(done.text().contains("one"));
        assert!(took(&plane, &first) < Duration::from_secs(12), "within the drain bound");
        let second = plane.wait_finish(&plane.job(&[place, ("NEXT", "1")]));
        assert_eq!((second.text().trim_end(), result(&second)), ("two", (Some("0"), None, None)), "{args:?}");
        let left = ["a", "b", "c"].map(|name| pid_in(&work.path().join(name)));
        let living = left.map(alive);
        wait_for("the descriptors of both jobs to be closed", SOON, || (agent.descriptors() <= baseline).then_some(()));
        left.into_iter().for_each(kill);
        assert_eq!(living, [true; 3], "{args:?}: nobody signals what an uncancelled job leaves behind");
    });
}

#[test]
fn r42_on_cancel_the_sweep_goes_on_until_nothing_is_found() {
    // Every member starts its successor and ends: a sweep that looks once misses one. They end with their directory at the latest.
    let relay = "#!/bin/sh\ntrap '' TERM HUP INT\n[ -e \"$DIR/relay\" ] || exit\necho $$ > \"$DIR/last\"\nsh \"$DIR/relay\" &\n";
    let script = "#!/bin/sh\ntrap 'exit 4' TERM\necho $$ > \"$DIR/leader\"\nsh \"$DIR/relay\" >/dev/null 2>&1 </dev/null\nuntil [ -s \"$DIR/last\" ]; do sleep 0.01; done\ntouch \"$DIR/up\"\nwhile :; do sleep 0.05; done\n";
    let (work, plane) = (dir(), Plane::start());
    std::fs::write(work.path().join("relay"), relay).unwrap();
    let job = plane.job(&[("DIR", work.path().to_str().unwrap())]);
    let _agent = Setup::script(script).arg(&["--no-pty"]).start(&plane, work.path());
    wait_for("the job to run", SOON, || work.path().join("up").exists().then_some(()));
    let leader = pid_in(&work.path().join("leader"));
    plane.with(|s| s.jobs.get_mut(&job).unwrap().state = "canceling".into());
    let done = plane.wait_finish(&job);
    let left = members(leader);
    std::fs::remove_file(work.path().join("relay")).unwrap();
    assert_eq!(result(&done), (Some("4"), None, Some("cancel")));
    assert!(left.is_empty(), "processes of the cancelled group when its finish was sent: {left:?}");
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

fn members(group: u32) -> Vec<u32> {
    processes(|f| f[2] == group.to_string() && f[0] != "Z" && f[0] != "X")
}

#[test]
fn r43_orphans_are_reaped_and_no_status_of_a_job_is_taken() {
    // Each bracket forks a child that outlives it: an orphan, handed to the agent.
    let script = "#!/bin/bash\nfor i in {1..300}; do (: & (exit 3) &) ; done\nexit 7\n";
    let (work, plane) = (dir(), Plane::start());
    let mut setup = Setup::script(script).arg(&["--spawn", "2"]);
    setup.subreaper = true;
    let agent = setup.start(&plane, work.path());
    let jobs: Vec<String> = (0..4).map(|_| plane.job(&[])).collect();
    for job in &jobs {
        assert_eq!(result(&plane.wait_finish(job)), (Some("7"), None, None));
    }
    let zombies = || processes(|f| f[1] == agent.pid().to_string() && f[0] == "Z");
    wait_for("the last orphan to be reaped", Duration::from_secs(5), || zombies().is_empty().then_some(()));
    assert!(agent.text().contains("Starting 2 Agent(s)"), "{}", agent.text());
}

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
    let polls = |s: &common::plane::State| s.requests.iter().filter(|r| r.method == "GET" && r.path.ends_with(&job)).count();
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
