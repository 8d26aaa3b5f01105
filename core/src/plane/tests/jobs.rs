//! Sessions and jobs, request by request.

use super::*;
use std::io::Write;

const SECOND: Duration = Duration::from_secs(1);

fn one(command: CommandStep) -> (Bench, Peer) {
    let mut bench = Bench::new();
    bench.build(vec![command.into()]);
    let peer = bench.agent(&[]);
    (bench, peer)
}

#[test]
fn a_job_goes_from_ping_to_finish() {
    let (mut bench, peer) = one(step("A"));
    let held = bench.begin(&peer).unwrap();
    assert_eq!(held.env["BUILDKITE_JOB_ID"], held.id.as_str());
    assert_eq!(held.env["BUILDKITE_AGENT_ID"], peer.id.as_str());
    assert_eq!(held.env["BUILDKITE_TIMEOUT"], "false");
    assert_eq!(bench.poll(&held), (200, json!({"state": "running"})));
    assert_eq!(bench.ping(&peer), json!({}));
    assert_eq!(bench.chunk(&held, 1, 0, "hello"), 201);
    assert_eq!(bench.finish(&held, 0), 204);
    assert_eq!(bench.state(), "passed");
    assert_eq!(bench.plane.jobs()[0].log.contents(), b"hello");
    assert!(bench.said.iter().any(|c| matches!(c, PlaneCommand::BuildFinished { state: "passed", .. })));
}

#[test]
fn credentials_open_only_their_own_door() {
    let (mut bench, peer) = one(step("A"));
    assert_eq!(bench.call("POST", "register", "wrong", json!({})).0, 401);
    assert_eq!(bench.call("GET", "ping", "", Value::Null).0, 401);
    let held = bench.begin(&peer).unwrap();
    assert_eq!(bench.call("GET", &format!("jobs/{}", held.id), &peer.token, Value::Null).0, 401, "the agent's token is not the job's");
    assert_eq!(bench.call("GET", "jobs/other", &held.token, Value::Null).0, 404);
    assert_eq!(bench.call("POST", "heartbeat", &held.token, json!({"sent_at": ""})).0, 401);
    assert_eq!(bench.call("GET", "", "", Value::Null).0, 401);
    assert_eq!(bench.call("GET", "?token=reg", "", Value::Null).0, 200);
    assert_eq!(bench.call("POST", "agentedge.v1.AgentEdgeService/StreamPings", &peer.token, Value::Null).0, 404);
}

#[test]
fn a_second_finish_is_refused() {
    let (mut bench, peer) = one(step("A"));
    let held = bench.begin(&peer).unwrap();
    assert_eq!(bench.finish(&held, 0), 204);
    assert_eq!(bench.finish(&held, 1), 422);
    assert_eq!(bench.state(), "passed");
}

#[test]
fn a_repeated_start_and_a_repeated_chunk_are_fine() {
    let (mut bench, peer) = one(step("A"));
    let held = bench.begin(&peer).unwrap();
    assert_eq!(bench.start(&held), 204);
    assert_eq!(bench.chunk(&held, 1, 0, "x"), 201);
    assert_eq!(bench.chunk(&held, 1, 0, "x"), 201);
    assert_eq!(bench.chunk(&held, 1, 0, "y"), 422);
    bench.finish(&held, 0);
    assert_eq!(bench.chunk(&held, 1, 0, "x"), 201, "a late repetition is still fine");
    assert_eq!(bench.chunk(&held, 2, 1, "z"), 422);
    assert_eq!(bench.start(&held), 422);
}

#[test]
fn a_compressed_chunk_is_unpacked() {
    let (mut bench, peer) = one(step("A"));
    let held = bench.begin(&peer).unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(b"hello").unwrap();
    let path = format!("jobs/{}/chunks?sequence=1&offset=0&size=5", held.id);
    let id = bench.send("POST", &path, &held.token, gzip.finish().unwrap());
    assert_eq!(bench.answer(id).unwrap().0, 201);
    assert!(bench.said.contains(&PlaneCommand::JobLog { job: held.id.as_str().into(), offset: 0, data: Bytes::from("hello") }));
}

#[test]
fn an_offer_that_is_not_accepted_goes_to_another_agent() {
    let (mut bench, peer) = one(step("A"));
    let other = bench.agent(&[]);
    let id = bench.offered(&peer).unwrap();
    assert_eq!(bench.offered(&peer), Some(id.clone()), "the answer may have been lost");
    assert_eq!(bench.offered(&other), None);
    bench.after(60 * SECOND);
    assert_eq!(bench.offered(&other), Some(id.clone()));
    assert_eq!(bench.call("PUT", &format!("jobs/{id}/accept"), &peer.token, Value::Null).0, 422);
    bench.accept(&other, &id);
}

#[test]
fn an_accept_that_is_repeated_is_refused_as_the_hosted_service_does_unless_told_otherwise() {
    let (mut bench, peer) = one(step("A"));
    let id = bench.offered(&peer).unwrap();
    bench.accept(&peer, &id);
    assert_eq!(bench.call("PUT", &format!("jobs/{id}/accept"), &peer.token, Value::Null).0, 422);

    let mut bench = Bench::with(PlaneConfig { accept_again: true, ..PlaneConfig::hosted(Secret::new("reg")) });
    bench.build(vec![step("A").into()]);
    let peer = bench.agent(&[]);
    let id = bench.offered(&peer).unwrap();
    let first = bench.accept(&peer, &id);
    assert_eq!(bench.accept(&peer, &id).token, first.token);
}

#[test]
fn an_agent_that_is_silent_loses_its_job_and_a_late_finish_is_refused() {
    let (mut bench, peer) = one(step("A"));
    let held = bench.begin(&peer).unwrap();
    bench.after(179 * SECOND);
    assert_eq!(bench.state(), "running");
    bench.after(SECOND);
    assert_eq!(bench.state(), "failed");
    assert_eq!(bench.plane.jobs()[0].state.report().unwrap().exit_status, -1);
    assert_eq!(bench.finish(&held, 0), 422);
    assert_eq!(bench.poll(&held).0, 401, "an agent that is still at it stops");
    // It comes back and may have new work.
    bench.build(vec![step("B").into()]);
    assert!(bench.begin(&peer).is_some());
}

#[test]
fn an_agent_that_leaves_loses_its_job_and_its_token() {
    let (mut bench, peer) = one(step("A"));
    bench.begin(&peer).unwrap();
    assert_eq!(bench.call("POST", "disconnect", &peer.token, Value::Null).0, 204);
    assert_eq!(bench.state(), "failed");
    assert_eq!(bench.call("GET", "ping", &peer.token, Value::Null).0, 401);
}

#[test]
fn an_agent_that_asks_for_other_work_for_three_minutes_has_given_its_job_up() {
    let (mut bench, peer) = one(step("A"));
    let held = bench.begin(&peer).unwrap();
    bench.ping(&peer);
    bench.after(100 * SECOND);
    // A word about the job takes the doubt away.
    assert_eq!(bench.poll(&held).0, 200);
    for _ in 0..3 {
        bench.ping(&peer);
        assert_eq!(bench.state(), "running");
        bench.after(89 * SECOND);
    }
    bench.ping(&peer);
    assert_eq!(bench.state(), "failed");
}

#[test]
fn an_accepted_job_that_is_never_started_ends() {
    let (mut bench, peer) = one(step("A"));
    let id = bench.offered(&peer).unwrap();
    let held = bench.accept(&peer, &id);
    for _ in 0..PLANE_START.as_secs() / 60 {
        assert_eq!(bench.call("POST", "heartbeat", &peer.token, json!({"sent_at": ""})).0, 200);
        bench.after(60 * SECOND);
    }
    assert_eq!(bench.plane.jobs()[0].state.report().unwrap().source, ReportSource::NeverStarted);
    assert_eq!(bench.start(&held), 422);
}

#[test]
fn a_job_that_runs_too_long_is_told_so_and_zero_still_counts_as_passed() {
    for (exit, state, name) in [(1, "failed", "timed_out"), (0, "passed", "finished")] {
        let (mut bench, peer) = one(CommandStep { timeout: Some(60 * SECOND), ..step("A") });
        let held = bench.begin(&peer).unwrap();
        assert_eq!(held.env["BUILDKITE_TIMEOUT"], "1");
        bench.after(59 * SECOND);
        assert_eq!(bench.poll(&held).1["state"], "running");
        bench.after(SECOND);
        assert_eq!(bench.poll(&held).1["state"], "timing_out");
        assert_eq!(bench.finish_with(&held, exit, "", "cancel"), 204);
        assert_eq!((bench.state(), bench.plane.jobs()[0].state.name()), (state, name));
    }
}

#[test]
fn cancelling_a_build_spares_nothing() {
    let mut bench = Bench::new();
    let tolerant = CommandStep { allow_dependency_failure: true, ..step("D") };
    bench.build(vec![step("A").into(), step("B").into(), step("C").into(), wait_on_failure(), tolerant.into()]);
    let (one, two) = (bench.agent(&[]), bench.agent(&[]));
    let running = bench.begin(&one).unwrap();
    let id = bench.offered(&two).unwrap();
    let accepted = bench.accept(&two, &id);
    let build = bench.plane.builds()[0].id.clone();
    bench.event(PlaneEvent::CancelBuild { build });
    assert_eq!(bench.state(), "canceling");
    assert_eq!(bench.poll(&running).1["state"], "canceling");
    assert_eq!(bench.start(&accepted), 422, "it need not start any more, and no finish will come");
    assert_eq!(bench.finish(&running, 1), 204);
    assert_eq!(bench.state(), "canceled");
    assert!(bench.offered(&one).is_none());
    let states: Vec<&str> = bench.plane.jobs().iter().map(|j| j.state.name()).collect();
    assert_eq!(states, ["canceled"; 4]);
}

#[test]
fn a_canceled_job_fails_its_build_and_its_dependents_do_not_run() {
    let mut bench = Bench::new();
    bench.build(vec![step("A").into(), wait_on_failure(), step("B").into()]);
    let job = bench.plane.jobs()[0].id.clone();
    bench.event(PlaneEvent::CancelJob { job });
    assert_eq!(bench.state(), "failed");
    assert_eq!(bench.plane.jobs()[1].state.name(), "waiting_failed");
}

#[test]
fn a_promised_failure_makes_the_build_failing_at_once() {
    let (mut bench, peer) = one(step("A"));
    let held = bench.begin(&peer).unwrap();
    let path = format!("jobs/{}/promise_failure", held.id);
    assert_eq!(bench.call("PUT", &path, &held.token, json!({"exit_status": 3})).0, 204);
    assert_eq!(bench.state(), "failing");
    assert_eq!(bench.call("PUT", &path, &held.token, json!({"exit_status": 3})).0, 204);
    assert_eq!(bench.call("PUT", &path, &held.token, json!({"exit_status": 4})).0, 409);
    bench.finish(&held, 0);
    assert_eq!(bench.state(), "passed", "the real exit status decides");
    assert_eq!(bench.call("PUT", &path, &held.token, json!({"exit_status": 3})).0, 422);
}

#[test]
fn a_paused_agent_gets_no_work_until_it_is_resumed() {
    let (mut bench, peer) = one(step("A"));
    let tell = |bench: &mut Bench, action| bench.event(PlaneEvent::Control { agent: peer.id.as_str().into(), action });
    tell(&mut bench, ControlAction::Pause);
    assert_eq!(bench.ping(&peer), json!({"action": "pause"}));
    tell(&mut bench, ControlAction::Resume);
    assert!(bench.offered(&peer).is_some());
    tell(&mut bench, ControlAction::Disconnect);
    tell(&mut bench, ControlAction::Resume);
    assert_eq!(bench.ping(&peer), json!({"action": "disconnect"}));
}

#[test]
fn tags_decide_who_may_run_a_job() {
    let tagged = |k: &str, v: &str| CommandStep { agents: vec![(k.into(), v.into())], ..step("A") };
    for (command, tags, any_queue, offered) in [
        (step("A"), vec![], false, true),
        (step("A"), vec!["queue=other"], false, false),
        (step("A"), vec!["queue=other"], true, true),
        (tagged("queue", "other"), vec!["queue=other"], false, true),
        (tagged("queue", "other"), vec![], false, false),
        (tagged("os", "linux"), vec!["os=linux"], true, true),
        (tagged("os", "linux"), vec!["os=mac"], true, false),
        (tagged("os", "*"), vec!["os=mac"], true, true),
    ] {
        let mut bench = Bench::with(PlaneConfig { any_queue, ..PlaneConfig::hosted(Secret::new("reg")) });
        bench.build(vec![command.clone().into()]);
        let peer = bench.agent(&tags);
        assert_eq!(bench.plane.unrunnable_jobs().is_empty(), offered, "{command:?} {tags:?}");
        assert_eq!(bench.offered(&peer).is_some(), offered, "{command:?} {tags:?}");
    }
}

#[test]
fn a_held_ping_is_answered_when_there_is_work_or_its_time_is_up() {
    let mut bench = Bench::with(PlaneConfig { hold_ping: 10 * SECOND, ..PlaneConfig::hosted(Secret::new("reg")) });
    let peer = bench.agent(&[]);
    let first = bench.send("GET", "ping", &peer.token, "");
    assert_eq!(bench.answer(first), None);
    bench.after(10 * SECOND);
    assert_eq!(bench.answer(first), Some((200, json!({}))));
    let second = bench.send("GET", "ping", &peer.token, "");
    bench.build(vec![step("A").into()]);
    assert_eq!(bench.answer(second).unwrap().1["job"]["id"], &*bench.plane.jobs()[0].id);
    // A ping whose sender has gone is given no job.
    let other = bench.agent(&[]);
    let third = bench.send("GET", "ping", &other.token, "");
    bench.event(PlaneEvent::Gone { id: third });
    bench.build(vec![step("B").into()]);
    assert_eq!(bench.answer(third), Some((200, json!({}))));
}

#[test]
fn a_job_can_be_acquired_by_name() {
    let mut bench = Bench::new();
    bench.build(vec![step("A").into(), wait(), step("B").into()]);
    let (one, two) = (bench.agent(&[]), bench.agent(&[]));
    let ids: Vec<String> = bench.plane.jobs().iter().map(|j| j.id.to_string()).collect();
    let acquire = |bench: &mut Bench, peer: &Peer, id: &str| bench.call("PUT", &format!("jobs/{id}/acquire"), &peer.token, Value::Null).0;
    assert_eq!(acquire(&mut bench, &one, &ids[1]), 423);
    assert_eq!(acquire(&mut bench, &one, &ids[0]), 200);
    assert_eq!(acquire(&mut bench, &two, &ids[0]), 422);
}

#[test]
fn meta_data_is_shared_by_the_jobs_of_a_build() {
    let mut bench = Bench::new();
    bench.build(vec![step("A").into(), step("B").into()]);
    let (one, two) = (bench.agent(&[]), bench.agent(&[]));
    let (a, b) = (bench.begin(&one).unwrap(), bench.begin(&two).unwrap());
    let data = |bench: &mut Bench, held: &Held, what: &str, body| bench.call("POST", &format!("jobs/{}/data/{what}", held.id), &held.token, body);
    assert_eq!(data(&mut bench, &a, "set", json!({"key": "k", "value": "1"})).0, 204);
    assert_eq!(data(&mut bench, &b, "get", json!({"key": "k"})), (200, json!({"key": "k", "value": "1"})));
    assert_eq!(data(&mut bench, &b, "get", json!({"key": "l"})).0, 404);
    assert_eq!(data(&mut bench, &b, "exists", json!({"key": "l"})), (200, json!({"exists": false})));
    let bad = json!({"items": [{"key": "x", "value": "1"}, {"key": "", "value": "2"}]});
    assert_eq!(data(&mut bench, &b, "set-batch", bad).0, 422);
    assert_eq!(data(&mut bench, &b, "set-batch", json!({"items": [{"key": "x", "value": "1"}]})).0, 204);
    assert_eq!(data(&mut bench, &b, "keys", Value::Null), (200, json!(["k", "x"])));
    let build = bench.plane.builds()[0].id.clone();
    let path = format!("builds/{build}/data/get");
    assert_eq!(bench.call("POST", &path, &a.token, json!({"key": "x"})).1["value"], "1");
    let large = "v".repeat(crate::limits::PLANE_META_DATA_BYTES + 1);
    assert_eq!(data(&mut bench, &a, "set", json!({"key": "k", "value": large})).0, 422);
    bench.finish(&a, 0);
    assert_eq!(data(&mut bench, &a, "set", json!({"key": "k", "value": "1"})).0, 422);
}

#[test]
fn annotations_append_restyle_and_go() {
    let (mut bench, peer) = one(step("A"));
    let held = bench.begin(&peer).unwrap();
    let path = format!("jobs/{}/annotations", held.id);
    for body in
        [json!({"body": "a", "style": "info", "priority": 3, "scope": "build"}), json!({"body": "b", "append": true}), json!({"style": "error"})]
    {
        assert_eq!(bench.call("POST", &path, &held.token, body).0, 201);
    }
    let kept = &bench.plane.builds()[0].annotations["build"]["default"];
    assert_eq!((kept.body.as_str(), kept.style.as_str(), kept.priority), ("ab", "error", 3));
    assert_eq!(bench.call("DELETE", &format!("{path}/default?scope=build"), &held.token, Value::Null).0, 204);
    assert_eq!(bench.call("DELETE", &format!("{path}/default?scope="), &held.token, Value::Null).0, 404);
}

#[test]
fn the_environment_is_merged_in_order() {
    let mut bench = Bench::new();
    let env = |list: &[(&str, &str)]| list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let command = CommandStep { env: env(&[("C", "step"), ("CI", "step")]), parallelism: Some(1), label: "%n of %t".into(), ..step("A") };
    let spec = BuildSpec {
        steps: vec![command.into()],
        pipeline_env: env(&[("A", "pipeline"), ("B", "pipeline"), ("C", "pipeline")]),
        env: env(&[("B", "build"), ("C", "build")]),
        ..BuildSpec::default()
    };
    bench.event(PlaneEvent::CreateBuild(Box::new(spec)));
    let peer = bench.agent(&["os-name=linux", "fast"]);
    let held = bench.begin(&peer).unwrap();
    for (name, value) in [
        ("A", "pipeline"),
        ("B", "build"),
        ("C", "step"),
        ("CI", "true"),
        ("BUILDKITE_LABEL", "0 of 1"),
        ("BUILDKITE_PARALLEL_JOB_COUNT", "1"),
        ("BUILDKITE_AGENT_META_DATA_OS_NAME", "linux"),
        ("BUILDKITE_AGENT_META_DATA_FAST", "true"),
        ("BUILDKITE_BUILD_URL", "http://127.0.0.1/builds/1"),
        ("BUILDKITE_COMMIT", "HEAD"),
        ("BUILDKITE_PULL_REQUEST", "false"),
    ] {
        assert_eq!(held.env[name], value, "{name}");
    }
}

#[test]
fn pages_show_the_build_and_the_log() {
    let (mut bench, peer) = one(step("A"));
    let held = bench.begin(&peer).unwrap();
    bench.chunk(&held, 1, 0, "hello");
    bench.finish(&held, 1);
    let page = |bench: &mut Bench, path: &str| {
        let id = bench.send("GET", path, "reg", "");
        bench.said.iter().find_map(|c| match c {
            PlaneCommand::Respond { id: other, response } if *other == id => Some(String::from_utf8_lossy(&response.body).into_owned()),
            _ => None,
        })
    };
    assert_eq!(page(&mut bench, &format!("jobs/{}/log", held.id)).unwrap(), "hello");
    let text = page(&mut bench, "").unwrap();
    assert!(text.contains("failed") && text.contains(&held.id) && text.contains("exit status 1"), "{text}");
    assert_eq!(page(&mut bench, "builds/1").unwrap().lines().count(), 3);
}

#[test]
fn people_make_builds_and_programs_read_them() {
    let mut bench = Bench::new();
    let peer = bench.agent(&[]);
    let mut post = |path: &str, body: &str| {
        let id = bench.send_to("POST", path.into(), "", body.to_owned());
        bench.answer(id).unwrap()
    };
    assert_eq!(post("/builds", "steps: [{command: make}]").0, 401);
    let (status, refusal) = post("/builds?token=reg", "steps: [{command: a, matrix: [1]}]");
    assert_eq!(status, 422);
    assert!(refusal["message"].as_str().unwrap().contains("matrix"), "{refusal}");
    assert_eq!(post("/builds?token=reg", "").0, 422);
    let (status, answer) = post("/builds?token=reg&branch=topic", "env: {A: $BUILDKITE_BRANCH}\nsteps: [{command: make}]");
    assert_eq!((status, &answer["number"]), (201, &json!(1)));
    let held = bench.begin(&peer).unwrap();
    assert_eq!((&held.env["A"], &held.env["BUILDKITE_BRANCH"]), (&json!("topic"), &json!("topic")));
    let (_, build) = bench.call("GET", "builds/1?format=json&token=reg", "", Value::Null);
    assert_eq!((&build["state"], &build["jobs"][0]["state"]), (&json!("running"), &json!("running")));
    assert_eq!(build["jobs"][0]["accepted_after_microseconds"], 0);
}
