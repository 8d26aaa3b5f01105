//! Stored schedules: bugs that were found once stay found (`sim/corpus/*.json`).

use crate::schedule::Schedule;
use std::fs;
use std::path::{Path, PathBuf};

/// Where they are, as seen from the workspace.
pub fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

/// All of them, by name, in order.
///
/// # Errors
/// A file that cannot be read, or is no schedule, is named.
pub fn all() -> Result<Vec<(String, Schedule)>, String> {
    let dir = directory();
    let entries = fs::read_dir(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let mut paths: Vec<PathBuf> = entries.filter_map(|e| Some(e.ok()?.path())).filter(|p| p.extension().is_some_and(|x| x == "json")).collect();
    paths.sort();
    paths.iter().map(|p| read(p)).collect()
}

/// One of them, from its file.
///
/// # Errors
/// As [`all`].
pub fn read(path: &Path) -> Result<(String, Schedule), String> {
    let text = fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let schedule = serde_json::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))?;
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    Ok((name, schedule))
}
