//! Where the pipeline is, and what is built: the file as `pipeline upload` would find it (pipeline §1.2), the rest from git.

use ibex_core::pipeline::DEFAULT_FILES;
use ibex_core::plane::BuildSpec;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The pipeline file: the one named, or the only one of the default places.
pub(super) fn pipeline_file(dir: &Path, named: Option<&str>) -> Result<PathBuf, String> {
    if let Some(named) = named {
        return Ok(PathBuf::from(named));
    }
    let found: Vec<&str> = DEFAULT_FILES.into_iter().filter(|f| dir.join(f).exists()).collect();
    match found[..] {
        [one] => Ok(dir.join(one)),
        [] => Err(format!("could not find a default pipeline configuration file; name one, or put it at {}", DEFAULT_FILES[3])),
        _ => Err(format!("found multiple configuration files: {}; please keep only 1 configuration file present", found.join(", "))),
    }
}

/// Contents of the pipeline file and the name by which messages call it.
pub(super) fn read(path: &Path) -> Result<(String, Vec<u8>), String> {
    let bytes = std::fs::read(path).map_err(|e| format!("failed to read file: open {}: {}", path.display(), crate::flags::os_text(&e)))?;
    if bytes.is_empty() {
        return Err(format!("pipeline file {:?} is empty", path.display().to_string()));
    }
    let name = path.file_name().map_or_else(|| path.display().to_string(), |n| n.to_string_lossy().into_owned());
    Ok((name, bytes))
}

/// What git knows of the working tree; without git, what the specification says for nothing.
pub(crate) fn describe(dir: &Path) -> BuildSpec {
    let git = |args: &[&str]| {
        let out = Command::new("git").args(args).current_dir(dir).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
        let text = String::from_utf8_lossy(&out.stdout).trim_end().to_owned();
        (out.status.success() && !text.is_empty()).then_some(text)
    };
    let last = |format: &str| git(&["log", "-1", &format!("--format={format}")]).unwrap_or_default();
    let slug: String = dir.file_name().map(|n| n.to_string_lossy().to_lowercase()).unwrap_or_default();
    let slug: String = slug.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    BuildSpec {
        pipeline: slug.trim_matches('-').to_owned(),
        repository: git(&["remote", "get-url", "origin"]).unwrap_or_else(|| dir.display().to_string()),
        branch: git(&["symbolic-ref", "--short", "-q", "HEAD"]).unwrap_or_default(),
        commit: git(&["rev-parse", "HEAD"]).unwrap_or_default(),
        message: last("%B"),
        author: last("%an"),
        author_email: last("%ae"),
        creator: std::env::var("USER").unwrap_or_default(),
        ..BuildSpec::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pipeline_file_is_found_as_an_upload_would() {
        let dir = tempfile::tempdir().unwrap();
        assert!(pipeline_file(dir.path(), None).unwrap_err().starts_with("could not find a default pipeline configuration file"));
        std::fs::create_dir(dir.path().join(".buildkite")).unwrap();
        std::fs::write(dir.path().join(".buildkite/pipeline.yml"), "steps: []").unwrap();
        assert_eq!(pipeline_file(dir.path(), None).unwrap(), dir.path().join(".buildkite/pipeline.yml"));
        std::fs::write(dir.path().join("buildkite.json"), "").unwrap();
        assert_eq!(
            pipeline_file(dir.path(), None).unwrap_err(),
            "found multiple configuration files: buildkite.json, .buildkite/pipeline.yml; please keep only 1 configuration file present"
        );
        assert_eq!(pipeline_file(dir.path(), Some("x.yml")).unwrap(), Path::new("x.yml"));
        assert!(read(&dir.path().join("buildkite.json")).unwrap_err().ends_with("is empty"));
        assert!(read(&dir.path().join("none")).unwrap_err().starts_with("failed to read file: open "));
        assert_eq!(read(&dir.path().join(".buildkite/pipeline.yml")).unwrap().0, "pipeline.yml");
    }

    #[test]
    fn a_directory_without_git_is_still_a_pipeline() {
        let dir = tempfile::Builder::new().prefix("My.App-").tempdir().unwrap();
        let spec = describe(dir.path());
        assert!(spec.pipeline.starts_with("my-app-"), "{}", spec.pipeline);
        assert_eq!(spec.repository, dir.path().display().to_string());
    }
}
