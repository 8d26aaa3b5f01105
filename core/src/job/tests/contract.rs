//! The runner, and the process inside it, keep the contract of machines.

use super::*;
use crate::machine::Machine;
use crate::secret::MASK;
use crate::testing::{World, check};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// The runner as a machine of its own: its context comes from the seed, and its verdict is its last state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Alone {
    seed: u64,
    life: Life,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Life {
    Accepted,
    Runs(Box<JobRunner>),
    Over(JobEnd),
}

#[derive(Clone, Debug)]
enum Happening {
    Begin,
    Agent(AgentEvent),
    Cancel(CancelKind),
}

fn config_of(seed: u64) -> AgentConfig {
    let mut config = config();
    config.job.verification_keys = seed & 1 == 1;
    config.job.pty = seed & 2 == 2;
    if seed & 4 == 4 {
        config.job.hooks_path = "/hooks".into();
    }
    if seed & 8 == 8 {
        config.cancel_signal_timeout = Duration::ZERO;
    }
    if seed & 0x70 == 0x70 {
        config.job.bootstrap_script = String::new();
    }
    config
}

fn start_of(seed: u64) -> JobStart {
    let mut start = Bench::start(job(&[]));
    start.job.token = Secret::new(MASK);
    start.session.credential = Secret::new(MASK);
    start.job.step.signature = (seed & 1 == 1).then(|| "sig".into());
    start.stopped = seed & 0x380 == 0x380;
    start
}

impl Alone {
    fn step(&mut self, f: impl FnOnce(&mut JobRunner, &JobContext<'_>) -> Option<JobEnd>) {
        let (config, clock) = (config_of(self.seed), WallClock { base: WallTime::from_nanos(BASE), utc_offset_seconds: 0 });
        if let Life::Runs(runner) = &mut self.life
            && let Some(end) = f(runner, &JobContext { config: &config, clock: &clock })
        {
            assert_eq!(runner.deadline(), None, "over, with a timer armed");
            self.life = Life::Over(end);
        }
    }
}

impl Machine for Alone {
    type Event = Happening;
    type Command = AgentCommand;

    fn handle(&mut self, now: Instant, event: Happening, out: &mut Vec<AgentCommand>) {
        match event {
            Happening::Begin => {
                let (config, clock) = (config_of(self.seed), WallClock::default());
                let cx = JobContext { config: &config, clock: &clock };
                self.life = Life::Runs(Box::new(JobRunner::begin(now, start_of(self.seed), Rng::from_seed(self.seed), &cx, out)));
            }
            Happening::Agent(event) => self.step(|runner, cx| runner.handle(now, event, cx, out)),
            Happening::Cancel(kind) => self.step(|runner, _| runner.cancel(now, kind, out)),
        }
    }

    fn deadline(&self) -> Option<Instant> {
        if let Life::Runs(runner) = &self.life { runner.deadline() } else { None }
    }

    fn expire(&mut self, now: Instant, out: &mut Vec<AgentCommand>) {
        self.step(|runner, cx| runner.expire(now, cx, out));
    }
}

/// What is under way, by the command that started it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Call(RequestId),
    Write(RequestId),
    Remove(RequestId),
    Verify(RequestId),
    Hook(RequestId),
    Spawn(RequestId),
    Log,
}

/// What the world knows beyond what is outstanding.
#[derive(Clone, Default)]
struct Surroundings {
    begun: bool,
    started: bool,
    exited: bool,
    /// The group was asked for, also after the output's end.
    asked: Option<RequestId>,
    flushing: bool,
    aborted: BTreeSet<RequestId>,
    states: BTreeSet<RequestId>,
    finishes: usize,
    starts_ok: bool,
}

impl World for Surroundings {
    type Machine = Alone;
    type Id = Key;

    fn fresh(seed: u64) -> (Alone, Surroundings) {
        (Alone { seed, life: Life::Accepted }, Surroundings::default())
    }

    fn starts(command: &AgentCommand) -> Option<Key> {
        match command {
            AgentCommand::Call { id, .. } => Some(Key::Call(*id)),
            AgentCommand::WriteJobFiles { id, .. } => Some(Key::Write(*id)),
            AgentCommand::RemoveJobFiles { id, .. } => Some(Key::Remove(*id)),
            AgentCommand::VerifySignature { id, .. } => Some(Key::Verify(*id)),
            AgentCommand::RunHook { id, .. } => Some(Key::Hook(*id)),
            AgentCommand::Spawn { id, .. } => Some(Key::Spawn(*id)),
            AgentCommand::LogBegin { .. } => Some(Key::Log),
            _ => None,
        }
    }

    fn completes(event: &Happening) -> Option<Key> {
        let Happening::Agent(event) = event else { return None };
        match event {
            AgentEvent::Completed { id, .. } => Some(Key::Call(*id)),
            AgentEvent::JobFilesWritten { id, .. } => Some(Key::Write(*id)),
            AgentEvent::JobFilesRemoved { id, .. } => Some(Key::Remove(*id)),
            AgentEvent::Verified { id, .. } => Some(Key::Verify(*id)),
            AgentEvent::HookEnded { id, .. } => Some(Key::Hook(*id)),
            AgentEvent::Process { id, event: ProcessEvent::SpawnFailed(_) | ProcessEvent::OutputEnded { .. } } => Some(Key::Spawn(*id)),
            AgentEvent::LogDrained { .. } => Some(Key::Log),
            _ => None,
        }
    }

    fn observe(&mut self, _: Instant, command: &AgentCommand) {
        match command {
            AgentCommand::Transition(t) => crate::testing::transitions::may_be_made(t),
            AgentCommand::Call { id, call } => match call.operation {
                Operation::JobState { .. } => {
                    assert!(self.started && !self.exited, "I6: polls only while the process runs");
                    self.states.insert(*id);
                }
                Operation::Finish { .. } => {
                    assert!(self.starts_ok, "I5: no finish without an accepted start");
                    self.finishes += 1;
                }
                _ => assert!(!self.starts_ok, "I1: no start after an accepted one"),
            },
            AgentCommand::AbortCall { id } => {
                self.aborted.insert(*id);
            }
            AgentCommand::QueryGroup { id } => self.asked = Some(*id),
            AgentCommand::LogFlush { .. } => self.flushing = true,
            AgentCommand::Signal { .. } => assert!(self.started, "nobody is there to be signalled"),
            _ => {}
        }
    }

    fn draw(&mut self, rng: &mut Rng, outstanding: &BTreeSet<Key>) -> Option<Happening> {
        if !self.begun {
            self.begun = true;
            return Some(Happening::Begin);
        }
        if rng.below(12) == 0 {
            let kinds = [CancelKind::Cancel, CancelKind::Timeout, CancelKind::InvalidToken, CancelKind::AgentStop];
            return Some(Happening::Cancel(kinds[rng.below(4) as usize]));
        }
        if rng.below(2) == 0
            && let Some(id) = self.asked.take()
        {
            return Some(Happening::Agent(AgentEvent::Process { id, event: ProcessEvent::Group { alive: rng.below(3) > 0 } }));
        }
        let keys: Vec<&Key> = outstanding.iter().collect();
        let key = keys.get(rng.below(keys.len() as u64) as usize)?;
        let event = match key {
            Key::Call(id) => AgentEvent::Completed { id: *id, outcome: self.outcome(*id, rng) },
            Key::Write(id) => {
                let files = JobFiles { env_file: "e".into(), env_json_file: "j".into(), timeout_file: "t".into(), log_copy: None };
                AgentEvent::JobFilesWritten { id: *id, result: if rng.below(5) == 0 { Err("full".into()) } else { Ok(Box::new(files)) } }
            }
            Key::Remove(id) => AgentEvent::JobFilesRemoved { id: *id, own_status: id.serial.is_multiple_of(2) },
            Key::Verify(id) => {
                let verdicts = [SignatureVerdict::Verified, SignatureVerdict::Verified, SignatureVerdict::Invalid("x".into())];
                AgentEvent::Verified { id: *id, verdict: verdicts[rng.below(3) as usize].clone() }
            }
            Key::Hook(id) => {
                let ends = [HookEnd::Missing, HookEnd::Succeeded, HookEnd::Failed("exit status 1".into())];
                AgentEvent::HookEnded { id: *id, end: ends[rng.below(3) as usize].clone() }
            }
            Key::Spawn(id) => AgentEvent::Process { id: *id, event: self.process(rng) },
            Key::Log if self.flushing => AgentEvent::LogDrained { job: OWNER, failed: rng.below(3), uploaded_bytes: 0 },
            Key::Log => return None,
        };
        Some(Happening::Agent(event))
    }

    fn finished(machine: &Alone) -> bool {
        matches!(machine.life, Life::Over(_))
    }

    fn sizes(_: &Alone) -> Vec<(&'static str, usize, usize)> {
        Vec::new()
    }
}

impl Surroundings {
    fn outcome(&mut self, id: RequestId, rng: &mut Rng) -> Outcome {
        if self.aborted.contains(&id) && rng.below(2) == 0 {
            return Outcome::Aborted;
        }
        let ok = if self.states.contains(&id) {
            state(["running", "running", "canceled", "timed_out"][rng.below(4) as usize])
        } else {
            Outcome::Ok(Reply::Empty)
        };
        let outcome = [ok.clone(), ok, status(503), status(422), timeout(), status(401)][rng.below(6) as usize].clone();
        if self.finishes == 0 && !self.states.contains(&id) && matches!(outcome, Outcome::Ok(_)) {
            self.starts_ok = true;
        }
        outcome
    }

    fn process(&mut self, rng: &mut Rng) -> ProcessEvent {
        if !self.started {
            if rng.below(6) == 0 {
                return ProcessEvent::SpawnFailed("error starting pty: x".into());
            }
            self.started = true;
            return ProcessEvent::Started { pid: 5 };
        }
        match (self.exited, rng.below(4)) {
            (_, 0) => ProcessEvent::SignalFailed("no".into()),
            (false, _) => {
                self.exited = true;
                [ExitStatus::Code(0), ExitStatus::Code(125), ExitStatus::Signal(15)].map(ProcessEvent::Exited)[rng.below(3) as usize].clone()
            }
            (true, _) => ProcessEvent::OutputEnded { cut: false },
        }
    }
}

#[test]
fn the_runner_keeps_the_contract_of_machines() {
    check::<Surroundings>(400);
}

/// Plays one random life to its end and hands back its world and its commands.
fn live(seed: u64) -> (Surroundings, JobEnd, Vec<AgentCommand>) {
    let (mut machine, mut world) = Surroundings::fresh(seed);
    let (mut rng, mut now, mut outstanding, mut all) = (Rng::from_seed(seed), Instant::ZERO, BTreeSet::new(), Vec::new());
    for _ in 0..5000 {
        let mut out = Vec::new();
        let due = machine.deadline().filter(|_| rng.below(3) > 0 || outstanding.is_empty());
        if let Some(at) = due {
            now = now.max(at);
            machine.expire(now, &mut out);
        } else if let Some(event) = world.draw(&mut rng, &outstanding) {
            if let Some(key) = Surroundings::completes(&event) {
                outstanding.remove(&key);
            }
            machine.handle(now, event, &mut out);
        }
        for command in out {
            outstanding.extend(Surroundings::starts(&command));
            world.observe(now, &command);
            all.push(command);
        }
        if let Life::Over(end) = machine.life {
            assert!(outstanding.is_empty(), "seed {seed}: {outstanding:?}");
            return (world, end, all);
        }
    }
    panic!("seed {seed}: the job never ends: {:?} {outstanding:?}", machine.life);
}

#[test]
fn v2_every_life_ends_and_a_started_job_gets_its_finish_with_a_result_of_the_table() {
    let (mut finished, mut spawned, mut killed) = (0, 0, 0);
    for seed in 0..2000 {
        let (world, end, all) = live(seed);
        let count = |pick: fn(&AgentCommand) -> bool| all.iter().filter(|c| pick(c)).count();
        let spawns = count(|c| matches!(c, AgentCommand::Spawn { .. }));
        assert!(spawns <= 1, "I31");
        assert!(count(|c| matches!(c, AgentCommand::WriteMarker { .. })) <= 1);
        assert!(count(|c| matches!(c, AgentCommand::Signal { signal: OsSignal::Term, .. })) <= 1, "I33");
        assert_eq!(world.starts_ok, world.finishes > 0, "I2, I5: seed {seed}");
        match end {
            JobEnd::NotStarted(_) => assert!(!world.starts_ok && spawns == 0),
            JobEnd::Finished { exit_status, signal, signal_reason } => {
                finished += 1;
                assert!(signal.is_empty() || exit_status == -1, "I11");
                let reasons = ["", "agent_refused", "agent_stop", "cancel", "signature_rejected", "process_run_error"];
                assert!(reasons.contains(&signal_reason.as_str()), "I11: {signal_reason}");
                if ["agent_refused", "signature_rejected"].contains(&signal_reason.as_str()) {
                    assert_eq!(spawns, 0, "I10: seed {seed}");
                }
                assert!(signal_reason != "cancel" || exit_status != 0, "V12: a cancelled job is never a success");
            }
        }
        spawned += spawns;
        killed += usize::from(count(|c| matches!(c, AgentCommand::Signal { signal: OsSignal::Kill, .. })) > 0);
        let writes = count(|c| matches!(c, AgentCommand::WriteJobFiles { .. }));
        assert_eq!(writes, count(|c| matches!(c, AgentCommand::RemoveJobFiles { .. })), "W4, V11: seed {seed}");
    }
    assert!(finished > 500 && spawned > 200 && killed > 50, "the worlds are not varied: {finished} {spawned} {killed}");
}
