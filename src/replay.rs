//! `ibex replay`: plays a flight recording through the same decisions and shows what happened.

use crate::cli::{Failure, Invocation, Leaf, Run, Section, print};
use crate::flags::{Flag, Kind::Bool, flag};
use ibex_core::agent::Agent;
use ibex_io::recorder::Head;
use ibex_io::replay::{Summary, replay, seed, timeline};
use std::io::{BufReader, Write};
use std::sync::Arc;

static FLAGS: &[Flag] = &[flag("quiet", Bool, &[], "Print the verdict only")];

/// `replay`
pub(crate) static REPLAY: Leaf = Leaf {
    path: "replay",
    section: Section::Main,
    about: "Plays back what an agent recorded with start --record",
    usage: "<file> [options...]",
    description: "Feeds the recorded events to the same decisions that the agent made, prints them as a timeline, and checks\nthat the same commands come out. Exits with 0 if they do, with 1 if they do not.\n\nExample:\n\n    $ ibex replay /var/lib/ibex/agent-4711.ibexrec",
    flags: &[FLAGS],
    run: Run::Resolved(run),
};

fn run(call: &Invocation) -> Result<u8, Failure> {
    let path = call.required_argument(0, "file")?;
    let file = std::fs::File::open(path)
        .map_err(|e| Failure::Fatal(format!("could not open the recording {path}: {e}; recordings are made with start --record DIR")))?;
    let quiet = call.values.bool("quiet");
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let mut failed = None;
    let summary = replay(BufReader::new(file), machine, |played| {
        if !quiet && failed.is_none() {
            failed = write!(out, "{}", timeline(&played)).err();
        }
    });
    let flushed = out.flush();
    drop(out);
    let summary = summary.map_err(|e| Failure::Fatal(format!("{path}: {e}")))?;
    match failed.map_or(flushed, Err) {
        // Whoever closed the pipe has seen enough.
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => return Err(Failure::Fatal(format!("could not write to stdout: {e}"))),
        _ => {}
    }
    print(&verdict(&summary))?;
    Ok(u8::from(summary.diverged.is_some()))
}

/// The machine as it was when the recording began: new, or as it stood when the file was begun anew.
fn machine(head: &Head) -> Result<Agent, String> {
    match &head.state {
        Some(state) => serde_json::from_str(state.get()).map_err(|e| format!("the state at the beginning of the recording cannot be read: {e}")),
        None => Ok(Agent::new(Arc::new(head.config.clone()), head.clock, seed(head)?)),
    }
}

fn verdict(summary: &Summary) -> String {
    let end = if summary.interrupted { "; the agent died in the last one" } else { "" };
    match summary.diverged {
        None => format!("{} steps, all as recorded{end}\n", summary.steps),
        Some(at) => format!(
            "{} steps; from step {at} on the decisions are not those of the recording{end}: it was made by another version, or is damaged\n",
            summary.steps
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verdict_says_where_the_first_difference_is() {
        let same = Summary { steps: 3, diverged: None, interrupted: false };
        assert_eq!(verdict(&same), "3 steps, all as recorded\n");
        let other = Summary { diverged: Some(2), interrupted: true, ..same };
        assert!(verdict(&other).starts_with("3 steps; from step 2 on "));
    }
}
