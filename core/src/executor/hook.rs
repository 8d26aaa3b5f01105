//! One hook point: finds its hooks in order and runs them, until one fails (specification: bootstrap §5.1, §7).

use super::child::{Budget, Child, ChildEnd};
use super::failure::{Cause, Failure};
use super::job::Job;
use super::options::Opt;
use super::text::{LineKind, quote, relative_below};
use super::vocabulary::ExecutorEvent as Event;
use super::vocabulary::{ExecutorCommand, FileOp, FileResult, HookKind, StartFailure, Wrapper, WrapperDumps};
use crate::machine::{Instant, RequestId};
use crate::process::ExitStatus;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// When hooks run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) enum Point {
    Environment,
    PreCheckout,
    Checkout,
    PostCheckout,
    PreCommand,
    Command,
    PostCommand,
    PreArtifact,
    PostArtifact,
    PreExit,
}

impl Point {
    /// The name of its hook files.
    pub(super) fn name(self) -> &'static str {
        match self {
            Point::Environment => "environment",
            Point::PreCheckout => "pre-checkout",
            Point::Checkout => "checkout",
            Point::PostCheckout => "post-checkout",
            Point::PreCommand => "pre-command",
            Point::Command => "command",
            Point::PostCommand => "post-command",
            Point::PreArtifact => "pre-artifact",
            Point::PostArtifact => "post-artifact",
            Point::PreExit => "pre-exit",
        }
    }

    /// Whose hooks run, in order (bootstrap §5.1). The agent's own directories keep their order where scopes are reversed.
    fn sources(self, job: &Job) -> VecDeque<Source> {
        let first = job.settings.text(Opt::HooksPath);
        // W7: an empty path means no hooks, not hooks in the start directory.
        let dirs = std::iter::once(first).chain(job.settings.list(Opt::AdditionalHooksPaths).iter().map(String::as_str));
        let agent: Vec<Source> = dirs.filter(|dir| !dir.is_empty()).map(|dir| Source::Agent(dir.to_owned())).collect();
        let mut sources = VecDeque::from(agent);
        match self {
            Point::Environment | Point::PreCheckout | Point::Checkout => {}
            Point::PreCommand | Point::PreArtifact | Point::PostArtifact => sources.push_back(Source::Repository),
            Point::Command => sources.push_front(Source::Repository),
            Point::PostCheckout | Point::PostCommand | Point::PreExit => {
                if job.settings.experiment("legacy-post-hook-order") {
                    sources.push_back(Source::Repository);
                } else {
                    sources.push_front(Source::Repository);
                }
            }
        }
        sources
    }
}

/// Whose hook.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
enum Source {
    /// A hook directory of the agent.
    Agent(String),
    /// `.buildkite/hooks` below the checkout root.
    Repository,
}

/// A hook file that was found.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct Hook {
    scope: String,
    /// `<scope> <name>`.
    label: String,
    path: String,
}

/// A hook point that is being run.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct PointRun {
    pub(super) point: Point,
    budget: Budget,
    /// Still to be looked at.
    sources: VecDeque<Source>,
    /// A hook was found.
    ran: bool,
    stage: Stage,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
enum Stage {
    Finding { id: RequestId, source: Source },
    Classifying { id: RequestId, hook: Hook },
    Wrapping { id: RequestId, hook: Hook, shebang: Option<String> },
    FindingShell { id: RequestId, hook: Hook, wrapper: Wrapper },
    Running { child: Child, hook: Hook, how: How },
    Reading { id: RequestId, hook: Hook, shebang: Option<String>, script: String, end: ChildEnd },
    Over,
}

/// How a hook is run.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
enum How {
    Wrapped {
        wrapper: Wrapper,
        shebang: Option<String>,
    },
    /// `script` or `binary`.
    Unwrapped(String),
}

/// How a hook point ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PointEnd {
    pub(super) result: Result<(), Failure>,
    /// A hook was found, whatever became of it.
    pub(super) ran: bool,
}

impl PointRun {
    /// Starts the point; it may be over at once.
    pub(super) fn start(job: &mut Job, point: Point, budget: Budget, out: &mut Vec<ExecutorCommand>) -> (PointRun, Option<PointEnd>) {
        let mut run = PointRun { point, budget, sources: point.sources(job), ran: false, stage: Stage::Over };
        let end = run.next(job, out);
        (run, end)
    }

    /// Looks at the next source; the end when there is none.
    fn next(&mut self, job: &mut Job, out: &mut Vec<ExecutorCommand>) -> Option<PointEnd> {
        while let Some(source) = self.sources.pop_front() {
            let (dir, root) = match (&source, &job.root) {
                (Source::Agent(dir), _) => (dir.clone(), None),
                // W3: without a checkout root there are no repository hooks.
                (Source::Repository, None) => continue,
                (Source::Repository, Some(root)) => (format!("{}/.buildkite/hooks", root.trim_end_matches('/')), Some(root.clone())),
            };
            let id = job.file(out, FileOp::FindHook { dir, name: self.point.name().to_owned(), root });
            self.stage = Stage::Finding { id, source };
            return None;
        }
        // A cancellable point that ends after the cancellation has not succeeded (bootstrap §14.3).
        let refused = self.budget == Budget::Cancellable && job.cancel.is_some();
        Some(self.end(if refused { Err(Failure::cancelled()) } else { Ok(()) }))
    }

    fn end(&mut self, result: Result<(), Failure>) -> PointEnd {
        self.stage = Stage::Over;
        PointEnd { result, ran: self.ran }
    }

    pub(super) fn cancel(&mut self, job: &Job, now: Instant, out: &mut Vec<ExecutorCommand>) {
        if let Stage::Running { child, .. } = &mut self.stage {
            child.cancel(job, now, out);
        }
    }

    pub(super) fn deadline(&self, job: &Job) -> Option<Instant> {
        if let Stage::Running { child, .. } = &self.stage { child.deadline(job) } else { None }
    }

    pub(super) fn expire(&mut self, job: &Job, now: Instant, out: &mut Vec<ExecutorCommand>) {
        if let Stage::Running { child, .. } = &mut self.stage {
            child.expire(job, now, out);
        }
    }

    pub(super) fn handle(&mut self, job: &mut Job, now: Instant, event: Event, out: &mut Vec<ExecutorCommand>) -> Option<PointEnd> {
        match (std::mem::replace(&mut self.stage, Stage::Over), event) {
            // bootstrap §7.1
            (Stage::Finding { id, source }, Event::File { id: got, result }) if id == got => match result {
                FileResult::Found(Some(path)) => self.found(job, now, source, path, out),
                FileResult::Failed(why) => Some(self.end(Err(Failure::other(why)))),
                _ => self.next(job, out),
            },
            // bootstrap §7.5
            (Stage::Classifying { id, hook }, Event::File { id: got, result }) if id == got => match result {
                FileResult::Kind(kind) => self.classified(job, now, hook, kind, out),
                FileResult::Failed(why) => Some(self.end(Err(Failure::other(why)))),
                other => Some(self.end(Err(unexpected(&other)))),
            },
            // bootstrap §7.6
            (Stage::Wrapping { id, hook, shebang }, Event::File { id: got, result }) if id == got => match result {
                FileResult::Wrapper(wrapper) => self.wrapped(job, now, hook, wrapper, shebang, out),
                FileResult::Failed(why) => Some(self.end(Err(Failure::other(why).context(&running(&hook, "shell"))))),
                other => Some(self.end(Err(unexpected(&other)))),
            },
            (Stage::FindingShell { id, hook, wrapper }, Event::File { id: got, result }) if id == got => {
                let argv = match result {
                    FileResult::Found(Some(bash)) => vec![bash, wrapper.script.clone()],
                    _ => {
                        let text = "Couldn't find bash (exec: \"bash\": executable file not found in $PATH). Attempting to fall back to sh. \
                                    This may cause issues for hooks and plugins that assume Bash features.";
                        job.log(out, LineKind::Warning, text);
                        vec!["sh".to_owned(), wrapper.script.clone()]
                    }
                };
                self.run_wrapped(job, now, argv, hook, wrapper, None, out);
                None
            }
            (Stage::Running { mut child, hook, how }, Event::Process { id, event }) if id == child.id() => match child.handle(job, now, event, out) {
                Some(end) => self.ran_hook(job, end, hook, how, out),
                None => {
                    self.stage = Stage::Running { child, hook, how };
                    None
                }
            },
            (Stage::Reading { id, hook, shebang, script, end }, Event::File { id: got, result }) if id == got => {
                let dumps = match result {
                    FileResult::Dumps(dumps) => *dumps,
                    FileResult::Failed(why) => {
                        WrapperDumps { before: Err(why.clone()), after: Some(Err(why)), directory_exists: false, script_exists: false }
                    }
                    other => return Some(self.end(Err(unexpected(&other)))),
                };
                match self.outcome(job, &hook, shebang.as_deref(), &script, end, dumps, out) {
                    Ok(()) => self.next(job, out),
                    Err(failure) => Some(self.end(Err(failure.context(&running(&hook, "shell"))))),
                }
            }
            (stage, _) => {
                self.stage = stage;
                job.late += 1;
                None
            }
        }
    }

    fn found(&mut self, job: &mut Job, now: Instant, source: Source, path: String, out: &mut Vec<ExecutorCommand>) -> Option<PointEnd> {
        let scope = match source {
            Source::Agent(_) => "agent",
            Source::Repository => "repository",
        };
        if source == Source::Repository {
            // bootstrap §7.3: refused, not skipped.
            let refused = matches!(job.env.text("BUILDKITE_NO_LOCAL_HOOKS"), "true" | "1");
            if refused || !job.settings.flag(Opt::LocalHooksEnabled) {
                self.ran = true;
                return Some(self.end(Err(Failure::other(format!("refusing to run {path}, local hooks are disabled")))));
            }
            if self.point == Point::Command {
                self.sources.clear(); // The agent's own command hooks give way (bootstrap §5.1).
            }
        }
        self.ran = true;
        if let Err(refused) = job.admit(self.budget, now) {
            return Some(self.end(Err(refused)));
        }
        let hook = Hook { scope: scope.to_owned(), label: format!("{scope} {}", self.point.name()), path };
        job.log(out, LineKind::Header, format!("Running {} hook", hook.label));
        let id = job.file(out, FileOp::ClassifyHook { path: hook.path.clone() });
        self.stage = Stage::Classifying { id, hook };
        None
    }

    fn classified(&mut self, job: &mut Job, now: Instant, hook: Hook, kind: HookKind, out: &mut Vec<ExecutorCommand>) -> Option<PointEnd> {
        let unwrapped = match kind {
            HookKind::Shell { shebang: None } if hook.path.ends_with(".ps1") => {
                let text = "this version of the agent cannot run PowerShell hooks without a `#!` line; start the file with `#!/usr/bin/env pwsh`";
                return Some(self.end(Err(Failure::other(text).context(&running(&hook, "shell")))));
            }
            HookKind::Shell { shebang } => {
                let op = FileOp::MakeWrapper { hook: hook.path.clone(), shebang: shebang.clone(), temp_dir: job.temp_dir() };
                let id = job.file(out, op);
                self.stage = Stage::Wrapping { id, hook, shebang };
                return None;
            }
            HookKind::Script => "script",
            HookKind::Binary => "binary",
        };
        // bootstrap §7.7
        let argv = vec![hook.path.clone()];
        let extra =
            [("BUILDKITE_HOOK_PHASE", self.point.name()), ("BUILDKITE_HOOK_PATH", hook.path.as_str()), ("BUILDKITE_HOOK_SCOPE", hook.scope.as_str())];
        let spec = job.exec(argv.clone(), &extra);
        job.show_prompt(out, &argv);
        match Child::start(job, now, spec, self.budget, out) {
            Ok(child) => {
                self.stage = Stage::Running { child, hook, how: How::Unwrapped(unwrapped.to_owned()) };
                None
            }
            Err(refused) => Some(self.end(Err(refused))),
        }
    }

    fn wrapped(
        &mut self,
        job: &mut Job,
        now: Instant,
        hook: Hook,
        wrapper: Wrapper,
        shebang: Option<String>,
        out: &mut Vec<ExecutorCommand>,
    ) -> Option<PointEnd> {
        job.debug(out, || format!("A hook runner was written to {} with the following:", quote(&wrapper.script)));
        let words = job.settings.text(Opt::HooksShell);
        if !words.trim().is_empty() {
            // Words that do not split are taken as one: the look-up then names them.
            let mut argv = shlex::split(words).unwrap_or_else(|| vec![words.to_owned()]);
            argv.push(wrapper.script.clone());
            self.run_wrapped(job, now, argv, hook, wrapper, shebang, out);
        } else if shebang.is_some() {
            let argv = vec![wrapper.script.clone()];
            self.run_wrapped(job, now, argv, hook, wrapper, shebang, out);
        } else {
            let id = job.file(out, FileOp::LookUp { program: "bash".to_owned(), path: job.env.text("PATH").to_owned() });
            self.stage = Stage::FindingShell { id, hook, wrapper };
        }
        None
    }

    #[allow(clippy::too_many_arguments, reason = "what a run consists of; a struct would only be taken apart again")]
    fn run_wrapped(
        &mut self,
        job: &mut Job,
        now: Instant,
        argv: Vec<String>,
        hook: Hook,
        wrapper: Wrapper,
        shebang: Option<String>,
        out: &mut Vec<ExecutorCommand>,
    ) {
        let shown = relative_below(&hook.path, &job.wd).unwrap_or(&hook.path).to_owned();
        job.show_prompt(out, &[shown]);
        let spec = job.exec(argv, &[]);
        self.stage = match Child::start(job, now, spec, self.budget, out) {
            Ok(child) => Stage::Running { child, hook, how: How::Wrapped { wrapper, shebang } },
            Err(_) => {
                let script = wrapper.script.clone();
                let id = job.file(out, FileOp::TakeWrapper { wrapper });
                Stage::Reading { id, hook, shebang, script, end: ChildEnd::Refused }
            }
        };
    }

    fn ran_hook(&mut self, job: &mut Job, end: ChildEnd, hook: Hook, how: How, out: &mut Vec<ExecutorCommand>) -> Option<PointEnd> {
        // After every hook: what is withheld can no longer become a secret (W13).
        out.push(ExecutorCommand::Flush);
        let kind = match how {
            How::Wrapped { wrapper, shebang } => {
                let script = wrapper.script.clone();
                let id = job.file(out, FileOp::TakeWrapper { wrapper });
                self.stage = Stage::Reading { id, hook, shebang, script, end };
                return None;
            }
            How::Unwrapped(kind) => kind,
        };
        let failure = match end {
            ChildEnd::Refused => Some(Failure::cancelled()),
            ChildEnd::NotStarted(why) => Some(job.start_failure(out, &why)),
            ChildEnd::Exited { status, .. } => Failure::of_process(status),
        };
        match failure {
            None => {
                job.refresh(out);
                self.next(job, out)
            }
            Some(failure) => Some(self.end(Err(failure.context(&running(&hook, &kind))))),
        }
    }

    /// The outcome table of bootstrap §7.6.
    #[allow(clippy::too_many_arguments, reason = "the columns of the table")]
    fn outcome(
        &self,
        job: &mut Job,
        hook: &Hook,
        shebang: Option<&str>,
        script: &str,
        end: ChildEnd,
        dumps: WrapperDumps,
        out: &mut Vec<ExecutorCommand>,
    ) -> Result<(), Failure> {
        let status = match end {
            ChildEnd::Refused => return Err(Failure::cancelled()),
            ChildEnd::NotStarted(why) => {
                job.env.set(LAST_HOOK_EXIT_STATUS, "1");
                if matches!(why, StartFailure::NoInterpreter(_)) {
                    let reason = match (shebang, dumps.script_exists) {
                        (Some(shebang), true) => {
                            format!("the script interpreter {} is missing", quote(shebang.trim_start_matches("#!").trim()))
                        }
                        _ => format!("the wrapper script {} was spontaneously deleted", quote(script)),
                    };
                    job.log(out, LineKind::Error, format!("The {} hook failed to run - perhaps {reason}", hook.label));
                }
                return Err(job.start_failure(out, &why));
            }
            ChildEnd::Exited { status: ExitStatus::Code(code), .. } => code,
            ChildEnd::Exited { status: ExitStatus::Signal(_), .. } => -1,
        };
        job.env.set(LAST_HOOK_EXIT_STATUS, status.to_string());
        if status != 0 {
            let text = format!("the {} hook exited with status {status}", hook.label);
            return Err(Failure { text, cause: Cause::Hook(status) });
        }
        match (dumps.before, dumps.after) {
            // The hook ended the shell itself: its changes are unknown (W4: those made elsewhere count).
            (_, None) => {
                job.refresh(out);
            }
            (Ok(before), Some(Ok(after))) => job.apply_hook(out, &before, &after, dumps.directory_exists),
            (Err(why), _) | (_, Some(Err(why))) => return Err(Failure::other(format!("failed to get environment: {why}"))),
        }
        Ok(())
    }
}

/// Visible to later hooks (bootstrap §7.10).
const LAST_HOOK_EXIT_STATUS: &str = "BUILDKITE_LAST_HOOK_EXIT_STATUS";

fn running(hook: &Hook, kind: &str) -> String {
    format!("running {} {kind} hook", quote(&hook.label))
}

/// A driver's answer of the wrong kind.
fn unexpected(result: &FileResult) -> Failure {
    Failure::other(format!("unexpected result {result:?}"))
}
