//! The job env: the variables that this process owns and hands to every child (specification: bootstrap §2.2, §7.8).

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Variables by name. Never printed and never serialised with its values: they may be secrets.
#[derive(Clone, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(transparent)]
pub struct Env(BTreeMap<String, String>);

impl Env {
    /// Value of `name`, if present.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Value of `name`, empty if absent.
    pub fn text(&self, name: &str) -> &str {
        self.get(name).unwrap_or("")
    }

    /// Sets or replaces `name`.
    pub fn set(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.0.insert(name.into(), value.into());
    }

    /// Removes `name`.
    pub fn unset(&mut self, name: &str) {
        self.0.remove(name);
    }

    /// All variables, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// What an `env dump` printed: one JSON object of strings.
    pub fn from_json(text: &str) -> Result<Env, String> {
        serde_json::from_str::<BTreeMap<String, String>>(text).map(Env).map_err(|e| e.to_string())
    }
}

impl FromIterator<(String, String)> for Env {
    /// Entries without a name are dropped (bootstrap §2.2).
    fn from_iter<I: IntoIterator<Item = (String, String)>>(entries: I) -> Env {
        Env(entries.into_iter().filter(|(name, _)| !name.is_empty()).collect())
    }
}

impl std::fmt::Debug for Env {
    /// Names only.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// Variables whose values are stored: the executor decides by them or sets them, and they hold no secrets.
const STORED: [&str; 13] = [
    "BUILDKITE_BUILD_CHECKOUT_PATH",
    "BUILDKITE_COMMAND_EXIT_STATUS",
    HOOK_EXIT_STATUS,
    HOOK_WORKING_DIR,
    "BUILDKITE_JOB_CANCELLED",
    "BUILDKITE_JOB_TIMED_OUT",
    "BUILDKITE_LAST_HOOK_EXIT_STATUS",
    "GIT_LFS_SKIP_SMUDGE",
    "GIT_SSH_COMMAND",
    "GIT_TERMINAL_PROMPT",
    "PATH",
    "PWD",
    "TMPDIR",
];

impl Serialize for Env {
    /// Values that are not stored become their length: `«5»`. A placeholder serialised again stays as it is.
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_map(self.0.iter().map(|(name, value)| {
            let keep = STORED.contains(&name.as_str()) || (value.starts_with('«') && value.ends_with('»'));
            (name, if keep { value.clone() } else { format!("«{}»", value.len()) })
        }))
    }
}

/// What a hook did to one variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Added(String),
    Changed(String),
    Removed,
}

/// What a hook did to the environment, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Diff(pub(super) BTreeMap<String, Change>);

impl Diff {
    /// After against before; the names that the wrapper itself makes are left out.
    pub(super) fn between(before: &Env, after: &Env) -> Diff {
        let mut changes = BTreeMap::new();
        for (name, value) in after.iter() {
            match before.get(name) {
                None => changes.insert(name.to_owned(), Change::Added(value.to_owned())),
                Some(old) if old != value => changes.insert(name.to_owned(), Change::Changed(value.to_owned())),
                Some(_) => None,
            };
        }
        for (name, _) in before.iter() {
            if after.get(name).is_none() {
                changes.insert(name.to_owned(), Change::Removed);
            }
        }
        for name in [HOOK_EXIT_STATUS, HOOK_WORKING_DIR, "_"] {
            changes.remove(name);
        }
        Diff(changes)
    }

    /// Takes the names out that `blocked` names; returns them, sorted.
    pub(super) fn block(&mut self, blocked: impl Fn(&str) -> bool) -> Vec<String> {
        let names: Vec<String> = self.0.keys().filter(|name| blocked(name)).cloned().collect();
        for name in &names {
            self.0.remove(name);
        }
        names
    }

    /// Touches only the names of the diff.
    pub(super) fn apply(&self, env: &mut Env) {
        for (name, change) in &self.0 {
            match change {
                Change::Added(value) | Change::Changed(value) => env.set(name.clone(), value.clone()),
                Change::Removed => env.unset(name),
            }
        }
    }
}

/// Exported by the wrapper: the status of sourcing the hook.
pub(super) const HOOK_EXIT_STATUS: &str = "BUILDKITE_HOOK_EXIT_STATUS";
/// Exported by the wrapper: the directory the hook ended in.
pub const HOOK_WORKING_DIR: &str = "BUILDKITE_HOOK_WORKING_DIR";

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> Env {
        pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn a_diff_tells_added_changed_and_removed_and_ignores_what_the_wrapper_exports() {
        let before = env(&[("KEEP", "1"), ("OLD", "1"), ("EDIT", "1"), ("_", "a")]);
        let after = env(&[("KEEP", "1"), ("EDIT", "2"), ("NEW", "x\ny"), (HOOK_EXIT_STATUS, "0"), (HOOK_WORKING_DIR, "/"), ("_", "b")]);
        let diff = Diff::between(&before, &after);
        let expected = [
            ("EDIT".to_owned(), Change::Changed("2".to_owned())),
            ("NEW".to_owned(), Change::Added("x\ny".to_owned())),
            ("OLD".to_owned(), Change::Removed),
        ];
        assert_eq!(diff.0.into_iter().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_change_made_elsewhere_to_another_name_survives_the_diff() {
        let diff = Diff::between(&env(&[("A", "1")]), &env(&[("A", "2")]));
        let mut job = env(&[("A", "1"), ("ELSEWHERE", "x")]);
        diff.apply(&mut job);
        assert_eq!(job, env(&[("A", "2"), ("ELSEWHERE", "x")]));
    }

    #[test]
    fn a_dump_that_is_not_an_object_of_strings_is_an_error() {
        assert_eq!(Env::from_json("{\"A\":\"b\\nc\"}\n").unwrap(), env(&[("A", "b\nc")]));
        assert!(Env::from_json("").is_err());
        assert!(Env::from_json("[1]").is_err());
        assert!(Env::from_json("{\"A\":1}").is_err());
    }

    #[test]
    fn values_are_neither_printed_nor_serialised() {
        let env = env(&[("TOKEN", "hunter2")]);
        assert!(!format!("{env:?}").contains("hunter2"));
        assert_eq!(serde_json::to_string(&env).unwrap(), "{\"TOKEN\":\"«7»\"}");
    }
}
