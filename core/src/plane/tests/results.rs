//! Order, failure and retry: the tables of local-control-plane §3.4 and §11.

use super::*;
use crate::pipeline::{RetryRule, SoftFail, StatusMatch, WordMatch};

fn soft(step: CommandStep, soft_fail: SoftFail) -> CommandStep {
    CommandStep { soft_fail, ..step }
}

fn play(list: Vec<StepSpec>) -> (Vec<String>, &'static str) {
    let mut bench = Bench::new();
    bench.build(list);
    (bench.run_all(), bench.state())
}

#[test]
fn wait_and_failure_is_the_table_of_3_4() {
    let f = || step("F 1").into();
    let p = |name: &str| StepSpec::from(step(name));
    let always = soft(step("F 1"), SoftFail::Always);
    let rows: Vec<(Vec<StepSpec>, &[&str], &str)> = vec![
        (vec![f(), wait(), p("P2")], &["F"], "failed"),
        (vec![f(), wait_on_failure(), p("P2"), wait(), p("P3")], &["F", "P2"], "failed"),
        (vec![f(), wait_on_failure(), p("P2"), wait_on_failure(), p("P3")], &["F", "P2", "P3"], "failed"),
        (vec![f(), wait(), p("P2"), wait_on_failure(), p("P3")], &["F"], "failed"),
        (vec![always.into(), wait(), p("P2")], &["F", "P2"], "passed"),
        (vec![p("P1"), wait(), needs(step("P2"), &[]).into()], &["P1", "P2"], "passed"),
        (vec![f(), needs(step("P2"), &[("F", None)]).into(), needs(step("P3"), &[("P2", Some(true))]).into()], &["F", "P3"], "failed"),
    ];
    for (i, (list, ran, state)) in rows.into_iter().enumerate() {
        assert_eq!(play(list), (ran.iter().map(|s| (*s).to_owned()).collect(), state), "row {}", i + 1);
    }
}

#[test]
fn a_step_without_dependencies_runs_past_a_wait() {
    let mut bench = Bench::new();
    bench.build(steps(vec![step("P1").into(), wait(), needs(step("P2"), &[]).into()]));
    let (one, two) = (bench.agent(&[]), bench.agent(&[]));
    assert!(bench.begin(&one).is_some());
    assert!(bench.begin(&two).is_some(), "P2 runs beside P1");
}

#[test]
fn steps_between_waits_run_in_parallel_and_the_next_waits_for_both() {
    // §11.1
    let mut bench = Bench::new();
    bench.build(steps(vec![step("A").into(), wait(), step("B").into(), step("C").into()]));
    let (one, two) = (bench.agent(&[]), bench.agent(&[]));
    let a = bench.begin(&one).unwrap();
    assert!(bench.offered(&two).is_none(), "B waits for A");
    bench.finish(&a, 0);
    let b = bench.begin(&one).unwrap();
    let c = bench.begin(&two).unwrap();
    bench.finish(&c, 0);
    assert_eq!(bench.state(), "running");
    bench.finish(&b, 0);
    assert_eq!(bench.state(), "passed");
}

#[test]
fn a_wait_waits_for_everything_before_it() {
    // §11.2
    let list = vec![step("A").into(), needs(step("B"), &[("A", None)]).into(), wait(), step("C").into()];
    assert_eq!(play(list), (vec!["A".into(), "B".into(), "C".into()], "passed"));
}

#[test]
fn one_hard_failure_among_parallel_jobs_decides() {
    // §11.5
    let parallel = |text| CommandStep { parallelism: Some(3), soft_fail: SoftFail::Statuses(vec![3]), ..step(text) };
    let (ran, state) = play(vec![parallel("A 0,3,1").into()]);
    assert_eq!((ran.len(), state), (3, "failed"));
    assert_eq!(play(vec![parallel("A 0,3,3").into()]).1, "passed");
    let none = CommandStep { parallelism: Some(0), ..step("A") };
    assert_eq!(play(vec![none.into(), wait(), step("B").into()]), (vec!["B".into()], "passed"));
}

#[test]
fn the_first_matching_retry_rule_decides_even_when_it_is_used_up() {
    // §11.6
    let rule = |exit_status, limit| RetryRule { exit_status, limit, ..RetryRule::default() };
    let retry = vec![rule(StatusMatch::OneOf(vec![5]), 1), rule(StatusMatch::Failure, 2)];
    let (ran, state) = play(vec![CommandStep { retry: retry.clone(), ..step("A 5,5") }.into()]);
    assert_eq!((ran.len(), state), (2, "failed"));
    let (ran, state) = play(vec![CommandStep { retry, ..step("A 5,7,7,0") }.into(), wait(), step("B").into()]);
    assert_eq!((ran.len(), state), (5, "passed"));
}

#[test]
fn retry_conditions_are_anded_and_minus_one_needs_to_be_named() {
    let any = RetryRule::default();
    assert!(any.matches(1, "", "") && any.matches(255, "SIGTERM", "agent_stop") && !any.matches(-1, "", ""));
    let reason = RetryRule { exit_status: StatusMatch::NotZero, signal_reason: WordMatch::OneOf(vec!["agent_stop".into()]), ..any.clone() };
    assert!(reason.matches(-1, "", "agent_stop") && !reason.matches(-1, "", "cancel"));
    let signal = RetryRule { signal: WordMatch::OneOf(vec!["TERM".into()]), ..any.clone() };
    assert!(signal.matches(143, "SIGTERM", "") && signal.matches(143, "sigterm", "") && !signal.matches(143, "", ""));
    let none = RetryRule { signal: WordMatch::OneOf(vec![String::new()]), ..any };
    assert!(none.matches(1, "", "") && !none.matches(1, "SIGKILL", ""));
}

#[test]
fn skipped_and_excluded_steps_satisfy_and_a_build_of_only_those_is_not_run() {
    let skipped = || StepSpec::from(CommandStep { skip: Some("later".into()), ..step("S") });
    let broken = || StepSpec::from(CommandStep { excluded: true, ..step("X") });
    assert_eq!(play(vec![skipped(), broken()]), (vec![], "not_run"));
    // §11.8
    let list = vec![broken(), needs(step("B"), &[("X", None)]).into(), wait(), step("C").into()];
    assert_eq!(play(list), (vec!["B".into(), "C".into()], "passed"));
}

#[test]
fn a_dependency_that_never_comes_fails_its_step_when_nothing_else_can_run() {
    let list = vec![step("A").into(), needs(step("B"), &[("nowhere", None)]).into()];
    assert_eq!(play(list), (vec!["A".into()], "failed"));
}

#[test]
fn an_edge_beats_its_step() {
    let tolerant = |allow| CommandStep { allow_dependency_failure: true, ..needs(step("B"), &[("A", allow)]) };
    assert_eq!(play(vec![step("A 1").into(), tolerant(None).into()]).0, ["A", "B"]);
    assert_eq!(play(vec![step("A 1").into(), tolerant(Some(false)).into()]).0, ["A"]);
}

#[test]
fn lists_that_make_no_sense_are_refused_by_name() {
    let mut bench = Bench::new();
    let text = bench.refused(vec![step("A").into(), step("A").into()]);
    assert!(text.contains("step 2") && text.contains("`A`"), "{text}");
    let text = bench.refused(vec![needs(step("A"), &[("B", None)]).into(), needs(step("B"), &[("A", None)]).into()]);
    assert!(text.contains("back to itself"), "{text}");
    // Through a wait, too.
    let text = bench.refused(vec![needs(step("A"), &[("B", None)]).into(), wait(), step("B").into()]);
    assert!(text.contains("back to itself"), "{text}");
    let uuid = CommandStep { key: Some("0190a5f0-7b6b-4c3e-9f00-000000000000".into()), ..step("A") };
    assert!(bench.refused(vec![uuid.into()]).contains("UUID"));
    assert!(bench.refused(vec![CommandStep { parallelism: Some(501), ..step("A") }.into()]).contains("500"));
    assert!(bench.plane.builds().is_empty() && bench.plane.jobs().is_empty());
}

#[test]
fn jobs_are_offered_by_priority_then_by_order() {
    let first = CommandStep { priority: 1, ..step("C") };
    assert_eq!(play(vec![step("A").into(), step("B").into(), first.into()]).0, ["C", "A", "B"]);
}
