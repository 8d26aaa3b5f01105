//! Clean-up order, finish and its retries (job-runner §2.4, §2.6).

use super::*;
use crate::agent::Metric;

fn flushing() -> Bench {
    let mut b = Bench::plain();
    b.running().secs(2).exited(ExitStatus::Code(0));
    b.feed(AgentEvent::Completed {
        id: b.calls("state").first().map_or(RequestId { owner: OWNER, serial: 999 }, |c| c.1),
        outcome: Outcome::Aborted,
    });
    b.eof();
    b.take();
    b
}

#[test]
fn clean_up_goes_flush_files_metrics_finish() {
    let mut b = flushing();
    assert_eq!(b.flush_limits(), [Duration::from_secs(3600)]);
    b.secs(30).drained(2);
    assert_eq!(b.calls("finish").len(), 0, "i42: files are absent when finish is sent");
    b.removed();
    let commands = b.take();
    let metric = commands.iter().position(|c| match c {
        AgentCommand::Metric(Metric::JobFinished { ran, attributes }) => {
            let told = [("agent_name", "ibex_1"), ("exit_code", "0")].map(|(n, v)| (n.to_owned(), v.to_owned()));
            ran.as_secs() == 2 && attributes.0 == told
        }
        _ => false,
    });
    let finish = commands.iter().position(|c| matches!(c, AgentCommand::Call { .. }));
    assert!(metric.unwrap() < finish.unwrap());
    assert_eq!(b.finish().chunks_failed_count, 2);
    b.answer("finish", Outcome::Ok(Reply::Empty));
    assert!(b.logged("Finished job at https://ci.test/b/1#j1"));
}

#[test]
fn i12_finished_at_is_when_clean_up_began_and_never_before_started_at() {
    let mut b = flushing();
    b.secs(100).drained(0).removed();
    assert_eq!(b.finish().finished_at, "2023-11-14T22:13:23Z");

    let mut b = Bench::plain();
    b.running();
    b.clock.base = WallTime::from_nanos(BASE - 3_600_000_000_000);
    b.exited(ExitStatus::Code(0)).eof().drained(0).removed();
    assert_eq!(b.finish().finished_at, "2023-11-14T22:13:21Z");
}

#[test]
fn trap_3_the_body_always_has_the_count_and_never_empty_strings() {
    let mut b = flushing();
    b.drained(0).removed();
    let text = serde_json::to_string(&b.finish()).unwrap();
    assert_eq!(text, r#"{"exit_status":"0","finished_at":"2023-11-14T22:13:23Z","chunks_failed_count":0}"#);
}

#[test]
fn ignore_agent_in_dispatches_is_sent_with_disconnect_after_job_but_not_when_acquired() {
    for (ignore, acquired, expected) in [(false, false, None), (true, false, Some(true)), (true, true, None), (false, true, None)] {
        let mut start = Bench::start(job(&[]));
        (start.ignore_agent_in_dispatches, start.acquired) = (ignore, acquired);
        let mut b = Bench::new(config(), start);
        b.running().exited(ExitStatus::Code(3)).eof();
        b.report();
        assert_eq!(b.finish().ignore_agent_in_dispatches, expected);
        assert_eq!(b.end, Some(JobEnd::Finished { exit_status: 3, signal: String::new(), signal_reason: String::new() }));
    }
}

#[test]
fn i4_finish_is_retried_by_its_table_with_one_body_and_a_header_that_counts_down() {
    let mut b = flushing();
    b.drained(0).removed();
    for attempt in 1..12 {
        b.answer("finish", status(503));
        let at = b.calls("finish").last().unwrap().0;
        while b.calls("finish").len() == attempt {
            b.pass(Duration::from_millis(50));
        }
        let table = [2000, 3216, 5172, 8317, 13374, 21508, 34587, 55619, 89442, 143_833, 231_298];
        let wait = b.calls("finish").last().unwrap().0.since(at).as_millis() as u64;
        assert!((table[attempt - 1]..table[attempt - 1] + 1050).contains(&wait), "wait {attempt}: {wait} ms");
    }
    b.answer("finish", status(503));
    assert!(b.logged("Couldn't mark job as finished: PUT https://api.test/v3/x: 503"));
    assert!(matches!(b.end, Some(JobEnd::Finished { exit_status: 0, .. })));
    let calls = b.calls("finish");
    assert_eq!(calls.len(), 12, "trap 14: 12 attempts, 11 waits");
    assert!(calls.windows(2).all(|w| w[0].2.operation == w[1].2.operation && w[0].2.timeout_ms > w[1].2.timeout_ms));
    assert_eq!(calls[0].2.timeout_ms, Some(3_600_000));
}

#[test]
fn r40_a_422_after_a_lost_answer_ends_the_matter() {
    let mut b = flushing();
    b.drained(0).removed();
    b.answer("finish", timeout()).secs(4);
    assert_eq!(b.calls("finish").len(), 2);
    b.answer("finish", status(422));
    assert!(matches!(b.end, Some(JobEnd::Finished { .. })));
    assert!(b.logged("Couldn't mark job as finished: PUT https://api.test/v3/x: 422"));
}

#[test]
fn token_expiry_on_finish_is_not_retried() {
    let mut b = flushing();
    b.drained(1).removed().answer("finish", status(401));
    assert!(b.end.is_some());
    assert_eq!(b.calls("finish").len(), 1);
}

#[test]
fn i5_and_i7_no_finish_is_sent_before_every_chunk_is_settled() {
    let mut b = flushing();
    b.secs(3000);
    assert_eq!(b.calls("finish").len(), 0);
    b.feed(AgentEvent::LogDrained { job: Owner::Job { worker: 1, generation: 9 }, failed: 0, uploaded_bytes: 0 });
    assert_eq!(b.state(), "flushing", "the verdict of another job is nobody's");
}

#[test]
fn w5_a_125_that_the_executor_vouches_for_is_the_jobs_own() {
    let told = |status: ExitStatus, cancelled: bool, own_status: bool| {
        let mut b = Bench::plain();
        b.running();
        if cancelled {
            b.cancel(CancelKind::of_state("canceled").expect("a cancel"));
        }
        b.exited(status).eof();
        if cancelled {
            b.group(false);
        }
        // As the driver does with a call that was given up.
        if let Some(id) = b.runner.straggler {
            b.feed(AgentEvent::Completed { id, outcome: Outcome::Aborted });
        }
        b.drained(0);
        let id = b.id(|c| if let AgentCommand::RemoveJobFiles { id, .. } = c { Some(*id) } else { None });
        b.feed(AgentEvent::JobFilesRemoved { id, own_status });
        let body = b.finish();
        (body.exit_status, body.signal, body.signal_reason)
    };
    let said = |status: &str, signal: &str, reason: &str| {
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        (status.to_owned(), text(signal).unwrap_or_default(), text(reason).unwrap_or_default())
    };
    assert_eq!(told(ExitStatus::Code(125), false, true), said("125", "", ""));
    assert_eq!(told(ExitStatus::Code(125), false, false), said("-1", "", "process_run_error"), "another executor, or its own failure");
    assert_eq!(told(ExitStatus::Code(125), true, true), said("125", "", "cancel"));
    assert_eq!(told(ExitStatus::Code(7), false, true), said("7", "", ""), "nothing else is touched");
    assert_eq!(told(ExitStatus::Signal(9), false, true), said("-1", "SIGKILL", ""));
}
