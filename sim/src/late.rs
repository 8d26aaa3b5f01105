//! A driver that is slow to give exchanges up.
//!
//! The contract leaves open how long after its abort an exchange completes, and as what: "`Aborted`, or what it had become by then".
//! The driver of this tree completes it in the same instant. Under this one the machines live with a driver that takes its time.

use ibex_core::agent::{AgentCommand, AgentEvent};
use ibex_core::log::{LogCommand, LogEvent};
use ibex_core::machine::{Instant, Machine, RequestId, earliest};
use serde::Serialize;
use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

/// How long the completion of an exchange that was given up is held back.
pub const LATE: Duration = Duration::from_millis(300);

/// A command that may give an exchange up.
pub trait GivesUp {
    /// The exchange it gives up.
    fn gives_up(&self) -> Option<RequestId>;
}

/// An event that may complete an exchange.
pub trait Completes {
    /// The exchange it completes.
    fn completes(&self) -> Option<RequestId>;
}

impl GivesUp for AgentCommand {
    fn gives_up(&self) -> Option<RequestId> {
        match self {
            AgentCommand::AbortCall { id } | AgentCommand::CloseStream { id } => Some(*id),
            _ => None,
        }
    }
}

impl Completes for AgentEvent {
    fn completes(&self) -> Option<RequestId> {
        match self {
            AgentEvent::Completed { id, .. } | AgentEvent::StreamEnded { id, .. } => Some(*id),
            _ => None,
        }
    }
}

impl GivesUp for LogCommand {
    fn gives_up(&self) -> Option<RequestId> {
        if let LogCommand::Abort { id } = self { Some(*id) } else { None }
    }
}

impl Completes for LogEvent {
    fn completes(&self) -> Option<RequestId> {
        if let LogEvent::Settled { id, .. } = self { Some(*id) } else { None }
    }
}

/// A machine between which and its driver completions of exchanges that were given up are held back.
#[derive(Debug, Serialize)]
pub struct Late<M: Machine> {
    machine: M,
    #[serde(skip)]
    by: Duration,
    #[serde(skip)]
    given_up: BTreeSet<RequestId>,
    /// In order of their time, as all are held equally long.
    #[serde(skip)]
    held: VecDeque<(Instant, M::Event)>,
}

impl<M: Machine> Late<M> {
    /// Holds completions back `by` so much; not at all if it is zero.
    pub fn new(machine: M, by: Duration) -> Late<M> {
        Late { machine, by, given_up: BTreeSet::new(), held: VecDeque::new() }
    }
}

impl<M: Machine<Event: Completes, Command: GivesUp>> Machine for Late<M> {
    type Event = M::Event;
    type Command = M::Command;

    fn handle(&mut self, now: Instant, event: M::Event, out: &mut Vec<M::Command>) {
        if !self.by.is_zero() && event.completes().is_some_and(|id| self.given_up.remove(&id)) {
            return self.held.push_back((now + self.by, event));
        }
        let from = out.len();
        self.machine.handle(now, event, out);
        self.given_up.extend(out[from..].iter().filter_map(GivesUp::gives_up));
    }

    fn deadline(&self) -> Option<Instant> {
        earliest(self.machine.deadline(), self.held.front().map(|(at, _)| *at))
    }

    fn expire(&mut self, now: Instant, out: &mut Vec<M::Command>) {
        let from = out.len();
        // Completions before timers, as everywhere.
        match self.held.front() {
            Some((at, _)) if *at <= now => {
                if let Some((_, event)) = self.held.pop_front() {
                    self.machine.handle(now, event, out);
                }
            }
            _ => self.machine.expire(now, out),
        }
        self.given_up.extend(out[from..].iter().filter_map(GivesUp::gives_up));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ibex_core::machine::Owner;

    const ID: RequestId = RequestId { owner: Owner::Agent, serial: 1 };

    struct Word(Option<RequestId>);

    impl Completes for Word {
        fn completes(&self) -> Option<RequestId> {
            self.0
        }
    }

    impl GivesUp for Word {
        fn gives_up(&self) -> Option<RequestId> {
            self.0
        }
    }

    /// Gives its exchange up at every word that completes nothing; notes what arrives when.
    struct Notes(Vec<(Instant, bool)>);

    impl Machine for Notes {
        type Event = Word;
        type Command = Word;
        fn handle(&mut self, now: Instant, event: Word, out: &mut Vec<Word>) {
            self.0.push((now, event.0.is_some()));
            out.push(Word(event.0.xor(Some(ID))));
        }
        fn deadline(&self) -> Option<Instant> {
            None
        }
        fn expire(&mut self, _: Instant, _: &mut Vec<Word>) {}
    }

    fn told(by: Duration, words: &[Option<RequestId>]) -> Vec<(Instant, bool)> {
        let mut late = Late::new(Notes(Vec::new()), by);
        let mut out = Vec::new();
        for (word, ms) in words.iter().zip(10..) {
            late.handle(Instant::from_millis(ms), Word(*word), &mut out);
        }
        while let Some(at) = late.deadline() {
            late.expire(at, &mut out);
        }
        late.machine.0
    }

    #[test]
    fn only_the_completion_of_what_was_given_up_comes_late() {
        let at = Instant::from_millis;
        assert_eq!(told(LATE, &[None, Some(ID)]), [(at(10), false), (at(311), true)]);
        assert_eq!(told(LATE, &[Some(ID)]), [(at(10), true)], "nobody has given it up");
        assert_eq!(told(Duration::ZERO, &[None, Some(ID)]), [(at(10), false), (at(11), true)]);
    }
}
