//! The log: its chunks, its copies, its header times (§6, header-times).

use super::*;

/// §6.7: every delivery, before timestamps, on the agent's stdout; in JSON one object per line.
#[test]
fn a_copy_of_the_log_goes_to_stdout() {
    let script = "#!/bin/sh\nprintf 'one\\n\"two\"\\n'\n";
    let (work, plane) = (dir(), Plane::start());
    let job = edited(&plane, work.path(), &[], |_| {});
    let agent = Setup::script(script).arg(&["--write-job-logs-to-stdout", "--no-pty"]).start(&plane, work.path());
    plane.wait_finish(&job);
    agent.wait_text("one\n\"two\"\n");

    let (work, plane) = (dir(), Plane::start());
    let env = [("BUILDKITE_BRANCH", "main"), ("BUILDKITE_BUILD_NUMBER", "7"), ("BUILDKITE_STEP_KEY", "s\"k")];
    let job = edited(&plane, work.path(), &env, |body| body["traceparent"] = "00-trace-span-01".into());
    let mut agent = Setup::script(script).arg(&["--write-job-logs-to-stdout", "--log-format", "json"]).start(&plane, work.path());
    plane.wait_finish(&job);
    agent.signal("TERM");
    assert_eq!(agent.wait(SOON), 0);
    let lines: Vec<Value> = agent.text().lines().filter_map(|l| serde_json::from_str(l).ok()).filter(|v: &Value| v["source"] == "job").collect();
    let said: Vec<&str> = lines.iter().map(|l| l["msg"].as_str().unwrap()).collect();
    assert_eq!(said, ["one", "\"two\""], "{}", agent.text());
    for (key, value) in [
        ("level", "INFO"),
        ("branch", "main"),
        ("build_number", "7"),
        ("step_key", "s\"k"),
        ("job_id", &job),
        ("job_url", &format!("http://build/1#{job}")),
        ("org", ""),
        ("trace_id", "trace"),
        ("span_id", "span"),
    ] {
        assert_eq!(lines[0][key], value, "{key}: {}", lines[0]);
    }
}

/// §6.7: the copy holds exactly what is uploaded, only this job knows its path, and it goes with the job.
#[test]
fn a_copy_of_the_log_in_a_file_holds_what_is_uploaded_and_goes_with_the_job() {
    let script = "#!/bin/sh\necho one\necho two\nuntil [ -e \"$DIR/go\" ]; do sleep 0.02; done\n\
        cp \"$BUILDKITE_JOB_LOG_TMPFILE\" \"$DIR/copy\"; printf %s \"$BUILDKITE_JOB_LOG_TMPFILE\" > \"$DIR/path\"\n";
    let (work, plane) = (dir(), Plane::start());
    let job = edited(&plane, work.path(), &[], |_| {});
    let _agent = Setup::script(script).arg(&["--enable-job-log-tmpfile"]).start(&plane, work.path());
    plane.wait("both lines", SOON, |s| s.jobs[&job].text().contains("two").then_some(()));
    std::fs::write(work.path().join("go"), "").unwrap();
    let done = plane.wait_finish(&job);
    assert!(!done.log().is_empty());
    assert_eq!(std::fs::read(work.path().join("copy")).unwrap(), done.log());
    let path = std::fs::read_to_string(work.path().join("path")).unwrap();
    assert!(path.starts_with(work.path().join("tmp/buildkite_job_log").to_str().unwrap()), "{path}");
    assert!(!Path::new(&path).exists(), "absent when finish is sent");
}

/// W21: nobody reads the agent's stdout, and the log copy cannot be written; job and upload do not notice.
#[test]
fn side_outputs_that_fail_change_neither_log_nor_result() {
    let (work, plane) = (dir(), Plane::start());
    let job = edited(&plane, work.path(), &[], |_| {});
    let script = "#!/bin/sh\nrm \"$BUILDKITE_JOB_LOG_TMPFILE\"\nmkdir \"$BUILDKITE_JOB_LOG_TMPFILE\"\necho one; sleep 0.2; echo two\nrmdir \"$BUILDKITE_JOB_LOG_TMPFILE\"\n";
    let args = ["--write-job-logs-to-stdout", "--enable-job-log-tmpfile", "--no-pty"];
    let mut agent = Setup::script(script).arg(&args).before("exec >/dev/full").start(&plane, work.path());
    let done = plane.wait_finish(&job);
    assert_eq!((done.text().as_str(), result(&done)), ("one\ntwo\n", (Some("0"), None, None)));
    agent.signal("TERM");
    assert_eq!(agent.wait(SOON), 0);
    let text = agent.text();
    assert_eq!(text.matches("Failed to write the job log to stdout").count(), 1, "{text}");
    assert_eq!(text.matches("Failed to write the copy of the job log").count(), 1, "{text}");
}

/// §6.13: one warning, and everything is uploaded.
#[test]
fn a_log_beyond_its_size_limit_is_warned_about_once_and_uploaded() {
    let (work, plane) = (dir(), Plane::start());
    let job = edited(&plane, work.path(), &[], |body| {
        body["log_max_size_bytes"] = 1024.into();
        body["chunks_max_size_bytes"] = 500.into();
    });
    let agent = Setup::script("#!/bin/sh\nhead -c 3000 /dev/zero | tr '\\0' x\n").start(&plane, work.path());
    let done = plane.wait_finish(&job);
    assert_eq!(done.text(), "x".repeat(3000));
    assert!(done.chunks.values().all(|(_, data)| (1..=500).contains(&data.len())));
    agent.wait_text("which has exceeded the maximum size (1.0 KiB)");
    assert_eq!(agent.text().matches("The job log has reached ").count(), 1, "{}", agent.text());
}

/// W23 on the wire: a chunk that was told to wait is sent again, the same, and not before.
#[test]
fn a_chunk_that_meets_429_waits_as_long_as_it_is_told() {
    let (work, plane) = (dir(), Plane::start());
    plane.rule("POST", "/chunks", 1, Act::Later(429, "4"));
    let job = edited(&plane, work.path(), &[], |_| {});
    let _agent = Setup::script("#!/bin/sh\necho hello\n").arg(&["--no-pty"]).start(&plane, work.path());
    let done = plane.wait_finish(&job);
    assert_eq!(done.text(), "hello\n");
    assert_eq!(done.finish.as_ref().unwrap()["chunks_failed_count"], 0);
    let chunks = plane.requests("POST", "/chunks");
    assert_eq!(chunks.len(), 2);
    assert_eq!((&chunks[0].query, &chunks[0].body), (&chunks[1].query, &chunks[1].body));
    assert!(chunks[1].at - chunks[0].at >= Duration::from_secs(4));
}

/// header-times: a control plane without the endpoint is asked once per job, and lines get their plain timestamps.
#[test]
fn header_times_stop_where_the_endpoint_does_not_exist() {
    let (work, plane) = (dir(), Plane::start());
    plane.rule("POST", "/header_times", 100, Act::Status(404));
    let job = edited(&plane, work.path(), &[], |_| {});
    let script =
        "#!/bin/sh\necho '--- one'\necho text\nuntil [ -e \"$DIR/go\" ]; do sleep 0.05; done\nprintf '\\033[33m+++ two\\033[0m\\n^^^ +++\\nlast'\n";
    let agent = Setup::script(script).arg(&["--no-pty", "--timestamp-lines"]).start(&plane, work.path());
    agent.wait_text("Buildkite rejected the header times (POST ");
    std::fs::write(work.path().join("go"), "").unwrap();
    let done = plane.wait_finish(&job);
    assert_eq!(plane.requests("POST", "/header_times").len(), 1, "no more for that job");
    let log = String::from_utf8(done.log()).unwrap();
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!((lines[0], lines[2], lines[3]), ("--- one", "\u{1b}[33m+++ two\u{1b}[0m", "^^^ +++"));
    for (line, text) in [(lines[1], "text"), (lines[4], "last")] {
        let stamp = line.strip_prefix('[').and_then(|l| l.strip_suffix(&format!("] {text}"))).unwrap_or_else(|| panic!("{line:?}"));
        assert!(stamp.len() == 20 && stamp.ends_with('Z') && stamp.parse::<jiff::Timestamp>().is_ok(), "{line:?}");
    }
    assert_eq!(result(&done), (Some("0"), None, None));
}

/// W20: with several workers a job's log copy is known to that job only, and its end leaves no path behind for the next.
#[test]
fn only_the_job_itself_knows_its_log_copy() {
    let (work, plane) = (dir(), Plane::start());
    let script = "#!/bin/sh\necho \"$BUILDKITE_JOB_LOG_TMPFILE\" > \"$DIR/path-$NAME\"\ntr '\\0' '\\n' < /proc/$PPID/environ | grep -c JOB_LOG_TMPFILE > \"$DIR/agent-$NAME\"\n\
        until [ -e \"$DIR/path-first\" ] && [ -e \"$DIR/path-second\" ]; do sleep 0.05; done\n";
    let jobs = ["first", "second"].map(|name| edited(&plane, work.path(), &[("NAME", name)], |_| {}));
    let _agent = Setup::script(script).arg(&["--enable-job-log-tmpfile", "--spawn", "2"]).start(&plane, work.path());
    for job in &jobs {
        assert_eq!(result(&plane.wait_finish(job)), (Some("0"), None, None));
    }
    let read = |name: &str| std::fs::read_to_string(work.path().join(name)).unwrap();
    assert!(read("path-first").contains("buildkite_job_log") && read("path-first") != read("path-second"));
    assert_eq!((read("agent-first"), read("agent-second")), ("0\n".to_owned(), "0\n".to_owned()));
    let left = std::fs::read_dir(work.path().join("tmp"))
        .unwrap()
        .filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().starts_with("buildkite_job_log"));
    assert_eq!(left.count(), 0);
}

/// W21: somebody holds the agent's stdout and does not read. The job ends as it ends, and a stop still stops.
#[test]
fn a_stdout_that_nobody_reads_keeps_neither_job_nor_agent() {
    let (work, plane) = (dir(), Plane::start());
    let job = edited(&plane, work.path(), &[], |_| {});
    let script = "#!/bin/sh\nhead -c 1000000 /dev/zero | tr '\\0' x\n";
    // A pipe whose reading end is this very process, which does not read.
    let setup = Setup::script(script).arg(&["--write-job-logs-to-stdout", "--no-pty"]).before("mkfifo silent; exec 9<>silent; exec >silent");
    let mut agent = setup.start(&plane, work.path());
    let done = plane.wait_finish_within(&job, SOON);
    assert_eq!((done.text().len(), result(&done)), (1_000_000, (Some("0"), None, None)));
    agent.signal("TERM");
    assert_eq!(agent.wait(SOON), 0);
    assert_eq!(plane.requests("POST", "/disconnect").len(), 1);
}
