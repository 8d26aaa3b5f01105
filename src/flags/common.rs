//! Flags that several commands share (commands §3).

use super::Kind::{Bool, List, Text};
use super::{Flag, flag};

/// Of every command.
pub(crate) static GLOBAL: &[Flag] = &[
    flag("no-color", Bool, &["BUILDKITE_AGENT_NO_COLOR"], "Don't show colors in logging"),
    flag("debug", Bool, &["BUILDKITE_AGENT_DEBUG"], "Enable debug mode. Synonym for --log-level debug, which it takes precedence over"),
    flag("log-level", Text, &["BUILDKITE_AGENT_LOG_LEVEL"], "Least severe level that is logged: debug, notice, info, warn, error, fatal")
        .or("notice"),
    flag("experiment", List, &["BUILDKITE_AGENT_EXPERIMENT"], "Enable experimental features").commas(),
    flag("profile", Text, &["BUILDKITE_AGENT_PROFILE"], "Profiling mode; accepted for compatibility, this agent has no profiler built in"),
];

const TOKEN: Flag = flag("agent-access-token", Text, &["BUILDKITE_AGENT_ACCESS_TOKEN"], "The access token used to identify the agent");
const ENDPOINT: Flag = flag("endpoint", Text, &["BUILDKITE_AGENT_ENDPOINT"], "The Agent API endpoint").or(DEFAULT_ENDPOINT).required();
const NO_HTTP2: Flag = flag("no-http2", Bool, &["BUILDKITE_NO_HTTP2"], "Use HTTP/1.1 only");
const DEBUG_HTTP: Flag = flag("debug-http", Bool, &["BUILDKITE_AGENT_DEBUG_HTTP"], "Dump HTTP requests and responses at debug level");
const TRACE_HTTP: Flag = flag("trace-http", Bool, &["BUILDKITE_AGENT_TRACE_HTTP"], "Log timings of HTTP requests");

/// Of every command that talks to the control plane.
pub(crate) static API: &[Flag] = &[TOKEN.required(), ENDPOINT, NO_HTTP2, DEBUG_HTTP, TRACE_HTTP];

/// Of commands that need a token only when they send something.
pub(crate) static API_OPTIONAL_TOKEN: &[Flag] = &[TOKEN, ENDPOINT, NO_HTTP2, DEBUG_HTTP, TRACE_HTTP];

/// Of commands whose answers are credentials, which must not be dumped.
pub(crate) static API_WITHOUT_DUMPS: &[Flag] = &[TOKEN.required(), ENDPOINT, NO_HTTP2];

/// Base endpoint when none is given (agent-api §2.1).
pub(crate) const DEFAULT_ENDPOINT: &str = "https://agent-edge.buildkite.com/v3";

/// Patterns of variable names whose values are secrets.
pub(crate) const DEFAULT_REDACTED: &str =
    "*_PASSWORD,*_SECRET,*_TOKEN,*_PRIVATE_KEY,*_SSH_KEY,*_ACCESS_KEY,*_SECRET_KEY,*_CONNECTION_STRING,*_API_KEY";

/// Of commands that send text which may contain secrets.
pub(crate) static REDACTION: &[Flag] = &[flag(
    "redacted-vars",
    List,
    &["BUILDKITE_REDACTED_VARS"],
    "Glob patterns of names of environment variables whose values are removed from what is sent",
)
.or(DEFAULT_REDACTED)
.commas()];

/// The job that a command speaks of.
pub(crate) static JOB: &[Flag] = &[flag("job", Text, &["BUILDKITE_JOB_ID"], "Which job to use").required()];
