//! The generic contract suite: every machine is put through it by a few lines (rules of [`crate::machine`]).
//!
//! A machine brings a [`World`]: something that watches its commands and can say which event may plausibly come next.
//! [`check`] then plays random well-formed histories (proptest: a failing one is shrunk) and asserts, at every step:
//!
//! * the same events give the same commands, to the byte; a clone, and a copy that was stored and loaded, go on the same way;
//! * `expire` before the deadline, or twice, does nothing; after `expire` no timer is due;
//! * a completion that comes twice, or after its request was completed, gives no command and moves no timer;
//! * every request is started once; a finished machine has no request outstanding and no timer armed;
//! * every queue stays under its named limit.

use crate::machine::{Instant, Machine};
use crate::rng::Rng;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::time::Duration;

/// The surroundings of a machine under test.
pub trait World: Clone {
    /// The machine.
    type Machine: Machine<Event: Clone + Debug, Command: Debug> + Clone + Debug + PartialEq + Serialize + DeserializeOwned;
    /// Names a request.
    type Id: Ord + Clone + Debug;

    /// A machine and its surroundings, made from a seed. Secrets must equal [`crate::secret::MASK`], and values of a job env must
    /// have the form `«3»`, so that what is stored is what was there.
    fn fresh(seed: u64) -> (Self::Machine, Self);

    /// The request that a command starts, if it starts one.
    fn starts(command: &<Self::Machine as Machine>::Command) -> Option<Self::Id>;

    /// The request that an event completes, if it completes one.
    fn completes(event: &<Self::Machine as Machine>::Event) -> Option<Self::Id>;

    /// Sees a command executed.
    fn observe(&mut self, now: Instant, command: &<Self::Machine as Machine>::Command);

    /// Draws an event that may come now, or `None` when nothing but time can pass. A completion drawn must be of `outstanding`.
    fn draw(&mut self, rng: &mut Rng, outstanding: &BTreeSet<Self::Id>) -> Option<<Self::Machine as Machine>::Event>;

    /// Whether the machine is done.
    fn finished(machine: &Self::Machine) -> bool;

    /// Its queues: name, length, limit.
    fn sizes(machine: &Self::Machine) -> Vec<(&'static str, usize, usize)>;

    /// Whether a duplicate of this event, delivered later, must have no effect (true for completions).
    fn once(event: &<Self::Machine as Machine>::Event) -> bool {
        Self::completes(event).is_some()
    }
}

/// One move of a history.
#[derive(Clone, Copy, Debug)]
enum Move {
    /// An event, drawn from the world.
    Event,
    /// Time passes to the deadline.
    Deadline,
    /// Time passes by some milliseconds, but not over the deadline.
    Wait(u32),
    /// `expire` before anything is due.
    Early,
    /// A completion that was already delivered comes again.
    Again(u8),
    /// Go on with a clone.
    Clone,
    /// Go on with a stored and loaded copy.
    Store,
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        8 => Just(Move::Event),
        4 => Just(Move::Deadline),
        2 => (0u32..20_000).prop_map(Move::Wait),
        1 => Just(Move::Early),
        1 => any::<u8>().prop_map(Move::Again),
        1 => Just(Move::Clone),
        1 => Just(Move::Store),
    ];
    proptest::collection::vec(one, 1..160)
}

/// Completions remembered to be delivered again.
const REMEMBERED: usize = 32;
/// Rounds of `expire` at one instant after which a machine counts as spinning.
const ROUNDS: usize = 1000;

struct Play<W: World> {
    machine: W::Machine,
    world: W,
    rng: Rng,
    now: Instant,
    outstanding: BTreeSet<W::Id>,
    ever: BTreeSet<W::Id>,
    done: Vec<<W::Machine as Machine>::Event>,
    log: Vec<String>,
}

impl<W: World> Play<W> {
    fn new(seed: u64) -> Play<W> {
        let (machine, world) = W::fresh(seed);
        Play {
            machine,
            world,
            rng: Rng::from_seed(seed ^ 0x5eed),
            now: Instant::ZERO,
            outstanding: BTreeSet::new(),
            ever: BTreeSet::new(),
            done: Vec::new(),
            log: Vec::new(),
        }
    }

    fn settle(&mut self, out: Vec<<W::Machine as Machine>::Command>) {
        for command in &out {
            if let Some(id) = W::starts(command) {
                assert!(self.ever.insert(id.clone()), "request {id:?} was started twice");
                self.outstanding.insert(id);
            }
            self.world.observe(self.now, command);
            self.log.push(format!("{:?} {command:?}", self.now));
        }
        for (name, len, limit) in W::sizes(&self.machine) {
            assert!(len <= limit, "queue {name}: {len} entries, limit {limit}");
        }
        if W::finished(&self.machine) {
            assert!(self.outstanding.is_empty(), "finished with outstanding requests {:?}\n{}", self.outstanding, self.tail());
            assert_eq!(self.machine.deadline(), None, "finished with a timer armed\n{}", self.tail());
        }
    }

    fn tail(&self) -> String {
        self.log[self.log.len().saturating_sub(40)..].join("\n")
    }

    fn event(&mut self) {
        let Some(event) = self.world.draw(&mut self.rng, &self.outstanding) else { return };
        if let Some(id) = W::completes(&event) {
            assert!(self.outstanding.remove(&id), "the world completed {id:?}, which is not outstanding");
            if self.done.len() < REMEMBERED {
                self.done.push(event.clone());
            }
        }
        self.log.push(format!("{:?} <- {event:?}", self.now));
        let mut out = Vec::new();
        self.machine.handle(self.now, event, &mut out);
        self.settle(out);
    }

    /// Fires what is due at `now`, and checks that a second call does nothing.
    fn expire(&mut self) {
        for round in 0.. {
            assert!(round < ROUNDS, "timers at {:?} never end\n{}", self.now, self.tail());
            if self.machine.deadline().is_none_or(|d| d > self.now) {
                break;
            }
            let mut out = Vec::new();
            self.machine.expire(self.now, &mut out);
            self.settle(out);
        }
        self.idle("twice");
    }

    /// `expire` with nothing due changes nothing.
    fn idle(&mut self, when: &str) {
        if self.machine.deadline().is_some_and(|d| d <= self.now) {
            return;
        }
        let before = self.machine.clone();
        let mut out = Vec::new();
        self.machine.expire(self.now, &mut out);
        assert!(out.is_empty(), "expire called {when} gave {out:?}\n{}", self.tail());
        assert!(before == self.machine, "expire called {when} changed the machine\n{}", self.tail());
    }

    fn again(&mut self, which: u8) {
        if self.done.is_empty() {
            return;
        }
        let event = self.done[usize::from(which) % self.done.len()].clone();
        if !W::once(&event) {
            return;
        }
        let deadline = self.machine.deadline();
        let mut out = Vec::new();
        self.machine.handle(self.now, event.clone(), &mut out);
        assert!(out.is_empty(), "the late completion {event:?} gave {out:?}\n{}", self.tail());
        assert_eq!(deadline, self.machine.deadline(), "the late completion {event:?} moved a timer\n{}", self.tail());
    }

    fn play(&mut self, moves: &[Move], copies: bool) {
        for step in moves {
            match *step {
                Move::Event => self.event(),
                Move::Deadline => {
                    if let Some(d) = self.machine.deadline() {
                        self.now = self.now.max(d);
                        self.expire();
                    }
                }
                Move::Wait(ms) => {
                    let to = self.now + Duration::from_millis(u64::from(ms));
                    self.now = self.machine.deadline().map_or(to, |d| to.min(d.max(self.now)));
                    self.expire();
                }
                Move::Early => self.idle("early"),
                Move::Again(which) => self.again(which),
                Move::Clone if copies => self.machine = self.machine.clone(),
                Move::Store if copies => {
                    let text = serde_json::to_string(&self.machine).expect("a machine can be stored");
                    let loaded: W::Machine = serde_json::from_str(&text).expect("a stored machine can be loaded");
                    assert!(loaded == self.machine, "a stored machine is not what was stored\n  was {:?}\n  is  {loaded:?}", self.machine);
                    self.machine = loaded;
                }
                Move::Clone | Move::Store => {}
            }
        }
    }
}

/// Puts a machine through the contract: `cases` random histories.
///
/// # Panics
/// When the machine breaks a rule; the message is of the smallest history found.
pub fn check<W: World>(cases: u32) {
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, max_shrink_iters: 2000, ..Config::default() });
    let outcome = runner.run(&(any::<u64>(), moves()), |(seed, moves)| {
        let mut one = Play::<W>::new(seed);
        one.play(&moves, true);
        // The same history without copies in between: determinism, and that copies go on the same way.
        let mut two = Play::<W>::new(seed);
        two.play(&moves, false);
        prop_assert_eq!(&one.log, &two.log, "the same events gave other commands");
        Ok(())
    });
    if let Err(e) = outcome {
        panic!("{e}");
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod transitions;
