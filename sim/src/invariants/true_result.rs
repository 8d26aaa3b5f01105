//! V12: status, signal and reason follow the result table; a cancelled or never-run job is never a success
//! (races §0.1, R24, R25; job-runner §2.2, §2.3, §7.6, I9, I11).

use super::rows::Ref::R;
use super::view::{Cause, Job, Setup, View};
use super::{Invariant, Violation};
use crate::schedule::{Flaw, Signatures};
use crate::trace::Payload;
use ibex_core::process::{ExitStatus, signal_name};

pub(super) const INVARIANT: Invariant = Invariant {
    id: "V12",
    title: "true result",
    rule: "job-runner §2.3, §7.6, I9: a function of the exit and of the causes observed before it",
    file: file!(),
    rows: &[R(9), R(10), R(11), R(44), R(46)],
    check,
};

/// Exit status, signal, reason.
type Told = (String, String, String);

fn check(v: &View<'_>, out: &mut Vec<Violation>) {
    for (id, job) in &v.jobs {
        let Some(finish) = job.finishes.first() else { continue };
        let Payload::Finish { exit_status, signal, signal_reason, .. } = &finish.request.payload else { continue };
        let told: Told = (exit_status.clone(), signal.clone(), signal_reason.clone());
        let refused = job.bad_signature.filter(|_| v.setup.signatures != Signatures::InvalidButRun).or(job.hook_refused.map(|(i, _)| i));
        if let (Some(refused), Some((spawned, _))) = (refused, job.spawned) {
            out.push(Violation::at("V12", spawned, format!("{id} was refused by entry {refused}, and has a process")));
        }
        let allowed = allowed(v.setup, job, finish.sent);
        if !allowed.contains(&told) {
            out.push(Violation::at("V12", finish.sent, format!("{id} was reported as {told:?}, it should be {allowed:?}")));
        }
    }
}

/// Every result that the observations before the finish allow: what happened in the same instant may have come first or second.
fn allowed(setup: &Setup, job: &Job<'_>, finish: usize) -> Vec<Told> {
    let error: Told = ("-1".into(), String::new(), "process_run_error".into());
    let never_ran = |cause: Cause| -> Told { ("-1".into(), String::new(), reason(Some(cause)).into()) };
    if let Some((reaped, at, status)) = job.reaped.filter(|(i, _, _)| *i < finish) {
        let sure: Vec<Cause> = job.causes.iter().filter(|(i, c, _)| *i < reaped && *c < at).map(|(_, _, c)| *c).collect();
        let maybe: Vec<Cause> = job.causes.iter().filter(|(_, c, _)| *c == at).map(|(_, _, c)| *c).collect();
        let strongest = |causes: &[Cause]| causes.iter().max().copied();
        let mut out = vec![after_run(status, strongest(&sure))];
        for extra in maybe {
            let mut with = sure.clone();
            with.push(extra);
            out.push(after_run(status, strongest(&with)));
        }
        return out;
    }
    if job.spawn_failed {
        return vec![error];
    }
    let mut out: Vec<Told> = job.causes.iter().filter(|(i, _, _)| *i < finish).map(|(_, _, c)| never_ran(*c)).collect();
    if job.files_failed || setup.flaw == Flaw::Bootstrap {
        out.push(error);
    }
    let refused = |reason: &str| -> Told { ("-1".into(), String::new(), reason.into()) };
    // A cancel that came first ended the hook, and is the result (job-runner §4.5, §7.6); one of the same instant may have.
    let first = job.causes.first().map(|(_, at, _)| *at);
    if job.hook_refused.is_some_and(|(i, at)| i < finish && first.is_none_or(|cause| at <= cause)) {
        out.push(refused("agent_refused"));
    }
    // The verdict of the verifier on this very job (job-runner §4.1).
    let bad = job.bad_signature.filter(|_| setup.signatures != Signatures::InvalidButRun);
    if bad.is_some_and(|i| i < finish) {
        out.push(refused("signature_rejected"));
    }
    out
}

fn reason(cause: Option<Cause>) -> &'static str {
    match cause {
        None => "",
        Some(Cause::Cancel | Cause::Timeout) => "cancel",
        Some(Cause::AgentStop) => "agent_stop",
    }
}

/// The table of job-runner §2.3.
fn after_run(status: ExitStatus, cause: Option<Cause>) -> Told {
    let (code, signal) = match status {
        ExitStatus::Code(n) => (n, String::new()),
        ExitStatus::Signal(n) => (-1, signal_name(n)),
    };
    let (code, why) = match (code, cause) {
        (125, None) => (-1, "process_run_error"),
        (125, Some(_)) => (-1, reason(cause)),
        (0, Some(Cause::Cancel | Cause::Timeout)) => (1, "cancel"),
        (n, _) => (n, reason(cause)),
    };
    (code.to_string(), signal, why.to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::story::Story;
    use super::*;
    use crate::trace::Fact;

    fn not_run(reason: &str) -> Story {
        Story::new().connected(1).started(100).finish(900, 9, "-1", "", reason, 0)
    }

    #[test]
    fn a_signature_is_held_against_the_job_whose_it_is_only() {
        let keys = |s: Story, how| s.with(|s| s.signatures = how);
        let verified = |text| Story::new().connected(1).started(100).fact(500, Fact::Verified { job: "J".into(), text });
        let rejected = |s: Story| s.finish(900, 9, "-1", "", "signature_rejected", 0);
        keys(rejected(verified("invalid")), Signatures::Invalid).holds(INVARIANT);
        keys(rejected(verified("valid")), Signatures::Invalid).breaks(INVARIANT);
        keys(not_run("signature_rejected"), Signatures::Invalid).breaks(INVARIANT);
        keys(rejected(verified("invalid")), Signatures::InvalidButRun).breaks(INVARIANT);
    }

    #[test]
    fn a_process_of_a_refused_job_is_seen() {
        let verified = |text| Story::new().connected(1).started(100).fact(150, Fact::Verified { job: "J".into(), text }).spawned(200);
        let end = |s: Story| s.with(|s| s.signatures = Signatures::Invalid).exited(300, ExitStatus::Code(0)).finish(400, 9, "0", "", "", 0);
        end(verified("valid")).holds(INVARIANT);
        end(verified("invalid")).breaks(INVARIANT);
    }

    #[test]
    fn a_hook_that_a_cancel_ended_is_a_cancel_and_no_refusal() {
        let over = |s: Story, ms| s.fact(ms, Fact::HookOver { name: "pre-bootstrap", job: Some("J".into()), ok: false });
        let end = |s: Story| s.finish(900, 9, "-1", "", "agent_refused", 0);
        end(over(Story::new().connected(1).started(100), 500)).holds(INVARIANT);
        end(over(Story::new().connected(1).started(100).signal(300, "QUIT"), 500)).breaks(INVARIANT);
    }

    fn cancelled_at(ms: u64) -> Story {
        Story::new().connected(1).started(100).spawned(200).polled(ms, 5, "canceling")
    }

    #[test]
    fn a_cancelled_job_that_is_green_is_seen() {
        let end = |told| cancelled_at(1_000).exited(2_000, ExitStatus::Code(0)).finish(2_100, 9, told, "", "cancel", 0);
        end("1").holds(INVARIANT);
        end("0").breaks(INVARIANT);
    }

    #[test]
    fn a_cancel_after_the_exit_changes_nothing() {
        let s = |reason| {
            Story::new()
                .connected(1)
                .started(100)
                .spawned(200)
                .exited(900, ExitStatus::Code(3))
                .polled(1_000, 5, "canceling")
                .finish(1_100, 9, "3", "", reason, 0)
        };
        s("").holds(INVARIANT);
        s("cancel").breaks(INVARIANT);
    }

    #[test]
    fn in_one_instant_either_may_come_first() {
        let s = |told, reason| cancelled_at(1_000).exited(1_000, ExitStatus::Code(0)).finish(1_100, 9, told, "", reason, 0);
        s("0", "").holds(INVARIANT);
        s("1", "cancel").holds(INVARIANT);
        s("0", "cancel").breaks(INVARIANT);
    }

    #[test]
    fn an_agent_stop_wins_as_the_reason() {
        let s = |reason| cancelled_at(1_000).signal(1_100, "QUIT").exited(2_000, ExitStatus::Signal(15)).finish(2_100, 9, "-1", "SIGTERM", reason, 0);
        s("agent_stop").holds(INVARIANT);
        s("cancel").breaks(INVARIANT);
    }

    #[test]
    fn a_job_that_never_ran_is_never_green() {
        let s = |status, reason| Story::new().connected(1).started(100).signal(150, "QUIT").finish(200, 9, status, "", reason, 0);
        s("-1", "agent_stop").holds(INVARIANT);
        s("0", "").breaks(INVARIANT);
    }
}
