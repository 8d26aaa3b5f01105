//! Stories of one process group.

use super::*;
use crate::agent::{AgentCommand, OsSignal};
use crate::job::ChildEnv;
use crate::machine::{Instant, Owner, RequestId};
use OsSignal::{Kill, Term};
use SignalTarget::{Group, Tree};
use std::time::Duration;

const OWNER: Owner = Owner::Job { worker: 1, generation: 1 };
const ID: RequestId = RequestId { owner: OWNER, serial: 1 };

struct Bench {
    now: Instant,
    process: Process,
    out: Vec<AgentCommand>,
}

fn spawned(pty: bool, grace: u64) -> Bench {
    let spec = ProcessSpec { job: OWNER, argv: vec!["x".into()], env: ChildEnv::default(), dir: "/".into(), pty, raw: false };
    let rules = ProcessRules { job_id: "j1".into(), worker: "w".into(), cancel_signal: Term, grace: Duration::from_secs(grace), pty };
    let mut out = Vec::new();
    let process = Process::spawn(ID, spec, rules, &mut out);
    Bench { now: Instant::ZERO, process, out }
}

fn running() -> Bench {
    let mut b = spawned(true, 10);
    assert_eq!(b.feed(ProcessEvent::Started { pid: 9 }), Some(ProcessVerdict::Started));
    b.out.clear();
    b
}

impl Bench {
    fn feed(&mut self, event: ProcessEvent) -> Option<ProcessVerdict> {
        let from = self.out.len();
        let verdict = self.process.handle(self.now, event, &mut self.out);
        self.note(from);
        verdict
    }

    fn at(&mut self, millis: u64) -> &mut Bench {
        let until = Instant::from_millis(millis);
        while let Some(due) = self.process.deadline()
            && due <= until
        {
            self.now = self.now.max(due);
            let from = self.out.len();
            self.process.expire(self.now, &mut self.out);
            self.note(from);
        }
        self.now = until;
        self
    }

    /// Transitions made are held against the list of those that exist.
    fn note(&self, from: usize) {
        for command in &self.out[from..] {
            if let AgentCommand::Transition(t) = command {
                crate::testing::transitions::made(t);
            }
        }
    }

    /// Commands since the last look, by kind.
    fn took(&mut self) -> Vec<String> {
        let name = |c: AgentCommand| match c {
            AgentCommand::Signal { signal, target, .. } => Some(format!("{} {target:?}", signal.name())),
            AgentCommand::QueryGroup { .. } => Some("query".into()),
            AgentCommand::CloseOutput { .. } => Some("close".into()),
            AgentCommand::Spawn { .. } => Some("spawn".into()),
            _ => None,
        };
        self.out.drain(..).filter_map(name).collect()
    }

    fn interrupt(&mut self) {
        let from = self.out.len();
        self.process.interrupt(self.now, &mut self.out);
        self.note(from);
    }
}

#[test]
fn a_spawn_becomes_exactly_one_of_failed_and_exited() {
    let mut b = spawned(true, 10);
    assert_eq!(b.took(), ["spawn"]);
    assert_eq!(b.feed(ProcessEvent::SpawnFailed("no".into())), Some(ProcessVerdict::SpawnFailed("no".into())));
    for late in [ProcessEvent::Started { pid: 1 }, ProcessEvent::Exited(ExitStatus::Code(0)), ProcessEvent::OutputEnded { cut: false }] {
        assert_eq!(b.feed(late), None);
    }
    assert!(b.took().is_empty());
    assert_eq!(b.process.deadline(), None);
}

#[test]
fn interrupts_before_the_start_and_after_the_exit_do_nothing() {
    let mut b = spawned(true, 10);
    b.took();
    b.interrupt();
    assert!(b.took().is_empty());
    b.feed(ProcessEvent::Started { pid: 9 });
    assert_eq!(b.feed(ProcessEvent::Exited(ExitStatus::Code(0))), Some(ProcessVerdict::Exited(ExitStatus::Code(0))));
    b.interrupt();
    assert!(b.took().is_empty());
}

#[test]
fn i33_exactly_one_interrupt_and_one_grace_timer() {
    let mut b = running();
    b.interrupt();
    assert_eq!(b.took(), ["SIGTERM Group"]);
    b.at(4000).interrupt();
    assert!(b.took().is_empty());
    assert_eq!(b.process.deadline(), Some(Instant::from_millis(10_000)));
}

#[test]
fn w11_an_interrupt_that_cannot_be_sent_leaves_the_ladder_standing() {
    let mut b = running();
    b.interrupt();
    b.took();
    assert_eq!(b.feed(ProcessEvent::SignalFailed("operation not permitted".into())), None);
    assert!(b.took().is_empty(), "no SIGKILL at once");
    b.at(9999);
    assert!(b.took().is_empty());
    b.at(12_000);
    assert_eq!(b.took(), ["SIGKILL Tree"; 3], "at the end of the grace, then once per second");
    b.feed(ProcessEvent::SignalFailed("again".into()));
    b.at(13_000);
    assert_eq!(b.took(), ["SIGKILL Tree"]);
    assert!(matches!(b.feed(ProcessEvent::Exited(ExitStatus::Signal(9))), Some(ProcessVerdict::Exited(_))));
}

#[test]
fn s5_8_output_ends_the_process_after_the_exit_in_either_order() {
    let mut b = running();
    assert_eq!(b.feed(ProcessEvent::OutputEnded { cut: false }), None);
    b.feed(ProcessEvent::Exited(ExitStatus::Code(0)));
    assert_eq!(b.process.ended(&mut b.out), Some(ProcessVerdict::Ended));

    let mut b = running();
    b.feed(ProcessEvent::Exited(ExitStatus::Code(0)));
    assert_eq!(b.process.ended(&mut b.out), None);
    assert_eq!(b.feed(ProcessEvent::OutputEnded { cut: false }), Some(ProcessVerdict::Ended));
    assert_eq!(b.process.deadline(), None);
}

#[test]
fn s5_8_drain_bounds() {
    for (pty, grace, bound) in [(true, 10, 10_000), (true, 2, 10_000), (false, 10, 11_000), (false, 2, 3000)] {
        let mut b = spawned(pty, grace);
        b.feed(ProcessEvent::Started { pid: 9 });
        b.at(500).feed(ProcessEvent::Exited(ExitStatus::Code(0)));
        b.took();
        b.at(500 + bound - 1);
        assert!(b.took().is_empty());
        b.at(500 + bound);
        assert_eq!(b.took(), ["close"]);
        b.at(500 + 10 * bound);
        assert!(b.took().is_empty(), "closed once");
        assert_eq!(b.feed(ProcessEvent::OutputEnded { cut: true }), Some(ProcessVerdict::Ended));
    }
}

#[test]
fn s5_8_a_hurried_drain_lasts_at_most_a_second_and_is_never_prolonged() {
    let mut b = running();
    b.feed(ProcessEvent::Exited(ExitStatus::Code(0)));
    b.at(9500);
    b.process.hurry(b.now);
    assert_eq!(b.process.deadline(), Some(Instant::from_millis(10_000)));
    let mut b = running();
    b.feed(ProcessEvent::Exited(ExitStatus::Code(0)));
    b.at(2000);
    b.process.hurry(b.now);
    assert_eq!(b.process.deadline(), Some(Instant::from_millis(3000)));
    b.process.limit(b.now, Instant::ZERO);
    assert_eq!(b.process.deadline(), Some(Instant::from_millis(2100)), "at least 100 ms");
}

#[test]
fn s5_10_the_group_is_asked_after_an_interrupted_leader_and_swept_at_the_end_of_the_grace() {
    let mut b = running();
    b.interrupt();
    b.at(1000).feed(ProcessEvent::Exited(ExitStatus::Signal(15)));
    assert_eq!(b.took(), ["SIGTERM Group", "query"]);
    assert_eq!(b.feed(ProcessEvent::OutputEnded { cut: false }), None, "output alone does not end it");
    b.feed(ProcessEvent::Group { alive: true });
    b.at(1250);
    assert_eq!(b.took(), ["query"], "asked again later");
    b.feed(ProcessEvent::Group { alive: true });
    b.at(9990);
    b.took();
    b.feed(ProcessEvent::Group { alive: true });
    b.at(10_000);
    assert_eq!(b.took(), ["query"], "i37: never signalled without knowing");
    b.feed(ProcessEvent::Group { alive: true });
    assert_eq!(b.took(), ["SIGKILL Group"]);
    b.at(10_250);
    assert_eq!(b.took(), ["query"]);
    assert_eq!(b.feed(ProcessEvent::Group { alive: false }), Some(ProcessVerdict::Ended));
}

#[test]
fn r42_the_sweep_repeats_until_nothing_is_found() {
    let mut b = running();
    b.interrupt();
    b.at(10_000).feed(ProcessEvent::Exited(ExitStatus::Signal(9)));
    b.feed(ProcessEvent::OutputEnded { cut: false });
    b.took();
    let mut kills = 0;
    for step in 0..40 {
        b.feed(ProcessEvent::Group { alive: true });
        b.at(10_000 + 250 * (step + 1));
        kills += b.took().iter().filter(|c| *c == "SIGKILL Group").count();
    }
    assert!((9..=11).contains(&kills), "about once per second in 10 s: {kills}");
    assert_eq!(b.feed(ProcessEvent::Group { alive: false }), Some(ProcessVerdict::Ended));
}

#[test]
fn a_killed_leaders_group_is_swept_at_once() {
    let mut b = running();
    b.interrupt();
    b.at(11_500);
    assert_eq!(b.took(), ["SIGTERM Group", "SIGKILL Tree", "SIGKILL Tree"]);
    b.feed(ProcessEvent::Exited(ExitStatus::Signal(9)));
    b.feed(ProcessEvent::Group { alive: true });
    assert_eq!(b.took(), ["query", "SIGKILL Group"]);
}

#[test]
fn i36_an_uninterrupted_leaders_group_is_neither_asked_nor_signalled() {
    let mut b = running();
    b.feed(ProcessEvent::Exited(ExitStatus::Code(0)));
    b.feed(ProcessEvent::OutputEnded { cut: false });
    assert!(b.took().is_empty());
}

#[test]
fn a_forced_stop_ends_the_wait_for_what_cannot_be_killed_but_not_before_it_was_killed() {
    let mut b = running();
    b.interrupt();
    b.process.limit(b.now, Instant::from_millis(9000));
    b.at(8000).feed(ProcessEvent::Exited(ExitStatus::Signal(15)));
    b.feed(ProcessEvent::OutputEnded { cut: false });
    b.feed(ProcessEvent::Group { alive: true });
    b.at(9990);
    b.took();
    assert_eq!(b.feed(ProcessEvent::Group { alive: true }), None, "i34: the grace is not cut short");
    b.at(10_000);
    assert_eq!(b.took(), ["query"]);
    assert_eq!(b.feed(ProcessEvent::Group { alive: true }), Some(ProcessVerdict::Ended));
    assert_eq!(b.took(), ["SIGKILL Group"]);
}

#[test]
fn signals_are_named_and_numbers_without_a_name_are_decimal() {
    assert_eq!([1, 6, 9, 11, 15, 100, 0].map(signal_name), ["SIGHUP", "SIGABRT", "SIGKILL", "SIGSEGV", "SIGTERM", "100", "0"]);
    assert_eq!((interrupt_signal(Kill), interrupt_signal(OsSignal::Int)), (Term, OsSignal::Int));
    assert_ne!(Group, Tree);
}
