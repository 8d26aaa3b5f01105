//! Pipelines (specification: pipeline, local-control-plane §2–5): reading YAML or JSON into an ordered tree ([`yaml`]), the form that is
//! uploaded ([`document`], [`expand`], [`json`]), and what the embedded control plane runs.

pub mod document;
pub mod expand;
mod fields;
pub mod interpolate;
pub mod json;
mod model;
pub mod plan;
mod plugin;
mod scalar;
pub mod yaml;

pub use model::*;
pub use plugin::full_source;

/// Where a pipeline is looked for when none is named, in order (pipeline §1.2).
pub const DEFAULT_FILES: [&str; 9] = [
    "buildkite.yml",
    "buildkite.yaml",
    "buildkite.json",
    ".buildkite/pipeline.yml",
    ".buildkite/pipeline.yaml",
    ".buildkite/pipeline.json",
    "buildkite/pipeline.yml",
    "buildkite/pipeline.yaml",
    "buildkite/pipeline.json",
];
