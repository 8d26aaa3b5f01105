//! The shutdown controller: the ladder of signals, and the force timer (specification: start-and-worker §4).

use super::desk::Cx;
use super::{Level, OsSignal};
use crate::machine::{Instant, Owner};
use crate::retry::duration_text;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Counts SIGTERM and SIGINT together. Levels only rise; the force timer is set once and never moved.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Shutdown {
    count: u8,
    force_at: Option<Instant>,
}

/// What the ladder is applied to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ground {
    /// Workers run.
    Pool,
    /// The shutdown hook runs.
    Hook,
}

/// What a signal leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rung {
    /// Nothing more than counting.
    Nothing,
    /// Pool graceful stop.
    Graceful,
    /// Pool forced stop.
    Forced,
    /// End the process at once.
    Exit,
}

impl Shutdown {
    /// With kubernetes-exec the ladder starts one rung higher.
    pub(crate) fn new(kubernetes_exec: bool) -> Shutdown {
        Shutdown { count: u8::from(kubernetes_exec), force_at: None }
    }

    fn name(&self) -> &'static str {
        match (self.count, self.force_at) {
            (_, Some(_)) => "Forced",
            (1, None) => "Graceful",
            (_, None) => "Running",
        }
    }

    /// A signal after S16.
    pub(crate) fn signal(&mut self, now: Instant, signal: OsSignal, ground: Ground, cx: &mut Cx<'_>) -> Rung {
        let from = self.name();
        let rung = match signal {
            OsSignal::Term | OsSignal::Int => {
                self.count = self.count.saturating_add(1);
                self.counted(now, ground, cx)
            }
            OsSignal::Quit => self.force(now, cx),
            OsSignal::Hup => {
                if cx.config.job.debug_lines {
                    cx.log(Level::Debug, "Ignoring SIGHUP");
                }
                Rung::Nothing
            }
            OsSignal::Kill | OsSignal::Usr1 | OsSignal::Usr2 => return Rung::Nothing,
        };
        let to = if rung == Rung::Exit { "Dead" } else { self.name() };
        cx.step(Owner::Agent, "shutdown", from, signal.name(), to);
        // While the shutdown hook runs there is no pool to stop: only the force timer counts.
        if ground == Ground::Hook && rung != Rung::Exit { Rung::Nothing } else { rung }
    }

    fn counted(&mut self, now: Instant, ground: Ground, cx: &mut Cx<'_>) -> Rung {
        match (self.count, ground) {
            (0 | 1, Ground::Hook) => Rung::Nothing,
            (0 | 1, Ground::Pool) => {
                cx.log(Level::Info, "Received CTRL-C, send again to forcefully kill the agent(s)");
                Rung::Graceful
            }
            (2, Ground::Hook) => self.force(now, cx),
            (2, Ground::Pool) => {
                let text = format!("Forcefully stopping running jobs and stopping the agent(s) in {}", duration_text(grace(cx)));
                cx.log(Level::Info, text);
                if !cx.config.kubernetes_exec {
                    cx.log(
                        Level::Info,
                        "Press Ctrl-C one more time to exit immediately without disconnecting - note that agents will be considered lost!",
                    );
                }
                self.force(now, cx)
            }
            (3.., _) => {
                cx.log(Level::Info, "Exiting immediately with status 1");
                Rung::Exit
            }
        }
    }

    fn force(&mut self, now: Instant, cx: &Cx<'_>) -> Rung {
        self.force_at = self.force_at.or(Some(now + grace(cx) + Duration::from_secs(1)));
        Rung::Forced
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.force_at
    }

    /// Whether the force timer ends the process now.
    pub(crate) fn expire(&self, now: Instant, cx: &mut Cx<'_>) -> bool {
        let fires = self.force_at.is_some_and(|at| at <= now);
        if fires {
            cx.log(Level::Info, "Timed out waiting for agents to exit; exiting immediately with status 1");
            cx.step(Owner::Agent, "shutdown", "Forced", "force timer", "Dead");
        }
        fires
    }
}

/// G.
fn grace(cx: &Cx<'_>) -> Duration {
    cx.config.cancel_signal_timeout + cx.config.cancel_cleanup_timeout
}
