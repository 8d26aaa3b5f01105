//! `ibex-sim`: soak · replay · explain · coverage · diagram · invariants.

use clap::{Parser, Subcommand};
use ibex_sim::coverage::Coverage;
use ibex_sim::run::{Report, run};
use ibex_sim::scenarios::Seeds;
use ibex_sim::schedule::Schedule;
use ibex_sim::{corpus, scenarios, timeline};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Plays the agent in a simulated world.
#[derive(Parser)]
#[command(name = "ibex-sim", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Plays seeds until one breaks a property, the time is over, or all are played.
    Soak {
        /// Stop after this time.
        #[arg(long, conflicts_with = "seeds")]
        seconds: Option<u64>,
        /// Play these, `A..B` (B excluded).
        #[arg(long, value_parser = range)]
        seeds: Option<(u64, u64)>,
        /// Which scenario.
        #[arg(long, default_value = "random")]
        scenario: String,
        /// Go on after a violation, and count.
        #[arg(long)]
        keep_going: bool,
        /// Runs at a time; 0: as many as there are processors.
        #[arg(long, default_value_t = 0)]
        jobs: usize,
    },
    /// Plays one run again, and tells whether a property broke. A stored schedule is named by its file, or by its name in the corpus.
    Replay {
        /// Scenario, or stored schedule.
        scenario: String,
        /// Seed.
        #[arg(default_value_t = 0)]
        seed: u64,
        /// Print the schedule as JSON instead, to be stored.
        #[arg(long)]
        print_schedule: bool,
    },
    /// Plays one run, and prints its timeline in lanes.
    Explain {
        /// Scenario, or stored schedule.
        scenario: String,
        /// Seed.
        #[arg(default_value_t = 0)]
        seed: u64,
        /// One column instead of four.
        #[arg(long)]
        plain: bool,
    },
    /// Plays every family with its marked event at every step of its baseline run, and every variant of the other scenarios.
    Families {
        /// Only those whose name begins so.
        #[arg(default_value = "")]
        prefix: String,
    },
    /// Plays every family at many places and many seeds, and lists the transitions that no run made.
    Coverage {
        /// Seeds of `random` to play.
        #[arg(long, value_parser = range, default_value = "0..300")]
        seeds: (u64, u64),
        /// Fail below this share of the declared transitions, in percent.
        #[arg(long)]
        at_least: Option<u64>,
        /// Add the transitions made to the list of known ones.
        #[arg(long)]
        learn: bool,
    },
    /// Draws the lifecycles from transitions that runs made, into a directory.
    Diagram {
        /// Where to.
        #[arg(long, default_value = "docs/lifecycles")]
        into: PathBuf,
        /// Seeds of `random` to play.
        #[arg(long, value_parser = range, default_value = "0..300")]
        seeds: (u64, u64),
    },
    /// Writes the map from invariants to what watches them.
    Invariants {
        /// Where to.
        #[arg(long, default_value = "docs/invariants.md")]
        into: PathBuf,
    },
    /// Lists the scenarios.
    Scenarios,
    /// Prints the digest of each run, to compare processes.
    Digest {
        /// Which scenario.
        #[arg(long, default_value = "random")]
        scenario: String,
        /// Seeds.
        #[arg(long, value_parser = range)]
        seeds: (u64, u64),
    },
}

fn range(text: &str) -> Result<(u64, u64), String> {
    let (a, b) = text.split_once("..").ok_or("expected A..B")?;
    let number = |t: &str| t.trim().parse::<u64>().map_err(|e| format!("{t}: {e}"));
    Ok((number(a)?, number(b)?))
}

fn main() -> ExitCode {
    match execute(Cli::parse().command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(message) => {
            eprintln!("ibex-sim: {message}");
            ExitCode::from(2)
        }
    }
}

fn execute(command: Command) -> Result<bool, String> {
    match command {
        Command::Soak { seconds, seeds, scenario, keep_going, jobs } => soak(&scenario, seconds, seeds, keep_going, jobs),
        Command::Replay { scenario, seed, print_schedule } => {
            let schedule = schedule(&scenario, seed)?;
            if print_schedule {
                println!("{}", serde_json::to_string_pretty(&schedule).map_err(|e| e.to_string())?);
                return Ok(true);
            }
            let report = run(&schedule);
            println!("{scenario} {seed}: {} observations, {:?} simulated, digest {}", report.trace.entries.len(), report.simulated, report.digest);
            Ok(tell(&scenario, seed, &report))
        }
        Command::Explain { scenario, seed, plain } => {
            let report = run(&schedule(&scenario, seed)?);
            print!("{}", if plain { timeline::text(&report.trace) } else { timeline::lanes(&report.trace) });
            Ok(tell(&scenario, seed, &report))
        }
        Command::Families { prefix } => Ok(families(&prefix)),
        Command::Coverage { seeds, at_least, learn } => coverage(seeds, at_least, learn),
        Command::Diagram { into, seeds } => diagram(&into, seeds),
        Command::Invariants { into } => {
            std::fs::write(&into, ibex_sim::invariants::rows::document()).map_err(|e| format!("{}: {e}", into.display()))?;
            println!("{}", into.display());
            Ok(true)
        }
        Command::Scenarios => {
            for s in scenarios::ALL {
                println!("{:<14} {}", s.name, s.about);
            }
            for (name, schedule) in corpus::all()? {
                println!("{name:<14} {}", schedule.about);
            }
            Ok(true)
        }
        Command::Digest { scenario, seeds } => {
            for seed in seeds.0..seeds.1 {
                println!("{seed} {}", run(&schedule(&scenario, seed)?).digest);
            }
            Ok(true)
        }
    }
}

/// The schedule of a scenario and seed, or of a stored file.
fn schedule(name: &str, seed: u64) -> Result<Schedule, String> {
    if let Some(s) = scenarios::find(name) {
        return Ok((s.schedule)(seed));
    }
    let path = if name.ends_with(".json") { PathBuf::from(name) } else { corpus::directory().join(format!("{name}.json")) };
    let (_, stored) = corpus::read(&path).map_err(|e| format!("no scenario and no stored schedule is called {name} ({e})"))?;
    Ok(if seed == 0 { stored } else { Schedule { seed, ..stored } })
}

/// Tells of the violations of a run. `true`: there are none.
fn tell(scenario: &str, seed: u64, report: &Report) -> bool {
    for v in report.violations.iter().take(3) {
        println!("\n{} does not hold: {}", v.property, v.text);
        print!("{}", timeline::around(&report.trace, v));
    }
    if report.violations.len() > 3 {
        println!("\n… and {} more", report.violations.len() - 3);
    }
    if !report.violations.is_empty() {
        println!("\nreplay:  cargo run -p ibex-sim -- replay {scenario} {seed}");
        println!("explain: cargo run -p ibex-sim -- explain {scenario} {seed}");
    }
    report.violations.is_empty()
}

/// Plays `seeds` on `threads` threads; each report is handed to `each`, which says whether to go on.
fn play(make: &(dyn Fn(u64) -> Schedule + Sync), seeds: (u64, u64), threads: usize, each: &(dyn Fn(u64, Report) -> bool + Sync)) {
    let next = AtomicU64::new(seeds.0);
    let stop = AtomicBool::new(false);
    let threads = if threads == 0 { std::thread::available_parallelism().map_or(2, usize::from) } else { threads };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.1 {
                        return;
                    }
                    if !each(seed, run(&make(seed))) {
                        stop.store(true, Ordering::Relaxed);
                    }
                }
            });
        }
    });
}

fn soak(name: &str, seconds: Option<u64>, seeds: Option<(u64, u64)>, keep_going: bool, jobs: usize) -> Result<bool, String> {
    schedule(name, 1)?;
    let begun = Instant::now();
    let limit = seconds.map(Duration::from_secs);
    let (seeds, limit) = match (seeds, limit) {
        (Some(seeds), _) => (seeds, None),
        (None, limit) => ((0, u64::MAX), Some(limit.unwrap_or(Duration::from_secs(60)))),
    };
    let played = AtomicU64::new(0);
    let simulated = AtomicU64::new(0);
    let broken: Mutex<BTreeMap<&'static str, (u64, u64)>> = Mutex::new(BTreeMap::new());
    let make = |seed| schedule(name, seed).expect("found before");
    play(&make, seeds, jobs, &|seed, report| {
        played.fetch_add(1, Ordering::Relaxed);
        simulated.fetch_add(report.simulated.as_millis() as u64, Ordering::Relaxed);
        if let Some(first) = report.violations.first() {
            let mut broken = broken.lock().unwrap_or_else(PoisonError::into_inner);
            if keep_going {
                println!("seed {seed}: {} {}", first.property, first.text);
            } else if broken.is_empty() {
                tell(name, seed, &report);
            }
            let entry = broken.entry(first.property).or_insert((0, seed));
            entry.0 += 1;
            entry.1 = entry.1.min(seed);
            if !keep_going {
                return false;
            }
        }
        limit.is_none_or(|l| begun.elapsed() < l)
    });
    let broken = broken.into_inner().unwrap_or_else(PoisonError::into_inner);
    let took = begun.elapsed();
    let (played, simulated) = (played.into_inner(), simulated.into_inner() / 1_000);
    println!(
        "{played} runs of {name} in {:.1} s: {:.0} runs a minute, {simulated} s simulated, {:.0} simulated seconds a second",
        took.as_secs_f64(),
        played as f64 * 60.0 / took.as_secs_f64(),
        simulated as f64 / took.as_secs_f64()
    );
    for (property, (count, seed)) in &broken {
        println!("{property}: {count} runs, the first is seed {seed}");
    }
    if broken.is_empty() {
        println!("no violation");
    }
    Ok(broken.is_empty())
}

/// Plays every place of every family. `true`: all properties held everywhere.
fn families(prefix: &str) -> bool {
    let mut well = true;
    for s in scenarios::ALL.iter().filter(|s| s.seeds != Seeds::Random && s.name.starts_with(prefix)) {
        let places: Vec<u64> = s.sample(u64::MAX).collect();
        let broken: Mutex<BTreeMap<u64, Report>> = Mutex::default();
        play(&|n| (s.schedule)(places[n as usize]), (0, places.len() as u64), 0, &|n, report| {
            let mut broken = broken.lock().unwrap_or_else(PoisonError::into_inner);
            if !report.violations.is_empty() {
                broken.insert(places[n as usize], report);
            }
            true
        });
        let broken = broken.into_inner().unwrap_or_else(PoisonError::into_inner);
        println!("{:<14} {:>5} runs, {} broken", s.name, places.len(), broken.len());
        if let Some((place, report)) = broken.first_key_value() {
            tell(s.name, *place, report);
            well = false;
        }
    }
    well
}

/// Places of a family that `coverage` plays.
const PLACES: u64 = 90;

/// Plays everything worth playing, for its transitions.
fn everything(seeds: (u64, u64)) -> Result<Coverage, String> {
    let seen = Mutex::new(Coverage::default());
    let add = |report: &Report| seen.lock().unwrap_or_else(PoisonError::into_inner).add(report);
    for s in scenarios::ALL {
        let seeds: Vec<u64> = if s.seeds == Seeds::Random { (seeds.0..seeds.1).collect() } else { s.sample(PLACES).collect() };
        play(&|n| (s.schedule)(seeds[n as usize]), (0, seeds.len() as u64), 0, &|_, report| {
            add(&report);
            true
        });
    }
    for (_, schedule) in corpus::all()? {
        add(&run(&schedule));
    }
    Ok(seen.into_inner().unwrap_or_else(PoisonError::into_inner))
}

fn coverage(seeds: (u64, u64), at_least: Option<u64>, learn: bool) -> Result<bool, String> {
    let seen = everything(seeds)?;
    if learn {
        seen.learn()?;
    }
    let (text, percent) = seen.table()?;
    print!("{text}");
    Ok(at_least.is_none_or(|p| percent >= p))
}

fn diagram(into: &Path, seeds: (u64, u64)) -> Result<bool, String> {
    let seen = everything(seeds)?;
    std::fs::create_dir_all(into).map_err(|e| format!("{}: {e}", into.display()))?;
    for (machine, text) in seen.diagrams() {
        let path = into.join(format!("{machine}.md"));
        std::fs::write(&path, text).map_err(|e| format!("{}: {e}", path.display()))?;
        println!("{}", path.display());
    }
    Ok(true)
}
