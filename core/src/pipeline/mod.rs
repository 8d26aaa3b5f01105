//! Pipelines as data: what the embedded control plane runs (specification: pipeline, local-control-plane §2–5).

mod model;

pub use model::*;
