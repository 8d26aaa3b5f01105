//! The executor in the generic contract suite, and the invariants of bootstrap §20 on random histories.

use super::*;
use crate::rng::Rng;
use crate::testing::{World, check};

#[test]
fn the_executor_keeps_the_contract_of_machines() {
    check::<Random>(300);
}

/// A world in which anything may happen.
#[derive(Clone)]
struct Random {
    files: BTreeMap<RequestId, FileOp>,
    /// Processes, and whether their leader has ended.
    processes: BTreeMap<RequestId, bool>,
    /// Names of the hook points entered, by header.
    begun: bool,
    cancelled: bool,
    exits: u32,
}

impl World for Random {
    type Machine = Executor;
    type Id = RequestId;

    fn fresh(seed: u64) -> (Executor, Random) {
        let mut rng = Rng::from_seed(seed);
        let mut arguments: Vec<String> = vec!["--git-commit-verification=off".to_owned()];
        for (flag, value) in [
            ("artifact-upload-paths", "x"),
            ("clean-checkout", "true"),
            ("skip-checkout", "true"),
            ("command-eval", "false"),
            ("phases", "command"),
            ("pty", "false"),
            ("debug", "true"),
            ("hooks-shell", "sh -x"),
            ("cancel-signal", "SIGKILL"),
        ] {
            if rng.below(3) == 0 {
                arguments.push(format!("--{flag}={value}"));
            }
        }
        for required in ["job", "repository", "commit", "branch", "agent", "organization", "pipeline", "pipeline-provider"] {
            arguments.push(format!("--{required}=x"));
        }
        arguments.extend(["--hooks-path=/h", "--build-path=/b", "--command=make"].map(str::to_owned));
        let env: Env = [("A_TOKEN", "«9»"), ("PATH", "/bin")].iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        let at = Surroundings { home: None, start_dir: "/start".into(), temp_dir: "/tmp".into(), shell: "bash -c".into() };
        let Ok(Request::Run(settings)) = Settings::parse(&arguments, &env, &at) else { panic!("{arguments:?}") };
        let config = ExecutorConfig { settings: *settings, env, start_dir: "/start".into(), executable: "/agent".into() };
        let world = Random { files: BTreeMap::new(), processes: BTreeMap::new(), begun: false, cancelled: false, exits: 0 };
        (Executor::new(config), world)
    }

    fn starts(command: &ExecutorCommand) -> Option<RequestId> {
        match command {
            ExecutorCommand::File { id, .. } | ExecutorCommand::Exec { id, .. } => Some(*id),
            _ => None,
        }
    }

    fn completes(event: &ExecutorEvent) -> Option<RequestId> {
        match event {
            ExecutorEvent::File { id, .. } | ExecutorEvent::Process { id, event: ChildEvent::NotStarted(_) | ChildEvent::Ended { .. } } => Some(*id),
            _ => None,
        }
    }

    fn observe(&mut self, _: Instant, command: &ExecutorCommand) {
        // INV-2: nothing follows the exit.
        assert_eq!(self.exits, 0, "{command:?} after the exit");
        match command {
            ExecutorCommand::File { id, op } => {
                self.files.insert(*id, op.clone());
            }
            ExecutorCommand::Exec { id, .. } => {
                self.processes.insert(*id, false);
            }
            ExecutorCommand::Exit { .. } => self.exits += 1,
            _ => {}
        }
    }

    fn draw(&mut self, rng: &mut Rng, outstanding: &BTreeSet<RequestId>) -> Option<ExecutorEvent> {
        if rng.below(12) == 0 {
            self.cancelled = true;
            let signal = [OsSignal::Term, OsSignal::Quit, OsSignal::Usr1][rng.below(3) as usize];
            return Some(ExecutorEvent::Signal { signal, timed_out: rng.below(2) == 0 });
        }
        if !self.begun {
            self.begun = true;
            return Some(ExecutorEvent::Begin);
        }
        let id = *outstanding.iter().next()?;
        if let Some(op) = self.files.get(&id) {
            return Some(ExecutorEvent::File { id, result: answer(op, rng) });
        }
        let exited = self.processes.get_mut(&id)?;
        let event = match (*exited, rng.below(8)) {
            (false, 0) if self.cancelled => ChildEvent::NotStarted(StartFailure::Signalled),
            (false, 0) => ChildEvent::NotStarted(StartFailure::NoInterpreter("gone".into())),
            (false, 1) => ChildEvent::SignalFailed,
            (false, n) => {
                *exited = true;
                let status = if n == 2 { ExitStatus::Signal(15) } else { ExitStatus::Code((n % 2) as i32) };
                ChildEvent::Exited { status, group_alive: rng.below(2) == 0 }
            }
            (true, _) => ChildEvent::Ended { captured: "OpenSSH_9.2p1".into() },
        };
        Some(ExecutorEvent::Process { id, event })
    }

    fn finished(executor: &Executor) -> bool {
        executor.is_done()
    }

    fn sizes(executor: &Executor) -> Vec<(&'static str, usize, usize)> {
        vec![("sweeps", executor.job.sweeps.len(), 1), ("clean-up directories", executor.clean_up.len(), 1)]
    }
}

fn answer(op: &FileOp, rng: &mut Rng) -> FileResult {
    if rng.below(10) == 0 {
        return FileResult::Failed("no".into());
    }
    match op {
        FileOp::FindHook { dir, name, .. } => FileResult::Found((rng.below(2) == 0).then(|| format!("{dir}/{name}"))),
        FileOp::ClassifyHook { .. } => FileResult::Kind(match rng.below(4) {
            0 => HookKind::Script,
            1 => HookKind::Shell { shebang: Some("#!/bin/sh".into()) },
            _ => HookKind::Shell { shebang: None },
        }),
        FileOp::MakeWrapper { .. } => {
            FileResult::Wrapper(Wrapper { dir: "/w".into(), script: "/w/s".into(), before: "/w/b".into(), after: "/w/a".into() })
        }
        FileOp::TakeWrapper { .. } => {
            let mut after = Env::default();
            after.set("NEW", "«3»");
            after.set(HOOK_WORKING_DIR, "/d");
            FileResult::Dumps(Box::new(WrapperDumps {
                before: Ok(Env::default()),
                after: (rng.below(4) > 0).then_some(Ok(after)),
                directory_exists: rng.below(2) == 0,
                script_exists: true,
            }))
        }
        FileOp::SshVersion { .. } => FileResult::Found((rng.below(2) == 0).then(|| "OpenSSH_9.2p1".to_owned())),
        FileOp::LookUp { program, .. } => FileResult::Found((rng.below(2) == 0).then(|| format!("/bin/{program}"))),
        FileOp::Probe { .. } => FileResult::Probed {
            file: [FileKind::Missing, FileKind::Directory, FileKind::File][rng.below(3) as usize],
            inside: rng.below(2) == 0,
            executable: rng.below(2) == 0,
        },
        FileOp::MakeTempDir { .. } => FileResult::Found(Some("/t".into())),
        FileOp::MakeExecutable { .. } | FileOp::MakeDir { .. } | FileOp::RemoveTree { .. } => FileResult::Done,
    }
}
