//! Registration of all workers, in parallel (specification: start-and-worker §2).

use super::desk::Cx;
use super::timers::Timers;
use super::{AgentCommand, Level, Priority};
use crate::api::{ApiCall, Operation, Outcome, RegisterRequest, Registered, Reply, Session};
use crate::limits;
use crate::machine::{Instant, Owner, RequestId, RequestIds};
use crate::retry::{self, Attempts, Next};
use crate::rng::Rng;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One request per worker; order is the spawn index, whatever the order of the answers.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Registrations {
    entries: Vec<Entry>,
    /// Index of the worker that waits for the request of this serial.
    in_flight: BTreeMap<u32, usize>,
    timers: Timers,
    missing: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
enum Entry {
    /// In flight, or waiting for the next attempt.
    Trying(Attempts),
    /// Answered.
    Done(Box<Registered>),
}

/// What became of the registrations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RegistrationVerdict {
    /// Not all are answered.
    Waiting,
    /// All are registered, in spawn order.
    Registered(Vec<Registered>),
    /// One failed for good; the others are aborted.
    Failed(String),
}

impl Registrations {
    /// Sends one request per worker.
    pub(crate) fn begin(now: Instant, session: &Session, ids: &mut RequestIds, rng: &mut Rng, cx: &mut Cx<'_>) -> Registrations {
        let count = cx.config.spawn.max(1) as usize;
        let mut this = Registrations { entries: Vec::with_capacity(count), in_flight: BTreeMap::new(), timers: Timers::new(count), missing: count };
        for index in 0..count {
            let text = match count {
                1 => "Registering agent with Buildkite...".to_owned(),
                n => format!("Registering agent {} of {n} with Buildkite...", index + 1),
            };
            cx.log(Level::Info, text);
            this.entries.push(Entry::Trying(Attempts::first(&retry::REGISTER, now, rng)));
            this.send(index, session, ids, cx);
        }
        cx.step(Owner::Agent, "registration", "Created", "begin", "Waiting");
        this
    }

    fn send(&mut self, index: usize, session: &Session, ids: &mut RequestIds, cx: &mut Cx<'_>) {
        let id = ids.issue();
        self.in_flight.insert(id.serial, index);
        let operation = Operation::Register(Box::new(request(cx, index + 1)));
        let call = ApiCall { session: session.clone(), operation, limit: limits::EXCHANGE, timeout_ms: None };
        cx.out.push(AgentCommand::Call { id, call: Box::new(call) });
    }

    /// An answer; `None` if nobody waits for it.
    pub(crate) fn completed(&mut self, now: Instant, id: RequestId, outcome: Outcome, cx: &mut Cx<'_>) -> Option<RegistrationVerdict> {
        let index = self.in_flight.remove(&id.serial)?;
        let Entry::Trying(attempts) = &mut self.entries[index] else { return None };
        let retryable = outcome.retryable();
        match outcome {
            Outcome::Ok(Reply::Registered(registered)) => {
                let tags = registered.meta_data.join(", ");
                cx.log(Level::Info, format!("Successfully registered agent \"{}\" with tags [{tags}]", registered.name));
                self.entries[index] = Entry::Done(registered);
                self.missing -= 1;
                let done = self.missing == 0;
                cx.step(Owner::Agent, "registration", "Waiting", "registered", if done { "Done" } else { "Waiting" });
                if done {
                    return Some(RegistrationVerdict::Registered(std::mem::take(&mut self.entries).into_iter().filter_map(done_of).collect()));
                }
                Some(RegistrationVerdict::Waiting)
            }
            failure => {
                let error = failure.text();
                if retryable {
                    let next = attempts.failed(&retry::REGISTER, now, None);
                    cx.log(Level::Warn, format!("{error} {}", attempts.text(&retry::REGISTER, next)));
                    if let Next::At(at) = next {
                        self.timers.set(index, Some(at));
                        cx.step(Owner::Agent, "registration", "Waiting", "failure", "Waiting");
                        return Some(RegistrationVerdict::Waiting);
                    }
                }
                self.abort(cx);
                cx.step(Owner::Agent, "registration", "Waiting", "failed", "Failed");
                Some(RegistrationVerdict::Failed(error.to_owned()))
            }
        }
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.timers.least()
    }

    /// Attempts whose wait is over.
    pub(crate) fn expire(&mut self, now: Instant, session: &Session, ids: &mut RequestIds, rng: &mut Rng, cx: &mut Cx<'_>) {
        while let Some(index) = self.timers.due(now) {
            self.timers.set(index, None);
            if let Entry::Trying(attempts) = &mut self.entries[index] {
                attempts.again(&retry::REGISTER, rng);
                self.send(index, session, ids, cx);
                cx.step(Owner::Agent, "registration", "Waiting", "retry due", "Waiting");
            }
        }
    }

    /// Gives up what is in flight (R19, R22: those already registered stay so, as no call takes it back).
    pub(crate) fn abort(&mut self, cx: &mut Cx<'_>) {
        for serial in std::mem::take(&mut self.in_flight).into_keys() {
            cx.out.push(AgentCommand::AbortCall { id: RequestId { owner: Owner::Agent, serial } });
        }
    }
}

fn done_of(entry: Entry) -> Option<Registered> {
    match entry {
        Entry::Done(registered) => Some(*registered),
        Entry::Trying(_) => None,
    }
}

/// The body of worker `spawn` (start-flags §4).
fn request(cx: &Cx<'_>, spawn: usize) -> RegisterRequest {
    let config = cx.config;
    RegisterRequest {
        name: config.name.replace("%spawn", &spawn.to_string()),
        ignore_in_dispatches: config.acquire_job.is_some(),
        priority: match &config.priority {
            Priority::Static(value) => value.clone(),
            Priority::Ascending => spawn.to_string(),
            Priority::Descending => format!("-{spawn}"),
        },
        ..config.register.clone()
    }
}
