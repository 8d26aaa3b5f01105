//! Measures what users feel: start-up, idle cost, cost of a job, log throughput, latency of a cancel and of a stop.
//!
//! ```text
//! cargo build --release -p ibex
//! cargo run --release --example bench -- [NAME…]        # all rows, or the named ones
//! ```
//!
//! Every row starts the release binary (`target/release/ibex`, or `$IBEX`) against a control plane on loopback inside this
//! process, and prints medians. Nothing here is a test: run it on a quiet machine.

mod jobs;
mod measure;
mod plane;
mod rows;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        // The programs that jobs run.
        Some("job") => jobs::main(&args[1..]),
        _ => rows::main(&args),
    }
}
