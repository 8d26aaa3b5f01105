//! Runs the agent's own hooks: lifecycle hooks (start-and-worker §3) and pre-bootstrap (job-runner §4.5).

use super::Shared;
use crate::effects::{Effects, Output, Process};
use ibex_core::agent::{AgentEvent, AgentLog, HookEnd, HookSpec, Level, OsSignal};
use ibex_core::machine::RequestId;
use ibex_core::process::{ExitStatus, SignalTarget, signal_name};
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

/// How long output that a child of the hook holds open is read after the hook's own exit.
const LINGER: Duration = Duration::from_secs(1);
/// Length at which a line of output is split into several log lines.
const LINE_BYTES: usize = 64 * 1024;

/// A running hook, for signals.
pub(super) struct HookRun<E: Effects> {
    state: RefCell<HookState<E>>,
}

struct HookState<E: Effects> {
    process: Option<E::Process>,
    signalled: Option<OsSignal>,
}

impl<E: Effects> HookRun<E> {
    pub(super) fn new() -> Rc<HookRun<E>> {
        Rc::new(HookRun { state: RefCell::new(HookState { process: None, signalled: None }) })
    }

    /// Signals the process group. A signal that comes before the process exists is kept for it.
    pub(super) fn signal(&self, signal: OsSignal) {
        let mut state = self.state.borrow_mut();
        state.signalled = Some(signal);
        if let Some(process) = &state.process {
            // What cannot be signalled is waited for.
            let _ = process.signal(signal, SignalTarget::Tree);
        }
    }

    fn signalled(&self) -> Option<OsSignal> {
        self.state.borrow().signalled
    }

    fn started(&self, process: &E::Process) {
        let mut state = self.state.borrow_mut();
        state.process = Some(process.clone());
        if let Some(signal) = state.signalled {
            let _ = process.signal(signal, SignalTarget::Tree);
        }
    }

    fn ended(&self) {
        self.state.borrow_mut().process = None;
    }
}

/// Runs all files of a hook and completes with `HookEnded`.
pub(super) async fn run<E: Effects>(shared: Shared<E>, id: RequestId, hook: HookSpec, run: Rc<HookRun<E>>) {
    let end = run_files(&shared, &hook, &run).await;
    shared.complete(AgentEvent::HookEnded { id, end }).await;
}

async fn run_files<E: Effects>(shared: &Shared<E>, hook: &HookSpec, run: &HookRun<E>) -> HookEnd {
    let files = shared.effects.find_hooks(hook);
    let files = if hook.all { &files[..] } else { &files[..files.len().min(1)] };
    if files.is_empty() {
        return HookEnd::Missing;
    }
    for path in files {
        if let Some(signal) = run.signalled() {
            return HookEnd::Failed(format!("signal: {}", signal.name()));
        }
        let log = |text: String, fields| {
            shared.effects.log(&AgentLog { level: Level::Info, worker: hook.worker.clone(), text, fields });
        };
        if hook.all {
            log(format!("$ {path}"), vec![("hook", hook.name.to_owned())]);
        } else {
            log(format!("Running {} hook \"{path}\"", hook.name), Vec::new());
        }
        let failure = run_file(shared, hook, path, run).await.err();
        if !hook.all {
            let verdict = failure.as_ref().map_or("job accepted".to_owned(), |e| format!("job rejected: {e}"));
            log(format!("Finished {} hook \"{path}\": {verdict}", hook.name), Vec::new());
        }
        if let Some(e) = failure {
            return HookEnd::Failed(e);
        }
    }
    HookEnd::Succeeded
}

async fn run_file<E: Effects>(shared: &Shared<E>, hook: &HookSpec, path: &str, run: &HookRun<E>) -> Result<(), String> {
    let (process, mut output) = shared.effects.spawn_hook(hook, path).await?;
    run.started(&process);
    let mut lines = Lines::default();
    let log = |line: &[u8]| {
        let text = String::from_utf8_lossy(line).into_owned();
        let fields = vec![("hook", hook.name.to_owned())];
        shared.effects.log(&AgentLog { level: Level::Info, worker: hook.worker.clone(), text, fields });
    };
    let mut exit = std::pin::pin!(process.wait());
    let mut status = None;
    let mut until = None;
    let mut open = true;
    while open || status.is_none() {
        // Output before the exit, so that what was written before it is logged before it.
        tokio::select! {
            biased;
            data = output.read(), if open => match data {
                Some(data) => lines.push(&data, log),
                None => open = false,
            },
            ended = &mut exit, if status.is_none() => {
                run.ended();
                status = Some(ended);
                until = Some(shared.clock.now() + LINGER);
            }
            () = shared.clock.reached(until) => break,
        }
    }
    lines.finish(log);
    match status {
        Some(ExitStatus::Code(0)) => Ok(()),
        Some(ExitStatus::Code(code)) => Err(format!("exit status {code}")),
        Some(ExitStatus::Signal(number)) => Err(format!("signal: {}", signal_name(number))),
        None => unreachable!("the limit is set by the exit"),
    }
}

/// Cuts output into lines without their ends; long ones are split.
#[derive(Default)]
struct Lines {
    pending: Vec<u8>,
}

impl Lines {
    fn push(&mut self, data: &[u8], mut log: impl FnMut(&[u8])) {
        for part in data.split_inclusive(|b| *b == b'\n') {
            self.pending.extend_from_slice(part);
            while self.pending.last() == Some(&b'\n') || self.pending.len() >= LINE_BYTES {
                let cut = self.pending.len().min(LINE_BYTES);
                log(trim_end(&self.pending[..cut]));
                self.pending.drain(..cut);
            }
        }
    }

    fn finish(&mut self, mut log: impl FnMut(&[u8])) {
        if !self.pending.is_empty() {
            log(trim_end(&self.pending));
        }
    }
}

fn trim_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_becomes_lines_and_long_lines_are_split() {
        let mut lines = Lines::default();
        let mut got: Vec<usize> = Vec::new();
        let mut texts = Vec::new();
        let mut log = |l: &[u8]| {
            got.push(l.len());
            texts.push(l.first().copied().unwrap_or(b'-'));
        };
        lines.push(b"a\r\nb", &mut log);
        lines.push(b"b\n\n", &mut log);
        lines.push(&vec![b'x'; LINE_BYTES * 2 + 1], &mut log);
        lines.push(b"y\n", &mut log);
        lines.push(b"end", &mut log);
        lines.finish(&mut log);
        assert_eq!(got, [1, 2, 0, LINE_BYTES, LINE_BYTES, 2, 3]);
        assert_eq!(texts, *b"ab-xxxe");
    }
}
