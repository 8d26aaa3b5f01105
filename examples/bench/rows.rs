//! The rows of the table.

use crate::measure::{cost, cpu, median, ms, now, print, status_kib};
use crate::plane::Plane;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;

fn binary() -> PathBuf {
    std::env::var_os("IBEX").map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/release/ibex"), PathBuf::from)
}

struct Agent {
    child: Child,
    /// Removed with the agent.
    _work: tempfile::TempDir,
}

impl Agent {
    fn start(plane: &Plane, args: &[&str], config: Option<&str>) -> Agent {
        let work = tempfile::tempdir().expect("a directory");
        let mut command = Command::new(binary());
        command
            .arg("start")
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", work.path())
            .env("TMPDIR", work.path());
        match config {
            Some(text) => {
                let file = work.path().join("agent.cfg");
                std::fs::write(&file, format!("{text}endpoint={}\nbuild-path={}\n", plane.url(), work.path().display())).expect("a file");
                command.arg("--config").arg(file);
            }
            None => {
                command.args(["--token", "t", "--endpoint", &plane.url(), "--build-path"]).arg(work.path());
            }
        }
        command.args(["--ping-mode", "poll-only"]).args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Agent { child: command.spawn().expect("the agent starts"), _work: work }
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGTERM to gone.
    fn stop(mut self) -> Duration {
        let at = now();
        let _ = rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), rustix::process::Signal::TERM);
        let _ = self.child.wait();
        now() - at
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn job(what: &str) -> String {
    format!("{} job {what}", std::env::current_exe().expect("this program").display())
}

fn job_env(plane: &Plane) {
    let env = [
        ("BUILDKITE_COMMAND", "true"),
        ("BUILDKITE_COMMIT", "HEAD"),
        ("BUILDKITE_BRANCH", "main"),
        ("BUILDKITE_REPO", "none"),
        ("BUILDKITE_SKIP_CHECKOUT", "true"),
        ("BUILDKITE_AGENT_NAME", "a"),
        ("BUILDKITE_ORGANIZATION_SLUG", "o"),
        ("BUILDKITE_PIPELINE_SLUG", "p"),
        ("BUILDKITE_PIPELINE_PROVIDER", "git"),
    ];
    plane.with(|s| s.env = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect());
}

/// Queues a job and waits for its finish; gives (accept answered, finish seen).
fn run_job(plane: &Plane, id: &str, bound: Duration) -> (Duration, Duration) {
    plane.with(|s| {
        s.env.insert("BUILDKITE_JOB_ID".into(), id.into());
        s.queue.push(id.into());
    });
    plane.wait("the finish", bound, |s| s.jobs.get(id).and_then(|j| Some((j.0, j.1?))))
}

fn version() {
    let c = cost(101, Command::new(binary()).arg("--version"));
    print("version", &format!("{:.2} ms wall, {:.1} MiB peak", c.wall_ms, c.peak_mib));
}

fn meta_data() {
    let plane = Plane::start();
    let mut command = Command::new(binary());
    command
        .args(["meta-data", "get", "k"])
        .env("BUILDKITE_AGENT_ACCESS_TOKEN", "j")
        .env("BUILDKITE_JOB_ID", "j")
        .env("BUILDKITE_AGENT_ENDPOINT", plane.url());
    let c = cost(101, &mut command);
    print("meta-data get", &format!("{:.2} ms wall, {:.2} ms CPU, {:.1} MiB peak", c.wall_ms, c.cpu_ms, c.peak_mib));
}

fn start_up() {
    let measure = |config: Option<&str>| {
        median(
            (0..21)
                .map(|_| {
                    let plane = Plane::start();
                    let at = now();
                    let agent = Agent::start(&plane, &[], config);
                    let seen = plane.wait("a registration", Duration::from_secs(10), |s| s.seen.get("register").map(|r| r.0));
                    drop(agent);
                    ms(seen - at)
                })
                .collect(),
        )
    };
    let (file, line) = (measure(Some("token=t\n")), measure(None));
    print("start → register", &format!("{file:.2} ms with a config file, {line:.2} ms with the token on the command line"));
}

fn connected(plane: &Plane, n: u64) -> Duration {
    plane.wait("all workers to connect", Duration::from_secs(30), |s| s.seen.get("connect").filter(|c| c.2 >= n).map(|c| c.1))
}

fn idle() {
    let rss = |n: u64| {
        let plane = Plane::start();
        let agent = Agent::start(&plane, &["--spawn", &n.to_string()], None);
        connected(&plane, n);
        std::thread::sleep(Duration::from_secs(3));
        let (requests, used) = (plane.with(|s| s.seen.values().map(|v| v.2).sum::<u64>()), cpu(agent.pid(), false));
        std::thread::sleep(Duration::from_secs(10));
        let requests = plane.with(|s| s.seen.values().map(|v| v.2).sum::<u64>()) - requests;
        let per_request_us = (cpu(agent.pid(), false) - used) * 1e6 / requests as f64;
        (status_kib(agent.pid(), "VmRSS"), status_kib(agent.pid(), "RssAnon"), per_request_us)
    };
    let (one, one_anon, _) = rss(1);
    let (_, fifty_anon, cpu_us) = rss(50);
    print(
        "idle memory",
        &format!("{:.1} MiB RSS with 1 worker, {:.1} KiB anonymous for each further one", one / 1024.0, (fifty_anon - one_anon) / 49.0),
    );
    print("idle CPU, 50 workers", &format!("{cpu_us:.0} µs a request"));
}

fn trivial() {
    for (name, args) in [("trivial job, built-in", &[][..]), ("trivial job, runner alone", &["--bootstrap-script", "true"][..])] {
        let plane = Plane::start();
        job_env(&plane);
        let agent = Agent::start(&plane, args, None);
        connected(&plane, 1);
        run_job(&plane, "warm", Duration::from_secs(20));
        let before = cpu(agent.pid(), true);
        let n = 21;
        let took: Vec<f64> = (0..n)
            .map(|i| {
                let (accept, finish) = run_job(&plane, &format!("j{i}"), Duration::from_secs(20));
                ms(finish - accept)
            })
            .collect();
        let used = (cpu(agent.pid(), true) - before) * 1e3 / f64::from(n);
        print(name, &format!("{:.2} ms accept → finish, {used:.1} ms CPU of the whole tree", median(took)));
    }
}

/// Reads a terminal or a pipe as fast as a plain loop can.
fn bare(pty: bool, kind: &str, bytes: u64) -> f64 {
    use std::io::Read;
    let exe = std::env::current_exe().expect("this program");
    let mut command = Command::new(exe);
    command.args(["job", "write", kind, &bytes.to_string()]);
    let at = now();
    let mut total = 0;
    let mut buffer = vec![0; 1 << 16];
    if pty {
        let master = rustix::pty::openpt(rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY).expect("a terminal");
        rustix::pty::grantpt(&master).expect("grant");
        rustix::pty::unlockpt(&master).expect("unlock");
        let name = rustix::pty::ptsname(&master, Vec::new()).expect("a name");
        let slave = std::fs::OpenOptions::new().read(true).write(true).open(name.to_str().expect("a path")).expect("the slave");
        let mut child = command.stdout(slave.try_clone().expect("a copy")).spawn().expect("the writer");
        drop((slave, command));
        let mut master = std::fs::File::from(master);
        while let Ok(n @ 1..) = master.read(&mut buffer) {
            total += n as u64;
        }
        let _ = child.wait();
    } else {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the writer");
        let mut out = child.stdout.take().expect("its output");
        while let Ok(n @ 1..) = out.read(&mut buffer) {
            total += n as u64;
        }
        let _ = child.wait();
    }
    total as f64 / 1e6 / (now() - at).as_secs_f64()
}

fn log() {
    for (name, pty, kind) in
        [("1 GiB log, PTY", true, "mixed"), ("1 GiB log, pipe, compressible", false, "same"), ("1 GiB log, pipe, mixed", false, "mixed")]
    {
        let plane = Plane::start();
        let script = job(&format!("write {kind} {GIB}"));
        let mut args = vec!["--bootstrap-script", script.as_str()];
        if !pty {
            args.push("--no-pty");
        }
        let agent = Agent::start(&plane, &args, None);
        connected(&plane, 1);
        let before = cpu(agent.pid(), false);
        let (accept, finish) = run_job(&plane, "j", Duration::from_secs(300));
        let bytes = plane.with(|s| s.chunk_ends.values().map(|c| c.1).sum::<u64>());
        let used = cpu(agent.pid(), false) - before;
        let rate = bytes as f64 / 1e6 / (finish - accept).as_secs_f64();
        let peak = status_kib(agent.pid(), "VmHWM") / 1024.0;
        print(
            name,
            &format!("{rate:.0} MB/s (bare loop {:.0}), {used:.1} s agent CPU, {peak:.0} MiB peak, {bytes} bytes uploaded", bare(pty, kind, GIB / 2)),
        );
    }
}

fn outage() {
    let plane = Plane::start();
    let script = job(&format!("write mixed {}", 256 * MIB));
    let agent = Agent::start(&plane, &["--no-pty", "--bootstrap-script", &script], None);
    connected(&plane, 1);
    plane.with(|s| s.refuse_chunks_until = Some(now() + Duration::from_secs(22)));
    run_job(&plane, "j", Duration::from_secs(300));
    let (gaps, bytes) = plane.with(|s| {
        let gaps = s.chunk_ends.keys().zip(1..).filter(|(a, b)| **a != *b).count();
        (gaps, s.chunk_ends.values().map(|c| c.1).sum::<u64>())
    });
    let peak = status_kib(agent.pid(), "VmHWM") / 1024.0;
    print("256 MiB, API down 20 s", &format!("{peak:.0} MiB peak, {gaps} gaps, {bytes} bytes uploaded of at least {}", 256 * MIB));
}

fn trickle() {
    let plane = Plane::start();
    let script = job(&format!("burst {} 75", 256 * MIB));
    let agent = Agent::start(&plane, &["--bootstrap-script", &script], None);
    connected(&plane, 1);
    let base = status_kib(agent.pid(), "VmRSS") / 1024.0;
    plane.with(|s| s.queue.push("j".into()));
    plane.wait("the burst", Duration::from_secs(120), |s| (s.chunk_ends.values().map(|c| c.1).sum::<u64>() >= 256 * MIB).then_some(()));
    std::thread::sleep(Duration::from_secs(5));
    let before = cpu(agent.pid(), false);
    std::thread::sleep(Duration::from_secs(60));
    let kept = status_kib(agent.pid(), "VmRSS") / 1024.0 - base;
    print("trickle after a burst", &format!("{kept:.1} MiB above the baseline of {base:.1}, {:.3} s CPU a minute", cpu(agent.pid(), false) - before));
}

fn cancel() {
    let (mut seen, mut reported) = (Vec::new(), Vec::new());
    for i in 0..11 {
        let plane = Plane::start();
        let file = tempfile::NamedTempFile::new().expect("a file");
        let path = file.path().display().to_string();
        let script = job(&format!("cancel {path}"));
        let agent = Agent::start(&plane, &["--bootstrap-script", &script], None);
        let id = format!("j{i}");
        plane.with(|s| s.queue.push(id.clone()));
        while !Path::new(&format!("{path}.up")).exists() {
            std::thread::sleep(Duration::from_millis(1));
        }
        plane.with(|s| s.job_state = "canceling".into());
        let finish = plane.wait("the finish", Duration::from_secs(20), |s| s.jobs.get(&id).and_then(|j| j.1));
        let answered = plane.with(|s| s.cancel_answered).expect("the poll was answered");
        let read = |p: String| Duration::from_nanos(std::fs::read_to_string(p).expect("a time").parse().expect("nanoseconds"));
        seen.push(ms(read(path.clone()).saturating_sub(answered)));
        reported.push(ms(finish.saturating_sub(read(format!("{path}.end")))));
        drop(agent);
    }
    print("cancel", &format!("{:.2} ms answer → SIGTERM, {:.2} ms death → finish", median(seen), median(reported)));
}

fn stop() {
    let took = (0..21)
        .map(|_| {
            let plane = Plane::start();
            let agent = Agent::start(&plane, &[], None);
            plane.wait("a ping", Duration::from_secs(10), |s| s.seen.get("ping").map(|_| ()));
            ms(agent.stop())
        })
        .collect();
    print("idle, SIGTERM → gone", &format!("{:.2} ms", median(took)));
}

fn many() {
    for n in [500, 1000] {
        let plane = Plane::start();
        let at = now();
        let agent = Agent::start(&plane, &["--spawn", &n.to_string()], None);
        let all = ms(connected(&plane, n) - at);
        std::thread::sleep(Duration::from_secs(3));
        let (pings, used) = (plane.with(|s| s.seen["ping"].2), cpu(agent.pid(), false));
        std::thread::sleep(Duration::from_secs(10));
        let per_ping = (cpu(agent.pid(), false) - used) * 1e6 / (plane.with(|s| s.seen["ping"].2) - pings) as f64;
        let rss = status_kib(agent.pid(), "VmRSS") / 1024.0;
        let gone = ms(agent.stop());
        print(&format!("{n} workers"), &format!("connected in {all:.0} ms, {per_ping:.0} µs a ping, {rss:.1} MiB RSS, gone in {gone:.0} ms"));
    }
}

pub(crate) fn main(names: &[String]) {
    let rows: [(&str, fn()); 11] = [
        ("version", version),
        ("meta-data", meta_data),
        ("start", start_up),
        ("idle", idle),
        ("trivial", trivial),
        ("cancel", cancel),
        ("stop", stop),
        ("many", many),
        ("log", log),
        ("outage", outage),
        ("trickle", trickle),
    ];
    for (name, row) in rows {
        if names.is_empty() || names.iter().any(|n| n == name) {
            row();
        }
    }
}
