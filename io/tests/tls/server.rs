//! A server with a certificate of our own, for `127.0.0.1` and `localhost`.

use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{Request, Response, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

async fn answer(request: Request<Incoming>) -> Result<Response<impl hyper::body::Body<Data = bytes::Bytes, Error = Infallible>>, Infallible> {
    let version = if request.version() == Version::HTTP_2 { "2" } else { "1.1" };
    let trailers = async {
        let mut map = http::HeaderMap::new();
        map.insert("grpc-status", http::HeaderValue::from_static("0"));
        Some(Ok(map))
    };
    if request.uri().path() == "/slow" {
        tokio::time::sleep(Duration::from_secs(45)).await;
    }
    let body = Full::new(bytes::Bytes::from_static(b"body")).with_trailers(trailers);
    Ok(Response::builder()
        .header("x-version", version)
        .header("x-path", request.uri().path())
        .header("x-target", request.uri().to_string())
        .body(body)
        .unwrap())
}

/// Speaks HTTP/2 where the client offers it; the value is its endpoint.
pub(crate) async fn server() -> String {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tls");
    let chain = vec![CertificateDer::from_pem_file(format!("{dir}/server.pem")).unwrap()];
    let key = PrivateKeyDer::from_pem_file(format!("{dir}/server.key")).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("https://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            // A client that does not trust us hangs up in the handshake.
            let Ok(stream) = acceptor.accept(socket).await else { continue };
            let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            let (io, service) = (TokioIo::new(stream), hyper::service::service_fn(answer));
            tokio::spawn(async move {
                if h2 {
                    let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await;
                } else {
                    let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
                }
            });
        }
    });
    endpoint
}
