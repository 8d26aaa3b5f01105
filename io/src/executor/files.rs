//! File operations of the executor (specification: bootstrap §7.1, §7.5, §7.6, §10.1).

use ibex_core::executor::{
    Env, FileKind, FileOp, FileResult, HOOK_WORKING_DIR, HookKind, WRAPPER_PREFIX, Wrapper, WrapperDumps, is_binary, names_posix_shell,
    wrapper_script,
};
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

/// Links followed in one path.
const LINKS: u32 = 40;
/// Longest first line of a hook that is looked at.
const FIRST_LINE_BYTES: u64 = 4096;

/// Performs `op`. `executable` is what wrappers call for `env dump`.
pub(super) fn perform(op: FileOp, executable: &str) -> FileResult {
    match op {
        FileOp::FindHook { dir, name, root } => FileResult::Found(find_hook(&dir, &name, root.as_deref())),
        FileOp::ClassifyHook { path } => settle(classify(&path).map(FileResult::Kind)),
        FileOp::MakeWrapper { hook, shebang, temp_dir } => {
            settle(make_wrapper(&hook, shebang.as_deref(), &temp_dir, executable).map(FileResult::Wrapper))
        }
        FileOp::TakeWrapper { wrapper } => FileResult::Dumps(Box::new(take_wrapper(&wrapper))),
        FileOp::LookUp { program, path } => FileResult::Found(look_up(&program, &path).map(text)),
        FileOp::SshVersion { path } => FileResult::Found(look_up("ssh", &path).and_then(|ssh| ssh_version(&fs::read(ssh).ok()?))),
        FileOp::Probe { path, base } => probe(&path, &base),
        FileOp::MakeExecutable { path } => settle(make_executable(&path).map(|()| FileResult::Done)),
        FileOp::MakeDir { path } => settle(fs::create_dir_all(&path).map(|()| FileResult::Done).map_err(|e| about(e, "mkdir", &path))),
        FileOp::MakeTempDir { parent, prefix } => settle(make_temp_dir(&parent, &prefix).map(|path| FileResult::Found(Some(text(path))))),
        FileOp::RemoveTree { path } => match fs::remove_dir_all(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => FileResult::Failed(e.to_string()),
            _ => FileResult::Done,
        },
    }
}

/// Makes the file by which the agent tells the job's own exit status from the executor's; it must not exist, links included.
pub(super) fn leave_word(path: &Path) -> io::Result<()> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map(drop)
}

fn settle(result: io::Result<FileResult>) -> FileResult {
    result.unwrap_or_else(|e| FileResult::Failed(e.to_string()))
}

fn about(e: io::Error, what: &str, path: &str) -> io::Error {
    io::Error::new(e.kind(), format!("{what} {path}: {e}"))
}

fn text(path: PathBuf) -> String {
    path.to_string_lossy().into_owned()
}

fn find_hook(dir: &str, name: &str, root: Option<&str>) -> Option<String> {
    [name.to_owned(), format!("{name}.ps1")].into_iter().find_map(|file| {
        let path = format!("{}/{file}", dir.trim_end_matches('/'));
        let real = match root {
            None => PathBuf::from(&path),
            Some(root) => confined(Path::new(root), Path::new(&path).strip_prefix(root).ok()?)?,
        };
        fs::metadata(real).is_ok_and(|m| !m.is_dir()).then_some(path)
    })
}

/// Resolves `path` below `root`, links included. Links to absolute paths, and `..` above the root, lead outside.
fn confined(root: &Path, path: &Path) -> Option<PathBuf> {
    let mut todo: Vec<PathBuf> = vec![path.to_path_buf()];
    let mut done: Vec<std::ffi::OsString> = Vec::new();
    let mut links = 0;
    while let Some(next) = todo.pop() {
        let mut parts = next.components();
        let Some(first) = parts.next() else { continue };
        todo.push(parts.as_path().to_path_buf());
        match first {
            Component::CurDir => {}
            Component::ParentDir => {
                done.pop()?;
            }
            Component::Normal(part) => {
                let here = done.iter().fold(root.to_path_buf(), |path, part| path.join(part)).join(part);
                match fs::read_link(&here) {
                    Ok(target) => {
                        links += 1;
                        if target.is_absolute() || links > LINKS {
                            return None;
                        }
                        todo.push(target);
                    }
                    Err(_) => done.push(part.to_owned()),
                }
            }
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(done.iter().fold(root.to_path_buf(), |path, part| path.join(part)))
}

fn classify(path: &str) -> io::Result<HookKind> {
    let mut head = Vec::new();
    File::open(path).and_then(|file| file.take(FIRST_LINE_BYTES).read_to_end(&mut head)).map_err(|e| about(e, "open", path))?;
    if let Some(magic) = head.first_chunk::<4>()
        && is_binary(*magic)
    {
        return Ok(HookKind::Binary);
    }
    let line = head.split(|b| *b == b'\n').next().unwrap_or_default();
    if !line.starts_with(b"#!") {
        return Ok(HookKind::Shell { shebang: None });
    }
    let line = String::from_utf8_lossy(line).trim_end_matches('\r').to_owned();
    Ok(if names_posix_shell(&line) { HookKind::Shell { shebang: Some(line) } } else { HookKind::Script })
}

fn make_wrapper(hook: &str, shebang: Option<&str>, temp_dir: &str, executable: &str) -> io::Result<Wrapper> {
    fs::create_dir_all(temp_dir)?;
    let dir = make_temp_dir(temp_dir, WRAPPER_PREFIX)?;
    let name = |file: &str| text(dir.join(file));
    let wrapper = Wrapper { dir: text(dir.clone()), script: name("hook"), before: name("before.json"), after: name("after.json") };
    let made = || -> io::Result<()> {
        create(&wrapper.before, 0o600)?;
        create(&wrapper.after, 0o600)?;
        create(&wrapper.script, 0o700)?.write_all(wrapper_script(shebang, executable, &wrapper, hook).as_bytes())
    };
    made().inspect_err(|_| {
        let _ = fs::remove_dir_all(&dir);
    })?;
    Ok(wrapper)
}

fn create(path: &str, mode: u32) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(mode).open(path).map_err(|e| about(e, "open", path))
}

/// A new directory, mode 0700.
fn make_temp_dir(parent: &str, prefix: &str) -> io::Result<PathBuf> {
    let private = fs::Permissions::from_mode(0o700);
    Ok(tempfile::Builder::new().prefix(prefix).permissions(private).tempdir_in(parent)?.keep())
}

fn take_wrapper(wrapper: &Wrapper) -> WrapperDumps {
    let read = |path: &str| fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).map_err(|e| about(e, "read", path));
    let parse = |text: io::Result<String>| text.map_err(|e| e.to_string()).and_then(|text| Env::from_json(&text));
    let before = parse(read(&wrapper.before));
    let after = match read(&wrapper.after) {
        Ok(text) if text.is_empty() => None,
        text => Some(parse(text)),
    };
    let directory_exists = match &after {
        Some(Ok(env)) => Path::new(env.text(HOOK_WORKING_DIR)).is_dir(),
        _ => false,
    };
    let script_exists = Path::new(&wrapper.script).exists();
    // A directory that cannot be removed is private and in the temporary directory: whoever cleans that up removes it.
    let _ = fs::remove_dir_all(&wrapper.dir);
    WrapperDumps { before, after, directory_exists, script_exists }
}

/// The first file of this name in `path` with any execute bit (bootstrap §3.1). Empty elements mean the start directory.
pub(super) fn look_up(program: &str, path: &str) -> Option<PathBuf> {
    std::env::split_paths(OsStr::new(path)).find_map(|dir| {
        let file = if dir.as_os_str().is_empty() { PathBuf::from(".") } else { dir }.join(program);
        let usable = fs::metadata(&file).is_ok_and(|m| !m.is_dir() && m.permissions().mode() & 0o111 != 0);
        usable.then(|| std::path::absolute(&file).unwrap_or(file))
    })
}

/// The version string in the file of OpenSSH's client: a string of its own, `OpenSSH_9.2p1 …`. The patterns of other versions
/// that the client knows by name are no such strings.
fn ssh_version(file: &[u8]) -> Option<String> {
    let mut rest = file;
    // The letter is rare in a file that is mostly zeros and code, and the standard library skips to it fast.
    while rest.skip_until(b'O').is_ok_and(|n| n > 0) {
        let Some(version) = rest.strip_prefix(b"penSSH_") else { continue };
        let before = (file.len() - rest.len()).checked_sub(2).and_then(|at| file.get(at));
        if before != Some(&0) {
            continue;
        }
        let end = version.iter().take(64).position(|b| !matches!(b, b'0'..=b'9' | b'.' | b'p'))?;
        let text = std::str::from_utf8(&version[..end]).ok()?;
        let ends_here = matches!(version.get(end), Some(0 | b' ' | b','));
        if ends_here && text.split_once('p').is_some_and(|(number, patch)| number.split('.').count() == 2 && !patch.is_empty()) {
            return Some(format!("OpenSSH_{text}"));
        }
    }
    None
}

fn probe(path: &str, base: &str) -> FileResult {
    let Ok(metadata) = fs::metadata(path) else {
        return FileResult::Probed { file: FileKind::Missing, inside: false, executable: false };
    };
    let file = if metadata.is_dir() { FileKind::Directory } else { FileKind::File };
    let inside = match (fs::canonicalize(path), fs::canonicalize(base)) {
        (Ok(path), Ok(base)) => path != base && path.starts_with(base),
        _ => false,
    };
    FileResult::Probed { file, inside, executable: metadata.permissions().mode() & 0o100 != 0 }
}

fn make_executable(path: &str) -> io::Result<()> {
    let mut permissions = fs::metadata(path)?.permissions();
    permissions.set_mode(permissions.mode() | 0o100);
    fs::set_permissions(path, permissions)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    #[test]
    fn a_repository_hook_may_be_a_link_that_stays_inside_but_none_that_leads_out() {
        let room = room();
        let root = room.path().join("checkout");
        fs::create_dir_all(root.join(".buildkite/hooks")).unwrap();
        fs::create_dir_all(root.join("scripts")).unwrap();
        fs::write(root.join("scripts/h"), "").unwrap();
        fs::write(room.path().join("outside"), "").unwrap();
        let link = |target: &str, name: &str| std::os::unix::fs::symlink(target, root.join(".buildkite/hooks").join(name)).unwrap();
        link("../../scripts/h", "inside");
        link("../../../outside", "above");
        link(&text(root.join("scripts/h")), "absolute");
        link("loop", "loop");
        let (dir, root) = (text(root.join(".buildkite/hooks")), text(root.clone()));
        assert!(find_hook(&dir, "inside", Some(&root)).is_some());
        for name in ["above", "absolute", "loop", "missing"] {
            assert_eq!(find_hook(&dir, name, Some(&root)), None, "{name}");
        }
        // The agent's own directories are not confined.
        assert!(find_hook(&dir, "absolute", None).is_some());
    }

    #[test]
    fn hooks_are_classified_by_their_first_bytes() {
        let room = room();
        let file = room.path().join("h");
        let kind = |content: &[u8]| {
            fs::write(&file, content).unwrap();
            classify(&text(file.clone())).unwrap()
        };
        assert_eq!(kind(b"\x7fELF...."), HookKind::Binary);
        assert_eq!(kind(b"MZ"), HookKind::Shell { shebang: None });
        assert_eq!(kind(b""), HookKind::Shell { shebang: None });
        assert_eq!(kind(b"#!/bin/sh -u\r\ntrue"), HookKind::Shell { shebang: Some("#!/bin/sh -u".into()) });
        assert_eq!(kind(b"#!/usr/bin/python3\n"), HookKind::Script);
        assert!(classify("/nonexistent/hook").is_err());
    }

    #[test]
    fn the_version_of_ssh_is_read_from_its_file_but_not_from_patterns() {
        let file = b"\x7fELF\0\0OpenSSH_2.5.0p1*,OpenSSH_2.5.1p1*\0OpenSSH_6.6.1*\0OpenSSH_3.0*\0OpenSSH_9.2p1 Debian-2\0OpenSSH_1.0p1\0";
        assert_eq!(ssh_version(file).as_deref(), Some("OpenSSH_9.2p1"));
        assert_eq!(ssh_version(b"#!/bin/sh\nexec real-ssh"), None);
        assert_eq!(ssh_version(b"\0OpenSSH_9.2p1"), None, "cut off");
    }

    #[test]
    fn a_wrapper_is_private_and_what_it_leaves_is_taken_once() {
        let room = room();
        let wrapper = make_wrapper("/h", None, &text(room.path().join("made")), "/agent").unwrap();
        let mode = |path: &str| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&wrapper.dir), mode(&wrapper.script), mode(&wrapper.before)), (0o700, 0o700, 0o600));
        fs::write(&wrapper.before, "{}\n").unwrap();
        let dumps = take_wrapper(&wrapper);
        assert_eq!((dumps.before, dumps.after, dumps.script_exists), (Ok(Env::default()), None, true));
        assert!(!Path::new(&wrapper.dir).exists());
    }

    #[test]
    fn a_link_out_of_the_checkout_is_not_inside() {
        let room = room();
        let base = room.path().join("base");
        fs::create_dir(&base).unwrap();
        fs::write(room.path().join("script"), "").unwrap();
        std::os::unix::fs::symlink("../script", base.join("link")).unwrap();
        fs::write(base.join("real"), "").unwrap();
        let inside = |name: &str| match probe(&text(base.join(name)), &text(base.clone())) {
            FileResult::Probed { inside, .. } => inside,
            other => panic!("{other:?}"),
        };
        assert!(inside("real") && !inside("link") && !inside("."));
    }
}
