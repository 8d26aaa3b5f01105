//! Options of version 3 (start-flags §10): mapped to their successor with one warning that names both, or ignored with one
//! warning. Giving an old option and its successor together is an error that names both.

use crate::flags::{GoDuration, Value, Values};

/// What becomes of an old option.
enum Fate {
    /// Its value is the successor's.
    Renamed(&'static str),
    /// It has a successor that does not take its value; it is ignored. Says what to do.
    Replaced(&'static [&'static str], &'static str),
    /// It is ignored.
    Gone,
}

use Fate::{Gone, Renamed, Replaced};

/// Without the two grace periods and `tracing-backend`, which need arithmetic.
const FATES: &[(&str, Fate)] = &[
    ("tracing-service-name", Renamed("telemetry-service-name")),
    (
        "trace-context-encoding",
        Replaced(&["opentelemetry-tracing"], "with opentelemetry-tracing the trace context of a job is always encoded in the W3C's way"),
    ),
    (
        "tracing-propagate-traceparent",
        Replaced(&["opentelemetry-tracing"], "the trace context of a job is always handed on with opentelemetry-tracing"),
    ),
    ("metrics-datadog", Replaced(&["opentelemetry-metrics"], "statsd metrics are no longer sent; scrape /metrics of health-check-addr")),
    ("metrics-datadog-host", Replaced(&["opentelemetry-metrics"], "statsd metrics are no longer sent; scrape /metrics of health-check-addr")),
    (
        "metrics-datadog-distributions",
        Replaced(&["opentelemetry-metrics"], "statsd metrics are no longer sent; scrape /metrics of health-check-addr"),
    ),
    ("meta-data", Renamed("tags")),
    ("meta-data-ec2", Renamed("tags-from-ec2-meta-data")),
    ("meta-data-ec2-tags", Renamed("tags-from-ec2-tags")),
    ("meta-data-gcp", Renamed("tags-from-gcp-meta-data")),
    ("tags-from-ec2", Renamed("tags-from-ec2-meta-data")),
    ("tags-from-gcp", Renamed("tags-from-gcp-meta-data")),
    ("disconnect-after-job-timeout", Renamed("disconnect-after-idle-timeout")),
    ("no-automatic-ssh-fingerprint-verification", Renamed("no-ssh-keyscan")),
    ("kubernetes-log-collection-grace-period", Gone),
];

/// Applies all old options that were given. Gives the warnings.
pub(crate) fn apply(values: &mut Values) -> Result<Vec<String>, String> {
    let mut warnings = Vec::new();
    for (old, fate) in FATES {
        if !values.given(old) {
            continue;
        }
        match fate {
            Renamed(new) => {
                not_both(values, old, &[new])?;
                let value = values.get(old).clone();
                values.give(new, value, values.source(old));
                warnings.push(format!("The config option `{old}` has been renamed to `{new}`. Please update your configuration."));
            }
            Replaced(new, remedy) => {
                not_both(values, old, new)?;
                warnings.push(format!("The config option `{old}` has been replaced by `{}` and is ignored: {remedy}", new.join("` and `")));
            }
            Gone => warnings.push(format!("The config option `{old}` no longer exists and is ignored. Please remove it from your configuration.")),
        }
    }
    tracing_backend(values, &mut warnings)?;
    grace_periods(values, &mut warnings)?;
    Ok(warnings)
}

fn not_both(values: &Values, old: &str, new: &[&str]) -> Result<(), String> {
    match new.iter().find(|n| values.given(n)) {
        Some(n) => Err(format!("the options `{old}` and `{n}` cannot be used together: `{n}` is the successor of `{old}`, remove `{old}`")),
        None => Ok(()),
    }
}

fn tracing_backend(values: &mut Values, warnings: &mut Vec<String>) -> Result<(), String> {
    const OLD: &str = "tracing-backend";
    const NEW: &str = "opentelemetry-tracing";
    if !values.given(OLD) || values.text(OLD).is_empty() {
        return Ok(());
    }
    not_both(values, OLD, &[NEW])?;
    match values.text(OLD) {
        "opentelemetry" => {
            values.give(NEW, Value::Bool(true), values.source(OLD));
            warnings.push(format!("The config option `{OLD}` has been renamed to `{NEW}`. Please update your configuration."));
        }
        other => {
            warnings.push(format!("The config option `{OLD}` has been replaced by `{NEW}` and is ignored: there is no backend {other:?} any more"))
        }
    }
    Ok(())
}

/// The old grace period was the sum of both new time-outs; the signal's part was given in seconds, or, when negative, as what
/// is left of the whole.
fn grace_periods(values: &mut Values, warnings: &mut Vec<String>) -> Result<(), String> {
    const NEW: [&str; 2] = ["cancel-signal-timeout", "cancel-cleanup-timeout"];
    let olds: Vec<&str> = ["cancel-grace-period", "signal-grace-period-seconds"].into_iter().filter(|o| values.given(o)).collect();
    let Some(first) = olds.first() else { return Ok(()) };
    for old in &olds {
        not_both(values, old, &NEW)?;
    }
    let total = values.int("cancel-grace-period");
    let signal = values.int("signal-grace-period-seconds");
    let signal = if signal < 0 { total.saturating_add(signal).max(0) } else { signal };
    if total < 0 || signal > total {
        return Err(format!(
            "cancel-grace-period ({total}) must not be shorter than signal-grace-period-seconds ({signal}); better use `{}` and `{}`",
            NEW[0], NEW[1]
        ));
    }
    let source = values.source(first);
    let seconds = |n: i64| Value::Duration(GoDuration(n.saturating_mul(1_000_000_000)));
    values.give(NEW[0], seconds(signal), source);
    values.give(NEW[1], seconds(total - signal), source);
    for old in olds {
        warnings.push(format!(
            "The config option `{old}` has been replaced by `{}` and `{}`: {signal}s and {}s are used. Please update your configuration.",
            NEW[0],
            NEW[1],
            total - signal
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::table::FLAGS;
    use super::*;
    use crate::flags::{ConfigFile, Parsed, Values};

    fn values(file: &str) -> Values {
        Values::resolve(FLAGS, &Parsed::default(), &|_| None, Some(&ConfigFile::parse(file).unwrap())).unwrap().values
    }

    #[test]
    fn a_renamed_option_gives_its_value_to_the_successor_with_one_warning_that_names_both() {
        let mut v = values("meta-data=\"queue=x,os=y\"");
        let warnings = apply(&mut v).unwrap();
        assert_eq!(v.list("tags"), ["queue=x", "os=y"]);
        assert_eq!(warnings, ["The config option `meta-data` has been renamed to `tags`. Please update your configuration."]);
    }

    #[test]
    fn an_option_without_successor_is_ignored_with_one_warning() {
        let mut v = values("kubernetes-log-collection-grace-period=5s");
        assert_eq!(apply(&mut v).unwrap().len(), 1);
    }

    #[test]
    fn old_and_new_together_are_an_error_that_names_both() {
        for (file, old, new) in [
            ("meta-data=a=1\ntags=b=1", "meta-data", "tags"),
            ("cancel-grace-period=30\ncancel-signal-timeout=10s", "cancel-grace-period", "cancel-signal-timeout"),
            ("tracing-backend=opentelemetry\nopentelemetry-tracing=false", "tracing-backend", "opentelemetry-tracing"),
            ("meta-data-ec2=true\ntags-from-ec2=true", "tags-from-ec2", "tags-from-ec2-meta-data"),
        ] {
            let error = apply(&mut values(file)).unwrap_err();
            assert!(error.contains(&format!("`{old}`")) && error.contains(&format!("`{new}`")), "{error}");
        }
    }

    #[test]
    fn the_old_grace_period_is_the_sum_of_the_new_time_outs() {
        for (file, signal, cleanup) in [
            ("cancel-grace-period=30", 29, 1),
            ("cancel-grace-period=30\nsignal-grace-period-seconds=20", 20, 10),
            ("signal-grace-period-seconds=4", 4, 6),
            ("signal-grace-period-seconds=-3", 7, 3),
            ("cancel-grace-period=0", 0, 0),
        ] {
            let mut v = values(file);
            apply(&mut v).unwrap();
            assert_eq!(v.duration("cancel-signal-timeout").0, signal * 1_000_000_000, "{file}");
            assert_eq!(v.duration("cancel-cleanup-timeout").0, cleanup * 1_000_000_000, "{file}");
        }
        assert!(apply(&mut values("cancel-grace-period=5\nsignal-grace-period-seconds=6")).is_err());
    }

    #[test]
    fn options_that_nobody_gave_say_nothing() {
        assert_eq!(apply(&mut values("")).unwrap(), Vec::<String>::new());
    }
}
