//! What the measured jobs run: `bench job write KIND BYTES`, `bench job cancel FILE`, `bench job burst BYTES SECONDS`.

use crate::measure::now;
use std::io::Write;

/// One block of 64 KiB of log text. `compressible`: the same line again and again; `mixed`: words drawn by a simple generator, as a build prints.
fn block(kind: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(65_536);
    let mut x: u64 = 0x9e37_79b9_7f4a_7c15;
    let words = ["Compiling", "warning:", "unused", "src/main.rs", "ok", "test", "Downloading", "0.1.3", "->", "linking", "Finished", "cache", "hit"];
    while out.len() < 65_536 {
        if kind == "mixed" {
            for _ in 0..8 {
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
                let _ = write!(out, "{} {:x} ", words[(x % words.len() as u64) as usize], x >> 40);
            }
        } else {
            out.extend_from_slice(b"2026-11-24 12:00:00 compiling module number 42 of the project, all is well so far");
        }
        out.push(b'\n');
    }
    out.truncate(65_535);
    out.push(b'\n');
    out
}

fn write(kind: &str, bytes: u64) {
    let block = block(kind);
    let mut out = std::io::stdout().lock();
    let mut left = bytes;
    while left > 0 {
        let n = left.min(block.len() as u64) as usize;
        if out.write_all(&block[..n]).is_err() {
            return;
        }
        left -= n as u64;
    }
    let _ = out.flush();
}

fn stamp(file: &str) {
    std::fs::write(file, now().as_nanos().to_string()).expect("the time is noted");
}

pub(crate) fn main(args: &[String]) {
    let arg = |i: usize| args.get(i).map(String::as_str).unwrap_or_default();
    match arg(0) {
        "write" => write(arg(1), arg(2).parse().expect("bytes")),
        "burst" => {
            write("mixed", arg(1).parse().expect("bytes"));
            for _ in 0..arg(2).parse::<u64>().expect("seconds") * 5 {
                print!(".");
                let _ = std::io::stdout().flush();
                std::thread::sleep(std::time::Duration::from_millis(200));
            }
        }
        "cancel" => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).expect("a handler");
                std::fs::write(format!("{}.up", arg(1)), "").expect("a marker");
                term.recv().await;
                stamp(arg(1));
            });
            // Death is what the figure begins with: nothing is tidied up after the note.
            drop(runtime);
            stamp(&format!("{}.end", arg(1)));
            std::process::exit(0);
        }
        other => panic!("no job is called {other:?}"),
    }
}
