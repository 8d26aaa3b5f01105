//! `LogStream` in the contract suite that every machine is put through.

use super::*;
use crate::limits::{CHUNKS_IN_FLIGHT, HEADER_TIMES_WAITING};
use crate::rng::Rng;
use crate::testing::{World, check};
use std::collections::BTreeSet;

#[derive(Clone)]
struct Surroundings {
    wall: i64,
}

impl World for Surroundings {
    type Machine = LogStream;
    type Id = RequestId;

    fn fresh(seed: u64) -> (LogStream, Self) {
        let modes = [TimestampMode::Ansi, TimestampMode::Lines, TimestampMode::Plain];
        let config = LogConfig { seed, buffer_bytes: 200, copy: Some(String::new()), ..config(modes[seed as usize % 3]) };
        (LogStream::new(config, Instant::ZERO), Surroundings { wall: 0 })
    }

    fn starts(command: &LogCommand) -> Option<RequestId> {
        match command {
            LogCommand::Upload { id, .. } | LogCommand::SendHeaderTimes { id, .. } => Some(*id),
            _ => None,
        }
    }

    fn completes(event: &LogEvent) -> Option<RequestId> {
        if let LogEvent::Settled { id, .. } = event { Some(*id) } else { None }
    }

    fn observe(&mut self, _: Instant, command: &LogCommand) {
        if let LogCommand::Transition(t) = command {
            crate::testing::transitions::may_be_made(t);
        }
    }

    fn draw(&mut self, rng: &mut Rng, outstanding: &BTreeSet<RequestId>) -> Option<LogEvent> {
        self.wall += rng.below(1_500_000_000) as i64;
        let wall = WallTime::from_nanos(self.wall);
        let texts = ["a", "line\n", "--- header\n", "--", "\x1b[", "\x1b[2K", "a long line that makes several chunks\n"];
        let data = Bytes::from_static(texts[rng.below(texts.len() as u64) as usize].as_bytes());
        Some(match rng.below(40) {
            0 => LogEvent::Flush { limit: rng.duration_below(2 * HOUR), wall },
            1 | 2 => LogEvent::ProcessStarted,
            3..6 => LogEvent::Line { wall, data },
            6..22 => LogEvent::Bytes { wall, data },
            _ => {
                let id = *outstanding.iter().nth(rng.below(outstanding.len() as u64) as usize)?;
                let outcomes = [ok(), ok(), ok(), timeout(), status(503, None), status(429, Some(7)), status(404, None), Outcome::Aborted];
                LogEvent::Settled { id, outcome: outcomes[rng.below(8) as usize].clone(), compressed: 1 }
            }
        })
    }

    fn finished(machine: &LogStream) -> bool {
        machine.is_drained()
    }

    fn sizes(machine: &LogStream) -> Vec<(&'static str, usize, usize)> {
        let [begun, waiting] = machine.sizes();
        vec![("chunks begun", begun, CHUNKS_IN_FLIGHT), ("header times", waiting, HEADER_TIMES_WAITING)]
    }
}

#[test]
fn the_log_stream_keeps_the_contract_of_machines() {
    check::<Surroundings>(96);
}
