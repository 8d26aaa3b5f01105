//! Stories of the whole machine. Each drives an [`Agent`] through a small scripted world with simulated time.

mod acquire;
mod contract;
mod idle;
mod invariants;
mod ladder;
mod otlp;
mod polling;
mod races;
mod registration;
mod stops;
mod streaming;
mod traces;
mod watching;
mod world;

use super::*;
use std::time::Duration;
use world::*;
