//! Pipelines: reading YAML or JSON into an ordered tree ([`yaml`]), expanding variables ([`interpolate`]), and what the embedded
//! control plane runs (specification: pipeline, local-control-plane §2–5).

pub mod interpolate;
mod model;
mod scalar;
pub mod yaml;

pub use model::*;
