//! V11: files, exchanges and outputs return to their baseline after every job, also one that never ran; at no time is more outstanding,
//! buffered or open than the limits allow (races §0.1; job-runner §2.6, §6.8, W4, I23, I42; limits of the core).
//!
//! Queues and timers inside the machines are no observations: the contract suite of the core holds every queue to its named limit, and a
//! machine that is done to having no timer and no request.

use super::rows::Ref::R;
use super::view::View;
use super::{Invariant, Violation};
use crate::trace::{Credential, Fact, JobId, Op};
use ibex_core::limits::{CHUNKS_IN_FLIGHT, LOG_BUFFER_BYTES};
use std::collections::BTreeMap;

pub(super) const INVARIANT: Invariant = Invariant {
    id: "V11",
    title: "bounded resources",
    rule: "job-runner §2.6, §6.8, W4, I23, I42: files from before start until before finish; exchanges, memory and processes within limits",
    file: file!(),
    rows: &[R(23), R(42)],
    check,
};

/// Exchanges of one worker with its session token: heartbeat, stream, and one of the rest.
const OF_WORKER: usize = 3;
/// Exchanges of one job: chunks, header times, a state poll; start and finish are alone.
const OF_JOB: usize = CHUNKS_IN_FLIGHT + 2;
/// What the kernel holds for a reader.
const KERNEL_BYTES: u64 = 65_536;

fn check(v: &View<'_>, out: &mut Vec<Violation>) {
    for (id, job) in &v.jobs {
        let Some(finish) = job.finishes.first() else { continue };
        match (job.files_written, job.files_removed) {
            (Some(written), _) if written > finish.sent => {
                out.push(Violation::at("V11", written, format!("files of {id} were written after its finish")))
            }
            (Some(written), None) => out.push(Violation::at("V11", written, format!("files of {id} were never removed"))),
            (Some(_), Some(removed)) if removed > finish.sent => {
                out.push(Violation::at("V11", finish.sent, format!("finish of {id} was sent before its files were removed")));
            }
            (Some(_), Some(removed)) => {
                if let Some((reaped, _, _)) = job.reaped.filter(|(i, _, _)| removed < *i) {
                    out.push(Violation::at("V11", reaped, format!("files of {id} were removed while its process ran")));
                }
            }
            (None, _) => {}
        }
    }
    exchanges(v, out);
    memory(v, out);
    if v.ended_by_force() {
        return;
    }
    for (i, e) in v.entries.iter().enumerate() {
        if let Fact::Leftovers { files, exchanges, outputs } = e.fact
            && files + exchanges + outputs > 0
        {
            out.push(Violation::at("V11", i, format!("the agent ended and left {files} files, {exchanges} exchanges, {outputs} outputs")));
        }
    }
}

/// Outstanding exchanges, by whose they are.
fn exchanges(v: &View<'_>, out: &mut Vec<Violation>) {
    let mut open: BTreeMap<&Credential, usize> = BTreeMap::new();
    for (i, e) in v.entries.iter().enumerate() {
        match &e.fact {
            Fact::Sent(r) => {
                let limit = match r.credential {
                    Credential::Job(_) => OF_JOB,
                    Credential::Registration => v.setup.workers as usize,
                    _ => OF_WORKER,
                };
                let count = open.entry(&r.credential).or_default();
                *count += 1;
                if *count > limit {
                    out.push(Violation::at("V11", i, format!("{r}: {count} exchanges of one owner are outstanding, the limit is {limit}")));
                }
            }
            Fact::Returned { call, .. } => {
                if let Some(count) = v.calls.get(call).and_then(|c| open.get_mut(&c.request.credential)) {
                    *count = count.saturating_sub(1);
                }
            }
            _ => {}
        }
    }
}

/// Bytes read and not yet settled, while the process runs: what is stamped counts as well, so this is the least that is held (I23).
fn memory(v: &View<'_>, out: &mut Vec<Violation>) {
    let least = 8 * v.setup.chunk_bytes;
    let limit = if v.setup.tight_memory { least } else { LOG_BUFFER_BYTES.max(least) } + KERNEL_BYTES;
    let mut pids: BTreeMap<u32, &JobId> = BTreeMap::new();
    let mut held: BTreeMap<&JobId, (u64, u64)> = BTreeMap::new();
    for (i, e) in v.entries.iter().enumerate() {
        match &e.fact {
            Fact::Spawned { pid, job, .. } => drop(pids.insert(*pid, job)),
            Fact::Reaped { pid, .. } => drop(pids.remove(pid)),
            Fact::Read { pid, data } => {
                let Some(job) = pids.get(pid) else { continue };
                let (read, settled) = held.entry(job).or_default();
                *read += data.len() as u64;
                if read.saturating_sub(*settled) > limit {
                    out.push(Violation::at("V11", i, format!("{job}: {} bytes are buffered, the limit is {limit}", *read - *settled)));
                    return;
                }
            }
            Fact::Returned { call, .. } => {
                let Some(c) = v.calls.get(call).filter(|c| c.request.op == Op::Chunk && (c.ok() || c.rejected())) else { continue };
                if let (Some(job), Some((_, _, size, _))) = (&c.request.job, View::chunk(c)) {
                    held.entry(job).or_default().1 += size;
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::story::Story;
    use super::*;
    use ibex_core::process::ExitStatus;

    fn job() -> Story {
        Story::new().connected(1).started(100).spawned(200).exited(300, ExitStatus::Code(0))
    }

    #[test]
    fn files_that_stay_are_seen() {
        job().removed(310).finish(320, 9, "0", "", "", 0).holds(INVARIANT);
        job().finish(320, 9, "0", "", "", 0).breaks(INVARIANT);
        job().finish(320, 9, "0", "", "", 0).removed(330).breaks(INVARIANT);
    }

    #[test]
    fn leftovers_of_the_process_are_seen() {
        let left = |files| Story::new().connected(1).exit(500, 0).fact(500, Fact::Leftovers { files, exchanges: 0, outputs: 0 });
        left(0).holds(INVARIANT);
        left(2).breaks(INVARIANT);
    }

    #[test]
    fn a_fourth_exchange_of_a_worker_is_seen() {
        let three =
            ["heartbeat", "stream", "ping"].into_iter().zip(5..).fold(Story::new().connected(1), |s, (op, call)| s.sent(900, call, op, "w1", ""));
        three.clone().got(950, 7, 200).sent(960, 8, "accept", "w1", "J").holds(INVARIANT);
        three.sent(960, 8, "accept", "w1", "J").breaks(INVARIANT);
    }

    #[test]
    fn a_buffer_beyond_its_limit_is_seen() {
        let read = |n: usize| {
            let running = Story::new().with(|s| s.tight_memory = true).connected(1).started(100).spawned(200);
            (0..n).fold(running, |s, _| s.fact(300, Fact::Read { pid: 100, data: bytes::Bytes::from_static(&[b'x'; 4_096]) }))
        };
        // Eight chunks of 4 KiB, and what the kernel holds.
        read(24).holds(INVARIANT);
        read(25).breaks(INVARIANT);
    }
}
