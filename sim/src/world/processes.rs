//! Process groups that follow scripts: members, signals, output through a bounded pipe or terminal, an exit that is seen before
//! it is reaped. No thread, no descriptor, no real process.

use super::World;
use crate::script::{Act, Fork, OnSignal, Script, SpawnHow};
use crate::trace::{Fact, JobId};
use bytes::{Bytes, BytesMut};
use ibex_core::agent::OsSignal;
use ibex_core::process::{ExitStatus, ProcessSpec, SignalTarget};
use ibex_io::effects::{Output, Process};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::Notify;

/// What the kernel holds for a reader.
const PIPE_BYTES: usize = 65_536;
/// What one read of a terminal returns at most.
const TERMINAL_READ: usize = 4_096;

/// Number of a signal on Linux.
fn number(signal: OsSignal) -> i32 {
    match signal {
        OsSignal::Hup => 1,
        OsSignal::Int => 2,
        OsSignal::Quit => 3,
        OsSignal::Kill => 9,
        OsSignal::Usr1 => 10,
        OsSignal::Usr2 => 12,
        OsSignal::Term => 15,
    }
}

/// A process group, and what it left outside.
#[derive(Clone)]
pub struct SimProcess(Rc<Group>);

struct Group {
    world: World,
    pid: u32,
    job: JobId,
    pty: bool,
    /// Name of the agent's hook that it is, if it is one: such a process is no job's, and told of as a hook.
    hook: Option<&'static str>,
    members: RefCell<BTreeMap<u32, Rc<Member>>>,
    next_member: Cell<u32>,
    status: Cell<Option<ExitStatus>>,
    ended: Notify,
    reaped: Cell<bool>,
    killed: Cell<bool>,
    line: Cell<u64>,
    pipe: RefCell<BytesMut>,
    readable: Notify,
    writable: Notify,
    closed: Cell<bool>,
}

const LEADER: u32 = 0;

struct Member {
    how: Cell<OnSignal>,
    waiting: RefCell<VecDeque<OsSignal>>,
    wake: Notify,
    dead: Cell<bool>,
    holds: Cell<bool>,
    escaped: bool,
    own_group: bool,
}

pub(super) async fn spawn(world: World, spec: ProcessSpec) -> Result<(SimProcess, SimOutput), String> {
    let job = world.job_of(spec.job);
    world.observed(Fact::SpawnAsked { owner: spec.job, job: job.clone() });
    let command = spec.env.0.get("BUILDKITE_COMMAND").cloned().flatten().unwrap_or_default();
    let script = Script::parse(&command).unwrap_or_default();
    match script.spawn {
        SpawnHow::Quick => tokio::time::sleep(Duration::from_millis(1)).await,
        SpawnHow::Slow(ms) => tokio::time::sleep(Duration::from_millis(ms)).await,
        SpawnHow::Fails => {
            tokio::time::sleep(Duration::from_millis(1)).await;
            world.observed(Fact::SpawnFailed { job });
            return Err("error starting command: Exec format error (os error 8)".into());
        }
    }
    let group = Group::new(&world, job.clone(), spec.pty, None);
    world.observed(Fact::Spawned { pid: group.pid, job, pty: spec.pty });
    Ok(begin(group, script))
}

/// Starts a hook of the agent.
pub(super) async fn spawn_hook(world: World, name: &'static str, job: Option<JobId>, script: Script) -> Result<(SimProcess, SimOutput), String> {
    tokio::time::sleep(Duration::from_millis(1)).await;
    world.observed(Fact::HookBegun { name, job: job.clone() });
    if script.spawn == SpawnHow::Fails {
        world.observed(Fact::HookOver { name, job, ok: false });
        return Err("permission denied (os error 13)".into());
    }
    Ok(begin(Group::new(&world, job.unwrap_or_else(|| "agent".into()), false, Some(name)), script))
}

fn begin(group: Rc<Group>, script: Script) -> (SimProcess, SimOutput) {
    let leader = Member::new(script.on_signal, true, false, false);
    group.join(LEADER, leader.clone());
    tokio::task::spawn_local(lead(group.clone(), leader, script.acts));
    (SimProcess(group.clone()), SimOutput { group, over: false })
}

/// The leader's life.
async fn lead(group: Rc<Group>, me: Rc<Member>, acts: Vec<Act>) {
    for act in acts {
        match act {
            Act::Print(bytes) => {
                let mut left = bytes;
                while left > 0 {
                    let text = group.text(left.min(1_024));
                    left -= text.len() as u64;
                    let written = group.write(text);
                    if interrupted(&group, &me, LEADER, written).await {
                        return;
                    }
                }
            }
            Act::Line(bytes) => {
                let mut left = bytes;
                while left > 0 {
                    let n = left.min(4_096);
                    left -= n;
                    let written = group.write(Bytes::from(vec![b'x'; n as usize]));
                    if interrupted(&group, &me, LEADER, written).await {
                        return;
                    }
                }
            }
            Act::Close => {
                me.holds.set(false);
                group.readable.notify_one();
            }
            Act::Sleep(ms) => {
                if interrupted(&group, &me, LEADER, tokio::time::sleep(Duration::from_millis(ms))).await {
                    return;
                }
            }
            Act::Turns(n) => {
                for _ in 0..n {
                    tokio::task::yield_now().await;
                }
            }
            Act::Fork(fork) => group.fork(fork),
            Act::Exit(code) => return group.die(LEADER, ExitStatus::Code(code & 0xff)),
            Act::Die(signal) => return group.die(LEADER, ExitStatus::Signal(signal)),
        }
    }
    group.die(LEADER, ExitStatus::Code(0));
}

/// Does `work`; meanwhile signals are met as the member meets them. `true`: the member is dead.
async fn interrupted(group: &Rc<Group>, me: &Rc<Member>, number_of: u32, work: impl Future<Output = ()>) -> bool {
    let mut work = std::pin::pin!(work);
    loop {
        if me.dead.get() {
            return true;
        }
        let signal = me.waiting.borrow_mut().pop_front();
        if let Some(signal) = signal {
            if meets(group, me, number_of, signal).await {
                return true;
            }
            continue;
        }
        // A signal first: it was sent before the work came to its end.
        tokio::select! {
            biased;
            () = me.wake.notified() => {}
            () = &mut work => return me.dead.get(),
        }
    }
}

/// What a member does with one catchable signal. `true`: it is dead.
async fn meets(group: &Rc<Group>, me: &Rc<Member>, number_of: u32, signal: OsSignal) -> bool {
    let (after_ms, status) = match me.how.get() {
        OnSignal::Stubborn | OnSignal::Stuck { .. } => return false,
        OnSignal::Ignores(0) | OnSignal::Dies => (0, ExitStatus::Signal(number(signal))),
        OnSignal::Ignores(n) => {
            me.how.set(OnSignal::Ignores(n - 1));
            return false;
        }
        OnSignal::Exits { code, after_ms } => (after_ms, ExitStatus::Code(code & 0xff)),
        OnSignal::DiesLater { after_ms } => (after_ms, ExitStatus::Signal(number(signal))),
    };
    me.how.set(OnSignal::Dies);
    let mut reaction = std::pin::pin!(tokio::time::sleep(Duration::from_millis(after_ms)));
    loop {
        tokio::select! {
            biased;
            () = me.wake.notified() => {
                if me.dead.get() {
                    return true;
                }
                let second = me.waiting.borrow_mut().pop_front();
                if let Some(second) = second {
                    group.die(number_of, ExitStatus::Signal(number(second)));
                    return true;
                }
            }
            () = &mut reaction => break,
        }
    }
    group.die(number_of, status);
    true
}

impl Member {
    fn new(how: OnSignal, holds: bool, escaped: bool, own_group: bool) -> Rc<Member> {
        Rc::new(Member {
            how: Cell::new(how),
            waiting: RefCell::default(),
            wake: Notify::new(),
            dead: Cell::new(false),
            holds: Cell::new(holds),
            escaped,
            own_group,
        })
    }
}

impl Group {
    fn new(world: &World, job: JobId, pty: bool, hook: Option<&'static str>) -> Rc<Group> {
        let pid = world.0.pids.get() + 1;
        world.0.pids.set(pid);
        world.0.outputs.set(world.0.outputs.get() + 1);
        Rc::new(Group {
            world: world.clone(),
            pid,
            job,
            pty,
            hook,
            members: RefCell::default(),
            next_member: Cell::new(LEADER + 1),
            status: Cell::new(None),
            ended: Notify::new(),
            reaped: Cell::new(false),
            killed: Cell::new(false),
            line: Cell::new(0),
            pipe: RefCell::default(),
            readable: Notify::new(),
            writable: Notify::new(),
            closed: Cell::new(false),
        })
    }

    /// Tells of a process of a job; of a hook the beginning and the end are told.
    fn observed(&self, fact: Fact) {
        match (self.hook, fact) {
            (None, fact) => self.world.observed(fact),
            (Some(name), Fact::Reaped { status, .. }) => {
                let job = (&*self.job != "agent").then(|| self.job.clone());
                self.world.observed(Fact::HookOver { name, job, ok: status == ExitStatus::Code(0) });
            }
            (Some(_), _) => {}
        }
    }

    fn join(&self, number: u32, member: Rc<Member>) {
        self.members.borrow_mut().insert(number, member);
        self.tell_members();
    }

    /// Members that the specification makes the runner responsible for: the group, and after a kill the groups of the leader's
    /// direct children too.
    fn responsible(&self) -> u32 {
        self.members.borrow().values().filter(|m| !m.escaped && (!m.own_group || self.killed.get())).count() as u32
    }

    fn tell_members(&self) {
        self.observed(Fact::Members { pid: self.pid, alive: self.responsible() });
    }

    fn fork(self: &Rc<Group>, fork: Fork) {
        let number = self.next_member.get();
        self.next_member.set(number + 1);
        let how = match fork.stuck_ms {
            0 if fork.stubborn => OnSignal::Stubborn,
            0 => OnSignal::Dies,
            ms => OnSignal::Stuck { ms },
        };
        let member = Member::new(how, fork.holds, fork.escaped, fork.own_group);
        self.join(number, member.clone());
        let group = self.clone();
        tokio::task::spawn_local(async move {
            let life = tokio::time::sleep(Duration::from_millis(fork.ms));
            if !interrupted(&group, &member, number, life).await {
                group.die(number, ExitStatus::Code(0));
            }
        });
    }

    fn die(&self, number: u32, status: ExitStatus) {
        let Some(member) = self.members.borrow_mut().remove(&number) else { return };
        member.dead.set(true);
        member.wake.notify_one();
        if number == LEADER {
            self.status.set(Some(status));
            self.observed(Fact::LeaderEnded { pid: self.pid, status });
            self.ended.notify_one();
            if self.pty {
                // The terminal hangs up: what is left of the session's groups dies of it, unless it ignores the signal.
                let hung: Vec<u32> = self
                    .members
                    .borrow()
                    .iter()
                    .filter(|(_, m)| !m.escaped && !matches!(m.how.get(), OnSignal::Stubborn | OnSignal::Stuck { .. }))
                    .map(|(n, _)| *n)
                    .collect();
                for n in hung {
                    self.die(n, ExitStatus::Signal(1));
                }
            }
        }
        self.tell_members();
        self.readable.notify_one();
        self.writable.notify_waiters();
    }

    /// The next lines: each names the job, so that a line in the wrong log is seen.
    fn text(&self, at_most: u64) -> Bytes {
        let n = self.line.get();
        self.line.set(n + 1);
        let job = &self.job;
        let mut line = match n % 9 {
            3 => format!("--- section {n} of {job}\r\n"),
            5 => format!("\x1b[31mred {n}\x1b[0m of {job}\r\n"),
            6 => format!("{job} progress {n}\r"),
            7 => format!("{job} no end of line {n} …"),
            _ => format!("{job} line {n} {}\r\n", "x".repeat((n % 61) as usize * 3)),
        };
        while line.len() as u64 > at_most {
            line.pop();
        }
        if line.is_empty() {
            line.push('.');
        }
        line.into()
    }

    /// Writes; blocks while the pipe is full. Nobody reads any more: the bytes are gone.
    async fn write(self: &Rc<Group>, text: Bytes) {
        while !self.closed.get() && self.pipe.borrow().len() >= PIPE_BYTES {
            self.writable.notified().await;
        }
        if !self.closed.get() {
            self.pipe.borrow_mut().extend_from_slice(&text);
            self.observed(Fact::Printed { pid: self.pid, len: text.len() as u64 });
            self.readable.notify_one();
        }
    }

    fn deliver(self: &Rc<Group>, signal: OsSignal, target: SignalTarget) {
        if signal == OsSignal::Kill {
            // Direct children are collected first; an orphan of an ended leader is nobody's child any more.
            let leader_lives = self.status.get().is_none();
            self.killed.set(self.killed.get() || leader_lives);
            let hit: Vec<u32> = self
                .members
                .borrow()
                .iter()
                .filter(|(_, m)| !m.escaped && (!m.own_group || (leader_lives && target == SignalTarget::Tree)))
                .map(|(n, _)| *n)
                .collect();
            for n in hit {
                let how = self.members.borrow().get(&n).map(|m| m.how.get());
                if let Some(OnSignal::Stuck { ms }) = how {
                    let group = self.clone();
                    tokio::task::spawn_local(async move {
                        tokio::time::sleep(Duration::from_millis(ms)).await;
                        group.die(n, ExitStatus::Signal(9));
                    });
                } else {
                    self.die(n, ExitStatus::Signal(9));
                }
            }
            return;
        }
        for m in self.members.borrow().values().filter(|m| !m.escaped && !m.own_group) {
            m.waiting.borrow_mut().push_back(signal);
            m.wake.notify_one();
        }
    }
}

impl Process for SimProcess {
    fn pid(&self) -> u32 {
        self.0.pid
    }

    fn wait(&self) -> impl Future<Output = ExitStatus> + 'static {
        let group = self.0.clone();
        async move {
            loop {
                if let Some(status) = group.status.get() {
                    assert!(!group.reaped.replace(true), "pid {} is reaped twice", group.pid);
                    group.observed(Fact::Reaped { pid: group.pid, status });
                    return status;
                }
                group.ended.notified().await;
            }
        }
    }

    fn signal(&self, signal: OsSignal, target: SignalTarget) -> Result<(), String> {
        self.0.observed(Fact::Signalled { pid: self.0.pid, signal, target });
        self.0.deliver(signal, target);
        Ok(())
    }

    fn group_alive(&self) -> bool {
        self.0.members.borrow().values().any(|m| !m.escaped && !m.own_group)
    }
}

/// The agent's end of a pipe or terminal.
pub struct SimOutput {
    group: Rc<Group>,
    over: bool,
}

impl Output for SimOutput {
    async fn read(&mut self) -> Option<Bytes> {
        loop {
            let group = &self.group;
            let at_most = if group.pty { TERMINAL_READ } else { PIPE_BYTES };
            let data = {
                let mut pipe = group.pipe.borrow_mut();
                let n = pipe.len().min(at_most);
                pipe.split_to(n).freeze()
            };
            if !data.is_empty() {
                group.writable.notify_waiters();
                group.observed(Fact::Read { pid: group.pid, data: data.clone() });
                return Some(data);
            }
            let writers = group.members.borrow().values().any(|m| m.holds.get());
            if !writers {
                if !self.over {
                    self.over = true;
                    group.observed(Fact::OutputOver { pid: group.pid, cut: false });
                }
                return None;
            }
            group.readable.notified().await;
        }
    }
}

impl Drop for SimOutput {
    fn drop(&mut self) {
        let group = &self.group;
        if !self.over {
            group.observed(Fact::OutputOver { pid: group.pid, cut: true });
        }
        group.closed.set(true);
        group.writable.notify_waiters();
        group.world.0.outputs.set(group.world.0.outputs.get().saturating_sub(1));
    }
}
