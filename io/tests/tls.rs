//! TLS with a certificate of our own: who is trusted, and which HTTP is spoken (agent-api §2.6).

#[path = "tls/server.rs"]
mod server;

use ibex_core::api::{ProxyRules, RawRequest, RequestHeaders, TransportKind};
use ibex_io::effects::{StreamFrame, Streaming};
use ibex_io::tokio::Http;
use server::server;
use std::time::Duration;

fn get(url: String) -> RawRequest {
    RawRequest { method: "GET", url, headers: vec![("te", "trailers".into())], extra_headers: RequestHeaders::default(), body: None }
}

fn client(no_http2: bool) -> Http {
    Http::with_proxies(Ok(ProxyRules::default()), no_http2)
}

// One test, as the variable that names the roots is the process's.
#[test]
fn only_trusted_certificates_are_accepted_and_http2_is_a_choice() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let test = async {
        let endpoint = server().await;
        let untrusted = client(false).exchange(&get(format!("{endpoint}/x"))).await.unwrap_err();
        assert_eq!(untrusted.kind, TransportKind::Certificate, "{}", untrusted.text);

        // SAFETY: no other thread of this test reads the environment now.
        unsafe { std::env::set_var("SSL_CERT_FILE", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tls/ca.pem")) };
        for (no_http2, want) in [(false, "2"), (true, "1.1")] {
            let response = client(no_http2).exchange(&get(format!("{endpoint}/jobs/%2E%2E/a%2Eb"))).await.unwrap();
            let header = |name: &str| response.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
            assert_eq!(header("x-version").as_deref(), Some(want));
            assert_eq!(header("x-path").as_deref(), Some("/jobs/%2E%2E/a%2Eb"));
            assert_eq!(&response.body[..], b"body");
        }

        let mut stream = client(false).stream(&get(format!("{endpoint}/x"))).await.unwrap();
        assert_eq!(stream.next().await.unwrap().unwrap(), StreamFrame::Data(bytes::Bytes::from_static(b"body")));
        assert_eq!(stream.next().await.unwrap().unwrap(), StreamFrame::Trailers(vec![("grpc-status".into(), "0".into())]));
        assert!(stream.next().await.is_none());

        // The name counts too: this certificate is not for that address.
        let other = endpoint.replace("127.0.0.1", "127.0.0.2");
        let port: u16 = other.rsplit(':').next().unwrap().parse().unwrap();
        let forwarder = tokio::net::TcpListener::bind(("127.0.0.2", port)).await.unwrap();
        tokio::spawn(async move {
            let (mut from, _) = forwarder.accept().await.unwrap();
            let mut to = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            let _ = tokio::io::copy_bidirectional(&mut from, &mut to).await;
        });
        let misnamed = client(false).exchange(&get(format!("{other}/x"))).await.unwrap_err();
        assert_eq!(misnamed.kind, TransportKind::Certificate, "{}", misnamed.text);
    };
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(30), test).await.expect("within 30 s") });
}
