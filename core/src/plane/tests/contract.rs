//! The plane keeps the contract of machines.

use super::random::list;
use super::*;
use crate::testing::{World, check};
use std::collections::BTreeSet;

/// Agents that know what the plane has told them, and send requests at random.
#[derive(Clone)]
struct Street {
    /// Id and token.
    agents: Vec<(String, String)>,
    jobs: Vec<(String, String)>,
    offered: Vec<String>,
    next: u64,
}

impl Street {
    fn pick<'a, T>(rng: &mut Rng, list: &'a [T]) -> Option<&'a T> {
        list.get(rng.below(list.len() as u64) as usize)
    }

    fn request(&mut self, method: &str, path: String, token: &str, body: Value) -> PlaneEvent {
        self.next += 1;
        let body = if body.is_null() { Bytes::new() } else { body.to_string().into() };
        let (method, token, received) = (method.into(), Secret::new(token), WallTime::default());
        PlaneEvent::Request { id: self.next, request: Box::new(PlaneRequest { method, path, token, body, received }) }
    }
}

impl World for Street {
    type Machine = Plane;
    type Id = u64;

    fn fresh(seed: u64) -> (Plane, Street) {
        let config = PlaneConfig {
            hold_ping: Duration::from_secs(5),
            streaming: Some(Duration::from_secs(7)),
            ..PlaneConfig::hosted(Secret::new(crate::secret::MASK))
        };
        let mut plane = Plane::new(config, Rng::from_seed(seed));
        let spec = BuildSpec { steps: list(seed as u8), ..BuildSpec::default() };
        plane.handle(Instant::ZERO, PlaneEvent::CreateBuild(Box::new(spec)), &mut Vec::new());
        (plane, Street { agents: Vec::new(), jobs: Vec::new(), offered: Vec::new(), next: 0 })
    }

    // The plane starts nothing: it answers.
    fn starts(_: &PlaneCommand) -> Option<u64> {
        None
    }

    fn completes(_: &PlaneEvent) -> Option<u64> {
        None
    }

    fn observe(&mut self, _: Instant, command: &PlaneCommand) {
        let PlaneCommand::Respond { response, .. } = command else { return };
        let Ok(body) = serde_json::from_slice::<Value>(&response.body) else { return };
        let text = |v: &Value| v.as_str().map(str::to_owned);
        self.agents.extend(text(&body["id"]).zip(text(&body["access_token"])));
        self.offered.extend(text(&body["job"]["id"]));
        self.jobs.extend(text(&body["id"]).zip(text(&body["token"])));
    }

    fn draw(&mut self, rng: &mut Rng, _: &BTreeSet<u64>) -> Option<PlaneEvent> {
        let register = json!({
            "name": "a", "hostname": "h", "os": "", "arch": "amd64", "script_eval_enabled": true,
            "ignore_in_dispatches": false, "version": "1", "build": "x", "meta_data": [], "features": [],
        });
        let Some((agent, token)) = Street::pick(rng, &self.agents).cloned() else {
            return Some(self.request("POST", "register".into(), crate::secret::MASK, register));
        };
        let job = Street::pick(rng, &self.jobs).cloned();
        Some(match (rng.below(13), job) {
            (0, _) => self.request("POST", "register".into(), crate::secret::MASK, register),
            (1, _) => self.request("POST", "connect".into(), &token, Value::Null),
            (2, _) => self.request("POST", "heartbeat".into(), &token, json!({"sent_at": ""})),
            (3, _) => match Street::pick(rng, &self.offered).cloned() {
                Some(id) => self.request("PUT", format!("jobs/{id}/accept"), &token, Value::Null),
                None => PlaneEvent::Gone { id: rng.below(self.next + 1) },
            },
            (4, Some((id, token))) => self.request("PUT", format!("jobs/{id}/start"), &token, json!({})),
            (5, Some((id, token))) => {
                let finish = json!({"exit_status": rng.below(2).to_string(), "finished_at": "", "chunks_failed_count": 0});
                self.request("PUT", format!("jobs/{id}/finish"), &token, finish)
            }
            (6, Some((id, token))) => self.request("POST", format!("jobs/{id}/chunks?sequence=1&offset=0&size=2"), &token, json!({})),
            (10, Some((id, token))) => {
                let shape = rng.below(16) as u8;
                let uuid = format!("00000000-0000-4000-8000-0000000000{shape:02x}");
                let upload = json!({"uuid": uuid, "pipeline": super::upload::document(shape), "replace": shape & 8 != 0});
                self.request("POST", format!("jobs/{id}/pipelines?async=true"), &token, upload)
            }
            (7 | 8, _) => {
                self.next += 1;
                let path = "/agentedge.v1.AgentEdgeService/StreamPings".to_owned();
                let body = super::stream::frame(&agent).into();
                let request = PlaneRequest { method: "POST".into(), path, token: Secret::new(token), body, received: WallTime::default() };
                PlaneEvent::Request { id: self.next, request: Box::new(request) }
            }
            (9, _) => PlaneEvent::Gone { id: rng.below(self.next + 1) },
            _ => self.request("GET", "ping".into(), &token, Value::Null),
        })
    }

    fn finished(_: &Plane) -> bool {
        false
    }

    fn sizes(plane: &Plane) -> Vec<(&'static str, usize, usize)> {
        vec![
            ("held pings", plane.held.len(), plane.agents.len()),
            ("ping streams", plane.streams.len(), plane.agents.len()),
            ("agents", plane.agents.len(), crate::limits::PLANE_AGENTS),
            ("jobs", plane.jobs.len(), crate::limits::PLANE_JOBS_PER_BUILD),
        ]
    }
}

#[test]
fn the_plane_keeps_the_contract() {
    check::<Street>(96);
}
