//! Whether a job may run: its signature, the allow-lists, the plugin list (job-runner §4). All of it looks at the job env as
//! received, not at the computed one.

use super::{JobConfig, masked_url};
use crate::agent::SignatureVerdict;
use crate::api::AcceptedJob;
use crate::pipeline::full_source;
use regex::Regex;
use serde_json::Value;

/// What a failed verification does (`verification-failure-behavior`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureBehavior {
    /// The job is refused.
    Block,
    /// The job runs.
    Warn,
}

impl FailureBehavior {
    /// Empty means `block`.
    ///
    /// # Errors
    /// Any other word but `block` and `warn`.
    pub fn parse(text: &str) -> Result<FailureBehavior, String> {
        match text {
            "" | "block" => Ok(FailureBehavior::Block),
            "warn" => Ok(FailureBehavior::Warn),
            other => Err(format!("invalid job verification failure behavior: {other:?}")),
        }
    }
}

/// What the verifier has to be asked (job-runner §4.1, first two columns).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SignatureCheck {
    /// Neither keys nor a signature.
    NotRequired,
    /// Keys and a signature: ask the verifier.
    Ask,
    /// Decided without it.
    Failed(SignatureFailure),
}

/// Why a job counts as not verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SignatureFailure {
    /// Signed, but no keys are configured.
    NoKeys,
    /// Keys, but not signed.
    NoSignature,
    /// The signature is not valid, or not of this job.
    Invalid(String),
    /// The verifier broke: refused whatever the behaviour says.
    Broken(String),
}

/// Lines for the job log, and whether the job may run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignatureOutcome {
    /// Each ends in LF.
    pub lines: Vec<String>,
    /// The job runs.
    pub runs: bool,
    /// Error text, for the agent's log; `None` when verified.
    pub error: Option<String>,
}

/// Which check the job needs.
pub fn signature_check(keys: bool, job: &AcceptedJob) -> SignatureCheck {
    match (keys, &job.step.signature) {
        (false, None) => SignatureCheck::NotRequired,
        (false, Some(_)) => SignatureCheck::Failed(SignatureFailure::NoKeys),
        (true, None) => SignatureCheck::Failed(SignatureFailure::NoSignature),
        (true, Some(_)) => SignatureCheck::Ask,
    }
}

/// The verifier's answer.
pub fn signature_verdict(verdict: SignatureVerdict, behavior: FailureBehavior, job: &AcceptedJob) -> SignatureOutcome {
    match verdict {
        SignatureVerdict::Verified => {
            SignatureOutcome { lines: vec!["~~~ ✅ Job signature verified\n".to_owned(), signature_line(job)], runs: true, error: None }
        }
        SignatureVerdict::Invalid(text) => signature_failure(SignatureFailure::Invalid(text), behavior, job),
        SignatureVerdict::Broken(text) => signature_failure(SignatureFailure::Broken(text), behavior, job),
    }
}

/// What a failure writes and means (job-runner §2.5, §4.1).
pub fn signature_failure(failure: SignatureFailure, behavior: FailureBehavior, job: &AcceptedJob) -> SignatureOutcome {
    let (error, detail, warn) = match failure {
        // W8: the reference logs the block wording here also when it only warns.
        SignatureFailure::NoKeys => {
            ("cannot verify signature. JWK for pipeline verification is not configured".to_owned(), None, behavior == FailureBehavior::Warn)
        }
        SignatureFailure::NoSignature => {
            ("job had no signature to verify".to_owned(), Some("no signature in job\n".to_owned()), behavior == FailureBehavior::Warn)
        }
        SignatureFailure::Invalid(text) => {
            let text = text.strip_prefix("invalid signature: ").unwrap_or(&text);
            (format!("invalid signature: {text}"), Some(signature_line(job)), behavior == FailureBehavior::Warn)
        }
        SignatureFailure::Broken(text) => (text, None, false),
    };
    let sign = if warn { "\u{26a0}\u{fe0f}" } else { "\u{26d4}" };
    let mut lines = vec![format!("+++ {sign} Job signature verification failed\n"), format!("error: {error}\n")];
    lines.extend(detail);
    if warn {
        lines.push("Job will be run without verification\n".to_owned());
    }
    SignatureOutcome { lines, runs: warn, error: Some(error) }
}

fn signature_line(job: &AcceptedJob) -> String {
    format!("signature: {}\n", job.step.signature.as_deref().unwrap_or_default())
}

/// Two lines if the step asks for caches that a self-hosted agent does not provide (job-runner §4.2).
pub fn cache_notice(job: &AcceptedJob) -> Option<[String; 2]> {
    let step = &job.step;
    let applies = step.cache_enabled && !step.cache_paths.is_empty() && job.env.get("BUILDKITE_COMPUTE_TYPE") == Some("self-hosted");
    applies.then(|| ["+++ ⚠️ Cache settings detected on self-hosted agent\n".to_owned(), format!("cache paths: {}\n", step.cache_paths.join(", "))])
}

/// The line about a mirror that was dropped (job-runner §4.4).
pub fn mirror_notice(url: &str) -> String {
    format!("Remote Git mirror is not permitted by --allowed-repositories; using canonical repository: {}\n", masked_url(url))
}

/// Regular expressions searched for in a whole string, unanchored. An empty list allows everything.
#[derive(Clone, Debug)]
pub struct PatternList {
    patterns: Vec<Regex>,
}

impl PatternList {
    /// Compiles the patterns.
    ///
    /// # Errors
    /// A pattern that cannot be compiled: start-up refuses such configurations, and a job is refused rather than let through.
    pub fn new<S: AsRef<str>>(patterns: &[S]) -> Result<PatternList, String> {
        let patterns = patterns.iter().map(|p| Regex::new(p.as_ref())).collect::<Result<Vec<_>, _>>();
        patterns.map(|patterns| PatternList { patterns }).map_err(|e| e.to_string())
    }

    /// Whether some pattern matches somewhere in `subject`.
    pub fn allows(&self, subject: &str) -> bool {
        self.patterns.is_empty() || self.patterns.iter().any(|p| p.is_match(subject))
    }

    fn text(&self) -> String {
        format!("[{}]", self.patterns.iter().map(Regex::as_str).collect::<Vec<_>>().join(" "))
    }

    fn check(&self, what: &str, value: &str) -> Result<(), String> {
        if self.allows(value) { Ok(()) } else { Err(format!("failed to validate {what}: {value} has no match in {}", self.text())) }
    }
}

/// The checks of job-runner §4.3 in the order of its table, variables sorted by name (W9).
///
/// # Errors
/// The refusal, as it is written to the job log and to the agent's log, without LF.
pub fn allow_lists(config: &JobConfig, job: &AcceptedJob) -> Result<(), String> {
    let compile = |what: &str, patterns: &[&str]| PatternList::new(patterns).map_err(|e| format!("failed to validate {what}: {e}"));
    compile("repo", &borrowed(&config.allowed_repositories))?.check("repo", job.env.get("BUILDKITE_REPO").unwrap_or_default())?;

    if let Some(more) = &config.allowed_environment_variables {
        let mut patterns = vec!["^BUILDKITE$", "^BUILDKITE_.*$", "^CI$"];
        patterns.extend(borrowed(more));
        let list = compile("environment variables", &patterns)?;
        for name in job.env.0.keys() {
            list.check("environment variables", name)?;
        }
    }

    let plugins = job.env.get("BUILDKITE_PLUGINS").unwrap_or_default();
    if config.plugins_enabled && !plugins.is_empty() {
        let sources = plugin_sources(plugins).map_err(|e| format!("failed to validate plugins: failed to unmarshal plugins for validation: {e}"))?;
        let list = compile("plugins", &borrowed(&config.allowed_plugins))?;
        for source in sources {
            list.check("plugins", &full_source(&source))?;
        }
    }
    Ok(())
}

fn borrowed(patterns: &[String]) -> Vec<&str> {
    patterns.iter().map(String::as_str).collect()
}

/// Sources of a plugin list: an array of strings or objects (each key one plugin), a bare object, or `null`.
///
/// # Errors
/// Not JSON, or of another shape.
pub fn plugin_sources(json: &str) -> Result<Vec<String>, String> {
    let keys = |object: &serde_json::Map<String, Value>| object.keys().cloned().collect::<Vec<_>>();
    match serde_json::from_str(json).map_err(|e| e.to_string())? {
        Value::Null => Ok(Vec::new()),
        Value::Object(object) => Ok(keys(&object)),
        Value::Array(entries) => {
            let mut sources = Vec::new();
            for entry in &entries {
                match entry {
                    Value::String(source) => sources.push(source.clone()),
                    Value::Object(object) => sources.extend(keys(object)),
                    other => return Err(format!("a plugin must be a string or an object, not {other}")),
                }
            }
            Ok(sources)
        }
        other => Err(format!("plugins must be a list or an object, not {other}")),
    }
}
