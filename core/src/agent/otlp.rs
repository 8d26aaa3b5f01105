//! Metrics over OTLP: which protocol, and what is told of a job (specification: start-and-worker §7.2). The driver exports.

use crate::api::JobEnv;
use serde::{Deserialize, Serialize};

/// How metrics travel to the collector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum OtlpProtocol {
    /// gRPC, the default.
    Grpc,
    /// Protobuf over HTTP.
    Http,
}

impl OtlpProtocol {
    /// The protocol that the environment asks for: `metrics` is `OTEL_EXPORTER_OTLP_METRICS_PROTOCOL`, `general` is
    /// `OTEL_EXPORTER_OTLP_PROTOCOL`; an empty variable counts as absent, as everywhere in OpenTelemetry.
    ///
    /// # Errors
    /// The text with which the first worker that connects fails.
    pub fn choose(metrics: Option<&str>, general: Option<&str>) -> Result<OtlpProtocol, String> {
        let set = |value: Option<&'_ str>| value.filter(|v| !v.is_empty()).map(str::to_owned);
        match set(metrics).or_else(|| set(general)).as_deref() {
            None | Some("grpc") => Ok(OtlpProtocol::Grpc),
            Some("http/protobuf" | "http") => Ok(OtlpProtocol::Http),
            Some(other) => Err(format!("unsupported OTLP protocol \"{other}\"")),
        }
    }
}

/// Attributes of a data point: names and values, sanitised, in the order of the specification.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub struct MetricAttributes(pub Vec<(String, String)>);

impl MetricAttributes {
    /// What is told of a job: whose it is, and where it ran.
    pub fn of_job(agent_name: &str, env: &JobEnv) -> MetricAttributes {
        let mut all = MetricAttributes::default().with("agent_name", agent_name);
        for (name, variable) in [
            ("pipeline", "BUILDKITE_PIPELINE_SLUG"),
            ("org", "BUILDKITE_ORGANIZATION_SLUG"),
            ("branch", "BUILDKITE_BRANCH"),
            ("source", "BUILDKITE_SOURCE"),
            ("queue", "BUILDKITE_AGENT_META_DATA_QUEUE"),
        ] {
            all = all.with(name, env.get(variable).unwrap_or_default());
        }
        all
    }

    /// One more; nothing happens if the name or the value is empty.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> MetricAttributes {
        if !name.is_empty() && !value.is_empty() {
            self.0.push((sanitised(name), sanitised(value)));
        }
        self
    }
}

/// Every run of characters outside `[._a-zA-Z0-9]` becomes one `_`.
fn sanitised(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut in_run = false;
    for c in text.chars() {
        let kept = c.is_ascii_alphanumeric() || matches!(c, '.' | '_');
        if kept {
            out.push(c);
        } else if !in_run {
            out.push('_');
        }
        in_run = !kept;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_for_metrics_beats_the_general_one_and_grpc_is_the_default() {
        for (metrics, general, expected) in [
            (None, None, Ok(OtlpProtocol::Grpc)),
            (Some(""), Some(""), Ok(OtlpProtocol::Grpc)),
            (None, Some("http"), Ok(OtlpProtocol::Http)),
            (Some(""), Some("http/protobuf"), Ok(OtlpProtocol::Http)),
            (Some("grpc"), Some("http"), Ok(OtlpProtocol::Grpc)),
            (Some("http/protobuf"), Some("nonsense"), Ok(OtlpProtocol::Http)),
            (Some("http/json"), Some("grpc"), Err("unsupported OTLP protocol \"http/json\"")),
            (None, Some("GRPC"), Err("unsupported OTLP protocol \"GRPC\"")),
        ] {
            assert_eq!(OtlpProtocol::choose(metrics, general), expected.map_err(str::to_owned), "{metrics:?} {general:?}");
        }
    }

    #[test]
    fn every_run_of_other_characters_becomes_one_underscore() {
        for (from, to) in [
            ("main", "main"),
            ("feature/new  thing", "feature_new_thing"),
            ("v1.2_rc", "v1.2_rc"),
            ("-1", "_1"),
            ("a_-_b", "a___b"),
            ("über", "_ber"),
            ("日本", "_"),
            ("end\n", "end_"),
            ("", ""),
        ] {
            assert_eq!(sanitised(from), to, "{from:?}");
        }
    }

    #[test]
    fn a_job_is_told_by_its_six_attributes_and_empty_ones_are_dropped() {
        let env = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<JobEnv>();
        let texts = |a: MetricAttributes| a.0.iter().map(|(n, v)| format!("{n}={v}")).collect::<Vec<_>>().join(" ");
        let full = env(&[
            ("BUILDKITE_PIPELINE_SLUG", "my-app"),
            ("BUILDKITE_ORGANIZATION_SLUG", "acme"),
            ("BUILDKITE_BRANCH", "fix/#7"),
            ("BUILDKITE_SOURCE", "webhook"),
            ("BUILDKITE_AGENT_META_DATA_QUEUE", "linux.large"),
            ("BUILDKITE_MESSAGE", "not told"),
        ]);
        let all = MetricAttributes::of_job("box 1", &full).with("exit_code", "-1");
        assert_eq!(texts(all), "agent_name=box_1 pipeline=my_app org=acme branch=fix_7 source=webhook queue=linux.large exit_code=_1");
        let few = MetricAttributes::of_job("", &env(&[("BUILDKITE_BRANCH", ""), ("BUILDKITE_SOURCE", "ui")])).with("", "x");
        assert_eq!(texts(few), "source=ui");
    }
}
