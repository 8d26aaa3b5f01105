//! §6: the idle monitor, T6, R17, races R10 and R11.

use super::*;

fn two() -> AgentConfig {
    AgentConfig { spawn: 2, disconnect_after_idle: Some(Duration::from_secs(30)), ..config() }
}

fn one() -> AgentConfig {
    AgentConfig { spawn: 1, ..two() }
}

#[test]
fn a_lone_worker_leaves_after_its_first_idle_plus_the_limit() {
    let w = World::new(one()).run(100.0);
    assert!((w.exits(0) - w.times("ping")[0] - 30.0).abs() < 0.001, "I31");
    assert_eq!(w.logged("All agents have been idle for at least 30s. Disconnecting..."), 1);
}

#[test]
fn t6_the_pool_waits_for_the_last_worker() {
    // The second ping to arrive brings a job of 80 s.
    let w = World::new(two()).on("ping", |n, _| Answer::Now(if n == 4 { ping_job("J") } else { ping("") })).job(80.0, 0, true).run(300.0);
    let over = w.times("finish")[0];
    assert!((w.exits(0) - over - 30.0).abs() < 0.001);
    assert_eq!(w.times("disconnect").len(), 2);
    assert_eq!(w.logged("All agents have been idle for at least 30s. Disconnecting..."), 2);
}

#[test]
fn t6_a_worker_that_fails_no_longer_holds_the_pool() {
    let w = World::new(two()).on("ping", |n, _| if n == 2 { Answer::At(90.0, status(401)) } else { Answer::Now(ping("")) }).run(200.0);
    // One was idle long before, so the pool leaves at the instant of the failure, and the error is the result.
    assert_eq!(w.exits(1), 90.0);
}

#[test]
fn a_worker_that_never_hears_anything_blocks_the_timer() {
    let w = World::new(two()).on("ping", |n, _| if n == 1 { Answer::Never } else { Answer::Now(ping("")) }).run(500.0);
    assert!(w.exit_seen().is_none());
}

#[test]
fn a_failed_ping_is_idleness_and_a_pause_keeps_the_pool_alive() {
    let w = World::new(one()).on("ping", |_, _| Answer::Now(status(500))).run(100.0);
    assert!((w.exits(0) - w.times("ping")[0] - 30.0).abs() < 0.001);
    let w = World::new(two()).on("ping", |n, _| Answer::Now(ping(if n == 1 || n > 2 { "pause" } else { "" }))).run(500.0);
    assert!(w.exit_seen().is_none(), "I32");
}

#[test]
fn races_r10_a_job_at_the_instant_of_the_timer_is_taken_first() {
    // The ping after the first idle is answered with a job exactly when the timer is due.
    let mut first = 0.0;
    let w = World::new(one()).on("ping", move |n, now| match n {
        1 => {
            first = now;
            Answer::Now(ping(""))
        }
        2 => Answer::At(first + 30.0, ping_job("J")),
        _ => Answer::Now(ping("")),
    });
    let w = w.run(200.0);
    assert_eq!(w.finishes().len(), 1, "{}", w.tail());
    assert!((w.exits(0) - w.times("finish")[0] - 30.0).abs() < 0.001);
}

#[test]
fn r16_a_pause_at_the_instant_of_the_timer_is_taken_first() {
    let mut first = 0.0;
    let w = World::new(one()).on("ping", move |n, now| match n {
        1 => {
            first = now;
            Answer::Now(ping(""))
        }
        2 => Answer::At(first + 30.0, ping("pause")),
        _ => Answer::Now(ping("pause")),
    });
    assert!(w.run(300.0).exit_seen().is_none());
}

#[test]
fn accept_failures_count_as_idle_again() {
    let w = World::new(one()).on("ping", |_, _| Answer::Now(ping_job("J"))).on("accept", |_, _| Answer::Now(status(422))).run(29.0);
    assert!(w.exit_seen().is_none());
}

/// Races R11: for every subset of dead, paused, initial and idle workers the monitor fires iff nobody is paused or initial.
#[test]
fn every_subset_of_dead_paused_initial_and_idle() {
    for mask in 0..4u32.pow(3) {
        let kinds: Vec<u32> = (0..3).map(|i| mask / 4u32.pow(i) % 4).collect();
        let mut w = World::new(AgentConfig { spawn: 3, ..two() });
        let script = kinds.clone();
        // Workers connect in order, so the nth connect is worker n's; pings are told apart by their order in the first 10 s, which
        // is why every worker's own fate is fixed by the answer to its first ping.
        w = w.on("ping", move |n, _| {
            let index = (n - 1) as usize;
            match script.get(index) {
                Some(0) => Answer::Now(status(401)),
                Some(1) => Answer::Now(ping("pause")),
                Some(2) => Answer::Never,
                Some(_) => Answer::Now(ping("")),
                // Later pings belong to idle or paused workers. Both are told the same, so a subset with paused ones keeps them paused.
                None => Answer::Now(if script.contains(&1) { ping("pause") } else { ping("") }),
            }
        });
        w.run_on(200.0);
        let blocked = kinds.contains(&1) || kinds.contains(&2);
        assert_eq!(w.exit_seen().is_none(), blocked, "{kinds:?}\n{}", w.tail());
    }
}
