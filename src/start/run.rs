//! Runs the `Agent` machine in the real world and turns its end into an exit code (start-and-worker §1, §4.1).

use super::metrics::Metrics;
use crate::api::seed;
use crate::cli::Failure;
use crate::flags::Values;
use crate::http_log::HttpLog;
use crate::log::Logger;
use crate::version;
use ibex_core::agent::{Agent, AgentConfig, AgentLog, Exit, Level};
use ibex_core::log::LogStream;
use ibex_core::retry::duration_text;
use ibex_io::agent_world::{self, Drive};
use ibex_io::driver::Clock;
use ibex_io::effects::Effects;
use ibex_io::recorder::Recorder;
use ibex_io::status::{self, Board};
use ibex_io::tokio::{HookPlaces, Http, LogSink, Parts, TokioWorld, deliver, die_by, hold, return_memory_early};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

impl LogSink for Logger {
    fn log(&self, line: &AgentLog) {
        self.line(line);
    }
}

/// Runs the agent until it exits. `cleanup` is dropped before the process may end by a signal.
pub(crate) fn run<T>(values: &Values, config: AgentConfig, log: Logger, cleanup: T) -> Result<u8, Failure> {
    // Until here a signal ends the process by default, and there is nothing to put in order.
    hold();
    return_memory_early();
    let exit = crate::api::block_on_task(drive(values.clone(), config, Rc::new(log)))?;
    drop(cleanup);
    if let Some(message) = exit.message {
        eprintln!("{message}");
    }
    match exit.by_signal {
        Some(signal) => die_by(signal),
        None => Ok(exit.code),
    }
}

async fn drive(values: Values, mut config: AgentConfig, log: Rc<Logger>) -> Result<Exit, Failure> {
    let signals = deliver().map_err(|e| Failure::Fatal(format!("could not install signal handlers: {e}")))?;
    let clock = Clock::start();
    let board = Board::new(clock);
    if let Some(watchdog) = config.watchdog {
        log.at(Level::Notice, format!("Systemd watchdog enabled with a {} timeout", duration_text(watchdog)));
    }
    serve_status(values.text("health-check-addr"), &board, &log).await;
    let metrics = Metrics::prepare(&values, &mut config, &log);
    let world = TokioWorld::new(Parts {
        log: log.clone(),
        board,
        metrics: metrics.sink(),
        http: Http::new(values.bool("no-http2")),
        http_observer: HttpLog::of(&values, &log).map(|l| Rc::new(l) as _),
        hooks: HookPlaces {
            path: config.job.hooks_path.clone(),
            additional: config.job.additional_hooks_paths.clone(),
            shell: config.job.hooks_shell.clone(),
        },
        verifier: None,
    });
    let (wall, seed) = (world.wall_clock(clock), seed());
    let recorder = match values.text("record") {
        "" => None,
        dir => {
            let recorder = Recorder::create(Path::new(dir), &config, seed, wall)
                .map_err(|e| Failure::Fatal(format!("could not start the recording in {dir}: {e}; check record and who may write there")))?;
            log.at(Level::Notice, format!("Recording events to {}", recorder.path().display()));
            Some(recorder)
        }
    };
    let mut agent = Agent::new(Arc::new(config), wall, seed);
    let drive = Drive { clock, wall, user_agent: version::user_agent(), signals, recorder };
    let exit = agent_world::run(world, &mut agent, LogStream::new, drive).await;
    metrics.end(&exit).await;
    Ok(exit)
}

/// Starts the status server. When it cannot listen the agent goes on without (start-and-worker §7).
async fn serve_status(address: &str, board: &Board, log: &Logger) {
    if address.is_empty() {
        return;
    }
    match status::serve(address, board.clone()).await {
        Ok((real, _)) => log.at(Level::Notice, format!("Starting HTTP health check server on {real}")),
        Err(e) => log.at(Level::Error, format!("Could not start health check server: listen {address}: {e}")),
    }
}
