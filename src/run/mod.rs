//! `run`: a pipeline on this machine, without an account. The plane listens on loopback, an ordinary agent works for it, jobs run in
//! the working tree (specification: local-control-plane).

pub(crate) mod find;
mod lines;
mod screen;
mod summary;

use crate::cli::{Failure, Invocation, Leaf, Run, Section};
use crate::flags::Kind::{Bool, Int, List, Text};
use crate::flags::{Flag, flag};
use crate::log::{Format, Logger};
use crate::start::embedded::{self, Shim};
use ibex_core::agent::{Agent, AgentConfig, Exit, OsSignal};
use ibex_core::log::LogStream;
use ibex_core::pipeline::plan::{self, PlanOptions};
use ibex_core::plane::{BuildSpec, ControlAction, Plane, PlaneConfig, PlaneEvent};
use ibex_core::rng::Rng;
use ibex_core::secret::Secret;
use ibex_io::agent_world::{self, Drive};
use ibex_io::driver::Clock;
use ibex_io::plane_server::{PlaneHandle, PlaneServer};
use ibex_io::status::Board;
use ibex_io::tokio::{HookPlaces, Http, Parts, TokioWorld, deliver, hold};
use screen::{News, Screen, Style};
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use summary::Summary;
use tokio::sync::mpsc;

/// `run`
pub(crate) static RUN: Leaf = Leaf {
    path: "run",
    section: Section::Main,
    about: "Runs a pipeline on this machine",
    usage: "[pipeline] [options...]",
    description: "Runs the steps of a pipeline file as jobs in the working tree, with their logs on stdout, and exits with the build's\nresult. No account and no network are needed: the control plane is inside this program.\n\nWithout an argument the file is looked for where `pipeline upload` looks: buildkite.yml, .buildkite/pipeline.yml,\nbuildkite/pipeline.yml (or .yaml, .json).\n\nExit status: 0 passed, 1 failed, 2 the pipeline cannot be run, 130 interrupted.\n\nExample:\n\n    $ ibex run examples/hello/pipeline.yml",
    flags: &[FLAGS],
    run: Run::Resolved(run),
};

static FLAGS: &[Flag] = &[
    flag("spawn", Int, &[], "Number of jobs at a time, by default the number of processors").or("0"),
    flag("tags", List, &[], "Tags of the agents, comma-separated: key=value or words").commas(),
    flag("env", List, &[], "Variables for the build and for interpolation: NAME=value, or NAME to take it from here"),
    flag("hooks-path", Text, &[], "Directory of hooks that run around every job").path(),
    flag("json", Bool, &[], "One JSON object per event on stdout").or("false"),
    flag("debug", Bool, &[], "Show what the agent does").or("false"),
    flag("no-color", Bool, &[], "No colours in the agent's own log").or("false"),
    flag("log-level", Text, &[], "Level of the agent's own log").or("error").hidden(),
];

/// How long a ping waits for work. Shorter than any time-out on the way.
const HOLD_PING: Duration = Duration::from_secs(20);
/// The agents are in this process: they are never lost, only late.
const LOST_AFTER: Duration = Duration::from_secs(24 * 3600);
/// News that wait for the run; there are a handful.
const NEWS: usize = 1024;
/// Exit status of a pipeline that cannot be run.
const UNUSABLE: u8 = 2;

fn unusable(text: impl std::fmt::Display) -> Failure {
    Failure::Plain(format!("{text}\n"), UNUSABLE)
}

fn run(call: &Invocation) -> Result<u8, Failure> {
    hold();
    let values = &call.values;
    let dir = std::env::current_dir().map_err(|e| Failure::Fatal(format!("the working directory is gone: {e}")))?;
    let file = find::pipeline_file(&dir, call.positionals.first().map(String::as_str)).map_err(unusable)?;
    let (source, bytes) = find::read(&file).map_err(unusable)?;
    let mut spec = find::describe(&dir);
    for entry in values.list("env") {
        let (name, value) = match entry.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (entry.as_str(), std::env::var(entry).ok()),
        };
        spec.env.extend(value.map(|v| (name.to_owned(), v)));
    }
    let options = PlanOptions { environment: spec.upload_env(), branch: spec.branch.clone(), ..PlanOptions::default() };
    let plan = plan::read(&source, &bytes, options).map_err(unusable)?;
    let plan = plan.ok_or_else(|| unusable(format!("{source}: there is no pipeline in this file")))?;
    for note in &plan.notes {
        eprintln!("note: {note}");
    }
    spec.steps = plan.steps;
    spec.pipeline_env = plan.env;
    // That there is no checkout is the agent's option: the same word from the plane would be a protected variable.
    spec.env.insert("BUILDKITE_BUILD_CHECKOUT_PATH".into(), dir.display().to_string());

    embedded::scrub_environment();
    let workers = match u32::try_from(values.int("spawn")) {
        Ok(0) => std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1)),
        Ok(n) => n,
        Err(_) => return Err(Failure::Fatal("spawn must not be negative".into())),
    };
    let style = Style::detect(values.bool("json"));
    let log = Rc::new(Logger::new(values, call.leaf.path, Format::Text { colors: !style.plain }));
    crate::api::block_on(Session { workers, style, log, tags: values.list("tags").to_vec(), hooks: values.text("hooks-path").into() }.run(spec))
}

/// One run.
struct Session {
    workers: u32,
    style: Style,
    log: Rc<Logger>,
    tags: Vec<String>,
    hooks: String,
}

/// Where a run stands.
#[derive(Default)]
struct Progress {
    build: Option<Arc<str>>,
    interrupts: u32,
    signal: Option<OsSignal>,
    unusable: Option<String>,
    summary: Option<Summary>,
}

impl Session {
    async fn run(self, spec: BuildSpec) -> Result<u8, Failure> {
        let fatal = |what: &str, e: std::io::Error| Failure::Fatal(format!("{what}: {e}"));
        let server = PlaneServer::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await;
        let server = server.map_err(|e| fatal("could not listen on the loopback interface", e))?;
        let mut signals = deliver().map_err(|e| fatal("could not handle signals", e))?;
        let (clock, handle, base) = (Clock::start(), server.handle(), format!("http://{}", server.address()));
        let mut rng = Rng::from_bytes(crate::api::seed());
        let token = Secret::new(format!("run_{:016x}{:016x}", rng.next_u64(), rng.next_u64()));
        let (config, shim) = self.agent_config(&base, token.clone())?;
        let world = self.world(clock, &config);
        let wall = ibex_io::effects::Effects::wall_clock(&world, clock);
        let plane = PlaneConfig { hold_ping: HOLD_PING, lost_after: LOST_AFTER, ..PlaneConfig::embedded(token, base, wall) };

        let (news_sender, mut news) = mpsc::channel(NEWS);
        let screen = Screen::new(self.style, self.workers as usize, news_sender);
        let served = server.serve(Plane::new(plane, rng.fork()), clock, screen);
        let mut agent = Agent::new(Arc::new(config), wall, crate::api::seed());
        let (to_agent, agent_signals) = mpsc::channel(8);
        let drive = Drive { clock, wall, user_agent: crate::version::user_agent(), signals: agent_signals, recorder: None };
        let worked = agent_world::run(world, &mut agent, LogStream::new, drive);
        handle.send(PlaneEvent::CreateBuild(Box::new(spec))).await;

        let mut progress = Progress::default();
        let (mut served, mut worked) = (Box::pin(served), Box::pin(worked));
        let exit = loop {
            // The order decides nothing but who is looked at first; news and signals are few.
            tokio::select! {
                biased;
                Some(item) = news.recv() => progress.news(item, &handle, &to_agent).await,
                Some(signal) = signals.recv() => progress.signal(signal, &handle, &to_agent).await,
                exit = &mut worked => break exit,
                never = &mut served => match never {},
            }
        };
        drop(shim);
        self.end(progress, &exit)
    }

    fn agent_config(&self, base: &str, token: Secret) -> Result<(AgentConfig, Shim), Failure> {
        let mut args: Vec<String> = ["--endpoint", &format!("{base}/v3"), "--spawn", &self.workers.to_string()].map(str::to_owned).to_vec();
        let temporary = std::env::temp_dir();
        let path = |name: &str| temporary.join(name).display().to_string();
        for (option, value) in [
            ("--build-path", path("ibex-run-builds")),
            ("--plugins-path", path("ibex-run-plugins")),
            ("--sockets-path", path("ibex-run-sockets")),
            ("--name", "local-%spawn".to_owned()),
            ("--ping-mode", "poll-only".to_owned()),
            ("--hooks-path", self.hooks.clone()),
        ] {
            if !value.is_empty() {
                args.extend([option.to_owned(), value]);
            }
        }
        args.extend(["--skip-checkout", "--no-feature-reporting"].map(str::to_owned));
        std::fs::create_dir_all(temporary.join("ibex-run-builds")).map_err(|e| Failure::Fatal(format!("could not make the build path: {e}")))?;
        embedded::embedded(&args, token, self.tags.clone(), &self.log)
    }

    fn world(&self, clock: Clock, config: &AgentConfig) -> TokioWorld {
        let places = HookPlaces { path: config.job.hooks_path.clone(), additional: Vec::new(), shell: config.job.hooks_shell.clone() };
        TokioWorld::new(Parts {
            log: self.log.clone(),
            board: Board::new(clock),
            metrics: None,
            http: Http::new(true),
            hooks: places,
            http_observer: None,
            verifier: None,
        })
    }

    fn end(&self, progress: Progress, exit: &Exit) -> Result<u8, Failure> {
        if let Some(text) = progress.unusable {
            return Err(unusable(text));
        }
        if let Some(summary) = &progress.summary
            && !self.style.json
        {
            crate::cli::print(&format!("\n{}", summary.text(self.style.plain)))?;
        }
        let code = match (progress.signal, &progress.summary) {
            (Some(signal), _) => 128 + if signal == OsSignal::Int { 2 } else { 15 },
            (None, Some(summary)) => summary.exit_code(),
            (None, None) => {
                let why = exit.message.as_deref().unwrap_or("the agents left before the build was over");
                eprintln!("{}: {why}", crate::cli::NAME);
                1
            }
        };
        if self.style.json {
            let state = progress.summary.map(|s| s.state.name());
            crate::cli::print(&format!("{}\n", serde_json::json!({"event": "end", "state": state, "exit_code": code})))?;
        }
        Ok(code)
    }
}

impl Progress {
    async fn news(&mut self, news: News, handle: &PlaneHandle, to_agent: &mpsc::Sender<OsSignal>) {
        match news {
            News::Created(build) => self.build = Some(build),
            News::Refused(text) => {
                self.unusable = Some(text);
                let _ = to_agent.try_send(OsSignal::Term);
            }
            News::Agent(agent) if self.summary.is_some() || self.unusable.is_some() => self.dismiss(agent, handle).await,
            News::Agent(_) => {}
            News::Unrunnable(step) => {
                eprintln!("step {step}: no agent of this run has the tags that it asks for; give them with --tags");
                self.cancel(handle).await;
            }
            News::Finished(summary) => {
                self.summary = Some(summary);
                let _ = to_agent.try_send(OsSignal::Term);
            }
        }
    }

    async fn dismiss(&self, agent: Arc<str>, handle: &PlaneHandle) {
        handle.send(PlaneEvent::Control { agent, action: ControlAction::Disconnect }).await;
    }

    async fn cancel(&self, handle: &PlaneHandle) {
        if let Some(build) = self.build.clone() {
            handle.send(PlaneEvent::CancelBuild { build }).await;
        }
    }

    /// First: jobs are cancelled with their grace period, and reported. Second: everything is killed.
    async fn signal(&mut self, signal: OsSignal, handle: &PlaneHandle, to_agent: &mpsc::Sender<OsSignal>) {
        self.signal.get_or_insert(signal);
        self.interrupts += 1;
        if self.interrupts == 1 {
            eprintln!("canceling the build; once more to kill it");
            return self.cancel(handle).await;
        }
        // The third stop signal is the one that waits for nothing (start-and-worker §4).
        for _ in 0..3 {
            let _ = to_agent.try_send(OsSignal::Term);
        }
    }
}
