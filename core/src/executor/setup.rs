//! Start, set-up, and the plugin phase (specification: bootstrap §5 steps 1–7, §6).

use super::child::{Budget, Child, ChildEnd};
use super::failure::Failure;
use super::hook::Point;
use super::machine::{Executor, State};
use super::options::Opt;
use super::text::{LineKind, quote};
use super::vocabulary::{ExecutorCommand, FileOp, FileResult, StartFailure};
use crate::machine::Instant;
use crate::process::ExitStatus;

/// What this version cannot do is said once, in one form.
const NOT_YET: &str = "this version of the agent cannot";

impl Executor {
    /// bootstrap §5 steps 1 to 5, §6.
    pub(super) fn begin(&mut self, now: Instant, out: &mut Vec<ExecutorCommand>) {
        self.job.add_redactions(out);
        self.job.debug_redactions(out);
        self.say_what_is_missing(out);
        if let Err(failure) = self.set_up(out) {
            return self.setup_failed(now, failure, out);
        }
        self.job.env.set("GIT_TERMINAL_PROMPT", "0");
        if self.job.env.get("GIT_SSH").is_some() {
            self.job.log(out, LineKind::Comment, "GIT_SSH is set, skipping SSH host key configuration");
            return self.secrets(now, out);
        }
        if !self.job.settings.flag(Opt::SshKeyscan) {
            self.job.append_ssh_options("-o StrictHostKeyChecking=yes");
            return self.secrets(now, out);
        }
        let id = self.job.file(out, FileOp::SshVersion { path: self.job.env.text("PATH").to_owned() });
        self.state = State::ReadingSsh { id };
    }

    /// `ssh -V` takes longer than all the rest of a short job: it is run only if the file does not tell.
    pub(super) fn ssh_read(&mut self, now: Instant, result: FileResult, out: &mut Vec<ExecutorCommand>) {
        if let FileResult::Found(Some(text)) = &result
            && ssh_version(text).is_some()
        {
            let end = ChildEnd::Exited { status: ExitStatus::Code(0), captured: text.clone() };
            return self.ssh_checked(now, end, out);
        }
        let mut spec = self.job.exec(vec!["ssh".to_owned(), "-V".to_owned()], &[]);
        spec.pty = false;
        spec.capture = true;
        match Child::start(&mut self.job, now, spec, Budget::Cancellable, out) {
            Ok(child) => self.state = State::CheckingSsh(child),
            Err(refused) => self.setup_failed(now, refused, out),
        }
    }

    /// Options that are known but have no effect yet are named, so that nobody relies on them.
    fn say_what_is_missing(&mut self, out: &mut Vec<ExecutorCommand>) {
        // A Job API of an agent around this one is not this job's: its client must not reach it by inheritance.
        self.job.env.unset("BUILDKITE_AGENT_JOB_API_SOCKET");
        self.job.env.unset("BUILDKITE_AGENT_JOB_API_TOKEN");
        if self.job.settings.flag(Opt::NoJobApi) {
            let text = "The Job API has been disabled. Features like automatic redaction of secrets and polyglot hooks will either not work \
                        or have degraded functionality";
            self.job.optional_warning(out, "job-api-disabled", text);
        } else {
            self.job.debug(out, || format!("Job API: {NOT_YET} serve it yet"));
        }
        for (on, what) in [
            (self.job.settings.flag(Opt::Tracing), "export traces yet (--opentelemetry-tracing)"),
            (self.job.settings.flag(Opt::JobLogsOtlp), "export job logs yet (--job-logs-otlp)"),
            (!self.job.settings.text(Opt::Profile).is_empty(), "write profiles yet (--profile)"),
            (
                ["BUILDKITE_USE_REPOSITORY_PROVIDER_GIT_CREDENTIALS", "BUILDKITE_USE_GITHUB_APP_GIT_CREDENTIALS"]
                    .iter()
                    .any(|name| self.job.env.get(name) == Some("true")),
                "manage git credentials yet; git uses its own configuration",
            ),
        ] {
            if on {
                self.job.log(out, LineKind::Warning, format!("{NOT_YET} {what}"));
            }
        }
    }

    /// bootstrap §6.1 to §6.3.
    fn set_up(&mut self, out: &mut Vec<ExecutorCommand>) -> Result<(), Failure> {
        if self.job.cancel.is_some() {
            return Err(Failure::cancelled());
        }
        let bin_path = self.job.settings.text(Opt::BinPath);
        if !bin_path.is_empty() {
            let path = format!("{}:{bin_path}", self.job.env.text("PATH"));
            self.job.env.set("PATH", path);
        }
        if self.job.env.get(CHECKOUT_PATH).is_none() {
            let Some(path) = self.computed_checkout_path() else {
                return Err(Failure::other("must set either a BUILDKITE_BUILD_PATH or a BUILDKITE_BUILD_CHECKOUT_PATH"));
            };
            self.job.env.set(CHECKOUT_PATH, path);
        }
        let ignored: Vec<String> = super::options::split_list(self.job.env.text("BUILDKITE_IGNORED_ENV"));
        if !ignored.is_empty() {
            self.job.log(out, LineKind::Header, "Detected protected environment variables");
            let text = "Your pipeline environment has protected environment variables set. These can only be set via hooks, plugins or the \
                        agent configuration.";
            self.job.log(out, LineKind::Comment, text);
            for name in ignored {
                self.job.log(out, LineKind::Warning, format!("Ignored {name}"));
            }
            self.job.log(out, LineKind::Plain, "^^^ +++");
        }
        self.job.debug_env(out);
        Ok(())
    }

    /// bootstrap §9.1; `None` without a build path.
    pub(super) fn computed_checkout_path(&self) -> Option<String> {
        let settings = &self.job.settings;
        let build_path = settings.text(Opt::BuildPath);
        if build_path.is_empty() {
            return None;
        }
        let agent: String = settings.text(Opt::Agent).chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        Some(format!("{build_path}/{agent}/{}/{}", settings.text(Opt::Organization), settings.text(Opt::Pipeline)))
    }

    /// bootstrap §6.4.
    pub(super) fn ssh_checked(&mut self, now: Instant, end: ChildEnd, out: &mut Vec<ExecutorCommand>) {
        let version = match end {
            ChildEnd::Refused | ChildEnd::NotStarted(StartFailure::Signalled) => Err(Failure::cancelled().text),
            ChildEnd::NotStarted(StartFailure::LookUp(why) | StartFailure::NoInterpreter(why) | StartFailure::Other(why)) => Err(why),
            ChildEnd::NotStarted(StartFailure::NoDirectory) => Err("no such directory".to_owned()),
            ChildEnd::Exited { status, captured } => match Failure::of_process(status) {
                Some(failure) => Err(failure.text),
                None => ssh_version(&captured).ok_or_else(|| format!("unable to parse SSH version from {}", quote(&captured))),
            },
        };
        if self.job.cancel.is_some() {
            return self.setup_failed(now, Failure::cancelled(), out);
        }
        match version {
            Ok(version) if version < (7, 6) => {
                self.job.append_ssh_options("-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null");
                self.job.log(out, LineKind::Comment, "SSH version < 7.6 detected, using StrictHostKeyChecking=no");
            }
            version => {
                if let Err(why) = version {
                    let text = format!(
                        "Failed to check SSH version for compatibility, needed for auto-accepting new host keys (no-ssh-keyscan=false). \
                         Continuing assuming that StrictHostKeyChecking=accept-new is supported. The error was: {why}"
                    );
                    self.job.log(out, LineKind::Warning, text);
                }
                self.job.append_ssh_options("-o StrictHostKeyChecking=accept-new");
            }
        }
        self.secrets(now, out);
    }

    /// bootstrap §6.5 to §6.7.
    fn secrets(&mut self, now: Instant, out: &mut Vec<ExecutorCommand>) {
        let secrets = self.job.settings.text(Opt::Secrets).trim();
        if !secrets.is_empty() {
            let failure = match serde_json::from_str::<Vec<serde_json::Value>>(secrets) {
                Ok(list) if list.is_empty() => None,
                Ok(_) => Some(format!("{NOT_YET} fetch secrets yet: remove `secrets` from the step, or export them in an agent `environment` hook")),
                Err(e) => Some(format!("failed to parse secrets JSON: {e}")),
            };
            if let Some(text) = failure {
                return self.setup_failed(now, Failure::other(format!("failed to fetch secrets for job: {text}")), out);
            }
        }
        let (_, complaints) = self.job.settings.refresh(&self.job.env);
        out.extend(complaints.into_iter().map(ExecutorCommand::Complain));
        if self.job.settings.flag(Opt::GitLfs) {
            self.job.env.set("GIT_LFS_SKIP_SMUDGE", "1");
        }
        self.run_point(now, Point::Environment, Budget::Cancellable, out);
    }

    pub(super) fn setup_failed(&mut self, now: Instant, failure: Failure, out: &mut Vec<ExecutorCommand>) {
        self.errors.setup = Some(failure);
        self.sequence_ended(now, out);
    }

    /// bootstrap §8.1: plugins are refused, not skipped.
    pub(super) fn plugin_phase(&mut self, now: Instant, out: &mut Vec<ExecutorCommand>) {
        let settings = &self.job.settings;
        let plugins = settings.text(Opt::Plugins).to_owned();
        if settings.include("plugin") && !plugins.is_empty() {
            self.job.log(out, LineKind::Header, "Preparing plugins");
            self.job.debug(out, || format!("Plugin JSON is {plugins}"));
            let settings = &self.job.settings;
            let disabled = [
                (Opt::LocalHooksEnabled, "plugins have been disabled on this agent with `--no-local-hooks`"),
                (Opt::CommandEval, "plugins have been disabled on this agent with `--no-command-eval`"),
                (Opt::PluginsEnabled, "plugins have been disabled on this agent with `--no-plugins`"),
            ]
            .into_iter()
            .find(|(opt, _)| !settings.flag(*opt));
            let failure = match (disabled, serde_json::from_str::<Vec<serde_json::Value>>(&plugins)) {
                (Some((_, text)), _) => Some(text.to_owned()),
                (None, Ok(list)) if list.is_empty() => None,
                (None, Ok(_)) => Some(format!("{NOT_YET} run plugins yet: remove `plugins` from the step, or do their work in hooks")),
                (None, Err(_)) => Some("failed to parse a plugin definition: JSON structure was not an array".to_owned()),
            };
            if let Some(text) = failure {
                self.errors.phase = Some(Failure::other(text));
            }
        }
        self.checkout_phase(now, out);
    }
}

impl super::job::Job {
    fn append_ssh_options(&mut self, options: &str) {
        let command = match self.env.text("GIT_SSH_COMMAND") {
            "" => "ssh",
            command => command,
        };
        let command = format!("{command} {options}");
        self.env.set("GIT_SSH_COMMAND", command);
    }

    fn debug_redactions(&self, out: &mut Vec<ExecutorCommand>) {
        self.debug(out, || {
            let globs = self.settings.list(Opt::RedactedVars).join(" ");
            format!("Enabling output redaction for values from environment variables matching: [{globs}]")
        });
    }

    /// bootstrap §6.3, debug only: never the token, never a password.
    fn debug_env(&self, out: &mut Vec<ExecutorCommand>) {
        if !self.settings.flag(Opt::Debug) {
            return;
        }
        self.log(out, LineKind::Header, "Buildkite environment variables");
        for (name, value) in self.env.iter().filter(|(n, _)| ["BUILDKITE", "CI", "PATH"].iter().any(|p| n.starts_with(p))) {
            let shown = match name {
                "BUILDKITE_AGENT_ACCESS_TOKEN" => "*".repeat(18),
                "BUILDKITE_GIT_REMOTE_MIRROR_URL" => mask_password(value),
                _ => value.replace('\n', "\\n"),
            };
            self.log(out, LineKind::Plain, format!("{name}={shown}"));
        }
    }
}

/// `https://user:secret@host` → `https://user:xxxxx@host`.
fn mask_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let authority = rest.split('/').next().unwrap_or_default();
    match authority.rsplit_once('@').and_then(|(user, _)| user.split_once(':')) {
        Some((user, password)) => format!("{scheme}://{user}:xxxxx{}", &rest[user.len() + 1 + password.len()..]),
        None => url.to_owned(),
    }
}

/// `OpenSSH_8.9p1 …` → (8, 9); the separator is `_` or white space.
fn ssh_version(text: &str) -> Option<(u32, u32)> {
    let at = text.find("OpenSSH")?;
    let rest = &text[at + "OpenSSH".len()..];
    let rest = rest.strip_prefix("_for_Windows").unwrap_or(rest);
    let rest = rest.strip_prefix('_').or_else(|| rest.strip_prefix(char::is_whitespace))?;
    let (major, rest) = rest.split_once('.')?;
    let minor: String = rest.chars().take_while(char::is_ascii_digit).collect();
    Some((major.trim().parse().ok()?, minor.parse().ok()?))
}

/// The checkout directory.
pub(super) const CHECKOUT_PATH: &str = "BUILDKITE_BUILD_CHECKOUT_PATH";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ssh_versions_are_read_from_both_spellings() {
        assert_eq!(ssh_version("OpenSSH_8.9p1 Ubuntu-3, OpenSSL 3.0.2"), Some((8, 9)));
        assert_eq!(ssh_version("OpenSSH_for_Windows_8.1p1, LibreSSL 2.9.2"), Some((8, 1)));
        assert_eq!(ssh_version("OpenSSH 7.4"), Some((7, 4)));
        assert_eq!(ssh_version("Sun_SSH_1.1"), None);
    }

    #[test]
    fn a_password_in_a_url_is_masked() {
        assert_eq!(mask_password("https://u:p@h/x"), "https://u:xxxxx@h/x");
        assert_eq!(mask_password("https://h/x:y@z"), "https://h/x:y@z");
    }
}
