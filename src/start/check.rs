//! The checks of the options, in the order of start-flags §3; the first that fails ends the start. Checks that need no network
//! come before anything that does.

use super::removed;
use crate::cli::Failure;
use crate::flags::{Source, Values, os_text};
use crate::log::Logger;
use ibex_core::agent::{OsSignal, PingMode, Priority};
use ibex_core::job::OverrideMode;
use std::time::Duration;

/// What the checks found out on their way.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Checked {
    pub(crate) ping_mode: PingMode,
    pub(crate) priority: Priority,
    pub(crate) override_mode: OverrideMode,
    pub(crate) cancel_signal: OsSignal,
    pub(crate) cancel_signal_timeout: Duration,
    pub(crate) cancel_cleanup_timeout: Duration,
    pub(crate) spawn: u32,
    pub(crate) plugins_enabled: bool,
    pub(crate) watchdog: Option<Duration>,
}

/// Row 1, for values of the command line and the environment; a usage error.
pub(crate) fn usage(values: &Values) -> Result<(), String> {
    match values.source("git-commit-verification") {
        Source::CommandLine | Source::Environment => commit_verification(values),
        Source::File | Source::Default => Ok(()),
    }
}

fn commit_verification(values: &Values) -> Result<(), String> {
    match values.text("git-commit-verification") {
        "strict" | "off" => Ok(()),
        v => Err(format!("invalid value for --git-commit-verification: {v:?} (must be \"strict\" or \"off\")")),
    }
}

/// Options of version 3; gives the warnings.
pub(crate) fn removed_options(values: &mut Values) -> Result<Vec<String>, Failure> {
    removed::apply(values).map_err(Failure::Fatal)
}

/// Rows 5–17, 21–23 and 25.
pub(crate) fn options(values: &Values, env: &dyn Fn(&str) -> Option<String>, cpus: u32, log: &Logger) -> Result<Checked, Failure> {
    let fatal = Failure::Fatal;
    one_of(values.text("git-mirror-checkout-mode"), &["dissociate", "reference"])
        .map_err(|v| fatal(format!("invalid git mirror checkout mode {v:?}, must be one of [dissociate reference]")))?;
    one_of(values.text("git-sparse-checkout-mode"), &["cone", "no-cone", ""])
        .map_err(|v| fatal(format!("invalid sparse checkout mode {v:?}, must be one of [cone no-cone]")))?;
    let ping_mode = match values.text("ping-mode") {
        "auto" => PingMode::Auto,
        "poll-only" | "ping-only" => PingMode::PollOnly,
        "stream-only" => PingMode::StreamOnly,
        v => return Err(fatal(format!("invalid ping mode {v:?}, must be one of [auto poll-only ping-only stream-only]"))),
    };
    let priority = match values.text("spawn-with-priority") {
        "static" => Priority::Static(values.text("priority").to_owned()),
        "ascending" => Priority::Ascending,
        "descending" => Priority::Descending,
        _ => return Err(fatal("invalid spawn-with-priority, must be one of [static ascending descending]".into())),
    };
    if !values.text("verification-jwks-file").is_empty() {
        one_of(values.text("verification-failure-behavior"), &["block", "warn"])
            .map_err(|v| fatal(format!("invalid job verification no signature behavior {v:?}. Must be one of: [block warn]")))?;
    }
    commit_verification(values).map_err(fatal)?;
    let mut override_mode = match values.text("checkout-override-mode") {
        "strict" => OverrideMode::Strict,
        "from-job" | "" => OverrideMode::FromJob,
        "none" => OverrideMode::None,
        v => return Err(fatal(format!("invalid checkout-override mode {v:?}, must be one of [strict from-job none]"))),
    };
    unavailable(values)?;
    key_set(values.text("verification-jwks-file"), "verification").map_err(|e| log.fatal(format!("Verification JWKS failed validation: {e}")))?;
    key_set(values.text("signing-jwks-file"), "signing").map_err(|e| log.fatal(format!("Signing JWKS failed validation: {e}")))?;
    if !values.text("verification-jwks-file").is_empty() {
        return Err(fatal(
            "verification-jwks-file is not available in this agent: it cannot check signatures of jobs and must not pretend to".into(),
        ));
    }
    patterns(values, log)?;
    let name = values.text("cancel-signal");
    let cancel_signal = OsSignal::parse(name).ok_or_else(|| fatal(format!("failed to parse cancel-signal: unknown signal {name:?}")))?;
    if values.bool("no-command-eval") {
        override_mode = OverrideMode::Strict;
    }
    let spawn = workers(values, cpus)?;
    Ok(Checked {
        ping_mode,
        priority,
        override_mode,
        cancel_signal,
        cancel_signal_timeout: not_negative(values, "cancel-signal-timeout")?,
        cancel_cleanup_timeout: not_negative(values, "cancel-cleanup-timeout")?,
        spawn,
        plugins_enabled: plugins_enabled(values, log),
        watchdog: watchdog(env).map_err(|e| fatal(format!("configure systemd watchdog: {e}")))?,
    })
}

fn one_of<'a>(value: &'a str, allowed: &[&str]) -> Result<(), &'a str> {
    if allowed.contains(&value) { Ok(()) } else { Err(value) }
}

/// What this build does not have. Refused rather than ignored, as somebody relies on it.
fn unavailable(values: &Values) -> Result<(), Failure> {
    let refuse = |text: &str| Err(Failure::Fatal(text.to_owned()));
    if values.list("experiment").iter().any(|e| e == "agent-api") {
        return refuse("couldn't create Agent API server: locks between jobs are not available in this agent; remove agent-api from the experiments");
    }
    if !values.text("signing-aws-kms-key").is_empty() {
        return refuse("couldn't create AWS KMS signer: not available in this agent; use signing-jwks-file and verification-jwks-file");
    }
    if !values.text("signing-gcp-kms-key").is_empty() {
        return refuse("couldn't create GCP KMS signer: not available in this agent; use signing-jwks-file and verification-jwks-file");
    }
    if values.bool("kubernetes-exec") {
        return refuse(
            "kubernetes-exec is not available in this agent: run it on the host or inside the container that runs the jobs, without this option",
        );
    }
    if cfg!(not(feature = "otel")) && values.bool("opentelemetry-metrics") {
        return refuse(
            "opentelemetry-metrics is not available in this agent: it was built without the feature otel; build it with `cargo build --release --features otel`, or use health-check-addr and scrape its /metrics",
        );
    }
    if values.bool("job-logs-otlp") {
        return refuse("job-logs-otlp is not available in this agent: use write-job-logs-to-stdout with log-format=json instead");
    }
    Ok(())
}

/// Rows 13 and 14. An empty path is no key set.
fn key_set(path: &str, kind: &str) -> Result<(), String> {
    if path.is_empty() {
        return Ok(());
    }
    let bytes = std::fs::read(path).map_err(|e| format!("failed to read job {kind} keyset: open {path}: {}", os_text(&e)))?;
    let json: serde_json::Value = serde_json::from_slice(&bytes).map_err(|e| format!("failed to parse job {kind} keyset: {path}: {e}"))?;
    let Some(keys) = json.get("keys").and_then(|k| k.as_array()) else {
        return Err(format!("failed to parse job {kind} keyset: {path}: no list of keys; a key set looks like {{\"keys\":[…]}}"));
    };
    if keys.is_empty() {
        return Err(format!("job {kind} keyset is empty"));
    }
    match keys.iter().position(|k| k.get("alg").and_then(|a| a.as_str()).is_none_or(str::is_empty)) {
        Some(i) => Err(format!(
            "job {kind} keyset contains a key without an algorithm at index {i}. all keys used for signing and verification in the agent must have their `alg` key set"
        )),
        None => Ok(()),
    }
}

/// Rows 15 and 16.
fn patterns(values: &Values, log: &Logger) -> Result<(), Failure> {
    let bad = |option: &str| {
        values
            .list(option)
            .iter()
            .find_map(|r| regex::Regex::new(r).err().map(|e| (r.clone(), e.to_string().lines().last().unwrap_or_default().to_owned())))
    };
    if !values.bool("enable-environment-variable-allowlist") {
        if !values.list("allowed-environment-variables").is_empty() {
            return Err(log.fatal("allowed-environment-variables is set, but enable-environment-variable-allowlist is not set"));
        }
    } else if let Some((r, e)) = bad("allowed-environment-variables") {
        return Err(log.fatal(format!("Regex {r} in allowed-environment-variables failed to compile: {e}")));
    }
    if let Some((r, e)) = bad("allowed-repositories") {
        return Err(log.fatal(format!("Regex {r} is allowed-repositories failed to compile: {e}")));
    }
    if let Some((r, e)) = bad("allowed-plugins") {
        return Err(log.fatal(format!("Regex {r} in allowed-plugins failed to compile: {e}")));
    }
    Ok(())
}

fn not_negative(values: &Values, option: &str) -> Result<Duration, Failure> {
    values.duration(option).positive().ok_or_else(|| Failure::Fatal(format!("invalid {option}: it must not be negative")))
}

/// Rows 21–23.
fn workers(values: &Values, cpus: u32) -> Result<u32, Failure> {
    let fatal = |text: &str| Err(Failure::Fatal(text.to_owned()));
    let (spawn, per_cpu) = (values.int("spawn"), values.int("spawn-per-cpu"));
    if spawn > 1 && per_cpu > 0 {
        return fatal("you can't specify spawn and spawn-per-cpu at the same time");
    }
    let spawn = if per_cpu > 0 { per_cpu.saturating_mul(i64::from(cpus)) } else { spawn };
    if !values.text("acquire-job").is_empty() && spawn != 1 {
        return fatal("you can't spawn multiple agents and acquire a job at the same time");
    }
    if spawn < 1 {
        return fatal(&format!("invalid spawn {spawn}, must be at least 1"));
    }
    match u32::try_from(spawn) {
        Ok(n) if n <= ibex_core::limits::WORKERS => Ok(n),
        _ => fatal(&format!("invalid spawn {spawn}, must be at most {}; start further agents instead", ibex_core::limits::WORKERS)),
    }
}

/// Whether jobs may use plugins (§2.6): forbidding commands or local hooks forbids them too, unless they were allowed expressly.
fn plugins_enabled(values: &Values, log: &Logger) -> bool {
    let restriction = ["no-command-eval", "no-local-hooks"].into_iter().find(|r| values.bool(r));
    match restriction {
        Some(restriction) if values.given("no-plugins") && !values.bool("no-plugins") => {
            log.warn(format!(
                "Plugins have been specifically enabled, despite {restriction} being enabled. Plugins can run any hooks and commands; make sure that only plugins you trust are allowed (see allowed-plugins)."
            ));
            true
        }
        Some(_) => false,
        None => !values.bool("no-plugins"),
    }
}

/// Row 25: the watchdog's interval, if systemd wants to hear from this process (start-and-worker §8).
fn watchdog(env: &dyn Fn(&str) -> Option<String>) -> Result<Option<Duration>, String> {
    let Some(micros) = env("WATCHDOG_USEC").filter(|v| !v.is_empty()) else { return Ok(None) };
    let bad = |name: &str, value: &str| format!("read systemd watchdog configuration: {name} is {value:?}, which is no positive number");
    if let Some(pid) = env("WATCHDOG_PID").filter(|v| !v.is_empty()) {
        let pid: u32 = pid.parse().map_err(|_| bad("WATCHDOG_PID", &pid))?;
        if pid != std::process::id() {
            return Ok(None);
        }
    }
    let interval = match micros.parse::<u64>() {
        Ok(n) if n > 0 => Duration::from_micros(n),
        _ => return Err(bad("WATCHDOG_USEC", &micros)),
    };
    if env("NOTIFY_SOCKET").is_none_or(|s| s.is_empty()) {
        return Err("systemd watchdog is enabled but NOTIFY_SOCKET is not set".into());
    }
    Ok(Some(interval))
}

#[cfg(test)]
mod tests {
    use super::super::table::FLAGS;
    use super::*;
    use crate::flags::{ConfigFile, parse};
    use crate::log::Format;

    fn values(args: &[&str], file: &str) -> Values {
        let args: Vec<String> = args.iter().map(|s| (*s).to_owned()).collect();
        let file = ConfigFile::parse(file).unwrap();
        Values::resolve(FLAGS, &parse(FLAGS, &args).unwrap(), &|_| None, Some(&file)).unwrap().values
    }

    fn checked(args: &[&str], env: &[(&str, &str)]) -> Result<Checked, Failure> {
        let values = values(args, "");
        let log = Logger::new(&values, "start", Format::Text { colors: false });
        options(&values, &|name| env.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()), 4, &log)
    }

    #[test]
    fn every_row_that_is_an_error_has_its_text() {
        for (args, text) in [
            (&["--git-mirror-checkout-mode=x"][..], "invalid git mirror checkout mode \"x\", must be one of [dissociate reference]"),
            (&["--git-sparse-checkout-mode=x"], "invalid sparse checkout mode \"x\", must be one of [cone no-cone]"),
            (&["--ping-mode=x"], "invalid ping mode \"x\", must be one of [auto poll-only ping-only stream-only]"),
            (&["--spawn-with-priority=true"], "invalid spawn-with-priority, must be one of [static ascending descending]"),
            (
                &["--verification-jwks-file=/x", "--verification-failure-behavior=x"],
                "invalid job verification no signature behavior \"x\". Must be one of: [block warn]",
            ),
            (&["--git-commit-verification=x"], "invalid value for --git-commit-verification: \"x\" (must be \"strict\" or \"off\")"),
            (&["--checkout-override-mode=x"], "invalid checkout-override mode \"x\", must be one of [strict from-job none]"),
            (&["--cancel-signal=TERM"], "failed to parse cancel-signal: unknown signal \"TERM\""),
            (&["--spawn=2", "--spawn-per-cpu=1"], "you can't specify spawn and spawn-per-cpu at the same time"),
            (&["--spawn=2", "--acquire-job=j"], "you can't spawn multiple agents and acquire a job at the same time"),
            (&["--spawn=0"], "invalid spawn 0, must be at least 1"),
            (&["--spawn=-1"], "invalid spawn -1, must be at least 1"),
            (&["--cancel-signal-timeout=-1s"], "invalid cancel-signal-timeout: it must not be negative"),
        ] {
            assert_eq!(checked(args, &[]), Err(Failure::Fatal(text.to_owned())), "{args:?}");
        }
    }

    #[test]
    fn the_first_failing_row_wins() {
        let args = ["--spawn=0", "--cancel-signal=x", "--ping-mode=x", "--git-mirror-checkout-mode=x"];
        for n in (1..=args.len()).rev() {
            let expected = ["invalid spawn", "failed to parse cancel-signal", "invalid ping mode", "invalid git mirror"][n - 1];
            match checked(&args[..n], &[]) {
                Err(Failure::Fatal(text)) => assert!(text.starts_with(expected), "{text}"),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn rows_that_are_fatal_lines_say_no_more_than_the_line() {
        for args in [
            &["--allowed-environment-variables=^A"][..],
            &["--allowed-environment-variables=(", "--enable-environment-variable-allowlist"],
            &["--allowed-repositories=("],
            &["--allowed-plugins=("],
            &["--verification-jwks-file=/nowhere/keys"],
            &["--signing-jwks-file=/nowhere/keys"],
        ] {
            assert_eq!(checked(args, &[]), Err(Failure::Silent(1)), "{args:?}");
        }
    }

    #[test]
    fn a_key_set_needs_keys_with_algorithms() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        let check = |text: &str| {
            std::fs::write(&path, text).unwrap();
            key_set(&path.to_string_lossy(), "signing")
        };
        assert_eq!(check("{\"keys\":[{\"alg\":\"EdDSA\"}]}"), Ok(()));
        assert_eq!(check("{\"keys\":[]}"), Err("job signing keyset is empty".into()));
        assert_eq!(
            check("{\"keys\":[{\"alg\":\"EdDSA\"},{\"kid\":\"x\"}]}"),
            Err("job signing keyset contains a key without an algorithm at index 1. all keys used for signing and verification in the agent must have their `alg` key set".into())
        );
        assert!(check("nonsense").unwrap_err().starts_with("failed to parse job signing keyset: "));
        assert!(key_set("/nowhere/keys", "verification").unwrap_err().starts_with("failed to read job verification keyset: "));
    }

    #[test]
    fn a_bad_verification_of_commits_in_the_file_is_found_later_than_on_the_command_line() {
        assert!(usage(&values(&["--git-commit-verification="], "")).is_err());
        assert!(usage(&values(&[], "git-commit-verification=warn")).is_ok());
    }

    #[test]
    fn spawn_per_cpu_multiplies() {
        assert_eq!(checked(&["--spawn-per-cpu=2"], &[]).unwrap().spawn, 8);
        assert_eq!(checked(&["--ping-mode=ping-only"], &[]).unwrap().ping_mode, PingMode::PollOnly);
    }

    #[test]
    fn restrictions_imply_no_plugins_unless_they_were_allowed_expressly() {
        for (args, enabled, mode) in [
            (&[][..], true, OverrideMode::FromJob),
            (&["--no-plugins"], false, OverrideMode::FromJob),
            (&["--no-command-eval"], false, OverrideMode::Strict),
            (&["--no-local-hooks"], false, OverrideMode::FromJob),
            (&["--no-command-eval", "--no-plugins=false"], true, OverrideMode::Strict),
        ] {
            let c = checked(args, &[]).unwrap();
            assert_eq!((c.plugins_enabled, c.override_mode), (enabled, mode), "{args:?}");
        }
    }

    #[test]
    fn the_watchdog_is_on_only_for_this_process_and_needs_a_socket() {
        let pid = std::process::id().to_string();
        let interval = |env: &[(&str, &str)]| checked(&[], env).map(|c| c.watchdog);
        assert_eq!(interval(&[("WATCHDOG_USEC", "2000000"), ("NOTIFY_SOCKET", "/s")]), Ok(Some(Duration::from_secs(2))));
        assert_eq!(interval(&[("WATCHDOG_USEC", "2000000"), ("WATCHDOG_PID", &pid), ("NOTIFY_SOCKET", "/s")]), Ok(Some(Duration::from_secs(2))));
        assert_eq!(interval(&[("WATCHDOG_USEC", "2000000"), ("WATCHDOG_PID", "1")]), Ok(None));
        let fatal = |text: &str| Err(Failure::Fatal(text.to_owned()));
        assert_eq!(
            interval(&[("WATCHDOG_USEC", "1")]),
            fatal("configure systemd watchdog: systemd watchdog is enabled but NOTIFY_SOCKET is not set")
        );
        assert!(
            matches!(interval(&[("WATCHDOG_USEC", "x")]), Err(Failure::Fatal(t)) if t.starts_with("configure systemd watchdog: read systemd watchdog configuration: "))
        );
    }

    #[test]
    fn what_is_not_available_is_refused() {
        let otel = if cfg!(feature = "otel") { None } else { Some("--opentelemetry-metrics") };
        for args in ["--kubernetes-exec", "--experiment=agent-api", "--signing-aws-kms-key=k", "--job-logs-otlp"].into_iter().chain(otel) {
            match checked(&[args], &[]) {
                Err(Failure::Fatal(text)) => assert!(text.contains("not available in this agent"), "{text}"),
                other => panic!("{args}: {other:?}"),
            }
        }
    }
}
