//! A job for `ibex bootstrap` in a directory of its own, run with bounds on every wait.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// Bound of every wait.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// A job to be.
pub(crate) struct Job {
    dir: tempfile::TempDir,
    env: BTreeMap<String, String>,
    arguments: Vec<String>,
}

impl Job {
    pub(crate) fn new(command: &str) -> Job {
        let dir = tempfile::tempdir().unwrap();
        for name in ["hooks", "tmp"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        let job = Job { dir, env: BTreeMap::new(), arguments: Vec::new() };
        let path = |name: &str| job.path(name).to_str().unwrap().to_owned();
        let (build, hooks, tmp) = (path("build"), path("hooks"), path("tmp"));
        job.set("BUILDKITE_JOB_ID", "job-1")
            .set("BUILDKITE_REPO", "https://example.invalid/repo.git")
            .set("BUILDKITE_COMMIT", "HEAD")
            .set("BUILDKITE_BRANCH", "main")
            .set("BUILDKITE_AGENT_NAME", "agent 1")
            .set("BUILDKITE_ORGANIZATION_SLUG", "org")
            .set("BUILDKITE_PIPELINE_SLUG", "pipe")
            .set("BUILDKITE_PIPELINE_PROVIDER", "git")
            .set("BUILDKITE_SKIP_CHECKOUT", "true")
            .set("BUILDKITE_SSH_KEYSCAN", "false")
            .set("BUILDKITE_PTY", "false")
            .set("BUILDKITE_COMMAND", command)
            .set("BUILDKITE_BUILD_PATH", &build)
            .set("BUILDKITE_HOOKS_PATH", &hooks)
            .set("TMPDIR", &tmp)
            .set("PATH", "/usr/local/bin:/usr/bin:/bin")
    }

    pub(crate) fn set(mut self, name: &str, value: &str) -> Job {
        self.env.insert(name.to_owned(), value.to_owned());
        self
    }

    pub(crate) fn argument(mut self, argument: &str) -> Job {
        self.arguments.push(argument.to_owned());
        self
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn checkout(&self) -> PathBuf {
        self.path("build/agent-1/org/pipe")
    }

    pub(crate) fn agent_hook(self, name: &str, content: &str) -> Job {
        fs::write(self.path("hooks").join(name), content).unwrap();
        self
    }

    /// A hook that is executed as it is.
    pub(crate) fn executable_agent_hook(self, name: &str, content: &str) -> Job {
        let job = self.agent_hook(name, content);
        fs::set_permissions(job.path("hooks").join(name), fs::Permissions::from_mode(0o755)).unwrap();
        job
    }

    /// A file in the checkout directory, left there by an earlier job.
    pub(crate) fn repository_file(self, name: &str, content: &str) -> Job {
        let path = self.checkout().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
        self
    }

    /// Starts it; whoever wants its output reads it.
    pub(crate) fn start_unread(&self) -> Child {
        Command::new(env!("CARGO_BIN_EXE_ibex"))
            .arg("bootstrap")
            .args(&self.arguments)
            .env_clear()
            .envs(&self.env)
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    pub(crate) fn start(&self) -> Running {
        let mut child = self.start_unread();
        let (out, err) = (read(child.stdout.take().unwrap()), read(child.stderr.take().unwrap()));
        Running { child, out, err, seen_out: String::new(), seen_err: String::new() }
    }

    pub(crate) fn run(&self) -> Ended {
        self.start().end()
    }
}

/// Reads to the end in a thread, so that waiting has a bound.
fn read(mut from: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (tell, told) = channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(n) = from.read(&mut buffer) {
            if n == 0 || tell.send(buffer[..n].to_vec()).is_err() {
                break;
            }
        }
    });
    told
}

/// A job under way.
pub(crate) struct Running {
    pub(crate) child: Child,
    out: Receiver<Vec<u8>>,
    err: Receiver<Vec<u8>>,
    seen_out: String,
    seen_err: String,
}

impl Running {
    /// Waits until the command has printed `text`.
    pub(crate) fn wait_for(&mut self, text: &str) {
        wait_for(&self.out, &mut self.seen_out, text);
    }

    /// Waits until the executor has logged `text`.
    pub(crate) fn wait_for_line(&mut self, text: &str) {
        wait_for(&self.err, &mut self.seen_err, text);
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal).unwrap();
    }

    pub(crate) fn end(mut self) -> Ended {
        for (from, to) in [(&self.out, &mut self.seen_out), (&self.err, &mut self.seen_err)] {
            let end = Instant::now() + LIMIT;
            loop {
                match from.recv_timeout(end.saturating_duration_since(Instant::now())) {
                    Ok(more) => to.push_str(&String::from_utf8_lossy(&more)),
                    Err(RecvTimeoutError::Disconnected) => break,
                    Err(RecvTimeoutError::Timeout) => {
                        let _ = self.child.kill();
                        panic!("the job does not end; so far {to:?}");
                    }
                }
            }
        }
        // Both streams have ended: nothing is left to wait for but the process itself.
        let status = self.child.wait().unwrap();
        Ended { out: self.seen_out, err: self.seen_err, status }
    }
}

fn wait_for(from: &Receiver<Vec<u8>>, seen: &mut String, text: &str) {
    let end = Instant::now() + LIMIT;
    while !seen.contains(text) {
        match from.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(more) => seen.push_str(&String::from_utf8_lossy(&more)),
            Err(e) => panic!("no {text:?} in {seen:?}: {e}"),
        }
    }
}

/// A job that has ended.
pub(crate) struct Ended {
    /// Output of hooks and commands.
    pub(crate) out: String,
    /// Lines of the executor.
    pub(crate) err: String,
    pub(crate) status: ExitStatus,
}

impl Ended {
    pub(crate) fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| panic!("{:?}\n{}", self.status, self.err))
    }

    /// Exit status and output.
    pub(crate) fn result(&self) -> (i32, &str) {
        (self.code(), &self.out)
    }

    /// Asserts that these texts are in the log lines, in this order.
    pub(crate) fn assert_lines(&self, texts: &[&str]) {
        let mut rest = self.err.as_str();
        for text in texts {
            let at = rest.find(text).unwrap_or_else(|| panic!("no {text:?} (in this order) in\n{}", self.err));
            rest = &rest[at + text.len()..];
        }
    }

    /// Labels of the hooks that were run.
    pub(crate) fn hooks(&self) -> Vec<&str> {
        self.err.lines().filter_map(|l| l.strip_prefix("~~~ Running ")?.strip_suffix(" hook")).collect()
    }
}

/// Waits until a pipe holds as much as it can.
pub(crate) fn wait_until_full(pipe: &std::process::ChildStdout) {
    let capacity = rustix::pipe::fcntl_getpipe_size(pipe).unwrap() as u64;
    let end = Instant::now() + LIMIT;
    // A writer that finds less room than a page writes no more.
    while rustix::io::ioctl_fionread(pipe).unwrap() + 4096 < capacity {
        assert!(Instant::now() < end, "the pipe does not fill");
        std::thread::yield_now();
    }
}

/// Waits until a process has no child that is alive.
pub(crate) fn wait_until_alone(process: &Child) {
    let path = format!("/proc/{0}/task/{0}/children", process.id());
    let end = Instant::now() + LIMIT;
    while !fs::read_to_string(&path).unwrap().trim().is_empty() {
        assert!(Instant::now() < end, "the process keeps its child");
        std::thread::yield_now();
    }
}

/// Waits until a process is not there any more, or a zombie.
pub(crate) fn assert_gone(pid: i32) {
    let end = Instant::now() + LIMIT;
    loop {
        match fs::read_to_string(format!("/proc/{pid}/stat")) {
            Ok(stat) if !stat.contains(") Z ") => assert!(Instant::now() < end, "process {pid} is still alive"),
            _ => return,
        }
        std::thread::yield_now();
    }
}
