//! Starts a program in a child that borrows this process's memory until it executes the program, as `posix_spawn` does: a fork
//! would copy the page tables first, which costs more than everything else about a short job, and grows with the agent. What
//! `posix_spawn` cannot say (a controlling terminal, death with the parent, no inherited descriptors) is why it is ours.

use rustix::fd::{AsRawFd, BorrowedFd};
use rustix::process::Pid;
use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicI32, Ordering};

/// Stack of the child until it executes its program: a few system calls deep.
const STACK_BYTES: usize = 64 * 1024;

/// Program, arguments, environment and directory as the kernel wants them, made before the child exists. The exec is our own
/// because the C library's `execvp` runs files without `#!` through a shell (job-runner §5.2).
pub(super) struct Image {
    program: CString,
    dir: Option<CString>,
    _strings: Vec<CString>,
    argv: Vec<*const libc::c_char>,
    envp: Vec<*const libc::c_char>,
}

impl Image {
    pub(super) fn new<'a>(
        program: &Path,
        argv: &[OsString],
        env: impl ExactSizeIterator<Item = (&'a OsString, &'a OsString)>,
        dir: Option<&Path>,
    ) -> io::Result<Image> {
        let mut strings = Vec::with_capacity(argv.len() + env.len());
        for arg in argv {
            strings.push(CString::new(arg.as_bytes())?);
        }
        for (name, value) in env {
            strings.push(CString::new([name.as_bytes(), b"=", value.as_bytes()].concat())?);
        }
        let pointers = |range: &[CString]| range.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect::<Vec<_>>();
        let (argv, envp) = (pointers(&strings[..argv.len()]), pointers(&strings[argv.len()..]));
        let c_string = |path: &OsStr| CString::new(path.as_bytes());
        let dir = dir.map(|dir| c_string(dir.as_os_str())).transpose()?;
        Ok(Image { program: c_string(program.as_os_str())?, dir, _strings: strings, argv, envp })
    }
}

/// What the child does before it executes its program.
pub(super) struct Preparation<'a> {
    /// Descriptors 0, 1 and 2; all of them are above 2 here.
    pub(super) stdio: [BorrowedFd<'a>; 3],
    /// Leads a session whose controlling terminal is descriptor 0; otherwise leads a group.
    pub(super) terminal: bool,
    /// Gives up this process's protection from the out-of-memory killer.
    pub(super) neutral_oom: bool,
    /// Is killed when the thread that starts it ends.
    pub(super) dies_with_parent: bool,
}

struct Start<'a> {
    image: &'a Image,
    preparation: &'a Preparation<'a>,
    parent: libc::pid_t,
    /// Why the program does not run, as the child says; 0 while nothing went wrong.
    error: AtomicI32,
}

/// Starts the program and returns once it runs: the calling thread stands still until then.
///
/// # Errors
/// What the first system call that failed in the child said; no process is left then.
pub(super) fn launch(image: &Image, preparation: &Preparation<'_>) -> io::Result<Pid> {
    let parent = libc::pid_t::try_from(std::process::id()).unwrap_or_default();
    let start = Start { image, preparation, parent, error: AtomicI32::new(0) };
    let mut stack = vec![std::mem::MaybeUninit::<u128>::uninit(); STACK_BYTES / size_of::<u128>()];
    // SAFETY: the signal sets are plain data on this stack. No signal handler of ours may run in the child, where it would work on
    // the parent's memory: all signals are blocked until the child has the default dispositions. The child runs on its own stack,
    // the top of which is aligned as the calling convention wants; it calls nothing but the kernel, and this thread does not run
    // again before the child has executed its program or ended, so that `start` and the stack live long enough.
    let pid = unsafe {
        let mut all = std::mem::zeroed::<libc::sigset_t>();
        let mut before = std::mem::zeroed::<libc::sigset_t>();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
        let top = stack.as_mut_ptr_range().end.cast();
        let pid = libc::clone(child, top, libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD, (&raw const start).cast_mut().cast());
        let error = io::Error::last_os_error();
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut());
        Pid::from_raw(pid).filter(|_| pid > 0).ok_or(error)
    }?;
    match start.error.load(Ordering::Relaxed) {
        0 => Ok(pid),
        errno => {
            let _ = rustix::io::retry_on_intr(|| rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty()));
            Err(io::Error::from_raw_os_error(errno))
        }
    }
}

extern "C" fn child(start: *mut libc::c_void) -> libc::c_int {
    // SAFETY: `launch` passes its own `Start`, and waits.
    let start = unsafe { &*start.cast::<Start<'_>>() };
    let errno = match prepare(start) {
        // SAFETY: all three point to data that lives as long as the image and end in a null pointer.
        Ok(()) => unsafe {
            libc::execve(start.image.program.as_ptr(), start.image.argv.as_ptr(), start.image.envp.as_ptr());
            errno()
        },
        Err(errno) => errno,
    };
    start.error.store(errno, Ordering::Relaxed);
    // SAFETY: ends the child and nothing else; no destructor may run on the parent's memory.
    unsafe { libc::_exit(127) }
}

/// Everything here is a plain system call on arguments that live on this stack or in `start`; nothing allocates, locks or panics.
fn prepare(start: &Start<'_>) -> Result<(), libc::c_int> {
    let Preparation { stdio, terminal, neutral_oom, dies_with_parent } = start.preparation;
    // SAFETY: see above.
    unsafe {
        // Dispositions first, then the mask: a signal that waits meets its default.
        let mut default = std::mem::zeroed::<libc::sigaction>();
        default.sa_sigaction = libc::SIG_DFL;
        for signal in 1..=libc::SIGRTMAX() {
            // SIGKILL, SIGSTOP and the C library's own signals refuse: they have their default anyway.
            libc::sigaction(signal, &raw const default, std::ptr::null_mut());
        }
        if *terminal {
            check(libc::setsid())?;
        } else {
            check(libc::setpgid(0, 0))?;
        }
        for (from, to) in stdio.iter().zip(0..) {
            check(libc::dup2(from.as_raw_fd(), to))?;
        }
        if *terminal {
            check(libc::ioctl(0, libc::TIOCSCTTY, 0))?;
        }
        if let Some(dir) = &start.image.dir {
            check(libc::chdir(dir.as_ptr()))?;
        }
        let mut none = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&raw mut none);
        check(libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut()))?;
        // Everything else closes at exec, whoever opened it; kernels without the call have descriptors opened for that already.
        libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
        if *neutral_oom {
            let fd = libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
            if fd >= 0 {
                libc::write(fd, c"0".as_ptr().cast(), 1);
                libc::close(fd);
            }
        }
        if *dies_with_parent {
            check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL))?;
            if libc::getppid() != start.parent {
                // It has ended already.
                libc::kill(libc::getpid(), libc::SIGKILL);
            }
        }
    }
    Ok(())
}

fn check(result: libc::c_int) -> Result<(), libc::c_int> {
    if result < 0 { Err(errno()) } else { Ok(()) }
}

/// The error of the last system call; `std::io::Error` would do the same, but promises nothing about allocating.
fn errno() -> libc::c_int {
    // SAFETY: the address of this thread's `errno`, which the child shares with the thread that waits for it.
    unsafe { *libc::__errno_location() }
}
