//! What a simulated process does: a script that a job carries as its command.

use ibex_core::rng::Rng;
use serde::{Deserialize, Serialize};

/// A process group, from spawn to the last member's end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Script {
    /// How the spawn goes.
    #[serde(default, skip_serializing_if = "is_default")]
    pub spawn: SpawnHow,
    /// What the leader does with catchable signals.
    #[serde(default, skip_serializing_if = "is_default")]
    pub on_signal: OnSignal,
    /// What the leader does, one after the other; it exits 0 after the last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub acts: Vec<Act>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// How a spawn goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SpawnHow {
    /// At once.
    #[default]
    Quick,
    /// After this many milliseconds.
    Slow(u64),
    /// It cannot be spawned.
    Fails,
}

/// What a process does with catchable signals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnSignal {
    /// Dies of it.
    #[default]
    Dies,
    /// Exits with this code after so many milliseconds; a second one kills it.
    Exits {
        /// Exit code.
        code: i32,
        /// Reaction time.
        after_ms: u64,
    },
    /// Ends itself with the signal after so many milliseconds, as the executor does; a second one kills it.
    DiesLater {
        /// Reaction time.
        after_ms: u64,
    },
    /// Ignores the first few, dies of the next.
    Ignores(u32),
    /// Ignores all of them.
    Stubborn,
    /// Ignores all of them, and SIGKILL takes so many milliseconds: it hangs in the kernel.
    Stuck {
        /// How long it takes to die.
        ms: u64,
    },
}

/// One thing that the leader does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Act {
    /// Prints so many bytes of lines; blocks while nobody reads.
    Print(u64),
    /// Prints one line of so many bytes, without an end of line.
    Line(u64),
    /// Closes its output.
    Close,
    /// Waits so many milliseconds.
    Sleep(u64),
    /// Lets others have so many turns; no time passes.
    Turns(u64),
    /// Starts another process.
    Fork(Fork),
    /// Exits with this code.
    Exit(i32),
    /// Is ended by this signal number.
    Die(i32),
}

/// A process that the leader starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fork {
    /// Lives so many milliseconds.
    pub ms: u64,
    /// Ignores all catchable signals, SIGHUP included.
    #[serde(default, skip_serializing_if = "is_default")]
    pub stubborn: bool,
    /// SIGKILL takes so many milliseconds.
    #[serde(default, skip_serializing_if = "is_default")]
    pub stuck_ms: u64,
    /// Keeps the output open.
    #[serde(default, skip_serializing_if = "is_default")]
    pub holds: bool,
    /// Has left the group.
    #[serde(default, skip_serializing_if = "is_default")]
    pub escaped: bool,
    /// Leads a group of its own as a direct child, as the executor's command does.
    #[serde(default, skip_serializing_if = "is_default")]
    pub own_group: bool,
}

impl Script {
    /// The command that carries it.
    pub fn command(&self) -> String {
        serde_json::to_string(self).expect("a script is plain data")
    }

    /// The script that a command carries.
    pub fn parse(command: &str) -> Option<Script> {
        serde_json::from_str(command).ok()
    }

    /// Prints, waits, exits with `code`.
    pub fn simple(bytes: u64, ms: u64, code: i32) -> Script {
        Script { acts: vec![Act::Print(bytes), Act::Sleep(ms), Act::Exit(code)], ..Script::default() }
    }

    /// Prints so often, with a pause after each.
    pub fn talker(bytes: u64, times: usize, pause_ms: u64) -> Script {
        let acts = std::iter::repeat_n([Act::Print(bytes), Act::Sleep(pause_ms)], times).flatten().collect();
        Script { acts, ..Script::default() }
    }

    /// Any script.
    pub fn random(rng: &mut Rng) -> Script {
        let spawn = match rng.below(20) {
            0 => SpawnHow::Fails,
            1 | 2 => SpawnHow::Slow(100 + rng.below(4_000)),
            _ => SpawnHow::Quick,
        };
        let on_signal = match rng.below(8) {
            0 => OnSignal::Exits { code: 0, after_ms: rng.below(3_000) },
            1 => OnSignal::Exits { code: 1 + rng.below(130) as i32, after_ms: rng.below(3_000) },
            2 | 3 => OnSignal::DiesLater { after_ms: rng.below(4_000) },
            4 => OnSignal::Ignores(1),
            5 if rng.below(4) == 0 => OnSignal::Stuck { ms: rng.below(3_000) },
            5 => OnSignal::Stubborn,
            _ => OnSignal::Dies,
        };
        let mut acts = Vec::new();
        for _ in 0..rng.below(5) {
            acts.push(match rng.below(10) {
                0 => Act::Print(20_000 + rng.below(60_000)),
                1..=3 => Act::Print(rng.below(3_000)),
                4..=6 => Act::Fork(Fork {
                    ms: rng.below(25_000),
                    stubborn: rng.below(2) == 0,
                    holds: rng.below(2) == 0,
                    escaped: rng.below(4) == 0,
                    own_group: rng.below(4) == 0,
                    stuck_ms: 0,
                }),
                _ => Act::Sleep(rng.below(6_000)),
            });
        }
        match rng.below(8) {
            0 => acts.push(Act::Exit(rng.below(256) as i32)),
            1 => acts.push(Act::Die([6, 9, 11, 15][rng.below(4) as usize])),
            2 => acts.push(Act::Exit(125)),
            3 => {}
            _ => acts.push(Act::Exit(0)),
        }
        Script { spawn, on_signal, acts }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_survives_its_command() {
        let mut rng = Rng::from_seed(1);
        for _ in 0..100 {
            let script = Script::random(&mut rng);
            assert_eq!(Script::parse(&script.command()), Some(script));
        }
        assert_eq!(Script::parse("make test"), None);
    }
}
