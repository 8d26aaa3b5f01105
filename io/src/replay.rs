//! Plays a recording back through the same core: the same events must lead to the same commands.

use crate::recorder::{Head, Step, digest};
use ibex_core::agent::{AgentCommand, AgentEvent};
use ibex_core::machine::{Instant, Machine};
use std::fmt::Write;
use std::io::BufRead;
use std::time::Duration;

/// What came of a replay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Steps played.
    pub steps: usize,
    /// The first step, from 1, whose commands were not those recorded.
    pub diverged: Option<usize>,
    /// The last step never came to its end: the agent died in it.
    pub interrupted: bool,
}

/// Why a recording cannot be played.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// Not readable.
    #[error("the recording cannot be read: {0}")]
    Io(#[from] std::io::Error),
    /// Not a recording, or cut in the middle of a line.
    #[error("line {line} is no line of a recording: {error}")]
    Line {
        /// From 1.
        line: usize,
        /// What is wrong.
        error: serde_json::Error,
    },
    /// A recording of another format.
    #[error("the recording has version {0} of the format, this program reads version 1")]
    Version(u32),
    /// The machine could not be made.
    #[error("{0}")]
    Machine(String),
}

/// One step, played.
#[derive(Debug)]
pub struct Played<'a> {
    /// As recorded.
    pub step: &'a Step,
    /// What the machine asked for now.
    pub commands: &'a [AgentCommand],
    /// Whether that is what it asked for then.
    pub same: bool,
}

/// Plays `recording` through the machine that `make` makes of its head, and shows every step to `each`. Playing goes on after
/// a divergence, so that the timeline shows what follows.
pub fn replay<M>(
    recording: impl BufRead,
    make: impl FnOnce(&Head) -> Result<M, String>,
    mut each: impl FnMut(Played<'_>),
) -> Result<Summary, ReplayError>
where
    M: Machine<Event = AgentEvent, Command = AgentCommand>,
{
    let mut lines = recording.lines().enumerate();
    let head: Head = parse(0, &lines.next().map(|(_, line)| line).transpose()?.unwrap_or_default())?;
    if head.ibexrec != 1 {
        return Err(ReplayError::Version(head.ibexrec));
    }
    let mut machine = make(&head).map_err(ReplayError::Machine)?;
    let mut summary = Summary::default();
    let mut commands = Vec::new();
    for (index, line) in lines {
        let step: Step = parse(index, &line?)?;
        match step.event.clone() {
            Some(event) => machine.handle(step.at, event, &mut commands),
            None => machine.expire(step.at, &mut commands),
        }
        summary.steps += 1;
        summary.interrupted = step.digest.is_empty();
        let same = summary.interrupted || digest(&commands) == step.digest;
        if !same {
            summary.diverged.get_or_insert(summary.steps);
        }
        each(Played { step: &step, commands: &commands, same });
        commands.clear();
    }
    Ok(summary)
}

/// The seed of a head.
pub fn seed(head: &Head) -> Result<[u8; 32], String> {
    let byte = |i: usize| head.seed.get(2 * i..2 * i + 2).and_then(|two| u8::from_str_radix(two, 16).ok());
    let bytes: Option<Vec<u8>> = (0..32).map(byte).collect();
    bytes.and_then(|b| b.try_into().ok()).ok_or_else(|| "the recording's seed is not 32 bytes".to_owned())
}

/// A step as a few lines of a timeline: when, what happened, what machines did, what was asked for.
pub fn timeline(played: &Played<'_>) -> String {
    let mut text = format!("{:>12}  {}", since_start(played.step.at), event_text(played.step.event.as_ref()));
    if !played.same {
        text += "  ✗ not as recorded";
    }
    text.push('\n');
    for command in played.commands {
        let _ = match command {
            AgentCommand::Transition(t) => {
                writeln!(text, "{:14}{:?} {}: {} → {} ({})", "", t.owner, t.machine, t.from, t.to, t.event)
            }
            AgentCommand::Log(line) => writeln!(text, "{:14}log {:?} {}", "", line.level, line.text),
            AgentCommand::Call { id, call } => writeln!(text, "{:14}call {:?} {}", "", id, name(&format!("{:?}", call.operation))),
            other => writeln!(text, "{:14}{}", "", short(&format!("{other:?}"))),
        };
    }
    text
}

fn parse<T: serde::de::DeserializeOwned>(index: usize, line: &str) -> Result<T, ReplayError> {
    serde_json::from_str(line).map_err(|error| ReplayError::Line { line: index + 1, error })
}

fn since_start(at: Instant) -> String {
    let d = Duration::from_nanos(at.as_nanos());
    format!("+{}.{:06}s", d.as_secs(), d.subsec_micros())
}

fn event_text(event: Option<&AgentEvent>) -> String {
    event.map_or("timer".to_owned(), |e| short(&format!("{e:?}")))
}

/// A debug text at a length that fits a terminal.
fn short(text: &str) -> String {
    const LENGTH: usize = 160;
    if text.chars().count() <= LENGTH { text.to_owned() } else { text.chars().take(LENGTH - 1).chain(['…']).collect() }
}

/// The name of an enum's variant.
fn name(text: &str) -> &str {
    text.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default()
}
