//! Artifacts, the pure part: which files a pattern names, what type they have, how they are cut (specification: artifacts).

mod glob;
mod mime;
mod mime_table;
mod plan;

pub use glob::{Glob, GlobError, Kind, Verdict};
pub use mime::content_type;
pub use plan::{BATCH, HOSTED_BYTES_MAX, Part, artifact_path, clean, iec, parts, split_patterns};
