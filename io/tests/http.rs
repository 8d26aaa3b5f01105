//! HTTP on the wire of a loopback listener: exact requests, classes of failure, redirects, connections that died, streams,
//! proxies (agent-api §2, §3, §8).

use bytes::Bytes;
use ibex_core::agent::AgentLog;
use ibex_core::api::{
    ApiCall, GrpcCode, JsonRequest, Operation, Outcome, ProxyRules, RawRequest, RawResponse, Reply, RequestHeaders, Session, StreamCall, StreamEnd,
    StreamMessage, TransportError, TransportKind, encode_ping_response, escape_segment,
};
use ibex_core::secret::Secret;
use ibex_io::driver::Clock;
use ibex_io::exchange;
use ibex_io::status::Board;
use ibex_io::tokio::{HookPlaces, Http, HttpObserver, LogSink, Parts, TokioWorld};
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

struct Silent;

impl LogSink for Silent {
    fn log(&self, _: &AgentLog) {}
}

fn world(http: Http) -> TokioWorld {
    let board = Board::new(Clock::start());
    TokioWorld::new(Parts { log: Rc::new(Silent), board, metrics: None, http, http_observer: None, hooks: HookPlaces::default(), verifier: None })
}

fn direct() -> TokioWorld {
    world(Http::with_proxies(Ok(ProxyRules::default()), false))
}

fn run(future: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let bounded = async { tokio::time::timeout(Duration::from_secs(30), future).await.expect("within 30 s") };
    tokio::task::LocalSet::new().block_on(&runtime, bounded);
}

/// What the server does with the n-th request (over all connections), after having read it whole.
#[derive(Clone)]
enum Answer {
    Say(String),
    /// Says it and closes the connection.
    SayAndClose(String),
    Close,
    Reset,
    Nothing,
}

struct Server {
    endpoint: String,
    seen: Rc<RefCell<Vec<String>>>,
    connections: Rc<RefCell<u32>>,
}

fn ok(body: &str) -> Answer {
    Answer::Say(format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len()))
}

/// Answers requests in order; the last answer repeats.
async fn server(answers: Vec<Answer>) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}/v3", listener.local_addr().unwrap());
    let seen: Rc<RefCell<Vec<String>>> = Rc::default();
    let connections = Rc::new(RefCell::new(0));
    let (requests, accepted) = (seen.clone(), connections.clone());
    tokio::task::spawn_local(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            *accepted.borrow_mut() += 1;
            let (requests, answers) = (requests.clone(), answers.clone());
            tokio::task::spawn_local(async move {
                while let Some(request) = read_request(&mut socket).await {
                    let n = requests.borrow().len();
                    requests.borrow_mut().push(request);
                    match answers[n.min(answers.len() - 1)].clone() {
                        Answer::Say(text) => socket.write_all(text.as_bytes()).await.unwrap(),
                        Answer::SayAndClose(text) => {
                            socket.write_all(text.as_bytes()).await.unwrap();
                            return;
                        }
                        Answer::Close => return,
                        Answer::Reset => {
                            socket.set_zero_linger().unwrap();
                            return;
                        }
                        Answer::Nothing => std::future::pending::<()>().await,
                    }
                }
            });
        }
    });
    Server { endpoint, seen, connections }
}

/// One request with a body of known length; `None` when the peer closes.
async fn read_request(socket: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some(end) = text.find("\r\n\r\n") {
            let length: usize = text.lines().find_map(|l| l.strip_prefix("content-length: ")).map_or(0, |l| l.parse().unwrap());
            if text.len() >= end + 4 + length {
                return Some(text);
            }
        }
        let mut buffer = [0; 4096];
        match socket.read(&mut buffer).await {
            Ok(0) | Err(_) => return None,
            Ok(n) => bytes.extend_from_slice(&buffer[..n]),
        }
    }
}

fn call_to(endpoint: &str, operation: Operation) -> ApiCall {
    let headers: RequestHeaders = std::sync::Arc::new(vec![("Buildkite-Hello".to_owned(), "world".to_owned())]);
    let session = Session { endpoint: endpoint.into(), credential: Secret::new("tok"), headers };
    ApiCall { session, operation, limit: Duration::from_secs(10), timeout_ms: None }
}

async fn make(world: &TokioWorld, endpoint: &str, operation: Operation) -> Outcome {
    exchange::call(world, &call_to(endpoint, operation), "ua").await
}

fn transport(outcome: Outcome) -> TransportKind {
    match outcome {
        Outcome::Transport(e) => e.kind,
        other => panic!("not a transport error: {other:?}"),
    }
}

#[test]
fn requests_are_on_the_wire_as_the_specification_has_them() {
    run(async {
        let server = server(vec![ok("{}")]).await;
        let host = server.endpoint.strip_prefix("http://").unwrap().split('/').next().unwrap().to_owned();
        let world = direct();
        assert_eq!(make(&world, &server.endpoint, Operation::Ping).await, Outcome::Ok(Reply::Ping(Box::default())));
        make(&world, &server.endpoint, Operation::Connect).await;
        // Segments of dots only: nothing may normalise them away.
        let path = format!("jobs/{}/{}/x?q=%2E", escape_segment("."), escape_segment(".."));
        let odd =
            JsonRequest { method: "PUT", path, body: Some("{}".into()), headers: vec![("x-buildkite-backoff-sequence", "0".into())], decoded: false };
        make(&world, &server.endpoint, Operation::Json(Box::new(odd))).await;
        let seen = server.seen.borrow();
        let common = "authorization: Token tok\r\nuser-agent: ua\r\n";
        assert_eq!(seen[0], format!("GET /v3/ping HTTP/1.1\r\n{common}buildkite-hello: world\r\nhost: {host}\r\n\r\n"));
        assert_eq!(seen[1], format!("POST /v3/connect HTTP/1.1\r\n{common}content-length: 0\r\nbuildkite-hello: world\r\nhost: {host}\r\n\r\n"));
        assert_eq!(
            seen[2],
            format!(
                "PUT /v3/jobs/%2E/%2E%2E/x?q=%2E HTTP/1.1\r\n{common}content-type: application/json\r\nx-buildkite-backoff-sequence: 0\r\ncontent-length: 3\r\nbuildkite-hello: world\r\nhost: {host}\r\n\r\n{{}}\n"
            )
        );
        assert_eq!(*server.connections.borrow(), 1, "the connection is kept");
    });
}

#[test]
fn failures_have_classes() {
    run(async {
        let world = direct();
        let against = async |answer| make(&world, &server(vec![answer]).await.endpoint, Operation::Connect).await;
        assert_eq!(transport(against(Answer::Close).await), TransportKind::Eof);
        assert_eq!(transport(against(Answer::Reset).await), TransportKind::Reset);
        let cut = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{".to_owned();
        assert_eq!(transport(against(Answer::SayAndClose(cut)).await), TransportKind::Eof);

        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", closed.local_addr().unwrap());
        drop(closed);
        let refused = make(&world, &address, Operation::Ping).await;
        assert!(refused.text().starts_with(&format!("GET {address}/ping: ")), "{}", refused.text());
        assert_eq!(transport(refused), TransportKind::Refused);
        assert_eq!(transport(make(&world, "http://no-such-host.invalid", Operation::Ping).await), TransportKind::NameNotFound);
        let impossible = ["http://127.0.0.1:65536", "http://u:p@127.0.0.1:99999/v3", "https://[::1]:x/v3"];
        for endpoint in ["", "example.com/v3", "ftp://example.com", "http://", "http://a b"].into_iter().chain(impossible) {
            assert_eq!(transport(make(&world, endpoint, Operation::Ping).await), TransportKind::BadUrl, "{endpoint:?}");
        }
        let plain = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("https://{}", plain.local_addr().unwrap());
        tokio::task::spawn_local(async move {
            let (mut socket, _) = plain.accept().await.unwrap();
            socket.write_all(b"HTTP/1.1 400 this is no TLS\r\n\r\n").await.unwrap();
            std::future::pending::<()>().await;
        });
        assert_eq!(transport(make(&world, &address, Operation::Ping).await), TransportKind::Tls);
    });
}

#[test]
fn given_a_silent_server_when_the_limit_passes_then_the_exchange_is_closed() {
    run(async {
        let server = server(vec![Answer::Nothing]).await;
        let call = ApiCall { limit: Duration::from_millis(100), ..call_to(&server.endpoint, Operation::Ping) };
        let outcome = exchange::call(&direct(), &call, "ua").await;
        assert_eq!(outcome.text(), format!("GET {}/ping: no complete response within 100ms", server.endpoint));
        assert_eq!(transport(outcome), TransportKind::Timeout);
    });
}

/// Notes the ends of exchanges.
#[derive(Default)]
struct Ends(RefCell<Vec<Result<u16, TransportKind>>>);

impl HttpObserver for Ends {
    fn sending(&self, _: &RawRequest) {}

    fn answered(&self, _: &RawRequest, answer: &Result<RawResponse, TransportError>, _: Duration) {
        self.0.borrow_mut().push(answer.as_ref().map(|r| r.status).map_err(|e| e.kind));
    }
}

/// agent-api §18: what debug logs are made of has an end for every beginning.
#[test]
fn an_exchange_that_is_given_up_is_observed_to_its_end() {
    run(async {
        let ends = Rc::new(Ends::default());
        let (board, http) = (Board::new(Clock::start()), Http::with_proxies(Ok(ProxyRules::default()), false));
        let parts = Parts {
            log: Rc::new(Silent),
            board,
            metrics: None,
            http,
            http_observer: Some(ends.clone()),
            hooks: HookPlaces::default(),
            verifier: None,
        };
        let world = TokioWorld::new(parts);
        let silent = server(vec![ok("{}"), Answer::Nothing]).await;
        make(&world, &silent.endpoint, Operation::Ping).await;
        let call = ApiCall { limit: Duration::from_millis(50), ..call_to(&silent.endpoint, Operation::Ping) };
        assert_eq!(transport(exchange::call(&world, &call, "ua").await), TransportKind::Timeout);
        assert_eq!(*ends.0.borrow(), [Ok(200), Err(TransportKind::Timeout)]);
    });
}

#[test]
fn a_proxys_page_is_undecodable_and_an_error_is_quoted() {
    run(async {
        let page = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>".to_owned();
        let error = "HTTP/1.1 422 Whatever\r\nContent-Type: application/json\r\nRetry-After: 2.5\r\nContent-Length: 17\r\n\r\n{\"message\":\"no\"}\n"
            .to_owned();
        let server = server(vec![Answer::Say(page), Answer::Say(error)]).await;
        let world = direct();
        let Outcome::Undecodable(text) = make(&world, &server.endpoint, Operation::Ping).await else { panic!("a page is no ping") };
        assert!(text.ends_with("body starts with \"<html>\""), "{text}");
        let refusal = make(&world, &server.endpoint, Operation::Ping).await;
        assert_eq!(refusal.text(), format!("GET {}/ping: 422 Unprocessable Entity: no", server.endpoint));
        assert_eq!(refusal.retry_after(), Some(Duration::from_millis(2500)));
    });
}

#[test]
fn redirects_are_followed_and_the_token_stays_at_home() {
    run(async {
        let world = direct();
        let away = server(vec![ok(r#"{"action":"idle"}"#)]).await;
        let redirect = |to: &str| Answer::Say(format!("HTTP/1.1 307 T\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n"));
        let home = server(vec![redirect("/v3/ping2"), redirect(&format!("{}/ping3", away.endpoint))]).await;
        let outcome = make(&world, &home.endpoint, Operation::Ping).await;
        assert!(matches!(&outcome, Outcome::Ok(Reply::Ping(p)) if p.action == "idle"), "{outcome:?}");
        let with_token = |server: &Server| server.seen.borrow().iter().map(|r| r.contains("authorization: ")).collect::<Vec<_>>();
        assert_eq!(with_token(&home), [true, true]);
        assert_eq!(with_token(&away), [false]);

        let circle = server(vec![redirect("/v3/again")]).await;
        let lost = make(&world, &circle.endpoint, Operation::Ping).await;
        assert!(lost.text().ends_with(": stopped after 10 redirects"), "{}", lost.text());
        assert_eq!(circle.seen.borrow().len(), 11);
    });
}

#[test]
fn only_an_idempotent_get_on_a_reused_connection_is_sent_again() {
    run(async {
        let world = direct();
        // The second request dies on the reused connection and is answered on a new one.
        let dying = server(vec![ok("{}"), Answer::Close, ok("{}")]).await;
        assert!(matches!(make(&world, &dying.endpoint, Operation::Ping).await, Outcome::Ok(_)));
        assert!(matches!(make(&world, &dying.endpoint, Operation::Ping).await, Outcome::Ok(_)));
        assert_eq!((dying.seen.borrow().len(), *dying.connections.borrow()), (3, 2));
        // A POST may have been done: it is not repeated.
        let posted = server(vec![ok("{}"), Answer::Close, ok("{}")]).await;
        assert!(matches!(make(&world, &posted.endpoint, Operation::Connect).await, Outcome::Ok(_)));
        assert_eq!(transport(make(&world, &posted.endpoint, Operation::Connect).await), TransportKind::Eof);
        assert_eq!(posted.seen.borrow().len(), 2);
        // Nor is a GET on a connection of its own.
        let fresh = server(vec![Answer::Close, ok("{}")]).await;
        assert_eq!(transport(make(&world, &fresh.endpoint, Operation::Ping).await), TransportKind::Eof);
        assert_eq!(fresh.seen.borrow().len(), 1);
        // A connection that the server closed while it was idle is noticed, whatever the method.
        let idle = server(vec![Answer::SayAndClose("HTTP/1.1 204 N\r\n\r\n".into())]).await;
        for _ in 0..20 {
            assert_eq!(make(&world, &idle.endpoint, Operation::Connect).await, Outcome::Ok(Reply::Empty));
        }
    });
}

fn frames(messages: &[StreamMessage]) -> String {
    let bytes: Vec<u8> = messages.iter().flat_map(encode_ping_response).collect();
    String::from_utf8(bytes).expect("these frames are ASCII")
}

async fn stream(server: &Server, limit: Duration) -> (Vec<StreamMessage>, StreamEnd) {
    let session = call_to(&server.endpoint, Operation::Ping).session;
    let call = StreamCall { session, agent_id: "0190a0b0-0000-4000-8000-000000000000".into(), limit };
    let got = RefCell::new(Vec::new());
    let end = exchange::stream(&direct(), &call, "ua", async |message| got.borrow_mut().push(message)).await;
    (got.into_inner(), end)
}

#[test]
fn a_stream_over_plain_http_ends_with_unannounced_trailers() {
    run(async {
        let messages = [StreamMessage::Resume, StreamMessage::Job { id: "j1".into() }];
        let body = frames(&messages);
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nTransfer-Encoding: chunked\r\n\r\n";
        let (first, rest) = body.split_at(3);
        let text = format!("{head}3\r\n{first}\r\n{:x}\r\n{rest}\r\n0\r\nGrpc-Status: 14\r\nGrpc-Message: going%20away\r\n\r\n", rest.len());
        let server = server(vec![Answer::Say(text)]).await;
        let (got, end) = stream(&server, Duration::from_secs(10)).await;
        assert_eq!(got, messages);
        assert_eq!(end, StreamEnd::Code { code: GrpcCode::Unavailable, text: "unavailable: going away".into() });
        assert!(server.seen.borrow()[0].starts_with("POST /agentedge.v1.AgentEdgeService/StreamPings HTTP/1.1\r\n"));
    });
}

#[test]
fn streams_that_fail_have_codes() {
    run(async {
        let code = async |answer, limit_ms| match stream(&server(vec![answer]).await, Duration::from_millis(limit_ms)).await.1 {
            StreamEnd::Code { code, .. } => code,
            other => panic!("{other:?}"),
        };
        let status = |line: &str| Answer::Say(format!("HTTP/1.1 {line}\r\nContent-Length: 0\r\n\r\n"));
        assert_eq!(code(status("404 Not Found"), 10_000).await, GrpcCode::Unimplemented);
        assert_eq!(code(status("503 Busy"), 10_000).await, GrpcCode::Unavailable);
        assert_eq!(code(Answer::Close, 10_000).await, GrpcCode::Unavailable);
        assert_eq!(code(Answer::Nothing, 100).await, GrpcCode::DeadlineExceeded);
        let open = "HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned();
        assert_eq!(code(Answer::Say(open.clone()), 100).await, GrpcCode::DeadlineExceeded);
        assert_eq!(code(Answer::SayAndClose(open), 10_000).await, GrpcCode::Unavailable);
    });
}

#[test]
fn plain_targets_are_asked_of_the_proxy_and_tls_targets_tunnelled() {
    run(async {
        let refusal = "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n".to_owned();
        let proxy = server(vec![ok("{}"), Answer::Say(refusal)]).await;
        let address = proxy.endpoint.strip_prefix("http://").and_then(|e| e.strip_suffix("/v3")).unwrap();
        let url = format!("http://user:pass@{address}");
        let rules = ProxyRules::from_vars(|name| matches!(name, "HTTP_PROXY" | "HTTPS_PROXY").then(|| url.clone())).unwrap();
        let world = world(Http::with_proxies(Ok(rules), false));
        make(&world, "http://control.example/v3", Operation::Ping).await;
        assert!(matches!(make(&world, "https://control.example/v3", Operation::Ping).await, Outcome::Transport(_)));
        let seen = proxy.seen.borrow();
        assert!(seen[0].starts_with("GET http://control.example/v3/ping HTTP/1.1\r\n"), "{}", seen[0]);
        assert!(seen[0].contains("proxy-authorization: Basic dXNlcjpwYXNz\r\n"), "{}", seen[0]);
        let tunnel = seen[1].to_ascii_lowercase();
        assert!(tunnel.starts_with("connect control.example:443 http/1.1\r\n"), "{tunnel}");
        assert!(tunnel.contains("proxy-authorization: basic dxnlcjpwyxnz\r\n"), "{tunnel}");
        assert!(!tunnel.contains("token tok"), "the credential is not for the proxy");
    });
}

/// A SOCKS5 proxy that lets everybody through to `target` and notes who asked for what.
async fn socks(target: String, seen: Rc<RefCell<Vec<String>>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::task::spawn_local(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let (target, seen) = (target.clone(), seen.clone());
            tokio::task::spawn_local(async move {
                let version = socket.read_u8().await.unwrap();
                let mut methods = vec![0; socket.read_u8().await.unwrap().into()];
                socket.read_exact(&mut methods).await.unwrap();
                let mut user = String::from("nobody");
                let method = if methods.contains(&2) { 2 } else { 0 };
                socket.write_all(&[5, method]).await.unwrap();
                let text = async |socket: &mut TcpStream| {
                    let mut bytes = vec![0; socket.read_u8().await.unwrap().into()];
                    socket.read_exact(&mut bytes).await.unwrap();
                    String::from_utf8(bytes).unwrap()
                };
                if method == 2 {
                    assert_eq!(socket.read_u8().await.unwrap(), 1);
                    user = format!("{}:{}", text(&mut socket).await, text(&mut socket).await);
                    socket.write_all(&[1, 0]).await.unwrap();
                }
                let mut head = [0; 4];
                socket.read_exact(&mut head).await.unwrap();
                assert_eq!((version, head), (5, [5, 1, 0, 3]), "a name is looked up by the proxy");
                let host = text(&mut socket).await;
                let port = socket.read_u16().await.unwrap();
                seen.borrow_mut().push(format!("{user} {host}:{port}"));
                let mut to = TcpStream::connect(target).await.unwrap();
                socket.write_all(&[5, 0, 0, 1, 127, 0, 0, 1, 0, 80]).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut socket, &mut to).await;
            });
        }
    });
    address
}

#[test]
fn a_socks_proxy_is_given_the_name_and_then_left_alone() {
    run(async {
        let server = server(vec![ok("{}")]).await;
        let target = server.endpoint.strip_prefix("http://").and_then(|e| e.strip_suffix("/v3")).unwrap().to_owned();
        let asked: Rc<RefCell<Vec<String>>> = Rc::default();
        let address = socks(target, asked.clone()).await;
        for (user, endpoint) in [("", "http://control.example/v3"), ("us%40er:pass@", "http://control.example:8080/v3")] {
            let url = format!("socks5://{user}{address}");
            let rules = ProxyRules::from_vars(|name| (name == "http_proxy").then(|| url.clone())).unwrap();
            let outcome = make(&world(Http::with_proxies(Ok(rules), false)), endpoint, Operation::Ping).await;
            assert!(matches!(outcome, Outcome::Ok(_)), "{outcome:?}");
        }
        assert_eq!(*asked.borrow(), ["nobody control.example:80", "us@er:pass control.example:8080"]);
        let seen = server.seen.borrow();
        assert!(seen[0].starts_with("GET /v3/ping HTTP/1.1\r\n") && seen[0].contains("host: control.example\r\n"), "{}", seen[0]);
        assert!(seen.iter().all(|r| r.contains("authorization: Token tok") && !r.contains("proxy-authorization")), "{seen:?}");
    });
}

#[test]
fn a_body_of_megabytes_goes_out_whole() {
    run(async {
        let server = server(vec![Answer::Say("HTTP/1.1 201 C\r\nContent-Length: 0\r\n\r\n".into())]).await;
        let body = Bytes::from(vec![b'x'; 3 << 20]);
        let chunk = Operation::Chunk { job: "j".into(), sequence: 1, offset: 0, size: 3 << 20, body };
        assert_eq!(make(&direct(), &server.endpoint, chunk).await, Outcome::Ok(Reply::Empty));
        assert!(server.seen.borrow()[0].starts_with("POST /v3/jobs/j/chunks?sequence=1&offset=0&size=3145728 HTTP/1.1\r\n"));
    });
}
