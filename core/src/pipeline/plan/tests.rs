//! Documents as people write them.

use super::*;
use crate::pipeline::{Dependency, RetryRule, SoftFail, StatusMatch, WordMatch};
use std::time::Duration;

fn read_with(yaml: &str, env: &[(&str, &str)]) -> Result<Plan, PlanError> {
    let environment = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let options = PlanOptions { environment, branch: "main".into(), ..PlanOptions::default() };
    Ok(read("pipeline.yml", yaml.as_bytes(), options)?.expect("there is a document"))
}

fn ok(yaml: &str) -> Plan {
    read_with(yaml, &[]).unwrap_or_else(|e| panic!("{yaml}\n{e}"))
}

fn fails(yaml: &str) -> String {
    read_with(yaml, &[]).expect_err("the document must be refused").to_string()
}

fn command(document: &Plan, i: usize) -> &CommandStep {
    match &document.steps[i] {
        StepSpec::Command(c) => c,
        StepSpec::Wait(_) => panic!("step {i} is a wait"),
    }
}

#[test]
fn commands_labels_and_keys_may_be_written_in_several_ways() {
    let d = ok("steps:\n  - {commands: [a, 1, true, 2.5, ~], name: N, id: k}\n  - command: b\n  - {commands: ~, command: x, label: ~, name: n}\n");
    let first = command(&d, 0);
    assert_eq!((first.command.as_str(), first.label.as_str(), first.key.as_deref()), ("a\n1\ntrue\n2.5\n", "N", Some("k")));
    assert_eq!(&*first.raw, r#"{"command":"a\n1\ntrue\n2.5\n","key":"k","label":"N"}"#);
    assert_eq!(command(&d, 1).line, 3);
    assert_eq!((command(&d, 2).command.as_str(), command(&d, 2).label.as_str()), ("", ""), "the first name present is used, also when it is null");
    assert_eq!(ok("[{command: a}]").steps.len(), 1, "a list is a pipeline");
}

#[test]
fn every_field_of_a_command_step_is_read() {
    let d = ok(r#"
steps:
  - command: x
    env: {B: 1.50, A: 010, C: yes}
    depends_on: [a, {step: b, allow_failure: true}, {step: c}]
    allow_dependency_failure: true
    soft_fail: [{exit_status: 3}, {exit_status: [4, 5]}]
    skip: later
    timeout_in_minutes: "5"
    parallelism: 3
    priority: -2
    agents: {queue: z, os: "*"}
    branches: "main v*"
    retry: {automatic: [{exit_status: 5, limit: 1}, {exit_status: "*"}, {signal: sigterm, signal_reason: [none, Agent_Stop]}], manual: false}
"#);
    let step = command(&d, 0);
    assert_eq!(step.env.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>(), ["A=8", "B=1.5", "C=yes"]);
    let edge = |step: &str, allow_failure| Dependency { step: step.into(), allow_failure };
    assert_eq!(step.depends_on, Some(vec![edge("a", None), edge("b", Some(true)), edge("c", None)]));
    assert!(step.allow_dependency_failure && !step.excluded);
    assert_eq!(step.soft_fail, SoftFail::Statuses(vec![3, 4, 5]));
    assert_eq!(step.skip.as_deref(), Some("later"));
    assert_eq!(step.timeout, Some(Duration::from_secs(300)));
    assert_eq!((step.parallelism, step.priority), (Some(3), -2));
    assert_eq!(step.agents, [("queue".into(), "z".into()), ("os".into(), "*".into())]);
    assert_eq!(step.retry[0], RetryRule { exit_status: StatusMatch::OneOf(vec![5]), limit: 1, ..RetryRule::default() });
    assert_eq!(step.retry[1], RetryRule::default());
    assert_eq!(step.retry[2].exit_status, StatusMatch::NotZero);
    assert_eq!(step.retry[2].signal, WordMatch::OneOf(vec!["TERM".into()]));
    assert_eq!(step.retry[2].signal_reason, WordMatch::OneOf(vec![String::new(), "agent_stop".into()]));
}

#[test]
fn short_forms_mean_what_they_say() {
    let d = ok(r#"
agents: [queue=q, fast]
priority: 4
steps:
  - {command: a, depends_on: k, soft_fail: true, retry: {automatic: true}, timeout: 1}
  - {command: b, depends_on: ~, soft_fail: [{exit_status: "*"}], skip: "", agents: {}}
  - {command: c, depends_on: [], soft_fail: {exit_status: 2}, skip: true, branches: [dev, "x*"]}
"#);
    let [a, b, c] = [0, 1, 2].map(|i| command(&d, i));
    assert_eq!(a.depends_on.as_ref().unwrap()[0].step, "k");
    assert_eq!((&a.soft_fail, a.retry.len(), a.priority), (&SoftFail::Always, 1, 4));
    assert_eq!(a.agents, [("queue".into(), "q".into()), ("fast".into(), "*".into())]);
    assert_eq!((&b.depends_on, &b.soft_fail, &b.skip), (&Some(vec![]), &SoftFail::Always, &None));
    assert!(b.agents.is_empty(), "the step's own replace the document's as a whole");
    assert_eq!((&c.depends_on, &c.soft_fail, c.skip.as_deref(), c.excluded), (&Some(vec![]), &SoftFail::Statuses(vec![2]), Some(""), true));
}

#[test]
fn waits_are_words_or_mappings() {
    let d = ok("steps: [wait, waiter, {wait: ~, continue_on_failure: true, key: w}, {type: waiter, depends_on: x}]");
    let waits: Vec<&WaitStep> = d.steps.iter().map(|s| if let StepSpec::Wait(w) = s { &**w } else { panic!() }).collect();
    assert_eq!(waits.iter().map(|w| w.continue_on_failure).collect::<Vec<_>>(), [false, false, true, false]);
    assert_eq!(waits[2].key.as_deref(), Some("w"));
    assert_eq!(waits[3].depends_on.as_ref().unwrap()[0].step, "x");
}

#[test]
fn what_the_plane_does_not_do_is_refused_by_name_and_place() {
    for (yaml, part) in [
        ("steps:\n  - command: a\n  - label: build\n    command: b\n    matrix: [1]\n", "pipeline.yml:5:13: step 2 (build), matrix: "),
        ("steps:\n  - {group: g, steps: []}", "step 1 (g), group: the embedded control plane does not do this"),
        ("steps: [block]", "step 1 (block), block: "),
        ("steps: [{trigger: p}]", "trigger: "),
        ("steps: [{plugins: [docker]}]", "plugins: "),
        ("steps: [{command: a, plugins: [docker]}]", "plugins: "),
        ("steps: [{command: a, concurrency: 1}]", "concurrency: "),
        ("steps: [{command: a, if: x}]", "if: "),
        ("steps: [{wait: ~, if: x}]", "if: "),
        ("checkout: {skip: true}\nsteps: []", "checkout: "),
        ("steps: [make]", "unknown step type \"make\", want one of [wait waiter block input manual]\n  help: to run a command, write `command: …`"),
        ("steps: [{type: dance}]", "unknown step type \"dance\""),
        ("steps: [{label: x}]", "cannot infer step type: need one of [command commands plugins"),
        ("steps: [~]", "a step is a mapping or a word, not null"),
        ("steps: 1", "pipeline.yml:1:8: steps: must be a list, not a number"),
        ("foo: bar", "steps: the pipeline has no steps"),
        ("hello", "a pipeline is a mapping with `steps`, or a list of steps, not text"),
        ("env: [a]\nsteps: []", "env: must be a mapping, not a list"),
        ("env: {A: [1]}\nsteps: []", "env.A: must be text, not a list"),
        ("steps: [{command: x, env: {A: 2001-01-02}}]", "env.A: must be text, not a timestamp"),
        ("steps: [{command: {a: 1}}]", "command: must be text or a list of text"),
        ("steps: [{command: a, timeout: 0}]", "timeout: must be more than 0 minutes"),
        ("steps: [{command: a, retry: {automatic: {limit: 11}}}]", "retry.automatic.limit: must be 0 to 10"),
        ("steps: [{command: a, soft_fail: [{status: 1}]}]", "soft_fail: a rule has an `exit_status`"),
        ("steps: [{command: a, depends_on: [{key: b}]}]", "depends_on: an entry needs a `step`"),
        ("steps: [{command: a, parallelism: -1}]", "parallelism: -1 jobs are not possible"),
        ("--- {steps: []}\n--- {steps: []}", "the file holds 2 documents"),
        ("steps: [\n", "pipeline.yml:"),
    ] {
        let text = fails(yaml);
        assert!(text.contains(part), "{yaml}\n{text}");
    }
}

#[test]
fn a_source_without_a_document_is_none() {
    assert_eq!(read("p", b"# nothing here\n", PlanOptions::default()).unwrap(), None);
    assert!(read("p", b"---\n", PlanOptions::default()).is_err());
}

#[test]
fn the_env_block_follows_the_table_of_3_5() {
    for (runtime, block, echo) in [
        (&[("A", "rt")][..], r#"{A: pl, B: "$A"}"#, "pl"),
        (&[("A", "rt")], r#"{B: "$A", A: pl}"#, "rt"),
        (&[("B", "rt")], "{B: pl}", "pl"),
        (&[("B", "/p")], r#"{B: "$B:/x"}"#, "/p:/x"),
    ] {
        let d = read_with(&format!("steps: [{{command: 'echo $B'}}]\nenv: {block}"), runtime).unwrap();
        assert_eq!(command(&d, 0).command, format!("echo {echo}"), "{block}");
    }
    let d = read_with(r#"{env: {"${K}": "1", key: "2"}, steps: []}"#, &[("K", "key")]).unwrap();
    assert_eq!(d.env.into_iter().collect::<Vec<_>>(), [("key".to_owned(), "1".to_owned())]);
}

#[test]
fn strings_are_interpolated_and_nothing_else_is() {
    let yaml = r#"
steps:
  - {commands: ["a $V", "b $$V"], label: "$V", key: "k-$V", env: {"$V": "$V"}, agents: {"$V": "$V"}, timeout: "$T", priority: 3}
"#;
    let d = read_with(yaml, &[("V", "v"), ("T", "5")]).unwrap();
    let step = command(&d, 0);
    assert_eq!((step.command.as_str(), step.label.as_str(), step.key.as_deref()), ("a v\nb $V", "v", Some("k-v")));
    assert_eq!(step.env["v"], "v");
    assert_eq!(step.agents, [("v".into(), "v".into())]);
    assert_eq!(step.timeout, Some(Duration::from_secs(300)));
    let options = PlanOptions { no_interpolation: true, ..PlanOptions::default() };
    let d = read("p", b"steps: [{command: '$V ${'}]", options).unwrap().unwrap();
    assert_eq!(command(&d, 0).command, "$V ${");
}

#[test]
fn a_malformed_expansion_names_the_field() {
    let text = fails("steps:\n  - label: x\n    command: 'echo ${A+x}'\n");
    assert_eq!(text, "pipeline.yml:3:14: step 1 (x): interpolating command: Expected an operator, got +");
    assert!(fails("steps: [{command: a, depends_on: '${'}]").contains("interpolating remaining fields: Expected identifier"));
}

#[test]
fn what_is_passed_over_is_noted() {
    let d = ok("common: &c {env: {A: 1}}\nnotify: [{email: x}]\nsteps: [{<<: *c, command: a, artifact_paths: ['x']}]");
    assert_eq!(command(&d, 0).env["A"], "1");
    assert_eq!(d.notes.len(), 3, "{:?}", d.notes);
}

#[test]
fn a_step_read_from_json_is_the_same() {
    let json: serde_json::Value = serde_json::from_str(r#"{"steps":["wait",{"command":"x","soft_fail":[{"exit_status":3}]}]}"#).unwrap();
    let d = read_json("upload", json, PlanOptions::default()).unwrap();
    assert_eq!(command(&d, 1).soft_fail, SoftFail::Statuses(vec![3]));
}
