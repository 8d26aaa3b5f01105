//! What came of a build, for the table at the end and for the exit code.

use comfy_table::{Cell, Color, Table, presets};
use ibex_core::machine::Instant;
use ibex_core::pipeline::StepSpec;
use ibex_core::plane::{BuildState, JobState, Plane, PlaneBuild, PlaneJob, StepOutcome, StepState};
use ibex_core::retry::duration_text;
use std::time::Duration;

/// A finished build.
#[derive(Clone, Debug)]
pub(super) struct Summary {
    /// Its state.
    pub(super) state: BuildState,
    rows: Vec<Row>,
}

#[derive(Clone, Debug)]
struct Row {
    name: String,
    result: String,
    good: Option<bool>,
    exit: String,
    took: String,
}

impl Summary {
    /// Of the plane's only build.
    pub(super) fn of(plane: &Plane, build: &PlaneBuild) -> Summary {
        let commands = build.steps.iter().filter(|s| !s.removed && matches!(s.spec, StepSpec::Command(_)));
        let rows = commands.flat_map(|s| s.jobs.iter().map(move |j| row(&plane.jobs()[*j], s.spec.title(), s.state)));
        Summary { state: build.state, rows: rows.collect() }
    }

    /// Exit status of the run (local-control-plane §8.3, a decision).
    pub(super) fn exit_code(&self) -> u8 {
        match self.state {
            BuildState::Passed | BuildState::NotRun => 0,
            _ => 1,
        }
    }

    /// The table, and a line that names what failed.
    pub(super) fn text(&self, plain: bool) -> String {
        let mut table = Table::new();
        table.load_style(if plain { presets::ASCII_BORDERS_ONLY_CONDENSED } else { presets::UTF8_BORDERS_ONLY });
        table.set_header(["step", "result", "exit", "time"]);
        for row in &self.rows {
            let result = Cell::new(&row.result);
            let result = match row.good.filter(|_| !plain) {
                Some(true) => result.fg(Color::Green),
                Some(false) => result.fg(Color::Red),
                None => result,
            };
            table.add_row([Cell::new(&row.name), result, Cell::new(&row.exit), Cell::new(&row.took)]);
        }
        let bad: Vec<&str> = self.rows.iter().filter(|r| r.good == Some(false)).map(|r| r.name.as_str()).collect();
        let names = if bad.is_empty() { String::new() } else { format!(": {}", bad.join(", ")) };
        let verdict = match self.state {
            BuildState::Passed => "Build passed".to_owned(),
            BuildState::NotRun => "Nothing was run: every step is skipped or excluded".to_owned(),
            BuildState::Canceled => "Build canceled".to_owned(),
            _ => format!("Build failed{names}"),
        };
        format!("{table}\n{verdict}\n")
    }
}

fn row(job: &PlaneJob, title: &str, step: StepState) -> Row {
    let (result, good) = result(job, step);
    Row {
        name: name(job, title),
        result,
        good,
        exit: job.state.report().map_or(String::new(), |r| if r.signal.is_empty() { r.exit_status.to_string() } else { r.signal.clone() }),
        took: took(job).map_or(String::new(), duration_text),
    }
}

/// What people call a job: its label or its step's title, which of the parallel ones, which retry.
pub(super) fn name(job: &PlaneJob, title: &str) -> String {
    let mut name = if job.label.is_empty() { title.to_owned() } else { job.label.clone() };
    if let Some((i, n)) = job.parallel
        && job.label == title
    {
        name = format!("{name} {}/{n}", i + 1);
    }
    if job.retry_count > 0 {
        name = format!("{name} (retry {})", job.retry_count);
    }
    name
}

/// The result of a job in words, and whether it is a good or a bad one.
pub(super) fn result(job: &PlaneJob, step: StepState) -> (String, Option<bool>) {
    match &job.state {
        JobState::Finished(r) if r.exit_status == 0 => ("passed".into(), Some(true)),
        _ if job.retried_by.is_some() => ("failed, retried".into(), None),
        JobState::Finished(_) | JobState::TimedOut(_) if step == StepState::Finished(StepOutcome::SoftFailed) => ("soft-failed".into(), None),
        JobState::TimedOut(_) => ("timed out".into(), Some(false)),
        JobState::Finished(_) => ("failed".into(), Some(false)),
        JobState::WaitingFailed => ("not run: a dependency failed".into(), None),
        JobState::Broken => ("excluded".into(), None),
        state => (state.name().into(), None),
    }
}

/// Time from start to end, to the tenth of a second, or below a second to the hundredth.
pub(super) fn took(job: &PlaneJob) -> Option<Duration> {
    let end: Instant = job.state.report()?.at;
    let ms = u64::try_from(end.since(job.started_at?).as_millis()).unwrap_or(u64::MAX);
    let step = if ms < 1000 { 10 } else { 100 };
    Some(Duration::from_millis(ms / step * step))
}
