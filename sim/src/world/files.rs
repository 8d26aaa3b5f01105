//! Files in memory: env files, timeout markers; a disk that may be full.

use super::World;
use crate::trace::Fact;
use ibex_core::job::{JobFiles, JobFilesSpec};
use std::time::Duration;

pub(super) async fn write(world: World, spec: JobFilesSpec) -> Result<JobFiles, String> {
    world.0.jobs.borrow_mut().insert(spec.job, spec.job_id.clone());
    tokio::time::sleep(Duration::from_millis(world.0.schedule.disk_ms)).await;
    if world.0.disk_full.get() {
        world.observed(Fact::FilesFailed { job: spec.job_id });
        return Err("No space left on device (os error 28)".into());
    }
    let path = |kind: &str| format!("/tmp/job-{kind}-{}-{:016x}", spec.job_id, spec.nonce);
    let files = JobFiles {
        env_file: path("env"),
        env_json_file: path("env-json"),
        timeout_file: path("timeout"),
        log_copy: spec.log_copy_dir.as_ref().map(|_| path("log")),
    };
    let mut on_disk = world.0.files.borrow_mut();
    for name in [&files.env_file, &files.env_json_file].into_iter().chain(&files.log_copy) {
        if on_disk.contains_key(name) {
            return Err(format!("{name}: File exists (os error 17)"));
        }
        on_disk.insert(name.clone(), spec.job_id.clone());
    }
    drop(on_disk);
    world.observed(Fact::FilesWritten { owner: spec.job, job: spec.job_id });
    Ok(files)
}

pub(super) async fn remove(world: World, files: JobFiles) -> Vec<String> {
    tokio::time::sleep(Duration::from_millis(world.0.schedule.disk_ms)).await;
    let mut job = None;
    for name in [&files.env_file, &files.env_json_file, &files.timeout_file].into_iter().chain(&files.log_copy) {
        job = world.0.files.borrow_mut().remove(name).or(job);
    }
    if let Some(job) = job {
        world.observed(Fact::FilesRemoved { job });
    }
    Vec::new()
}

pub(super) fn marker(world: &World, path: &str) -> Result<(), String> {
    // The name tells the job: `/tmp/job-timeout-<job>-<nonce>`.
    let job = path.strip_prefix("/tmp/job-timeout-").and_then(|rest| rest.rsplit_once('-')).map(|(job, _)| job);
    let Some(job) = job else { return Err(format!("{path}: No such file or directory (os error 2)")) };
    if world.0.disk_full.get() {
        return Err("No space left on device (os error 28)".into());
    }
    world.0.files.borrow_mut().insert(path.to_owned(), job.into());
    world.observed(Fact::Marker { job: job.into() });
    Ok(())
}
