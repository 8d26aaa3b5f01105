//! What the schedule does to the world, and when: jobs, outages, cancels, pauses, signals; then the end of all faults, and at
//! last the signal that ends the agent.

use super::World;
use super::plane::{HOST, PlaneHost};
use crate::faults::WorldFault;
use crate::schedule::When;
use crate::trace::Fact;
use ibex_core::agent::OsSignal;
use ibex_core::machine::Instant;
use ibex_core::plane::{ControlAction, PlaneEvent};
use std::rc::Rc;
use std::time::Duration;

/// Name of the agent's host.
pub const AGENT: &str = "agent";

/// How long after the last fault jobs may take before the agent is told to stop.
const JOBS: Duration = Duration::from_secs(120);

enum Act {
    Job(usize),
    Event(WorldFault),
    /// An outage ends.
    Heal(Heal),
}

#[derive(Clone, Copy)]
enum Heal {
    Listen,
    Links,
    Held,
    Disk,
}

/// Directs the run; lives on the control plane's host.
pub async fn direct(world: World, host: Rc<PlaneHost>) {
    let schedule = world.0.schedule.clone();
    let mut acts: Vec<(u64, Act)> = (usize::from(schedule.acquire)..schedule.jobs.len()).map(|n| (schedule.jobs[n].at_ms, Act::Job(n))).collect();
    for e in &schedule.events {
        if let When::AtMs(at) = e.when {
            acts.push((at, Act::Event(e.what.clone())));
        }
    }
    let over = Instant::from_millis(schedule.faults_over_ms);
    loop {
        let next = acts.iter().enumerate().min_by_key(|(i, (at, _))| (*at, *i)).map(|(i, (at, _))| (i, Instant::from_millis(*at)));
        let until = next.map_or(over, |(_, at)| at.min(over));
        tokio::select! {
            biased;
            () = world.0.due_changed.notified() => {
                let due = world.0.due.take();
                for what in due {
                    act(&world, &host, Act::Event(what), &mut acts);
                }
            }
            () = tokio::time::sleep(until.since(world.now())) => {
                match next.filter(|(_, at)| *at <= over) {
                    Some((i, _)) => {
                        let (_, what) = acts.remove(i);
                        act(&world, &host, what, &mut acts);
                    }
                    None => break,
                }
            }
        }
    }
    heal(&world, &host, Heal::Held);
    heal(&world, &host, Heal::Links);
    heal(&world, &host, Heal::Disk);
    host.end_faults();
    host.cut_all();
    for (_, what) in acts {
        if let Act::Job(_) = what {
            act(&world, &host, what, &mut Vec::new());
        }
    }
    world.observed(Fact::FaultsOver);
    settle(&world, &host, over).await;
}

/// Lets the jobs end, then the agent.
async fn settle(world: &World, host: &PlaneHost, over: Instant) {
    while !host.all_over() && world.now() < over + JOBS {
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    tokio::time::sleep(Duration::from_millis(world.0.schedule.settle_ms)).await;
    // A second signal would be a forced stop.
    if !world.0.signalled.get() {
        world.signal_soon(OsSignal::Term);
    }
    std::future::pending::<()>().await;
}

fn act(world: &World, host: &PlaneHost, what: Act, acts: &mut Vec<(u64, Act)>) {
    match what {
        Act::Job(n) => host.create_job(n),
        Act::Heal(how) => heal(world, host, how),
        Act::Event(what) => {
            if !matches!(what, WorldFault::Signal(_)) {
                world.observed(Fact::World(what.name()));
            }
            let now_ms = world.now().as_nanos() / 1_000_000;
            let mut until = |ms: u64, how| acts.push((now_ms + ms, Act::Heal(how)));
            match what {
                WorldFault::Refuse { ms } => {
                    host.listen(false);
                    until(ms, Heal::Listen);
                }
                WorldFault::Partition { ms } => {
                    turmoil::partition(AGENT, HOST);
                    until(ms, Heal::Links);
                }
                WorldFault::Deaf { ms } => {
                    turmoil::partition_oneway(HOST, AGENT);
                    until(ms, Heal::Links);
                }
                WorldFault::Mute { ms } => {
                    turmoil::partition_oneway(AGENT, HOST);
                    until(ms, Heal::Links);
                }
                WorldFault::Hold { ms } => {
                    turmoil::hold(AGENT, HOST);
                    until(ms, Heal::Held);
                }
                WorldFault::Cut => host.cut_all(),
                WorldFault::Period { op, fault, ms } => host.period(world.now() + Duration::from_millis(ms), op, fault),
                WorldFault::DiskFull { ms } => {
                    world.0.disk_full.set(true);
                    until(ms, Heal::Disk);
                }
                WorldFault::Signal(signal) => world.signal_soon(signal),
                WorldFault::Cancel(n) => {
                    if let Some(job) = host.job(n) {
                        host.feed(PlaneEvent::CancelJob { job });
                    }
                }
                WorldFault::Pause(w) => control(host, w, ControlAction::Pause),
                WorldFault::Resume(w) => control(host, w, ControlAction::Resume),
                WorldFault::Disconnect(w) => control(host, w, ControlAction::Disconnect),
            }
        }
    }
}

fn control(host: &PlaneHost, worker: u32, action: ControlAction) {
    if let Some(agent) = host.agent(worker) {
        host.feed(PlaneEvent::Control { agent, action });
    }
}

fn heal(world: &World, host: &PlaneHost, how: Heal) {
    match how {
        Heal::Listen => host.listen(true),
        Heal::Links => turmoil::repair(AGENT, HOST),
        Heal::Held => turmoil::release(AGENT, HOST),
        Heal::Disk => world.0.disk_full.set(false),
    }
}
