//! The script that sources a shell hook and records what it did to the environment (specification: bootstrap §7.6).

use super::text::single_quote;
use super::vocabulary::Wrapper;

/// First words of the wrapper's directory name.
pub const WRAPPER_PREFIX: &str = "buildkite-agent-hook-wrapper";

/// The text of the script. Paths are quoted for the shell (W15).
pub fn wrapper_script(shebang: Option<&str>, executable: &str, wrapper: &Wrapper, hook: &str) -> String {
    let first = match shebang {
        Some(line) => format!("{line}\n"),
        None => String::new(),
    };
    let executable = single_quote(executable);
    let (before, after, hook) = (single_quote(&wrapper.before), single_quote(&wrapper.after), single_quote(hook));
    format!(
        "{first}{executable} env dump > {before}\n\
         . {hook}\n\
         export BUILDKITE_HOOK_EXIT_STATUS=$?\n\
         export BUILDKITE_HOOK_WORKING_DIR=$PWD\n\
         {executable} env dump > {after}\n\
         exit $BUILDKITE_HOOK_EXIT_STATUS\n"
    )
}

/// The interpreter kinds of bootstrap §7.5: whether the first line of a hook names a POSIX shell.
pub fn names_posix_shell(shebang: &str) -> bool {
    let mut words = shebang.trim_start_matches("#!").split_whitespace();
    let base = |word: &str| word.rsplit('/').next().unwrap_or_default().to_owned();
    let interpreter = match words.next().map(base) {
        Some(env) if env == "env" => words.next().map(base),
        first => first,
    };
    interpreter.is_some_and(|name| ["bash", "dash", "ksh", "sh", "zsh"].contains(&name.as_str()))
}

/// Whether these first four bytes are those of an executable.
pub fn is_binary(magic: [u8; 4]) -> bool {
    matches!(
        magic,
        [0x7f, 0x45, 0x4c, 0x46] | [0xca, 0xfe, 0xba, 0xbe] | [0xfe, 0xed, 0xfa, 0xce | 0xcf] | [0xce | 0xcf, 0xfa, 0xed, 0xfe] | [0x4d, 0x5a, _, _]
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_with_specials_are_quoted_and_the_hook_s_own_line_comes_first() {
        let wrapper = Wrapper { dir: "/t".into(), script: "/t/s".into(), before: "/t/a b".into(), after: "/t/$c".into() };
        let script = wrapper_script(Some("#!/bin/bash -u"), "/opt/it's", &wrapper, "/h/`x`");
        let lines: Vec<&str> = script.lines().collect();
        assert_eq!(
            lines,
            [
                "#!/bin/bash -u",
                r"'/opt/it'\''s' env dump > '/t/a b'",
                ". '/h/`x`'",
                "export BUILDKITE_HOOK_EXIT_STATUS=$?",
                "export BUILDKITE_HOOK_WORKING_DIR=$PWD",
                r"'/opt/it'\''s' env dump > '/t/$c'",
                "exit $BUILDKITE_HOOK_EXIT_STATUS",
            ]
        );
    }

    #[test]
    fn interpreters_are_told_by_their_base_name_and_env_is_looked_through() {
        for shell in ["#!/bin/sh", "#! /usr/bin/env bash", "#!/usr/local/bin/zsh -e", "#!/usr/bin/env ksh"] {
            assert!(names_posix_shell(shell), "{shell}");
        }
        // W21: `-S` is not looked through.
        for other in ["#!/usr/bin/env -S bash", "#!/usr/bin/python3", "#!", "#!/usr/bin/env"] {
            assert!(!names_posix_shell(other), "{other}");
        }
    }

    #[test]
    fn executables_are_told_by_their_magic() {
        assert!(is_binary(*b"\x7fELF") && is_binary(*b"MZ\0\0") && is_binary([0xcf, 0xfa, 0xed, 0xfe]));
        assert!(!is_binary(*b"#!/b") && !is_binary(*b"echo"));
    }
}
