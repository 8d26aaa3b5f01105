//! §12 on random worlds: whatever the answers, the times and the signals are, the invariants hold.

use super::*;
use crate::api::{GrpcCode, Outcome, StreamEnd, StreamMessage};
use crate::machine::Owner;
use crate::rng::Rng;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

fn outcome(rng: &mut Rng, good: Outcome) -> Outcome {
    match rng.below(12) {
        0 => reset(),
        1 => status(500),
        2 => status(429),
        3 if rng.below(12) == 0 => status(401),
        4 => Outcome::Undecodable("page".into()),
        _ => good,
    }
}

fn world(seed: u64) -> (World, u32) {
    let mut rng = Rng::from_seed(seed);
    let mut pick = |n: u64| rng.below(n);
    let mode = [PingMode::Auto, PingMode::PollOnly, PingMode::StreamOnly][pick(3) as usize];
    let spawn = 1 + pick(3) as u32;
    let config = AgentConfig {
        spawn,
        ping_mode: mode,
        acquire_job: (pick(6) == 0).then(|| "job-1".to_owned()),
        disconnect_after_job: pick(3) == 0,
        disconnect_after_idle: (pick(3) == 0).then(|| Duration::from_secs(30)),
        disconnect_after_uptime: (pick(4) == 0).then(|| Duration::from_secs(70)),
        watchdog: (pick(4) == 0).then(|| Duration::from_secs(20)),
        reflect_exit_status: pick(2) == 0,
        ..config()
    };
    let signals: Vec<(f64, OsSignal)> = (0..pick(4))
        .map(|_| (1.0 + pick(150_000) as f64 / 1000.0, [OsSignal::Term, OsSignal::Int, OsSignal::Quit, OsSignal::Hup][pick(4) as usize]))
        .collect();
    let (polite, runs) = (pick(2) == 0, pick(60) as f64);
    let rng = Rc::new(RefCell::new(rng));
    let mut w = World::seeded(config, seed as u8).job(runs, (seed % 3) as i32, polite);
    for name in ["register", "connect", "disconnect", "heartbeat", "accept", "acquire", "start", "finish", "state", "ping"] {
        let rng = rng.clone();
        w = w.on(name, move |n, _| {
            let rng = &mut *rng.borrow_mut();
            let good = match (name, rng.below(8)) {
                ("ping", 0) => ping("pause"),
                ("ping", 1) if rng.below(6) == 0 => ping("disconnect"),
                ("ping", 2..4) => ping_job(&format!("job-{}", rng.below(6))),
                ("ping", _) => ping(""),
                ("acquire", 0..4) => status(423),
                ("state", _) => Outcome::Ok(crate::api::Reply::State("running".into())),
                _ => ok(),
            };
            // Starting up is not what this is about.
            let outcome = if name == "register" || n > 200 { ok() } else { outcome(rng, good) };
            match rng.below(3) {
                0 => Answer::Now(outcome),
                _ => Answer::After(rng.below(3000) as f64 / 1000.0, outcome),
            }
        });
    }
    w = w.streams(move |_, _| {
        let rng = &mut *rng.borrow_mut();
        let mut at = 0.0;
        let mut script = Vec::new();
        for _ in 0..rng.below(6) {
            at += rng.below(12_000) as f64 / 1000.0;
            script.push((
                at,
                Say::M(match rng.below(9) {
                    0..3 => StreamMessage::Resume,
                    3 | 4 => StreamMessage::Pause { reason: String::new() },
                    5 if rng.below(5) == 0 => StreamMessage::Disconnect { reason: String::new() },
                    6 if rng.below(5) == 0 => StreamMessage::Job { id: "".into() },
                    _ => StreamMessage::Job { id: format!("job-{}", rng.below(6)).into() },
                }),
            ));
        }
        let end = match rng.below(8) {
            0 => Some(StreamEnd::Clean),
            1 | 2 => Some(failure(GrpcCode::Unavailable)),
            3 if rng.below(4) == 0 => Some(failure(GrpcCode::PermissionDenied)),
            _ => None,
        };
        script.extend(end.map(|end| (at + 1.0, Say::End(end))));
        script
    });
    for (at, signal) in signals {
        w = w.signal(at, signal);
    }
    // When nothing else ends it, a graceful stop does, and after it everything must finish.
    (w.signal(400.0, OsSignal::Term).run(1200.0), spawn)
}

#[derive(Default)]
struct Seen {
    stopped: bool,
    disconnecting: bool,
    connected: bool,
    active: bool,
    gate: &'static str,
    accepts: Vec<String>,
    last_disconnect: Option<f64>,
    disconnects: u32,
}

#[track_caller]
fn check(w: &World, spawn: u32, seed: u64) {
    let mut seen: BTreeMap<u32, Seen> = (1..=spawn).map(|i| (i, Seen::default())).collect();
    let mut exited = false;
    let (mut started, mut ended) = (0, 0);
    let mut hooks = Vec::new();
    for (at, command) in &w.trace {
        let at = t(*at);
        let why = |rule: &str| format!("seed {seed}, {at}: {rule}\n{}", w.tail());
        assert!(!exited, "{}", why("the last command is Exit"));
        match command {
            AgentCommand::Transition(step) => {
                if let (Owner::Job { worker, .. }, "runner", "done") = (step.owner, step.machine, step.to) {
                    seen.get_mut(&worker).expect("a worker").active = false;
                }
                let Owner::Worker(i) = step.owner else { continue };
                let s = seen.get_mut(&i).expect("a worker");
                match (step.machine, step.to) {
                    ("worker", "Draining" | "Disconnecting" | "Closing" | "Finished") => s.stopped = true,
                    ("gate", to) => s.gate = to,
                    _ => {}
                }
                if step.machine == "worker" && step.event == "connected" {
                    s.connected = true;
                }
            }
            AgentCommand::Metric(Metric::JobStarted { .. }) => started += 1,
            AgentCommand::Metric(Metric::JobEnded { .. }) => ended += 1,
            AgentCommand::Health(h) => {
                let s = seen.get_mut(&h.worker).expect("a worker");
                s.active |= h.current_job.is_some();
            }
            AgentCommand::RunHook { hook, .. } if hook.name.starts_with("agent-") => hooks.push(hook.name),
            AgentCommand::OpenStream { id, .. } => {
                let Owner::Worker(i) = id.owner else { continue };
                assert!(!seen[&i].stopped, "{}", why("no stream after a stop"));
            }
            AgentCommand::Call { id, call } => {
                let (i, name) = match id.owner {
                    Owner::Worker(i) => (i, operation_name(&call.operation)),
                    Owner::Job { worker, .. } => {
                        assert!(!seen[&worker].disconnecting, "{}", why("I9: nothing after the disconnect"));
                        continue;
                    }
                    _ => continue,
                };
                let s = seen.get_mut(&i).expect("a worker");
                assert!(!s.disconnecting || name == "disconnect", "{}", why("I9: nothing after the disconnect"));
                match name {
                    "ping" => {
                        assert!(!s.active && !s.stopped && s.gate != "HeldByStream", "{}", why("I10, I12, I13: no ping now"));
                    }
                    "accept" | "acquire" => {
                        assert!(!s.stopped && !s.active, "{}", why("I2, I3: no accept or acquire now"));
                        if let crate::api::Operation::Accept { job } = &call.operation {
                            assert!(!job.is_empty(), "{}", why("I35"));
                            s.accepts.push(job.to_string());
                        }
                    }
                    "disconnect" => {
                        assert!(s.last_disconnect.is_none_or(|last| at - last >= 0.999), "{}", why("I6: 1 s apart"));
                        s.last_disconnect = Some(at);
                        s.disconnects += 1;
                        s.disconnecting = true;
                        assert!(s.disconnects <= 4 && !s.active, "{}", why("I6, I7"));
                    }
                    _ => {}
                }
            }
            AgentCommand::Exit(_) => exited = true,
            _ => {}
        }
    }
    assert!(exited, "seed {seed}: I56, the process has not ended\n{}", w.tail());
    let (_, code, _) = w.exit_seen().expect("an end");
    let forced = w.logged("exiting immediately with status 1") > 0 || w.logged("Exiting immediately with status 1") > 0;
    let by_signal = code > 128;
    if !forced && !by_signal {
        assert_eq!(started, ended, "seed {seed}: I58");
        for (i, s) in &seen {
            assert!(!s.connected || s.disconnects > 0, "seed {seed}: I8, worker {i} was not disconnected\n{}", w.tail());
        }
        assert_eq!(hooks, ["agent-startup", "agent-shutdown"], "seed {seed}: I48");
    }
}

#[test]
fn the_invariants_hold_in_random_worlds() {
    let mut ends: BTreeMap<u8, u32> = BTreeMap::new();
    let mut steps = std::collections::BTreeSet::new();
    for seed in 0..600 {
        let (w, spawn) = world(seed);
        check(&w, spawn, seed);
        *ends.entry(w.exit_seen().expect("an end").1).or_default() += 1;
        steps.extend(w.transitions().iter().filter(|s| s.machine == "worker").map(|s| (s.from, s.to)));
    }
    // The worlds must be worth it: many ends, and every edge of the worker's diagram (§10.4).
    assert!(ends.len() >= 4, "{ends:?}");
    for edge in [
        ("Connecting", "Serving"),
        ("Connecting", "Acquiring"),
        ("Acquiring", "RunningAcquired"),
        ("Acquiring", "Draining"),
        ("RunningAcquired", "Serving"),
        ("RunningAcquired", "Draining"),
        ("Serving", "Draining"),
        ("Draining", "Disconnecting"),
        ("Disconnecting", "Finished"),
    ] {
        assert!(steps.contains(&edge), "{edge:?} was never taken: {steps:?}");
    }
}
