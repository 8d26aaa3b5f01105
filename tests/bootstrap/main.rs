//! `ibex bootstrap` as the agent starts it: real hooks, real terminals, real signals (specification: bootstrap).

mod cancel;
mod job;

use job::Job;
use std::fs;
use std::os::unix::fs::PermissionsExt;

#[test]
fn a_command_prints_and_its_log_is_exact_to_the_byte() {
    let ended = Job::new("echo hello").set("BUILDKITE_BUILD_CHECKOUT_PATH", "/tmp").run();
    assert_eq!(ended.result(), (0, "hello\n"));
    let expected = "~~~ Preparing working directory\n\
                    \x1b[90m$\x1b[0m cd /tmp\n\
                    \x1b[90m# Skipping checkout, BUILDKITE_SKIP_CHECKOUT is set\x1b[0m\n\
                    ~~~ Running commands\n\
                    \x1b[90m$\x1b[0m echo hello\n";
    assert_eq!(ended.err, expected);
}

#[test]
fn in_a_terminal_lines_end_in_crlf_and_the_size_and_type_are_those_of_the_specification() {
    let ended = Job::new("echo hello; stty size; echo $TERM; test -t 0 && test -t 2").set("BUILDKITE_PTY", "true").run();
    assert_eq!(ended.result(), (0, "hello\r\n100 160\r\nxterm-256color\r\n"), "{}", ended.err);
    let raw = Job::new("echo hello").set("BUILDKITE_PTY", "true").argument("--experiment=pty-raw").run();
    assert_eq!(raw.out, "hello\n");
}

#[test]
fn stdout_and_stderr_of_the_command_keep_their_order_and_stdin_is_empty() {
    assert_eq!(Job::new("echo a; echo b >&2; cat; echo c").run().result(), (0, "a\nb\nc\n"));
}

#[test]
fn exit_statuses_are_those_of_the_table() {
    let seven = Job::new("exit 7").run();
    assert_eq!(seven.code(), 7);
    seven.assert_lines(&["^^^ +++\n", "Error: The command exited with status 7\x1b", "user command error: exit status 7\n"]);
    let killed = Job::new("kill -9 $$").run();
    assert_eq!(killed.code(), 255);
    killed.assert_lines(&["Error: The command was interrupted by a signal: signal: killed", "user command error: signal: killed\n"]);
    let empty = Job::new("").run();
    assert_eq!(empty.code(), 1);
    empty.assert_lines(&["Error: the command phase has no `command` to execute"]);
    assert_eq!(Job::new("true").argument("--shell=/nonexistent/shell -c").run().code(), 1);
    // The first failing line ends a command of several.
    assert_eq!(Job::new("echo one\nfalse\necho two").run().result(), (1, "one\n"));
}

#[test]
fn a_pre_exit_failure_overrides_the_status_and_a_post_command_hook_may_change_it() {
    let ended = Job::new("exit 4").agent_hook("post-command", "(exit 6)\n").agent_hook("pre-exit", "(exit 9)\n").run();
    assert_eq!(ended.code(), 9);
    ended.assert_lines(&["exited with status 6", "Error tearing down job executor: "]);
    let ended = Job::new("exit 4").agent_hook("post-command", "export BUILDKITE_COMMAND_EXIT_STATUS=0\n").run();
    assert_eq!(ended.code(), 0);
}

#[test]
fn hooks_run_in_order_and_hand_their_environment_and_directory_on() {
    let job = Job::new("pwd; echo \"$GREETING from $SCOPE\"; echo ${GONE-unset}")
        .set("GONE", "here")
        .agent_hook("environment", "export GREETING='hello\nworld'\nunset GONE\n")
        .agent_hook("pre-command", "#!/bin/bash\nexport SCOPE=agent\n")
        .repository_file(".buildkite/hooks/pre-command", "export SCOPE=repository\nmkdir -p sub && cd sub\n")
        .repository_file(".buildkite/hooks/pre-exit", "echo repository $BUILDKITE_COMMAND_EXIT_STATUS\n")
        .repository_file(".buildkite/hooks/environment", "echo never\n")
        .agent_hook("pre-exit", "echo agent $BUILDKITE_LAST_HOOK_EXIT_STATUS\n");
    let ended = job.run();
    let sub = job.checkout().join("sub");
    let expected = format!("{}\nhello\nworld from repository\nunset\nrepository 0\nagent 0\n", sub.display());
    assert_eq!(ended.result(), (0, expected.as_str()), "{}", ended.err);
    let order = ["agent environment", "agent pre-command", "repository pre-command", "repository pre-exit", "agent pre-exit"];
    assert_eq!(ended.hooks(), order);
    ended.assert_lines(&["# GONE removed\x1b", "# GREETING added\x1b", "$\x1b[0m .buildkite/hooks/pre-command\n", "# SCOPE changed\x1b"]);
    assert_eq!(fs::read_dir(job.path("tmp")).unwrap().count(), 0, "wrapper directories are left behind");
}

#[test]
fn a_failing_hook_ends_its_point_and_gives_the_status() {
    let job = Job::new("echo never")
        .agent_hook("pre-command", "(exit 5)\n")
        .repository_file(".buildkite/hooks/pre-command", "echo never\n")
        .agent_hook("post-command", "echo never\n")
        .agent_hook("pre-exit", "echo bye ${BUILDKITE_COMMAND_EXIT_STATUS-absent}\n");
    let ended = job.run();
    assert_eq!(ended.result(), (5, "bye absent\n"));
    ended.assert_lines(&["Error: running \"agent pre-command\" shell hook: the agent pre-command hook exited with status 5\x1b"]);
}

#[test]
fn a_failing_environment_hook_gives_its_own_status_whatever_language_it_is_in() {
    assert_eq!(Job::new("echo never").agent_hook("environment", "return 9\n").run().result(), (9, ""));
    let script = Job::new("echo never").executable_agent_hook("environment", "#!/usr/bin/env -S sh\nexit 8\n");
    assert_eq!(script.run().result(), (8, ""));
}

#[test]
fn what_a_hook_exports_counts_unless_it_ends_the_shell_or_the_name_is_protected() {
    let job = Job::new("echo ${EARLY-none} $LATE $BUILDKITE_SHELL")
        .set("BUILDKITE_SHELL", "/bin/sh -e -c")
        .agent_hook("environment", "export EARLY=1\nexit 0\n")
        .agent_hook("pre-command", "export LATE=1 BUILDKITE_SHELL=evil\n");
    let ended = job.run();
    assert_eq!(ended.result(), (0, "none 1 /bin/sh -e -c\n"));
    ended.assert_lines(&["# Changes to some env vars were blocked; the affected vars are: [BUILDKITE_SHELL]\x1b", "# LATE added"]);
}

#[test]
fn hooks_in_other_languages_are_executed_and_told_who_they_are() {
    let content = "#!/usr/bin/env -S sh\necho $BUILDKITE_HOOK_PHASE $BUILDKITE_HOOK_SCOPE\nexport X=1\n";
    let job = Job::new("true").executable_agent_hook("pre-command", content);
    let ended = job.run();
    assert_eq!(ended.result(), (0, "pre-command agent\n"));
    assert!(!ended.err.contains("X added"), "{}", ended.err);
    ended.assert_lines(&[&format!("$\x1b[0m {}\n", job.path("hooks/pre-command").display())]);
}

#[test]
fn command_hooks_replace_the_command_and_the_repository_s_goes_before_the_agent_s() {
    let job = Job::new("echo built-in").agent_hook("command", "echo agent; (exit 3)\n");
    assert_eq!(job.run().result(), (3, "agent\n"));
    let job = job.repository_file(".buildkite/hooks/command", "echo repository\n");
    assert_eq!(job.run().result(), (0, "repository\n"));
}

#[test]
fn a_repository_hook_on_an_agent_that_forbids_them_fails_the_job() {
    let job = Job::new("echo never").repository_file(".buildkite/hooks/pre-command", "echo never\n").argument("--local-hooks-enabled=false");
    let ended = job.run();
    assert_eq!(ended.result(), (1, ""));
    ended.assert_lines(&["refusing to run", ".buildkite/hooks/pre-command, local hooks are disabled"]);
}

#[test]
fn secrets_are_masked_in_output_and_in_log_lines_also_those_that_hooks_export() {
    let job = Job::new("echo hunter2hunter2; echo $DEPLOY_TOKEN; printf hun; printf ter2hunter2")
        .set("API_TOKEN", "hunter2hunter2")
        .set("TINY_TOKEN", "tiny")
        .agent_hook("pre-command", "export DEPLOY_TOKEN=correct-horse\n");
    let ended = job.run();
    assert_eq!(ended.result(), (0, "[REDACTED]\n[REDACTED]\n[REDACTED]"));
    ended.assert_lines(&["will not be redacted: TINY_TOKEN. You can disable", "$\x1b[0m echo [REDACTED]; echo $DEPLOY_TOKEN"]);
    assert!(!ended.err.contains("hunter2hunter2"));
}

#[test]
fn a_script_is_made_executable_and_run_by_its_name() {
    let ended = Job::new("scripts/test.sh").repository_file("scripts/test.sh", "#!/bin/sh\necho script\n").run();
    assert_eq!(ended.result(), (0, "script\n"), "{}", ended.err);
    ended.assert_lines(&["~~~ Running script\n", "$\x1b[0m ./scripts/test.sh\n"]);
}

#[test]
fn without_command_eval_only_scripts_of_the_repository_run() {
    let off = "--command-eval=false";
    let command = Job::new("echo hello").argument(off).run();
    assert_eq!(command.result(), (1, ""));
    command.assert_lines(&["# No such file: \"echo hello\"", "this agent is not allowed to evaluate console commands; to allow this"]);

    let outside = Job::new("../../../../outside.sh").argument(off);
    fs::write(outside.path("outside.sh"), "echo never\n").unwrap();
    let ended = outside.run();
    assert_eq!(ended.result(), (1, ""));
    ended.assert_lines(&["this agent is only allowed to run scripts within your repository; to allow this"]);

    // W27: a link that leads out is outside.
    let link = Job::new("link.sh").argument(off).repository_file("other", "");
    fs::write(link.path("outside.sh"), "#!/bin/sh\necho never\n").unwrap();
    fs::set_permissions(link.path("outside.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    std::os::unix::fs::symlink(link.path("outside.sh"), link.checkout().join("link.sh")).unwrap();
    assert_eq!(link.run().result(), (1, ""));

    let script = Job::new("test.sh").argument(off).repository_file("test.sh", "#!/bin/sh\necho script\n");
    assert_eq!(script.run().code(), 126, "the mode is left alone");
    fs::set_permissions(script.checkout().join("test.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(script.run().result(), (0, "script\n"));
}

#[test]
fn what_this_version_cannot_do_is_refused_in_words() {
    let plugins = Job::new("echo never").set("BUILDKITE_PLUGINS", "[\"github.com/a/b-buildkite-plugin#v1\"]").run();
    assert_eq!(plugins.result(), (1, ""));
    plugins.assert_lines(&["~~~ Preparing plugins\n", "this version of the agent cannot run plugins yet"]);

    let git = Job::new("echo never").set("BUILDKITE_SKIP_CHECKOUT", "false").run();
    assert_eq!(git.result(), (1, ""));
    git.assert_lines(&["this version of the agent cannot check out git repositories yet", "BUILDKITE_SKIP_CHECKOUT=true"]);

    let secrets = Job::new("echo never").set("BUILDKITE_SECRETS_CONFIG", "[{\"key\":\"a\"}]").run();
    assert_eq!(secrets.result(), (125, ""));
    secrets.assert_lines(&["Error setting up job executor: failed to fetch secrets for job: this version"]);
}

#[test]
fn a_checkout_hook_of_the_agent_stands_in_for_git_and_a_directory_that_was_named_is_used_as_it_is() {
    let job = Job::new("cat file").set("BUILDKITE_SKIP_CHECKOUT", "false").agent_hook("checkout", "echo sources > file\n");
    let ended = job.run();
    assert_eq!(ended.result(), (0, "sources\n"), "{}", ended.err);

    let named = Job::new("pwd").set("BUILDKITE_SKIP_CHECKOUT", "false");
    let path = named.path("named").to_str().unwrap().to_owned();
    let ended = named.set("BUILDKITE_BUILD_CHECKOUT_PATH", &path).run();
    assert_eq!(ended.result(), (0, format!("{path}\n").as_str()));
    ended.assert_lines(&["Warning: This version of the agent cannot check out git repositories yet"]);
}

#[test]
fn start_errors_exit_1_before_anything_happens() {
    let job = || Job::new("true").agent_hook("pre-exit", "echo pre-exit\n");
    let missing = job().argument("--job=").run();
    assert_eq!(missing.result(), (1, ""));
    assert_eq!(missing.err, "Missing job. See: `buildkite-agent bootstrap --help`\n");
    assert_eq!(job().argument("--nope").run().result(), (1, ""));
    // Set-up has begun: pre-exit runs, and the status says that the command never ran.
    let nowhere = job().set("BUILDKITE_BUILD_PATH", "").run();
    assert_eq!(nowhere.result(), (125, "pre-exit\n"));
    nowhere.assert_lines(&["must set either a BUILDKITE_BUILD_PATH or a BUILDKITE_BUILD_CHECKOUT_PATH"]);
}
