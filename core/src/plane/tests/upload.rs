//! Uploads: where steps go, what they wait for, what is refused (local-control-plane §2.2, §2.3, §11.3, §11.4).

use super::*;

/// A small document; the shapes collide with each other's keys now and then.
pub(super) fn document(shape: u8) -> Value {
    let x = json!({"command": "X", "key": format!("x{}", shape % 4)});
    let y = json!({"command": "Y"});
    match shape % 8 {
        0 => json!({"steps": [x]}),
        1 => json!({"steps": [x, "wait", y]}),
        2 => json!({"steps": [x, {"wait": null, "continue_on_failure": true}, y], "env": {"A": "1"}}),
        3 => json!({"steps": [{"command": "Z", "depends_on": "x0"}, {"command": "F", "depends_on": []}]}),
        4 => json!({"steps": [{"command": "P", "parallelism": 2, "allow_dependency_failure": true}]}),
        5 => json!({"steps": [{"command": "D", "depends_on": ["A", "nowhere"]}]}),
        6 => json!({"steps": [{"block": "stop"}]}),
        _ => json!({"steps": [x, y, "waiter"]}),
    }
}

impl Bench {
    pub(super) fn upload_as(&mut self, uuid: &str, held: &Held, pipeline: Value, replace: bool) -> u16 {
        let body = json!({"uuid": uuid, "pipeline": pipeline, "replace": replace});
        self.call("POST", &format!("jobs/{}/pipelines?async=true", held.id), &held.token, body).0
    }

    fn upload(&mut self, held: &Held, pipeline: Value, replace: bool) {
        self.next += 1;
        let uuid = format!("00000000-0000-4000-8000-{:012x}", self.next);
        assert_eq!(self.upload_as(&uuid, held, pipeline, replace), 200, "{:?}", self.plane.builds()[0].uploads);
    }

    /// The message of a refused upload.
    fn rejected(&mut self, held: &Held, pipeline: Value) -> String {
        self.next += 1;
        let uuid = format!("00000000-0000-4000-8000-{:012x}", self.next);
        assert_eq!(self.upload_as(&uuid, held, pipeline, false), 202);
        let (status, answer) = self.call("GET", &format!("jobs/{}/pipelines/{uuid}", held.id), &held.token, Value::Null);
        assert_eq!((status, &answer["state"]), (200, &json!("rejected")));
        answer["message"].as_str().unwrap().to_owned()
    }

    /// Titles of the steps in order.
    fn list(&self) -> Vec<&str> {
        self.plane.builds()[0].steps.iter().filter(|s| !s.removed).map(|s| s.spec.title()).collect()
    }

    fn state_of(&self, title: &str) -> &'static str {
        self.plane.builds()[0].steps.iter().find(|s| s.spec.title() == title && !s.removed).unwrap().state.name()
    }
}

fn begun(list: Vec<StepSpec>) -> (Bench, Peer, Held) {
    let mut bench = Bench::new();
    bench.build(list);
    let peer = bench.agent(&[]);
    let held = bench.begin(&peer).unwrap();
    (bench, peer, held)
}

#[test]
fn steps_go_directly_behind_the_uploading_one_and_run_after_it() {
    let (mut bench, peer, held) = begun(vec![step("U").into(), wait(), step("C").into()]);
    let other = bench.agent(&[]);
    bench.upload(&held, json!({"steps": [{"command": "X"}, "wait", {"command": "Y"}]}), false);
    assert_eq!(bench.list(), ["U", "X", "wait", "Y", "wait", "C"]);
    assert_eq!(bench.offered(&other), None, "X waits for the end of U");
    bench.finish(&held, 0);
    for name in ["X", "Y", "C"] {
        let held = bench.begin(&peer).unwrap();
        assert_eq!(held.env["BUILDKITE_COMMAND"], name);
        assert_eq!(bench.offered(&other), None, "nothing runs beside {name}");
        assert_eq!(bench.finish(&held, 0), 204);
    }
    assert_eq!(bench.state(), "passed");
}

#[test]
fn a_second_upload_comes_before_the_first_and_both_run_in_parallel() {
    let (mut bench, peer, held) = begun(vec![step("U").into(), wait(), step("C").into()]);
    let other = bench.agent(&[]);
    bench.upload(&held, json!({"steps": [{"command": "X"}]}), false);
    bench.upload(&held, json!({"steps": [{"command": "Y"}]}), false);
    assert_eq!(bench.list(), ["U", "Y", "X", "wait", "C"]);
    bench.finish(&held, 0);
    let (x, y) = (bench.begin(&peer).unwrap(), bench.begin(&other).unwrap());
    bench.finish(&x, 0);
    assert_eq!(bench.offered(&peer), None, "C waits for both");
    bench.finish(&y, 0);
    assert_eq!(bench.begin(&peer).unwrap().env["BUILDKITE_COMMAND"], "C");
}

#[test]
fn what_a_failed_step_uploaded_does_not_run_unless_it_says_so() {
    let (mut bench, peer, held) = begun(vec![step("U").into()]);
    bench.upload(&held, json!({"steps": [{"command": "X"}, {"command": "T", "allow_dependency_failure": true}]}), false);
    bench.finish(&held, 1);
    assert_eq!(bench.state_of("X"), "waiting_failed");
    let t = bench.begin(&peer).unwrap();
    assert_eq!(t.env["BUILDKITE_COMMAND"], "T");
    bench.finish(&t, 0);
    assert_eq!(bench.state(), "failed");
}

#[test]
fn an_explicit_dependency_adds_to_the_uploading_step_and_an_empty_list_frees_from_it() {
    let (mut bench, _, held) = begun(vec![step("U").into(), step("A").into()]);
    let (one, two) = (bench.agent(&[]), bench.agent(&[]));
    bench.upload(&held, json!({"steps": [{"command": "X", "depends_on": "A"}, {"command": "F", "depends_on": []}]}), false);
    let first = bench.begin(&one).unwrap();
    let second = bench.begin(&two).unwrap();
    let mut run = [first.env["BUILDKITE_COMMAND"].as_str().unwrap(), second.env["BUILDKITE_COMMAND"].as_str().unwrap()];
    run.sort_unstable();
    assert_eq!(run, ["A", "F"]);
    bench.finish(&first, 0);
    bench.finish(&second, 0);
    assert_eq!(bench.state_of("X"), "waiting_for_dependencies");
    bench.finish(&held, 0);
    assert_eq!(bench.state_of("X"), "ready");
}

#[test]
fn depending_on_a_step_that_uploads_is_depending_on_what_it_uploads() {
    let (mut bench, peer, held) = begun(vec![step("U").into(), needs(step("B"), &[("U", None)]).into()]);
    bench.upload(&held, json!({"steps": [{"command": "X", "depends_on": "U"}]}), false);
    bench.finish(&held, 0);
    let x = bench.begin(&peer).unwrap();
    assert_eq!(x.env["BUILDKITE_COMMAND"], "X");
    assert_eq!(bench.state_of("B"), "waiting_for_dependencies");
    // What X uploads counts, too.
    bench.upload(&x, json!({"steps": [{"command": "Z"}]}), false);
    bench.finish(&x, 0);
    let z = bench.begin(&peer).unwrap();
    assert_eq!((z.env["BUILDKITE_COMMAND"].as_str(), bench.state_of("B")), (Some("Z"), "waiting_for_dependencies"));
    bench.finish(&z, 1);
    assert_eq!(bench.state_of("B"), "waiting_failed");
}

#[test]
fn replace_removes_what_has_not_started_and_frees_its_keys() {
    // §11.4
    let (mut bench, peer, held) = begun(vec![step("U").into(), step("A").into(), wait(), step("B").into()]);
    let other = bench.agent(&[]);
    let a = bench.begin(&other).unwrap();
    bench.upload(&held, json!({"steps": [{"command": "X", "key": "B"}]}), true);
    assert_eq!(bench.list(), ["U", "B", "A"], "B is the new step");
    bench.finish(&held, 0);
    bench.finish(&a, 0);
    let x = bench.begin(&peer).unwrap();
    assert_eq!(x.env["BUILDKITE_COMMAND"], "X");
    bench.finish(&x, 0);
    assert_eq!(bench.state(), "passed");
}

#[test]
fn replace_removes_unstarted_parts_of_a_started_step_and_takes_offers_back() {
    let parallel = CommandStep { parallelism: Some(3), ..step("U") };
    let (mut bench, _, held) = begun(vec![parallel.into()]);
    let other = bench.agent(&[]);
    let offered = bench.offered(&other).unwrap();
    bench.upload(&held, json!({"steps": []}), true);
    assert_eq!(bench.call("PUT", &format!("jobs/{offered}/accept"), &other.token, Value::Null).0, 422);
    bench.finish(&held, 0);
    assert_eq!(bench.state(), "passed");
}

#[test]
fn the_same_uuid_is_applied_once_and_answered_as_the_first_time() {
    let (mut bench, _, held) = begun(vec![step("U").into()]);
    let uuid = "00000000-0000-4000-8000-00000000abcd";
    for _ in 0..2 {
        assert_eq!(bench.upload_as(uuid, &held, json!({"steps": [{"command": "X", "key": "x"}]}), false), 200);
        assert_eq!(bench.list(), ["U", "x"]);
    }
    let (_, state) = bench.call("GET", &format!("jobs/{}/pipelines/{uuid}", held.id), &held.token, Value::Null);
    assert_eq!(state["state"], "applied");
    bench.finish(&held, 0);
    assert_eq!(bench.upload_as(uuid, &held, json!({}), false), 200, "also after the end: the first answer was lost");
    assert_eq!(bench.upload_as("00000000-0000-4000-8000-00000000abce", &held, json!({"steps": []}), false), 422);
    assert_eq!(bench.upload_as("x", &held, json!({"steps": []}), false), 422);
}

#[test]
fn a_rejected_upload_says_why_and_changes_nothing() {
    let (mut bench, _, held) = begun(vec![step("U").into(), step("A").into()]);
    let rows = [
        (json!({"steps": [{"command": "X", "matrix": ["1"]}]}), "step 1 (X), matrix: the embedded control plane does not do this"),
        (json!({"steps": [{"command": "X"}, {"block": "stop"}]}), "step 2"),
        (json!({"steps": ["make"]}), "unknown step type \"make\""),
        (json!({}), "the pipeline has no steps"),
        (json!({"steps": [{"command": "X", "key": "A"}]}), "step 1: the key `A` is used by another step"),
        (json!({"steps": [{"command": "X", "parallelism": 501}]}), "at most 500"),
        (json!({"steps": [{"command": "X", "key": "x", "depends_on": "y"}, {"command": "Y", "key": "y", "depends_on": "x"}]}), "back to itself"),
    ];
    for (pipeline, part) in rows {
        let message = bench.rejected(&held, pipeline.clone());
        assert!(message.contains(part), "{pipeline}: {message}");
    }
    assert_eq!(bench.list(), ["U", "A"]);
    let sync = json!({"uuid": "00000000-0000-4000-8000-00000000abcd", "pipeline": {"steps": ["make"]}});
    let (status, answer) = bench.call("POST", &format!("jobs/{}/pipelines", held.id), &held.token, sync);
    assert!(status == 422 && answer["message"].as_str().unwrap().contains("make"), "{answer}");
}

#[test]
fn an_upload_that_closes_a_circle_through_an_old_step_is_rejected() {
    let (mut bench, _, held) = begun(vec![step("U").into(), needs(step("A"), &[("X", None)]).into()]);
    assert!(bench.rejected(&held, json!({"steps": [{"command": "X", "key": "X", "depends_on": "A"}]})).contains("back to itself"));
    bench.upload(&held, json!({"steps": [{"command": "X", "key": "X"}]}), false);
    bench.finish(&held, 0);
    assert_eq!(bench.state_of("X"), "ready");
}

#[test]
fn the_env_of_an_upload_is_that_of_all_jobs_that_start_later() {
    let (mut bench, peer, held) = begun(vec![step("U").into(), CommandStep { env: [("A".into(), "own".into())].into(), ..step("B") }.into()]);
    let document = json!({"env": {"A": "uploaded"}, "steps": [{"command": "X $A"}]});
    bench.upload(&held, document, false);
    bench.finish(&held, 0);
    let x = bench.begin(&peer).unwrap();
    let other = bench.agent(&[]);
    let y = bench.begin(&other).unwrap();
    let envs = [&x, &y].map(|h| (h.env["BUILDKITE_COMMAND"].as_str().unwrap(), h.env["A"].as_str().unwrap()));
    // Not interpolated again; a step's own value wins.
    assert!(envs.contains(&("X $A", "uploaded")) && envs.contains(&("B", "own")), "{envs:?}");
}

#[test]
fn a_job_reads_and_cancels_steps_of_its_build() {
    let (mut bench, _, held) = begun(vec![CommandStep { label: "Up".into(), ..step("U") }.into(), step("A").into(), wait(), step("C").into()]);
    let get = |bench: &mut Bench, step: &str, attribute: &str| {
        let body = json!({"attribute": attribute});
        bench.call("POST", &format!("steps/{step}/export"), &held.token, body)
    };
    let own = held.env["BUILDKITE_STEP_ID"].as_str().unwrap().to_owned();
    assert_eq!(get(&mut bench, &own, "label").1["output"], "Up");
    assert_eq!(get(&mut bench, "A", "state").1["output"], "ready");
    assert_eq!(get(&mut bench, "U", "outcome").1["output"], "");
    assert!(get(&mut bench, "A", "").1["output"].as_str().unwrap().contains("\"key\":\"A\""));
    assert_eq!(get(&mut bench, "A", "notify").0, 422);
    assert_eq!(get(&mut bench, "none", "state").0, 404);
    assert_eq!(bench.call("POST", "steps/A/cancel", &held.token, json!({"build_id": "", "force": false})).0, 200);
    assert_eq!((get(&mut bench, "A", "state").1["output"].as_str(), bench.state_of("C")), (Some("canceled"), "waiting_for_dependencies"));
    assert_eq!(bench.call("POST", &format!("jobs/{}/artifacts", held.id), &held.token, json!({})).0, 422);
}
