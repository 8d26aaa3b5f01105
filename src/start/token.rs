//! The registration token (start-flags §6): references to files and descriptors, and the re-execution that takes a plain token
//! off the command line and out of the environment, where jobs of the same user could read it.

use super::table::FLAGS;
use crate::flags::{Kind, os_text};
use ibex_core::secret::Secret;
use std::io::Read;
use std::os::fd::{FromRawFd, OwnedFd};

/// The variable that may hold the token.
const VARIABLE: &str = "BUILDKITE_AGENT_TOKEN";
/// A token in a descriptor is not longer than this.
const DESCRIPTOR_BYTES: u64 = 64 * 1024;

/// Whether the text points to the token instead of being it.
fn is_reference(text: &str) -> bool {
    text.starts_with("file://") || text.starts_with("fd://")
}

/// Where the token flags are in the arguments after `start`, and where another one could be added.
struct Scan {
    /// Index of the argument, and whether the value is behind `=` in it.
    values: Vec<(usize, bool)>,
    /// Index at which flags end.
    end: usize,
}

fn scan(args: &[String]) -> Scan {
    let mut values = Vec::new();
    let mut i = 0;
    while i < args.len() {
        let t = args[i].trim();
        let Some(name) = t.strip_prefix("--").or_else(|| t.strip_prefix('-')) else {
            i += 1;
            continue;
        };
        // What ends the flags (commands §2): `--`, `-`, `-1`.
        if name.is_empty() || (!t.starts_with("--") && !name.starts_with(char::is_alphabetic)) {
            break;
        }
        match name.split_once('=') {
            Some(("token", _)) => values.push((i, true)),
            Some(_) => {}
            None if name == "token" => {
                if i + 1 < args.len() {
                    values.push((i + 1, false));
                }
                i += 1;
            }
            None => {
                let takes_value = FLAGS.iter().copied().flatten().any(|f| f.name == name && f.kind != Kind::Bool);
                i += usize::from(takes_value);
            }
        }
        i += 1;
    }
    Scan { values, end: i.min(args.len()) }
}

/// What to run instead: arguments with `fd://N` in place of the token, and the token. `None`: nothing to hide.
fn plan(args: &[String], variable: Option<&str>, descriptor: i32) -> Option<(Vec<String>, String)> {
    let scan = scan(args);
    let value = |&(i, joined): &(usize, bool)| {
        let text = args[i].as_str();
        if joined { text.trim().split_once('=').map_or("", |(_, v)| v).to_owned() } else { text.to_owned() }
    };
    let flag = scan.values.last().map(value);
    let variable = variable.filter(|v| !v.is_empty());
    let token = match (&flag, variable) {
        // An indirect reference on the command line wins over the variable, which is scrubbed all the same.
        (Some(f), Some(_)) if is_reference(f) => return Some((args.to_vec(), String::new())),
        (Some(f), _) if !f.is_empty() && !is_reference(f) => f.clone(),
        (None, Some(v)) if !is_reference(v) => v.to_owned(),
        _ => return None,
    };
    let mut out = args.to_vec();
    let reference = format!("fd://{descriptor}");
    for (i, joined) in &scan.values {
        out[*i] = if *joined { format!("--token={reference}") } else { reference.clone() };
    }
    if scan.values.is_empty() {
        out.splice(scan.end..scan.end, ["--token".to_owned(), reference]);
    }
    Some((out, token))
}

/// Re-executes this program without the token in its command line and environment, keeping its pid. Comes back only when there
/// is nothing to hide, or when it failed, which is said on stderr.
pub(crate) fn scrub() {
    if let Err(e) = try_scrub() {
        eprintln!("Couldn't re-exec to remove the registration token from the process command line/environment, continuing anyway: {e}");
    }
}

fn try_scrub() -> std::io::Result<()> {
    use std::os::fd::AsRawFd;
    use std::os::unix::process::CommandExt;
    let all: Vec<String> = std::env::args_os().map(|a| a.to_string_lossy().into_owned()).collect();
    let variable = std::env::var_os(VARIABLE).map(|v| v.to_string_lossy().into_owned());
    // args[0] is the program, args[1] is `start`.
    let (head, args) = all.split_at(2.min(all.len()));
    if plan(args, variable.as_deref(), 0).is_none() {
        return Ok(());
    }
    let (read, write) = rustix::pipe::pipe()?;
    let Some((args, token)) = plan(args, variable.as_deref(), read.as_raw_fd()) else { return Ok(()) };
    if token.len() as u64 > DESCRIPTOR_BYTES {
        return Err(std::io::Error::other("the token is longer than 64 KiB"));
    }
    std::io::Write::write_all(&mut std::fs::File::from(write), token.as_bytes())?;
    let mut command = std::process::Command::new(std::env::current_exe()?);
    command.arg0(&head[0]).args(&head[1..]).args(&args).env_remove(VARIABLE);
    Err(command.exec())
}

/// The token that `text` is or points to; the error is the whole message (start-flags §3, row 4).
pub(crate) fn resolve(text: &str) -> Result<Secret, String> {
    let wrap = |cause: String| format!("failed to resolve registration token {text:?}: {cause}");
    let token = if let Some(path) = text.strip_prefix("file://") {
        let bytes = std::fs::read(path).map_err(|e| wrap(format!("couldn't read token from file: open {path}: {}", os_text(&e))))?;
        String::from_utf8_lossy(&bytes).trim().to_owned()
    } else if let Some(number) = text.strip_prefix("fd://") {
        let n: i32 = match number.parse() {
            Ok(n) if n >= 0 => n,
            _ => return Err(wrap(format!("invalid token file descriptor {text:?}: {number:?} is not a descriptor number"))),
        };
        read_descriptor(n).map_err(|e| wrap(format!("couldn't read token from file descriptor {n}: {}", os_text(&e))))?
    } else {
        return Ok(Secret::new(text));
    };
    if token.is_empty() {
        return Err(wrap("it is empty; put the registration token of the cluster there".into()));
    }
    Ok(Secret::new(token))
}

/// Reads a descriptor that was inherited, to its end, and closes it.
fn read_descriptor(n: i32) -> std::io::Result<String> {
    // SAFETY: the descriptor is only asked about; nothing is done with it unless it is open.
    let open = rustix::io::fcntl_getfd(unsafe { std::os::fd::BorrowedFd::borrow_raw(n) });
    open?;
    // SAFETY: it is open, was inherited for exactly this purpose, and nothing else in this process knows of it.
    let file = std::fs::File::from(unsafe { OwnedFd::from_raw_fd(n) });
    let mut bytes = Vec::new();
    file.take(DESCRIPTOR_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan_of(args: &[&str], variable: Option<&str>) -> Option<(Vec<String>, String)> {
        let args: Vec<String> = args.iter().map(|s| (*s).to_owned()).collect();
        plan(&args, variable, 7)
    }

    fn done(args: &[&str], token: &str) -> Option<(Vec<String>, String)> {
        Some((args.iter().map(|s| (*s).to_owned()).collect(), token.to_owned()))
    }

    #[test]
    fn every_form_of_the_flag_is_replaced_and_the_last_one_counts() {
        assert_eq!(plan_of(&["--token", "s", "--spawn", "2"], None), done(&["--token", "fd://7", "--spawn", "2"], "s"));
        assert_eq!(plan_of(&["-token=a", "--token=b"], None), done(&["--token=fd://7", "--token=fd://7"], "b"));
        assert_eq!(plan_of(&["--token=a=b"], None), done(&["--token=fd://7"], "a=b"));
    }

    #[test]
    fn a_token_from_the_environment_is_appended() {
        assert_eq!(plan_of(&["--spawn", "2"], Some("s")), done(&["--spawn", "2", "--token", "fd://7"], "s"));
        assert_eq!(plan_of(&["--", "x"], Some("s")), done(&["--token", "fd://7", "--", "x"], "s"), "before the flags end");
    }

    #[test]
    fn references_and_absent_tokens_need_nothing() {
        assert_eq!(plan_of(&["--token", "file:///t"], None), None);
        assert_eq!(plan_of(&["--token=fd://3"], None), None);
        assert_eq!(plan_of(&[], None), None);
        assert_eq!(plan_of(&[], Some("")), None);
        assert_eq!(plan_of(&[], Some("file:///t")), None);
    }

    #[test]
    fn an_indirect_flag_leaves_only_the_variable_to_scrub() {
        assert_eq!(plan_of(&["--token", "file:///t"], Some("s")), done(&["--token", "file:///t"], ""));
    }

    #[test]
    fn the_value_of_another_flag_is_no_token() {
        assert_eq!(plan_of(&["--name", "--token", "x"], None), None);
        assert_eq!(plan_of(&["--no-color", "--token", "x"], None), done(&["--no-color", "--token", "fd://7"], "x"));
    }

    #[test]
    fn references_are_read_and_trimmed_and_bad_ones_name_themselves() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, "  abc\n").unwrap();
        assert_eq!(resolve(&format!("file://{}", path.display())).unwrap().expose(), "abc");
        assert_eq!(resolve("plain").unwrap().expose(), "plain");
        let error = resolve("file:///nowhere/token").unwrap_err();
        assert_eq!(
            error,
            "failed to resolve registration token \"file:///nowhere/token\": couldn't read token from file: open /nowhere/token: No such file or directory"
        );
        let error = resolve("fd://x").unwrap_err();
        assert!(error.starts_with("failed to resolve registration token \"fd://x\": invalid token file descriptor \"fd://x\": "), "{error}");
        let error = resolve("fd://987654").unwrap_err();
        assert!(error.contains("couldn't read token from file descriptor 987654: "), "{error}");
        std::fs::write(&path, "\n").unwrap();
        assert!(resolve(&format!("file://{}", path.display())).unwrap_err().contains("it is empty"));
    }

    #[test]
    fn a_descriptor_is_read_to_its_end() {
        use std::os::fd::IntoRawFd;
        let (read, write) = rustix::pipe::pipe().unwrap();
        std::io::Write::write_all(&mut std::fs::File::from(write), b" secret \n").unwrap();
        assert_eq!(resolve(&format!("fd://{}", read.into_raw_fd())).unwrap().expose(), "secret");
    }
}
