//! The built binary, started with private directories, observed from outside.

use super::plane::Plane;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A running `ibex start`.
pub struct Agent {
    child: Child,
    pub work: PathBuf,
    output: Arc<Mutex<Vec<u8>>>,
    readers: Vec<std::thread::JoinHandle<()>>,
    status: Option<ExitStatus>,
}

/// How an agent is started.
pub struct Setup {
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    /// Name and text of hooks; made executable.
    pub hooks: Vec<(&'static str, String)>,
    /// Text of the bootstrap script; `None`: the built-in one.
    pub bootstrap: Option<String>,
    /// Shell text that runs first, in the process that becomes the agent.
    pub before: &'static str,
    /// Program and arguments that start the agent: `unshare`, for example.
    pub wrapper: Vec<&'static str>,
    /// Orphans of jobs are handed to the agent, as to process 1 of a container.
    pub subreaper: bool,
}

impl Setup {
    /// Polling, short grace periods, `script` instead of the executor.
    pub fn script(script: &str) -> Setup {
        Setup { bootstrap: Some(script.into()), ..Setup::builtin() }
    }

    /// Polling, short grace periods, the built-in executor.
    pub fn builtin() -> Setup {
        Setup {
            args: ["--ping-mode", "poll-only", "--cancel-signal-timeout", "2s", "--cancel-cleanup-timeout", "2s"].map(str::to_owned).to_vec(),
            env: Vec::new(),
            hooks: Vec::new(),
            bootstrap: None,
            before: "",
            wrapper: Vec::new(),
            subreaper: false,
        }
    }

    /// Lets `text` run first, in the process that becomes the agent: `ulimit`, for example.
    pub fn before(mut self, text: &'static str) -> Setup {
        self.before = text;
        self
    }

    pub fn arg(mut self, args: &[&str]) -> Setup {
        self.args.extend(args.iter().map(|a| (*a).to_owned()));
        self
    }

    pub fn hook(mut self, name: &'static str, text: &str) -> Setup {
        self.hooks.push((name, text.into()));
        self
    }

    /// Starts the agent against `plane`, in directories below `work`.
    pub fn start(self, plane: &Plane, work: &Path) -> Agent {
        for d in ["builds", "hooks", "plugins", "home", "sockets", "tmp"] {
            std::fs::create_dir_all(work.join(d)).expect("a directory");
        }
        let script = |path: &Path, text: &str| {
            std::fs::write(path, text).expect("a script");
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("its mode");
        };
        for (name, text) in &self.hooks {
            script(&work.join("hooks").join(name), text);
        }
        let binary = binary();
        let mut command = match (self.before, self.wrapper.as_slice()) {
            ("", []) => Command::new(&binary),
            ("", [program, arguments @ ..]) => {
                let mut command = Command::new(program);
                command.args(arguments).arg(&binary);
                command
            }
            (text, _) => {
                let mut command = Command::new("sh");
                command.args(["-c", &format!("{text}; exec \"$0\" \"$@\"")]).arg(&binary);
                command
            }
        };
        if self.subreaper {
            // SAFETY: between fork and exec only two system calls are made.
            unsafe { command.pre_exec(|| Ok(rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?)) };
        }
        command.arg("start").env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("HOME", work.join("home")).env("TMPDIR", work.join("tmp")).env("LANG", "C.UTF-8");
        command.args(["--token", "registration-token", "--endpoint", &plane.url(), "--name", "agent-%spawn", "--no-color"]);
        for (flag, dir) in [("--build-path", "builds"), ("--hooks-path", "hooks"), ("--plugins-path", "plugins"), ("--sockets-path", "sockets")] {
            command.arg(flag).arg(work.join(dir));
        }
        if let Some(text) = &self.bootstrap {
            let path = work.join("bootstrap.sh");
            script(&path, text);
            command.arg("--bootstrap-script").arg(path);
        }
        command.args(&self.args).envs(self.env.iter().map(|(k, v)| (k, v))).current_dir(work);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the agent starts");
        let output = Arc::new(Mutex::new(Vec::new()));
        let readers = [Box::new(child.stdout.take().expect("stdout")) as Box<dyn Read + Send>, Box::new(child.stderr.take().expect("stderr"))]
            .into_iter()
            .map(|mut from| {
                let output = output.clone();
                std::thread::spawn(move || {
                    let mut buffer = [0; 4096];
                    while let Ok(n @ 1..) = from.read(&mut buffer) {
                        output.lock().expect("output").extend_from_slice(&buffer[..n]);
                    }
                })
            })
            .collect();
        Agent { child, work: work.to_owned(), output, readers, status: None }
    }
}

impl Agent {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything printed so far.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.output.lock().expect("output")).into_owned()
    }

    /// Waits until the agent has printed `part`.
    pub fn wait_text(&self, part: &str) {
        wait_for(&format!("the agent to print {part:?}; it printed {}", self.text()), super::SOON, || self.text().contains(part).then_some(()));
    }

    pub fn signal(&self, name: &str) {
        let done = Command::new("kill").args(["-s", name, &self.pid().to_string()]).status().expect("kill");
        assert!(done.success(), "kill -s {name}");
    }

    /// Waits for the end; gives the exit code, or minus the signal number.
    pub fn wait(&mut self, bound: Duration) -> i32 {
        if self.status.is_none() {
            let end = Instant::now() + bound;
            self.status = Some(loop {
                if let Some(status) = self.child.try_wait().expect("wait") {
                    break status;
                }
                assert!(Instant::now() < end, "the agent did not end within {bound:?}; it printed\n{}", self.text());
                std::thread::yield_now();
                std::thread::park_timeout(Duration::from_millis(2));
            });
            for reader in self.readers.drain(..) {
                let _ = reader.join();
            }
        }
        let status = self.status.expect("status");
        status.code().unwrap_or_else(|| -status.signal().expect("a signal"))
    }
}

/// The binary under test; `IBEX` names another one, of another build.
fn binary() -> PathBuf {
    std::env::var_os("IBEX").map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_ibex")), PathBuf::from)
}

/// What the kernel knows of the agent.
impl Agent {
    /// A line of `/proc/<pid>/status` that is in kB, in bytes: `VmRSS`, `VmHWM`.
    pub fn memory(&self, line: &str) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("the agent runs");
        let kb = text.lines().find_map(|l| l.strip_prefix(line)?.strip_prefix(':')?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        kb.expect("its memory") * 1024
    }

    /// CPU time used so far, without that of children.
    pub fn cpu(&self) -> Duration {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).expect("the agent runs");
        let fields: Vec<u64> = text.rsplit(')').next().expect("fields").split_whitespace().map(|f| f.parse().unwrap_or(0)).collect();
        Duration::from_secs_f64((fields[11] + fields[12]) as f64 / rustix::param::clock_ticks_per_second() as f64)
    }

    /// Open descriptors.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("the agent runs").count()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if self.status.is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Whether a process lives (zombies do not).
pub fn alive(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| s.rsplit(')').next().is_some_and(|r| !r.trim_start().starts_with(['Z', 'X'])))
}

/// The id that a script has written to a file, once it is there.
pub fn pid_in(file: &Path) -> u32 {
    wait_for(&format!("a process id in {}", file.display()), super::SOON, || std::fs::read_to_string(file).ok()?.trim().parse().ok())
}

/// Ends a process that a test left behind on purpose.
pub fn kill(pid: u32) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) {
        // It may have ended by itself.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}

/// Polls `f` until it gives a value, at most `bound`.
pub fn wait_for<T>(what: &str, bound: Duration, mut f: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + bound;
    loop {
        if let Some(v) = f() {
            return v;
        }
        assert!(Instant::now() < end, "waited {bound:?} for {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}
