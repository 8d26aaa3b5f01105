//! The HTTP server of `health-check-addr`: no method is checked, nobody is asked who they are.

use super::board::Board;
use super::page;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use std::io;
use std::net::SocketAddr;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// Listens on `address` (`host:port`, or `:port` for all addresses) and serves until the process ends. The address that
/// comes back is the real one, also for port 0.
pub async fn serve(address: &str, board: Board) -> io::Result<(SocketAddr, JoinHandle<io::Result<()>>)> {
    let listener = match address.strip_prefix(':') {
        // Both families where the system has both.
        Some(port) => match TcpListener::bind(format!("[::]:{port}")).await {
            Ok(listener) => listener,
            Err(_) => TcpListener::bind(format!("0.0.0.0:{port}")).await?,
        },
        None => TcpListener::bind(address).await?,
    };
    let real = listener.local_addr()?;
    let router = Router::new().fallback(answer).with_state(board);
    let server = tokio::spawn(async move { axum::serve(listener, router).await });
    Ok((real, server))
}

async fn answer(State(board): State<Board>, uri: Uri) -> Response {
    let text = |status: u16, text: String| {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response()
    };
    let typed = |content_type: &'static str, body: String| ([(header::CONTENT_TYPE, content_type)], body).into_response();
    match uri.path() {
        "/" => text(200, "OK: Buildkite agent is running".to_owned()),
        "/status.json" => typed("application/json", format!("{}\n", board.json())),
        "/status" => typed("text/html; charset=utf-8", page::render(&board)),
        "/metrics" => typed("text/plain; version=0.0.4; charset=utf-8", board.metrics()),
        path => {
            // Only the number as it is written, no `+1` or `01`.
            let number = path.strip_prefix("/agent/").and_then(|i| i.parse::<u32>().ok().filter(|n| n.to_string() == i));
            let worker = number.and_then(|i| board.agent(i));
            let (status, body) = worker.unwrap_or((404, "404 page not found".to_owned()));
            text(status, body)
        }
    }
}
