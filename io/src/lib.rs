//! # ibex-io: everything that acts
//!
//! The driver executes the commands of the core's machines in a world behind [`effects::Effects`]. Nothing here decides.

pub mod agent_world;
pub mod driver;
pub mod effects;
pub mod exchange;
pub mod executor;
pub mod plane_server;
pub mod recorder;
pub mod replay;
pub mod status;
pub mod tokio;
