//! What runs, in which order, and what still runs after a failure (bootstrap §5.1, §5.2, §7, §13).

use super::*;

const POINTS: [&str; 9] =
    ["environment", "pre-checkout", "post-checkout", "pre-command", "command", "post-command", "pre-artifact", "post-artifact", "pre-exit"];

/// Every source has every hook.
fn everything() -> Vec<(String, Hook)> {
    let mut hooks = Vec::new();
    for point in POINTS {
        for source in ["A1", "A2", "R"] {
            hooks.push((format!("{source} {point}"), ok()));
        }
    }
    hooks
}

fn story(arguments: &[&str], hooks: &[(String, Hook)]) -> Story {
    let hooks: Vec<(&str, Hook)> = hooks.iter().map(|(label, hook)| (label.as_str(), hook.clone())).collect();
    Story::new(arguments, &hooks)
}

#[test]
fn hooks_run_in_the_order_of_the_table() {
    let story = story(&["--artifact-upload-paths", "*.log"], &everything()).run();
    let expected = "A1 environment, A2 environment, A1 pre-checkout, A2 pre-checkout, R post-checkout, A1 post-checkout, A2 post-checkout, \
                    A1 pre-command, A2 pre-command, R pre-command, R command, R post-command, A1 post-command, A2 post-command, \
                    A1 pre-artifact, A2 pre-artifact, R pre-artifact, upload, A1 post-artifact, A2 post-artifact, R post-artifact, \
                    R pre-exit, A1 pre-exit, A2 pre-exit";
    assert_eq!(story.started.join(", "), expected);
    assert_eq!(story.exit, Some((0, None)));
}

#[test]
fn the_legacy_order_runs_the_agent_s_hooks_first_everywhere() {
    let story = story(&["--experiment", "legacy-post-hook-order"], &everything()).run();
    let post: Vec<_> = story.started.iter().filter(|s| s.contains("post-") || s.contains("pre-exit")).cloned().collect();
    let expected = "A1 post-checkout, A2 post-checkout, R post-checkout, A1 post-command, A2 post-command, R post-command, \
                    A1 pre-exit, A2 pre-exit, R pre-exit";
    assert_eq!(post.join(", "), expected);
}

#[test]
fn without_a_repository_hook_all_command_hooks_of_the_agent_run_and_without_any_the_command() {
    let agents = Story::new(&[], &[("A1 command", ok()), ("A2 command", ok())]).run();
    assert_eq!(agents.started, ["A1 command", "A2 command"]);
    let none = Story::new(&[], &[]).run();
    assert_eq!(none.started, ["make"]);
}

/// Runs everything with one hook failing with status 3; what ran after it, and the status.
fn after_failure_of(label: &str) -> (Vec<String>, i32) {
    let mut hooks = everything();
    for hook in &mut hooks {
        if hook.0 == label {
            hook.1 = failing(3);
        }
    }
    let story = story(&["--artifact-upload-paths", "*.log"], &hooks).run();
    let at = story.started.iter().position(|s| s == label).unwrap_or_else(|| panic!("{label} did not run: {:?}", story.started));
    let status = story.status();
    (story.started[at + 1..].to_vec(), status)
}

#[test]
fn after_a_failure_exactly_the_rest_of_the_table_runs() {
    let pre_exit = ["R pre-exit", "A1 pre-exit", "A2 pre-exit"];
    let artifacts = ["A1 pre-artifact", "A2 pre-artifact", "R pre-artifact", "upload", "A1 post-artifact", "A2 post-artifact", "R post-artifact"];
    let post_command = ["R post-command", "A1 post-command", "A2 post-command"];
    for (failing, rest) in [
        // No checkout root yet: no repository hooks.
        ("A1 environment", vec!["A1 pre-exit", "A2 pre-exit"]),
        ("A2 pre-checkout", vec!["A1 pre-exit", "A2 pre-exit"]),
        ("R post-checkout", pre_exit.to_vec()),
        ("A1 pre-command", [&artifacts[..], &pre_exit].concat()),
        ("R command", [&post_command[..], &artifacts, &pre_exit].concat()),
        ("R post-command", [&artifacts[..], &pre_exit].concat()),
        ("A2 pre-artifact", pre_exit.to_vec()),
        ("A1 post-artifact", pre_exit.to_vec()),
        ("R pre-exit", vec![]),
    ] {
        assert_eq!(after_failure_of(failing), (rest.into_iter().map(str::to_owned).collect(), 3), "{failing}");
    }
}

#[test]
fn a_failing_command_is_followed_by_everything() {
    let mut story = Story::new(&["--artifact-upload-paths", "x"], &[("A1 post-command", ok()), ("A1 pre-exit", ok())]);
    story.command = ExitStatus::Code(7);
    let story = story.run();
    assert_eq!((story.started.join(", ").as_str(), story.status()), ("make, A1 post-command, upload, A1 pre-exit", 7));
    assert_eq!(story.env.get("BUILDKITE_COMMAND_EXIT_STATUS"), Some("7"));
}

#[test]
fn a_failing_upload_fails_the_job_unless_the_command_failed_already() {
    let mut fails = Story::new(&["--artifact-upload-paths", "x"], &[]);
    fails.upload = ExitStatus::Code(8);
    let fails = fails.run();
    assert_eq!(fails.status(), 8);
    fails.assert_line(LineKind::Error, "exit status 8");
    let mut both = Story::new(&["--artifact-upload-paths", "x"], &[]);
    (both.command, both.upload) = (ExitStatus::Code(4), ExitStatus::Code(8));
    assert_eq!(both.run().status(), 4);
}

#[test]
fn phases_that_are_not_included_do_not_run_and_pre_exit_belongs_to_the_command() {
    let checkout = story(&["--phases", "plugin,checkout"], &everything()).run();
    assert_eq!(checkout.started.last().unwrap(), "A2 post-checkout");
    let command = story(&["--phases", "command"], &everything()).run();
    assert_eq!(command.started[2], "A1 pre-command", "{:?}", command.started);
    assert!(command.started.contains(&"R pre-exit".to_owned()), "the directory of an earlier container is the checkout root");
}

#[test]
fn a_hook_that_ends_the_shell_early_succeeds_but_changes_nothing() {
    let early = Hook { early: true, dir: "/elsewhere", ..exporting("X", "1") };
    let story = Story::new(&[], &[("A1 pre-command", early), ("A2 pre-command", exporting("Y", "1"))]).run();
    assert_eq!((story.env.get("X"), story.env.get("Y"), story.status()), (None, Some("1"), 0));
    assert_eq!((story.env.get("PWD"), story.env.get("BUILDKITE_LAST_HOOK_EXIT_STATUS")), (Some(CHECKOUT), Some("0")));
}

#[test]
fn a_failing_hook_contributes_nothing_but_its_status() {
    let hook = Hook { end: ExitStatus::Code(3), dir: "/elsewhere", ..exporting("X", "1") };
    let story = Story::new(&[], &[("A1 pre-command", hook), ("A1 pre-exit", ok())]).run();
    assert_eq!((story.env.get("X"), story.env.get("PWD"), story.status()), (None, Some(CHECKOUT), 3));
    assert_eq!(story.env.get("BUILDKITE_LAST_HOOK_EXIT_STATUS"), Some("3"));
    assert_eq!(story.env.get("BUILDKITE_COMMAND_EXIT_STATUS"), None);
}

#[test]
fn a_hook_may_change_the_directory_the_live_options_and_the_checkout_path() {
    let hooks = [
        ("A1 environment", Hook { exports: vec![("BUILDKITE_ARTIFACT_PATHS", Some("*.txt"))], ..ok() }),
        ("A1 post-checkout", exporting("BUILDKITE_BUILD_CHECKOUT_PATH", "/other")),
        ("A1 pre-command", Hook { dir: "/deeper", ..ok() }),
    ];
    let mut story = Story::new(&[], &hooks);
    story.directories.insert("/other".to_owned());
    let story = story.run();
    assert_eq!(story.started, ["A1 environment", "A1 post-checkout", "A1 pre-command", "make", "upload"]);
    story.assert_line(LineKind::Comment, "BUILDKITE_ARTIFACT_PATHS is now \"*.txt\"");
    story.assert_line(LineKind::Header, "A post-checkout hook has changed the working directory to \"/other\"");
    story.assert_line(LineKind::Prompt, "cd /other");
    assert_eq!(story.env.get("PWD"), Some("/deeper"));
}

#[test]
fn what_is_executed_is_fixed_whatever_a_hook_exports_as_the_command() {
    let story = Story::new(&[], &[("A1 environment", exporting("BUILDKITE_COMMAND", "evil"))]).run();
    assert_eq!(story.started, ["A1 environment", "make"]);
    assert_eq!(story.env.get("BUILDKITE_COMMAND"), Some("evil"), "later processes do see it");
}

#[test]
fn a_job_without_a_repository_runs_in_a_temporary_directory_that_is_deleted_even_after_a_failure() {
    let hooks = [("A1 environment", exporting("BUILDKITE_REPO", "")), ("A1 pre-exit", failing(9))];
    let mut story = Story::new(&["--skip-checkout=false"], &hooks);
    // Given by flag only: a variable would turn it on again at the first hook.
    story.executor.job.env.unset("BUILDKITE_SKIP_CHECKOUT");
    let story = story.run();
    story.assert_line(LineKind::Comment, "Skipping checkout, BUILDKITE_REPO is empty");
    assert_eq!(story.env.get("BUILDKITE_BUILD_CHECKOUT_PATH"), Some("/tmp/buildkite-job-j1"));
    assert!(!story.directories.contains("/tmp/buildkite-job-j1"));
    assert_eq!(story.status(), 9);
}

#[test]
fn w5_only_a_125_of_the_jobs_own_is_vouched_for() {
    let of = |mut story: Story, command: i32| {
        story.command = ExitStatus::Code(command);
        let story = story.run();
        (story.exit, story.vouched)
    };
    let exit = |status: i32| Some((status, None));
    assert_eq!(of(Story::new(&[], &[]), 125), (exit(125), true));
    assert_eq!(of(Story::new(&[], &[("A1 environment", failing(125))]), 0), (exit(125), true), "a hook's own");
    assert_eq!(of(Story::new(&[], &[("A1 pre-exit", failing(125))]), 0), (exit(125), true));
    assert_eq!(of(Story::new(&[], &[]), 124), (exit(124), false));
    assert_eq!(of(Story::new(&["--build-path", ""], &[]), 0).0, exit(0), "the bench needs no build path");
    let mut nowhere = Story::new(&[], &[]);
    nowhere.executor.job.env.unset("BUILDKITE_BUILD_CHECKOUT_PATH");
    assert_eq!(of(nowhere, 0), (exit(125), false), "the executor's own failure");
}
