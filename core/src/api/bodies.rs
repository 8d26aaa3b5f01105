//! The bodies of decoded answers (agent-api §6.1, §7.1, §9.1): unknown keys ignored, `null` counts as absent, the last of
//! two equal keys wins, and a field that nobody reads cannot spoil an answer.

use super::mend::mended;
use super::types::*;
use crate::secret::Secret;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Why a body is not what the endpoint promises.
#[derive(Debug, thiserror::Error)]
pub(super) enum BodyError {
    /// Not JSON, truncated, empty, or not an object.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    /// A field of the wrong type.
    #[error("{field}: {error}")]
    Field {
        /// Key.
        field: &'static str,
        /// What is wrong with its value.
        error: serde_json::Error,
    },
}

pub(super) fn registered(body: &[u8]) -> Result<Registered, BodyError> {
    let f = Fields::parse(body)?;
    let interval = |name, default| -> Result<Duration, BodyError> {
        let seconds: i64 = f.get(name)?;
        Ok(Duration::from_secs(u64::try_from(seconds).ok().filter(|s| *s > 0).unwrap_or(default)))
    };
    Ok(Registered {
        id: f.text("id")?,
        name: f.text("name")?,
        access_token: f.get("access_token")?,
        endpoint: f.get("endpoint")?,
        request_headers: f.request_headers()?,
        ping_interval: interval("ping_interval", 10)?,
        job_status_interval: interval("job_status_interval", 1)?,
        heartbeat_interval: interval("heartbeat_interval", 60)?,
        meta_data: f.get("meta_data")?,
        tracing: f.get::<Option<Tracing>>("tracing")?.map(Tracing::policy),
    })
}

pub(super) fn ping(body: &[u8]) -> Result<PingReply, BodyError> {
    let f = Fields::parse(body)?;
    let job: Option<Offer> = f.get("job")?;
    Ok(PingReply {
        action: f.get("action")?,
        message: f.get("message")?,
        // A job without an id is never offered (start-and-worker I35).
        job: job.and_then(|j| j.id).filter(|id| !id.is_empty()).map(Arc::from),
        endpoint: f.get("endpoint")?,
        request_headers: f.request_headers()?,
    })
}

pub(super) fn job(body: &[u8]) -> Result<AcceptedJob, BodyError> {
    let f = Fields::parse(body)?;
    let positive = |name| -> Result<u64, BodyError> { Ok(u64::try_from(f.get::<i64>(name)?).unwrap_or(0)) };
    Ok(AcceptedJob {
        id: f.text("id")?,
        env: f.map("env")?.into_iter().collect(),
        step: f.0.get("step").map(|raw| step(raw)).transpose()?.unwrap_or_default(),
        matrix_permutation: f.map("matrix_permutation")?,
        token: f.get("token")?,
        chunks_max_size_bytes: positive("chunks_max_size_bytes")?,
        chunks_interval_seconds: positive("chunks_interval_seconds")?,
        log_max_size_bytes: positive("log_max_size_bytes")?,
        runnable_at: f.get("runnable_at")?,
        traceparent: f.get("traceparent")?,
        tracestate: f.get("tracestate")?,
        priority: f.get("priority")?,
    })
}

pub(super) fn state(body: &[u8]) -> Result<String, BodyError> {
    Fields::parse(body)?.get("state")
}

pub(super) fn object(body: &[u8]) -> Result<(), BodyError> {
    Fields::parse(body).map(|_| ())
}

/// The first JSON value of the body as text; what follows it is ignored.
pub(super) fn first_value(body: &[u8]) -> Result<String, BodyError> {
    let value: Box<RawValue> = Deserialize::deserialize(&mut serde_json::Deserializer::from_str(&mended(body)))?;
    Ok(value.get().to_owned())
}

/// The members of the body's first value, each as it came.
struct Fields(BTreeMap<String, Box<RawValue>>);

impl Fields {
    fn parse(body: &[u8]) -> Result<Fields, BodyError> {
        Ok(Fields(BTreeMap::deserialize(&mut serde_json::Deserializer::from_str(&mended(body)))?))
    }

    /// The member `name`; the type's default where it is absent or null.
    fn get<T: DeserializeOwned + Default>(&self, name: &'static str) -> Result<T, BodyError> {
        let Some(raw) = self.0.get(name) else { return Ok(T::default()) };
        serde_json::from_str::<Option<T>>(raw.get()).map(Option::unwrap_or_default).map_err(|error| BodyError::Field { field: name, error })
    }

    fn text(&self, name: &'static str) -> Result<Arc<str>, BodyError> {
        self.get::<String>(name).map(Arc::from)
    }

    fn map(&self, name: &'static str) -> Result<BTreeMap<String, String>, BodyError> {
        let map: BTreeMap<String, Option<String>> = self.get(name)?;
        Ok(map.into_iter().map(|(k, v)| (k, v.unwrap_or_default())).collect())
    }

    /// Only names that start, case-sensitively, with `Buildkite-` are kept; `null` leaves the set unchanged (agent-api §2.4).
    fn request_headers(&self) -> Result<Option<Vec<(String, String)>>, BodyError> {
        let set: Option<indexmap::IndexMap<String, Option<String>>> = self.get("request_headers")?;
        Ok(set.map(|set| set.into_iter().filter(|(name, _)| name.starts_with("Buildkite-")).map(|(n, v)| (n, v.unwrap_or_default())).collect()))
    }
}

#[derive(Deserialize)]
struct Offer {
    id: Option<String>,
}

#[derive(Deserialize, Default)]
struct Tracing {
    backend: Option<String>,
    exporter: Option<Exporter>,
}

#[derive(Deserialize)]
struct Exporter {
    endpoint: Option<Secret>,
    protocol: Option<String>,
    headers: Option<BTreeMap<String, Option<Secret>>>,
}

impl Tracing {
    fn policy(self) -> TracingPolicy {
        let exporter = self.exporter.map(|e| TracingExporter {
            endpoint: e.endpoint.unwrap_or_default(),
            protocol: e.protocol.unwrap_or_default(),
            headers: e.headers.unwrap_or_default().into_iter().map(|(k, v)| (k, v.unwrap_or_default())).collect(),
        });
        TracingPolicy { backend: self.backend.unwrap_or_default(), exporter }
    }
}

/// What the runner reads of the step. The step is data of the user's pipeline: only its being an object is insisted on, an
/// odd member reads as absent, and verification judges the raw text.
fn step(raw: &RawValue) -> Result<Step, BodyError> {
    let value: Value = serde_json::from_str(raw.get())?;
    let Value::Object(step) = &value else {
        if value.is_null() {
            return Ok(Step::default());
        }
        return Err(BodyError::Field { field: "step", error: serde::de::Error::custom("invalid type, expected an object") });
    };
    let (cache_paths, cache_enabled) = match step.get("cache") {
        Some(Value::Object(cache)) => {
            let enabled = cache.get("disabled").and_then(Value::as_bool) != Some(true);
            (cache.get("paths").map(paths).unwrap_or_default(), enabled)
        }
        Some(Value::Bool(enabled)) => (Vec::new(), *enabled),
        None | Some(Value::Null) => (Vec::new(), false),
        Some(other) => (paths(other), true),
    };
    let secrets_config = match step.get("secrets") {
        Some(Value::Array(secrets)) if !secrets.is_empty() => Value::Array(secrets.clone()).to_string(),
        _ => String::new(),
    };
    let signature = step.get("signature").and_then(|s| s.get("value")).and_then(Value::as_str).filter(|v| !v.is_empty());
    Ok(Step { cache_paths, cache_enabled, secrets_config, signature: signature.map(str::to_owned), raw: Some(raw.get().into()) })
}

fn paths(value: &Value) -> Vec<String> {
    let text = |v: &Value| match v {
        Value::String(s) => Some(s.clone()),
        Value::Number(n) => Some(n.to_string()),
        _ => None,
    };
    match value {
        Value::Array(list) => list.iter().filter_map(text).collect(),
        other => text(other).into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_and_non_positive_intervals_are_replaced() {
        let r = registered(br#"{"id":"i","name":"n","access_token":"t","ping_interval":0,"heartbeat_interval":-4,"extra":[1]}"#).unwrap();
        let s = Duration::from_secs;
        assert_eq!((r.ping_interval, r.job_status_interval, r.heartbeat_interval), (s(10), s(1), s(60)));
        assert_eq!((&*r.id, &*r.name, r.access_token.expose()), ("i", "n", "t"));
        assert_eq!(r.request_headers, None);
        let r = registered(br#"{"ping_interval":2,"job_status_interval":5,"heartbeat_interval":60}"#).unwrap();
        assert_eq!((r.ping_interval, r.job_status_interval), (s(2), s(5)));
    }

    #[test]
    fn only_headers_of_the_control_plane_are_kept() {
        let headers = |body: &str| ping(body.as_bytes()).unwrap().request_headers;
        assert_eq!(
            headers(r#"{"request_headers":{"Buildkite-B":"1","X-A":"2","buildkite-c":"3","Buildkite-A":null}}"#).unwrap(),
            [("Buildkite-B".to_owned(), "1".to_owned()), ("Buildkite-A".to_owned(), String::new())]
        );
        assert_eq!(headers(r#"{"request_headers":{}}"#), Some(vec![]));
        assert_eq!(headers(r#"{"request_headers":null}"#), None);
    }

    #[test]
    fn a_ping_offers_a_job_by_its_id_only() {
        let job = |body: &str| ping(body.as_bytes()).unwrap().job;
        assert_eq!(job(r#"{"job":{"id":"j","state":7}}"#).as_deref(), Some("j"));
        for body in [r#"{"job":{"id":""}}"#, r#"{"job":{}}"#, r#"{"job":null}"#, "{}"] {
            assert_eq!(job(body), None, "{body}");
        }
    }

    #[test]
    fn a_job_tolerates_odd_values_in_fields_that_nobody_reads() {
        let body = br#"{"id":"j","endpoint":7,"state":[],"exit_status":{},"started_at":false,"env":{"A":"1","B":null},"token":null,
            "chunks_max_size_bytes":-1,"chunks_interval_seconds":2,"priority":-3,"id":"k","runnable_at":null,"step":{}}"#;
        let job = job(body).unwrap();
        assert_eq!(&*job.id, "k");
        assert_eq!((job.env.get("A"), job.env.get("B")), (Some("1"), Some("")));
        assert!(job.token.is_empty());
        assert_eq!((job.chunks_max_size_bytes, job.chunks_interval_seconds, job.priority), (0, 2, -3));
        assert!(super::job(br#"{"id":"j","env":[]}"#).is_err());
        assert!(super::job(br#"{"id":"j","step":"x"}"#).is_err());
    }

    #[test]
    fn the_step_is_kept_as_it_came_and_read_for_the_runner() {
        let raw = r#"{"command":"x", "n":1.0e3,"cache":{"paths":["p","q"]},"secrets":[{"key":"K","environment_variable":"E"}],"signature":{"value":"sig"}}"#;
        let step = job(format!(r#"{{"id":"j","step":{raw}}}"#).as_bytes()).unwrap().step;
        assert_eq!(step.raw.as_deref(), Some(raw));
        assert_eq!(step.cache_paths, ["p", "q"]);
        assert!(step.cache_enabled);
        assert_eq!(step.secrets_config, r#"[{"key":"K","environment_variable":"E"}]"#);
        assert_eq!(step.signature.as_deref(), Some("sig"));
        let cache = |json: &str| {
            let s = job(format!(r#"{{"step":{{"cache":{json}}}}}"#).as_bytes()).unwrap().step;
            (s.cache_paths, s.cache_enabled)
        };
        assert_eq!(cache(r#"{"disabled":true,"paths":["p"]}"#), (vec!["p".to_owned()], false));
        assert_eq!(cache(r#""p""#), (vec!["p".to_owned()], true));
        assert_eq!(cache(r#"["p",1]"#), (vec!["p".to_owned(), "1".to_owned()], true));
        assert_eq!(cache("false"), (vec![], false));
        assert_eq!(cache("null"), (vec![], false));
    }
}
