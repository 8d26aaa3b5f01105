//! R41–R43: the processes of a job, and what it leaves behind.

use crate::common::agent::Setup;
use crate::common::{Agent, Plane, SOON, alive, dir, each, kill, pid_in, wait_for};
use crate::{processes, result, took};
use std::time::Duration;

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

fn members(group: u32) -> Vec<u32> {
    processes(|f| f[2] == group.to_string() && f[0] != "Z" && f[0] != "X")
}

/// Jobs that each leave `orphans` children that outlive their parent, and end with 7. None of them may end with anything else, and
/// nothing of the orphans may be left.
fn r43(setup: Setup, jobs: usize, orphans: usize, reaper: impl Fn(&Agent) -> u32) {
    // Each bracket forks a child that outlives it: an orphan, handed to the agent.
    let (work, plane) = (dir(), Plane::start());
    let agent = setup.start(&plane, work.path());
    let jobs: Vec<String> = (0..jobs).map(|_| plane.job(&[("ORPHANS", &orphans.to_string())])).collect();
    for job in &jobs {
        let done = plane.wait_finish(job);
        assert_eq!(result(&done), (Some("7"), None, None), "{} {}", done.text(), agent.text());
    }
    let reaper = reaper(&agent).to_string();
    let zombies = || processes(|f| f[1] == reaper && f[0] == "Z");
    wait_for("the last orphan to be reaped", Duration::from_secs(5), || zombies().is_empty().then_some(()));
    assert!(alive(reaper.parse().unwrap()), "{}", agent.text());
}

const ORPHANING: &str = "#!/bin/bash\nfor ((i = 0; i < ORPHANS; i++)); do (: & (exit 3) &) ; done\nexit 7\n";

#[test]
fn r43_orphans_are_reaped_and_no_status_of_a_job_is_taken() {
    let mut setup = Setup::script(ORPHANING).arg(&["--spawn", "2"]);
    setup.subreaper = true;
    r43(setup, 4, 300, Agent::pid);
}

/// How to start the agent as process 1 of its own namespace, if this machine and this user may.
fn as_process_1() -> Option<Vec<&'static str>> {
    const BASE: [&str; 5] = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"];
    let ways = [BASE.to_vec(), [&BASE[..], &["--user", "--map-root-user"]].concat()];
    let works = |way: &&Vec<&str>| {
        std::process::Command::new(way[0]).args(&way[1..]).arg("true").stderr(std::process::Stdio::null()).status().is_ok_and(|s| s.success())
    };
    let way = ways.iter().find(works).cloned();
    if way.is_none() {
        eprintln!("SKIPPED: neither this user nor a user namespace of its own may make process namespaces (`unshare --pid --fork --mount-proc`)");
    }
    way
}

/// The process that `unshare` has forked: process 1 of the namespace, as it is seen from here.
fn process_1(agent: &Agent) -> u32 {
    let unshare = agent.pid().to_string();
    wait_for("process 1 of the namespace", SOON, || processes(|f| f[1] == unshare).first().copied())
}

#[test]
fn r43_as_process_1_orphans_are_reaped_and_no_status_of_a_job_is_taken() {
    let Some(wrapper) = as_process_1() else { return };
    for args in [&[][..], &["--no-pty"]] {
        let mut setup = Setup::script(ORPHANING).arg(&["--spawn", "4"]).arg(args);
        setup.wrapper = wrapper.clone();
        r43(setup, 20, 50, process_1);
    }
    // The built-in executor, its hooks and its commands, all below process 1.
    let (work, plane) = (dir(), Plane::start());
    let mut setup = Setup::builtin().hook("pre-command", "#!/bin/bash\n(: & (exit 3) &)\n");
    setup.wrapper = wrapper;
    let mut agent = setup.start(&plane, work.path());
    for job in (0..3).map(|_| plane.command(work.path(), "(: & (exit 3) &); exit 7")).collect::<Vec<_>>() {
        let done = plane.wait_finish(&job);
        assert_eq!(result(&done), (Some("7"), None, None), "{}", done.text());
    }
    // The kernel does not end process 1 by a signal that it does not handle: it has to do that itself, and it does.
    let one = process_1(&agent);
    let terminated = std::process::Command::new("kill").args(["-s", "TERM", &one.to_string()]).status().unwrap();
    assert!(terminated.success());
    assert_eq!(agent.wait(SOON), 0, "{}", agent.text());
    assert_eq!(plane.requests("POST", "/disconnect").len(), 1);
}

#[test]
fn as_process_1_a_signal_before_the_pool_ends_the_process_with_128_and_its_number() {
    let Some(wrapper) = as_process_1() else { return };
    each([("TERM", 143), ("INT", 130), ("HUP", 129), ("QUIT", 131)], |(name, code)| {
        let (work, plane) = (dir(), Plane::start());
        let mut setup = Setup::builtin().hook("agent-startup", "#!/bin/sh\ntouch \"$HOME/../up\"\nexec sleep 300\n");
        setup.wrapper = wrapper.clone();
        let mut agent = setup.start(&plane, work.path());
        wait_for("the startup hook", SOON, || work.path().join("up").exists().then_some(()));
        let one = process_1(&agent).to_string();
        assert!(std::process::Command::new("kill").args(["-s", name, &one]).status().unwrap().success());
        assert_eq!(agent.wait(SOON), code, "{name}: {}", agent.text());
        assert!(plane.requests("POST", "/connect").is_empty());
    });
}
