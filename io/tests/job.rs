//! One job through the real world: process, log stream, uploads on the wire. The agent is a script that does what a runner
//! would; what is under test is everything between its commands and its events.

use flate2::read::GzDecoder;
use http_body_util::BodyExt;
use ibex_core::agent::{AgentCommand, AgentEvent, AgentLog, Exit, HookEnd, HookSpec, OsSignal};
use ibex_core::api::{RequestHeaders, Session};
use ibex_core::job::ChildEnv;
use ibex_core::log::{LogConfig, LogStream, TimestampMode};
use ibex_core::machine::{Instant, Machine, Owner, RequestId};
use ibex_core::process::{ExitStatus, ProcessEvent, ProcessSpec, SignalTarget};
use ibex_core::secret::Secret;
use ibex_io::agent_world::{Drive, run as run_agent};
use ibex_io::driver::Clock;
use ibex_io::effects::Effects;
use ibex_io::status::Board;
use ibex_io::tokio::{HookPlaces, Http, LogSink, Parts, TokioWorld};
use serde::Serialize;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::Read;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const JOB: Owner = Owner::Job { worker: 1, generation: 1 };
const SPAWN: RequestId = RequestId { owner: JOB, serial: 1 };
const HOOK: RequestId = RequestId { owner: Owner::Agent, serial: 1 };

/// What the script does at the start, and in answer to events.
#[derive(Clone, Serialize)]
struct Script {
    #[serde(skip)]
    begin: Vec<AgentCommand>,
    #[serde(skip)]
    react: fn(&AgentEvent) -> Vec<AgentCommand>,
    #[serde(skip)]
    seen: Vec<AgentEvent>,
    deadline: Option<Instant>,
}

impl Machine for Script {
    type Event = AgentEvent;
    type Command = AgentCommand;

    fn handle(&mut self, now: Instant, event: AgentEvent, out: &mut Vec<AgentCommand>) {
        if event == AgentEvent::Begin {
            out.append(&mut self.begin);
            self.deadline = Some(now + Duration::from_secs(60));
        }
        out.extend((self.react)(&event));
        self.seen.push(event);
    }

    fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    fn expire(&mut self, _: Instant, _: &mut Vec<AgentCommand>) {
        panic!("the script did not end within a minute: {:?}", self.seen);
    }
}

fn exit() -> AgentCommand {
    AgentCommand::Exit(Exit { code: 0, message: None, by_signal: None, kill_jobs: true })
}

/// What a runner does: flush after the end of the output, leave when the log is drained.
fn like_a_runner(event: &AgentEvent) -> Vec<AgentCommand> {
    match event {
        AgentEvent::Process { event: ProcessEvent::Started { .. }, .. } => vec![AgentCommand::LogProcessStarted { job: JOB }],
        AgentEvent::Process { event: ProcessEvent::OutputEnded { .. }, .. } => {
            let line = AgentCommand::LogLine { job: JOB, line: "last line\n".into() };
            vec![line, AgentCommand::LogFlush { job: JOB, limit: Duration::from_secs(30) }]
        }
        AgentEvent::LogDrained { .. } | AgentEvent::HookEnded { .. } => vec![exit()],
        _ => Vec::new(),
    }
}

/// Text and fields.
type Line = (String, Vec<(&'static str, String)>);

#[derive(Clone, Default)]
struct Lines(Rc<RefCell<Vec<Line>>>);

impl LogSink for Lines {
    fn log(&self, line: &AgentLog) {
        self.0.borrow_mut().push((line.text.clone(), line.fields.clone()));
    }
}

/// Chunks by sequence: offset, size, contents.
type Chunks = Arc<Mutex<BTreeMap<u64, (u64, u64, Vec<u8>)>>>;

async fn chunk_server(keep: bool) -> (String, Chunks) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}/v3", listener.local_addr().unwrap());
    let chunks = Chunks::default();
    let store = chunks.clone();
    tokio::task::spawn_local(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let store = store.clone();
            let service = hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                let store = store.clone();
                async move {
                    let query = request.uri().query().unwrap_or_default().to_owned();
                    let number = |name: &str| query.split('&').find_map(|p| p.strip_prefix(name)).unwrap().parse::<u64>().unwrap();
                    let (sequence, offset, size) = (number("sequence="), number("offset="), number("size="));
                    let body = request.into_body().collect().await?.to_bytes();
                    let mut text = Vec::new();
                    if keep {
                        GzDecoder::new(&body[..]).read_to_end(&mut text).unwrap();
                    }
                    store.lock().unwrap().insert(sequence, (offset, size, text));
                    let created = hyper::Response::builder().status(201).body(http_body_util::Empty::<bytes::Bytes>::new());
                    Ok::<_, hyper::Error>(created.unwrap())
                }
            });
            let io = hyper_util::rt::TokioIo::new(socket);
            tokio::task::spawn_local(hyper::server::conn::http1::Builder::new().serve_connection(io, service));
        }
    });
    (endpoint, chunks)
}

fn log_config(endpoint: &str, chunk_bytes: u64) -> LogConfig {
    let session = Session { endpoint: endpoint.into(), credential: Secret::new("jobtok"), headers: RequestHeaders::default() };
    LogConfig {
        job: JOB,
        job_id: "j".into(),
        worker: "w".into(),
        session,
        chunk_bytes,
        interval: Duration::from_secs(1),
        size_warning: 1 << 30,
        timestamps: TimestampMode::Plain,
        buffer_bytes: 8 * 1024 * 1024,
        stdout: None,
        stdout_fields: Vec::new(),
        copy: None,
        seed: 1,
    }
}

fn spec(script: &str, pty: bool) -> ProcessSpec {
    let argv = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
    ProcessSpec { job: JOB, argv, env: ChildEnv::default(), dir: "/".into(), pty, raw: pty }
}

fn begin(endpoint: &str, script: &str, pty: bool, chunk_bytes: u64) -> Vec<AgentCommand> {
    vec![
        AgentCommand::LogBegin { job: JOB, config: Box::new(log_config(endpoint, chunk_bytes)) },
        AgentCommand::Spawn { id: SPAWN, spec: Box::new(spec(script, pty)) },
    ]
}

fn block_on(future: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, future);
}

async fn play(begin: Vec<AgentCommand>, react: fn(&AgentEvent) -> Vec<AgentCommand>, hooks: HookPlaces) -> (Vec<AgentEvent>, Lines) {
    let (clock, lines) = (Clock::start(), Lines::default());
    let http = Http::with_proxies(Ok(Default::default()), false);
    let world = TokioWorld::new(Parts {
        log: Rc::new(lines.clone()),
        board: Board::new(clock),
        metrics: None,
        http,
        http_observer: None,
        hooks,
        verifier: None,
    });
    let mut script = Script { begin, react, seen: Vec::new(), deadline: None };
    let (_signals, signals) = tokio::sync::mpsc::channel(1);
    let wall = world.wall_clock(clock);
    run_agent(world, &mut script, LogStream::new, Drive { clock, wall, user_agent: "ua".into(), signals, recorder: None }).await;
    (script.seen, lines)
}

/// The events of the process, in order, without what differs from run to run.
fn life(events: &[AgentEvent]) -> Vec<ProcessEvent> {
    let process = events.iter().filter_map(|e| if let AgentEvent::Process { event, .. } = e { Some(event.clone()) } else { None });
    process.map(|e| if let ProcessEvent::Started { .. } = e { ProcessEvent::Started { pid: 0 } } else { e }).collect()
}

fn joined(chunks: &Chunks) -> String {
    let chunks = chunks.lock().unwrap();
    let mut text = Vec::new();
    for (i, (sequence, (offset, size, data))) in chunks.iter().enumerate() {
        assert_eq!((*sequence, *offset, *size), (i as u64 + 1, text.len() as u64, data.len() as u64));
        text.extend_from_slice(data);
    }
    String::from_utf8(text).unwrap()
}

#[test]
fn every_byte_is_uploaded_and_the_life_is_told_in_order() {
    block_on(async {
        for pty in [true, false] {
            let (endpoint, chunks) = chunk_server(true).await;
            let script = "i=0; while [ $i -lt 5000 ]; do echo \"line $i\"; i=$((i+1)); done; exit 3";
            let (events, _) = play(begin(&endpoint, script, pty, 4096), like_a_runner, HookPlaces::default()).await;
            assert_eq!(
                life(&events),
                [ProcessEvent::Started { pid: 0 }, ProcessEvent::Exited(ExitStatus::Code(3)), ProcessEvent::OutputEnded { cut: false }]
            );
            let want: String = (0..5000).map(|i| format!("line {i}\n")).chain(["last line\n".to_owned()]).collect();
            assert_eq!(joined(&chunks), want);
            assert!(matches!(events.last(), Some(AgentEvent::LogDrained { failed: 0, .. })));
        }
    });
}

#[test]
fn given_a_daemon_that_holds_the_output_when_it_is_closed_then_the_end_is_told_as_cut() {
    block_on(async {
        let (endpoint, chunks) = chunk_server(true).await;
        // At the exit the runner closes the output, as it does when the drain is over.
        let react = |event: &AgentEvent| match event {
            AgentEvent::Process { event: ProcessEvent::Exited(_), .. } => {
                vec![AgentCommand::QueryGroup { id: SPAWN }, AgentCommand::CloseOutput { id: SPAWN }]
            }
            AgentEvent::LogDrained { .. } => vec![AgentCommand::Signal { id: SPAWN, signal: OsSignal::Kill, target: SignalTarget::Group }, exit()],
            other => like_a_runner(other),
        };
        // More than a pipe holds follows what must not be lost, so that it has been read when the leader exits.
        let script = "(trap '' HUP; exec sleep 1000) & echo leader; head -c 300000 /dev/zero | tr '\\0' x; exit 0";
        let (events, _) = play(begin(&endpoint, script, false, 4096), react, HookPlaces::default()).await;
        assert_eq!(
            life(&events),
            [
                ProcessEvent::Started { pid: 0 },
                ProcessEvent::Exited(ExitStatus::Code(0)),
                ProcessEvent::Group { alive: true },
                ProcessEvent::OutputEnded { cut: true }
            ]
        );
        assert!(joined(&chunks).starts_with("leader\n"));
    });
}

#[test]
fn a_spawn_that_fails_is_one_event() {
    block_on(async {
        let (endpoint, _chunks) = chunk_server(true).await;
        let mut commands = begin(&endpoint, "", true, 4096);
        if let AgentCommand::Spawn { spec, .. } = &mut commands[1] {
            spec.dir = "/no/such/dir".into();
        }
        let react = |event: &AgentEvent| match event {
            AgentEvent::Process { event: ProcessEvent::SpawnFailed(_), .. } => vec![exit()],
            _ => Vec::new(),
        };
        let (events, _) = play(commands, react, HookPlaces::default()).await;
        assert_eq!(life(&events), [ProcessEvent::SpawnFailed("process working directory \"/no/such/dir\" doesn't exist".into())]);
    });
}

#[test]
fn an_aborted_call_completes_once() {
    block_on(async {
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let session = Session {
            endpoint: format!("http://{}", silent.local_addr().unwrap()).into(),
            credential: Secret::default(),
            headers: RequestHeaders::default(),
        };
        let id = RequestId { owner: Owner::Worker(1), serial: 1 };
        let call = ibex_core::api::ApiCall { session, operation: ibex_core::api::Operation::Ping, limit: Duration::from_secs(50), timeout_ms: None };
        let commands = vec![AgentCommand::Call { id, call: Box::new(call) }, AgentCommand::AbortCall { id }, AgentCommand::AbortCall { id }];
        let react = |event: &AgentEvent| if matches!(event, AgentEvent::Completed { .. }) { vec![exit()] } else { Vec::new() };
        let (events, _) = play(commands, react, HookPlaces::default()).await;
        assert_eq!(events, [AgentEvent::Begin, AgentEvent::Completed { id, outcome: ibex_core::api::Outcome::Aborted }]);
    });
}

fn hook_dir(text: &str) -> (tempfile::TempDir, HookPlaces) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("agent-startup"), text).unwrap();
    std::fs::write(dir.path().join("pre-bootstrap"), text).unwrap();
    let path = dir.path().to_string_lossy().into_owned();
    (dir, HookPlaces { path, ..HookPlaces::default() })
}

fn hook(name: &'static str, all: bool) -> AgentCommand {
    let env = vec![("GREETING".to_owned(), Secret::new("hi"))];
    AgentCommand::RunHook { id: HOOK, hook: Box::new(HookSpec { name, env, all, worker: None }) }
}

#[test]
fn hooks_log_their_output_and_tell_their_verdict() {
    block_on(async {
        let (dir, places) = hook_dir("echo $GREETING; echo two >&2; exit 4");
        let ended = |events: &[AgentEvent]| match events.last() {
            Some(AgentEvent::HookEnded { end, .. }) => end.clone(),
            other => panic!("{other:?}"),
        };
        let (events, lines) = play(vec![hook("agent-startup", true)], like_a_runner, places.clone()).await;
        assert_eq!(ended(&events), HookEnd::Failed("exit status 4".into()));
        let field = vec![("hook", "agent-startup".to_owned())];
        let path = dir.path().join("agent-startup");
        let want: Vec<_> = [format!("$ {}", path.display()), "hi".into(), "two".into()].into_iter().map(|l| (l, field.clone())).collect();
        assert_eq!(*lines.0.borrow(), want);

        let (_, lines) = play(vec![hook("pre-bootstrap", false)], like_a_runner, places.clone()).await;
        let path = dir.path().join("pre-bootstrap");
        let texts: Vec<String> = lines.0.borrow().iter().map(|(t, _)| t.clone()).collect();
        assert_eq!(texts[0], format!("Running pre-bootstrap hook \"{}\"", path.display()));
        assert_eq!(texts[3], format!("Finished pre-bootstrap hook \"{}\": job rejected: exit status 4", path.display()));

        let (events, _) = play(vec![hook("agent-shutdown", true)], like_a_runner, places).await;
        assert_eq!(ended(&events), HookEnd::Missing);
        // A child that keeps the output open delays the verdict by a second at most, and does not change it.
        let (_dir, places) = hook_dir("sleep 1000 & echo $! > $0.pid; exit 0");
        let (events, _) = play(vec![hook("agent-startup", true)], like_a_runner, places.clone()).await;
        assert_eq!(ended(&events), HookEnd::Succeeded);
        let pid = std::fs::read_to_string(format!("{}/agent-startup.pid", places.path)).unwrap();
        let pid = rustix::process::Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        // A signal ends a hook that waits.
        let (_dir, places) = hook_dir("sleep 1000");
        let commands = vec![hook("agent-startup", true), AgentCommand::SignalHook { id: HOOK, signal: OsSignal::Term }];
        let (events, _) = play(commands, like_a_runner, places).await;
        assert!(matches!(ended(&events), HookEnd::Failed(e) if e == "signal: SIGTERM"));
    });
}

/// Measures, does not judge: `cargo test --release -p ibex-io --test job -- --ignored --nocapture throughput`.
#[test]
#[ignore = "a measurement, meaningful in a release build only"]
fn throughput() {
    block_on(async {
        for (pty, megabytes) in [(false, 1024), (true, 256)] {
            let (endpoint, chunks) = chunk_server(false).await;
            let script = format!("yes 'a line of log as builds print them, about sixty bytes long ....' | head -c {megabytes}000000");
            let start = std::time::Instant::now();
            play(begin(&endpoint, &script, pty, 1 << 20), like_a_runner, HookPlaces::default()).await;
            let took = start.elapsed().as_secs_f64();
            let peak = std::fs::read_to_string("/proc/self/status").unwrap();
            let peak = peak.lines().find(|l| l.starts_with("VmHWM")).unwrap().to_owned();
            println!("pty {pty}: {:.0} MB/s, {} chunks, {peak}", f64::from(megabytes) / took, chunks.lock().unwrap().len());
        }
    });
}
