//! What `/proc` tells of processes: parents, groups, start times, and whether they are more than zombies.

use std::ops::ControlFlow;

/// A process as `/proc/<pid>/stat` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) pid: i32,
    pub(super) state: u8,
    pub(super) parent: i32,
    pub(super) group: i32,
    pub(super) threads: i32,
    /// Clock ticks since boot: with the pid it names a process for ever.
    pub(super) started: u64,
}

impl Stat {
    pub(super) fn is_zombie(&self) -> bool {
        // While other threads run, a main thread that has ended shows as a zombie too.
        matches!(self.state, b'Z' | b'X') && self.threads <= 1
    }
}

/// One process, if it exists.
pub(super) fn stat(pid: i32) -> Option<Stat> {
    let text = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    parse(pid, &text)
}

/// All processes.
pub(super) fn all() -> impl Iterator<Item = Stat> {
    pids().filter_map(stat)
}

/// How often the processes are listed again because the kernel began anew with small pids meanwhile.
const LISTINGS: u32 = 3;
/// How often the processes that were started during a look are looked at before it is said that a group lives.
const LOOKS: u32 = 1_000;

/// Whether a group has a member that is more than a zombie; for ever changing processes the answer is yes.
pub(super) fn is_group_alive(group: i32) -> bool {
    look(group, |_| ControlFlow::Break(())).is_none_or(|end| end.is_break())
}

/// Living members of a group, with their start times.
pub(super) fn members(group: i32) -> Vec<(i32, u64)> {
    let mut members = Vec::new();
    let _ = look(group, |s| {
        members.push((s.pid, s.started));
        ControlFlow::Continue(())
    });
    members
}

/// Shows every living member of a group to `found`, until that breaks; `None` if processes were started so quickly that there was
/// no end of looking.
///
/// A listing alone may miss one: a member may start another behind the place that the listing has reached, and end. But whatever
/// was started since the look began has a pid after the newest of that time, up to the newest of now; so these are looked at too,
/// until none was started in between. How many other processes come and go does not matter.
fn look(group: i32, mut found: impl FnMut(Stat) -> ControlFlow<()>) -> Option<ControlFlow<()>> {
    'listing: for _ in 0..LISTINGS {
        let mut seen = newest();
        if pids().filter_map(|pid| living_member(pid, group)).try_for_each(&mut found).is_break() {
            return Some(ControlFlow::Break(()));
        }
        for _ in 0..LOOKS {
            let now = newest();
            let (Some(from), Some(to)) = (seen, now) else { return Some(ControlFlow::Continue(())) };
            if to == from {
                return Some(ControlFlow::Continue(()));
            }
            if to < from {
                continue 'listing;
            }
            if (from + 1..=to).filter_map(|pid| living_member(pid, group)).try_for_each(&mut found).is_break() {
                return Some(ControlFlow::Break(()));
            }
            seen = now;
        }
    }
    None
}

/// Asks the kernel for the group first: that costs a tenth of a look at `/proc/<pid>/stat`.
fn living_member(pid: i32, group: i32) -> Option<Stat> {
    if is_member(pid, group) { stat(pid).filter(|s| s.group == group && !s.is_zombie()) } else { None }
}

fn is_member(pid: i32, group: i32) -> bool {
    // SAFETY: a system call on two numbers. rustix excludes the answer 0, which is that of every thread of the kernel.
    match unsafe { libc::getpgid(pid) } {
        // A security module may keep the answer back; `/proc` may still give it.
        -1 => std::io::Error::last_os_error().raw_os_error() != Some(libc::ESRCH),
        found => found == group,
    }
}

/// The pid that was given out last (the last field of `/proc/loadavg`), threads included.
fn newest() -> Option<i32> {
    let text = std::fs::read_to_string("/proc/loadavg").ok()?;
    text.split_ascii_whitespace().next_back()?.parse().ok()
}

fn pids() -> impl Iterator<Item = i32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The name may hold spaces and parentheses: fields are counted from the last `)`.
fn parse(pid: i32, text: &[u8]) -> Option<Stat> {
    let end_of_name = text.iter().rposition(|b| *b == b')')?;
    let fields: Vec<&str> = std::str::from_utf8(text.get(end_of_name + 2..)?).ok()?.split_ascii_whitespace().collect();
    let number = |i: usize| fields.get(i).and_then(|f| f.parse::<i32>().ok());
    Some(Stat {
        pid,
        state: *fields.first()?.as_bytes().first()?,
        parent: number(1)?,
        group: number(2)?,
        threads: number(17)?,
        started: fields.get(19)?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_is_skipped() {
        let text = b"42 (a) S b) Z 7 8 9 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 777 0 0";
        assert_eq!(parse(42, text), Some(Stat { pid: 42, state: b'Z', parent: 7, group: 8, threads: 1, started: 777 }));
        assert_eq!(parse(42, b"42 (a"), None);
    }

    /// The CI of a busy machine: at any instant something is being started or has just ended.
    #[test]
    fn given_processes_that_come_and_go_then_an_empty_group_is_dead_and_a_living_one_alive() {
        use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
        use std::os::unix::process::CommandExt;
        use std::process::{Command, Stdio};
        use std::sync::atomic::{AtomicBool, Ordering};
        let over = AtomicBool::new(false);
        let mut leader = Command::new("sleep").arg("1000").stdin(Stdio::null()).process_group(0).spawn().unwrap();
        let group = i32::try_from(leader.id()).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    // The number ends the test even if something below panics.
                    for _ in (0..20_000).take_while(|_| !over.load(Ordering::Relaxed)) {
                        let _ = Command::new("true").status();
                    }
                });
            }
            let alive = (0..200).all(|_| is_group_alive(group));
            let killed = leader.kill();
            // The status is left waitable: the leader stays as a zombie, as the agent keeps it.
            let ended = waitid(WaitId::Pid(Pid::from_child(&leader)), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
            let dead = (0..200).all(|_| !is_group_alive(group));
            over.store(true, Ordering::Relaxed);
            assert!(alive && dead && killed.is_ok() && ended.is_ok(), "alive: {alive}, dead: {dead}, {killed:?}, {ended:?}");
        });
        leader.wait().unwrap();
    }

    #[test]
    fn this_process_is_listed() {
        let me = i32::try_from(std::process::id()).unwrap();
        assert!(all().any(|s| s.pid == me && !s.is_zombie()));
    }
}
