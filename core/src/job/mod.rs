//! One job, from accept to finish reported (specification: job-runner-and-process).

mod admission;
mod before;
mod cancel;
mod config;
pub mod envfile;
mod environment;
mod finish;
mod live;
mod poll;
mod result;
mod retrying;
mod runner;
mod stream;
#[cfg(test)]
mod tests;
mod url;

pub use admission::*;
pub use cancel::*;
pub use config::*;
pub use environment::*;
pub use result::*;
pub use runner::*;
pub use url::*;
