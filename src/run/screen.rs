//! What a run shows while it runs: every job's log, line by line with the job's name before it, or one JSON object per event.

use super::lines::Lines;
use super::summary::{Summary, name, result, took};
use ibex_core::plane::{Plane, PlaneCommand, PlaneJob};
use ibex_core::retry::duration_text;
use ibex_io::plane_server::Watcher;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Longest name before a line.
const NAME_CHARACTERS: usize = 28;
/// What jobs print to have the section before it opened.
const OPEN_SECTION: &str = "^^^ +++";
/// Between two looks of the spinner.
const SPIN: Duration = Duration::from_millis(120);
const COLOURS: [anstyle::AnsiColor; 6] = [
    anstyle::AnsiColor::Cyan,
    anstyle::AnsiColor::Magenta,
    anstyle::AnsiColor::Yellow,
    anstyle::AnsiColor::Blue,
    anstyle::AnsiColor::Green,
    anstyle::AnsiColor::BrightCyan,
];

/// What the run must know of what the plane decided.
#[derive(Debug)]
pub(super) enum News {
    /// The build exists.
    Created(Arc<str>),
    /// There is no build.
    Refused(String),
    /// An agent is there.
    Agent(Arc<str>),
    /// No agent of this run can run this job.
    Unrunnable(String),
    /// The build is over.
    Finished(Summary),
}

/// How things are shown.
#[derive(Clone, Copy, Debug)]
pub(super) struct Style {
    /// One JSON object per event.
    pub(super) json: bool,
    /// No colours, no escape sequences.
    pub(super) plain: bool,
    /// A line on stderr that tells what runs.
    pub(super) progress: bool,
}

impl Style {
    /// Of this terminal, or of none.
    pub(super) fn detect(json: bool) -> Style {
        let plain = !std::io::stdout().is_terminal() || std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
        Style { json, plain, progress: !json && std::io::stderr().is_terminal() }
    }
}

/// Watches the plane and writes.
pub(super) struct Screen {
    style: Style,
    news: mpsc::Sender<News>,
    workers: usize,
    jobs: BTreeMap<Arc<str>, Lines>,
    told_unrunnable: BTreeSet<Arc<str>>,
    bar: Option<ProgressBar>,
}

impl Screen {
    /// A screen for a pool of `workers`.
    pub(super) fn new(style: Style, workers: usize, news: mpsc::Sender<News>) -> Screen {
        let bar = style.progress.then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.set_style(ProgressStyle::with_template("{spinner} {wide_msg}").unwrap_or_else(|_| ProgressStyle::default_spinner()));
            bar.enable_steady_tick(SPIN);
            bar
        });
        Screen { style, news, workers, jobs: BTreeMap::new(), told_unrunnable: BTreeSet::new(), bar }
    }

    /// The run hears of it at the latest when the build is over; these are few.
    fn tell(&self, news: News) {
        let _ = self.news.try_send(news);
    }

    fn log(&mut self, plane: &Plane, id: &Arc<str>, offset: u64, data: &[u8], out: &mut String) {
        let Some(job) = plane.job(id) else { return };
        if self.style.json {
            let text = String::from_utf8_lossy(data);
            line(out, &json!({"event": "log", "job": id, "step": step_name(plane, job), "offset": offset, "data": text}).to_string());
            return;
        }
        let lines = self.jobs.entry(id.clone()).or_default().push(data, self.style.plain);
        // `^^^ +++` opens a section on a web page; it means nothing here.
        for text in lines.iter().filter(|l| *l != OPEN_SECTION) {
            line(out, &format!("{} {text}", self.prefix(plane, job)));
        }
    }

    fn changed(&mut self, plane: &Plane, id: &Arc<str>, state: &'static str, out: &mut String) {
        let Some(job) = plane.job(id) else { return };
        let report = job.state.report();
        if self.style.json {
            let exit = report.map(|r| r.exit_status);
            line(out, &json!({"event": "job", "job": id, "step": step_name(plane, job), "state": state, "exit_status": exit}).to_string());
            return;
        }
        let prefix = self.prefix(plane, job);
        if let Some(text) = self.jobs.get_mut(id).filter(|_| job.state.is_terminal()).and_then(|l| l.finish(self.style.plain)) {
            line(out, &format!("{prefix} {text}"));
        }
        let text = match (state, report) {
            ("running", _) => "started".to_owned(),
            ("canceling", _) => "canceling".to_owned(),
            ("timing_out", _) => "ran too long, stopping".to_owned(),
            (_, Some(r)) if job.state.is_terminal() => {
                let step = plane.builds()[job.build].steps[job.step].state;
                let time = took(job).map_or(String::new(), |t| format!(" in {}", duration_text(t)));
                match result(job, step) {
                    (word, Some(true)) => format!("{word}{time}"),
                    (word, _) => format!("{word}{time}, exit status {}", r.exit_status),
                }
            }
            _ => return,
        };
        line(out, &format!("{prefix} {}", self.dimmed(&format!("-- {text}"))));
    }

    fn dimmed(&self, text: &str) -> String {
        if self.style.plain {
            return text.to_owned();
        }
        let style = anstyle::Style::new().bold();
        format!("{style}{text}{style:#}")
    }

    /// The name of a job, as wide as the longest name of the build, in the colour of its step.
    fn prefix(&self, plane: &Plane, job: &PlaneJob) -> String {
        let build = &plane.builds()[job.build];
        let of = |job: &PlaneJob| -> String { step_name(plane, job).chars().take(NAME_CHARACTERS).collect() };
        let jobs = build.steps.iter().flat_map(|s| &s.jobs).map(|j| &plane.jobs()[*j]);
        let width = jobs.map(|j| of(j).chars().count()).max().unwrap_or(0);
        let text = format!("{:width$} |", of(job));
        if self.style.plain {
            return text;
        }
        let style = anstyle::Style::new().fg_color(Some(COLOURS[job.step % COLOURS.len()].into()));
        format!("{style}{text}{style:#}")
    }

    fn progress(&self, plane: &Plane) {
        let (Some(bar), Some(build)) = (&self.bar, plane.builds().last()) else { return };
        let jobs: Vec<&PlaneJob> = build.steps.iter().flat_map(|s| &s.jobs).map(|j| &plane.jobs()[*j]).collect();
        let running: Vec<String> = jobs.iter().filter(|j| j.state.is_active()).map(|j| step_name(plane, j)).collect();
        let done = jobs.iter().filter(|j| j.state.is_terminal()).count();
        bar.set_message(format!("{done}/{} done, {} running: {}", jobs.len(), running.len(), running.join(", ")));
        if build.state.is_terminal() {
            bar.finish_and_clear();
        }
    }

    /// A job that nobody here can run would wait for ever (local-control-plane §5.2, a decision).
    fn look_for_unrunnable(&mut self, plane: &Plane) {
        if plane.agents().len() < self.workers {
            return;
        }
        for job in plane.unrunnable_jobs() {
            if self.told_unrunnable.insert(job.id.clone()) {
                self.tell(News::Unrunnable(step_name(plane, job)));
            }
        }
    }
}

impl Watcher for Screen {
    fn decided(&mut self, plane: &Plane, commands: &[PlaneCommand]) {
        let mut out = String::new();
        for command in commands {
            match command {
                PlaneCommand::BuildCreated { build } => self.tell(News::Created(build.clone())),
                PlaneCommand::BuildRefused { message } => self.tell(News::Refused(message.clone())),
                PlaneCommand::JobLog { job, offset, data } => self.log(plane, job, *offset, data, &mut out),
                PlaneCommand::JobChanged { job, state } => self.changed(plane, job, state, &mut out),
                PlaneCommand::AgentChanged { agent, state: "connected" } => self.tell(News::Agent(agent.clone())),
                PlaneCommand::BuildFinished { build, state } => {
                    if self.style.json {
                        line(&mut out, &json!({"event": "build", "build": build, "state": state}).to_string());
                    }
                    if let Some(build) = plane.build(build) {
                        self.tell(News::Finished(Summary::of(plane, build)));
                    }
                }
                PlaneCommand::AgentChanged { .. }
                | PlaneCommand::Transition(_)
                | PlaneCommand::Respond { .. }
                | PlaneCommand::StreamStart { .. }
                | PlaneCommand::StreamSend { .. }
                | PlaneCommand::StreamEnd { .. } => {}
            }
        }
        self.look_for_unrunnable(plane);
        self.progress(plane);
        if out.is_empty() {
            return;
        }
        // A closed stdout leaves nobody to tell.
        let write = || {
            let mut stdout = std::io::stdout().lock();
            let _ = stdout.write_all(out.as_bytes()).and_then(|()| stdout.flush());
        };
        match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }
}

fn step_name(plane: &Plane, job: &PlaneJob) -> String {
    name(job, plane.builds()[job.build].steps[job.step].spec.title())
}

fn line(out: &mut String, text: &str) {
    out.push_str(text);
    out.push('\n');
}
