//! `plane`: the embedded control plane alone, for agents of this machine.

use crate::cli::{Failure, Invocation, Leaf, Run, Section};
use crate::flags::Kind::{List, Text};
use crate::flags::{Flag, flag};
use ibex_core::pipeline::plan::{self, PlanOptions};
use ibex_core::plane::{BuildSpec, Plane, PlaneCommand, PlaneConfig, PlaneEvent};
use ibex_core::rng::Rng;
use ibex_core::secret::Secret;
use ibex_io::driver::Clock;
use ibex_io::plane_server::{PlaneServer, Watcher};
use std::net::SocketAddr;
use std::time::Duration;

/// `plane`
pub(crate) static PLANE: Leaf = Leaf {
    path: "plane",
    section: Section::Main,
    about: "Serves a pipeline to agents of this machine",
    usage: "--listen <address> --pipeline <file> [options...]",
    description: "Listens on a loopback address, makes one build of the pipeline file for the git repository of the working directory,\nand gives its jobs to agents that register with the token that is printed. Jobs are pushed to agents that keep a ping\nstream open. The page at / shows the builds, leads to the logs and says how to make more builds. Stays up until it is\ninterrupted.\n\nExample:\n\n    $ ibex plane --listen 127.0.0.1:8080 --pipeline .buildkite/pipeline.yml",
    flags: &[FLAGS],
    run: Run::Resolved(serve),
};

static FLAGS: &[Flag] = &[
    flag("listen", Text, &[], "Loopback address and port; port 0 takes any that is free").or("127.0.0.1:0"),
    flag("pipeline", Text, &[], "The pipeline file").required(),
    flag("env", List, &[], "Variables for the build and for interpolation: NAME=value"),
];

/// How long a ping stream stays open: less than the 60 s after which agents close it themselves.
const STREAM_LIMIT: Duration = Duration::from_secs(55);

/// Says on stderr what happens.
struct Talk;

impl Watcher for Talk {
    fn decided(&mut self, plane: &Plane, commands: &[PlaneCommand]) {
        for command in commands {
            match command {
                PlaneCommand::BuildRefused { message } => eprintln!("the pipeline was refused: {message}"),
                PlaneCommand::AgentChanged { agent, state } => eprintln!("agent {agent}: {state}"),
                PlaneCommand::JobChanged { job, state } => {
                    let title = plane.job(job).map_or("", |j| plane.builds()[j.build].steps[j.step].spec.title());
                    let waited = plane.job(job).filter(|_| *state == "accepted").and_then(|j| Some(j.accepted_at?.since(j.runnable_at?)));
                    let waited = waited.map_or(String::new(), |w| format!(", {:.1} ms after it became ready", w.as_secs_f64() * 1000.0));
                    eprintln!("job {job} ({title}): {state}{waited}");
                }
                PlaneCommand::BuildFinished { state, .. } => eprintln!("build: {state}"),
                PlaneCommand::BuildCreated { .. }
                | PlaneCommand::JobLog { .. }
                | PlaneCommand::Respond { .. }
                | PlaneCommand::StreamStart { .. }
                | PlaneCommand::StreamSend { .. }
                | PlaneCommand::StreamEnd { .. }
                | PlaneCommand::Transition(_) => {}
            }
        }
    }
}

fn serve(call: &Invocation) -> Result<u8, Failure> {
    let unusable = |text: String| Failure::Plain(format!("{text}\n"), 2);
    let listen = call.values.text("listen");
    let address: SocketAddr = listen.parse().map_err(|_| Failure::Fatal(format!("{listen:?} is not an address and a port, as in 127.0.0.1:8080")))?;
    let path = std::path::Path::new(call.values.text("pipeline"));
    let bytes = std::fs::read(path).map_err(|e| unusable(format!("failed to read file: open {}: {}", path.display(), crate::flags::os_text(&e))))?;
    let name = path.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
    let env = call.values.list("env").iter().filter_map(|e| e.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
    let dir = std::env::current_dir().map_err(|e| Failure::Fatal(format!("the working directory is gone: {e}")))?;
    let mut spec = BuildSpec { env, ..crate::run::find::describe(&dir) };
    let options = PlanOptions { environment: spec.upload_env(), branch: spec.branch.clone(), ..PlanOptions::default() };
    let plan = plan::read(&name, &bytes, options).map_err(|e| unusable(e.to_string()))?;
    let plan = plan.ok_or_else(|| unusable(format!("{name}: there is no pipeline in this file")))?;
    plan.notes.iter().for_each(|note| eprintln!("note: {note}"));
    (spec.steps, spec.pipeline_env) = (plan.steps, plan.env);
    crate::api::block_on(async {
        let server = PlaneServer::bind(address).await.map_err(|e| Failure::Fatal(format!("could not listen on {address}: {e}")))?;
        let mut rng = Rng::from_bytes(crate::api::seed());
        let token = format!("plane_{:016x}{:016x}", rng.next_u64(), rng.next_u64());
        let base = format!("http://{}", server.address());
        let now = i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX);
        let clock = Clock::start();
        let embedded = PlaneConfig::embedded(Secret::new(token.clone()), base.clone(), clock.wall_clock(now, 0));
        let config = PlaneConfig { streaming: Some(STREAM_LIMIT), ..embedded };
        crate::cli::print(&format!("listening on {base}\npage: {base}/?token={token}\nagents: ibex start --endpoint {base}/v3 --token {token}\n"))?;
        server.handle().send(PlaneEvent::CreateBuild(Box::new(spec))).await;
        match server.serve(Plane::new(config, rng), clock, Talk).await {}
    })
}
