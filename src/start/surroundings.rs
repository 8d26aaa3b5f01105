//! What `start` prepares on the machine: build path, descriptor limit, the directory that makes this program `buildkite-agent`
//! for jobs.

use super::table;
use crate::cli::Failure;
use crate::flags::os_text;
use crate::log::Logger;
use rustix::process::{Resource, getrlimit, setrlimit};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Creates the build path if it is not there (start-flags §3, row 20).
pub(crate) fn build_path(path: &str, log: &Logger) -> Result<(), Failure> {
    if Path::new(path).is_dir() {
        return Ok(());
    }
    log.info(format!("Build Path doesn't exist, creating it ({path})"));
    std::fs::create_dir_all(path)
        .map_err(|e| Failure::Fatal(format!("failed to create builds path: mkdir {path}: {}; check build-path and who may write there", os_text(&e))))
}

/// Descriptors of the process itself.
const DESCRIPTORS_BASE: u64 = 64;
/// Descriptors of a worker that runs a job: terminal, process, connections for log and control.
const DESCRIPTORS_PER_WORKER: u64 = 8;

/// Raises the soft limit of descriptors if `workers` need more; refuses if the hard limit is too low.
pub(crate) fn descriptors(workers: u32) -> Result<(), Failure> {
    let needed = DESCRIPTORS_BASE + DESCRIPTORS_PER_WORKER * u64::from(workers);
    let mut limit = getrlimit(Resource::Nofile);
    let (Some(soft), hard) = (limit.current, limit.maximum) else { return Ok(()) };
    if soft >= needed {
        return Ok(());
    }
    if let Some(hard) = hard.filter(|h| *h < needed) {
        return Err(Failure::Fatal(format!(
            "{workers} workers need about {needed} file descriptors, but the limit is {hard}: raise it (`ulimit -Hn`, or LimitNOFILE= in the systemd unit) or lower spawn"
        )));
    }
    limit.current = Some(needed);
    setrlimit(Resource::Nofile, limit).map_err(|e| {
        Failure::Fatal(format!(
            "{workers} workers need about {needed} file descriptors, but the limit of {soft} could not be raised ({e}): raise it with `ulimit -n` or lower spawn"
        ))
    })
}

/// Removes every variable that is a source of an option of `start` from this process's environment (start-flags §8.1).
pub(crate) fn scrub_environment() {
    for name in table::variables() {
        // SAFETY: called before the first thread or runtime of the process is made; nothing else reads the environment.
        unsafe { std::env::remove_var(name) };
    }
}

/// A private directory in which `buildkite-agent` is a link to this program; removed when dropped.
pub(crate) struct Shim {
    dir: Option<tempfile::TempDir>,
}

impl Shim {
    /// Makes the directory, unless this program already has that name.
    pub(crate) fn make(exe: &Path) -> std::io::Result<Shim> {
        if exe.file_name().is_some_and(|n| n == crate::cli::NAME) {
            return Ok(Shim { dir: None });
        }
        let dir = tempfile::Builder::new().prefix("ibex-bin-").permissions(std::fs::Permissions::from_mode(0o700)).tempdir()?;
        std::os::unix::fs::symlink(exe, dir.path().join(crate::cli::NAME))?;
        Ok(Shim { dir: Some(dir) })
    }

    /// The directory, or empty.
    pub(crate) fn path(&self) -> String {
        self.dir.as_ref().map(|d| d.path().to_string_lossy().into_owned()).unwrap_or_default()
    }
}

/// This executable.
pub(crate) fn exe() -> Result<PathBuf, Failure> {
    std::env::current_exe().map_err(|e| Failure::Fatal(format!("could not find the path of this program: {}", os_text(&e))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shim_is_private_points_to_this_program_and_goes_away() {
        let exe = std::env::current_exe().unwrap();
        let shim = Shim::make(&exe).unwrap();
        let dir = PathBuf::from(shim.path());
        assert_eq!(std::fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(std::fs::read_link(dir.join("buildkite-agent")).unwrap(), exe);
        drop(shim);
        assert!(!dir.exists());
    }

    #[test]
    fn a_program_of_that_name_needs_no_shim() {
        assert_eq!(Shim::make(Path::new("/usr/bin/buildkite-agent")).unwrap().path(), "");
    }

    #[test]
    fn too_many_workers_for_the_hard_limit_are_refused_with_the_remedy() {
        let Some(hard) = getrlimit(Resource::Nofile).maximum else { return };
        let Ok(workers) = u32::try_from(hard / DESCRIPTORS_PER_WORKER + 1) else { return };
        match descriptors(workers) {
            Err(Failure::Fatal(text)) => assert!(text.contains(&hard.to_string()) && text.contains("ulimit"), "{text}"),
            other => panic!("{other:?}"),
        }
    }
}
