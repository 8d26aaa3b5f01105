//! The transitions that exist, as far as the tests of this crate make them: `sim/transitions.txt`, one a line.
//!
//! The simulator tells which of them no run of its makes, so the list must not lag behind: a story test that makes a transition
//! which is not in it fails. Random histories add to the list when it is regenerated, and are not held against it.

// The one place of the core that touches files and the environment. It is compiled for tests only: no machine can reach it.
#![expect(clippy::disallowed_methods, reason = "the list is a file, and only tests touch it")]

use crate::machine::Transition;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock, PoisonError};

/// Regenerates the list (it only grows; empty the file first to drop what no longer exists).
const REGENERATE: &str = "IBEX_LEARN_TRANSITIONS=1 cargo test -p ibex-core --lib && cargo run -p ibex-sim -- coverage --learn";

fn list() -> PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../sim/transitions.txt")
}

fn read() -> BTreeSet<String> {
    let text = std::fs::read_to_string(list()).unwrap_or_default();
    text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')).map(str::to_owned).collect()
}

fn learning() -> bool {
    static LEARNING: OnceLock<bool> = OnceLock::new();
    *LEARNING.get_or_init(|| std::env::var_os("IBEX_LEARN_TRANSITIONS").is_some())
}

fn line(t: &Transition) -> String {
    format!("{}: {} --{}--> {}", t.machine, t.from, t.event, t.to)
}

/// A story test made this transition.
///
/// # Panics
/// The list does not have it; the message says how to regenerate the list.
pub(crate) fn made(t: &Transition) {
    static LISTED: OnceLock<BTreeSet<String>> = OnceLock::new();
    let line = line(t);
    if learning() {
        return learn(line);
    }
    assert!(
        LISTED.get_or_init(read).contains(&line),
        "`{line}` is not in sim/transitions.txt, so no coverage of simulation runs would miss it.\nregenerate: {REGENERATE}"
    );
}

/// A random history made this transition.
pub(crate) fn may_be_made(t: &Transition) {
    if learning() {
        learn(line(t));
    }
}

fn learn(line: String) {
    static LEARNED: Mutex<Option<BTreeSet<String>>> = Mutex::new(None);
    let mut learned = LEARNED.lock().unwrap_or_else(PoisonError::into_inner);
    let all = learned.get_or_insert_with(read);
    if all.insert(line) {
        let text = "# Transitions that exist: made by a test of the core, or by a run of the simulator. Regenerated, not edited.\n".to_owned();
        let text = all.iter().fold(text, |text, line| text + line + "\n");
        std::fs::write(list(), text).expect("the list can be written");
    }
}
