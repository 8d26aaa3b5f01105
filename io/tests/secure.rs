//! TLS with roots from a directory, HTTP/2 connections that fall silent, and proxies that are spoken to over TLS (agent-api §2.6).

#[path = "tls/server.rs"]
mod server;

use ibex_core::api::{ProxyRules, RawRequest, RawResponse, RequestHeaders, TransportKind};
use ibex_io::tokio::{Body, Http, Storage};
use server::server;
use std::cell::Cell;
use std::future::Future;
use std::rc::Rc;
use std::sync::LazyLock;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

/// The directory that names the roots: the certificate under its hash, as the system's tools lay it out.
static ROOTS: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tls/ca.pem"), dir.path().join("af53e12b.0")).unwrap();
    // SAFETY: every test of this file comes here first, and no thread reads the environment before.
    unsafe {
        std::env::remove_var("SSL_CERT_FILE");
        std::env::set_var("SSL_CERT_DIR", dir.path());
    }
    dir
});

fn run(test: impl Future<Output = ()>) {
    LazyLock::force(&ROOTS);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    // Not by the runtime's clock, which some tests let jump.
    let began = std::time::Instant::now();
    tokio::task::LocalSet::new().block_on(&runtime, test);
    assert!(began.elapsed() < Duration::from_secs(30), "nothing here takes real time");
}

fn get(url: &str) -> RawRequest {
    RawRequest { method: "GET", url: url.to_owned(), headers: vec![], extra_headers: RequestHeaders::default(), body: None }
}

fn direct(no_http2: bool) -> Http {
    Http::with_proxies(Ok(ProxyRules::default()), no_http2)
}

/// Passes bytes on to `endpoint` until the flag says otherwise: then it keeps the connection and is silent.
async fn that_falls_silent(endpoint: &str, silent: Rc<Cell<bool>>) -> String {
    let target = endpoint.strip_prefix("https://").unwrap().to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("https://{}", listener.local_addr().unwrap());
    tokio::task::spawn_local(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (server, silent) = (TcpStream::connect(&target).await.unwrap(), silent.clone());
            tokio::task::spawn_local(async move {
                let mut buffers = [[0u8; 16384]; 2];
                let [up, down] = &mut buffers;
                loop {
                    tokio::select! {
                        n = read(&client, up) => if !pass(n, up, &server, &silent).await { break },
                        n = read(&server, down) => if !pass(n, down, &client, &silent).await { break },
                    }
                }
            });
        }
    });
    address
}

async fn read(from: &TcpStream, buffer: &mut [u8]) -> usize {
    loop {
        from.readable().await.unwrap();
        match from.try_read(buffer) {
            Ok(n) => return n,
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return 0,
        }
    }
}

async fn pass(n: usize, buffer: &[u8], to: &TcpStream, silent: &Cell<bool>) -> bool {
    let mut rest = &buffer[..n];
    while !rest.is_empty() && !silent.get() {
        to.writable().await.unwrap();
        match to.try_write(rest) {
            Ok(n) => rest = &rest[n..],
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return false,
        }
    }
    n > 0
}

#[test]
fn a_directory_of_roots_is_honoured() {
    run(async {
        let endpoint = server().await;
        assert_eq!(&direct(false).exchange(&get(&format!("{endpoint}/x"))).await.unwrap().body[..], b"body");
    });
}

/// A connection without a frame for 10 s is asked with a PING, and dropped if that is not answered within 5 s: long before the
/// limit of the exchange, so that the attempt after it has a connection that lives.
#[test]
fn an_http2_connection_that_falls_silent_is_dropped_after_15_seconds() {
    run(async {
        let silent = Rc::new(Cell::new(false));
        let endpoint = that_falls_silent(&server().await, silent.clone()).await;
        let client = direct(false);
        assert_eq!(client.exchange(&get(&format!("{endpoint}/x"))).await.unwrap().proto, "HTTP/2.0");
        silent.set(true);
        tokio::time::pause();
        let asked = Instant::now();
        let error = client.exchange(&get(&format!("{endpoint}/x"))).await.unwrap_err();
        let took = asked.elapsed();
        assert!(took >= Duration::from_secs(14) && took < Duration::from_secs(17), "{took:?}");
        assert!(error.kind.retryable(), "{error:?}");
        tokio::time::resume();
        silent.set(false);
        assert_eq!(&client.exchange(&get(&format!("{endpoint}/x"))).await.unwrap().body[..], b"body", "the next attempt has a connection of its own");
    });
}

/// The other half: an answer that takes long is no silence as long as the PINGs are answered.
#[test]
fn an_http2_connection_that_answers_pings_is_waited_for() {
    run(async {
        let endpoint = server().await;
        let client = direct(false);
        client.exchange(&get(&format!("{endpoint}/x"))).await.unwrap();
        tokio::time::pause();
        let asked = Instant::now();
        assert_eq!(&client.exchange(&get(&format!("{endpoint}/slow"))).await.unwrap().body[..], b"body");
        assert!(asked.elapsed() >= Duration::from_secs(45));
    });
}

/// Plain targets are asked of the proxy in absolute form; for TLS targets there is TLS within TLS, and the target is checked.
#[test]
fn a_proxy_may_be_spoken_to_over_tls() {
    run(async {
        let proxy = server().await;
        let rules = ProxyRules::from_vars(|name| matches!(name, "HTTP_PROXY" | "HTTPS_PROXY").then(|| proxy.clone())).unwrap();
        let client = Http::with_proxies(Ok(rules), false);
        let answer = client.exchange(&get("http://control.example/v3/ping")).await.unwrap();
        let target = answer.headers.iter().find(|(n, _)| n == "x-target").map(|(_, v)| v.as_str());
        assert_eq!((target, answer.proto), (Some("http://control.example/v3/ping"), "HTTP/1.1"));

        // The proxy answers CONNECT itself and closes: no TLS of the target behind it.
        let error = client.exchange(&get("https://control.example/v3/ping")).await.unwrap_err();
        assert!(error.kind.retryable() && error.kind != TransportKind::Certificate, "{error:?}");
    });
}

/// Transfers to storage keep the rules of the Agent API: its variables, its exceptions, and nothing for loopback targets.
#[test]
fn storage_goes_through_the_same_proxies() {
    run(async {
        let proxy = server().await;
        let rules = |url: &str| {
            let url = url.to_owned();
            let var = move |name: &str| match name {
                "HTTP_PROXY" | "HTTPS_PROXY" => Some(url.clone()),
                "NO_PROXY" => Some("direct.invalid".to_owned()),
                _ => None,
            };
            Storage::with_proxies(ProxyRules::from_vars(var).unwrap()).unwrap()
        };
        let put = |url: &str| RawRequest { method: "PUT", url: url.to_owned(), headers: vec![("content-length", "0".into())], ..get("") };
        let target = |answer: RawResponse| answer.headers.iter().find(|(n, _)| n == "x-target").map(|(_, v)| v.clone());

        let through = rules(&proxy.replace("https://", "https://user:p%40ss@"));
        let answer = through.send(&put("http://storage.invalid/bucket"), Body::of(vec![])).await.unwrap();
        assert_eq!(target(answer).as_deref(), Some("http://storage.invalid/bucket"), "the proxy was asked");
        let error = through.send(&put("http://direct.invalid/bucket"), Body::of(vec![])).await.unwrap_err();
        assert!(error.kind.retryable(), "an exception is looked up here: {error:?}");

        let nowhere = rules("http://127.0.0.1:9");
        let answer = nowhere.send(&put(&format!("{proxy}/bucket")), Body::of(vec![])).await.unwrap();
        assert_eq!(answer.status, 200, "loopback targets are never proxied");
    });
}

/// Connecting has limits of its own, shorter than that of the exchange: 10 s for TLS, 30 s for everything up to the first byte.
#[test]
fn a_peer_that_accepts_and_says_nothing_is_given_up_while_connecting() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::task::spawn_local(async move {
            let mut kept = Vec::new();
            while let Ok((socket, _)) = listener.accept().await {
                kept.push(socket);
            }
        });
        let rules = ProxyRules::from_vars(|name| (name == "HTTPS_PROXY").then(|| format!("http://{address}"))).unwrap();
        let (tls, proxy) = (direct(false), Http::with_proxies(Ok(rules), false));
        // The roots are loaded before time jumps.
        tls.exchange(&get(&format!("{}/x", server().await))).await.unwrap();
        tokio::time::pause();
        for (client, url, seconds, cause) in [
            (&tls, format!("https://{address}/x"), 10, "no TLS handshake within 10s"),
            (&proxy, "https://control.example/x".to_owned(), 30, "no connection within 30s"),
        ] {
            let asked = Instant::now();
            let error = client.exchange(&get(&url)).await.unwrap_err();
            assert_eq!((error.kind, asked.elapsed().as_secs()), (TransportKind::Timeout, seconds));
            assert_eq!(error.text, format!("GET {url}: {cause}"));
        }
    });
}
