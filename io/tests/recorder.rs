//! The flight recorder and its replay: what was recorded plays back to the same commands, also after a rotation and a panic.

use ibex_core::agent::{AgentCommand, AgentConfig, AgentEvent, AgentLog, Level, OsSignal};
use ibex_core::api::{Outcome, Reply};
use ibex_core::machine::{Instant, Machine, Owner, RequestId};
use ibex_core::rng::Rng;
use ibex_core::wall::WallClock;
use ibex_io::recorder::{Head, Recorder, Step};
use ibex_io::replay::{Summary, replay, seed, timeline};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Answers every event with a log line that depends on everything before it.
#[derive(Clone, Serialize, Deserialize)]
struct Toy {
    rng: Rng,
    seen: u32,
}

impl Toy {
    fn made(head: &Head) -> Result<Toy, String> {
        match &head.state {
            Some(state) => serde_json::from_str(state.get()).map_err(|e| e.to_string()),
            None => Ok(Toy { rng: Rng::from_bytes(seed(head)?), seen: 0 }),
        }
    }

    fn say(&mut self, what: &str, out: &mut Vec<AgentCommand>) {
        self.seen += 1;
        let text = format!("{what} {} {}", self.seen, self.rng.next_u64());
        out.push(AgentCommand::Log(AgentLog { level: Level::Info, worker: None, text, fields: vec![] }));
    }
}

impl Machine for Toy {
    type Event = AgentEvent;
    type Command = AgentCommand;

    fn handle(&mut self, _: Instant, event: AgentEvent, out: &mut Vec<AgentCommand>) {
        assert_ne!(event, AgentEvent::Signal(OsSignal::Usr2), "the toy does not bear this");
        self.say("event", out);
    }

    fn deadline(&self) -> Option<Instant> {
        None
    }

    fn expire(&mut self, _: Instant, out: &mut Vec<AgentCommand>) {
        self.say("timer", out);
    }
}

fn config() -> AgentConfig {
    serde_json::from_value(serde_json::json!({
        "spawn": 1, "name": "n", "priority": {"Static": ""}, "token": "registration-secret", "endpoint": "http://h", "request_headers": [],
        "register": {"name": "", "hostname": "", "os": "", "arch": "", "script_eval_enabled": true, "ignore_in_dispatches": false, "version": "", "build": "", "meta_data": [], "features": []},
        "ping_mode": "Auto", "acquire_job": null, "reflect_exit_status": false, "disconnect_after_job": false, "disconnect_after_idle": null,
        "disconnect_after_uptime": null, "cancel_signal_timeout": {"secs": 10, "nanos": 0}, "cancel_cleanup_timeout": {"secs": 5, "nanos": 0},
        "watchdog": null, "cancel_signal": "Term", "kubernetes_exec": false, "job": ibex_core::job::JobConfig::default(),
    }))
    .unwrap()
}

const SEED: [u8; 32] = [7; 32];

fn record(recorder: &mut Recorder, toy: &mut Toy, from: u64, steps: u64) {
    for i in from..from + steps {
        let id = RequestId { owner: Owner::Worker(1), serial: i as u32 };
        let event = (i % 3 != 0).then_some(AgentEvent::Completed { id, outcome: Outcome::Ok(Reply::Empty) });
        step(recorder, toy, i, event);
    }
}

fn step(recorder: &mut Recorder, toy: &mut Toy, millis: u64, event: Option<AgentEvent>) {
    let (now, mut out) = (Instant::from_millis(millis), Vec::new());
    recorder.arriving(now, event.as_ref());
    match event {
        Some(event) => toy.handle(now, event, &mut out),
        None => toy.expire(now, &mut out),
    }
    recorder.decided(toy, &out);
}

fn play(text: &str) -> Summary {
    replay(text.as_bytes(), Toy::made, |_| {}).unwrap()
}

fn recording(dir: &Path) -> (Recorder, Toy) {
    let recorder = Recorder::create(dir, &config(), SEED, WallClock::default()).unwrap();
    (recorder, Toy { rng: Rng::from_bytes(SEED), seen: 0 })
}

#[test]
fn a_recording_plays_back_to_the_same_commands_and_holds_no_secret() {
    let dir = tempfile::tempdir().unwrap();
    let (mut recorder, mut toy) = recording(dir.path());
    record(&mut recorder, &mut toy, 0, 50);
    let path = recorder.path().to_owned();
    assert_eq!(path.file_name().unwrap().to_str().unwrap(), format!("agent-{}.ibexrec", std::process::id()));
    drop(recorder);
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(play(&text), Summary { steps: 50, diverged: None, interrupted: false });
    assert!(!text.contains("registration-secret"));
    let mut lines = String::new();
    replay(text.as_bytes(), Toy::made, |played| lines += &timeline(&played)).unwrap();
    assert!(lines.starts_with("  +0.000000s  timer\n              log Info timer 1 "), "{lines}");
    assert!(lines.contains("  +0.049000s  Completed {"), "{lines}");
}

#[test]
fn a_divergence_names_its_first_step() {
    let dir = tempfile::tempdir().unwrap();
    let (mut recorder, mut toy) = recording(dir.path());
    record(&mut recorder, &mut toy, 0, 10);
    let text = std::fs::read_to_string(recorder.path()).unwrap();
    let lost: Vec<&str> = text.lines().enumerate().filter(|(i, _)| *i != 4).map(|(_, l)| l).collect();
    assert_eq!(play(&lost.join("\n")).diverged, Some(4));
    assert!(replay("{}".as_bytes(), Toy::made, |_| {}).is_err());
    assert!(replay(&b""[..], Toy::made, |_| {}).is_err());
}

#[test]
fn given_a_full_file_when_recording_goes_on_then_the_new_file_plays_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let (recorder, mut toy) = recording(dir.path());
    let mut recorder = recorder.with_limit(20_000);
    record(&mut recorder, &mut toy, 0, 400);
    let files: Vec<String> = std::fs::read_dir(dir.path()).unwrap().map(|e| std::fs::read_to_string(e.unwrap().path()).unwrap()).collect();
    assert_eq!(files.len(), 2, "the recorder is bounded");
    for text in &files {
        assert!(text.len() < 22_000);
        let summary = play(text);
        assert_eq!(summary.diverged, None);
        assert!(summary.steps > 1);
    }
}

#[test]
fn given_a_panic_in_a_step_then_its_event_is_the_last_line() {
    let dir = tempfile::tempdir().unwrap();
    let (mut recorder, mut toy) = recording(dir.path());
    let path = recorder.path().to_owned();
    let died = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
        record(&mut recorder, &mut toy, 0, 3);
        step(&mut recorder, &mut toy, 3, Some(AgentEvent::Signal(OsSignal::Usr2)));
    }));
    assert!(died.is_err());
    let text = std::fs::read_to_string(path).unwrap();
    let last: Step = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!((last.event, last.digest.as_str()), (Some(AgentEvent::Signal(OsSignal::Usr2)), ""));
}
