//! Spawns process groups (job-runner §5.2–5.4): in a terminal or with one pipe, exec failures reported, nothing inherited
//! but descriptors 0–2.

use super::group::Group;
use super::output::ReadEnd;
use rustix::fd::{AsFd, OwnedFd};
use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
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
    let image = Image::new(&program, spawn)?;
    let mut command = Command::new(&program);
    if let Some(dir) = &spawn.dir {
        command.current_dir(dir);
    }
    let (output, terminal) = match spawn.stdio {
        StdioMode::Terminal { raw } => {
            let pty = super::pty::open(raw)?;
            command.stdin(pty.slave.try_clone()?).stdout(pty.slave.try_clone()?).stderr(pty.slave);
            (pty.master, true)
        }
        StdioMode::Pipe => {
            let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(io::Error::from)?;
            // A larger pipe is a matter of speed only: users may be over their quota.
            let _ = rustix::pipe::fcntl_setpipe_size(&read, PIPE_BYTES);
            command.stdin(Stdio::null()).stdout(write.try_clone()?).stderr(write);
            (read, false)
        }
    };
    let neutral_oom = must_reset_oom();
    let parent = spawn.dies_with_parent.then(|| libc::pid_t::try_from(std::process::id()).unwrap_or_default());
    // SAFETY: between fork and exec the closure calls only async-signal-safe functions and allocates nothing.
    unsafe {
        command.pre_exec(move || {
            prepare_child(terminal, neutral_oom)?;
            if let Some(parent) = parent {
                die_with(parent)?;
            }
            Err(image.exec())
        });
    }
    // Everything that can fail for want of descriptors comes before the spawn, but for the last.
    let output = ReadEnd::new(output, terminal)?;
    let mut child = command.spawn().map_err(|cause| Failure { program: Some(program), cause })?;
    // Our copies of the slave or of the write end live in the command: without this, end of output never comes.
    drop(command);
    match Group::new(child.id()) {
        Ok(group) => Ok((group, output)),
        Err(e) => {
            // Nothing of the group may exist after a failed spawn.
            child.kill()?;
            child.wait()?;
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

/// Program, arguments and environment as exec wants them, made before the fork. The exec is our own because the C library's
/// `execvp` runs files without `#!` through a shell (job-runner §5.2).
struct Image {
    program: CString,
    _strings: Vec<CString>,
    argv: Vec<*const libc::c_char>,
    envp: Vec<*const libc::c_char>,
}

// SAFETY: the pointers are into `_strings`, which are never changed and live as long as the image.
unsafe impl Send for Image {}
// SAFETY: as above; the image is only read.
unsafe impl Sync for Image {}

impl Image {
    fn new(program: &Path, spawn: &Spawn) -> io::Result<Image> {
        let mut strings = Vec::with_capacity(spawn.argv.len() + spawn.env.len());
        for arg in &spawn.argv {
            strings.push(CString::new(arg.as_bytes())?);
        }
        for (name, value) in &spawn.env {
            strings.push(CString::new([name.as_bytes(), b"=", value.as_bytes()].concat())?);
        }
        let pointers = |range: &[CString]| range.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect::<Vec<_>>();
        let (argv, envp) = (pointers(&strings[..spawn.argv.len()]), pointers(&strings[spawn.argv.len()..]));
        Ok(Image { program: CString::new(program.as_os_str().as_bytes())?, _strings: strings, argv, envp })
    }

    /// Returns only when it fails.
    fn exec(&self) -> io::Error {
        // SAFETY: all three point to data that lives as long as `self` and end in a null pointer.
        unsafe { libc::execve(self.program.as_ptr(), self.argv.as_ptr(), self.envp.as_ptr()) };
        io::Error::last_os_error()
    }
}

/// Runs in the child, after its descriptors 0–2 are in place.
fn prepare_child(terminal: bool, neutral_oom: bool) -> io::Result<()> {
    // SAFETY: plain system calls, all of them async-signal-safe, on arguments that live on this stack.
    unsafe {
        if terminal {
            check(libc::setsid())?;
            check(libc::ioctl(0, libc::TIOCSCTTY, 0))?;
        } else {
            check(libc::setpgid(0, 0))?;
        }
        for signal in 1..=libc::SIGRTMAX() {
            // SIGKILL, SIGSTOP and the C library's own signals refuse: they have their default anyway.
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut none = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&raw mut none);
        check(libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut()))?;
        // Everything else closes at exec, whoever opened it; kernels without the call have descriptors opened for that already.
        libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
        if neutral_oom {
            let fd = libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
            if fd >= 0 {
                libc::write(fd, c"0".as_ptr().cast(), 1);
                libc::close(fd);
            }
        }
    }
    Ok(())
}

/// Runs in the child: from now on it is killed when `parent` ends.
fn die_with(parent: libc::pid_t) -> io::Result<()> {
    // SAFETY: plain system calls, all of them async-signal-safe.
    unsafe {
        check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL))?;
        if libc::getppid() != parent {
            // It has ended already.
            libc::raise(libc::SIGKILL);
        }
    }
    Ok(())
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
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
