//! Which row of the two invariant tables is watched by what: start-and-worker §12 (I1…I63) and job-runner §11 (I1…I48).
//!
//! A property names the rows it watches beside its check ([`super::Invariant::rows`]); tests that watch a row are named in the tables of
//! this module. `ibex-sim invariants` writes both as `docs/invariants.md`.

mod runner;
mod start;

use super::ALL;
use crate::liveness;
use std::fmt::Write as _;

/// A row of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ref {
    /// Of start-and-worker §12.
    S(u8),
    /// Of job-runner §11.
    R(u8),
}

/// What runs when a row is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// A story or a table: one history each.
    Story,
    /// Every word, subset or interleaving of a small world.
    Explore,
    /// Random histories of the core alone, shrunk or fuzzed.
    Fuzz,
    /// The built binary, or the driver, with real processes.
    Real,
}

impl Tier {
    const ALL: [Tier; 4] = [Tier::Story, Tier::Explore, Tier::Fuzz, Tier::Real];

    fn name(self) -> &'static str {
        match self {
            Tier::Story => "story",
            Tier::Explore => "explore",
            Tier::Fuzz => "fuzz",
            Tier::Real => "real",
        }
    }
}

/// A test that fails if the row is broken.
#[derive(Clone, Copy, Debug)]
pub struct Test {
    /// What runs.
    pub tier: Tier,
    /// Its file, from the root of the repository.
    pub file: &'static str,
    /// Its function; empty for a fuzz target.
    pub name: &'static str,
}

const fn story(file: &'static str, name: &'static str) -> Test {
    Test { tier: Tier::Story, file, name }
}

const fn explore(file: &'static str, name: &'static str) -> Test {
    Test { tier: Tier::Explore, file, name }
}

const fn fuzz(file: &'static str, name: &'static str) -> Test {
    Test { tier: Tier::Fuzz, file, name }
}

const fn real(file: &'static str, name: &'static str) -> Test {
    Test { tier: Tier::Real, file, name }
}

/// A row.
pub struct Row {
    /// Its number.
    pub number: u8,
    /// What it says, in few words.
    pub text: &'static str,
    /// Tests that watch it, apart from the properties of the simulator.
    pub tests: &'static [Test],
}

/// Whether the simulator watches the row.
fn simulated(row: Ref) -> bool {
    ALL.iter().any(|i| i.rows.contains(&row)) || liveness::ROWS.contains(&row)
}

fn row_text(out: &mut String, row: &Row, of: fn(u8) -> Ref) {
    let mut properties: Vec<String> = ALL.iter().filter(|i| i.rows.contains(&of(row.number))).map(|i| format!("[{}](../{})", i.id, i.file)).collect();
    if liveness::ROWS.contains(&of(row.number)) {
        properties.push("[liveness](../sim/src/liveness.rs)".into());
    }
    let tests: Vec<String> = Tier::ALL
        .into_iter()
        .filter_map(|tier| {
            let of_tier = row.tests.iter().filter(|t| t.tier == tier).map(|t| match t.name {
                "" => format!("`{}`", t.file),
                name => format!("`{name}`"),
            });
            let of_tier: Vec<String> = of_tier.collect();
            (!of_tier.is_empty()).then(|| format!("{}: {}", tier.name(), of_tier.join(", ")))
        })
        .collect();
    let _ = writeln!(out, "| I{} | {} | {} | {} |", row.number, row.text, properties.join(", "), tests.join("; "));
}

/// How many rows each tier watches.
fn counts(out: &mut String) {
    out.push_str("| rows watched in | start-and-worker (63) | job-runner (48) |\n|---|---|---|\n");
    let in_runs = |of: fn(u8) -> Ref, rows: &[Row]| rows.iter().filter(|r| simulated(of(r.number))).count();
    let _ = writeln!(out, "| simulate | {} | {} |", in_runs(Ref::S, start::ROWS), in_runs(Ref::R, runner::ROWS));
    for tier in Tier::ALL {
        let count = |rows: &[Row]| rows.iter().filter(|r| r.tests.iter().any(|t| t.tier == tier)).count();
        let _ = writeln!(out, "| {} | {} | {} |", tier.name(), count(start::ROWS), count(runner::ROWS));
    }
}

/// `docs/invariants.md`.
pub fn document() -> String {
    let mut out = String::from(
        "# What watches which invariant\n\n\
         Written by `cargo run -p ibex-sim -- invariants`; a test fails when this file is not what the code says. Do not edit it.\n\n\
         Every property of the simulator is checked on every run: the random workload, the named scenarios and the stored schedules. Other\n\
         tiers are named by test function: **story** (one history each, `core/`), **explore** (every word or subset of a small world),\n\
         **fuzz** (random histories of the core, proptest and libFuzzer), **real** (the built binary, or the driver with real processes).\n\n",
    );
    counts(&mut out);
    out.push_str("\n## Properties of the simulator\n\n| property | | rule | rows |\n|---|---|---|---|\n");
    for i in ALL {
        let rows: Vec<String> = i
            .rows
            .iter()
            .map(|r| match r {
                Ref::S(n) => format!("S{n}"),
                Ref::R(n) => format!("R{n}"),
            })
            .collect();
        let _ = writeln!(out, "| [{}](../{}) | {} | {} | {} |", i.id, i.file, i.title, i.rule, rows.join(" "));
    }
    out.push_str(
        "\nLiveness, `sim/src/liveness.rs`: L1 the agent ends, L2 nothing is outstanding, L3 accepted jobs end, L4 queued jobs are taken.\n",
    );
    let head = "| row | what it says | simulate | other tiers |\n|---|---|---|---|\n";
    let _ = write!(out, "\n## Rows of start-and-worker §12 (S)\n\n{head}");
    start::ROWS.iter().for_each(|row| row_text(&mut out, row, Ref::S));
    let _ = write!(out, "\n## Rows of job-runner §11 (R)\n\n{head}");
    runner::ROWS.iter().for_each(|row| row_text(&mut out, row, Ref::R));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn root() -> PathBuf {
        PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
    }

    fn read(file: &str) -> String {
        std::fs::read_to_string(root().join(file)).unwrap_or_else(|e| panic!("{file}: {e}"))
    }

    #[test]
    fn the_document_is_what_the_code_says() {
        let written = read("docs/invariants.md");
        assert!(written == document(), "docs/invariants.md is not current: run `cargo run -p ibex-sim -- invariants`");
    }

    #[test]
    fn every_row_of_both_tables_is_there_once_and_watched() {
        for (rows, last, of) in [(start::ROWS, 63, Ref::S as fn(u8) -> Ref), (runner::ROWS, 48, Ref::R)] {
            let numbers: Vec<u8> = rows.iter().map(|r| r.number).collect();
            assert_eq!(numbers, (1..=last).collect::<Vec<_>>());
            for row in rows {
                let watched = !row.tests.is_empty() || simulated(of(row.number));
                assert!(watched && !row.text.is_empty(), "nothing watches {:?}", of(row.number));
            }
        }
        for r in ALL.iter().flat_map(|i| i.rows) {
            assert!(matches!(r, Ref::S(1..=63) | Ref::R(1..=48)), "{r:?} is no row");
        }
    }

    #[test]
    fn every_file_and_function_named_exists() {
        for i in ALL {
            assert!(read(i.file).contains(&format!("id: \"{}\"", i.id)), "{} is not in {}", i.id, i.file);
        }
        for test in start::ROWS.iter().chain(runner::ROWS).flat_map(|r| r.tests) {
            let text = read(test.file);
            assert!(test.name.is_empty() || text.contains(&format!("fn {}(", test.name)), "{} has no {}", test.file, test.name);
        }
    }

    #[test]
    fn every_property_of_the_chapter_on_races_is_there_but_the_one_about_secrets() {
        // V14 is about what the executor redacts, which no simulated process does: its rows are R26 and R27.
        let named: Vec<&str> = ALL.iter().map(|i| i.id).filter(|id| id.starts_with('V')).collect();
        let all: Vec<String> = (1..=16).filter(|n| *n != 14).map(|n| format!("V{n}")).collect();
        assert_eq!(named, all);
    }
}
