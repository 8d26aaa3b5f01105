//! The control-plane client of in-job commands (specification: commands §8, agent-api §2–4): one request with its retry plan.
//! Attempts, waits and what is retryable are core's; here they are carried out.

use crate::cli::{Failure, Invocation, Leaf};
use crate::flags::Values;
use crate::http_log::HttpLog;
use crate::log::Logger;
use crate::version;
use ibex_core::api::{
    ApiCall, Hop, JsonReply, JsonRequest, Operation, Outcome, REDIRECTS, RawRequest, RawResponse, Reply, Session, TransportError, TransportKind,
    decode, encode, redirect, transport_error,
};
use ibex_core::limits;
use ibex_core::machine::Instant;
use ibex_core::retry::{Attempts, Next, Plan, duration_text};
use ibex_core::rng::Rng;
use ibex_core::secret::Secret;
use ibex_io::driver::Clock;
use ibex_io::tokio::{Http, HttpObserver};
use std::cell::RefCell;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// A client for one command.
pub(crate) struct Client {
    session: Session,
    http: Http,
    user_agent: String,
    rng: RefCell<Rng>,
    http_log: Option<HttpLog>,
    log: Rc<Logger>,
    /// Failed attempts are not told.
    quiet: bool,
}

/// One attempt of several.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attempt {
    /// From 0.
    pub(crate) number: u32,
}

/// Which failures another attempt may cure.
pub(crate) type RetryRule = fn(&Outcome) -> bool;

impl Client {
    /// A client with the flags of `call`.
    pub(crate) fn of(call: &Invocation) -> Result<Client, Failure> {
        Client::new(call.leaf, &call.values)
    }

    fn new(leaf: &'static Leaf, values: &Values) -> Result<Client, Failure> {
        let log = Rc::new(Logger::of_command(values, leaf.path)?);
        let session = Session {
            endpoint: Arc::from(values.text("endpoint")),
            credential: Secret::new(values.text("agent-access-token")),
            headers: Arc::new(request_headers(std::env::vars_os())),
        };
        let http = Http::new(values.bool("no-http2"));
        let rng = RefCell::new(Rng::from_bytes(seed()));
        let http_log = HttpLog::of(values, &log);
        Ok(Client { session, http, user_agent: version::user_agent(), rng, http_log, log, quiet: false })
    }

    /// Without warnings about failed attempts.
    pub(crate) fn quiet(mut self) -> Client {
        self.quiet = true;
        self
    }

    /// The command's log.
    pub(crate) fn log(&self) -> &Logger {
        &self.log
    }

    /// A random (v4) UUID.
    pub(crate) fn uuid(&self) -> String {
        self.rng.borrow_mut().uuid().to_string()
    }

    /// [`Client::send`], waiting for it. For commands that make one request.
    pub(crate) fn send_and_wait(&self, request: JsonRequest, plan: &Plan) -> Result<JsonReply, Outcome> {
        block_on(self.send(request, plan, Outcome::retryable))
    }

    /// Makes a request, again and again as `plan` says while `rule` holds. The error is the last attempt's.
    pub(crate) async fn send(&self, request: JsonRequest, plan: &Plan, rule: RetryRule) -> Result<JsonReply, Outcome> {
        self.send_limited(|_| request.clone(), plan, rule, |_| false, |_| None).await
    }

    /// [`Client::send`] with a request of its own for each attempt; `pending` says of a success that it is not the last word.
    pub(crate) async fn send_each(
        &self,
        request: impl Fn(Attempt) -> JsonRequest,
        plan: &Plan,
        rule: impl Fn(&Outcome) -> bool,
        pending: impl Fn(&JsonReply) -> bool,
    ) -> Result<JsonReply, Outcome> {
        self.send_limited(request, plan, rule, pending, |_| None).await
    }

    /// [`Client::send_each`] with a limit of its own for each attempt (counted from 0), which the control plane is told.
    pub(crate) async fn send_limited(
        &self,
        request: impl Fn(Attempt) -> JsonRequest,
        plan: &Plan,
        rule: impl Fn(&Outcome) -> bool,
        pending: impl Fn(&JsonReply) -> bool,
        limit: impl Fn(u32) -> Option<Duration>,
    ) -> Result<JsonReply, Outcome> {
        let clock = Clock::start();
        let mut attempts = self.attempts(plan, clock.now());
        loop {
            let number = attempts.begun - 1;
            let own = limit(number);
            let call = ApiCall {
                session: self.session.clone(),
                operation: Operation::Json(Box::new(request(Attempt { number }))),
                limit: own.unwrap_or(limits::EXCHANGE),
                timeout_ms: own.map(|d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX)),
            };
            let outcome = self.attempt(&call).await;
            let retry_after = match &outcome {
                Outcome::Ok(Reply::Json(reply)) if !pending(reply) => return Ok((**reply).clone()),
                Outcome::Ok(Reply::Json(reply)) => reply.retry_after,
                other if !rule(other) => return Err(outcome),
                other => other.retry_after(),
            };
            let next = attempts.failed(plan, clock.now(), retry_after);
            if !self.quiet && !matches!(outcome, Outcome::Ok(_)) {
                self.log.warn(format!("{} {}", outcome.text(), attempts.text(plan, next)));
            }
            match (next, outcome) {
                (Next::GiveUp, Outcome::Ok(Reply::Json(reply))) => return Ok(*reply),
                (Next::GiveUp, outcome) => return Err(outcome),
                (Next::At(at), _) => clock.reached(Some(at)).await,
            }
            self.again(&mut attempts, plan);
        }
    }

    /// The first attempt of a plan.
    pub(crate) fn attempts(&self, plan: &Plan, now: Instant) -> Attempts {
        Attempts::first(plan, now, &mut self.rng.borrow_mut())
    }

    /// The next attempt of a plan.
    pub(crate) fn again(&self, attempts: &mut Attempts, plan: &Plan) {
        attempts.again(plan, &mut self.rng.borrow_mut());
    }

    /// Waits.
    pub(crate) async fn pause(&self, d: Duration) {
        tokio::time::sleep(d).await;
    }

    /// How the product calls itself.
    pub(crate) fn user_agent(&self) -> &str {
        &self.user_agent
    }

    async fn attempt(&self, call: &ApiCall) -> Outcome {
        let request = encode(call, &self.user_agent);
        let exchange = async {
            match tokio::time::timeout(call.limit, self.follow(request.clone())).await {
                Ok(response) => response,
                Err(_) => {
                    let cause = format!("no complete response within {}", duration_text(call.limit));
                    Err(transport_error(TransportKind::Timeout, request.method, &request.url, &cause))
                }
            }
        };
        let response = self.observed(&request, exchange).await;
        decode(&call.operation, &request, response)
    }

    /// An exchange that is shown in the log at debug level, one with a storage too (agent-api §18).
    pub(crate) async fn observed<T>(&self, request: &RawRequest, exchange: T) -> Result<RawResponse, TransportError>
    where
        T: Future<Output = Result<RawResponse, TransportError>>,
    {
        let Some(log) = &self.http_log else { return exchange.await };
        let clock = Clock::start();
        log.sending(request);
        let response = exchange.await;
        log.answered(request, &response, clock.now().since(Instant::ZERO));
        response
    }

    async fn follow(&self, mut request: RawRequest) -> Result<RawResponse, TransportError> {
        let method = request.method;
        for _ in 0..=REDIRECTS {
            let response = self.http.exchange(&request).await?;
            match redirect(&request, &response) {
                Hop::Stay => return Ok(response),
                Hop::Follow(next) => request = *next,
            }
        }
        let cause = format!("stopped after {REDIRECTS} redirects");
        Err(transport_error(TransportKind::Other, method, &request.url, &cause))
    }
}

/// Runs `future` on this thread, and the local tasks that it spawns: one scheduler, so that a task waking another costs no system
/// call.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    let options = tokio::runtime::LocalOptions::default();
    match tokio::runtime::Builder::new_current_thread().enable_all().build_local(options) {
        Ok(runtime) => runtime.block_on(future),
        Err(e) => panic!("the operating system gave no event queue: {e}"),
    }
}

/// [`block_on`] for what runs long: as a task among tasks. The future that a runtime blocks on is woken through an event
/// descriptor, which costs two system calls each time; a task is not.
pub(crate) fn block_on_task<T: 'static>(future: impl Future<Output = T> + 'static) -> T {
    block_on(async {
        match tokio::task::spawn_local(future).await {
            Ok(result) => result,
            Err(e) => std::panic::resume_unwind(e.into_panic()),
        }
    })
}

/// 32 random bytes of the operating system.
pub(crate) fn seed() -> [u8; 32] {
    use std::io::Read;
    let mut seed = [0; 32];
    if std::fs::File::open("/dev/urandom").and_then(|mut f| f.read_exact(&mut seed)).is_err() {
        // Without the device: the standard library's own per-process randomness.
        use std::hash::{BuildHasher, Hasher};
        for chunk in seed.chunks_mut(8) {
            chunk.copy_from_slice(&std::hash::RandomState::new().build_hasher().finish().to_ne_bytes());
        }
    }
    seed
}

/// A request with a JSON body.
pub(crate) fn json(method: &'static str, path: String, body: &serde_json::Value, decoded: bool) -> JsonRequest {
    JsonRequest { method, path, body: Some(body.to_string()), headers: Vec::new(), decoded }
}

/// A request without a body.
pub(crate) fn bare(method: &'static str, path: String, decoded: bool) -> JsonRequest {
    JsonRequest { method, path, body: None, headers: Vec::new(), decoded }
}

/// An object without the fields that are empty: `""`, `0`, `false`, an empty list.
pub(crate) fn omit_empty<const N: usize>(fields: [(&str, serde_json::Value); N]) -> serde_json::Value {
    use serde_json::Value;
    let empty = |v: &Value| match v {
        Value::Null => true,
        Value::Bool(b) => !b,
        Value::Number(n) => n.as_i64() == Some(0),
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        Value::Object(_) => false,
    };
    Value::Object(fields.into_iter().filter(|(_, v)| !empty(v)).map(|(k, v)| (k.to_owned(), v)).collect())
}

/// A string field of a reply; empty if it is not there.
pub(crate) fn field(reply: &JsonReply, name: &str) -> String {
    let value: serde_json::Value = serde_json::from_str(&reply.body).unwrap_or_default();
    value.get(name).and_then(|v| v.as_str()).unwrap_or_default().to_owned()
}

/// Server-specified headers found in the environment (agent-api §2.4): `BUILDKITE_REQUEST_HEADER_BUILDKITE_FOO=v` is
/// `Buildkite-Foo: v`; names that do not begin with `Buildkite-` are dropped.
pub(crate) fn request_headers(env: impl Iterator<Item = (std::ffi::OsString, std::ffi::OsString)>) -> Vec<(String, String)> {
    let mut headers: Vec<(String, String)> = env
        .filter_map(|(k, v)| {
            let name = title_case(k.to_str()?.strip_prefix("BUILDKITE_REQUEST_HEADER_")?);
            name.starts_with("Buildkite-").then(|| (name, v.to_string_lossy().into_owned()))
        })
        .collect();
    headers.sort();
    headers
}

/// `BUILDKITE_FOO_BAR` as `Buildkite-Foo-Bar`.
fn title_case(name: &str) -> String {
    let word = |w: &str| {
        let mut w = w.to_ascii_lowercase();
        if let Some(first) = w.get_mut(..1) {
            first.make_ascii_uppercase();
        }
        w
    };
    name.split('_').map(word).collect::<Vec<_>>().join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_buildkite_headers_pass() {
        let env = [("BUILDKITE_REQUEST_HEADER_BUILDKITE_HELLO_YOU", "world"), ("BUILDKITE_REQUEST_HEADER_CONTENT_TYPE", "x"), ("PATH", "/bin")];
        let headers = request_headers(env.into_iter().map(|(k, v)| (k.into(), v.into())));
        assert_eq!(headers, [("Buildkite-Hello-You".to_owned(), "world".to_owned())]);
    }

    #[test]
    fn empty_fields_are_left_out() {
        let body = omit_empty([("a", "".into()), ("b", 0.into()), ("c", false.into()), ("d", Vec::<String>::new().into()), ("e", "x".into())]);
        assert_eq!(body.to_string(), "{\"e\":\"x\"}");
    }
}
