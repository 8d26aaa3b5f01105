//! Stories about the executor, told to the pure machine: a fake world answers its questions at once.

mod cancel;
mod contract;
mod order;
mod refusals;

use super::*;
use crate::agent::OsSignal;
use crate::machine::{Instant, Machine, RequestId};
use crate::process::ExitStatus;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// What a hook file does.
#[derive(Clone, Debug)]
struct Hook {
    kind: HookKind,
    end: ExitStatus,
    /// What it exports; `None` unsets.
    exports: Vec<(&'static str, Option<&'static str>)>,
    /// Where it ends; empty: where it began.
    dir: &'static str,
    /// It ends the shell itself.
    early: bool,
}

impl Default for Hook {
    fn default() -> Hook {
        Hook { kind: HookKind::Shell { shebang: None }, end: ExitStatus::Code(0), exports: Vec::new(), dir: "", early: false }
    }
}

fn ok() -> Hook {
    Hook::default()
}

fn failing(status: i32) -> Hook {
    Hook { end: ExitStatus::Code(status), ..ok() }
}

fn exporting(name: &'static str, value: &'static str) -> Hook {
    Hook { exports: vec![(name, Some(value))], ..ok() }
}

/// The world of one run.
struct Story {
    executor: Executor,
    now: Instant,
    hooks: BTreeMap<String, Hook>,
    directories: BTreeSet<String>,
    /// Files below the checkout that are executable.
    scripts: BTreeSet<String>,
    /// How the built-in command and `artifact upload` end.
    command: ExitStatus,
    upload: ExitStatus,
    /// Keep the process whose label is this running until it is told to end.
    hold: Option<&'static str>,
    /// What the file of `ssh` tells.
    ssh: Option<&'static str>,
    held: Option<RequestId>,
    /// What was written, and what was started, in order.
    lines: Vec<(LineKind, String)>,
    started: Vec<String>,
    /// Environment of the process started last.
    env: Env,
    signals: Vec<OsSignal>,
    events: VecDeque<ExecutorEvent>,
    exit: Option<(i32, Option<OsSignal>)>,
    vouched: bool,
}

const CHECKOUT: &str = "/checkout";

impl Story {
    /// Hooks by label: `A1 environment`, `A2 …`, `R …`.
    fn new(arguments: &[&str], hooks: &[(&str, Hook)]) -> Story {
        let env = [
            ("BUILDKITE_JOB_ID", "j"),
            ("BUILDKITE_REPO", "r"),
            ("BUILDKITE_COMMIT", "HEAD"),
            ("BUILDKITE_BRANCH", "main"),
            ("BUILDKITE_AGENT_NAME", "a"),
            ("BUILDKITE_ORGANIZATION_SLUG", "o"),
            ("BUILDKITE_PIPELINE_SLUG", "p"),
            ("BUILDKITE_PIPELINE_PROVIDER", "git"),
            ("BUILDKITE_HOOKS_PATH", "/a1"),
            ("BUILDKITE_ADDITIONAL_HOOKS_PATHS", "/a2"),
            ("BUILDKITE_BUILD_CHECKOUT_PATH", CHECKOUT),
            ("BUILDKITE_COMMAND", "make"),
            ("BUILDKITE_SKIP_CHECKOUT", "true"),
            ("BUILDKITE_AGENT_NO_JOB_API", "false"),
            ("BUILDKITE_SSH_KEYSCAN", "false"),
        ];
        let env: Env = env.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        let arguments: Vec<String> = arguments.iter().map(|a| (*a).to_owned()).collect();
        let at = Surroundings { home: None, start_dir: "/start".into(), temp_dir: "/tmp".into(), shell: "/bin/bash -e -c".into() };
        let settings = match Settings::parse(&arguments, &env, &at) {
            Ok(Request::Run(settings)) => *settings,
            other => panic!("{other:?}"),
        };
        let config = ExecutorConfig { settings, env, start_dir: "/start".into(), executable: "/agent".into() };
        let path = |label: &str| match label.split_once(' ') {
            Some(("A1", name)) => format!("/a1/{name}"),
            Some(("A2", name)) => format!("/a2/{name}"),
            Some(("R", name)) => format!("{CHECKOUT}/.buildkite/hooks/{name}"),
            _ => panic!("{label}"),
        };
        Story {
            executor: Executor::new(config),
            now: Instant::from_millis(1000),
            hooks: hooks.iter().map(|(label, hook)| (path(label), hook.clone())).collect(),
            directories: [CHECKOUT.to_owned()].into(),
            scripts: BTreeSet::new(),
            command: ExitStatus::Code(0),
            upload: ExitStatus::Code(0),
            hold: None,
            ssh: None,
            held: None,
            lines: Vec::new(),
            started: Vec::new(),
            env: Env::default(),
            signals: Vec::new(),
            events: VecDeque::new(),
            vouched: false,
            exit: None,
        }
    }

    /// Runs from the beginning until the end, or until the held process runs.
    fn run(mut self) -> Story {
        self.tell(ExecutorEvent::Begin);
        self
    }

    fn tell(&mut self, event: ExecutorEvent) {
        self.events.push_back(event);
        while let Some(event) = self.events.pop_front() {
            let mut out = Vec::new();
            self.executor.handle(self.now, event, &mut out);
            self.perform(out);
        }
    }

    fn signal(&mut self, signal: OsSignal) {
        self.tell(ExecutorEvent::Signal { signal, timed_out: false });
    }

    /// Lets time pass to the next deadline; how long that took, in milliseconds.
    fn expire(&mut self) -> u64 {
        let before = self.now;
        self.now = self.executor.deadline().expect("a timer is armed");
        let mut out = Vec::new();
        self.executor.expire(self.now, &mut out);
        self.perform(out);
        let took = u64::try_from(self.now.since(before).as_millis()).unwrap();
        while let Some(event) = self.events.pop_front() {
            self.tell(event);
        }
        took
    }

    /// The held process ends.
    fn end_held(&mut self, status: ExitStatus, group_alive: bool) {
        let id = self.held.take().expect("a process is held");
        self.hold = None;
        self.tell(ExecutorEvent::Process { id, event: ChildEvent::Exited { status, group_alive } });
        self.tell(ExecutorEvent::Process { id, event: ChildEvent::Ended { captured: String::new() } });
    }

    fn perform(&mut self, out: Vec<ExecutorCommand>) {
        for command in out {
            assert!(self.exit.is_none(), "{command:?} after Exit");
            match command {
                ExecutorCommand::Log { kind, text } => self.lines.push((kind, text)),
                ExecutorCommand::File { id, op } => {
                    let result = self.file(op);
                    self.events.push_back(ExecutorEvent::File { id, result });
                }
                ExecutorCommand::Exec { id, spec } => self.exec(id, &spec),
                ExecutorCommand::Signal { signal, .. } => self.signals.push(signal),
                ExecutorCommand::Vouch => self.vouched = true,
                ExecutorCommand::Exit { status, by_signal } => self.exit = Some((status, by_signal)),
                _ => {}
            }
        }
    }

    /// The hook whose wrapper or file is run, by path.
    fn hook_of(&self, argv: &[String]) -> Option<(String, Hook)> {
        let path = argv.last()?.trim_start_matches("wrapper:").to_owned();
        self.hooks.get(&path).map(|hook| (path, hook.clone()))
    }

    fn exec(&mut self, id: RequestId, spec: &ExecSpec) {
        self.env = spec.env.clone();
        let (label, status) = match self.hook_of(&spec.argv) {
            Some((path, hook)) => (self.label(&path), hook.end),
            None if spec.argv.get(1).is_some_and(|a| a == "artifact") => ("upload".to_owned(), self.upload),
            None => (spec.argv.last().cloned().unwrap_or_default(), self.command),
        };
        self.started.push(label.clone());
        if self.hold == Some(label.as_str()) {
            self.held = Some(id);
            return;
        }
        self.events.push_back(ExecutorEvent::Process { id, event: ChildEvent::Exited { status, group_alive: false } });
        self.events.push_back(ExecutorEvent::Process { id, event: ChildEvent::Ended { captured: String::new() } });
    }

    fn label(&self, path: &str) -> String {
        let (dir, name) = path.rsplit_once('/').unwrap();
        let source = match dir {
            "/a1" => "A1",
            "/a2" => "A2",
            _ => "R",
        };
        format!("{source} {name}")
    }

    fn file(&mut self, op: FileOp) -> FileResult {
        match op {
            FileOp::FindHook { dir, name, root } => {
                assert_eq!(root.is_some(), dir.ends_with("/.buildkite/hooks"), "repository hooks are confined, agent hooks are not");
                let path = format!("{dir}/{name}");
                FileResult::Found(self.hooks.contains_key(&path).then_some(path))
            }
            FileOp::ClassifyHook { path } => FileResult::Kind(self.hooks[&path].kind.clone()),
            FileOp::MakeWrapper { hook, .. } => {
                FileResult::Wrapper(Wrapper { dir: "/tmp/w".into(), script: format!("wrapper:{hook}"), before: "b".into(), after: "a".into() })
            }
            FileOp::TakeWrapper { wrapper } => {
                let (_, hook) = self.hook_of(std::slice::from_ref(&wrapper.script)).unwrap();
                let mut after = self.env.clone();
                for (name, value) in &hook.exports {
                    match value {
                        Some(value) => after.set(*name, *value),
                        None => after.unset(name),
                    }
                }
                after.set(HOOK_WORKING_DIR, if hook.dir.is_empty() { self.env.text("PWD").to_owned() } else { hook.dir.to_owned() });
                FileResult::Dumps(Box::new(WrapperDumps {
                    before: Ok(self.env.clone()),
                    after: (!hook.early).then_some(Ok(after)),
                    directory_exists: true,
                    script_exists: true,
                }))
            }
            FileOp::LookUp { program, .. } => FileResult::Found(Some(format!("/bin/{program}"))),
            FileOp::SshVersion { .. } => FileResult::Found(self.ssh.map(str::to_owned)),
            FileOp::Probe { path, base } => FileResult::Probed {
                file: match (self.directories.contains(&path), self.scripts.contains(&path)) {
                    (true, _) => FileKind::Directory,
                    (_, true) => FileKind::File,
                    _ => FileKind::Missing,
                },
                inside: path.starts_with(&base),
                executable: true,
            },
            FileOp::MakeDir { path } => {
                self.directories.insert(path);
                FileResult::Done
            }
            FileOp::MakeTempDir { parent, prefix } => {
                let path = format!("{parent}/{prefix}1");
                self.directories.insert(path.clone());
                FileResult::Found(Some(path))
            }
            FileOp::RemoveTree { path } => {
                self.directories.remove(&path);
                FileResult::Done
            }
            FileOp::MakeExecutable { .. } => FileResult::Done,
        }
    }

    fn status(&self) -> i32 {
        self.exit.unwrap_or_else(|| panic!("it has not ended: {:?}", self.executor)).0
    }

    fn has_line(&self, kind: LineKind, part: &str) -> bool {
        self.lines.iter().any(|(k, text)| *k == kind && text.contains(part))
    }

    fn assert_line(&self, kind: LineKind, part: &str) {
        assert!(self.has_line(kind, part), "no {kind:?} {part:?} in {:#?}", self.lines);
    }
}
