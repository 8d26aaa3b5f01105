//! Transfers to artifact storage (agent-api §13.2): bodies come from files piece by piece, there is no time limit, and the
//! control plane's credential never goes along.

use bytes::Bytes;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use ibex_core::api::{Proxy, ProxyRules, ProxyScheme, RawRequest, RawResponse, TransportError, TransportKind, transport_error};
use std::io;
use std::path::PathBuf;
use tokio::io::{AsyncReadExt, AsyncSeekExt};

/// Bytes read from a file at a time.
const READ_BYTES: u64 = 256 * 1024;
/// Bytes of an answer that are kept; storage answers with short texts.
const ANSWER_BYTES: usize = 64 * 1024;

/// A part of a body.
#[derive(Clone, Debug)]
pub enum Piece {
    /// These bytes.
    Bytes(Bytes),
    /// A range of a file.
    File {
        /// The file.
        path: PathBuf,
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
    },
}

/// A body of known length.
#[derive(Clone, Debug)]
pub struct Body {
    pieces: Vec<Piece>,
}

impl Body {
    /// The pieces, one after the other.
    pub fn of(pieces: Vec<Piece>) -> Body {
        Body { pieces }
    }

    /// Bytes in all.
    pub fn len(&self) -> u64 {
        let one = |p: &Piece| match p {
            Piece::Bytes(b) => b.len() as u64,
            Piece::File { len, .. } => *len,
        };
        self.pieces.iter().map(one).sum()
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn into_stream(self) -> impl stream::TryStream<Ok = Bytes, Error = io::Error> + Send + 'static {
        stream::iter(self.pieces).then(open).map_ok(chunks).try_flatten()
    }
}

enum Source {
    Bytes(Bytes),
    File { file: tokio::fs::File, left: u64 },
}

async fn open(piece: Piece) -> io::Result<Source> {
    Ok(match piece {
        Piece::Bytes(b) => Source::Bytes(b),
        Piece::File { path, offset, len } => {
            let mut file = tokio::fs::File::open(&path).await?;
            file.seek(io::SeekFrom::Start(offset)).await?;
            Source::File { file, left: len }
        }
    })
}

fn chunks(source: Source) -> impl stream::Stream<Item = io::Result<Bytes>> + Send {
    stream::try_unfold(source, |source| async move {
        match source {
            Source::Bytes(b) if b.is_empty() => Ok(None),
            Source::Bytes(b) => Ok(Some((b, Source::Bytes(Bytes::new())))),
            Source::File { left: 0, .. } => Ok(None),
            Source::File { mut file, left } => {
                let mut buffer = Vec::with_capacity(left.min(READ_BYTES) as usize);
                let n = (&mut file).take(left.min(READ_BYTES)).read_buf(&mut buffer).await? as u64;
                if n == 0 {
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter while it was being uploaded"));
                }
                Ok(Some((Bytes::from(buffer), Source::File { file, left: left - n })))
            }
        }
    })
}

/// A proxy as a URL. Names of targets are looked up by a SOCKS proxy.
fn proxy_url(proxy: &Proxy) -> String {
    let scheme = match proxy.scheme {
        ProxyScheme::Http => "http",
        ProxyScheme::Https => "https",
        ProxyScheme::Socks5 => "socks5h",
    };
    let host = if proxy.host.contains(':') { format!("[{}]", proxy.host) } else { proxy.host.clone() };
    let user = proxy.credentials.as_ref().map_or(String::new(), |c| {
        let (user, password) = c.expose().split_once(':').unwrap_or((c.expose(), ""));
        format!("{}:{}@", escaped(user), escaped(password))
    });
    format!("{scheme}://{user}{host}:{}", proxy.port)
}

/// Percent-encodes all but letters and digits.
fn escaped(text: &str) -> String {
    text.bytes().map(|b| if b.is_ascii_alphanumeric() { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// A client for storage.
#[derive(Clone, Debug)]
pub struct Storage {
    client: reqwest::Client,
}

impl Storage {
    /// A client with the proxies of this process's environment.
    ///
    /// # Errors
    /// The TLS roots of the machine cannot be used, or a variable does not name a proxy.
    pub fn new() -> Result<Storage, String> {
        Storage::with_proxies(ProxyRules::from_vars(|name| std::env::var(name).ok())?)
    }

    /// A client that follows no redirect, retries nothing and has no limit but that of connecting. Its proxies are those of the
    /// Agent API and not the library's, which knows other variables and sends loopback targets through a proxy too.
    ///
    /// # Errors
    /// The TLS roots of the machine cannot be used.
    pub fn with_proxies(rules: ProxyRules) -> Result<Storage, String> {
        let proxy = reqwest::Proxy::custom(move |url| {
            let (https, port) = (url.scheme() == "https", url.port_or_known_default().unwrap_or_default());
            rules.proxy_for(https, url.host_str().unwrap_or_default(), port).map(proxy_url)
        });
        let builder = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .connect_timeout(super::CONNECT)
            .no_proxy()
            .proxy(proxy);
        Ok(Storage { client: builder.build().map_err(|e| e.to_string())? })
    }

    /// One exchange. `request.body` is not looked at; `Content-Length` must be among the headers.
    pub async fn send(&self, request: &RawRequest, body: Body) -> Result<RawResponse, TransportError> {
        let error = |kind, e: &dyn std::fmt::Display| transport_error(kind, request.method, &request.url, &e.to_string());
        let method = reqwest::Method::from_bytes(request.method.as_bytes()).map_err(|e| error(TransportKind::BadUrl, &e))?;
        let mut message = self.client.request(method, &request.url);
        for (name, value) in &request.headers {
            message = message.header(*name, value);
        }
        let classify = |e: reqwest::Error| {
            let kind = match () {
                () if e.is_builder() => TransportKind::BadUrl,
                () if e.is_timeout() => TransportKind::Timeout,
                () if e.is_connect() => TransportKind::Refused,
                () => TransportKind::Other,
            };
            // What is behind it says more than the library's own sentence.
            let mut cause: &dyn std::error::Error = &e;
            while let Some(next) = cause.source() {
                cause = next;
            }
            error(kind, &cause)
        };
        let mut response = message.body(reqwest::Body::wrap_stream(body.into_stream())).send().await.map_err(classify)?;
        let headers = response.headers().iter().map(|(n, v)| (n.as_str().to_owned(), String::from_utf8_lossy(v.as_bytes()).into_owned())).collect();
        let (proto, status, url) = (super::http::proto(response.version()), response.status().as_u16(), response.url().to_string());
        let mut answer = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(classify)? {
            let room = ANSWER_BYTES - answer.len().min(ANSWER_BYTES);
            answer.extend_from_slice(&chunk[..chunk.len().min(room)]);
        }
        Ok(RawResponse { proto, status, headers, body: answer.into(), url })
    }
}
