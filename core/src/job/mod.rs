//! One job, from accept to finish reported (specification: job-runner-and-process).

mod config;

pub use config::*;
