//! R33–R36: what a job prints.

use crate::common::agent::Setup;
use crate::common::{Act, Plane, SOON, alive, dir, each, kill, pid_in, wait_for};
use crate::{result, took, with_file};
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;

/// `size` bytes without a line end, in lines of 10,000, in lines of 100: exact, and what they cost in CPU time.
fn r33(size: usize, bound: Duration) -> [Duration; 3] {
    let (work, plane) = (dir(), Plane::start());
    let texts = [
        ("endless", "x".repeat(size) + "\nnormal\nlines\n"),
        ("long", ("y".repeat(10_000) + "\n").repeat(size / 10_001)),
        ("short", ("z".repeat(99) + "\n").repeat(size / 100)),
    ];
    let agent = Setup::script("#!/bin/sh\nexec cat \"$DIR/$FILE\"\n").arg(&["--no-pty"]).start(&plane, work.path());
    texts.map(|(name, text)| {
        std::fs::write(work.path().join(name), &text).unwrap();
        let before = agent.cpu();
        let done = plane.wait_finish_within(&with_file(&plane, work.path(), name), bound);
        assert!(done.text() == text, "{name}: the log is not what was printed");
        assert_eq!(done.finish.unwrap()["chunks_failed_count"], 0);
        agent.cpu() - before
    })
}

#[test]
fn r33_an_endless_line_is_exact_and_costs_no_more_than_short_ones() {
    let cost = r33(4_000_000, SOON * 2);
    let bound = cost[2] * 2 + Duration::from_millis(300);
    assert!(cost[0] < bound && cost[1] < bound, "CPU of one endless line, lines of 10,000, lines of 100: {cost:?}");
}

#[test]
#[ignore = "100 MB three times: for a release build"]
fn r33_at_the_size_of_the_chapter() {
    let cost = r33(100_000_000, Duration::from_secs(300));
    println!("R33: CPU of 100 MB as one endless line, in lines of 10,000, in lines of 100: {cost:?}");
    assert!(cost[0] < cost[2] * 2 && cost[1] < cost[2] * 2, "{cost:?}");
}

fn r33_in_a_terminal(size: usize, bound: Duration) -> Duration {
    let (work, plane) = (dir(), Plane::start());
    let script = "#!/bin/sh\nhead -c $SIZE /dev/zero | tr '\\0' x; echo; echo normal\n";
    let agent = Setup::script(script).start(&plane, work.path());
    plane.wait_request("GET", "/ping", 1);
    let before = agent.cpu();
    let done = plane.wait_finish_within(&plane.job(&[("SIZE", &size.to_string())]), bound);
    assert!(done.text() == "x".repeat(size) + "\r\nnormal\r\n", "the log is not what was printed");
    agent.cpu() - before
}

#[test]
fn r33_an_endless_line_in_a_terminal_is_exact() {
    r33_in_a_terminal(2_000_000, SOON * 2);
}

#[test]
#[ignore = "100 MB through a terminal: for a release build"]
fn r33_in_a_terminal_at_the_size_of_the_chapter() {
    println!("R33: CPU of 100 MB as one endless line in a terminal: {:?}", r33_in_a_terminal(100_000_000, Duration::from_secs(300)));
}

/// `lines` lines of 10,000 bytes that could not be sent, then a few bytes per second for `trickle` seconds.
fn r34(lines: usize, trickle: usize, bound: Duration) {
    let (work, plane) = (dir(), Plane::start());
    let burst = ("b".repeat(9_999) + "\n").repeat(lines);
    std::fs::write(work.path().join("burst"), &burst).unwrap();
    let script = "#!/bin/sh\ncat \"$DIR/$FILE\"\ntouch \"$DIR/printed\"\nuntil [ -e \"$DIR/go\" ]; do printf .; sleep 0.2; done\n";
    let agent = Setup::script(script).arg(&["--no-pty"]).start(&plane, work.path());
    plane.wait_request("GET", "/ping", 1);
    let baseline = agent.memory("VmRSS");
    let held = plane.rule("POST", "/chunks", usize::MAX, Act::Hold);
    let job = with_file(&plane, work.path(), "burst");
    // The buffer is full when nothing more is read.
    let (mut last, mut since) = (0, Instant::now());
    wait_for("the buffer to fill", bound, || {
        let now = agent.memory("VmRSS");
        if now != last {
            (last, since) = (now, Instant::now());
        }
        (now > baseline + 32 * MIB && since.elapsed() > Duration::from_millis(500)).then_some(())
    });
    assert!(!work.path().join("printed").exists(), "{} MB do not fit: the job's own writes have to wait", burst.len() / 1_000_000);
    plane.release(held);
    wait_for("the burst to be read", bound, || work.path().join("printed").exists().then_some(()));
    let peak = agent.memory("VmHWM");
    assert!(peak < baseline + 64 * MIB + 32 * MIB, "the buffer's limit and a constant: {} MiB over the baseline", (peak - baseline) / MIB);
    wait_for("memory to fall back", bound, || (agent.memory("VmRSS") < baseline + 32 * MIB).then_some(()));
    // The state is asked for every second.
    let polls = || plane.with(|s| s.requests.iter().filter(|r| r.method == "GET" && r.path.starts_with("/jobs/")).count());
    let (seen, before) = (polls(), agent.cpu());
    let seconds = Duration::from_secs(trickle as u64);
    wait_for("the trickle", seconds + SOON, || (polls() >= seen + trickle).then_some(()));
    let (cpu, after) = (agent.cpu() - before, agent.memory("VmRSS"));
    println!(
        "R34: over the baseline of {} MiB: peak {} MiB, after the trickle {} MiB; CPU of {trickle} s of trickle {cpu:?}",
        baseline / MIB,
        (peak - baseline) / MIB,
        after.saturating_sub(baseline) / MIB
    );
    assert!(after <= baseline + 32 * MIB, "{} MiB over the baseline after the trickle", (after - baseline) / MIB);
    assert!(cpu < seconds / 20 + Duration::from_millis(100), "CPU during {trickle} polls of a trickle: {cpu:?}");
    std::fs::write(work.path().join("go"), "").unwrap();
    let done = plane.wait_finish_within(&job, bound);
    let text = done.text();
    assert!(text.len() > burst.len() && text[burst.len()..].bytes().all(|b| b == b'.') && text.starts_with(&burst), "the log is not exact");
}

#[test]
fn r34_after_a_burst_that_could_not_be_sent_a_trickle_needs_neither_memory_nor_cpu() {
    r34(8_000, 2, SOON * 2);
}

#[test]
#[ignore = "256 MB and a minute of trickle: for a release build"]
fn r34_at_the_size_of_the_chapter() {
    r34(25_600, 60, Duration::from_secs(300));
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
