//! The status server over a real socket (start-and-worker §7).

use ibex_core::agent::{Metric, WorkerHealth};
use ibex_core::machine::Instant;
use ibex_io::driver::Clock;
use ibex_io::status::{Board, serve};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn get(address: std::net::SocketAddr, path: &str) -> (u16, String) {
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(format!("BREW {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).await.unwrap();
    let mut text = String::new();
    socket.read_to_string(&mut text).await.unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

fn health(worker: u32, job: Option<&str>) -> WorkerHealth {
    WorkerHealth {
        worker,
        id: format!("uuid-{worker}").into(),
        name: format!("box-{worker}").into(),
        state: "serving",
        current_job: job.map(Into::into),
        last_heartbeat: None,
        heartbeat_error: None,
    }
}

fn run(future: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(20), future).await.expect("within 20 s") });
}

#[test]
fn every_path_has_its_answer_and_no_method_is_checked() {
    run(async {
        let board = Board::new(Clock::start());
        let (address, _server) = serve("127.0.0.1:0", board.clone()).await.unwrap();
        assert_ne!(address.port(), 0, "the real address is told");
        board.health(&health(2, None));
        board.health(&health(1, Some("job-9")));
        board.metric(&Metric::WorkerStarted);
        assert_eq!(get(address, "/").await, (200, "OK: Buildkite agent is running".to_owned()));
        let json = "{\"health\":\"ok\",\"aggregate_status\":\"busy\",\"workers\":[{\"status\":\"busy\",\"current_job_id\":\"job-9\",\"id\":\"uuid-1\",\"spawn_index\":1},{\"status\":\"idle\",\"id\":\"uuid-2\",\"spawn_index\":2}]}\n";
        assert_eq!(get(address, "/status.json").await, (200, json.to_owned()));
        let (status, metrics) = get(address, "/metrics").await;
        assert!(status == 200 && metrics.contains("\nbuildkite_agent_workers_started_total 1\n"));
        let (status, page) = get(address, "/status").await;
        assert!(status == 200 && page.contains("box-1") && page.contains("job-9"));
        for missing in ["/nothing", "/agent/3", "/agent/x", "/agent/", "/status/"] {
            assert_eq!(get(address, missing).await, (404, "404 page not found".to_owned()), "{missing}");
        }
    });
}

#[test]
fn the_heartbeat_of_a_worker_is_told() {
    run(async {
        let board = Board::new(Clock::start());
        let (address, _server) = serve("localhost:0", board.clone()).await.unwrap();
        board.health(&health(1, None));
        assert_eq!(get(address, "/agent/1").await, (200, "OK: no heartbeat yet".to_owned()));
        board.health(&WorkerHealth { last_heartbeat: Some(Instant::ZERO), ..health(1, None) });
        let (status, text) = get(address, "/agent/1").await;
        assert!(status == 200 && text.starts_with("OK: last heartbeat successful ") && text.ends_with(" ago"), "{text}");
        board.health(&WorkerHealth { last_heartbeat: Some(Instant::ZERO), heartbeat_error: Some("503".into()), ..health(1, None) });
        let (status, text) = get(address, "/agent/1").await;
        assert!(status == 500 && text.starts_with("ERROR: last heartbeat failed: 503. last successful was "), "{text}");
    });
}

#[test]
fn an_address_in_use_is_an_error() {
    run(async {
        let board = Board::new(Clock::start());
        let (address, _server) = serve("127.0.0.1:0", board.clone()).await.unwrap();
        assert!(serve(&address.to_string(), board).await.is_err());
    });
}
