//! The simulation suites: hundreds of seeds of the random workload, every stored schedule, the families of races at a sample of
//! places, and that a seed is a run: the same bytes, always and everywhere.

use ibex_sim::run::{Report, run};
use ibex_sim::schedule::Schedule;
use ibex_sim::{corpus, scenarios, timeline};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Plays all runs on all processors; returns what broke, readable.
fn play(runs: &[(String, Schedule)]) -> Vec<String> {
    let next = AtomicUsize::new(0);
    let broken = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some((name, schedule)) = runs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let report = run(schedule);
                    if !report.violations.is_empty() {
                        broken.lock().expect("no test panics with it").push(tell(name, &report));
                    }
                }
            });
        }
    });
    broken.into_inner().expect("no test panics with it")
}

fn tell(name: &str, report: &Report) -> String {
    let v = &report.violations[0];
    format!("{} does not hold: {}\n{}replay: cargo run -p ibex-sim -- replay {name}\n", v.property, v.text, timeline::around(&report.trace, v))
}

fn assert_well(runs: &[(String, Schedule)]) {
    let broken = play(runs);
    assert!(broken.is_empty(), "{} of {} runs broke a property; the first:\n{}", broken.len(), runs.len(), broken[0]);
}

#[test]
fn three_hundred_seeds_of_the_random_workload_keep_every_property() {
    assert_well(&(0..300).map(|seed| (format!("random {seed}"), Schedule::random(seed))).collect::<Vec<_>>());
}

#[test]
fn every_stored_schedule_keeps_every_property() {
    let stored = corpus::all().expect("the corpus can be read");
    assert!(!stored.is_empty(), "the corpus is not empty");
    assert_well(&stored);
}

#[test]
fn every_named_scenario_keeps_every_property_at_a_sample_of_places() {
    let mut runs = Vec::new();
    for s in scenarios::ALL.iter().filter(|s| s.name != "random") {
        let places = if s.family { run(&(s.schedule)(0)).trace.entries.len() as u64 } else { 7 };
        // About a dozen places of each; a soak of the family plays them all.
        let step = (places / 12).max(1) as usize;
        runs.extend((0..=places).step_by(step).map(|n| (format!("{} {n}", s.name), (s.schedule)(n))));
    }
    assert_well(&runs);
}

#[test]
fn a_seed_gives_the_same_bytes_twice_in_one_process_and_in_another_process() {
    const SEEDS: u64 = 100;
    let digests = |seeds: std::ops::Range<u64>| seeds.map(|s| run(&Schedule::random(s)).digest).collect::<Vec<_>>();
    let (first, second) = std::thread::scope(|scope| {
        let a = scope.spawn(|| digests(0..SEEDS));
        let b = scope.spawn(|| digests(0..SEEDS));
        (a.join().expect("no panic"), b.join().expect("no panic"))
    });
    assert_eq!(first, second);
    // This test binary again, as another process, plays them in the test below.
    let exe = std::env::current_exe().expect("a test binary");
    let out = Command::new(exe)
        .args(["--exact", "digests_for_another_process", "--nocapture", "--include-ignored"])
        .env("IBEX_SIM_DIGESTS", SEEDS.to_string())
        .output()
        .expect("the test binary runs");
    let text = String::from_utf8_lossy(&out.stdout);
    let theirs: Vec<&str> = text.lines().filter_map(|l| l.split_once("digest ").map(|(_, d)| d.trim())).collect();
    assert_eq!(theirs, first, "another process sees other bytes");
}

#[test]
#[ignore = "run by the test above in a process of its own"]
fn digests_for_another_process() {
    let seeds: u64 = std::env::var("IBEX_SIM_DIGESTS").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    for seed in 0..seeds {
        println!("digest {}", run(&Schedule::random(seed)).digest);
    }
}
