//! The status server of the built binary (specification: start-and-worker §7).

mod common;

use common::agent::Setup;
use common::{Act, Agent, Plane, SOON, dir, wait_for};
use ibex_core::agent::{Agent as Machine, AgentConfig, AgentLog, OsSignal, PingMode, Priority};
use ibex_core::api::RegisterRequest;
use ibex_core::job::JobConfig;
use ibex_core::log::LogStream;
use ibex_core::secret::Secret;
use ibex_io::agent_world::{self, Drive};
use ibex_io::driver::Clock;
use ibex_io::effects::Effects;
use ibex_io::status::{Board, serve};
use ibex_io::tokio::{HookPlaces, Http, LogSink, Parts, TokioWorld};
use std::cell::RefCell;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Address that the agent says it listens on.
fn address(agent: &Agent) -> String {
    const SAID: &str = "Starting HTTP health check server on ";
    agent.wait_text(SAID);
    wait_for("the whole address", SOON, || {
        let text = agent.text();
        let (line, _) = text.split_once(SAID)?.1.split_once('\n')?;
        Some(line.split_whitespace().next()?.to_owned())
    })
}

/// Status, content type and body of a request; no method is checked.
fn ask(address: &str, method: &str, path: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(address).expect("the status server");
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let kind = head.lines().find_map(|l| l.to_lowercase().strip_prefix("content-type: ").map(str::to_owned)).unwrap_or_default();
    (status, kind, body.to_owned())
}

fn get(address: &str, path: &str) -> (u16, String) {
    let (status, _, body) = ask(address, "GET", path);
    (status, body)
}

#[test]
fn an_agent_with_port_0_says_where_it_listens_and_answers_every_path() {
    let (work, plane) = (dir(), Plane::with_intervals(1, 1, 1));
    let agent = Setup::script("#!/bin/sh\ntouch \"$DIR/up\"\nuntil [ -e \"$DIR/go\" ]; do sleep 0.05; done\n")
        .arg(&["--health-check-addr", "127.0.0.1:0", "--spawn", "2"])
        .start(&plane, work.path());
    let at = address(&agent);
    assert!(!at.ends_with(":0"), "{at}");
    assert_eq!(ask(&at, "GET", "/"), (200, "text/plain; charset=utf-8".into(), "OK: Buildkite agent is running".into()));
    assert_eq!(ask(&at, "DELETE", "/").0, 200, "no method is checked");
    for path in ["/nothing", "/agent/", "/agent/0", "/agent/3", "/agent/1/x", "/agent/+1", "/agent/01", "//"] {
        assert_eq!(get(&at, path), (404, "404 page not found".into()), "{path}");
    }
    plane
        .wait("two heartbeats", SOON, |s| (s.requests.iter().filter(|r| r.is("POST", "/heartbeat") && r.ended.is_some()).count() >= 2).then_some(()));
    wait_for("the heartbeats to show", SOON, || {
        [1, 2].iter().all(|i| get(&at, &format!("/agent/{i}")).1.starts_with("OK: last heartbeat successful ")).then_some(())
    });

    let (status, kind, body) = ask(&at, "GET", "/status.json");
    assert!(status == 200 && kind.starts_with("application/json") && body.ends_with("}\n"), "{kind} {body}");
    let idle: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!((&idle["health"], &idle["aggregate_status"]), (&"ok".into(), &"idle".into()));
    let workers = idle["workers"].as_array().unwrap();
    assert_eq!(workers.iter().map(|w| w["spawn_index"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2]);
    assert!(workers.iter().all(|w| w["status"] == "idle" && w["id"].as_str().unwrap().starts_with("agent-") && w.get("current_job_id").is_none()));

    let job = plane.job(&[("DIR", work.path().to_str().unwrap()), ("BUILDKITE_AGENT_META_DATA_QUEUE", "q")]);
    wait_for("the job to run", SOON, || work.path().join("up").exists().then_some(()));
    let busy: serde_json::Value = serde_json::from_str(&get(&at, "/status.json").1).unwrap();
    assert_eq!(busy["aggregate_status"], "busy");
    let at_work: Vec<_> = busy["workers"].as_array().unwrap().iter().filter(|w| w["status"] == "busy").collect();
    assert_eq!((at_work.len(), &at_work[0]["current_job_id"]), (1, &job.clone().into()));
    assert!(get(&at, "/metrics").1.contains("buildkite_agent_jobs_running{priority=\"0\",queue=\"q\"} 1\n"));
    let (status, kind, page) = ask(&at, "GET", "/status");
    assert!(status == 200 && kind.starts_with("text/html") && page.contains(&job), "{kind} {page}");
    std::fs::write(work.path().join("go"), "").unwrap();
    plane.wait_finish(&job);
    wait_for("the worker to be idle", SOON, || get(&at, "/status.json").1.contains("\"aggregate_status\":\"idle\"").then_some(()));
    assert!(get(&at, "/metrics").1.contains("buildkite_agent_jobs_ended_total{priority=\"0\",queue=\"q\"} 1\n"));
}

#[test]
fn every_metric_of_the_specification_is_there_from_the_start() {
    let (work, plane) = (dir(), Plane::start());
    plane.rule("POST", "/connect", 1, Act::Hold);
    let agent = Setup::script("#!/bin/sh\n").arg(&["--health-check-addr", "127.0.0.1:0"]).start(&plane, work.path());
    let at = address(&agent);
    plane.wait_request("POST", "/connect", 1);
    assert_eq!(get(&at, "/agent/1"), (200, "OK: no heartbeat yet".into()), "also before it is connected");
    let (status, kind, text) = ask(&at, "GET", "/metrics");
    assert!(status == 200 && kind.starts_with("text/plain"), "{kind}");
    for counter in [
        "workers_ended_total",
        "pings_sent_total",
        "pings_errors_total",
        "logs_chunks_uploaded_total",
        "logs_bytes_uploaded_total",
        "logs_compressed_bytes_uploaded_total",
        "logs_chunk_uploads_errored_total",
        "logs_bytes_uploads_errored_total",
    ] {
        assert!(text.contains(&format!("\nbuildkite_agent_{counter} 0\n")), "{counter}: {text}");
    }
    assert!(text.contains("\nbuildkite_agent_workers_started_total 1\n"), "{text}");
    let kinds = [
        ("pings_actions_total", "counter"),
        ("jobs_started_total", "counter"),
        ("jobs_ended_total", "counter"),
        ("jobs_running", "gauge"),
        ("pings_duration_seconds_total", "histogram"),
        ("pings_wait_duration_seconds_total", "histogram"),
        ("logs_upload_duration_seconds_total", "histogram"),
        ("logs_chunk_size_bytes", "histogram"),
    ];
    for (name, kind) in kinds {
        assert!(text.contains(&format!("# TYPE buildkite_agent_{name} {kind}\n")), "{name}: {text}");
    }
}

#[test]
fn a_worker_whose_heartbeat_was_rejected_says_so() {
    let (work, plane) = (dir(), Plane::with_intervals(1, 1, 1));
    // A rejected heartbeat ends the worker: a job that is deaf to the signal keeps it for a while.
    let script = "#!/bin/sh\ntrap '' TERM\ntouch \"$DIR/up\"\nwhile [ -e \"$DIR/up\" ]; do sleep 0.05; done\n";
    let agent = Setup::script(script).arg(&["--health-check-addr", "127.0.0.1:0"]).start(&plane, work.path());
    let at = address(&agent);
    plane.job(&[("DIR", work.path().to_str().unwrap())]);
    wait_for("the job to run", SOON, || work.path().join("up").exists().then_some(()));
    plane.wait_request("POST", "/heartbeat", 1);
    wait_for("the heartbeat to show", SOON, || get(&at, "/agent/1").1.contains("successful").then_some(()));
    plane.rule("POST", "/heartbeat", 100, Act::Status(422));
    wait_for("the failure to show", SOON, || {
        let (status, body) = get(&at, "/agent/1");
        (status == 500).then(|| {
            assert!(
                body.starts_with("ERROR: last heartbeat failed: ") && body.contains(". last successful was ") && body.ends_with(" ago"),
                "{body}"
            );
        })
    });
}

/// Attempts of one heartbeat cycle, and the wait between two of them (start-and-worker §0.3).
const CYCLE: (usize, Duration) = (10, Duration::from_secs(5));

/// From now on heartbeats fail for one cycle, and the next one is held.
fn fail_one_cycle(plane: &Plane) -> u64 {
    let held = plane.rule("POST", "/heartbeat", usize::MAX, Act::Hold);
    plane.rule("POST", "/heartbeat", CYCLE.0, Act::Status(503));
    held
}

fn failed(plane: &Plane) -> usize {
    plane.with(|s| s.requests.iter().filter(|r| r.is("POST", "/heartbeat") && r.status == 503).count())
}

fn assert_failed((status, body): (u16, String)) {
    assert_eq!(status, 500, "{body}");
    assert!(body.starts_with("ERROR: last heartbeat failed: POST http://127.0.0.1:") && body.contains("503 Service Unavailable"), "{body}");
    let (_, ago) = body.split_once(". last successful was ").expect("when");
    let ago = ago.strip_suffix(" ago").expect("how long ago");
    let seconds = ago.strip_suffix('s').and_then(|s| s.parse::<f64>().ok());
    // A slow machine makes minutes of it.
    assert!(ago.contains('m') || seconds.is_some_and(|s| s >= 45.0), "{body}");
}

#[derive(Default)]
struct Lines(RefCell<Vec<String>>);

impl LogSink for Lines {
    fn log(&self, line: &AgentLog) {
        self.0.borrow_mut().push(line.text.clone());
    }
}

fn one_worker(endpoint: String) -> AgentConfig {
    AgentConfig {
        spawn: 1,
        name: "one".into(),
        priority: Priority::Static(String::new()),
        token: Secret::new("registration-token".to_owned()),
        endpoint,
        request_headers: Vec::new(),
        register: RegisterRequest::default(),
        ping_mode: PingMode::PollOnly,
        acquire_job: None,
        reflect_exit_status: false,
        disconnect_after_job: false,
        disconnect_after_idle: None,
        disconnect_after_uptime: None,
        cancel_signal_timeout: Duration::from_secs(2),
        cancel_cleanup_timeout: Duration::from_secs(2),
        kubernetes_exec: false,
        watchdog: None,
        otlp: None,
        cancel_signal: OsSignal::Term,
        job: JobConfig::default(),
    }
}

/// The same driver, world, log and status server as the binary's; only the clock is pushed over the waits between attempts.
#[test]
fn a_heartbeat_whose_whole_cycle_failed_is_shown_until_the_next_success() {
    let plane = Plane::with_intervals(3600, 1, 1);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let (clock, lines) = (Clock::start(), Rc::new(Lines::default()));
        let board = Board::new(clock);
        let (address, _server) = serve("127.0.0.1:0", board.clone()).await.unwrap();
        let hooks = HookPlaces { path: String::new(), additional: Vec::new(), shell: String::new() };
        let parts = Parts { log: lines.clone(), board, metrics: None, http: Http::new(false), http_observer: None, hooks, verifier: None };
        let world = TokioWorld::new(parts);
        let wall = world.wall_clock(clock);
        let (_never, signals) = tokio::sync::mpsc::channel(1);
        let mut agent = Machine::new(Arc::new(one_worker(plane.url())), wall, [7; 32]);
        let drive = Drive { clock, wall, user_agent: "test".into(), signals, recorder: None };
        tokio::task::spawn_local(async move { agent_world::run(world, &mut agent, LogStream::new, drive).await });

        let shown = || async {
            let at = address.to_string();
            tokio::task::spawn_blocking(move || get(&at, "/agent/1")).await.unwrap()
        };
        // On the machine's own clock, whatever the agent's shows.
        let end = Instant::now() + SOON * 3;
        let within = |what: &str| assert!(Instant::now() < end, "not in time: {what}; logged {:#?}", lines.0.borrow());
        while !shown().await.1.starts_with("OK: last heartbeat successful ") {
            within("a first heartbeat");
        }
        let held = fail_one_cycle(&plane);
        for attempt in 1..=CYCLE.0 {
            let said = format!("(Attempt {attempt}/{}", CYCLE.0);
            while !lines.0.borrow().iter().any(|l| l.contains(&said)) {
                within(&said);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            if attempt == CYCLE.0 {
                break;
            }
            assert_eq!((shown().await.0, failed(&plane)), (200, attempt), "only a whole cycle counts");
            tokio::time::pause();
            tokio::time::advance(CYCLE.1).await;
            tokio::time::resume();
        }
        while shown().await.0 != 500 {
            within("the failure to show");
        }
        assert_failed(shown().await);
        let again = "Will try again in 1s. (Last successful was ";
        assert!(lines.0.borrow().iter().any(|l| l.starts_with("Failed to heartbeat POST ") && l.contains(again)), "{:#?}", lines.0.borrow());
        assert_eq!(failed(&plane), CYCLE.0);
        plane.release(held);
        while !shown().await.1.starts_with("OK: last heartbeat successful ") {
            within("the next success");
        }
    });
}

#[test]
#[ignore = "takes 45 s: the waits of a whole heartbeat cycle in real time"]
fn a_whole_failed_heartbeat_cycle_of_the_binary_is_shown_until_the_next_success() {
    let (work, plane) = (dir(), Plane::with_intervals(1, 1, 1));
    let agent = Setup::script("#!/bin/sh\n").arg(&["--health-check-addr", "127.0.0.1:0"]).start(&plane, work.path());
    let at = address(&agent);
    wait_for("a heartbeat", SOON, || get(&at, "/agent/1").1.contains("successful").then_some(()));
    let held = fail_one_cycle(&plane);
    let begun = Instant::now();
    wait_for("the failure to show", CYCLE.1 * 9 + SOON, || (get(&at, "/agent/1").0 == 500).then_some(()));
    assert!(begun.elapsed() > CYCLE.1 * 9, "only a whole cycle counts: {:?}", begun.elapsed());
    assert_eq!(failed(&plane), CYCLE.0);
    assert_failed(get(&at, "/agent/1"));
    agent.wait_text("Failed to heartbeat POST ");
    plane.release(held);
    wait_for("the next success", SOON, || get(&at, "/agent/1").1.starts_with("OK: last heartbeat successful ").then_some(()));
}
