//! Signals of the agent (start-and-worker §1, S16). A test binary without the usual harness threads would be needed to see the
//! main thread's mask, so the child processes of this test are this very binary, told by a variable what to do.

use ibex_core::agent::OsSignal;
use ibex_io::tokio::{deliver, die_by, hold};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::time::Duration;

const ROLE: &str = "IBEX_TEST_SIGNAL_ROLE";

/// Runs this binary again as `role`; its main thread is the harness's, the test itself runs in the one thread it starts.
fn play(role: &str) -> ExitStatus {
    let me = std::env::current_exe().unwrap();
    Command::new(me).args(["--exact", "role", "--include-ignored", "--test-threads=1"]).env(ROLE, role).status().unwrap()
}

#[test]
#[ignore = "a part of the other tests: run by them in a process of its own"]
fn role() {
    match std::env::var(ROLE).unwrap_or_default().as_str() {
        "hold" => {
            hold();
            // SAFETY: plain system calls; the signal is directed at this thread, whose mask holds it back.
            let raise = |signal| unsafe { libc::pthread_kill(libc::pthread_self(), signal) };
            raise(libc::SIGTERM);
            raise(libc::SIGHUP);
            raise(libc::SIGPIPE);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            tokio::task::LocalSet::new().block_on(&runtime, async {
                let mut signals = deliver().unwrap();
                let mut next = async || tokio::time::timeout(Duration::from_secs(10), signals.recv()).await.expect("within 10 s").unwrap();
                let mut got = [next().await, next().await];
                got.sort_unstable();
                assert_eq!(got, [OsSignal::Hup, OsSignal::Term]);
                raise(libc::SIGQUIT);
                assert_eq!(next().await, OsSignal::Quit);
            });
        }
        "die" => {
            hold();
            die_by(OsSignal::Term);
        }
        _ => {}
    }
}

#[test]
fn a_signal_that_comes_before_the_loop_is_held_and_delivered() {
    assert_eq!(play("hold").code(), Some(0));
}

#[test]
fn the_process_can_end_by_a_signal_that_it_handles() {
    assert_eq!(play("die").signal(), Some(libc::SIGTERM));
}
