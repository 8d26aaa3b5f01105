//! OTLP metrics on the built binary (specification: start-and-worker §7.2), with a collector behind loopback.
#![cfg(feature = "otel")]

mod common;
mod support;

use bytes::Bytes;
use common::agent::Setup;
use common::{Plane, SOON, dir};
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::convert::Infallible;
use std::sync::mpsc;
use support::Server;

const ENV: &[(&str, &str)] = &[
    ("BUILDKITE_PIPELINE_SLUG", "my-app"),
    ("BUILDKITE_ORGANIZATION_SLUG", "acme"),
    ("BUILDKITE_BRANCH", "fix/#7"),
    ("BUILDKITE_SOURCE", "webhook"),
    ("BUILDKITE_AGENT_META_DATA_QUEUE", "linux"),
];

/// Runs two workers, of which each does one job, with these variables; gives the exit code, what was printed, and the plane.
fn agent(env: &[(&str, &str)]) -> (i32, String, Plane) {
    let (work, plane) = (dir(), Plane::start());
    for _ in 0..2 {
        let job = plane.job(ENV);
        plane.with(|s| s.jobs.get_mut(&job).expect("the job").body["runnable_at"] = "2023-11-14T22:13:20Z".into());
    }
    let mut setup = Setup::script("#!/bin/sh\nexit 3\n").arg(&["--opentelemetry-metrics", "--disconnect-after-job", "--spawn", "2"]);
    setup.env.extend(env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
    let mut agent = setup.start(&plane, work.path());
    let code = agent.wait(SOON);
    (code, agent.text(), plane)
}

/// Names and values are legible in protobuf.
#[track_caller]
fn tells(body: &[u8], parts: &[&str]) {
    let text = String::from_utf8_lossy(body);
    for part in parts {
        assert!(text.contains(part), "{part:?} is missing in {text:?}");
    }
}

const TOLD: &[&str] = &[
    "jobs.finished",
    "jobs.duration",
    "queue.duration",
    "service.name",
    "buildkite-agent",
    "service.version",
    env!("CARGO_PKG_VERSION"),
    "deployment.environment",
    "agent_name",
    "agent_1",
    "agent_2",
    "my_app",
    "acme",
    "fix_7",
    "webhook",
    "linux",
    "exit_code",
];

#[test]
fn given_http_when_the_last_worker_has_gone_then_the_collector_was_told_of_both_jobs_in_one_post() {
    let collector = Server::start(|_| (200, String::new()));
    let endpoint = collector.url.trim_end_matches("/v3");
    let (code, text, plane) = agent(&[("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"), ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)]);
    assert_eq!(code, 0, "{text}");
    assert_eq!(plane.requests("POST", "/disconnect").len(), 2);
    let posts = collector.requests();
    assert_eq!(posts.iter().map(|p| p.line.as_str()).collect::<Vec<_>>(), ["POST /v1/metrics"], "{text}");
    assert_eq!(posts[0].header("content-type"), Some("application/x-protobuf"));
    tells(posts[0].body.as_bytes(), TOLD);
    assert!(!text.contains("OTLP"), "{text}");
    let register = plane.wait_request("POST", "/register", 1);
    assert_eq!(register.json()["features"].as_array().and_then(|f| f.last()).and_then(|f| f.as_str()), Some("opentelemetry-metrics"));
}

#[test]
fn given_no_protocol_then_grpc_is_spoken() {
    let (port, calls) = grpc_collector();
    let (code, text, _plane) = agent(&[("OTEL_EXPORTER_OTLP_ENDPOINT", &format!("http://127.0.0.1:{port}"))]);
    assert_eq!(code, 0, "{text}");
    let (path, body) = calls.recv_timeout(SOON).expect("a call");
    assert_eq!(path, "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export");
    tells(&body, TOLD);
    assert!(!text.contains("OTLP"), "{text}");
}

#[test]
fn given_an_unsupported_protocol_then_the_workers_connect_and_disconnect_and_the_process_fails() {
    let (code, text, plane) = agent(&[("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "http/json"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("buildkite-agent: fatal: unsupported OTLP protocol \"http/json\""), "{text}");
    assert_eq!((plane.requests("POST", "/connect").len(), plane.requests("POST", "/disconnect").len()), (2, 2));
    assert!(plane.requests("GET", "/ping").is_empty());
}

#[test]
fn given_an_endpoint_that_is_none_then_the_workers_fail_by_it() {
    let (code, text, plane) = agent(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://[nonsense")]);
    assert_eq!((code, plane.requests("POST", "/disconnect").len()), (1, 2), "{text}");
    assert!(text.contains("buildkite-agent: fatal: could not prepare OTLP metrics: "), "{text}");
}

#[test]
fn given_a_collector_that_refuses_then_it_is_said_and_jobs_and_exit_code_are_what_they_are() {
    // It answers 400 to HTTP, and does not understand gRPC at all.
    let collector = Server::start(|_| (400, String::new()));
    let endpoint = collector.url.trim_end_matches("/v3");
    for protocol in ["grpc", "http"] {
        let (code, text, plane) = agent(&[("OTEL_EXPORTER_OTLP_PROTOCOL", protocol), ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)]);
        assert_eq!((code, plane.requests("PUT", "/finish").len()), (0, 2), "{protocol}: {text}");
        assert!(text.contains("Failed to export metrics by OTLP: "), "{protocol}: {text}");
    }
}

/// Calls to a collector that wait to be looked at; a test makes a few.
const CALLS: usize = 64;

/// A collector that speaks gRPC: every call is told with its path and body, and answered with an empty message.
fn grpc_collector() -> (u16, mpsc::Receiver<(String, Bytes)>) {
    let (tell, calls) = mpsc::sync_channel(CALLS);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a loopback port");
    let port = listener.local_addr().expect("its address").port();
    listener.set_nonblocking(true).expect("non-blocking");
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).expect("the listener");
            while let Ok((stream, _)) = listener.accept().await {
                let tell = tell.clone();
                let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                    let tell = tell.clone();
                    async move {
                        let path = request.uri().path().to_owned();
                        let body = request.into_body().collect().await.expect("the body").to_bytes();
                        // The test may have ended.
                        let _ = tell.try_send((path, body));
                        let ok = hyper::HeaderMap::from_iter([(
                            hyper::header::HeaderName::from_static("grpc-status"),
                            hyper::header::HeaderValue::from_static("0"),
                        )]);
                        let answer = Full::new(Bytes::from_static(&[0; 5])).with_trailers(async move { Some(Ok(ok)) });
                        Ok::<_, Infallible>(hyper::Response::builder().header("content-type", "application/grpc").body(answer).expect("a response"))
                    }
                });
                tokio::spawn(async move {
                    let _ = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new())
                        .http2_only()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
    });
    (port, calls)
}
