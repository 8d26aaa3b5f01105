//! The files of a job (job-runner §3.7, §3.8, §6.7) and its copy on the agent's stdout. Names come from the network: what is
//! not plainly a name is replaced, and nothing is followed or overwritten.

use ibex_core::job::{JobFiles, JobFilesSpec, StdoutFormat, envfile};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

/// Writes job files, and keeps the log copies that are being written open.
#[derive(Debug, Default)]
pub(super) struct Files {
    copies: RefCell<BTreeMap<String, File>>,
}

impl Files {
    /// All or nothing: after an error no file of the job is left.
    pub(super) fn write(&self, spec: &JobFilesSpec) -> Result<JobFiles, String> {
        let dir = directory(&spec.dir);
        let id = plain(&spec.job_id);
        let path = |name: String| dir.join(name).to_string_lossy().into_owned();
        let log_copy = spec.log_copy_dir.as_deref().map(|copy_dir| {
            let copy = directory(copy_dir).join(format!("buildkite_job_log{}", spec.nonce));
            copy.to_string_lossy().into_owned()
        });
        let files = JobFiles {
            env_file: path(format!("job-env-{id}{}", spec.nonce)),
            env_json_file: path(format!("job-env-json-{id}{}", spec.nonce)),
            timeout_file: path(format!("job-timeout-{id}")),
            log_copy,
        };
        fs::create_dir_all(&dir).map_err(|e| format!("creating directory {}: {e}", dir.display()))?;
        remove_file(&files.timeout_file).map_err(|e| format!("removing stale {}: {e}", files.timeout_file))?;
        let (shell, json) = (envfile::shell_file(&spec.env), envfile::json_file(&spec.env));
        let mut wanted = vec![(&files.env_file, 0o600, shell.as_bytes()), (&files.env_json_file, 0o600, json.as_bytes())];
        wanted.extend(files.log_copy.as_ref().map(|copy| (copy, 0o644, &b""[..])));
        for (made, (path, mode, contents)) in wanted.iter().enumerate() {
            if let Err(e) = create(path, *mode, contents) {
                // Only what was made here is removed: a file that was in the way is somebody else's.
                for (path, ..) in &wanted[..made] {
                    let _ = remove_file(path);
                }
                return Err(e);
            }
        }
        drop(wanted);
        Ok(files)
    }

    /// Removes what is there; the messages of failures come back.
    pub(super) fn remove(&self, files: &JobFiles) -> Vec<String> {
        if let Some(copy) = &files.log_copy {
            self.copies.borrow_mut().remove(copy);
        }
        let status = files.status_file();
        let paths = [Some(&files.env_file), Some(&files.env_json_file), Some(&files.timeout_file), files.log_copy.as_ref(), Some(&status)];
        let failure = |path: &String| remove_file(path).err().map(|e| format!("Failed to remove {path}: {e}"));
        paths.into_iter().flatten().filter_map(failure).collect()
    }

    /// Appends to a log copy.
    pub(super) fn append(&self, path: &str, data: &[u8]) -> Result<(), String> {
        let mut copies = self.copies.borrow_mut();
        if !copies.contains_key(path) {
            let file = OpenOptions::new().append(true).custom_flags(libc::O_NOFOLLOW).open(path).map_err(|e| format!("{path}: {e}"))?;
            copies.insert(path.to_owned(), file);
        }
        let wrote = copies.get_mut(path).map_or(Ok(()), |file| file.write_all(data));
        wrote.map_err(|e| format!("{path}: {e}"))
    }
}

/// Whether there is a file, not a link to one.
pub(super) fn is_there(path: &str) -> bool {
    fs::symlink_metadata(path).is_ok_and(|m| m.is_file())
}

/// The timeout marker: the 4 bytes `true`, for all to read.
pub(super) fn write_marker(path: &str) -> Result<(), String> {
    create(path, 0o644, b"true")
}

/// Copies a delivery to stdout: raw, or one JSON object per line.
pub(super) fn copy_to_stdout(out: &mut impl Write, format: StdoutFormat, fields: &[(String, String)], data: &[u8]) -> io::Result<()> {
    if format == StdoutFormat::Text {
        out.write_all(data)?;
        return out.flush();
    }
    let ts = jiff::Zoned::now().strftime("%Y-%m-%dT%H:%M:%S%:z").to_string();
    for line in data.split_inclusive(|b| *b == b'\n') {
        let end = line.iter().rposition(|b| !matches!(b, b'\r' | b'\n')).map_or(0, |i| i + 1);
        let mut object = serde_json::Map::new();
        object.insert("ts".into(), ts.clone().into());
        object.insert("level".into(), "INFO".into());
        object.insert("msg".into(), String::from_utf8_lossy(&line[..end]).into_owned().into());
        object.insert("source".into(), "job".into());
        for (name, value) in fields {
            object.insert(name.clone(), value.clone().into());
        }
        serde_json::to_writer(&mut *out, &object)?;
        out.write_all(b"\n")?;
    }
    out.flush()
}

fn directory(configured: &str) -> PathBuf {
    if configured.is_empty() { std::env::temp_dir() } else { PathBuf::from(configured) }
}

/// A job id as part of a file name.
fn plain(id: &str) -> String {
    id.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).take(128).collect()
}

/// Creates a file that must not exist, links included.
fn create(path: &str, mode: u32, contents: &[u8]) -> Result<(), String> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(mode).custom_flags(libc::O_NOFOLLOW);
    options.open(path).and_then(|mut file| file.write_all(contents)).map_err(|e| format!("writing {path}: {e}"))
}

fn remove_file(path: &str) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ibex_core::machine::Owner;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;

    fn spec(dir: &Path) -> JobFilesSpec {
        JobFilesSpec {
            job: Owner::Job { worker: 1, generation: 1 },
            job_id: "../evil".into(),
            dir: dir.join("ctx").to_string_lossy().into_owned(),
            env: [("A".to_owned(), "b\"c".to_owned())].into_iter().collect(),
            log_copy_dir: Some(dir.to_string_lossy().into_owned()),
            nonce: 77,
        }
    }

    #[test]
    fn env_files_are_private_and_all_files_go_away() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::default();
        let written = files.write(&spec(dir.path())).unwrap();
        assert_eq!(written.env_file, format!("{}/ctx/job-env-___evil77", dir.path().display()));
        for path in [&written.env_file, &written.env_json_file] {
            assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        assert!(fs::read_to_string(&written.env_file).unwrap().ends_with("A=\"b\\\"c\"\n"));
        assert!(!Path::new(&written.timeout_file).exists());
        write_marker(&written.timeout_file).unwrap();
        assert_eq!(fs::read(&written.timeout_file).unwrap(), b"true");
        let copy = written.log_copy.clone().unwrap();
        files.append(&copy, b"one ").unwrap();
        files.append(&copy, b"two").unwrap();
        assert_eq!(fs::read(&copy).unwrap(), b"one two");
        assert_eq!(files.remove(&written), Vec::<String>::new());
        assert_eq!(fs::read_dir(dir.path().join("ctx")).unwrap().count(), 0);
        assert!(!Path::new(&copy).exists());
        assert!(files.remove(&written).is_empty(), "missing files are no error");
    }

    #[test]
    fn links_are_not_followed_and_a_stale_marker_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("target");
        fs::write(&target, "precious").unwrap();
        let link = dir.path().join("marker");
        symlink(&target, &link).unwrap();
        write_marker(link.to_str().unwrap()).unwrap_err();
        assert_eq!(fs::read_to_string(&target).unwrap(), "precious");

        fs::create_dir(dir.path().join("ctx")).unwrap();
        let stale = dir.path().join("ctx/job-timeout-___evil");
        symlink(&target, &stale).unwrap();
        Files::default().write(&spec(dir.path())).unwrap();
        assert!(!stale.exists() && target.exists());
    }

    #[test]
    fn given_a_file_in_the_way_when_files_are_written_then_it_stays_and_nothing_of_ours_does() {
        let dir = tempfile::tempdir().unwrap();
        let ctx = dir.path().join("ctx");
        fs::create_dir(&ctx).unwrap();
        fs::write(ctx.join("job-env-json-___evil77"), "theirs").unwrap();
        let e = Files::default().write(&spec(dir.path())).unwrap_err();
        assert!(e.starts_with("writing "), "{e}");
        assert_eq!(fs::read_to_string(ctx.join("job-env-json-___evil77")).unwrap(), "theirs");
        assert_eq!(fs::read_dir(&ctx).unwrap().count(), 1);
    }

    #[test]
    fn json_copies_are_one_object_per_line() {
        let mut out = Vec::new();
        copy_to_stdout(&mut out, StdoutFormat::Json, &[("job_id".into(), "j".into())], b"a\r\n\"b\"").unwrap();
        let lines: Vec<serde_json::Value> =
            out.split(|b| *b == b'\n').filter(|l| !l.is_empty()).map(|l| serde_json::from_slice(l).unwrap()).collect();
        assert_eq!(lines.iter().map(|l| l["msg"].as_str().unwrap()).collect::<Vec<_>>(), ["a", "\"b\""]);
        assert_eq!(lines[0]["source"], "job");
        assert_eq!(lines[0]["job_id"], "j");
        let keys: Vec<&String> = lines[0].as_object().unwrap().keys().collect();
        assert_eq!(keys, ["ts", "level", "msg", "source", "job_id"]);
    }
}
