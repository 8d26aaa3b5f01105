//! Which transitions runs make, against those that are known; and diagrams drawn from them.
//!
//! Known transitions are those that some run or some test of the core has made: `sim/transitions.txt`, one a line. Those that the
//! simulated world cannot reach stand in it with the reason behind `#`.

use crate::run::{Report, Step};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::PathBuf;

/// Transitions made, with the first run that made each.
#[derive(Clone, Debug, Default)]
pub struct Coverage {
    seen: BTreeMap<Step, (u64, String)>,
    runs: u64,
}

fn list() -> PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("transitions.txt")
}

fn line(step: &Step) -> String {
    format!("{}: {} --{}--> {}", step.0, step.1, step.2, step.3)
}

/// The known transitions, each with the reason why no run reaches it, if there is one.
fn known() -> Result<BTreeMap<String, String>, String> {
    let path = list();
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(e) => return Err(format!("{}: {e}", path.display())),
    };
    let lines = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'));
    Ok(lines
        .map(|l| match l.split_once('#') {
            Some((step, reason)) => (step.trim().to_owned(), reason.trim().to_owned()),
            None => (l.to_owned(), String::new()),
        })
        .collect())
}

impl Coverage {
    /// Adds what a run made.
    pub fn add(&mut self, name: &str, report: &Report) {
        self.runs += 1;
        for step in &report.coverage {
            let entry = self.seen.entry(*step).or_insert_with(|| (0, format!("{name} {}", report.schedule.seed)));
            entry.0 += 1;
        }
    }

    /// The list of what was reached and what was not, and the share of the reachable ones that was, in percent.
    ///
    /// # Errors
    /// The list of known transitions cannot be read.
    pub fn table(&self) -> Result<(String, u64), String> {
        let known = known()?;
        let seen: BTreeSet<String> = self.seen.keys().map(line).collect();
        let mut out = String::new();
        let _ = writeln!(out, "{} runs made {} transitions", self.runs, seen.len());
        let mut machines: BTreeMap<&str, u64> = BTreeMap::new();
        for step in self.seen.keys() {
            *machines.entry(step.0).or_default() += 1;
        }
        for (machine, n) in machines {
            let _ = writeln!(out, "  {machine:<12} {n}");
        }
        let missing: Vec<_> = known.iter().filter(|(step, _)| !seen.contains(*step)).collect();
        let (excused, never): (Vec<_>, Vec<_>) = missing.into_iter().partition(|(_, reason)| !reason.is_empty());
        if !never.is_empty() {
            let _ = writeln!(out, "never reached:");
        }
        for (step, _) in &never {
            let _ = writeln!(out, "  {step}");
        }
        if !excused.is_empty() {
            let _ = writeln!(out, "not reached, with a reason:");
        }
        for (step, reason) in &excused {
            let _ = writeln!(out, "  {step}  ({reason})");
        }
        let new: Vec<_> = seen.iter().filter(|s| !known.contains_key(*s)).collect();
        if !new.is_empty() {
            let _ = writeln!(out, "{} made that are not in the list of known ones (coverage --learn adds them)", new.len());
        }
        let all = (known.len() + new.len()) as u64;
        let percent = (seen.len() as u64 * 100).checked_div(all).unwrap_or(100);
        let _ = writeln!(out, "{percent} % of {all} known transitions were reached");
        Ok((out, percent))
    }

    /// Adds the transitions made to the list of known ones.
    ///
    /// # Errors
    /// The list cannot be read or written.
    pub fn learn(&self) -> Result<(), String> {
        let mut known = known()?;
        for step in self.seen.keys() {
            known.insert(line(step), String::new());
        }
        let mut text = String::from("# Transitions that runs or tests have made; behind `#` why the simulated world does not reach one.\n");
        for (step, reason) in known {
            let _ = if reason.is_empty() { writeln!(text, "{step}") } else { writeln!(text, "{step} # {reason}") };
        }
        std::fs::write(list(), text).map_err(|e| format!("{}: {e}", list().display()))
    }

    /// A mermaid diagram for each machine.
    pub fn diagrams(&self) -> Vec<(&'static str, String)> {
        let mut machines: BTreeMap<&'static str, BTreeMap<(&str, &str), BTreeSet<&str>>> = BTreeMap::new();
        for (machine, from, event, to) in self.seen.keys() {
            machines.entry(*machine).or_default().entry((*from, *to)).or_default().insert(*event);
        }
        let id = |state: &str| state.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect::<String>();
        machines
            .into_iter()
            .map(|(machine, edges)| {
                let mut text =
                    format!("# `{machine}`\n\nDrawn by `ibex-sim diagram` from transitions that runs made ({} runs). Do not edit.\n\n", self.runs);
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
                (machine, text)
            })
            .collect()
    }
}
