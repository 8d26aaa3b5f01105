//! Every bound of the product, by name, with what happens at it.

use std::time::Duration;

/// Whole limit of one Agent API exchange, connect to last body byte (agent-api §2.6). At it: a retryable time-out.
pub const EXCHANGE: Duration = Duration::from_secs(60);
/// Log bytes buffered plus unsettled per job (job-runner §6.8). At it: the output of the process is not read.
pub const LOG_BUFFER_BYTES: u64 = 64 * 1024 * 1024;
/// Fraction of [`LOG_BUFFER_BYTES`] below which reading resumes, in quarters.
pub const LOG_RESUME_QUARTERS: u64 = 3;
/// Bytes buffered plus unsettled beyond which reading pauses while uploads are fast (at least 8 × M, at most the limit above): more
/// memory would not make the job faster.
pub const LOG_PACED_BYTES: u64 = 8 * 1024 * 1024;
/// How long such a pause may last. At it: uploads count as slow, and the job may fill the whole buffer.
pub const LOG_PACE_PATIENCE: Duration = Duration::from_secs(1);
/// Bytes buffered plus unsettled that make a burst. When all but one chunk of it is settled, memory is given back.
pub const LOG_BURST_BYTES: u64 = 4 * 1024 * 1024;
/// Buffered bytes (at least M) at which full chunks are cut without waiting for the interval.
pub const LOG_CUT_EARLY_BYTES: u64 = 1024 * 1024;
/// Bytes of a line start held until it is known whether the line is a header (line timestamps). At it: the line is plain.
pub const LINE_START_BYTES: usize = 4096;
/// Bytes that a redactor withholds (at least twice the longest needle). At it: the needle that began first counts as not matching.
pub const REDACTION_HELD_BYTES: usize = 1024 * 1024;
/// Chunk uploads of one job in flight (job-runner §6.11).
pub const CHUNKS_IN_FLIGHT: usize = 3;
/// Chunk size used when the job names none (job-runner §1).
pub const CHUNK_BYTES_DEFAULT: u64 = 102_400;
/// Largest chunk size that is believed. Beyond it: this one is used, as smaller chunks are always allowed.
pub const CHUNK_BYTES_MAX: u64 = 1 << 30;
/// Log size after which one warning is logged, when the job names none.
pub const LOG_SIZE_WARNING_BYTES: u64 = 1 << 30;
/// Bytes inside one escape sequence after which the parser counts it as ended (job-runner §6.4).
pub const ESCAPE_SEQUENCE_BYTES: usize = 64 * 1024;
/// Header times waiting for upload (header-times). Beyond it: dropped with one warning.
pub const HEADER_TIMES_WAITING: usize = 10_000;
/// Total time of one chunk's attempts, of a flush, and of a job's finish (job-runner §1).
pub const UPLOAD_TOTAL: Duration = Duration::from_secs(3600);
/// Reading after the leader's exit, PTY (job-runner §5.8).
pub const PTY_DRAIN: Duration = Duration::from_secs(10);
/// Job ids that the debouncer queues (start-and-worker §9.8). At it: the newest is dropped with a warning.
pub const QUEUED_JOBS: usize = 64;
/// Accepted job ids a worker remembers. At it: the oldest is forgotten.
pub const REMEMBERED_JOBS: usize = 64;
/// How long a stop waits for a connect or acquire that is in flight (start-and-worker §9.11).
pub const STOP_WAITS_FOR_ANSWER: Duration = Duration::from_secs(5);
/// Client limit of one ping stream (start-and-worker §9.7).
pub const STREAM: Duration = Duration::from_secs(60);
/// Longest window between stream attempts.
pub const STREAM_WINDOW_MAX: Duration = Duration::from_secs(64);
/// Value of `BUILDKITE_MESSAGE` after which it is cut (job-runner §3.3).
pub const MESSAGE_BYTES: usize = 65_536;
/// Bytes of an error body that are quoted (agent-api §3).
pub const ERROR_SNIPPET_BYTES: usize = 512;
/// Nodes of one pipeline stream after expanding aliases. At it: an error with line and column.
pub const YAML_NODES: usize = 1_000_000;
/// Workers of one process. At it: refused at start.
pub const WORKERS: u32 = 10_000;
/// One message of a ping stream. At it: the stream ends with resource_exhausted.
pub const PING_FRAME_BYTES: usize = 4 * 1024 * 1024;

// The embedded control plane (local-control-plane §2.2, §10).

/// Builds of one plane. At it: further builds are refused.
pub const PLANE_BUILDS: usize = 10_000;
/// Jobs of one build, retries included. At it: a document is refused, a retry does not take place.
pub const PLANE_JOBS_PER_BUILD: usize = 4_000;
/// Jobs of one document. At it: the document is refused.
pub const PLANE_JOBS_PER_DOCUMENT: usize = 500;
/// Uploads of one build, rejected ones included. At it: refused.
pub const PLANE_UPLOADS_PER_BUILD: usize = 500;
/// Agents that a plane remembers. At it: those that have left are forgotten; if none has, registration is refused.
pub const PLANE_AGENTS: usize = 10_000;
/// Log bytes kept per job. Beyond it: bytes are passed on live and not kept.
pub const PLANE_LOG_BYTES: u64 = 64 * 1024 * 1024;
/// Chunks per job. At it: refused.
pub const PLANE_CHUNKS: usize = 100_000;
/// Uncompressed bytes of one chunk. Beyond it: refused.
pub const PLANE_CHUNK_BYTES: u64 = 16 * 1024 * 1024;
/// Bytes of a request body. Beyond it: refused by the listener.
pub const PLANE_BODY_BYTES: usize = 16 * 1024 * 1024;
/// Header times per job. Beyond it: ignored.
pub const PLANE_HEADER_TIMES: usize = 100_000;
/// Bytes of a meta-data value. Beyond it: refused.
pub const PLANE_META_DATA_BYTES: usize = 100_000;
/// Meta-data keys of a build. At it: refused.
pub const PLANE_META_DATA_KEYS: usize = 10_000;
/// Annotations of a build. At it: refused.
pub const PLANE_ANNOTATIONS: usize = 1_000;
/// Bytes of an annotation (agent-api §12). Beyond it: refused.
pub const PLANE_ANNOTATION_BYTES: usize = 1024 * 1024;
/// Between an accept and a start call: beyond it the agent has given the job up (R-start lasts less).
pub const PLANE_START: Duration = Duration::from_secs(600);
