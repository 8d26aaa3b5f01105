//! What `/proc` tells of processes: parents, groups, start times, and whether they are more than zombies.

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
    let pids = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter_map(stat)
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
