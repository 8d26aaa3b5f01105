//! `ibex plane` and `ibex start` as people use them together: two processes, real HTTP, ping streams.

use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Bound for what takes no time, on a loaded machine.
const SOON: Duration = Duration::from_secs(30);

/// A process whose output goes to a file; killed when dropped.
struct Program {
    child: Child,
    log: std::path::PathBuf,
}

impl Program {
    fn start(dir: &Path, name: &str, args: &[&str]) -> Program {
        let log = dir.join(format!("{name}.log"));
        let file = std::fs::File::create(&log).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_ibex"));
        command.args(args).current_dir(dir).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("HOME", dir);
        let child = command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file).spawn().unwrap();
        Program { child, log }
    }

    fn text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    fn wait_text(&self, part: &str) {
        wait_for(part, || self.text().contains(part).then_some(()), || self.text());
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn wait_for<T>(what: &str, mut seen: impl FnMut() -> Option<T>, context: impl Fn() -> String) -> T {
    let end = Instant::now() + SOON;
    loop {
        if let Some(t) = seen() {
            return t;
        }
        assert!(Instant::now() < end, "waited in vain for {what}\n{}", context());
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// A running `ibex plane`.
struct Plane {
    program: Program,
    address: String,
    token: String,
}

impl Plane {
    fn start(dir: &Path, name: &str, listen: &str) -> Plane {
        std::fs::write(dir.join("first.yml"), "steps: [{command: echo first}]").unwrap();
        let program = Program::start(dir, name, &["plane", "--listen", listen, "--pipeline", "first.yml"]);
        program.wait_text("agents: ");
        let text = program.text();
        let word = |after: &str| text.split_once(after).unwrap().1.split_whitespace().next().unwrap().to_owned();
        Plane { address: word("listening on http://"), token: word("--token "), program }
    }

    fn call(&self, method: &str, path: &str, body: &str) -> Value {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Token {}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            self.token,
            body.len()
        );
        stream.write_all((head + body).as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap_or_else(|_| panic!("{answer}"))
    }

    fn build(&self, number: u64) -> Value {
        self.call("GET", &format!("/builds/{number}?format=json"), "")
    }

    fn agent(&self, dir: &Path) -> Program {
        let (endpoint, sockets) = (format!("http://{}/v3", self.address), dir.join("sockets").display().to_string());
        let fixed = "start --ping-mode auto --skip-checkout --no-color --build-path builds --hooks-path hooks --plugins-path plugins";
        let mut args: Vec<&str> = fixed.split(' ').collect();
        args.extend(["--endpoint", &endpoint, "--token", &self.token, "--sockets-path", &sockets]);
        Program::start(dir, "agent", &args)
    }

    fn finished(&self, number: u64, agent: &Program) -> Value {
        let over = |build: Value| ["passed", "failed"].contains(&build["state"].as_str()?).then_some(build);
        wait_for("the build to end", || over(self.build(number)), || format!("{}\n{}", self.program.text(), agent.text()))
    }
}

#[test]
fn a_build_that_is_posted_is_picked_up_over_the_stream_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let plane = Plane::start(dir.path(), "plane", "127.0.0.1:0");
    let agent = plane.agent(dir.path());
    assert_eq!(plane.finished(1, &agent)["state"], "passed", "{}", agent.text());
    agent.wait_text("Ping stream connection established");
    let mut waits: Vec<u64> = (2..=4)
        .map(|n| {
            let posted = plane.call("POST", "/builds", "steps: [{command: echo more}]");
            assert_eq!(posted["number"], n);
            let build = plane.finished(n, &agent);
            assert_eq!(build["state"], "passed", "{build}\n{}", agent.text());
            build["jobs"][0]["accepted_after_microseconds"].as_u64().unwrap()
        })
        .collect();
    waits.sort_unstable();
    // With pings it takes a second on average: the interval is 1 s. The figure without load is a few milliseconds.
    assert!(waits[0] < 100_000, "microseconds from ready to accepted: {waits:?}");
    println!("microseconds from ready to accepted: {waits:?}");
    assert!(!agent.text().contains("failed to ping"), "{}", agent.text());
}

#[test]
fn an_agent_outlives_a_killed_plane_and_ends_when_another_one_does_not_know_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut plane = Plane::start(dir.path(), "plane", "127.0.0.1:0");
    let mut agent = plane.agent(dir.path());
    assert_eq!(plane.finished(1, &agent)["state"], "passed", "{}", agent.text());
    plane.program.child.kill().unwrap();
    plane.program.child.wait().unwrap();
    // The stream has broken, so the agent polls, and goes on polling.
    agent.wait_text("failed to ping: ");
    assert_eq!(agent.child.try_wait().unwrap(), None, "{}", agent.text());
    let second = Plane::start(dir.path(), "second", &plane.address);
    let log = agent.log.clone();
    let status = wait_for("the agent to end", || agent.child.try_wait().unwrap(), || std::fs::read_to_string(&log).unwrap());
    let text = agent.text();
    assert_eq!(status.code(), Some(1), "{text}");
    assert!(text.contains("401 Unauthorized: the agent access token is not valid"), "{text}");
    assert_eq!(second.build(1)["state"], "scheduled");
}
