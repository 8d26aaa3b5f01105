//! A paused worker accepts nothing and stays, but for a stop, the server's disconnect, or the end of its sources; only news end a pause
//! (start-and-worker §9.9, I21–I23).

use super::rows::Ref::S;
use super::view::View;
use super::{Invariant, Violation};
use crate::schedule::Source;
use crate::trace::{Credential, Fact, Got, Op, Said};
use std::collections::BTreeMap;

pub(super) const INVARIANT: Invariant = Invariant {
    id: "paused",
    title: "paused workers",
    rule: "start-and-worker §9.9, I21–I23: no accept, no leaving by itself, no end by a failed ping",
    file: file!(),
    rows: &[S(21), S(22), S(23)],
    check,
};

fn check(v: &View<'_>, out: &mut Vec<Violation>) {
    // Where the pause began that is in force.
    let mut paused: BTreeMap<u32, usize> = BTreeMap::new();
    for (i, e) in v.entries.iter().enumerate() {
        match &e.fact {
            // In poll-only the wire tells it: the last ping that was answered. With streams the order of what waits tells, and the handler.
            Fact::Returned { call, got: Got::Answer { status: 200..=299, said: Said::Ping { action, endpoint, .. }, .. } }
                if v.setup.source == Source::Poll =>
            {
                let Some(Credential::Worker(w)) = v.calls.get(call).map(|c| &c.request.credential) else { continue };
                // An answer that names another endpoint is replaced by the one of its test (§9.6).
                match action.as_str() {
                    "pause" => drop(paused.entry(*w).or_insert(i)),
                    _ if endpoint.is_empty() => drop(paused.remove(w)),
                    _ => {}
                }
            }
            Fact::Transition(t) if t.machine == "action" => {
                let ibex_core::machine::Owner::Worker(w) = t.owner else { continue };
                if t.from == "Paused" && t.to != "Paused" && matches!(t.event, "no news" | "uptime" | "idle fired") {
                    out.push(Violation::at("paused", i, format!("the pause of worker {w} was ended by {}", t.event)));
                }
                match (t.event, t.to) {
                    ("pause", _) => drop(paused.entry(w).or_insert(i)),
                    ("idle" | "job" | "disconnect", to) if to != "Paused" => drop(paused.remove(&w)),
                    _ => {}
                }
            }
            Fact::Sent(r) => {
                let Credential::Worker(w) = r.credential else { continue };
                let Some(&since) = paused.get(&w).filter(|since| v.entries[**since].at < e.at) else { continue };
                let allowed = v.stop(w).is_some_and(|(s, _)| s < i) || v.sources_ended(w).is_some_and(|s| s < i);
                match r.op {
                    Op::Accept => out.push(Violation::at("paused", i, format!("{r} while paused since entry {since}"))),
                    Op::Disconnect if !allowed => {
                        out.push(Violation::at("paused", i, format!("worker {w} left while paused since entry {since}")));
                    }
                    _ => {}
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::story::Story;
    use super::*;

    fn pinged(s: Story, ms: u64, call: u64, action: &str) -> Story {
        let said = Said::Ping { action: action.into(), job: None, endpoint: String::new() };
        s.sent(ms - 20, call, "ping", "w1", "").said(ms, call, said)
    }

    fn paused() -> Story {
        pinged(Story::new().connected(1), 500, 5, "pause")
    }

    #[test]
    fn an_accept_while_paused_is_seen() {
        paused().sent(900, 6, "accept", "w1", "J").breaks(INVARIANT);
        pinged(paused(), 700, 7, "idle").sent(900, 6, "accept", "w1", "J").holds(INVARIANT);
    }

    #[test]
    fn a_failed_ping_that_ends_a_pause_is_seen() {
        let failed = paused().sent(600, 7, "ping", "w1", "").got(620, 7, 503);
        failed.clone().sent(620, 6, "disconnect", "w1", "").breaks(INVARIANT);
        failed.clone().step(620, "action", "Paused", "no news", "Paused").holds(INVARIANT);
        failed.step(620, "action", "Paused", "no news", "Free").breaks(INVARIANT);
    }

    #[test]
    fn a_paused_worker_that_leaves_by_itself_is_seen() {
        let left = |s: Story| s.sent(900, 6, "disconnect", "w1", "");
        left(paused()).breaks(INVARIANT);
        left(paused().signal(800, "TERM")).holds(INVARIANT);
        left(paused().signal(800, "HUP")).breaks(INVARIANT);
        left(pinged(paused(), 800, 7, "disconnect")).holds(INVARIANT);
        left(pinged(paused(), 800, 7, "")).holds(INVARIANT);
    }

    #[test]
    fn a_pause_that_a_stream_brought_is_a_pause() {
        let s = || Story::new().with(|s| s.source = Source::Auto).connected(1).step(500, "action", "Free", "pause", "Paused");
        s().sent(900, 6, "disconnect", "w1", "").breaks(INVARIANT);
        s().step(700, "action", "Paused", "idle", "Free").sent(900, 6, "disconnect", "w1", "").holds(INVARIANT);
    }
}
