//! Finds the agent's own hooks and says how to run them (start-and-worker §3, job-runner §4.5).

use super::spawn::{Spawn, StdioMode, find_in_path, overlaid};
use ibex_core::agent::HookSpec;
use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::path::{Path, PathBuf};

/// Where hooks are, and what runs them.
#[derive(Clone, Debug, Default)]
pub struct HookPlaces {
    /// `hooks-path`; empty: no look-up.
    pub path: String,
    /// `additional-hooks-paths`.
    pub additional: Vec<String>,
    /// `hooks-shell`.
    pub shell: String,
}

impl HookPlaces {
    /// In each directory the first of `<name>` and `<name>.ps1` that exists and is no directory.
    pub(super) fn find(&self, hook: &HookSpec) -> Vec<String> {
        let additional = if hook.all { &self.additional[..] } else { &[] };
        let dirs = std::iter::once(&self.path).chain(additional).filter(|dir| !dir.is_empty());
        let first = |dir: &String| {
            let names = [hook.name.to_owned(), format!("{}.ps1", hook.name)];
            names.into_iter().map(|name| Path::new(dir).join(name)).find(|file| file.exists() && !file.is_dir())
        };
        dirs.filter_map(first).map(|file| file.to_string_lossy().into_owned()).collect()
    }

    /// Without a terminal, standard input empty, in the working directory of the agent.
    pub(super) fn spawn(&self, hook: &HookSpec, path: &str) -> Result<Spawn, String> {
        let mut env = overlaid(hook.env.iter().map(|(name, value)| (name.as_str(), Some(value.expose()))));
        if let Ok(dir) = std::env::current_dir() {
            env.insert("PWD".into(), dir.into());
        }
        Ok(Spawn { argv: self.argv(path)?, env, dir: None, stdio: StdioMode::Pipe, dies_with_parent: false })
    }

    fn argv(&self, path: &str) -> Result<Vec<OsString>, String> {
        let with = |words: &[&str]| words.iter().map(OsString::from).chain([OsString::from(path)]).collect();
        if !self.shell.is_empty() {
            let words = shlex::split(&self.shell).ok_or_else(|| format!("hooks-shell {:?} cannot be split into words", self.shell))?;
            return Ok(words.into_iter().map(OsString::from).chain([OsString::from(path)]).collect());
        }
        if has_shebang(path) {
            return Ok(with(&[]));
        }
        match Path::new(path).extension().and_then(OsStr::to_str) {
            None | Some("sh") => {
                let shell = ["bash", "sh"].into_iter().find_map(|s| find_in_path(s.as_ref())).unwrap_or_else(|| PathBuf::from("/bin/sh"));
                Ok(vec![shell.into(), path.into()])
            }
            Some("ps1") => Ok(with(&["pwsh", "-file"])),
            Some(_) => Ok(with(&[])),
        }
    }
}

fn has_shebang(path: &str) -> bool {
    let mut start = [0; 2];
    std::fs::File::open(path).and_then(|mut f| f.read_exact(&mut start)).is_ok() && start == *b"#!"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(all: bool) -> HookSpec {
        HookSpec { name: "agent-startup", env: vec![], all, worker: None }
    }

    #[test]
    fn hooks_are_found_in_order_and_nowhere_without_a_path() {
        let dir = tempfile::tempdir().unwrap();
        let sub = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
        for (d, file) in [("a", "agent-startup.ps1"), ("b", "agent-startup"), ("b", "agent-startup.ps1"), ("d", "other")] {
            std::fs::create_dir_all(sub(d)).unwrap();
            std::fs::write(Path::new(&sub(d)).join(file), "").unwrap();
        }
        std::fs::create_dir_all(dir.path().join("c/agent-startup")).unwrap();
        let places = HookPlaces { path: sub("a"), additional: vec![sub("b"), sub("c"), sub("d")], shell: String::new() };
        let (a, b) = (format!("{}/agent-startup.ps1", sub("a")), format!("{}/agent-startup", sub("b")));
        assert_eq!(places.find(&hook(true)), [a.clone(), b]);
        assert_eq!(places.find(&hook(false)), [a]);
        assert_eq!(HookPlaces::default().find(&hook(true)), Vec::<String>::new());
    }

    #[test]
    fn the_interpreter_follows_the_rules() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            std::fs::write(dir.path().join(name), text).unwrap();
            dir.path().join(name).to_string_lossy().into_owned()
        };
        let (direct, plain, ps1) = (file("direct", "#!/bin/sh\n"), file("plain", "exit 0"), file("x.ps1", ""));
        let places = HookPlaces::default();
        assert_eq!(places.argv(&direct).unwrap(), [OsString::from(&direct)]);
        assert!(Path::new(&places.argv(&plain).unwrap()[0]).is_absolute());
        assert_eq!(places.argv(&ps1).unwrap(), ["pwsh", "-file", &ps1].map(OsString::from));
        let shell = HookPlaces { shell: "/bin/zsh -e 'x y'".into(), ..HookPlaces::default() };
        assert_eq!(shell.argv(&plain).unwrap(), ["/bin/zsh", "-e", "x y", &plain].map(OsString::from));
        HookPlaces { shell: "'".into(), ..HookPlaces::default() }.argv(&plain).unwrap_err();
    }
}
