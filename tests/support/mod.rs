//! A loopback server that answers by a function and remembers what it was asked, for tests of the built binary.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

/// Requests that wait to be taken by [`Server::next`]. A test that takes none need not know of it: what finds no room is in
/// [`Server::requests`] all the same.
const ARRIVALS: usize = 1024;

/// A request as received.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// `METHOD target`
    pub(crate) line: String,
    /// Headers, names lower case.
    pub(crate) headers: Vec<(String, String)>,
    /// Body.
    pub(crate) body: String,
}

impl Request {
    /// Value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// The body as JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).expect("the body is JSON")
    }
}

/// Status and body for a request.
pub(crate) type Answer = dyn Fn(&Request) -> (u16, String) + Send + Sync;

/// The server; its threads end with the process.
pub(crate) struct Server {
    /// Base URL, with `/v3`.
    pub(crate) url: String,
    requests: Arc<Mutex<Vec<Request>>>,
    arrivals: Mutex<mpsc::Receiver<Request>>,
}

impl Server {
    /// Listens on a free port.
    pub(crate) fn start(answer: impl Fn(&Request) -> (u16, String) + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
        let url = format!("http://{}/v3", listener.local_addr().expect("its address"));
        let requests = Arc::<Mutex<Vec<Request>>>::default();
        let (tell, arrivals) = mpsc::sync_channel(ARRIVALS);
        let (seen, answer): (_, Arc<Answer>) = (requests.clone(), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (seen, answer, tell) = (seen.clone(), answer.clone(), tell.clone());
                std::thread::spawn(move || serve(stream, &seen, &*answer, &tell));
            }
        });
        Server { url, requests, arrivals: Mutex::new(arrivals) }
    }

    /// All requests so far.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().expect("no panic while held").clone()
    }

    /// The next request that was not yet taken, within a bound.
    pub(crate) fn next(&self) -> Request {
        self.arrivals.lock().expect("no panic while held").recv_timeout(Duration::from_secs(20)).expect("a request arrives")
    }
}

fn serve(stream: TcpStream, seen: &Mutex<Vec<Request>>, answer: &Answer, tell: &mpsc::SyncSender<Request>) {
    let mut reader = BufReader::new(stream.try_clone().expect("a second handle"));
    let mut stream = stream;
    while let Some(request) = read(&mut reader) {
        seen.lock().expect("no panic while held").push(request.clone());
        // Nobody may be waiting any more, or ever have been.
        let _ = tell.try_send(request.clone());
        let (status, body) = answer(&request);
        let response = format!("HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        if stream.write_all(response.as_bytes()).is_err() {
            return;
        }
    }
}

fn read(reader: &mut impl BufRead) -> Option<Request> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
    let line = line.trim_end().trim_end_matches(" HTTP/1.1").to_owned();
    let mut headers = Vec::new();
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok().filter(|n| *n > 0)?;
        match header.trim_end().split_once(": ") {
            Some((name, value)) => headers.push((name.to_lowercase(), value.to_owned())),
            None => break,
        }
    }
    let length = headers.iter().find(|(n, _)| n == "content-length").and_then(|(_, v)| v.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Request { line, headers, body: String::from_utf8_lossy(&body).into_owned() })
}
