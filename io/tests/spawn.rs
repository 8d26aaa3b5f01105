//! Real processes: terminals and pipes, exits, output that outlives its writer, groups, descriptors (job-runner §5).

use ibex_core::agent::OsSignal;
use ibex_core::process::{ExitStatus, SignalTarget};
use ibex_io::effects::{Output, Process};
use ibex_io::tokio::{Group, ReadEnd, Spawn, StdioMode, overlaid, spawn};
use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

const COOKED: StdioMode = StdioMode::Terminal { raw: false };
const RAW: StdioMode = StdioMode::Terminal { raw: true };

fn sh(script: &str, stdio: StdioMode) -> Spawn {
    let argv = ["/bin/sh", "-c", script].map(OsString::from).to_vec();
    Spawn { argv, env: overlaid([("IBEX_TEST", Some("1"))]), dir: Some("/".into()), stdio, dies_with_parent: false }
}

/// Everything in these tests happens within this, or the test fails.
async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.unwrap_or_else(|_| panic!("not within 20 s: {what}"))
}

fn run(future: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, future);
}

async fn all(output: &mut ReadEnd) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Some(data) = output.read().await {
        bytes.extend_from_slice(&data);
    }
    bytes
}

async fn finish(spawned: &Spawn) -> (ExitStatus, String) {
    let (group, mut output) = spawn(spawned).await.unwrap();
    let (status, bytes) = soon("exit and end of output", async { tokio::join!(group.wait(), all(&mut output)) }).await;
    (status, String::from_utf8(bytes).unwrap())
}

/// Reads until the output contains `text`.
async fn until(output: &mut ReadEnd, text: &str) -> String {
    let mut seen = String::new();
    soon(text, async {
        while !seen.contains(text) {
            let data = output.read().await.unwrap_or_else(|| panic!("output ended before {text:?}: {seen:?}"));
            seen.push_str(&String::from_utf8_lossy(&data));
        }
    })
    .await;
    seen
}

/// Waits until `/proc` no longer shows a living process `pid`.
async fn gone(pid: i32) {
    soon("the process is gone", async {
        loop {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let state = stat.rsplit(')').next().and_then(|rest| rest.trim_start().chars().next());
            if matches!(state, None | Some('Z' | 'X')) {
                return;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
}

fn number_after(text: &str, label: &str) -> i32 {
    let rest = &text[text.find(label).unwrap_or_else(|| panic!("no {label} in {text:?}")) + label.len()..];
    rest.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
}

#[test]
fn line_discipline_is_the_check_value_of_the_specification() {
    run(async {
        let script = r"printf 'llamas1\n'; printf 'alpacas1\r'; printf 'llamas2\r\n'; printf 'alpacas2\n'";
        let cooked = "llamas1\r\nalpacas1\rllamas2\r\r\nalpacas2\r\n";
        let raw = "llamas1\nalpacas1\rllamas2\r\nalpacas2\n";
        for (stdio, want) in [(COOKED, cooked), (RAW, raw), (StdioMode::Pipe, raw)] {
            assert_eq!(finish(&sh(script, stdio)).await, (ExitStatus::Code(0), want.to_owned()), "{stdio:?}");
        }
    });
}

#[test]
fn a_terminal_is_sized_and_is_all_three_streams() {
    run(async {
        let (_, text) = finish(&sh("stty size; test -t 0 && test -t 1 && test -t 2 && echo tty", COOKED)).await;
        assert_eq!(text, "100 160\r\ntty\r\n");
        // The null device as standard input, and both outputs in their order.
        let (_, text) = finish(&sh("cat; echo out; echo err >&2; echo out; test -t 0 || echo no", StdioMode::Pipe)).await;
        assert_eq!(text, "out\nerr\nout\nno\n");
    });
}

#[test]
fn nothing_is_lost_when_a_process_ends_in_its_first_millisecond() {
    run(async {
        for i in 0..200 {
            let stdio = if i % 2 == 0 { COOKED } else { StdioMode::Pipe };
            let (status, text) = finish(&sh(&format!("printf 'only {i}'; exit 7"), stdio)).await;
            assert_eq!((status, text), (ExitStatus::Code(7), format!("only {i}")));
        }
    });
}

#[test]
fn a_megabyte_arrives_in_order_and_whole() {
    run(async {
        for stdio in [RAW, StdioMode::Pipe] {
            let (_, text) = finish(&sh(
                "i=0; while [ $i -lt 20000 ]; do echo \"line $i of the flood, padded to fifty bytes or so ....\"; i=$((i+1)); done",
                stdio,
            ))
            .await;
            let lines: Vec<&str> = text.lines().collect();
            assert_eq!(lines.len(), 20000);
            assert!(lines.iter().enumerate().all(|(i, l)| l.starts_with(&format!("line {i} "))));
        }
    });
}

#[test]
fn exits_are_codes_or_signals() {
    run(async {
        assert_eq!(finish(&sh("exit 125", StdioMode::Pipe)).await.0, ExitStatus::Code(125));
        assert_eq!(finish(&sh("kill -SEGV $$", StdioMode::Pipe)).await.0, ExitStatus::Signal(11));
        // SIGPIPE has its default action, although this process ignores it.
        assert_eq!(finish(&sh("kill -PIPE $$; echo survived", StdioMode::Pipe)).await, (ExitStatus::Signal(13), String::new()));
    });
}

#[test]
fn spawn_failures_are_told_and_leave_nothing() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("no-shebang");
        std::fs::write(&script, "echo hello\n").unwrap();
        std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let program = |argv: &str, stdio| Spawn { argv: vec![argv.into()], ..sh("", stdio) };
        let error = async |wanted: Spawn| spawn(&wanted).await.map(|_| ()).unwrap_err();
        assert_eq!(error(program("/nonexistent", COOKED)).await, "error starting pty: exec /nonexistent: No such file or directory (os error 2)");
        assert_eq!(
            error(program("/nonexistent", StdioMode::Pipe)).await,
            "error starting command: exec /nonexistent: No such file or directory (os error 2)"
        );
        // No fallback to a shell.
        let text = format!("error starting command: exec {}: Exec format error (os error 8)", script.display());
        assert_eq!(error(program(script.to_str().unwrap(), StdioMode::Pipe)).await, text);
        assert!(error(program("surely-no-such-program", COOKED)).await.contains("executable file not found in $PATH"));
        let nowhere = Spawn { dir: Some("/no/such/dir".into()), ..sh("", COOKED) };
        assert_eq!(error(nowhere).await, "process working directory \"/no/such/dir\" doesn't exist");
    });
}

#[test]
fn the_program_is_looked_up_in_our_own_path_and_the_environment_is_the_given_one() {
    run(async {
        let mut wanted = sh("echo $0 $IBEX_TEST $PATH", StdioMode::Pipe);
        wanted.argv[0] = "sh".into();
        wanted.env = overlaid([("PATH", Some("/nowhere")), ("IBEX_TEST", Some("x")), ("BAD=NAME", Some("y"))]);
        assert_eq!(finish(&wanted).await.1, "sh x /nowhere\n");
    });
}

#[test]
fn signals_reach_the_whole_group() {
    run(async {
        for stdio in [COOKED, StdioMode::Pipe] {
            let script = "sleep 1000 & echo child=$!.; trap 'echo caught; exit 3' TERM; echo ready; wait";
            let (group, mut output) = spawn(&sh(script, stdio)).await.unwrap();
            let text = until(&mut output, "ready").await;
            group.signal(OsSignal::Term, SignalTarget::Group).unwrap();
            let (status, rest) = soon("exit", async { tokio::join!(group.wait(), all(&mut output)) }).await;
            assert_eq!(status, ExitStatus::Code(3));
            assert!(String::from_utf8_lossy(&rest).contains("caught"));
            gone(number_after(&text, "child=")).await;
            assert!(!group.group_alive());
            assert_eq!(group.signal(OsSignal::Kill, SignalTarget::Tree), Ok(()), "no such process is no error");
        }
    });
}

#[test]
fn a_kill_reaches_the_groups_of_direct_children() {
    run(async {
        // A child that leads its own group and ignores the signal, as a hook of the executor may.
        let script = "setsid sh -c \"trap '' TERM HUP; echo child=\\$\\$.; exec sleep 1000\" </dev/null & wait; sleep 1000";
        let (group, mut output) = spawn(&sh(script, StdioMode::Pipe)).await.unwrap();
        let child = number_after(&until(&mut output, ".").await, "child=");
        group.signal(OsSignal::Kill, SignalTarget::Tree).unwrap();
        assert_eq!(soon("exit", group.wait()).await, ExitStatus::Signal(9));
        gone(child).await;
    });
}

#[test]
fn a_group_outlives_its_leader_and_can_still_be_swept() {
    run(async {
        let script = "(trap '' HUP TERM; echo child=$(exec sh -c 'echo $PPID').; sleep 1000) & sleep 0.01; wait_for=1; exit 0";
        let (group, mut output) = spawn(&sh(script, StdioMode::Pipe)).await.unwrap();
        let child = number_after(&until(&mut output, ".").await, "child=");
        assert_eq!(soon("exit", group.wait()).await, ExitStatus::Code(0));
        assert!(group.group_alive());
        group.signal(OsSignal::Kill, SignalTarget::Group).unwrap();
        gone(child).await;
        assert!(!group.group_alive());
        soon("end of output", all(&mut output)).await;
    });
}

#[test]
fn given_a_daemon_that_holds_the_output_when_the_reader_is_dropped_then_nothing_waits() {
    run(async {
        for stdio in [COOKED, StdioMode::Pipe] {
            let (group, mut output) =
                spawn(&sh("setsid sh -c 'echo daemon=$$.; exec sleep 1000' & wait_for=daemon; read x; exit 0", stdio)).await.unwrap();
            let daemon = number_after(&until(&mut output, ".").await, "daemon=");
            if stdio == COOKED {
                group.signal(OsSignal::Kill, SignalTarget::Group).unwrap();
            }
            soon("exit", group.wait()).await;
            // The output is still open, so its end does not come by itself.
            let ended = tokio::time::timeout(Duration::from_millis(50), output.read()).await;
            assert!(ended.is_err(), "the daemon holds the output");
            drop(output);
            rustix::process::kill_process(rustix::process::Pid::from_raw(daemon).unwrap(), rustix::process::Signal::KILL).unwrap();
            gone(daemon).await;
        }
    });
}

#[test]
fn no_descriptor_but_the_first_three_is_inherited() {
    run(async {
        // Inheritable on purpose, as a careless library may leave one; and another job's terminal and pipe.
        let leaky = rustix::fs::open("/dev/null", rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty()).unwrap();
        let others = [spawn(&sh("read x", COOKED)).await.unwrap(), spawn(&sh("exec sleep 1000", StdioMode::Pipe)).await.unwrap()];
        for stdio in [COOKED, StdioMode::Pipe] {
            let (_, text) = finish(&sh("ls /proc/$$/fd", stdio)).await;
            assert_eq!(text.split_ascii_whitespace().collect::<Vec<_>>(), ["0", "1", "2"], "{stdio:?}");
        }
        drop(leaky);
        for (group, _) in &others {
            group.signal(OsSignal::Kill, SignalTarget::Group).unwrap();
            soon("exit", group.wait()).await;
        }
    });
}

#[test]
fn masks_and_dispositions_are_the_defaults() {
    run(async {
        // SAFETY: plain system calls on a set that lives on this stack; the mask is that of this test's thread.
        unsafe {
            let mut set = std::mem::zeroed::<libc::sigset_t>();
            libc::sigfillset(&raw mut set);
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
            libc::signal(libc::SIGUSR2, libc::SIG_IGN);
        }
        let (_, text) = finish(&sh("grep -E '^Sig(Blk|Ign)' /proc/self/status", StdioMode::Pipe)).await;
        // The C library's own two signals (32, 33) cannot be set, and whoever started this test may have left them ignored.
        let sets: Vec<u64> = text.lines().map(|l| u64::from_str_radix(l[7..].trim(), 16).unwrap() & !(0b11 << 31)).collect();
        assert_eq!(sets, [0, 0], "{text}");
    });
}

#[test]
fn no_process_is_left_unreaped() {
    run(async {
        let (group, output) = spawn(&sh("exit 0", StdioMode::Pipe)).await.unwrap();
        let pid = group.pid();
        drop(output);
        soon("exit", group.wait()).await;
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
        let same: Group = group.clone();
        assert!(!same.group_alive());
    });
}
