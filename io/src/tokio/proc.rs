//! What `/proc` tells of processes: parents, groups, start times, and whether they are more than zombies.

use std::collections::BTreeSet;

/// A process as `/proc/<pid>/stat` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) pid: i32,
    pub(super) state: u8,
    pub(super) parent: i32,
    pub(super) group: i32,
    /// Clock ticks since boot: with the pid it names a process for ever.
    pub(super) started: u64,
}

impl Stat {
    pub(super) fn is_zombie(&self) -> bool {
        matches!(self.state, b'Z' | b'X')
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

/// How often processes are looked at before it is said that they come and go too quickly to be seen.
const LOOKS: u32 = 10;

/// Whether a group has a member that is more than a zombie. One look is not enough: a member may start another and end between
/// the listing of processes and the look at it. So a look counts only if nothing that was listed had ended by then.
pub(super) fn is_group_alive(group: i32) -> bool {
    let mut known_dead = BTreeSet::new();
    for _ in 0..LOOKS {
        let mut sure = true;
        for pid in pids() {
            match stat(pid) {
                None => sure = false,
                Some(s) if s.group != group => {}
                Some(s) if !s.is_zombie() => return true,
                // The leader starts nothing any more, and may be kept as a zombie for its number.
                Some(s) => sure &= pid == group || !known_dead.insert((pid, s.started)),
            }
        }
        if sure {
            return false;
        }
    }
    true
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
    Some(Stat { pid, state: *fields.first()?.as_bytes().first()?, parent: number(1)?, group: number(2)?, started: fields.get(19)?.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_is_skipped() {
        let text = b"42 (a) S b) Z 7 8 9 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 777 0 0";
        assert_eq!(parse(42, text), Some(Stat { pid: 42, state: b'Z', parent: 7, group: 8, started: 777 }));
        assert_eq!(parse(42, b"42 (a"), None);
    }

    #[test]
    fn this_process_is_listed() {
        let me = i32::try_from(std::process::id()).unwrap();
        assert!(all().any(|s| s.pid == me && !s.is_zombie()));
    }
}
