//! Spawns process groups (job-runner §5.2–5.4): in a terminal or with one pipe, exec failures reported, nothing inherited
//! but descriptors 0–2.

use super::group::Group;
use super::launch::{Image, Preparation, launch};
use super::output::ReadEnd;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often a program that is being written (ETXTBSY) is tried again, and how long after.
const BUSY_RETRIES: u32 = 20;
const BUSY_WAIT: Duration = Duration::from_millis(10);
/// Capacity asked for the pipe of a process; the kernel's default is 64 KiB.
const PIPE_BYTES: usize = 256 * 1024;

/// What to spawn.
#[derive(Clone, Debug)]
pub struct Spawn {
    /// Program and arguments; a program without `/` is looked up in this process's own `PATH`.
    pub argv: Vec<OsString>,
    /// The whole environment.
    pub env: BTreeMap<OsString, OsString>,
    /// Working directory; `None`: this process's.
    pub dir: Option<PathBuf>,
    /// How its output comes back.
    pub stdio: StdioMode,
    /// SIGKILL when the thread that spawns it ends (bootstrap W17). For processes of one thread only.
    pub dies_with_parent: bool,
}

/// How a process is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StdioMode {
    /// A terminal of its own, which is also its standard input; in a session of its own.
    Terminal {
        /// No translation by the line discipline.
        raw: bool,
    },
    /// The null device as standard input, one pipe for both outputs; in a group of its own.
    Pipe,
}

/// Spawns. The error is what the user reads: `error starting pty: …`, `error starting command: …` or about the directory.
pub async fn spawn(spawn: &Spawn) -> Result<(Group, ReadEnd), String> {
    spawn_patiently(spawn, BUSY_RETRIES, BUSY_WAIT).await
}

/// The same; a program that is being written (ETXTBSY) is tried again `retries` times, `wait` after each. Dropping it between two
/// tries leaves nothing behind.
pub async fn spawn_patiently(spawn: &Spawn, retries: u32, wait: Duration) -> Result<(Group, ReadEnd), String> {
    if let Some(dir) = &spawn.dir
        && !dir.is_dir()
    {
        return Err(format!("process working directory \"{}\" doesn't exist", dir.display()));
    }
    let mut tries = 0;
    loop {
        match attempt(spawn) {
            Err(e) if e.cause.raw_os_error() == Some(libc::ETXTBSY) && tries < retries => {
                tries += 1;
                tokio::time::sleep(wait).await;
            }
            Err(e) => {
                let what = if spawn.stdio == StdioMode::Pipe { "command" } else { "pty" };
                return Err(format!("error starting {what}: {e}"));
            }
            Ok(spawned) => return Ok(spawned),
        }
    }
}

/// Why nothing was spawned.
struct Failure {
    /// What could not be executed, where that is the reason: the operating system's message does not say it.
    program: Option<PathBuf>,
    cause: io::Error,
}

impl From<io::Error> for Failure {
    fn from(cause: io::Error) -> Failure {
        Failure { program: None, cause }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.program {
            Some(program) => write!(f, "exec {}: {}", program.display(), self.cause),
            None => self.cause.fmt(f),
        }
    }
}

fn attempt(spawn: &Spawn) -> Result<(Group, ReadEnd), Failure> {
    let name = spawn.argv.first().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no program"))?;
    let program = find_program(name)?;
    let image = Image::new(&program, &spawn.argv, spawn.env.iter(), spawn.dir.as_deref())?;
    let (input, output, ours, terminal) = match spawn.stdio {
        StdioMode::Terminal { raw } => {
            let pty = super::pty::open(raw)?;
            (None, pty.slave, pty.master, true)
        }
        StdioMode::Pipe => {
            let null = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(io::Error::from)?;
            let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(io::Error::from)?;
            // A larger pipe is a matter of speed only: users may be over their quota.
            let _ = rustix::pipe::fcntl_setpipe_size(&read, PIPE_BYTES);
            (Some(null), write, read, false)
        }
    };
    let preparation = Preparation {
        stdio: [input.as_ref().unwrap_or(&output).as_fd(), output.as_fd(), output.as_fd()],
        terminal,
        neutral_oom: must_reset_oom(),
        dies_with_parent: spawn.dies_with_parent,
    };
    // Everything that can fail for want of descriptors comes before the start, but for the last.
    let ours = ReadEnd::new(ours, terminal)?;
    let leader = launch(&image, &preparation).map_err(|cause| Failure { program: Some(program), cause })?;
    // Our copies of the slave or of the write end: while they are open, end of output never comes.
    drop((input, output));
    match Group::new(leader) {
        Ok(group) => Ok((group, ours)),
        Err(e) => {
            // Nothing of the group may exist after a failed spawn.
            let _ = rustix::process::kill_process(leader, rustix::process::Signal::KILL);
            let _ = rustix::io::retry_on_intr(|| rustix::process::waitpid(Some(leader), rustix::process::WaitOptions::empty()));
            Err(e.into())
        }
    }
}

/// Looks a program up in this process's own `PATH`, never in the child's.
fn find_program(name: &OsStr) -> io::Result<PathBuf> {
    if name.as_bytes().contains(&b'/') {
        return Ok(PathBuf::from(name));
    }
    find_in_path(name).ok_or_else(|| {
        let text = format!("exec: \"{}\": executable file not found in $PATH", name.display());
        io::Error::new(io::ErrorKind::NotFound, text)
    })
}

/// The first executable file of this name in this process's own `PATH`.
pub fn find_in_path(name: &OsStr) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).filter(|dir| dir.is_absolute()).map(|dir| dir.join(name)).find(|file| is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    file.is_file() && rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok()
}

/// An agent protected from the out-of-memory killer does not hand the protection on to jobs.
fn must_reset_oom() -> bool {
    std::fs::read_to_string("/proc/self/oom_score_adj").is_ok_and(|text| text.trim().parse().is_ok_and(|score: i32| score < 0))
}

/// This process's environment with an overlay: `None` removes.
pub fn overlaid<'a>(overlay: impl IntoIterator<Item = (&'a str, Option<&'a str>)>) -> BTreeMap<OsString, OsString> {
    let mut env: BTreeMap<OsString, OsString> = std::env::vars_os().collect();
    for (name, value) in overlay {
        match value {
            // Names that an environment block cannot hold are left out (job-runner §3.10).
            Some(value) if !name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0') => {
                env.insert(name.into(), value.into());
            }
            Some(_) => {}
            None => {
                env.remove(OsStr::new(name));
            }
        }
    }
    env
}

/// A duplicate that closes at exec.
pub(super) fn duplicate(fd: impl AsFd) -> io::Result<OwnedFd> {
    Ok(rustix::io::fcntl_dupfd_cloexec(fd, 3)?)
}
