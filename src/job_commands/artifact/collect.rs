//! From the pattern argument to files with their sums (artifacts §3–6).

use crate::cli::Failure;
use crate::log::Logger;
use ibex_core::artifact::{Glob, Kind, Verdict, artifact_path, clean, content_type, split_patterns};
use sha1::{Digest, Sha1};
use sha2::Sha256;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

/// Links followed below one another before a cycle is suspected.
const LINK_DEPTH: usize = 1000;

/// How patterns are read.
pub(super) struct Rules<'a> {
    pub(super) literal: bool,
    pub(super) delimiter: &'a str,
    pub(super) follow_symlinks: bool,
    pub(super) skip_symlinks: bool,
    /// Forces the type of every artifact; empty: by extension.
    pub(super) content_type: &'a str,
}

/// One file to upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Artifact {
    pub(super) path: String,
    pub(super) absolute: String,
    pub(super) size: u64,
    pub(super) sha1: String,
    pub(super) sha256: String,
    pub(super) content_type: String,
}

/// Everything that `argument` names, sorted by path.
pub(super) fn collect(argument: &str, rules: &Rules<'_>, log: &Logger) -> Result<Vec<Artifact>, Failure> {
    let failed = |why: String| Failure::Fatal(format!("failed to upload artifacts: collecting artifacts: {why}"));
    let cwd = std::env::current_dir().map_err(|e| failed(e.to_string()))?.to_string_lossy().into_owned();
    let patterns = split_patterns(argument, rules.delimiter);
    // Absolute path to the form in which it was matched first: a file is one artifact, a link to it another.
    let mut matched: BTreeMap<String, bool> = BTreeMap::new();
    let mut add = |path: String| {
        let relative = !path.starts_with('/');
        let absolute = clean(&if relative { format!("{cwd}/{path}") } else { path });
        matched.entry(absolute).or_insert(relative);
    };
    if rules.literal {
        patterns.into_iter().for_each(&mut add);
    } else {
        let globs = patterns.iter().map(|p| Glob::parse(&home(p))).collect::<Result<Vec<_>, _>>().map_err(|e| failed(e.to_string()))?;
        for glob in &globs {
            Walk { glob, follow: rules.follow_symlinks, log }.run(&mut add).map_err(failed)?;
        }
    }
    let mut out = Vec::new();
    for (absolute, relative) in matched {
        if Path::new(&absolute).is_dir() || (rules.skip_symlinks && Path::new(&absolute).is_symlink()) {
            log.debug(format!("Skipping {absolute}"));
            continue;
        }
        out.push(build(absolute, &cwd, relative, rules.content_type).map_err(failed)?);
    }
    out.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(out)
}

/// A leading `~/` is the home directory.
fn home(pattern: &str) -> String {
    match (pattern.strip_prefix("~/"), std::env::var("HOME")) {
        (Some(rest), Ok(home)) => format!("{}/{rest}", home.trim_end_matches('/')),
        _ => pattern.to_owned(),
    }
}

fn build(absolute: String, cwd: &str, relative: bool, forced: &str) -> Result<Artifact, String> {
    let opening = |e: std::io::Error| format!("building artifact: opening file {absolute}: {e}");
    let mut file = std::fs::File::open(&absolute).map_err(opening)?;
    let (mut sha1, mut sha256, mut size) = (Sha1::new(), Sha256::new(), 0);
    let mut buffer = vec![0; 128 * 1024];
    loop {
        let n = file.read(&mut buffer).map_err(opening)?;
        if n == 0 {
            break;
        }
        sha1.update(&buffer[..n]);
        sha256.update(&buffer[..n]);
        size += n as u64;
    }
    let path = artifact_path(&absolute, cwd, relative);
    let content_type = if forced.is_empty() { content_type(&path).to_owned() } else { forced.to_owned() };
    Ok(Artifact { path, size, sha1: hex(&sha1.finalize()), sha256: hex(&sha256.finalize()), content_type, absolute })
}

/// Lower-case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// A walk for one pattern (artifacts §4.2).
struct Walk<'a> {
    glob: &'a Glob,
    follow: bool,
    log: &'a Logger,
}

impl Walk<'_> {
    fn run(&self, add: &mut impl FnMut(String)) -> Result<(), String> {
        if let Some(path) = self.glob.literal() {
            match std::fs::metadata(path) {
                Ok(m) if m.is_dir() => self.directory(path),
                Ok(_) => add(path.to_owned()),
                Err(e) => self.unreadable(path, &e),
            }
            return Ok(());
        }
        // A root that does not exist matches nothing, and nobody is told.
        if Path::new(self.glob.root()).is_dir() { self.below("", 0, add) } else { Ok(()) }
    }

    fn directory(&self, path: &str) {
        self.log.warn(format!("One of the glob patterns matched a directory: {path}"));
    }

    fn unreadable(&self, path: &str, e: &std::io::Error) {
        self.log.warn(format!("Couldn't walk path {path}: {e}"));
    }

    /// The path under which an entry is reported.
    fn joined(&self, relative: &str) -> String {
        match self.glob.root() {
            "." => relative.to_owned(),
            root => format!("{}/{relative}", root.trim_end_matches('/')),
        }
    }

    fn below(&self, relative: &str, links: usize, add: &mut impl FnMut(String)) -> Result<(), String> {
        let path = if relative.is_empty() { self.glob.root().to_owned() } else { self.joined(relative) };
        let entries = match std::fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(e) => {
                self.unreadable(&path, &e);
                return Ok(());
            }
        };
        let mut names: Vec<_> = entries.filter_map(Result::ok).collect();
        names.sort_by_key(std::fs::DirEntry::file_name);
        for entry in names {
            let name = entry.file_name().to_string_lossy().into_owned();
            let child = if relative.is_empty() { name } else { format!("{relative}/{name}") };
            let kind = entry.file_type().map_err(|e| e.to_string())?;
            if kind.is_symlink() && self.follow && self.glob.judge(&child, Kind::Directory) != Verdict::Skip {
                match std::fs::metadata(entry.path()) {
                    Ok(m) if m.is_dir() => {
                        if links >= LINK_DEPTH {
                            return Err(format!("recursion limit {LINK_DEPTH} reached; possible symlink cycle"));
                        }
                        self.visit(&child, Kind::Directory, links + 1, add)?;
                        continue;
                    }
                    Ok(_) => {}
                    Err(e) => self.unreadable(&self.joined(&child), &e),
                }
            }
            self.visit(&child, if kind.is_dir() { Kind::Directory } else { Kind::Other }, links, add)?;
        }
        Ok(())
    }

    fn visit(&self, child: &str, kind: Kind, links: usize, add: &mut impl FnMut(String)) -> Result<(), String> {
        match self.glob.judge(child, kind) {
            Verdict::Skip => Ok(()),
            Verdict::Match => {
                add(self.joined(child));
                Ok(())
            }
            Verdict::Descend => self.below(child, links, add),
            Verdict::DirectoryMatch => {
                self.directory(&self.joined(child));
                self.below(child, links, add)
            }
        }
    }
}
