//! A process that inherits orphans reaps them (job-runner §5.10.4). In a test binary of its own: being a subreaper is a
//! property of the whole process.

use ibex_io::effects::{Output, Process};
use ibex_io::tokio::{Spawn, StdioMode, inherits_orphans, overlaid, reap_orphans, spawn};
use std::time::Duration;

#[test]
fn given_a_subreaper_when_an_orphan_ends_then_no_zombie_is_left_and_leaders_keep_their_status() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let test = async {
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
        assert!(inherits_orphans());
        let reaper = tokio::task::spawn_local(reap_orphans());
        // The grandchild waits until its parent is gone, so that it ends as our orphan.
        let script = "sh -c 'echo orphan=$$.; read x <\"$0\"; exit 5' \"$0\" </dev/null & exit 3";
        let fifo = tempfile::tempdir().unwrap();
        let path = fifo.path().join("gate");
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RWXU).unwrap();
        let argv = ["/bin/sh".into(), "-c".into(), script.into(), path.clone().into_os_string()].to_vec();
        let (group, mut output) =
            spawn(&Spawn { argv, env: overlaid([]), dir: None, stdio: StdioMode::Pipe, dies_with_parent: false }).await.unwrap();
        assert_eq!(group.wait().await, ibex_core::process::ExitStatus::Code(3));
        let text = String::from_utf8(output.read().await.unwrap().to_vec()).unwrap();
        let orphan = text.trim().trim_start_matches("orphan=").trim_end_matches('.').to_owned();
        let stat = std::fs::read_to_string(format!("/proc/{orphan}/stat")).unwrap();
        assert_eq!(stat.rsplit(')').next().unwrap().split_ascii_whitespace().nth(1).unwrap(), std::process::id().to_string(), "it is ours now");
        std::fs::write(&path, "go\n").unwrap();
        while std::path::Path::new(&format!("/proc/{orphan}")).exists() {
            tokio::task::yield_now().await;
        }
        reaper.abort();
    };
    let bounded = async { tokio::time::timeout(Duration::from_secs(20), test).await.expect("within 20 s") };
    tokio::task::LocalSet::new().block_on(&runtime, bounded);
}
