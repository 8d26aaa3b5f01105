//! A spawned process group: its exit, its signals, its members (job-runner §5.6, §5.10, §5.12).

use super::proc::{self, Stat};
use crate::effects::Process;
use ibex_core::agent::OsSignal;
use ibex_core::process::{ExitStatus, SignalTarget};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process_group, pidfd_open, test_kill_process_group, waitid};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::io;
use std::rc::Rc;
use tokio::io::unix::AsyncFd;

thread_local! {
    /// Leaders that wait to be reaped by their own group: nobody else may take their status.
    static OURS: RefCell<BTreeSet<i32>> = const { RefCell::new(BTreeSet::new()) };
}

/// A process group and its leader. Clones mean the same group.
#[derive(Clone, Debug)]
pub struct Group(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    leader: Pid,
    exit: AsyncFd<OwnedFd>,
    reaped: RefCell<Reaped>,
    /// A signal was sent: whoever is left of the group will be asked for, and perhaps signalled again.
    signalled: Cell<bool>,
}

/// What holds the number of the group.
#[derive(Debug)]
enum Reaped {
    /// The leader, running or waiting to be reaped: after a signal it is kept for its number while others are left.
    Not,
    /// Members seen after the leader was reaped. While one of them is there, the number is still this group's.
    Members(Vec<(i32, u64)>),
    /// Nobody: the number may be another group's by now.
    Empty,
}

impl Group {
    pub(super) fn new(leader: Pid) -> io::Result<Group> {
        let exit = pidfd_open(leader, PidfdFlags::empty())?;
        // SAFETY: an `OwnedFd` stays open, and the same, until the `AsyncFd` that owns it is dropped.
        let exit = unsafe { AsyncFd::register_with_interest(exit, tokio::io::Interest::READABLE) }?;
        OURS.with_borrow_mut(|ours| ours.insert(leader.as_raw_nonzero().get()));
        Ok(Group(Rc::new(Inner { leader, exit, reaped: RefCell::new(Reaped::Not), signalled: Cell::new(false) })))
    }

    fn number(&self) -> i32 {
        self.0.leader.as_raw_nonzero().get()
    }

    /// Observes the exit and leaves the leader waitable, which pins the group's number.
    async fn exited(&self) -> ExitStatus {
        loop {
            // A level-triggered descriptor: it is readable from the exit on.
            if let Some(status) = self.0.status(WaitIdOptions::NOWAIT) {
                return status;
            }
            match self.0.exit.readable().await {
                Ok(mut ready) => ready.clear_ready(),
                Err(_) => std::future::pending().await,
            }
        }
    }

    /// Whether the number is still this group's; refreshes who holds it.
    fn is_still_ours(&self) -> bool {
        let mut reaped = self.0.reaped.borrow_mut();
        let Reaped::Members(known) = &*reaped else { return matches!(*reaped, Reaped::Not) };
        let now = proc::members(self.number());
        let ours = now.iter().any(|member| known.contains(member));
        *reaped = if ours { Reaped::Members(now) } else { Reaped::Empty };
        ours
    }

    fn kill(&self, signal: Signal) -> Result<(), String> {
        if !self.is_still_ours() {
            return Ok(());
        }
        match kill_process_group(self.0.leader, signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(e) => Err(io::Error::from(e).to_string()),
        }
    }

    /// Groups that direct children of the leader lead, collected before the first signal: orphans lose their parent.
    fn child_groups(&self) -> Vec<Stat> {
        let number = self.number();
        match *self.0.reaped.borrow() {
            Reaped::Not => proc::all().filter(|s| s.parent == number && s.group == s.pid).collect(),
            _ => Vec::new(),
        }
    }
}

impl Inner {
    fn status(&self, options: WaitIdOptions) -> Option<ExitStatus> {
        let status = loop {
            match waitid(WaitId::Pid(self.leader), options | WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {
                Err(Errno::INTR) => continue,
                Ok(status) => break status?,
                // Somebody took the status away. The leader is gone; how it ended will never be known.
                Err(_) => return Some(ExitStatus::Code(-1)),
            }
        };
        match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Some(ExitStatus::Code(code)),
            (None, Some(signal)) => Some(ExitStatus::Signal(signal)),
            (None, None) => None,
        }
    }

    fn reap(&self) {
        self.status(WaitIdOptions::empty());
        let number = self.leader.as_raw_nonzero().get();
        OURS.with_borrow_mut(|ours| ours.remove(&number));
        // Most groups are empty now, and the kernel says so at once. Otherwise whoever is left is remembered.
        let members = match test_kill_process_group(self.leader) {
            Err(Errno::SRCH) => Vec::new(),
            _ => proc::members(number),
        };
        *self.reaped.borrow_mut() = if members.is_empty() { Reaped::Empty } else { Reaped::Members(members) };
    }
}

/// Nobody will ask for the group again: a leader that was kept for its number is kept no longer.
impl Drop for Inner {
    fn drop(&mut self) {
        if matches!(*self.reaped.borrow(), Reaped::Not) {
            self.reap();
        }
    }
}

impl Process for Group {
    fn pid(&self) -> u32 {
        self.number().unsigned_abs()
    }

    fn wait(&self) -> impl Future<Output = ExitStatus> + 'static {
        let group = self.clone();
        async move {
            let status = group.exited().await;
            if !(group.0.signalled.get() && proc::is_group_alive(group.number())) {
                group.0.reap();
            }
            status
        }
    }

    fn signal(&self, signal: OsSignal, target: SignalTarget) -> Result<(), String> {
        let signal = number(signal);
        self.0.signalled.set(true);
        let children = if target == SignalTarget::Tree { self.child_groups() } else { Vec::new() };
        let sent = self.kill(signal);
        for child in children {
            // The start time tells whether the number is still that child's.
            if let Some(pid) = Pid::from_raw(child.pid)
                && proc::stat(child.pid).is_some_and(|now| now.started == child.started && now.group == child.group)
            {
                let _ = kill_process_group(pid, signal);
            }
        }
        sent
    }

    fn group_alive(&self) -> bool {
        let reaped = self.0.reaped.borrow();
        match *reaped {
            Reaped::Empty => return false,
            Reaped::Members(_) => {}
            Reaped::Not if proc::is_group_alive(self.number()) => return true,
            // Not even the leader: nobody needs the number any more.
            Reaped::Not => {
                drop(reaped);
                self.0.reap();
                return false;
            }
        }
        drop(reaped);
        self.is_still_ours()
    }
}

fn number(signal: OsSignal) -> Signal {
    match signal {
        OsSignal::Hup => Signal::HUP,
        OsSignal::Int => Signal::INT,
        OsSignal::Quit => Signal::QUIT,
        OsSignal::Kill => Signal::KILL,
        OsSignal::Usr1 => Signal::USR1,
        OsSignal::Usr2 => Signal::USR2,
        OsSignal::Term => Signal::TERM,
    }
}

/// Whether orphans are handed to this process: it is process 1 or a child subreaper (job-runner §5.10.4).
pub fn inherits_orphans() -> bool {
    std::process::id() == 1 || rustix::process::child_subreaper().is_ok_and(|r| r.is_some())
}

/// Reaps orphans that were handed to this process, each by its pid, whenever a child ends. Run it only where
/// [`inherits_orphans`]; it leaves the leaders of groups alone. Never ends.
pub async fn reap_orphans() -> io::Result<()> {
    let mut child_ended = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::child())?;
    let me = i32::try_from(std::process::id()).unwrap_or_default();
    while child_ended.recv().await.is_some() {
        for zombie in proc::all().filter(|s| s.parent == me && s.is_zombie()) {
            let ours = OURS.with_borrow(|ours| ours.contains(&zombie.pid));
            if let (false, Some(pid)) = (ours, Pid::from_raw(zombie.pid)) {
                let _ = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
            }
        }
    }
    Ok(())
}
