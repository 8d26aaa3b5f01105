//! The suite itself must notice machines that break the contract.

use super::*;
use serde::Deserialize;

/// A machine that asks once a second, waits for the answer, and is done after three answers. `fault` plants one breach.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Toy {
    fault: Fault,
    state: State,
    answers: u32,
    next: u32,
    late: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
enum Fault {
    None,
    TimerKept,
    LateAnswerCounts,
    AsksTwice,
    EarlyFires,
    Forgets,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum State {
    Waiting { at: Instant },
    Asking { id: u32 },
    Done,
}

impl Machine for Toy {
    type Event = u32;
    type Command = u32;

    fn handle(&mut self, now: Instant, event: u32, out: &mut Vec<u32>) {
        match self.state {
            State::Asking { id } if id == event => {
                self.answers += 1;
                self.state = if self.answers == 3 { State::Done } else { State::Waiting { at: now + Duration::from_secs(1) } };
            }
            _ if self.fault == Fault::LateAnswerCounts => out.push(999),
            _ => self.late += 1,
        }
    }

    fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Waiting { at } => Some(at),
            State::Done if self.fault == Fault::TimerKept => Some(Instant::from_millis(u64::MAX / 2_000_000)),
            _ => None,
        }
    }

    fn expire(&mut self, now: Instant, out: &mut Vec<u32>) {
        if let State::Waiting { at } = self.state
            && (at <= now || self.fault == Fault::EarlyFires)
        {
            if self.fault != Fault::AsksTwice {
                self.next += 1;
            }
            self.state = State::Asking { id: self.next };
            out.push(self.next);
        }
    }
}

#[derive(Clone)]
struct Surroundings;

macro_rules! toy_world {
    ($name:ident, $fault:expr) => {
        #[derive(Clone)]
        struct $name(Surroundings);
        impl World for $name {
            type Machine = Toy;
            type Id = u32;
            fn fresh(_: u64) -> (Toy, Self) {
                (
                    Toy { fault: $fault, state: State::Waiting { at: Instant::ZERO + Duration::from_secs(1) }, answers: 0, next: 0, late: 0 },
                    $name(Surroundings),
                )
            }
            fn starts(command: &u32) -> Option<u32> {
                Some(*command)
            }
            fn completes(event: &u32) -> Option<u32> {
                Some(*event)
            }
            fn observe(&mut self, _: Instant, _: &u32) {}
            fn draw(&mut self, _: &mut Rng, outstanding: &BTreeSet<u32>) -> Option<u32> {
                outstanding.first().copied()
            }
            fn finished(machine: &Toy) -> bool {
                machine.state == State::Done || (machine.fault == Fault::Forgets && machine.answers == 1)
            }
            fn sizes(_: &Toy) -> Vec<(&'static str, usize, usize)> {
                Vec::new()
            }
        }
    };
}

toy_world!(Good, Fault::None);
toy_world!(KeepsTimer, Fault::TimerKept);
toy_world!(CountsLate, Fault::LateAnswerCounts);
toy_world!(AsksTwice, Fault::AsksTwice);
toy_world!(FiresEarly, Fault::EarlyFires);
toy_world!(DoneTooSoon, Fault::Forgets);

#[test]
fn a_machine_that_keeps_the_contract_passes() {
    check::<Good>(64);
}

fn breach<W: World>(part: &str) {
    let err = std::panic::catch_unwind(|| check::<W>(2_000)).expect_err("the breach must be noticed");
    let text = err.downcast_ref::<String>().cloned().unwrap_or_default();
    assert!(text.contains(part), "expected {part:?} in {text}");
}

#[test]
fn breaches_are_noticed_each_by_its_rule() {
    breach::<KeepsTimer>("finished with a timer armed");
    breach::<CountsLate>("the late completion");
    breach::<AsksTwice>("was started twice");
    // "early" or "twice", whichever the smallest history shows.
    breach::<FiresEarly>("expire called");
    breach::<DoneTooSoon>("finished with");
}
