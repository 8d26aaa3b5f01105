//! From the accept to the spawn: every row of job-runner §2.2 that ends before a process.

use super::*;
use crate::agent::Metric;
use crate::limits;

#[test]
fn given_a_healthy_world_the_steps_come_in_the_order_of_2_1() {
    let mut b = Bench::plain();
    let first = b.take();
    assert!(matches!(&first[0], AgentCommand::Log(l) if l.text == "Starting job at https://ci.test/b/1#j1"));
    let AgentCommand::WriteJobFiles { files, .. } = &first[1] else { panic!("{first:?}") };
    assert_eq!(files.env.get("BUILDKITE_GIT_REMOTE_MIRROR_URL"), Some(""));
    assert_eq!(first.len(), 2, "nothing is sent before the files are complete: {first:?}");

    b.files();
    let second = b.take();
    let [AgentCommand::Call { call, .. }] = &second[..] else { panic!("{second:?}") };
    assert_eq!(call.operation, Operation::Start { job: "j1".into(), started_at: "2023-11-14T22:13:21Z".into() });
    assert_eq!(call.limit, limits::EXCHANGE);

    b.started();
    let third = b.take();
    let [AgentCommand::LogBegin { config, .. }, AgentCommand::Spawn { spec, .. }] = &third[..] else { panic!("{third:?}") };
    assert_eq!((config.chunk_bytes, config.interval), (1000, Duration::from_secs(1)));
    assert_eq!(spec.argv, ["/opt/the agent/ibex", "bootstrap"]);
    assert_eq!((spec.dir.as_str(), spec.pty, spec.raw), ("/builds", true, false));
}

#[test]
fn trap_12_the_job_token_authorises_everything_and_an_empty_one_leaves_the_workers() {
    for (token, expected) in [("job-token", "job-token"), ("", "agent-token")] {
        let mut accepted = job(&[]);
        accepted.token = Secret::new(token);
        let mut b = Bench::new(config(), Bench::start(accepted));
        b.running().secs(4).exited(ExitStatus::Code(0)).eof();
        b.report();
        let calls: Vec<_> = ["start", "state", "finish"].iter().flat_map(|n| b.calls(n)).collect();
        assert!(calls.len() >= 3);
        assert!(calls.iter().all(|(_, _, c)| c.session.credential.expose() == expected));
        let log = b.trace.iter().find_map(|(_, c)| if let AgentCommand::LogBegin { config, .. } = c { Some(config) } else { None });
        assert_eq!(log.unwrap().session.credential.expose(), expected);
    }
}

#[test]
fn w3_a_full_disk_is_reported_start_line_finish() {
    let mut b = Bench::plain();
    b.files_failed("no space left on device").started();
    assert_eq!(b.job_log(), "Error running job: no space left on device\n");
    assert_eq!(b.report(), said("-1", "", "process_run_error"));
    assert!(!b.spawned());
}

#[test]
fn w3_a_bad_option_is_reported_likewise_and_writes_no_files() {
    let script = config().job.bootstrap_script;
    for (behavior, script, word) in [("shrug", script.as_str(), "shrug"), ("", "  ", "has no words"), ("", "'open", "unmatched quote")] {
        let mut config = config();
        config.job.verification_failure_behavior = behavior.into();
        config.job.bootstrap_script = script.into();
        let mut b = Bench::new(config, Bench::start(job(&[])));
        assert_eq!(b.count(|c| matches!(c, AgentCommand::WriteJobFiles { .. })), 0);
        b.started();
        assert!(b.job_log().starts_with("Error running job: ") && b.job_log().contains(word), "{}", b.job_log());
        assert_eq!(b.report(), said("-1", "", "process_run_error"));
    }
}

#[test]
fn w4_a_rejected_start_leaves_no_process_no_finish_and_no_files() {
    let mut b = Bench::plain();
    b.files().answer("start", status(422));
    assert!(b.logged("Buildkite rejected the call to start the job (PUT https://api.test/v3/x: 422)"));
    assert_eq!(b.state(), "abandoned");
    b.removed();
    assert_eq!(b.end, Some(JobEnd::NotStarted("PUT https://api.test/v3/x: 422".into())));
    assert_eq!((b.calls("start").len(), b.calls("finish").len()), (1, 0));
    assert_eq!(b.count(|c| matches!(c, AgentCommand::LogBegin { .. } | AgentCommand::Spawn { .. })), 0);
}

#[test]
fn i1_start_is_tried_seven_times_with_waits_of_1_to_32_seconds_and_one_started_at() {
    let mut b = Bench::plain();
    b.files();
    for attempt in 1..=7 {
        assert_eq!(b.calls("start").len(), attempt);
        b.answer("start", if attempt % 2 == 0 { timeout() } else { status(503) });
        b.secs(32);
    }
    let calls = b.calls("start");
    assert!(calls.windows(2).all(|w| w[0].2 == w[1].2), "every attempt says the same");
    assert!(b.logged("PUT https://api.test/v3/x: 503 (Attempt 1/7 Retrying in 1s)"));
    assert!(b.logged("PUT https://api.test/v3/x: timed out (Attempt 6/7 Retrying in 32s)"));
    assert!(b.logged("PUT https://api.test/v3/x: 503 (Attempt 7/7)"));
    b.removed();
    assert!(matches!(b.end, Some(JobEnd::NotStarted(_))));
    assert_eq!(b.calls("finish").len(), 0);
}

#[test]
fn start_retries_keep_the_table_of_waits() {
    let mut b = Bench::plain();
    b.files();
    for wait in [1, 2, 4, 8, 16, 32] {
        b.answer("start", status(429)).pass(Duration::from_millis(wait * 1000 - 1));
        let before = b.calls("start").len();
        b.pass(Duration::from_millis(1));
        assert_eq!(b.calls("start").len(), before + 1, "after exactly {wait} s");
    }
    b.started();
    assert_eq!(b.state(), "spawning");
}

#[test]
fn a_certificate_that_does_not_verify_ends_the_start_at_once() {
    let mut b = Bench::plain();
    b.files().answer("start", Outcome::Transport(Box::new(TransportError { kind: TransportKind::Certificate, text: "bad cert".into() })));
    b.removed();
    assert_eq!(b.end, Some(JobEnd::NotStarted("bad cert".into())));
}

#[test]
fn w2_a_job_without_a_chunk_size_gets_the_default_and_a_warning() {
    let mut accepted = job(&[]);
    accepted.chunks_max_size_bytes = 0;
    accepted.chunks_interval_seconds = 3;
    let mut b = Bench::new(config(), Bench::start(accepted));
    b.files().started();
    let log = b.trace.iter().find_map(|(_, c)| if let AgentCommand::LogBegin { config, .. } = c { Some(config.clone()) } else { None }).unwrap();
    assert_eq!((log.chunk_bytes, log.interval, log.size_warning), (102_400, Duration::from_secs(3), 1 << 30));
    assert_eq!(log.buffer_bytes, limits::LOG_BUFFER_BYTES);
    assert!(b.logged("Job j1 has no maximum chunk size, using 102400 bytes"));
}

#[test]
fn the_log_buffer_holds_at_least_eight_chunks() {
    // A size that is no size is cut to one that can be counted with.
    for (size, chunk, buffer) in [(100 << 20, 100 << 20, 800 << 20), (u64::MAX, limits::CHUNK_BYTES_MAX, limits::CHUNK_BYTES_MAX * 8)] {
        let mut accepted = job(&[]);
        accepted.chunks_max_size_bytes = size;
        let mut b = Bench::new(config(), Bench::start(accepted));
        b.files().started();
        let log = b.trace.iter().find_map(|(_, c)| if let AgentCommand::LogBegin { config, .. } = c { Some(config.clone()) } else { None }).unwrap();
        assert_eq!((log.chunk_bytes, log.buffer_bytes), (chunk, buffer));
    }
}

#[test]
fn json_copies_of_the_log_carry_the_fields_of_6_7() {
    let mut config = config();
    config.job.write_job_logs_to_stdout = Some(StdoutFormat::Json);
    let mut accepted = job(&[("BUILDKITE_ORGANIZATION_SLUG", "o"), ("BUILDKITE_STEP_KEY", "k")]);
    accepted.traceparent = "00-trace-span-01".into();
    let mut b = Bench::new(config, Bench::start(accepted));
    b.files().started();
    let log = b.trace.iter().find_map(|(_, c)| if let AgentCommand::LogBegin { config, .. } = c { Some(config.clone()) } else { None }).unwrap();
    let names: Vec<&str> = log.stdout_fields.iter().map(|(n, _)| n.as_str()).collect();
    let expected = "source org pipeline branch queue build_id build_number job_url build_url job_id step_key trace_id span_id";
    assert_eq!(names.join(" "), expected);
    let of = |name: &str| log.stdout_fields.iter().find(|(n, _)| n == name).unwrap().1.clone();
    assert_eq!((of("org"), of("trace_id"), of("span_id")), ("o".into(), "trace".into(), "span".into()));
    assert_eq!(of("job_url"), "https://ci.test/b/1#j1");
}

#[test]
fn the_queue_time_is_counted_if_runnable_at_parses_and_only_logged_if_not() {
    for (runnable_at, waited) in [("2023-11-14T22:13:16.5Z", Some(4500)), ("", None), ("yesterday", None)] {
        let mut accepted = job(&[]);
        accepted.runnable_at = runnable_at.into();
        let mut b = Bench::new(config(), Bench::start(accepted));
        b.files().started();
        let metric = b
            .trace
            .iter()
            .find_map(|(_, c)| if let AgentCommand::Metric(Metric::QueueTime { waited, .. }) = c { Some(waited.as_millis()) } else { None });
        assert_eq!(metric, waited);
        assert_eq!(b.agent_log().iter().any(|l| l.contains("yesterday")), runnable_at == "yesterday");
        assert!(b.spawned());
    }
}

#[test]
fn a_spawn_that_fails_is_told_in_the_job_log_and_reported() {
    let mut b = Bench::plain();
    b.files().started().process(ProcessEvent::SpawnFailed("error starting pty: exec format error".into()));
    assert_eq!(b.job_log(), "Error running job: error starting pty: exec format error\n");
    assert_eq!(b.report(), said("-1", "", "process_run_error"));
}

#[test]
fn a_nul_in_a_value_makes_the_spawn_fail_visibly() {
    for (pty, what) in [(true, "pty"), (false, "command")] {
        let mut config = config();
        config.job.pty = pty;
        let mut b = Bench::new(config, Bench::start(job(&[("BAD", "a\0b")])));
        b.files().started();
        assert_eq!(b.job_log(), format!("Error running job: error starting {what}: variable \"BAD\" contains a NUL byte\n"));
        assert_eq!(b.report(), said("-1", "", "process_run_error"));
        assert!(!b.spawned());
    }
}

#[test]
fn names_that_cannot_be_represented_are_skipped_with_a_warning() {
    let mut b = Bench::new(config(), Bench::start(job(&[("", "x"), ("A=B", "y"), ("GOOD", "z")])));
    let files = b.trace.iter().find_map(|(_, c)| if let AgentCommand::WriteJobFiles { files, .. } = c { Some(files.clone()) } else { None }).unwrap();
    assert_eq!((files.env.get(""), files.env.get("A=B"), files.env.get("GOOD")), (None, None, Some("z")));
    assert!(b.logged("Ignoring a variable of job j1 that cannot be represented: \"A=B\""));
    b.files().started();
    assert!(b.spawned());
}

fn signed(signature: Option<&str>) -> AcceptedJob {
    let mut accepted = job(&[]);
    accepted.step.signature = signature.map(str::to_owned);
    accepted
}

#[test]
fn every_row_of_the_signature_table_4_1() {
    const BLOCK: &str = "+++ \u{26d4} Job signature verification failed\nerror: ";
    const WARN: &str = "+++ \u{26a0}\u{fe0f} Job signature verification failed\nerror: ";
    const RUN: &str = "Job will be run without verification\n";
    let no_keys = "cannot verify signature. JWK for pipeline verification is not configured\n";
    let none = "job had no signature to verify\nno signature in job\n";
    let invalid = "invalid signature: job does not match signed step\nsignature: sig\n";
    let bad = || SignatureVerdict::Invalid("job does not match signed step".into());
    let broken = || SignatureVerdict::Broken("the key store is on fire".into());
    type Row<'a> = (bool, Option<&'a str>, Option<SignatureVerdict>, &'a str, bool, String);
    let rows: Vec<Row<'_>> = vec![
        (false, None, None, "block", true, String::new()),
        (false, None, None, "warn", true, String::new()),
        (false, Some("sig"), None, "", false, format!("{BLOCK}{no_keys}")),
        (false, Some("sig"), None, "warn", true, format!("{WARN}{no_keys}{RUN}")),
        (true, None, None, "block", false, format!("{BLOCK}{none}")),
        (true, None, None, "warn", true, format!("{WARN}{none}{RUN}")),
        (true, Some("sig"), Some(bad()), "block", false, format!("{BLOCK}{invalid}")),
        (true, Some("sig"), Some(bad()), "warn", true, format!("{WARN}{invalid}{RUN}")),
        (true, Some("sig"), Some(SignatureVerdict::Verified), "block", true, "~~~ \u{2705} Job signature verified\nsignature: sig\n".into()),
        (true, Some("sig"), Some(broken()), "block", false, format!("{BLOCK}the key store is on fire\n")),
        (true, Some("sig"), Some(broken()), "warn", false, format!("{BLOCK}the key store is on fire\n")),
    ];
    for (keys, signature, verdict, behavior, runs, log) in rows {
        let case = format!("keys {keys}, {signature:?}, {verdict:?}, {behavior}");
        let mut config = config();
        config.job.verification_keys = keys;
        config.job.verification_failure_behavior = behavior.into();
        let mut b = Bench::new(config, Bench::start(signed(signature)));
        b.files().started();
        let verified = verdict == Some(SignatureVerdict::Verified);
        if let Some(verdict) = verdict {
            assert_eq!(b.state(), "verifying", "{case}");
            b.verified(verdict);
        } else {
            assert_eq!(b.count(|c| matches!(c, AgentCommand::VerifySignature { .. })), 0, "{case}");
        }
        assert_eq!(b.job_log(), log, "{case}");
        assert_eq!(b.spawned(), runs, "{case}");
        assert_eq!(b.logged("Job verification failed"), !verified && !log.is_empty(), "{case}");
        assert_eq!(b.logged("Successfully verified job"), verified, "{case}");
        if !runs {
            assert_eq!(b.report(), said("-1", "", "signature_rejected"), "{case}");
        }
    }
}

#[test]
fn an_allow_list_refusal_is_one_line_in_both_logs() {
    let mut config = config();
    config.job.allowed_repositories = vec!["^https://".into(), "^git@other".into()];
    let mut b = Bench::new(config, Bench::start(job(&[])));
    b.files().started();
    let line = "failed to validate repo: git@host:repo.git has no match in [^https:// ^git@other]";
    assert_eq!(b.job_log(), format!("{line}\n"));
    assert!(b.logged(line));
    assert_eq!(b.report(), said("-1", "", "agent_refused"));
    assert!(!b.spawned());
}

#[test]
fn cache_and_mirror_notices_are_written_and_the_job_runs() {
    let mut config = config();
    config.job.allowed_repositories = vec!["git@host".into()];
    let mut accepted = job(&[("BUILDKITE_COMPUTE_TYPE", "self-hosted"), ("BUILDKITE_GIT_REMOTE_MIRROR_URL", "https://u:p@mirror/x")]);
    accepted.step.cache_paths = vec!["a".into(), "b c".into()];
    accepted.step.cache_enabled = true;
    let mut b = Bench::new(config, Bench::start(accepted));
    b.files().started();
    assert_eq!(
        b.job_log(),
        "+++ \u{26a0}\u{fe0f} Cache settings detected on self-hosted agent\ncache paths: a, b c\n\
         Remote Git mirror is not permitted by --allowed-repositories; using canonical repository: https://u:xxxxx@mirror/x\n"
    );
    assert!(b.spawned());
}

#[test]
fn the_hook_sees_exactly_the_listed_variables_and_decides() {
    for (end, runs) in [(HookEnd::Missing, true), (HookEnd::Succeeded, true), (HookEnd::Failed("exit status 3".into()), false)] {
        let mut config = config();
        config.job.hooks_path = "/hooks".into();
        let mut b = Bench::new(config, Bench::start(job(&[("SECRET", "s")])));
        b.files().started();
        let hook = b.trace.iter().find_map(|(_, c)| if let AgentCommand::RunHook { hook, .. } = c { Some(hook.clone()) } else { None }).unwrap();
        assert_eq!((hook.name, hook.all), ("pre-bootstrap", false));
        let names: Vec<&str> = hook.env.iter().map(|(n, _)| n.as_str()).collect();
        let expected = "BUILDKITE_ENV_FILE BUILDKITE_ENV_JSON_FILE BUILDKITE_JOB_ID BUILDKITE_AGENT_ACCESS_TOKEN BUILDKITE_AGENT_ENDPOINT \
                        BUILDKITE_NO_HTTP2 BUILDKITE_AGENT_DEBUG BUILDKITE_AGENT_DEBUG_HTTP";
        assert_eq!(names.join(" "), expected);
        assert_eq!(hook.env[3].1.expose(), "job-token");
        assert!(!b.spawned());
        b.hook(end);
        assert_eq!(b.spawned(), runs);
        if !runs {
            assert_eq!(b.job_log(), "pre-bootstrap hook rejected this job, see the buildkite-agent logs for more details\n");
            assert_eq!(b.report(), said("-1", "", "agent_refused"));
        }
    }
}

#[test]
fn late_and_duplicate_completions_are_counted_and_dropped() {
    let mut b = Bench::plain();
    b.files();
    b.take();
    let start = b.calls("start")[0].1;
    b.files();
    assert!(b.take().is_empty(), "files twice");
    b.started();
    b.take();
    b.feed(AgentEvent::Completed { id: start, outcome: status(422) });
    b.drained(3);
    assert!(b.take().is_empty());
    assert_eq!(b.runner.late, 3);
    assert_eq!(b.state(), "spawning");
}
