//! Throughput of the data plane: `cargo bench --bench log` (`-- gzip` and the like choose some).
//!
//! `stream` is the whole path of a byte from the process to a chunk; every upload is answered at once. Marks: a pipe at 250 MB/s
//! for compressible and 120 MB/s for mixed text with gzip, the redactor at 200 MB/s with 50 secrets.

use bytes::Bytes;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ibex_core::api::{Outcome, Reply, Session};
use ibex_core::limits::LOG_BUFFER_BYTES;
use ibex_core::log::{LogCommand, LogConfig, LogEvent, LogStream, Redactor, TimestampMode, Timestamper, gzip};
use ibex_core::machine::{Instant, Machine, Owner};
use ibex_core::rng::Rng;
use ibex_core::secret::Secret;
use ibex_core::wall::WallTime;
use std::fmt::Write;
use std::hint::black_box;
use std::time::Duration;

const BYTES: usize = 16 << 20;
/// What one read returns: a terminal, a pipe.
const TERMINAL_READ: usize = 4096;
const PIPE_READ: usize = 65_536;

/// Lines as a test runner prints them: much repetition, little news.
fn compressible() -> String {
    let mut text = String::with_capacity(BYTES + 128);
    for i in 0_u64.. {
        if text.len() >= BYTES {
            break;
        }
        let _ = writeln!(text, "test module::case_{i} ... ok, everything is as it was expected to be");
    }
    text
}

/// Lines as a build prints them: paths, hashes, times, colours.
fn mixed() -> String {
    const WORDS: [&str; 12] =
        ["Compiling", "warning", "src/lib/parser", "linking", "target", "cache miss", "downloaded", "unused", "node_modules", "in", "of", "done"];
    let mut rng = Rng::from_seed(1);
    let mut text = String::with_capacity(BYTES + 256);
    while text.len() < BYTES {
        let _ = write!(text, "\x1b[32m{:>8}.{:03}\x1b[0m ", rng.below(9999), rng.below(1000));
        for _ in 0..2 + rng.below(6) {
            let _ = write!(text, "{} ", WORDS[rng.below(12) as usize]);
        }
        let _ = writeln!(text, "{:016x} {}", rng.next_u64(), rng.below(100_000));
    }
    text
}

fn config(timestamps: TimestampMode) -> LogConfig {
    LogConfig {
        job: Owner::Job { worker: 1, generation: 1 },
        job_id: "job".into(),
        worker: "worker".into(),
        session: Session { endpoint: "http://localhost".into(), credential: Secret::default(), headers: Default::default() },
        chunk_bytes: 102_400,
        interval: Duration::from_secs(1),
        size_warning: 1 << 30,
        timestamps,
        buffer_bytes: LOG_BUFFER_BYTES,
        stdout: None,
        stdout_fields: Vec::new(),
        copy: None,
        seed: 1,
    }
}

/// Feeds `text` through a stream in reads of `read` bytes; returns compressed bytes.
fn run(text: &Bytes, read: usize, mode: TimestampMode, compress: impl Fn(&[Bytes]) -> u64) -> u64 {
    let mut stream = LogStream::new(config(mode), Instant::ZERO);
    let (mut out, mut ids, mut total) = (Vec::new(), Vec::new(), 0);
    let wall = WallTime::from_nanos(1_763_866_445_678_000_000);
    stream.handle(Instant::ZERO, LogEvent::ProcessStarted, &mut out);
    let mut drain = |stream: &mut LogStream, out: &mut Vec<LogCommand>| {
        loop {
            for command in out.drain(..) {
                if let LogCommand::Upload { id, pieces, .. } = command {
                    total += compress(&pieces);
                    ids.push(id);
                }
            }
            let Some(id) = ids.pop() else { return };
            stream.handle(Instant::ZERO, LogEvent::Settled { id, outcome: Outcome::Ok(Reply::Empty), compressed: 0 }, out);
        }
    };
    let mut at = 0;
    while at < text.len() {
        let end = (at + read).min(text.len());
        stream.handle(Instant::ZERO, LogEvent::Bytes { wall, data: text.slice(at..end) }, &mut out);
        drain(&mut stream, &mut out);
        at = end;
    }
    stream.handle(Instant::ZERO, LogEvent::Flush { limit: Duration::from_secs(1), wall }, &mut out);
    drain(&mut stream, &mut out);
    assert!(stream.is_drained());
    total
}

fn streams(c: &mut Criterion) {
    let texts = [("compressible", Bytes::from(compressible())), ("mixed", Bytes::from(mixed()))];
    let mut group = c.benchmark_group("stream");
    group.sample_size(10).throughput(Throughput::Bytes(BYTES as u64));
    let no_gzip = |pieces: &[Bytes]| pieces.len() as u64;
    for (name, text) in &texts {
        for (source, read) in [("terminal", TERMINAL_READ), ("pipe", PIPE_READ)] {
            group.bench_function(format!("plain/{source}/{name}"), |b| b.iter(|| run(text, read, TimestampMode::Plain, no_gzip)));
            group.bench_function(format!("ansi/{source}/{name}"), |b| b.iter(|| run(text, read, TimestampMode::Ansi, no_gzip)));
        }
        group.bench_function(format!("lines/pipe/{name}"), |b| b.iter(|| run(text, PIPE_READ, TimestampMode::Lines, no_gzip)));
        let packed = |pieces: &[Bytes]| gzip(pieces).len() as u64;
        group.bench_function(format!("ansi+gzip/pipe/{name}"), |b| b.iter(|| run(text, PIPE_READ, TimestampMode::Ansi, packed)));
    }
    group.finish();
}

/// Why `gzip` has the level it has: chunks of the default size, by level.
fn levels(c: &mut Criterion) {
    let mut group = c.benchmark_group("gzip-level");
    group.sample_size(10).throughput(Throughput::Bytes(BYTES as u64));
    for (name, text) in [("compressible", compressible()), ("mixed", mixed())] {
        for level in [1, 2, 3, 6] {
            let pack = || {
                text.as_bytes().chunks(102_400).fold(0, |sum, chunk| {
                    let mut encoder = flate2::GzBuilder::new().write(Vec::new(), flate2::Compression::new(level));
                    std::io::Write::write_all(&mut encoder, chunk).expect("memory");
                    sum + encoder.finish().expect("memory").len()
                })
            };
            println!("gzip level {level}, {name}: {:.1} % of {BYTES} bytes", pack() as f64 * 100.0 / BYTES as f64);
            group.bench_function(BenchmarkId::new(name, level), |b| b.iter(pack));
        }
    }
    group.finish();
}

fn transducers(c: &mut Criterion) {
    let text = mixed();
    let mut group = c.benchmark_group("transducer");
    group.sample_size(20).throughput(Throughput::Bytes(text.len() as u64));
    group.bench_function("timestamper/mixed", |b| {
        b.iter_batched_ref(
            || Vec::with_capacity(text.len() * 2),
            |out: &mut Vec<u8>| {
                let mut stamper = Timestamper::default();
                text.as_bytes().chunks(PIPE_READ).for_each(|part| stamper.push(WallTime::from_nanos(1), part, out));
                black_box(out.len())
            },
            BatchSize::LargeInput,
        );
    });
    let mut rng = Rng::from_seed(2);
    let secrets: Vec<String> = (0..50).map(|i| format!("{}{:032x}", ["ghp_", "AKIA", "", "eyJh", "in"][i % 5], rng.next_u64())).collect();
    group.bench_function("redactor/50-secrets/mixed", |b| {
        b.iter_batched_ref(
            || Vec::with_capacity(text.len() * 2),
            |out: &mut Vec<u8>| {
                let mut redactor = Redactor::new();
                secrets.iter().for_each(|s| redactor.add(s));
                text.as_bytes().chunks(PIPE_READ).for_each(|part| redactor.push(part, out));
                redactor.flush(out);
                black_box(out.len())
            },
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

criterion_group!(benches, streams, levels, transducers);
criterion_main!(benches);
