//! Sessions of agents (agent-api §6, §7).

use super::route::{Answer, Refusal, json, no_content};
use super::{AgentNo, AgentState, ControlAction, HeldPing, JobState, Out, Plane, PlaneAgent, PlaneCommand, PlaneRequest, transition};
use crate::limits::PLANE_AGENTS;
use crate::machine::Instant;
use serde_json::json;
use std::cmp::Reverse;
use std::sync::Arc;

impl Plane {
    /// `POST register`
    pub(super) fn register(&mut self, now: Instant, request: &PlaneRequest, out: &mut Out) -> Answer {
        let body: crate::api::RegisterRequest = super::route::body(request)?;
        if self.agents.len() >= PLANE_AGENTS {
            self.agents.retain(|_, a| a.state != AgentState::Disconnected);
        }
        if self.agents.len() >= PLANE_AGENTS {
            return Err(Refusal(429, format!("this plane has room for {PLANE_AGENTS} agents")));
        }
        let no = self.next_agent;
        self.next_agent += 1;
        let (id, token) = (self.new_id(), self.new_token("agent", u64::from(no)));
        let name = match body.name.replace("%hostname", &body.hostname) {
            name if name.is_empty() => format!("agent-{no}"),
            name => name,
        };
        let agent = PlaneAgent {
            id: id.clone(),
            name: name.clone(),
            token: token.clone(),
            tags: body.meta_data,
            ignore_in_dispatches: body.ignore_in_dispatches,
            state: AgentState::Registered,
            last_seen: now,
            control: None,
            job: None,
            doubted: None,
        };
        let tags = agent.tags.clone();
        self.agents.insert(no, agent);
        out.push(transition("plane-agent", "none", "register", "registered"));
        out.push(PlaneCommand::AgentChanged { agent: id.clone(), state: "registered" });
        json(
            200,
            &json!({
                "id": id, "name": name, "access_token": token.expose(), "endpoint": "",
                "ping_interval": self.config.ping_interval,
                "job_status_interval": self.config.job_status_interval,
                "heartbeat_interval": self.config.heartbeat_interval,
                "meta_data": tags,
            }),
        )
    }

    /// `POST connect`. Connecting again is no error: the answer to the first call may have been lost.
    pub(super) fn connect(&mut self, now: Instant, no: AgentNo, out: &mut Out) -> Answer {
        self.alive(now, no, "connect", out);
        no_content()
    }

    /// `POST heartbeat`
    pub(super) fn heartbeat(&mut self, now: Instant, no: AgentNo, request: &PlaneRequest, out: &mut Out) -> Answer {
        #[derive(serde::Deserialize)]
        struct Beat {
            #[serde(default)]
            sent_at: String,
        }
        let beat: Beat = super::route::body(request)?;
        self.alive(now, no, "heartbeat", out);
        json(200, &json!({"sent_at": beat.sent_at, "received_at": request.received.rfc3339_utc()}))
    }

    /// `POST disconnect`
    pub(super) fn disconnect(&mut self, now: Instant, no: AgentNo, out: &mut Out) -> Answer {
        self.leave(now, no, "disconnect", AgentState::Disconnected, out);
        no_content()
    }

    /// `GET ping`; `None` holds it back.
    pub(super) fn ping(&mut self, now: Instant, id: u64, no: AgentNo, out: &mut Out) -> Option<Answer> {
        self.alive(now, no, "ping", out);
        // One ping per agent at a time: an older one was given up by its sender.
        if let Some(i) = self.held.iter().position(|h| h.agent == no) {
            self.release(i, out);
        }
        if let Some(job) = self.agent(no).job
            && self.jobs[job].state.is_active()
        {
            self.doubt(now, no, job, out);
            return Some(json(200, &json!({})));
        }
        if let Some(answer) = self.news(now, no, out) {
            return Some(answer);
        }
        if self.config.hold_ping.is_zero() {
            return Some(json(200, &json!({})));
        }
        self.held.push_back(HeldPing { id, agent: no, until: now + self.config.hold_ping });
        None
    }

    /// What a ping has to say, if anything.
    fn news(&mut self, now: Instant, no: AgentNo, out: &mut Out) -> Option<Answer> {
        match self.agent(no).control {
            Some(ControlAction::Disconnect) => return Some(json(200, &json!({"action": "disconnect"}))),
            Some(ControlAction::Pause) => return Some(json(200, &json!({"action": "pause"}))),
            Some(ControlAction::Resume) | None => {}
        }
        let job = match self.agent(no).job {
            // Taken in another way while the ping was held.
            Some(job) if self.jobs[job].state.is_active() => return None,
            // Offered before, not accepted yet: the answer may have been lost.
            Some(job) => job,
            None => self.offer(now, no, out)?,
        };
        Some(json(200, &json!({"job": {"id": self.jobs[job].id}})))
    }

    /// Assigns the first runnable job that the agent may run (local-control-plane §5.2).
    pub(super) fn offer(&mut self, now: Instant, no: AgentNo, out: &mut Out) -> Option<usize> {
        let agent = self.agent(no);
        if agent.ignore_in_dispatches || agent.state != AgentState::Connected {
            return None;
        }
        let job = self.ready.iter().map(|(_, _, job)| *job).find(|job| self.may_run(agent, *job))?;
        self.jobs[job].offers += 1;
        let until = now + self.config.assign_limit;
        self.set_job(job, "offer", JobState::Assigned { agent: no, until }, out);
        Some(job)
    }

    pub(super) fn may_run(&self, agent: &PlaneAgent, job: usize) -> bool {
        let j = &self.jobs[job];
        let Some(step) = self.builds[j.build].command(j.step) else { return false };
        let queue = step.agents.iter().find(|(k, _)| k == "queue").map_or("default", |(_, v)| v);
        (self.config.any_queue || queue == "*" || agent.queue() == queue)
            && step.agents.iter().filter(|(k, _)| k != "queue").all(|(k, v)| agent.has_tag(k, v))
    }

    /// Ready jobs that no agent of the plane can run, now or later as it stands (local-control-plane §5.2, a decision).
    pub fn unrunnable_jobs(&self) -> Vec<&super::PlaneJob> {
        let candidates: Vec<&PlaneAgent> = self.agents.values().filter(|a| !a.ignore_in_dispatches && a.state != AgentState::Disconnected).collect();
        let jobs = self.ready.iter().map(|(_, _, job)| *job);
        jobs.filter(|job| !candidates.iter().any(|a| self.may_run(a, *job))).map(|job| &self.jobs[job]).collect()
    }

    /// Makes a job runnable, from `now` on unless it was before.
    pub(super) fn schedule(&mut self, now: Instant, job: usize, event: &'static str, out: &mut Out) {
        self.jobs[job].runnable_at.get_or_insert(now);
        self.set_job(job, event, JobState::Scheduled, out);
        let key = self.ready_key(job);
        self.ready.insert(key);
    }

    pub(super) fn ready_key(&self, job: usize) -> super::ReadyKey {
        let j = &self.jobs[job];
        let priority = self.builds[j.build].command(j.step).map_or(0, |c| c.priority);
        (Reverse(priority), self.ready_since(job), job)
    }

    /// How long a job has waited, for the order among runnable ones: uploaded ones as long as the one that uploaded them.
    pub(super) fn ready_since(&self, job: usize) -> Instant {
        let j = &self.jobs[job];
        let uploaded = self.builds[j.build].steps[j.step].uploaded;
        uploaded.map_or(j.runnable_at.unwrap_or(Instant::ZERO), |u| u.since)
    }

    /// Answers held pings that have something to say by now.
    pub(super) fn serve_held(&mut self, now: Instant, out: &mut Out) {
        let mut i = 0;
        while let Some(held) = self.held.get(i).cloned() {
            match self.news(now, held.agent, out) {
                Some(answer) => {
                    self.held.remove(i);
                    self.respond(held.id, answer, out);
                }
                None => i += 1,
            }
        }
    }

    /// Answers a held ping without news.
    pub(super) fn release(&mut self, i: usize, out: &mut Out) {
        if let Some(held) = self.held.remove(i) {
            self.respond(held.id, json(200, &json!({})), out);
        }
    }

    /// Tells an agent to pause, resume or leave.
    pub(super) fn control(&mut self, agent: &str, action: ControlAction, out: &mut Out) {
        let Some(agent) = self.agents.values_mut().find(|a| &*a.id == agent) else {
            self.late = self.late.saturating_add(1);
            return;
        };
        // A disconnect is never taken back.
        if agent.control != Some(ControlAction::Disconnect) {
            let event = match action {
                ControlAction::Pause => "pause",
                ControlAction::Resume => "resume",
                ControlAction::Disconnect => "stop",
            };
            agent.control = (action != ControlAction::Resume).then_some(action);
            let state = agent.state.name();
            out.push(transition("plane-agent", state, event, state));
        }
    }

    /// A call of the agent shows that it lives; a lost one is back.
    pub(super) fn alive(&mut self, now: Instant, no: AgentNo, event: &'static str, out: &mut Out) {
        let agent = self.agent_mut(no);
        agent.last_seen = now;
        self.set_agent(no, event, AgentState::Connected, out);
    }

    /// When the agent counts as lost (local-control-plane §5.6).
    pub(super) fn lost_at(&self, agent: &PlaneAgent) -> Option<Instant> {
        (agent.state == AgentState::Connected).then(|| agent.last_seen + self.config.lost_after)
    }

    pub(super) fn lose_agent(&mut self, now: Instant, no: AgentNo, out: &mut Out) {
        self.leave(now, no, "silence", AgentState::Lost, out);
    }

    /// The agent has gone: an offer is taken back, a job that it had is over.
    fn leave(&mut self, now: Instant, no: AgentNo, event: &'static str, to: AgentState, out: &mut Out) {
        self.set_agent(no, event, to, out);
        while let Some(i) = self.held.iter().position(|h| h.agent == no) {
            self.release(i, out);
        }
        self.stream_of_absent(no, event, to == AgentState::Disconnected, out);
        if let Some(job) = self.agent(no).job {
            if self.jobs[job].state.is_active() { self.lose_job(now, job, out) } else { self.schedule(now, job, event, out) }
        }
    }

    fn set_agent(&mut self, no: AgentNo, event: &'static str, to: AgentState, out: &mut Out) {
        let agent = self.agent_mut(no);
        let from = agent.state;
        agent.state = to;
        let id: Arc<str> = agent.id.clone();
        out.push(transition("plane-agent", from.name(), event, to.name()));
        if from != to {
            out.push(PlaneCommand::AgentChanged { agent: id, state: to.name() });
        }
    }

    /// An agent that asks for work while it has a job has given that job up, unless it says something of the job within the
    /// time that makes an agent lost. (A ping may have been on its way since before the job.)
    fn doubt(&mut self, now: Instant, no: AgentNo, job: usize, out: &mut Out) {
        let limit = self.config.lost_after;
        match self.agent(no).doubted {
            None => self.agent_mut(no).doubted = Some(now),
            Some(since) if now >= since + limit => self.lose_job(now, job, out),
            Some(_) => {}
        }
    }
}
