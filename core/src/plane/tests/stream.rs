//! Ping streams: what is said, when, and how they end.

use super::*;
use crate::api::StreamMessage;

const SECOND: Duration = Duration::from_secs(1);

/// What became of a stream.
#[derive(Debug, PartialEq)]
pub(super) enum Said {
    Resume,
    Pause,
    Disconnect,
    Job(String),
    End(u32),
}
use Said::*;

/// The one request message.
pub(super) fn frame(agent: &str) -> Vec<u8> {
    let mut frame = vec![0, 0, 0, 0, agent.len() as u8 + 2, 0x0a, agent.len() as u8];
    frame.extend(agent.as_bytes());
    frame
}

impl Bench {
    pub(super) fn stream(&mut self, peer: &Peer) -> u64 {
        self.send_to("POST", "/agentedge.v1.AgentEdgeService/StreamPings".into(), &peer.token, frame(&peer.id))
    }

    /// What was said on a stream so far, from its start on.
    pub(super) fn heard(&self, id: u64) -> Vec<Said> {
        let mut begun = false;
        let mut heard = Vec::new();
        for command in &self.said {
            match command {
                PlaneCommand::StreamStart { id: other, response } if *other == id => {
                    assert!(!begun && response.status == 200, "{response:?}");
                    begun = true;
                }
                PlaneCommand::StreamSend { id: other, message } if *other == id => heard.push(match message {
                    StreamMessage::Resume => Resume,
                    StreamMessage::Pause { .. } => Pause,
                    StreamMessage::Disconnect { .. } => Disconnect,
                    StreamMessage::Job { id } => Job(id.to_string()),
                }),
                PlaneCommand::StreamEnd { id: other, status, .. } if *other == id => heard.push(End(*status)),
                _ => continue,
            }
        }
        assert!(begun || heard.is_empty(), "stream {id} spoke before its head");
        heard
    }

    fn control(&mut self, peer: &Peer, action: ControlAction) {
        self.event(PlaneEvent::Control { agent: peer.id.as_str().into(), action });
    }
}

fn streaming() -> PlaneConfig {
    PlaneConfig { streaming: Some(55 * SECOND), ..PlaneConfig::hosted(Secret::new("reg")) }
}

#[test]
fn a_stream_begins_with_the_current_state_and_a_job_is_pushed_as_soon_as_it_is_ready() {
    let mut bench = Bench::with(streaming());
    let peer = bench.agent(&[]);
    let stream = bench.stream(&peer);
    assert_eq!(bench.heard(stream), [Resume]);
    bench.build(vec![step("A").into(), wait(), step("B").into()]);
    let first = bench.plane.jobs()[0].id.to_string();
    assert_eq!(bench.heard(stream), [Resume, Job(first.clone())]);
    let held = bench.accept(&peer, &first);
    bench.start(&held);
    assert_eq!(bench.heard(stream).len(), 2, "one job at a time");
    bench.finish(&held, 0);
    let second = bench.plane.jobs()[1].id.to_string();
    assert_eq!(bench.heard(stream), [Resume, Job(first), Job(second)]);
}

#[test]
fn a_stream_that_opens_when_a_job_waits_begins_with_it_and_a_new_stream_says_again_what_was_not_accepted() {
    let mut bench = Bench::with(streaming());
    bench.build(vec![step("A").into()]);
    let peer = bench.agent(&[]);
    let id = bench.plane.jobs()[0].id.to_string();
    let first = bench.stream(&peer);
    assert_eq!(bench.heard(first), [Job(id.clone())]);
    let second = bench.stream(&peer);
    assert_eq!(bench.heard(first), [Job(id.clone()), End(1)], "replaced");
    assert_eq!(bench.heard(second), [Job(id.clone())]);
    let held = bench.accept(&peer, &id);
    bench.start(&held);
    let third = bench.stream(&peer);
    assert_eq!(bench.heard(third), [Resume], "a stream during a job gives nothing up");
    bench.after(200 * SECOND);
    assert_eq!(bench.heard(third), [Resume, End(4)], "deadline");
}

#[test]
fn an_offer_that_lapses_is_made_again() {
    let mut bench = Bench::with(PlaneConfig { streaming: Some(100 * SECOND), ..streaming() });
    bench.build(vec![step("A").into()]);
    let peer = bench.agent(&[]);
    let id = bench.plane.jobs()[0].id.to_string();
    let stream = bench.stream(&peer);
    bench.after(60 * SECOND);
    assert_eq!(bench.heard(stream), [Job(id.clone()), Job(id)]);
}

#[test]
fn pause_and_resume_are_said_once_and_disconnect_ends_the_stream() {
    let mut bench = Bench::with(streaming());
    let peer = bench.agent(&[]);
    let stream = bench.stream(&peer);
    bench.control(&peer, ControlAction::Pause);
    bench.control(&peer, ControlAction::Pause);
    bench.build(vec![step("A").into()]);
    assert_eq!(bench.heard(stream), [Resume, Pause], "a paused agent gets no job");
    bench.control(&peer, ControlAction::Resume);
    assert!(matches!(&bench.heard(stream)[2..], [Job(_)]));
    bench.control(&peer, ControlAction::Disconnect);
    assert_eq!(bench.heard(stream)[3..], [Disconnect, End(0)]);
    let again = bench.stream(&peer);
    assert_eq!(bench.heard(again), [Disconnect, End(0)]);
}

#[test]
fn a_stream_ends_with_its_agent_or_when_the_client_has_gone() {
    let mut bench = Bench::with(streaming());
    let (one, two) = (bench.agent(&[]), bench.agent(&[]));
    let (first, second) = (bench.stream(&one), bench.stream(&two));
    assert_eq!(bench.call("POST", "disconnect", &one.token, Value::Null).0, 204);
    assert_eq!(bench.heard(first), [Resume, End(0)]);
    bench.event(PlaneEvent::Gone { id: second });
    assert_eq!(bench.heard(second), [Resume, End(0)]);
    let late = bench.plane.late();
    bench.event(PlaneEvent::Gone { id: second });
    assert_eq!(bench.plane.late(), late + 1);

    let mut bench = Bench::with(PlaneConfig { streaming: Some(1000 * SECOND), ..streaming() });
    let peer = bench.agent(&[]);
    let stream = bench.stream(&peer);
    bench.after(180 * SECOND);
    assert_eq!(bench.heard(stream), [Resume, End(14)], "silence");
}

#[test]
fn a_stream_is_refused_where_it_should_be() {
    let mut bench = Bench::with(streaming());
    let (one, two) = (bench.agent(&[]), bench.agent(&[]));
    let refused = |bench: &mut Bench, token: &str, body: Vec<u8>| {
        let id = bench.send_to("POST", "/agentedge.v1.AgentEdgeService/StreamPings".into(), token, body);
        bench.answer(id).map(|(status, _)| status)
    };
    assert_eq!(refused(&mut bench, "agent_9_x", frame(&one.id)), Some(401));
    assert_eq!(refused(&mut bench, &one.token, frame(&two.id)), Some(403));
    assert_eq!(refused(&mut bench, &one.token, vec![0, 0]), Some(400));
    assert_eq!(refused(&mut bench, &one.token, frame(&one.id)), None);
}
