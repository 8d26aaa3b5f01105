//! HTTP: one exchange in, one response or error *class* out. The client is hyper-util's, with everything that would decide
//! switched off: no redirects, no retries but the one of agent-api §2.6, no total limit, no content decoding, and URLs go out
//! as they came. (reqwest, which carries transfers to storage, adds `Accept: */*` to every request, which agent-api §2.3 excludes, and
//! turns the segment `%2E` into nothing.)

use super::dial::{Answers, Dial, DialError, basic};
use crate::effects::{StreamFrame, Streaming};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::{Client, Error};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use ibex_core::api::{ProxyRules, RawRequest, RawResponse, TransportError, TransportKind, shown_url, transport_error};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Idle connections are kept this long.
const POOL_IDLE: Duration = Duration::from_secs(90);
/// Idle connections that are kept to one host. Workers have their requests in flight at different times, so that a few serve many;
/// the connections of a burst, as when a large pool starts, would cost memory until they time out.
const POOL_IDLE_PER_HOST: usize = 16;
/// Read buffer of an HTTP/1.1 connection: answers of the Agent API are short, and every worker may hold one.
const READ_BUFFER_BYTES: usize = 4096;
/// HTTP/2: silence after which a PING is sent, and the wait for its answer.
const H2_KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));

/// An HTTP client. Clones share the pool of connections.
#[derive(Clone)]
pub struct Http {
    client: Client<Dial, Full<Bytes>>,
    dial: Dial,
}

impl std::fmt::Debug for Http {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Http")
    }
}

impl Http {
    /// A client with the proxies of this process's environment. Nothing is loaded before it is needed.
    pub fn new(no_http2: bool) -> Http {
        Http::with_proxies(ProxyRules::from_vars(|name| std::env::var(name).ok()), no_http2)
    }

    /// A client with the given proxy rules; an error in them fails every request.
    pub fn with_proxies(rules: Result<ProxyRules, String>, no_http2: bool) -> Http {
        let dial = Dial::new(rules, !no_http2);
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(POOL_IDLE)
            .pool_max_idle_per_host(POOL_IDLE_PER_HOST)
            .http1_read_buf_exact_size(READ_BUFFER_BYTES)
            .http2_keep_alive_interval(H2_KEEP_ALIVE.0)
            .http2_keep_alive_timeout(H2_KEEP_ALIVE.1)
            .http2_keep_alive_while_idle(true)
            // A request that met a dead connection before a byte was written is sent again (agent-api §2.6).
            .retry_canceled_requests(true)
            .build(dial.clone());
        Http { client, dial }
    }

    /// One exchange, body read whole.
    pub async fn exchange(&self, request: &RawRequest) -> Result<RawResponse, TransportError> {
        let mut resent = false;
        loop {
            let (error, reused) = match self.send(request).await {
                Err((error, reused)) => (error, reused),
                Ok((response, answers_before)) => match whole(response, request).await {
                    Ok(response) => return Ok(response),
                    Err(error) => (error, answers_before > 0),
                },
            };
            // The other half of the rule: an idempotent GET whose reused connection died.
            let died = matches!(error.kind, TransportKind::Eof | TransportKind::Reset);
            if resent || !reused || request.method != "GET" || !died {
                return Err(error);
            }
            resent = true;
        }
    }

    /// One exchange whose body is read in frames.
    pub async fn stream(&self, request: &RawRequest) -> Result<HttpStream, TransportError> {
        let (response, _) = self.send(request).await.map_err(|(error, _)| error)?;
        let (head, body) = response.into_parts();
        let name = format!("{} {}", request.method, shown_url(&request.url));
        let proto = proto(head.version);
        Ok(HttpStream { proto, status: head.status.as_u16(), headers: headers(&head.headers), body, name })
    }

    /// The response's head, and how many answers its connection had brought before.
    async fn send(&self, request: &RawRequest) -> Result<(Response<Incoming>, u32), (TransportError, bool)> {
        let message = self.message(request).map_err(|e| (bad_url(request, &e), false))?;
        match self.client.request(message).await {
            Ok(response) => {
                let before = response.extensions().get::<Answers>().map_or(0, |a| a.0.fetch_add(1, Ordering::Relaxed));
                Ok((response, before))
            }
            Err(e) => {
                let mut extensions = http::Extensions::new();
                if let Some(connected) = e.connect_info() {
                    connected.get_extras(&mut extensions);
                }
                let reused = extensions.get::<Answers>().is_some_and(|a| a.0.load(Ordering::Relaxed) > 0);
                Err((client_error(request, &e), reused))
            }
        }
    }

    fn message(&self, request: &RawRequest) -> Result<Request<Full<Bytes>>, String> {
        let uri: Uri = request.url.parse().map_err(|e| format!("malformed URL: {e}"))?;
        match uri.scheme_str() {
            Some("http" | "https") if uri.host().is_some_and(|h| !h.is_empty()) => {}
            Some(scheme) => return Err(format!("unsupported protocol scheme \"{scheme}\"")),
            None => return Err("unsupported protocol scheme \"\"".to_owned()),
        }
        if let Some(port) = impossible_port(&uri) {
            return Err(format!("malformed URL: invalid port \"{port}\""));
        }
        let mut message = Request::builder().method(request.method).uri(uri.clone());
        for (name, value) in &request.headers {
            let mut value = HeaderValue::from_str(value).map_err(|_| format!("the value of header {name} cannot be sent"))?;
            value.set_sensitive(*name == "authorization");
            message = message.header(*name, value);
        }
        for (name, value) in request.extra_headers.iter() {
            // What the server told us but HTTP cannot carry is left out.
            if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_str(value)) {
                message = message.header(name, value);
            }
        }
        if let Some(credentials) = self.dial.plain_proxy(&uri).and_then(|p| p.credentials.as_ref()) {
            message = message.header("proxy-authorization", basic(credentials.expose()).map_err(|e| e.to_string())?);
        }
        message.body(Full::new(request.body.clone().unwrap_or_default())).map_err(|e| e.to_string())
    }
}

/// A port that is none. Left alone, the default one of the scheme would be asked instead, of which nobody spoke.
fn impossible_port(uri: &Uri) -> Option<&str> {
    let authority = uri.authority()?.as_str();
    let (_, port) = authority.rsplit_once('@').map_or(authority, |(_, host)| host).rsplit_once(':')?;
    (uri.port_u16().is_none() && !port.is_empty() && !port.ends_with(']')).then_some(port)
}

/// A response whose body arrives in frames. Dropping it closes the exchange.
#[derive(Debug)]
pub struct HttpStream {
    proto: &'static str,
    status: u16,
    headers: Vec<(String, String)>,
    body: Incoming,
    /// Method and URL, for error texts.
    name: String,
}

impl HttpStream {
    /// The response without its body.
    pub(super) fn head(&self, request: &RawRequest) -> RawResponse {
        RawResponse { proto: self.proto, status: self.status, headers: self.headers.clone(), body: Bytes::new(), url: request.url.clone() }
    }
}

impl Streaming for HttpStream {
    fn status(&self) -> u16 {
        self.status
    }

    fn headers(&self) -> &[(String, String)] {
        &self.headers
    }

    async fn next(&mut self) -> Option<Result<StreamFrame, TransportError>> {
        let frame = match self.body.frame().await? {
            Ok(frame) => frame,
            Err(e) => return Some(Err(TransportError { kind: classify(&e), text: format!("{}: {}", self.name, cause(&e)) })),
        };
        Some(Ok(match frame.into_data() {
            Ok(data) => StreamFrame::Data(data),
            Err(frame) => StreamFrame::Trailers(frame.trailers_ref().map(headers).unwrap_or_default()),
        }))
    }
}

async fn whole(response: Response<Incoming>, request: &RawRequest) -> Result<RawResponse, TransportError> {
    let (head, body) = response.into_parts();
    let body = body.collect().await.map_err(|e| transport_error(classify(&e), request.method, &request.url, &cause(&e)))?.to_bytes();
    let proto = proto(head.version);
    Ok(RawResponse { proto, status: head.status.as_u16(), headers: headers(&head.headers), body, url: request.url.clone() })
}

/// A version as status lines write it.
pub(super) fn proto(version: http::Version) -> &'static str {
    match version {
        http::Version::HTTP_10 => "HTTP/1.0",
        http::Version::HTTP_2 => "HTTP/2.0",
        _ => "HTTP/1.1",
    }
}

/// Names are lower case already; values that are not text are read as far as they are.
fn headers(map: &http::HeaderMap) -> Vec<(String, String)> {
    map.iter().map(|(name, value)| (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())).collect()
}

fn bad_url(request: &RawRequest, cause: &str) -> TransportError {
    transport_error(TransportKind::BadUrl, request.method, &request.url, cause)
}

fn client_error(request: &RawRequest, error: &Error) -> TransportError {
    transport_error(classify(error), request.method, &request.url, &cause(error))
}

/// The class of the innermost cause that has one (agent-api §4.2, by kind and never by text).
fn classify(error: &(dyn std::error::Error + 'static)) -> TransportKind {
    let mut kind = TransportKind::Other;
    let mut at = Some(error);
    while let Some(e) = at {
        kind = class_of(e).unwrap_or(kind);
        at = e.source();
    }
    kind
}

fn class_of(e: &(dyn std::error::Error + 'static)) -> Option<TransportKind> {
    if let Some(e) = e.downcast_ref::<DialError>() {
        return match e {
            DialError::NoName(_) => Some(TransportKind::NameNotFound),
            DialError::ConnectTimeout | DialError::HandshakeTimeout => Some(TransportKind::Timeout),
            DialError::BadProxy(_) => Some(TransportKind::BadUrl),
            DialError::Other(inner) => Some(classify(&**inner)).filter(|k| *k != TransportKind::Other),
        };
    }
    if let Some(e) = e.downcast_ref::<rustls::Error>() {
        return Some(if matches!(e, rustls::Error::InvalidCertificate(_)) { TransportKind::Certificate } else { TransportKind::Tls });
    }
    if let Some(e) = e.downcast_ref::<std::io::Error>() {
        // The source of an I/O error is its content's source: the content itself is asked for here.
        return match e.get_ref().map(|inner| classify(inner)) {
            Some(kind) if kind != TransportKind::Other => Some(kind),
            _ => class_of_io(e.kind()),
        };
    }
    let e = e.downcast_ref::<hyper::Error>()?;
    if e.is_timeout() {
        Some(TransportKind::Timeout)
    } else if e.is_incomplete_message() || e.is_closed() || e.is_canceled() || e.is_body_write_aborted() {
        Some(TransportKind::Eof)
    } else {
        None
    }
}

fn class_of_io(kind: std::io::ErrorKind) -> Option<TransportKind> {
    use std::io::ErrorKind as K;
    Some(match kind {
        K::ConnectionRefused => TransportKind::Refused,
        K::ConnectionReset | K::ConnectionAborted | K::BrokenPipe | K::NotConnected => TransportKind::Reset,
        K::UnexpectedEof => TransportKind::Eof,
        K::TimedOut => TransportKind::Timeout,
        K::NetworkUnreachable | K::HostUnreachable | K::NetworkDown | K::AddrNotAvailable => TransportKind::Unreachable,
        _ => return None,
    })
}

/// The texts of the chain from the innermost message outwards are repetitive: the innermost says it all.
fn cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut at = error;
    while let Some(source) = at.source() {
        at = source;
    }
    at.to_string()
}
