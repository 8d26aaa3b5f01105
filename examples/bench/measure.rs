//! Clocks, process facts, medians.

use std::process::{Child, Command};
use std::time::Duration;

/// CLOCK_MONOTONIC, the same for all processes.
pub(crate) fn now() -> Duration {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Duration::new(t.tv_sec as u64, t.tv_nsec as u32)
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

pub(crate) fn ms(d: Duration) -> f64 {
    d.as_secs_f64() * 1e3
}

/// A line of /proc/PID/status in KiB.
pub(crate) fn status_kib(pid: u32, field: &str) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find(|l| l.starts_with(field)).unwrap_or("0 0");
    line.split_whitespace().nth(1).and_then(|v| v.parse().ok()).unwrap_or(0.0)
}

/// CPU seconds of a process, with or without its reaped children.
pub(crate) fn cpu(pid: u32, children: bool) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<f64> = text.rsplit(')').next().unwrap_or("").split_whitespace().skip(1).map(|f| f.parse().unwrap_or(0.0)).collect();
    // After the state: utime is field 14 of the file, so index 10 here; cutime and cstime follow stime.
    let own: f64 = fields.iter().skip(10).take(2).sum();
    let reaped: f64 = fields.iter().skip(12).take(2).sum();
    let ticks = rustix::param::clock_ticks_per_second() as f64;
    (own + if children { reaped } else { 0.0 }) / ticks
}

/// What one run of a command cost: wall, CPU and peak memory.
pub(crate) struct Cost {
    pub(crate) wall_ms: f64,
    pub(crate) cpu_ms: f64,
    pub(crate) peak_mib: f64,
}

/// Runs a command `n` times and gives the medians; CPU is the mean, as the kernel counts it in ticks.
pub(crate) fn cost(n: usize, command: &mut Command) -> Cost {
    command.stdout(std::process::Stdio::null());
    let (mut wall, mut peak) = (Vec::new(), Vec::new());
    let before = children_cpu();
    for _ in 0..n {
        let at = now();
        let mut child = command.spawn().expect("the command runs");
        let peak_kib = wait_with_peak(&mut child);
        wall.push(ms(now() - at));
        peak.push(peak_kib / 1024.0);
    }
    Cost { wall_ms: median(wall), cpu_ms: (children_cpu() - before) * 1e3 / n as f64, peak_mib: median(peak) }
}

/// CPU seconds of all reaped children of this process.
fn children_cpu() -> f64 {
    cpu(std::process::id(), true) - cpu(std::process::id(), false)
}

/// Waits, and gives the largest VmHWM seen (a short-lived process is looked at while it is a zombie's parent still holds it).
fn wait_with_peak(child: &mut Child) -> f64 {
    let pid = child.id();
    let mut peak: f64 = 0.0;
    loop {
        peak = peak.max(status_kib(pid, "VmHWM"));
        match child.try_wait() {
            Ok(Some(_)) | Err(_) => return peak,
            Ok(None) => std::hint::spin_loop(),
        }
    }
}

pub(crate) fn print(name: &str, text: &str) {
    println!("{name:<28} {text}");
}
