//! The configuration file of `start`: where it is, and its line syntax (start-flags §1.1–1.3).

use std::path::{Path, PathBuf};

/// Entries of a configuration file. A later line with the same key wins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ConfigFile {
    entries: Vec<(String, String, usize)>,
}

impl ConfigFile {
    /// Parses the text of a file.
    pub(crate) fn parse(text: &str) -> Result<ConfigFile, String> {
        let mut entries: Vec<(String, String, usize)> = Vec::new();
        for (i, line) in text.lines().enumerate() {
            let line = line.trim_matches([' ', '\t', '\r']);
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (key, value) = parse_line(line).map_err(|e| format!("loading config file: parsing config line {}: {e}", i + 1))?;
            entries.retain(|(k, _, _)| *k != key);
            entries.push((key, value, i + 1));
        }
        Ok(ConfigFile { entries })
    }

    /// Reads and parses the file at `path`.
    pub(crate) fn read(path: &Path) -> Result<ConfigFile, String> {
        let bytes = std::fs::read(path).map_err(|e| format!("loading config file: opening file {}: {}", path.display(), os_text(&e)))?;
        ConfigFile::parse(&String::from_utf8_lossy(&bytes))
    }

    /// Line number and value of a key.
    pub(crate) fn get(&self, key: &str) -> Option<(usize, &str)> {
        self.entries.iter().find(|(k, _, _)| k == key).map(|(_, v, n)| (*n, v.as_str()))
    }
}

/// The operating system's words, without the number that Rust adds.
pub(crate) fn os_text(e: &std::io::Error) -> String {
    let text = e.to_string();
    match text.find(" (os error") {
        Some(i) => text[..i].to_owned(),
        None => text,
    }
}

fn parse_line(line: &str) -> Result<(String, String), String> {
    let line = strip_comment(line);
    let Some((key, value)) = line.split_once('=').or_else(|| line.split_once(':')) else {
        return Err(format!("can't separate key from value in string \"{line}\", no valid separators (= or :) found"));
    };
    let key = key.strip_prefix("export").unwrap_or(key).trim();
    let mut value = value.trim().to_owned();
    if value.matches('"').count() == 2 || value.matches('\'').count() == 2 {
        value = value.trim_matches(['"', '\'']).replace("\\\"", "\"").replace("\\n", "\n");
    }
    Ok((key.to_owned(), value))
}

/// Cuts a comment, unless its `#` stands inside one pair of quotes (§1.2, rule 2).
fn strip_comment(line: &str) -> String {
    if !line.contains('#') {
        return line.to_owned();
    }
    let mut open = false;
    let mut keep: Vec<&str> = Vec::new();
    for segment in line.split('#') {
        if segment.matches('"').count() == 1 || segment.matches('\'').count() == 1 {
            if open {
                open = false;
                keep.push(segment);
            } else {
                open = true;
            }
        }
        if keep.is_empty() || open {
            keep.push(segment);
        }
    }
    keep.join("#")
}

/// The configuration file to read: the path as written, and where it is. An explicit path must exist.
pub(crate) fn find_config_file(
    explicit: &str,
    exe: Option<&Path>,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Option<(String, PathBuf)>, String> {
    if !explicit.is_empty() {
        let path = PathBuf::from(expand_path(explicit, env, true)?);
        if !path.exists() {
            return Err(format!("a configuration file could not be found at: \"{}\"", path.display()));
        }
        return Ok(Some((explicit.to_owned(), path)));
    }
    let mut candidates: Vec<String> = Vec::new();
    if let Some(dir) = exe.and_then(Path::parent) {
        candidates.push(dir.join("buildkite-agent.cfg").to_string_lossy().into_owned());
    }
    candidates.push("$HOME/.buildkite-agent/buildkite-agent.cfg".into());
    if cfg!(all(target_os = "macos", target_arch = "aarch64")) {
        candidates.push("/opt/homebrew/etc/buildkite-agent/buildkite-agent.cfg".into());
    }
    candidates.push("/usr/local/etc/buildkite-agent/buildkite-agent.cfg".into());
    candidates.push("/etc/buildkite-agent/buildkite-agent.cfg".into());
    for candidate in candidates {
        let path = PathBuf::from(expand_path(&candidate, env, true)?);
        if path.exists() {
            return Ok(Some((candidate, path)));
        }
    }
    Ok(None)
}

/// Expands variables and a leading `~`; then makes the path absolute, or, for a command (`absolute` false), only if a file of
/// that whole name exists (§1.3). Empty stays empty.
pub(crate) fn expand_path(text: &str, env: &dyn Fn(&str) -> Option<String>, absolute: bool) -> Result<String, String> {
    if text.is_empty() {
        return Ok(String::new());
    }
    let mut path = expand_variables(text, env);
    if let Some(rest) = path.strip_prefix('~') {
        if !(rest.is_empty() || rest.starts_with('/')) {
            return Err("cannot expand user-specific home dir".into());
        }
        let home = env("HOME").filter(|h| !h.is_empty()).ok_or("cannot expand ~: HOME is not set; write the path out")?;
        path = format!("{home}{rest}");
    }
    if !absolute && !Path::new(&path).exists() {
        return Ok(path);
    }
    if path.is_empty() {
        path.push('.');
    }
    Ok(clean(&std::path::absolute(&path).map_err(|e| format!("making {path:?} absolute: {}", os_text(&e)))?))
}

/// Lexically cleaned: no `.`, `..` or doubled slashes, as users of the reference agent see their paths.
pub(crate) fn clean(path: &Path) -> String {
    use std::path::Component;
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                out.pop();
            }
            Component::CurDir => {}
            part => out.push(part),
        }
    }
    out.to_string_lossy().into_owned()
}

/// `$VAR` and `${VAR}`; an unset variable is empty.
fn expand_variables(text: &str, env: &dyn Fn(&str) -> Option<String>) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(i) = rest.find('$') {
        out.push_str(&rest[..i]);
        rest = &rest[i + 1..];
        if let Some(body) = rest.strip_prefix('{')
            && let Some(end) = body.find('}')
        {
            out.push_str(&env(&body[..end]).unwrap_or_default());
            rest = &body[end + 1..];
            continue;
        }
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(rest.len());
        if end == 0 {
            out.push('$');
            continue;
        }
        out.push_str(&env(&rest[..end]).unwrap_or_default());
        rest = &rest[end..];
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_the_specification_says() {
        for (line, key, value) in [
            ("token=abc", "token", "abc"),
            ("  token = abc  ", "token", "abc"),
            ("token: abc", "token", "abc"),
            ("url: a=b", "url: a", "b"),
            ("export name=\"x\"", "name", "x"),
            ("name=\"a # b\"", "name", "a # b"),
            ("name='a # b' # tail", "name", "a # b"),
            ("name=a # b", "name", "a"),
            ("name=\"a\" # b", "name", "a"),
            ("name=\"say \\\"hi\\n\"", "name", "\"say \\\"hi\\n\""),
            ("name=\"a\\nb\"", "name", "a\nb"),
            ("name='it\"s'", "name", "it\"s"),
            ("name=\"", "name", "\""),
            ("name=", "name", ""),
        ] {
            let file = ConfigFile::parse(line).unwrap();
            assert_eq!(file.get(key).map(|(_, v)| v), Some(value), "{line}");
        }
    }

    #[test]
    fn comments_and_blank_lines_are_skipped_and_the_last_key_wins() {
        let file = ConfigFile::parse("# one\n\n   \t\n  # two\nname=a\r\nname=b\n").unwrap();
        assert_eq!(file.get("name"), Some((6, "b")));
        assert_eq!(file.get("other"), None);
    }

    #[test]
    fn a_line_without_separator_is_an_error_with_its_number() {
        assert_eq!(
            ConfigFile::parse("a=b\n\nnonsense here\n").unwrap_err(),
            "loading config file: parsing config line 3: can't separate key from value in string \"nonsense here\", no valid separators (= or :) found"
        );
    }

    #[test]
    fn an_explicit_file_must_exist() {
        let error = find_config_file("/nowhere/x.cfg", None, &|_| None).unwrap_err();
        assert_eq!(error, "a configuration file could not be found at: \"/nowhere/x.cfg\"");
    }

    #[test]
    fn the_search_begins_beside_the_executable_then_goes_home() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("home/.buildkite-agent");
        std::fs::create_dir_all(&home).unwrap();
        std::fs::write(home.join("buildkite-agent.cfg"), "").unwrap();
        let home_text = dir.path().join("home").to_string_lossy().into_owned();
        let env = |name: &str| (name == "HOME").then(|| home_text.clone());
        let exe = dir.path().join("bin/ibex");
        let (written, _) = find_config_file("", Some(&exe), &env).unwrap().unwrap();
        assert_eq!(written, "$HOME/.buildkite-agent/buildkite-agent.cfg", "the path is told as written");
        std::fs::create_dir_all(exe.parent().unwrap()).unwrap();
        let beside = dir.path().join("bin/buildkite-agent.cfg");
        std::fs::write(&beside, "").unwrap();
        assert_eq!(find_config_file("", Some(&exe), &env).unwrap().unwrap().1, beside);
    }
}
