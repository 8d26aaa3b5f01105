//! Which transitions runs make, against those that exist; and diagrams drawn from them.
//!
//! `sim/transitions.txt` lists the transitions that exist, one a line: all that some test of the core or some run has made. The
//! tests of the core fail while one that they make is missing there. `sim/coverage-exceptions.txt` gives the reason for each that
//! the simulated world cannot reach. `docs/lifecycles/` shows the rest.
//!
//! The machines are those of the agent. The executor runs in another process, and the control plane is the other end of the wire:
//! they have suites of their own.
//!
//! ```sh
//! cargo run --release -p ibex-sim -- coverage            # what is reached and what is not
//! cargo run --release -p ibex-sim -- diagram             # the drawings again
//! IBEX_LEARN_TRANSITIONS=1 cargo test -p ibex-core --lib # the list again, after a change of the core
//! ```

use crate::run::{Report, Step};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::PathBuf;

/// Transitions that runs made.
#[derive(Clone, Debug, Default)]
pub struct Coverage {
    seen: BTreeSet<Step>,
    runs: u64,
}

const LIST: &str = "transitions.txt";
const EXCEPTIONS: &str = "coverage-exceptions.txt";

fn file(name: &str) -> PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn line(step: &Step) -> String {
    format!("{}: {} --{}--> {}", step.0, step.1, step.2, step.3)
}

/// The lines of a list, without comments.
fn lines(name: &str) -> Result<Vec<String>, String> {
    let path = file(name);
    let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')).map(str::to_owned).collect())
}

/// The transitions that exist.
fn known() -> Result<BTreeSet<String>, String> {
    Ok(lines(LIST)?.into_iter().collect())
}

/// Those that no run can make, each with its reason.
fn excused() -> Result<BTreeMap<String, String>, String> {
    let known = known()?;
    let split = |l: String| match l.split_once('#') {
        Some((step, reason)) if !reason.trim().is_empty() => Ok((step.trim().to_owned(), reason.trim().to_owned())),
        _ => Err(format!("{EXCEPTIONS}: no reason is given in `{l}`")),
    };
    let excused: BTreeMap<String, String> = lines(EXCEPTIONS)?.into_iter().map(split).collect::<Result<_, _>>()?;
    match excused.keys().find(|step| !known.contains(*step)) {
        Some(step) => Err(format!("{EXCEPTIONS}: `{step}` is not in {LIST}")),
        None => Ok(excused),
    }
}

impl Coverage {
    /// Adds what a run made.
    pub fn add(&mut self, report: &Report) {
        self.runs += 1;
        self.seen.extend(&report.coverage);
    }

    /// Adds what other runs made.
    pub fn join(&mut self, others: &Coverage) {
        self.runs += others.runs;
        self.seen.extend(&others.seen);
    }

    /// The list of what was reached and what was not, and the share of the reachable ones that was, in percent.
    ///
    /// # Errors
    /// A list cannot be read, or an exception has no reason or names nothing that exists.
    pub fn table(&self) -> Result<(String, u64), String> {
        let (known, excused) = (known()?, excused()?);
        let seen: BTreeSet<String> = self.seen.iter().map(line).collect();
        let mut out = String::new();
        let _ = writeln!(out, "{} runs made {} transitions", self.runs, seen.len());
        let all: BTreeSet<&String> = known.union(&seen).collect();
        let mut machines: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
        for step in &all {
            let (made, exist) = machines.entry(step.split(':').next().unwrap_or_default()).or_default();
            *exist += 1;
            *made += u64::from(seen.contains(*step));
        }
        for (machine, (made, exist)) in machines {
            let _ = writeln!(out, "  {machine:<12} {made:>3} of {exist}");
        }
        let never: Vec<_> = known.iter().filter(|step| !seen.contains(*step) && !excused.contains_key(*step)).collect();
        let _ = writeln!(out, "not reached, without a reason: {}", never.len());
        for step in &never {
            let _ = writeln!(out, "  {step}");
        }
        let _ = writeln!(out, "not reached, with a reason:");
        for (step, reason) in excused.iter().filter(|(step, _)| !seen.contains(*step)) {
            let _ = writeln!(out, "  {step}  ({reason})");
        }
        for step in excused.keys().filter(|step| seen.contains(*step)) {
            let _ = writeln!(out, "reached after all, so {EXCEPTIONS} need not excuse it: {step}");
        }
        let new = seen.iter().filter(|s| !known.contains(*s)).count();
        if new > 0 {
            let _ = writeln!(out, "{new} made that are not in {LIST} (coverage --learn adds them)");
        }
        let share = |of: usize| (seen.len() as u64 * 100).checked_div(of as u64).unwrap_or(100);
        let unreachable = excused.keys().filter(|step| !seen.contains(*step)).count();
        let percent = share(all.len() - unreachable);
        let _ = writeln!(
            out,
            "{percent} % of the {} transitions that a run can make were reached ({} % of all {}, of which {unreachable} are excused)",
            all.len() - unreachable,
            share(all.len()),
            all.len()
        );
        Ok((out, percent))
    }

    /// Excused transitions that were made all the same.
    ///
    /// # Errors
    /// A list cannot be read, or an exception has no reason or names nothing that exists.
    pub fn excused_in_vain(&self) -> Result<Vec<String>, String> {
        let seen: BTreeSet<String> = self.seen.iter().map(line).collect();
        Ok(excused()?.into_keys().filter(|step| seen.contains(step)).collect())
    }

    /// Adds the transitions made to the list of those that exist.
    ///
    /// # Errors
    /// The list cannot be read or written.
    pub fn learn(&self) -> Result<(), String> {
        let mut known = known()?;
        known.extend(self.seen.iter().map(line));
        let text = "# Transitions that exist: made by a test of the core, or by a run of the simulator. Regenerated, not edited.\n".to_owned();
        let text = known.iter().fold(text, |text, line| text + line + "\n");
        std::fs::write(file(LIST), text).map_err(|e| format!("{LIST}: {e}"))
    }

    /// A mermaid diagram for each machine.
    pub fn diagrams(&self) -> Vec<(String, String)> {
        let lines: BTreeSet<String> = self.seen.iter().map(line).collect();
        draw(&lines)
    }
}

/// A mermaid diagram for each machine, of transitions as the lists have them.
fn draw(lines: &BTreeSet<String>) -> Vec<(String, String)> {
    let mut machines: BTreeMap<&str, BTreeMap<(&str, &str), BTreeSet<&str>>> = BTreeMap::new();
    let parts = |line: &'_ str| -> Option<(usize, usize, usize)> { Some((line.find(": ")?, line.find(" --")?, line.find("--> ")?)) };
    for line in lines {
        let Some((colon, event, to)) = parts(line) else { continue };
        let edge = (&line[colon + 2..event], &line[to + 4..]);
        machines.entry(&line[..colon]).or_default().entry(edge).or_default().insert(&line[event + 3..to]);
    }
    let id = |state: &str| state.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect::<String>();
    machines
        .into_iter()
        .map(|(machine, edges)| {
            let mut text = format!("# `{machine}`\n\nDrawn by `ibex-sim diagram` from transitions that runs made. Do not edit.\n\n");
            text.push_str("```mermaid\nstateDiagram-v2\n");
            let states: BTreeSet<&str> = edges.keys().flat_map(|(a, b)| [*a, *b]).collect();
            for state in states.iter().filter(|s| id(s) != **s) {
                let _ = writeln!(text, "  state \"{state}\" as {}", id(state));
            }
            for ((from, to), events) in edges {
                let events: Vec<&str> = events.into_iter().collect();
                let _ = writeln!(text, "  {} --> {}: {}", id(from), id(to), events.join(" / "));
            }
            text.push_str("```\n");
            (machine.to_owned(), text)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_exception_names_a_transition_that_exists_and_gives_a_reason() {
        let excused = excused().expect("the list is well-formed");
        let listed = lines(EXCEPTIONS).expect("the list can be read");
        assert_eq!(excused.len(), listed.len(), "each is named once");
        assert!(excused.values().all(|reason| reason.split_whitespace().count() >= 5), "a reason is a sentence");
    }

    /// Which transitions runs make only `ibex-sim coverage` knows, and it says that they are all that are listed and not excused.
    #[test]
    fn the_drawings_show_what_is_listed_and_not_excused() {
        let excused = excused().expect("the list is well-formed");
        let listed = known().expect("the list can be read");
        let drawn = draw(&listed.into_iter().filter(|line| !excused.contains_key(line)).collect());
        let directory = file("../docs/lifecycles");
        for (machine, text) in &drawn {
            let path = directory.join(format!("{machine}.md"));
            let there = std::fs::read_to_string(&path).unwrap_or_default();
            assert_eq!(&there, text, "{} is not what the lists say; redraw: cargo run --release -p ibex-sim -- diagram", path.display());
        }
        let files = std::fs::read_dir(&directory).expect("the directory is there").count();
        assert_eq!(files, drawn.len(), "a drawing of a machine that is not listed");
    }
}
