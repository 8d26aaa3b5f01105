//! The text form of observations: one line each, the same to the byte in every run of a seed.

use super::{Credential, ENDPOINT, Entry, Fact, Got, Payload, Request, Said, short_digest};
use ibex_core::machine::Owner;
use std::fmt;

impl fmt::Display for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Credential::Registration => f.write_str("registration"),
            Credential::Worker(n) => write!(f, "w{n}"),
            Credential::Job(job) => write!(f, "job {job}"),
            Credential::Absent => f.write_str("nobody"),
            Credential::Unknown => f.write_str("stranger"),
        }
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{} {} as {}", self.call, self.op.name(), self.credential)?;
        if let Some(job) = &self.job {
            write!(f, " {job}")?;
        }
        if self.endpoint != ENDPOINT {
            write!(f, " at {}", self.endpoint)?;
        }
        match &self.payload {
            Payload::None | Payload::Start { .. } => Ok(()),
            Payload::Acquire { sequence, lock } => write!(f, " sequence={sequence:?} lock={lock}"),
            Payload::Chunk { sequence, offset, size, data } => {
                let digest = data.as_deref().map_or_else(|| "undecodable".to_owned(), short_digest);
                write!(f, " seq={sequence} offset={offset} size={size} {digest}")
            }
            Payload::HeaderTimes(indexes) => write!(f, " {indexes:?}"),
            Payload::Finish { exit_status, signal, signal_reason, chunks_failed, ignore_agent, .. } => {
                write!(f, " status={exit_status} signal={signal:?} reason={signal_reason:?} failed={chunks_failed} ignore={ignore_agent:?}")
            }
        }
    }
}

impl fmt::Display for Got {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Got::Failed(kind) => write!(f, "failed: {kind}"),
            Got::Dropped => f.write_str("dropped"),
            Got::Answer { status, said, retry_after_ms } => {
                write!(f, "{status}")?;
                if let Some(ms) = retry_after_ms {
                    write!(f, " retry-after={ms}ms")?;
                }
                match said {
                    Said::Nothing => Ok(()),
                    Said::Garbage => f.write_str(" garbage"),
                    Said::Registered => f.write_str(" registered"),
                    Said::Ping { action, job, endpoint } => {
                        write!(f, " action={action:?}")?;
                        if let Some(job) = job {
                            write!(f, " job={job}")?;
                        }
                        if endpoint.is_empty() { Ok(()) } else { write!(f, " endpoint={endpoint}") }
                    }
                    Said::Status(status) => write!(f, " grpc={status}"),
                    Said::Job(job) => write!(f, " job={job}"),
                    Said::State(state) => write!(f, " state={state}"),
                }
            }
        }
    }
}

fn owner_text(owner: Owner) -> String {
    match owner {
        Owner::Agent => "agent".into(),
        Owner::Worker(n) => format!("w{n}"),
        Owner::Job { worker, generation } => format!("w{worker}/j{generation}"),
        Owner::Executor => "executor".into(),
        Owner::Plane => "plane".into(),
    }
}

impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fact::Sent(r) => write!(f, "sent {r}"),
            Fact::Carried { call, headers } => write!(f, "sent #{call} with {headers:?}"),
            Fact::Given { worker, headers } => write!(f, "got  headers for w{worker}: {headers:?}"),
            Fact::Returned { call, got } => write!(f, "got  #{call} {got}"),
            Fact::Served { credential, op, job, status, applied, fault } => {
                write!(f, "served {} as {credential}", op.name())?;
                if let Some(job) = job {
                    write!(f, " {job}")?;
                }
                write!(f, " {status}{}", if *applied { "" } else { " not applied" })?;
                if fault.is_empty() { Ok(()) } else { write!(f, " [{fault}]") }
            }
            Fact::World(text) => write!(f, "world {text}"),
            Fact::PlaneJob { job, state } => write!(f, "plane job {job} {state}"),
            Fact::FaultsOver => f.write_str("world faults are over"),
            Fact::AgentSignal(s) => write!(f, "agent gets {}", s.name()),
            Fact::SpawnAsked { owner, job } => write!(f, "spawn {} for {job}", owner_text(*owner)),
            Fact::Spawned { pid, job, pty } => write!(f, "pid {pid} runs {job}{}", if *pty { " in a terminal" } else { "" }),
            Fact::SpawnFailed { job } => write!(f, "no process for {job}"),
            Fact::Signalled { pid, signal, target } => write!(f, "pid {pid} is sent {} ({target:?})", signal.name()),
            Fact::Printed { pid, len } => write!(f, "pid {pid} prints {len}"),
            Fact::LeaderEnded { pid, status } => write!(f, "pid {pid} ends {status:?}"),
            Fact::Reaped { pid, status } => write!(f, "pid {pid} reaped {status:?}"),
            Fact::Members { pid, alive } => write!(f, "pid {pid} group has {alive}"),
            Fact::Read { pid, data } => write!(f, "pid {pid} read {} {}", data.len(), short_digest(data)),
            Fact::OutputOver { pid, cut } => write!(f, "pid {pid} output over{}", if *cut { " (cut)" } else { "" }),
            Fact::FilesWritten { owner, job } => write!(f, "files {} of {job}", owner_text(*owner)),
            Fact::FilesFailed { job } => write!(f, "files of {job} cannot be written"),
            Fact::FilesRemoved { job } => write!(f, "files of {job} removed"),
            Fact::Streamed { worker, kind, job } => write!(f, "stream of w{worker} says {kind} {}", job.as_deref().unwrap_or_default()),
            Fact::HookBegun { name, job } => write!(f, "hook {name} runs {}", job.as_deref().unwrap_or_default()),
            Fact::HookOver { name, job, ok } => {
                write!(f, "hook {name} {} {}", if *ok { "succeeds" } else { "fails" }, job.as_deref().unwrap_or_default())
            }
            Fact::Verified { job, text } => write!(f, "signature of {job}: {text}"),
            Fact::Marker { job } => write!(f, "marker of {job}"),
            Fact::Transition(t) => write!(f, "step {} {}: {} --{}--> {}", owner_text(t.owner), t.machine, t.from, t.event, t.to),
            Fact::Log { level, text } => write!(f, "log {level} {text:?}"),
            Fact::Metric(text) => write!(f, "metric {text}"),
            Fact::Health { worker, state, job, bad } => {
                write!(f, "health w{worker} {state} {}{}", job.as_deref().unwrap_or("-"), if *bad { " bad" } else { "" })
            }
            Fact::AgentExit { code, killed_jobs } => write!(f, "agent exits {code}{}", if *killed_jobs { " after killing jobs" } else { "" }),
            Fact::Leftovers { files, exchanges, outputs } => write!(f, "left files={files} exchanges={exchanges} outputs={outputs}"),
        }
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let us = self.at.as_nanos() / 1000;
        write!(f, "{:>6}.{:06} {}", us / 1_000_000, us % 1_000_000, self.fact)
    }
}
