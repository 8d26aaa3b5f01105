//! The one loop that drives every machine: take an event, let the machine decide, execute what it asks for, in order.
//!
//! Order of simultaneous things (start-and-worker §0.2): signals, then completions in the order of their arrival, then
//! timers. The world hands out events in that order; the loop sees to it that no timer fires while an event of the same
//! instant waits.

use ibex_core::machine::{Instant, Machine};
use ibex_core::wall::WallClock;
use std::future::Future;
use std::ops::ControlFlow;
use std::time::Duration;

/// Events taken before timers are looked at again, so that a flood of events cannot starve them.
pub const EVENTS_BEFORE_TIMERS: usize = 256;

/// Monotonic time of one driver: tokio's clock, counted from the driver's start. Simulated where tokio's clock is.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: tokio::time::Instant,
}

impl Clock {
    /// A clock that starts now.
    pub fn start() -> Clock {
        Clock { start: tokio::time::Instant::now() }
    }

    /// The machines' time.
    pub fn now(&self) -> Instant {
        Instant::from_nanos(u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// The clock that reads `wall` now, for the zone offset given; worlds answer `Effects::wall_clock` with it.
    pub fn wall_clock(&self, wall_nanos: i64, utc_offset_seconds: i32) -> WallClock {
        let since = i64::try_from(self.now().as_nanos()).unwrap_or(i64::MAX);
        WallClock { base: ibex_core::wall::WallTime::from_nanos(wall_nanos.saturating_sub(since)), utc_offset_seconds }
    }

    /// Completes when the machines' time is `deadline`; never for `None`.
    pub async fn reached(&self, deadline: Option<Instant>) {
        match deadline.and_then(|d| self.start.checked_add(Duration::from_nanos(d.as_nanos()))) {
            Some(at) => tokio::time::sleep_until(at).await,
            None => std::future::pending().await,
        }
    }
}

/// What a machine lives in: where its events come from and what executes its commands.
pub trait World<M: Machine> {
    /// What is known when the machine is done.
    type End;

    /// The next event that is there already, signals first.
    fn ready(&mut self) -> Option<M::Event>;

    /// Waits for the next event; called only after [`World::ready`] had none. Cancel-safe: an event is either returned or still
    /// there.
    fn next(&mut self) -> impl Future<Output = M::Event>;

    /// An event (or, without one, a timer) is about to be handed to the machine.
    fn arriving(&mut self, _now: Instant, _event: Option<&M::Event>) {}

    /// The machine has decided.
    fn decided(&mut self, _machine: &M, _commands: &[M::Command]) {}

    /// Executes one command. It only starts things: what takes time completes with an event. `Break` ends the loop.
    fn execute(&mut self, now: Instant, command: M::Command) -> ControlFlow<Self::End>;
}

/// Drives `machine` in `world` until a command ends it.
pub async fn drive<M: Machine, W: World<M>>(machine: &mut M, world: &mut W, clock: Clock) -> W::End {
    let mut out = Vec::new();
    let mut others_had_their_turn = false;
    loop {
        let mut drained = false;
        for _ in 0..EVENTS_BEFORE_TIMERS {
            let Some(event) = world.ready() else {
                drained = true;
                break;
            };
            if let ControlFlow::Break(end) = step(machine, world, clock.now(), Some(event), &mut out) {
                return end;
            }
        }
        let deadline = machine.deadline();
        if deadline.is_some_and(|d| d <= clock.now()) {
            // Tasks that were woken at this same instant may hold an event: they run before the timer fires.
            if !others_had_their_turn {
                others_had_their_turn = true;
                tokio::task::yield_now().await;
                continue;
            }
            others_had_their_turn = false;
            if let ControlFlow::Break(end) = step(machine, world, clock.now(), None, &mut out) {
                return end;
            }
            continue;
        }
        others_had_their_turn = false;
        if !drained {
            // More is there already, and `next` need not know of it.
            tokio::task::yield_now().await;
            continue;
        }
        // Events before the timer, as everywhere.
        let event = tokio::select! {
            biased;
            event = world.next() => event,
            () = clock.reached(deadline) => continue,
        };
        if let ControlFlow::Break(end) = step(machine, world, clock.now(), Some(event), &mut out) {
            return end;
        }
    }
}

/// One mutation, one drain.
fn step<M: Machine, W: World<M>>(
    machine: &mut M,
    world: &mut W,
    now: Instant,
    event: Option<M::Event>,
    out: &mut Vec<M::Command>,
) -> ControlFlow<W::End> {
    world.arriving(now, event.as_ref());
    match event {
        Some(event) => machine.handle(now, event, out),
        None => machine.expire(now, out),
    }
    world.decided(machine, out);
    for command in out.drain(..) {
        world.execute(now, command)?;
    }
    ControlFlow::Continue(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    /// Writes down what reaches it; a timer at 10 ms.
    struct Notes {
        deadline: Option<Instant>,
        end: usize,
        seen: Vec<String>,
    }

    impl Machine for Notes {
        type Event = &'static str;
        type Command = String;

        fn handle(&mut self, now: Instant, event: &'static str, out: &mut Vec<String>) {
            self.note(format!("{event}@{}", now.as_nanos() / 1_000_000), out);
        }

        fn deadline(&self) -> Option<Instant> {
            self.deadline
        }

        fn expire(&mut self, now: Instant, out: &mut Vec<String>) {
            self.deadline = None;
            self.note(format!("timer@{}", now.as_nanos() / 1_000_000), out);
        }
    }

    impl Notes {
        fn note(&mut self, what: String, out: &mut Vec<String>) {
            self.seen.push(what.clone());
            if self.seen.len() == self.end {
                out.push(what);
            }
        }
    }

    struct Queue {
        ready: VecDeque<&'static str>,
        inbox: tokio::sync::mpsc::Receiver<&'static str>,
    }

    impl World<Notes> for Queue {
        type End = String;

        fn ready(&mut self) -> Option<&'static str> {
            self.ready.pop_front().or_else(|| self.inbox.try_recv().ok())
        }

        async fn next(&mut self) -> &'static str {
            self.inbox.recv().await.expect("the sender lives as long as the test")
        }

        fn execute(&mut self, _: Instant, last: String) -> ControlFlow<String> {
            ControlFlow::Break(last)
        }
    }

    fn run(future: impl Future<Output = ()>) {
        // Current thread and simulated time: what the simulator has.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, future);
    }

    #[test]
    fn given_an_event_of_the_timers_instant_when_both_are_due_then_the_event_comes_first() {
        run(async {
            let (tx, inbox) = tokio::sync::mpsc::channel(4);
            let clock = Clock::start();
            let at = Instant::from_millis(10);
            tokio::task::spawn_local(async move {
                clock.reached(Some(at)).await;
                tx.send("completion").await.unwrap();
                std::future::pending::<()>().await;
            });
            let mut machine = Notes { deadline: Some(at), end: 2, seen: vec![] };
            drive(&mut machine, &mut Queue { ready: VecDeque::new(), inbox }, clock).await;
            assert_eq!(machine.seen, ["completion@10", "timer@10"]);
        });
    }

    #[test]
    fn given_more_ready_events_than_one_batch_when_nothing_else_happens_then_all_are_handled() {
        run(async {
            let (_tx, inbox) = tokio::sync::mpsc::channel(1);
            let ready = std::iter::repeat_n("event", EVENTS_BEFORE_TIMERS * 3 + 1).collect();
            let mut machine = Notes { deadline: None, end: EVENTS_BEFORE_TIMERS * 3 + 1, seen: vec![] };
            let mut queue = Queue { ready, inbox };
            let played = drive(&mut machine, &mut queue, Clock::start());
            // Simulated time: it passes only when nothing else can.
            tokio::time::timeout(Duration::from_secs(1), played).await.expect("no event is left behind");
        });
    }

    #[test]
    fn given_a_flood_of_events_when_a_timer_is_due_then_it_is_not_starved() {
        run(async {
            let (_tx, inbox) = tokio::sync::mpsc::channel(1);
            let ready = std::iter::repeat_n("event", EVENTS_BEFORE_TIMERS * 4).collect();
            let mut machine = Notes { deadline: Some(Instant::ZERO), end: EVENTS_BEFORE_TIMERS * 3, seen: vec![] };
            drive(&mut machine, &mut Queue { ready, inbox }, Clock::start()).await;
            let at = machine.seen.iter().position(|s| s.starts_with("timer")).unwrap();
            assert!(at <= 2 * EVENTS_BEFORE_TIMERS, "the timer came at step {at}");
        });
    }
}
