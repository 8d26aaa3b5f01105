//! The exit code is the function of start-and-worker §4.1 of what happened (I47; I20, I28, I50).

use super::rows::Ref::S;
use super::view::View;
use super::{Invariant, Violation};
use crate::schedule::{Flaw, Source};
use crate::trace::{Fact, Op};
use ibex_core::agent::OsSignal;
use ibex_core::limits::STOP_WAITS_FOR_ANSWER;

pub(super) const INVARIANT: Invariant = Invariant {
    id: "exit-code",
    title: "exit code",
    rule: "start-and-worker §4.1, I47: 0, 1, 27, 28 or the signal's, by what happened",
    file: file!(),
    rows: &[S(20), S(28), S(47), S(50)],
    check,
};

fn check(v: &View<'_>, out: &mut Vec<Violation>) {
    let Some((i, at, code)) = v.exit else { return };
    let allowed = allowed(v);
    if !allowed.contains(&code) {
        out.push(Violation::at("exit-code", i, format!("the agent exited with {code} at {at:?}, it should be one of {allowed:?}")));
    }
}

/// More than one only where two things of one instant decide.
fn allowed(v: &View<'_>) -> Vec<u8> {
    let of_signal = |s: OsSignal| match s {
        OsSignal::Hup => 129,
        OsSignal::Int => 130,
        OsSignal::Quit => 131,
        _ => 143,
    };
    let registered = v.handlers();
    let failed = v.calls.values().any(|c| c.request.op == Op::Register && c.rejected());
    if let Some((_, at)) = v.signal_before_handlers() {
        let (_, _, first) = v.signals[0];
        // A registration that failed in that instant ends it as well; a signal comes first (§0.2), but not before it is observed.
        let other = failed.then_some(1).filter(|_| v.exit.is_some_and(|(_, exit, _)| exit == at));
        let killed = Some(of_signal(first));
        return killed.into_iter().chain(other).collect();
    }
    if registered.is_none() {
        return vec![1];
    }
    let exit = v.exit.map(|(_, at, _)| at);
    let third = v.third_signal().map(|(_, at)| at);
    if third.is_some_and(|at| exit.is_none_or(|exit| at < exit)) || v.by_force_timer() {
        return vec![1];
    }
    let hook = v.entries.iter().any(|e| matches!(e.fact, Fact::HookOver { name: "agent-startup", ok: false, .. }));
    let mut codes = if hook { vec![1] } else { by_workers(v) };
    if third.is_some() && third == exit {
        // Everything was over in that instant, or it cut it off.
        codes.push(1);
    }
    // In the instant of S16 a signal may still have been the end of it.
    if let (Some((_, from)), Some(&(_, at, first)), Some((_, exit, _))) = (registered, v.signals.first(), v.exit)
        && at == from
        && exit == at
    {
        codes.push(of_signal(first));
    }
    codes
}

/// 27, then 28, then any other error, then none.
fn by_workers(v: &View<'_>) -> Vec<u8> {
    let mut error = false;
    for worker in 1..=v.setup.workers {
        let step = |machine: &str, event: &str| v.steps(worker, machine).any(|(_, t)| t.event == event);
        let connect = v.steps(worker, "worker").any(|(_, t)| t.from == "Connecting" && t.event == "gave up");
        // What is discarded because a stop came first in its instant is no rejection of the worker.
        let ping = v.of_worker(worker, Op::Ping).iter().any(|c| c.rejected()) && step("poll", "rejected");
        let beat = v.heartbeat_rejected(worker).is_some() && step("heartbeat", "rejected");
        let stream = v.setup.source == Source::Stream && step("stream", "final code");
        let metrics = v.setup.flaw == Flaw::Metrics && step("worker", "metrics failed");
        error |= connect || ping || beat || stream || metrics;
    }
    if !v.setup.acquire {
        return vec![u8::from(error)];
    }
    let mut codes = acquisition(v);
    if error {
        codes = codes.into_iter().map(|c| if c == 0 { 1 } else { c }).collect();
    }
    codes
}

fn acquisition(v: &View<'_>) -> Vec<u8> {
    let calls: Vec<_> = v.calls.values().filter(|c| c.request.op == Op::Acquire).collect();
    let rounds = || v.jobs.values().flat_map(|j| &j.rounds);
    if rounds().next().is_some() {
        // Its own status is not reflected here; a job that could not be started is an error (§9.10).
        return vec![u8::from(rounds().any(|r| !r.started))];
    }
    let Some(last) = calls.last() else { return vec![0] };
    let Some((i, at, _)) = last.returned else { return vec![0] };
    // Given up because of a stop: between attempts at once, or with the answer that it waited for.
    let stop = v.stop(1);
    if stop.is_some_and(|(s, t)| s < i && t < at && at <= t + STOP_WAITS_FOR_ANSWER) {
        return vec![0];
    }
    let answered = calls.iter().filter_map(|c| c.status()).next_back();
    let gave_up = match (last.status(), answered) {
        (Some(422), _) => 27,
        (_, Some(423)) => 28,
        _ => 1,
    };
    let final_one = last.status().is_some_and(|s| (400..500).contains(&s) && s != 423 && s != 429);
    match stop {
        Some((_, t)) if t == at => vec![0, gave_up],
        Some(_) if !final_one && !v.steps(1, "acquire").any(|(_, t)| t.event == "given up") => vec![0],
        _ => vec![gave_up],
    }
}

#[cfg(test)]
mod tests {
    use super::super::story::Story;
    use super::*;

    fn ends(s: Story, right: u8) {
        for code in [0, 1, 27, 28, 143] {
            let story = s.clone().exit(90_000, code);
            if code == right { story.holds(INVARIANT) } else { story.breaks(INVARIANT) }
        }
    }

    #[test]
    fn a_stop_in_time_is_0() {
        ends(Story::new().connected(1).signal(500, "TERM"), 0);
    }

    #[test]
    fn rejections_are_1() {
        let beat = Story::new().connected(1).sent(500, 5, "heartbeat", "w1", "").got(520, 5, 401);
        ends(beat.step(520, "heartbeat", "Beat", "rejected", "Ended"), 1);
        let ping = Story::new().connected(1).sent(500, 5, "ping", "w1", "").got(520, 5, 401);
        ends(ping.step(520, "poll", "Ping", "rejected", "Ended"), 1);
    }

    #[test]
    fn the_ways_an_acquisition_ends() {
        let acquired = |status| Story::new().with(|s| s.acquire = true).connected(1).acquire(100, 1, "J", 0).got(120, 1, status);
        ends(acquired(422), 27);
        ends(acquired(423).step(120, "acquire", "InFlight", "given up", "GaveUp"), 28);
        ends(acquired(404), 1);
        ends(acquired(423).signal(500, "TERM"), 0);
        // A stop after it was given up changes nothing.
        ends(acquired(404).signal(500, "TERM"), 1);
    }

    #[test]
    fn early_signals_are_their_own() {
        ends(Story::new().sent(0, 1, "register", "registration", "").signal(500, "TERM"), 143);
        ends(Story::new().sent(0, 1, "register", "registration", "").got(20, 1, 401), 1);
    }

    #[test]
    fn a_third_signal_is_1() {
        ends(Story::new().connected(1).signal(500, "TERM").signal(600, "INT").signal(700, "TERM"), 1);
    }
}
