//! Random histories: the invariants of local-control-plane §12 hold at every moment, and what can end does.

use super::stream::Said;
use super::*;
use crate::pipeline::{RetryRule, SoftFail, StatusMatch};
use proptest::prelude::*;

/// One move of a history; indexes are taken modulo what exists.
#[derive(Clone, Debug)]
pub(super) enum Act {
    Register,
    Connect(u8),
    Disconnect(u8),
    Heartbeat(u8),
    Ping(u8),
    Stream(u8),
    Gone(u8),
    Accept(u8, u8),
    Acquire(u8, u8),
    Start(u8),
    Poll(u8),
    Chunk(u8, u8),
    Finish(u8, i8),
    Upload(u8, u8),
    CancelJob(u8),
    CancelBuild,
    Control(u8, u8),
    Pass(u16),
    Build(u8),
}

pub(super) fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        2 => Just(Act::Register),
        2 => any::<u8>().prop_map(Act::Connect),
        1 => any::<u8>().prop_map(Act::Disconnect),
        3 => any::<u8>().prop_map(Act::Heartbeat),
        9 => any::<u8>().prop_map(Act::Ping),
        3 => any::<u8>().prop_map(Act::Stream),
        1 => any::<u8>().prop_map(Act::Gone),
        9 => (any::<u8>(), any::<u8>()).prop_map(|(a, j)| Act::Accept(a, j)),
        1 => (any::<u8>(), any::<u8>()).prop_map(|(a, j)| Act::Acquire(a, j)),
        9 => any::<u8>().prop_map(Act::Start),
        2 => any::<u8>().prop_map(Act::Poll),
        3 => (any::<u8>(), 1u8..5).prop_map(|(j, s)| Act::Chunk(j, s)),
        9 => (any::<u8>(), prop_oneof![3 => Just(0i8), 1 => Just(1), 1 => Just(5), 1 => Just(-1)]).prop_map(|(j, s)| Act::Finish(j, s)),
        3 => (any::<u8>(), any::<u8>()).prop_map(|(j, shape)| Act::Upload(j, shape)),
        1 => any::<u8>().prop_map(Act::CancelJob),
        1 => Just(Act::CancelBuild),
        1 => (any::<u8>(), 0u8..3).prop_map(|(a, c)| Act::Control(a, c)),
        3 => (1u16..700).prop_map(Act::Pass),
        1 => any::<u8>().prop_map(Act::Build),
    ]
}

/// A small list with every kind of relation in it.
pub(super) fn list(shape: u8) -> Vec<StepSpec> {
    let rule = RetryRule { exit_status: StatusMatch::OneOf(vec![5, -1]), limit: 1, ..RetryRule::default() };
    let retried = CommandStep { retry: vec![rule], timeout: Some(Duration::from_secs(90)), ..step("A") };
    let parallel = CommandStep { parallelism: Some(2), soft_fail: SoftFail::Statuses(vec![1]), ..step("B") };
    let tolerant = needs(step("C"), &[("A", Some(true)), ("B", None)]);
    let first = if shape & 1 == 0 { wait() } else { wait_on_failure() };
    let mut list = vec![retried.into(), parallel.into(), first, step("D").into(), tolerant.into()];
    if shape & 2 != 0 {
        list.extend([wait_on_failure(), needs(step("E"), &[("nowhere", None), ("D", None)]).into()]);
    }
    if shape & 4 != 0 {
        list.insert(1, CommandStep { skip: Some(String::new()), ..step("S") }.into());
    }
    list
}

/// A bench and what its agents know.
pub(super) struct Town {
    pub(super) bench: Bench,
    peers: Vec<Peer>,
    held: Vec<Held>,
}

impl Town {
    fn new(config: PlaneConfig) -> Town {
        Town { bench: Bench::with(config), peers: Vec::new(), held: Vec::new() }
    }

    fn peer(&self, i: u8) -> Option<Peer> {
        self.peers.get(usize::from(i) % self.peers.len().max(1)).cloned()
    }

    fn held(&self, i: u8) -> Option<Held> {
        self.held.get(usize::from(i) % self.held.len().max(1)).cloned()
    }

    fn job(&self, i: u8) -> Option<String> {
        let jobs = self.bench.plane.jobs();
        jobs.get(usize::from(i) % jobs.len().max(1)).map(|j| j.id.to_string())
    }

    fn take(&mut self, how: &str, a: u8, j: u8) {
        let (Some(peer), Some(id)) = (self.peer(a), self.job(j)) else { return };
        let (status, job) = self.bench.call("PUT", &format!("jobs/{id}/{how}"), &peer.token, Value::Null);
        if status == 200 {
            self.held.push(Held { id, token: job["token"].as_str().unwrap().into(), env: Value::Null });
        }
    }

    fn act(&mut self, act: &Act) {
        let bench = &mut self.bench;
        match *act {
            Act::Register if self.peers.len() < 4 => {
                let peer = bench.agent(&[]);
                self.peers.push(peer);
            }
            Act::Register => {}
            Act::Connect(a) => drop(self.peer(a).map(|p| self.bench.call("POST", "connect", &p.token, Value::Null))),
            Act::Disconnect(a) => drop(self.peer(a).map(|p| self.bench.call("POST", "disconnect", &p.token, Value::Null))),
            Act::Heartbeat(a) => drop(self.peer(a).map(|p| self.bench.call("POST", "heartbeat", &p.token, json!({"sent_at": ""})))),
            Act::Ping(a) => drop(self.peer(a).map(|p| self.bench.send("GET", "ping", &p.token, ""))),
            Act::Stream(a) => drop(self.peer(a).map(|p| self.bench.stream(&p))),
            Act::Gone(n) => bench.event(PlaneEvent::Gone { id: u64::from(n) % (bench.next + 1) }),
            Act::Accept(a, j) => self.take("accept", a, j),
            Act::Acquire(a, j) => self.take("acquire", a, j),
            Act::Start(j) => drop(self.held(j).map(|h| self.bench.start(&h))),
            Act::Poll(j) => drop(self.held(j).map(|h| self.bench.poll(&h))),
            Act::Chunk(j, s) => drop(self.held(j).map(|h| self.bench.chunk(&h, u64::from(s), u64::from(s - 1) * 3, "abc"))),
            Act::Finish(j, s) => drop(self.held(j).map(|h| self.bench.finish(&h, i32::from(s)))),
            Act::Upload(j, shape) => {
                if let Some(h) = self.held(j) {
                    let uuid = format!("00000000-0000-4000-8000-0000000000{shape:02x}");
                    self.bench.upload_as(&uuid, &h, super::upload::document(shape), shape & 8 != 0);
                }
            }
            Act::CancelJob(j) => {
                if let Some(id) = self.job(j) {
                    self.bench.event(PlaneEvent::CancelJob { job: id.into() });
                }
            }
            Act::CancelBuild => {
                if let Some(build) = bench.plane.builds().last().map(|b| b.id.clone()) {
                    bench.event(PlaneEvent::CancelBuild { build });
                }
            }
            Act::Control(a, c) => {
                let action = [ControlAction::Pause, ControlAction::Resume, ControlAction::Disconnect][usize::from(c) % 3].clone();
                if let Some(peer) = self.peer(a) {
                    self.bench.event(PlaneEvent::Control { agent: peer.id.into(), action });
                }
            }
            Act::Pass(s) => bench.after(Duration::from_secs(u64::from(s))),
            Act::Build(shape) if bench.plane.builds().len() < 3 => bench.build(list(shape)),
            Act::Build(_) => {}
        }
    }

    /// Liveness (§12.9): a fresh agent that does its work ends every build.
    fn wind_up(&mut self) {
        let peer = self.bench.agent(&[]);
        for _ in 0..500 {
            if self.bench.plane.is_idle() {
                return;
            }
            let id = self.bench.send("GET", "ping", &peer.token, "");
            if let Some(job) = self.bench.answer(id).and_then(|(_, a)| a["job"]["id"].as_str().map(str::to_owned)) {
                let held = self.bench.accept(&peer, &job);
                self.bench.start(&held);
                self.bench.finish(&held, 0);
            }
            self.bench.after(Duration::from_secs(60));
        }
        panic!("a build never ends: {:#?}", self.bench.plane.builds());
    }
}

/// Every job ends at most once, in what observers are told.
fn ends_once(said: &[PlaneCommand]) {
    let mut ended = std::collections::BTreeSet::new();
    for command in said {
        if let PlaneCommand::JobChanged { job, state } = command {
            let over = ["finished", "canceled", "timed_out", "waiting_failed", "skipped"].contains(state);
            assert!(!ended.contains(job), "job {job} became {state} after its end");
            if over {
                ended.insert(job.clone());
            }
        }
    }
}

/// A stream has something to say at once, ends once, and says nothing after its end.
fn streams_end_once(bench: &Bench) {
    for id in 1..=bench.next {
        let heard = bench.heard(id);
        let open = bench.plane.streams.values().any(|s| s.id == id);
        let ends = heard.iter().filter(|s| matches!(s, Said::End(_))).count();
        let last = matches!(heard.last(), Some(Said::End(_)));
        assert!(heard.is_empty() || (ends == usize::from(!open) && last != open && heard.len() > ends), "stream {id} of {open}: {heard:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn invariants_hold_in_every_history_and_every_build_ends(acts in prop::collection::vec(act(), 1..120), shape: u8, hold: bool, stream: bool) {
        let hold_ping = if hold { Duration::from_secs(20) } else { Duration::ZERO };
        let streaming = stream.then_some(Duration::from_secs(55));
        let play = || {
            let mut town = Town::new(PlaneConfig { hold_ping, streaming, ..PlaneConfig::hosted(Secret::new("reg")) });
            town.bench.build(list(shape));
            acts.iter().for_each(|a| town.act(a));
            town.wind_up();
            town.bench
        };
        let bench = play();
        ends_once(&bench.said);
        // §12.10: the same events give the same jobs, to the byte.
        prop_assert_eq!(&bench.said, &play().said);
        // Every request was answered once; only pings that are still held are not.
        for id in 1..=bench.next {
            if bench.answer(id).is_none() {
                let held = bench.plane.held.iter().any(|h| h.id == id);
                prop_assert!(held || !bench.heard(id).is_empty(), "request {} has no answer", id);
            }
        }
        streams_end_once(&bench);
        for job in bench.plane.jobs() {
            prop_assert!(job.finish.is_none() || job.accepted_by.len() == 1);
        }
    }
}
