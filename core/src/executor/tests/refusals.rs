//! What may not be changed and what may not be run (bootstrap §7.3, §10.1, §17), and what this version cannot do.

use super::*;

#[test]
fn host_keys_are_accepted_as_the_version_of_ssh_allows_and_ssh_is_run_only_if_its_file_does_not_tell() {
    let on = "--ssh-keyscan=true";
    for (file, options, started) in [
        (Some("OpenSSH_9.2p1"), "ssh -o StrictHostKeyChecking=accept-new", vec!["make"]),
        (Some("OpenSSH_7.4p1"), "ssh -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null", vec!["make"]),
        // What the fake `ssh -V` prints is no version: a warning, and the modern option.
        (None, "ssh -o StrictHostKeyChecking=accept-new", vec!["-V", "make"]),
    ] {
        let mut story = Story::new(&[on], &[]);
        story.ssh = file;
        let story = story.run();
        assert_eq!((story.env.get("GIT_SSH_COMMAND"), &story.started), (Some(options), &started.iter().map(|s| (*s).to_owned()).collect()));
        assert_eq!(story.has_line(LineKind::Warning, "Failed to check SSH version for compatibility"), file.is_none());
    }
    let off = Story::new(&[], &[]).run();
    assert_eq!(off.env.get("GIT_SSH_COMMAND"), Some("ssh -o StrictHostKeyChecking=yes"));
}

#[test]
fn protected_names_cannot_be_changed_and_checkout_names_only_under_strict() {
    let hook = Hook {
        exports: vec![
            ("BUILDKITE_SHELL", Some("evil")),
            ("BUILDKITE_HOOKS_PATH", Some("/evil")),
            ("BUILDKITE_GIT_CLEAN_FLAGS", Some("-x")),
            ("FREE", Some("1")),
        ],
        ..ok()
    };
    let strict = Story::new(&["--checkout-override-mode", "strict"], &[("A1 environment", hook.clone())]).run();
    let line = "Changes to some env vars were blocked; the affected vars are: \
                [BUILDKITE_GIT_CLEAN_FLAGS BUILDKITE_HOOKS_PATH BUILDKITE_SHELL]";
    strict.assert_line(LineKind::Comment, line);
    assert_eq!((strict.env.get("BUILDKITE_SHELL"), strict.env.get("FREE")), (None, Some("1")));
    let open = Story::new(&[], &[("A1 environment", hook)]).run();
    open.assert_line(LineKind::Comment, "the affected vars are: [BUILDKITE_HOOKS_PATH BUILDKITE_SHELL]");
    open.assert_line(LineKind::Comment, "BUILDKITE_GIT_CLEAN_FLAGS is now \"-x\"");
}

#[test]
fn a_variable_that_a_hook_unsets_is_gone_for_good() {
    let hook = Hook { exports: vec![("BUILDKITE_TAG", None), ("BUILDKITE_BRANCH", None)], ..ok() };
    let story = Story::new(&[], &[("A1 environment", hook)]).run();
    assert_eq!(story.env.get("BUILDKITE_BRANCH"), None);
    story.assert_line(LineKind::Comment, "BUILDKITE_BRANCH removed");
}

#[test]
fn repository_hooks_are_refused_not_skipped_where_they_are_disabled() {
    let option = Story::new(&["--local-hooks-enabled=false"], &[("R pre-command", ok())]).run();
    assert_eq!((option.started.len(), option.status()), (0, 1));
    option.assert_line(LineKind::Error, "refusing to run /checkout/.buildkite/hooks/pre-command, local hooks are disabled");
    let hooks = [("A1 environment", exporting("BUILDKITE_NO_LOCAL_HOOKS", "1")), ("R pre-exit", ok())];
    let variable = Story::new(&[], &hooks).run();
    assert_eq!(variable.status(), 1, "at every point, also pre-exit");
    variable.assert_line(LineKind::Error, "Error tearing down job executor: refusing to run");
}

#[test]
fn a_directory_of_the_command_s_name_is_no_script() {
    let mut story = Story::new(&[], &[]);
    story.directories.insert(format!("{CHECKOUT}/make"));
    story.run().assert_line(LineKind::Header, "Running commands");
    let mut story = Story::new(&[], &[]);
    story.scripts.insert(format!("{CHECKOUT}/make"));
    let story = story.run();
    story.assert_line(LineKind::Header, "Running script");
    assert_eq!(story.started, ["./make"]);
}

#[test]
fn a_command_that_is_refused_is_no_command_error_but_its_status_stays() {
    let story = Story::new(&["--command-eval=false"], &[("A1 post-command", ok())]).run();
    assert_eq!((story.started.join(" ").as_str(), story.status()), ("A1 post-command", 1));
    assert_eq!(story.env.get("BUILDKITE_COMMAND_EXIT_STATUS"), Some("1"));
    assert!(!story.has_line(LineKind::Plain, "user command error"));
    // A post-command hook may turn it.
    let turned = Story::new(&["--command-eval=false"], &[("A1 post-command", exporting("BUILDKITE_COMMAND_EXIT_STATUS", "0"))]).run();
    assert_eq!(turned.status(), 0);
}

#[test]
fn plugins_are_refused_and_teardown_sees_the_checkout_an_earlier_job_left() {
    let hooks = [("A1 environment", ok()), ("R pre-exit", ok())];
    let story = Story::new(&["--plugins", "[{\"a/b#v1\": null}]"], &hooks).run();
    assert_eq!((story.started.join(", ").as_str(), story.status()), ("A1 environment, R pre-exit", 1));
    story.assert_line(LineKind::Error, "this version of the agent cannot run plugins yet");
    let disabled = Story::new(&["--plugins", "[\"a/b\"]", "--plugins-enabled=false"], &[]).run();
    disabled.assert_line(LineKind::Error, "plugins have been disabled on this agent with `--no-plugins`");
    assert_eq!(Story::new(&["--plugins", "[]"], &[]).run().status(), 0);
}

#[test]
fn without_a_checkout_directory_no_repository_hook_is_looked_for() {
    let mut story = Story::new(&["--plugins", "[\"a/b\"]"], &[("R pre-exit", ok())]);
    story.directories.clear();
    let story = story.run();
    assert!(story.started.is_empty(), "{:?}", story.started);
}

#[test]
fn secrets_are_refused_as_a_set_up_failure() {
    let story = Story::new(&["--secrets", "[{\"key\":\"k\"}]"], &[("A1 environment", ok()), ("A1 pre-exit", ok())]).run();
    assert_eq!((story.started.join(" ").as_str(), story.status()), ("A1 pre-exit", 125));
    assert_eq!(Story::new(&["--secrets", "[]"], &[]).run().status(), 0);
}

#[test]
fn a_missing_build_path_is_125_and_teardown_still_runs() {
    let mut story = Story::new(&[], &[("A1 pre-exit", ok())]);
    story.executor.job.env.unset("BUILDKITE_BUILD_CHECKOUT_PATH");
    let story = story.run();
    assert_eq!((story.started.join(" ").as_str(), story.status()), ("A1 pre-exit", 125));
    let text = "Error setting up job executor: must set either a BUILDKITE_BUILD_PATH or a BUILDKITE_BUILD_CHECKOUT_PATH";
    story.assert_line(LineKind::Error, text);
}
