//! The simulation suites: hundreds of seeds of the random workload, every stored schedule, the families of races at a sample of
//! places, and that a seed is a run: the same bytes, always and everywhere.

use ibex_sim::coverage::Coverage;
use ibex_sim::run::{Report, run};
use ibex_sim::scenarios::Seeds;
use ibex_sim::schedule::Schedule;
use ibex_sim::{corpus, scenarios, timeline};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};

/// What came of the runs of a suite.
struct Played {
    runs: usize,
    /// What broke, readable.
    broken: Vec<String>,
    coverage: Coverage,
}

/// Plays all runs on all processors.
fn play(runs: &[(String, Schedule)]) -> Played {
    let next = AtomicUsize::new(0);
    let played = Mutex::new(Played { runs: runs.len(), broken: Vec::new(), coverage: Coverage::default() });
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some((name, schedule)) = runs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let report = run(schedule);
                    let mut played = played.lock().expect("no test panics with it");
                    played.coverage.add(&report);
                    if !report.violations.is_empty() {
                        played.broken.push(tell(name, &report));
                    }
                }
            });
        }
    });
    played.into_inner().expect("no test panics with it")
}

fn tell(name: &str, report: &Report) -> String {
    let v = &report.violations[0];
    format!("{} does not hold: {}\n{}replay: cargo run -p ibex-sim -- replay {name}\n", v.property, v.text, timeline::around(&report.trace, v))
}

impl Played {
    fn assert_well(&self) {
        let Played { runs, broken, .. } = self;
        assert!(broken.is_empty(), "{} of {runs} runs broke a property; the first:\n{}", broken.len(), broken[0]);
    }
}

/// Three hundred seeds of the random workload.
fn random() -> &'static Played {
    static PLAYED: OnceLock<Played> = OnceLock::new();
    PLAYED.get_or_init(|| play(&(0..300).map(|seed| (format!("random {seed}"), Schedule::random(seed))).collect::<Vec<_>>()))
}

/// About a dozen places of each family, and all variants of the other scenarios; a soak of a family plays all its places.
fn named() -> &'static Played {
    static PLAYED: OnceLock<Played> = OnceLock::new();
    PLAYED.get_or_init(|| {
        let named = scenarios::ALL.iter().filter(|s| s.seeds != Seeds::Random);
        play(&named.flat_map(|s| s.sample(12).map(|n| (format!("{} {n}", s.name), (s.schedule)(n)))).collect::<Vec<_>>())
    })
}

#[test]
fn three_hundred_seeds_of_the_random_workload_keep_every_property() {
    random().assert_well();
}

#[test]
fn every_stored_schedule_keeps_every_property() {
    let stored = corpus::all().expect("the corpus can be read");
    assert!(!stored.is_empty(), "the corpus is not empty");
    play(&stored).assert_well();
}

#[test]
fn every_named_scenario_keeps_every_property_at_a_sample_of_places() {
    named().assert_well();
}

/// `ibex-sim coverage` plays more places and seeds, and lists what is missing.
#[test]
fn these_runs_make_95_percent_of_the_transitions_that_a_run_can_make_and_none_that_is_excused() {
    let mut all = random().coverage.clone();
    all.join(&named().coverage);
    assert_eq!(all.excused_in_vain().expect("the lists are well-formed"), Vec::<String>::new(), "reached after all: no exception is needed");
    let (table, percent) = all.table().expect("the lists are well-formed");
    assert!(percent >= 95, "{table}");
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
