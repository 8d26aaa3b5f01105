//! Makes connections: directly or through the proxy that the rules name, with TLS where the target wants it
//! (agent-api §2.6). The roots are loaded when the first `https` target is dialled, so that start-up does not pay for them.

use hyper::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::connect::proxy::{SocksV5, Tunnel};
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector, dns::Name};
use ibex_core::api::{Proxy, ProxyRules, ProxyScheme};
use rustls::ClientConfig;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;
use tower_service::Service;

/// Look-up, TCP and TLS together.
pub const CONNECT: Duration = Duration::from_secs(30);
/// TLS alone.
pub const HANDSHAKE: Duration = Duration::from_secs(10);
/// TCP keep-alive.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    #[error("{0}")]
    NoName(io::Error),
    #[error("no connection within {}s", CONNECT.as_secs())]
    ConnectTimeout,
    #[error("no TLS handshake within {}s", HANDSHAKE.as_secs())]
    HandshakeTimeout,
    #[error("{0}")]
    BadProxy(String),
    #[error(transparent)]
    Other(Box<dyn std::error::Error + Send + Sync>),
}

/// How many answers a connection has brought; travels with it through the pool.
#[derive(Clone, Debug, Default)]
pub(super) struct Answers(pub(super) Arc<AtomicU32>);

/// The connector of hyper-util's client.
#[derive(Clone)]
pub(super) struct Dial {
    tcp: HttpConnector<Resolver>,
    rules: Arc<Result<ProxyRules, String>>,
    tls: Arc<OnceLock<Result<Tls, String>>>,
    http2: bool,
}

#[derive(Clone)]
struct Tls {
    /// Offers what the target may speak.
    target: Arc<ClientConfig>,
    /// Offers HTTP/1.1 only: `CONNECT` is spoken to the proxy.
    proxy: Arc<ClientConfig>,
}

impl Dial {
    pub(super) fn new(rules: Result<ProxyRules, String>, http2: bool) -> Dial {
        let mut tcp = HttpConnector::new_with_resolver(Resolver);
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(KEEP_ALIVE));
        Dial { tcp, rules: Arc::new(rules), tls: Arc::default(), http2 }
    }

    /// The proxy of a target that is spoken to in absolute form, for its credentials.
    pub(super) fn plain_proxy(&self, uri: &Uri) -> Option<&Proxy> {
        let rules = self.rules.as_ref().as_ref().ok()?;
        let proxy = proxy_for(rules, uri)?;
        (uri.scheme_str() == Some("http") && proxy.scheme != ProxyScheme::Socks5).then_some(proxy)
    }

    fn tls(&self) -> Result<Tls, DialError> {
        let tls = self.tls.get_or_init(|| load_tls(self.http2).map_err(|e| e.to_string()));
        tls.clone().map_err(|e| DialError::Other(e.into()))
    }

    async fn dial(self, uri: Uri) -> Result<Io, DialError> {
        let rules = self.rules.as_ref().as_ref().map_err(|e| DialError::BadProxy(e.clone()))?;
        let proxy = proxy_for(rules, &uri);
        let https = uri.scheme_str() == Some("https");
        let (stream, absolute_form) = self.reach(&uri, proxy, https).await?;
        if !https {
            return Ok(Io::new(stream, absolute_form));
        }
        let tls = self.tls()?.target;
        Ok(Io::new(handshake(stream, uri, tls).await?, false))
    }

    /// A stream to the target's port; the flag says that what answers is an HTTP proxy.
    async fn reach(&self, uri: &Uri, proxy: Option<&Proxy>, https: bool) -> Result<(Boxed, bool), DialError> {
        let mut tcp = self.tcp.clone();
        let Some(proxy) = proxy else { return Ok((Boxed::new(tcp.call(uri.clone()).await.map_err(other)?), false)) };
        let proxy_uri = proxy_uri(proxy)?;
        if proxy.scheme == ProxyScheme::Socks5 {
            let mut socks = SocksV5::new(proxy_uri, tcp).local_dns(false);
            if let Some(credentials) = &proxy.credentials {
                let (user, password) = credentials.expose().split_once(':').unwrap_or((credentials.expose(), ""));
                socks = socks.with_auth(user.to_owned(), password.to_owned());
            }
            return Ok((Boxed::new(socks.call(with_port(uri, https)?).await.map_err(other)?), false));
        }
        let mut stream = Boxed::new(tcp.call(proxy_uri.clone()).await.map_err(other)?);
        if proxy.scheme == ProxyScheme::Https {
            stream = handshake(stream, proxy_uri.clone(), self.tls()?.proxy).await?;
        }
        if !https {
            return Ok((stream, true));
        }
        let mut tunnel = Tunnel::new(proxy_uri, Ready(Some(stream)));
        if let Some(credentials) = &proxy.credentials {
            tunnel = tunnel.with_auth(basic(credentials.expose())?);
        }
        Ok((Boxed::new(tunnel.call(uri.clone()).await.map_err(other)?), false))
    }
}

impl Service<Uri> for Dial {
    type Response = Io;
    type Error = DialError;
    type Future = Pin<Box<dyn Future<Output = Result<Io, DialError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), DialError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let dial = self.clone().dial(uri);
        Box::pin(async { tokio::time::timeout(CONNECT, dial).await.unwrap_or(Err(DialError::ConnectTimeout)) })
    }
}

/// `Basic …`, for `Proxy-Authorization`.
pub(super) fn basic(credentials: &str) -> Result<http::HeaderValue, DialError> {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::from("Basic ");
    for three in credentials.as_bytes().chunks(3) {
        let bits = three.iter().fold(0u32, |bits, b| bits << 8 | u32::from(*b)) << (8 * (3 - three.len()));
        for i in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * i)) as usize & 63];
            text.push(if i <= three.len() { char::from(digit) } else { '=' });
        }
    }
    let mut value = http::HeaderValue::from_str(&text).map_err(other)?;
    value.set_sensitive(true);
    Ok(value)
}

fn proxy_for<'a>(rules: &'a ProxyRules, uri: &Uri) -> Option<&'a Proxy> {
    let https = uri.scheme_str() == Some("https");
    rules.proxy_for(https, uri.host()?, uri.port_u16().unwrap_or(if https { 443 } else { 80 }))
}

/// The URI with its port written out: who asks a SOCKS proxy takes 443 for a port that is not there, whatever the scheme.
fn with_port(uri: &Uri, https: bool) -> Result<Uri, DialError> {
    let (host, port) = (uri.host().unwrap_or_default(), uri.port_u16().unwrap_or(if https { 443 } else { 80 }));
    Uri::builder().scheme("https").authority(format!("{host}:{port}")).path_and_query("/").build().map_err(other)
}

fn proxy_uri(proxy: &Proxy) -> Result<Uri, DialError> {
    let scheme = if proxy.scheme == ProxyScheme::Https { "https" } else { "http" };
    let host = if proxy.host.contains(':') { format!("[{}]", proxy.host) } else { proxy.host.clone() };
    format!("{scheme}://{host}:{}", proxy.port).parse().map_err(|e| DialError::BadProxy(format!("the proxy's address is malformed: {e}")))
}

async fn handshake(stream: Boxed, uri: Uri, config: Arc<ClientConfig>) -> Result<Boxed, DialError> {
    let mut https = HttpsConnector::from((Ready(Some(stream)), config));
    match tokio::time::timeout(HANDSHAKE, https.call(uri)).await {
        Ok(stream) => Ok(Boxed::new(stream.map_err(DialError::Other)?)),
        Err(_) => Err(DialError::HandshakeTimeout),
    }
}

fn load_tls(http2: bool) -> Result<Tls, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = Arc::new(rustls_platform_verifier::Verifier::new(provider.clone())?);
    let proxy = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    let mut target = proxy.clone();
    target.alpn_protocols = if http2 { vec![b"h2".to_vec(), b"http/1.1".to_vec()] } else { vec![b"http/1.1".to_vec()] };
    Ok(Tls { target: Arc::new(target), proxy: Arc::new(proxy) })
}

fn other(e: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> DialError {
    DialError::Other(e.into())
}

/// Looks names up with the system's resolver, and marks its failures as such.
#[derive(Clone)]
pub(super) struct Resolver;

impl Service<Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = DialError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, DialError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), DialError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        Box::pin(async move {
            let found: io::Result<Vec<_>> = tokio::net::lookup_host((name.as_str(), 0)).await.map(Iterator::collect);
            found.map(Vec::into_iter).map_err(DialError::NoName)
        })
    }
}

/// A connector whose connection is there already.
struct Ready(Option<Boxed>);

impl Service<Uri> for Ready {
    type Response = Boxed;
    type Error = io::Error;
    type Future = std::future::Ready<io::Result<Boxed>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        std::future::ready(self.0.take().ok_or_else(|| io::Error::other("the connection is used up")))
    }
}

trait Stream: Read + Write + Connection + Send + Unpin {}
impl<S: Read + Write + Connection + Send + Unpin> Stream for S {}

/// A stream, whatever carries it.
pub(super) struct Boxed(Pin<Box<dyn Stream>>);

impl Boxed {
    fn new(stream: impl Stream + 'static) -> Boxed {
        Boxed(Box::pin(stream))
    }
}

/// A connection as the pool keeps it.
pub(super) struct Io {
    stream: Boxed,
    answers: Answers,
    absolute_form: bool,
}

impl Io {
    fn new(stream: Boxed, absolute_form: bool) -> Io {
        Io { stream, answers: Answers::default(), absolute_form }
    }
}

impl Connection for Boxed {
    fn connected(&self) -> Connected {
        self.0.connected()
    }
}

impl Connection for Io {
    fn connected(&self) -> Connected {
        self.stream.connected().proxy(self.absolute_form).extra(self.answers.clone())
    }
}

impl Read for Boxed {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        self.0.as_mut().poll_read(cx, buf)
    }
}

impl Write for Boxed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.0.as_mut().poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.as_mut().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.as_mut().poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.0.as_mut().poll_write_vectored(cx, bufs)
    }
}

impl Read for Io {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl Write for Io {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_base64() {
        for (plain, coded) in [("", "Basic "), ("a", "Basic YQ=="), ("ab", "Basic YWI="), ("user:p@ss", "Basic dXNlcjpwQHNz")] {
            assert_eq!(basic(plain).unwrap(), coded, "{plain}");
        }
    }
}
