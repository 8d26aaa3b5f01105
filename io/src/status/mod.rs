//! What the agent shows of itself: health, metrics and the live status page (start-and-worker §7).

mod board;
mod histogram;
mod metrics;
mod page;
mod server;

pub use board::Board;
pub use server::serve;
