//! # ibex-sim: the simulated world
//!
//! A run is a scenario and a seed. The real driver loop and real HTTP bytes run over a simulated network, with simulated
//! processes, files and signals; faults are drawn from the seed; every property is checked on one observation trace.
#![forbid(unsafe_code)]

pub mod claims;
pub mod corpus;
pub mod coverage;
pub mod echo;
pub mod faults;
pub mod invariants;
pub mod late;
pub mod liveness;
pub mod run;
pub mod scenarios;
pub mod schedule;
pub mod script;
pub mod timeline;
pub mod trace;
pub mod world;
