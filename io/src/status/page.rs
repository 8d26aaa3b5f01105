//! `/status` for people.

use super::board::Board;
use maud::{DOCTYPE, html};

/// The page; it reloads itself.
pub(super) fn render(board: &Board) -> String {
    let uptime = board.uptime();
    let notes = board.notes();
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="refresh" content="5";
                title { "Ibex agent" }
                style { "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem;color-scheme:light dark}"
                    "table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.3rem .8rem .3rem 0;border-bottom:1px solid #8884}"
                    "code{font-size:.92em}" }
            }
            body {
                h1 { "Ibex agent" }
                p { "Version " (env!("CARGO_PKG_VERSION")) ", process " (std::process::id()) ", up " (uptime) ". "
                    a href="/status.json" { "JSON" } " · " a href="/metrics" { "metrics" } }
                h2 { "Workers" }
                table {
                    tr { th { "#" } th { "Name" } th { "State" } th { "Job" } th { "Last heartbeat" } }
                    @for worker in notes.workers.values() {
                        tr {
                            td { (worker.worker) }
                            td { (worker.name) }
                            td { (worker.state) }
                            td { @if let Some(job) = &worker.current_job { code { (job) } } @else { "–" } }
                            td {
                                @if let Some(at) = worker.last_heartbeat { (board.ago(at)) " ago" } @else { "none yet" }
                                @if let Some(e) = &worker.heartbeat_error { " (failed since: " (e) ")" }
                            }
                        }
                    }
                }
                h2 { "Machines" }
                table {
                    tr { th { "Owner" } th { "Machine" } th { "State" } }
                    @for ((owner, machine), state) in &notes.machines {
                        tr { td { (format!("{owner:?}")) } td { (machine) } td { (state) } }
                    }
                }
            }
        }
    }
    .into_string()
}
