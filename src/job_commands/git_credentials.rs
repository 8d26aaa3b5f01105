//! `git-credentials-helper`: repository credentials for git (commands §11.23). Every failure prints credentials that do not
//! work: git ignores a helper that fails and would ask the terminal.

use super::value;
use crate::api::{Client, field, json};
use crate::cli::{Failure, Invocation, Leaf, Run, Section, print};
use crate::flags::{API_WITHOUT_DUMPS, Flag, GLOBAL, Kind::Text, flag, process_env};
use ibex_core::agent::Level;
use ibex_core::api::escape_segment;
use ibex_core::retry;

/// Checked before the token.
static FLAGS: &[Flag] = &[flag("job-id", Text, &["BUILDKITE_JOB_ID"], "The job whose repository is cloned").required()];

/// `git-credentials-helper`
pub(crate) static GIT_CREDENTIALS_HELPER: Leaf = Leaf {
    path: "git-credentials-helper",
    section: Section::Internal,
    about: "Ask Buildkite for credentials to use to authenticate with Github when cloning via HTTPS",
    usage: "[action] [options...]",
    description: "Is configured into git by the job's executor and speaks the protocol of git's credential helpers.",
    flags: &[FLAGS, API_WITHOUT_DUMPS, GLOBAL],
    run: Run::Resolved(helper),
};

fn helper(call: &Invocation) -> Result<u8, Failure> {
    if call.positionals.first().is_none_or(|action| action != "get") {
        return Ok(0);
    }
    let client = Client::of(call)?.quiet();
    if process_env("BUILDKITE_JOB_ID").is_none() {
        client.log().warn("BUILDKITE_JOB_ID is not in the environment: this command is meant to be called by git inside a job");
        client.log().warn("Credentials are asked for with the job id of the --job-id option");
    }
    match credentials(call, &client) {
        Ok(token) => print(&format!("username=token\npassword={token}\n\n")),
        Err(cause) => {
            print("username=fail\npassword=fail\n\n")?;
            client.log().at(Level::Error, format!("Error: {cause}. Authentication will proceed, but will fail."));
            Err(Failure::Silent(1))
        }
    }
}

fn credentials(call: &Invocation, client: &Client) -> Result<String, String> {
    let input = value::stdin().map_err(|_| "standard input could not be read".to_owned())?;
    let body = serde_json::json!({ "repo_url": repository(&input)? });
    let path = format!("jobs/{}/repository_access_token", escape_segment(call.values.text("job-id")));
    let reply = client.send_and_wait(json("POST", path, &body, true), &retry::REPOSITORY).map_err(|e| e.text().to_owned())?;
    let token = field(&reply, "token");
    if token.is_empty() { Err("the server gave no token".into()) } else { Ok(token) }
}

/// The URL that git's description names; the last line of a kind counts.
fn repository(input: &str) -> Result<String, String> {
    let last = |name: &str| {
        let value = input.lines().filter_map(|l| l.strip_prefix(name)?.strip_prefix('=')).next_back().map(str::trim).unwrap_or_default();
        if value.is_empty() { Err(format!("missing component in git credential input: {name}")) } else { Ok(value) }
    };
    let (protocol, host, path) = (last("protocol")?, last("host")?, last("path")?);
    if protocol != "https" {
        return Err("git remote must use the https protocol for repository credentials".into());
    }
    let kept = |b: u8| b.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@!*'()".contains(&b);
    let path: String = path.bytes().map(|b| if kept(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect();
    Ok(format!("https://{host}/{path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_repository_is_put_together_from_gits_description() {
        assert_eq!(repository("protocol=https\nhost=git.example.org\npath=acme/tool.git\n").unwrap(), "https://git.example.org/acme/tool.git");
        assert_eq!(repository("protocol=https\nhost=h:8443\npath=a b/c?d%20\nother=x").unwrap(), "https://h:8443/a%20b/c%3Fd%2520");
        assert_eq!(repository("protocol=https\nhost=a\nhost=b\npath=p").unwrap(), "https://b/p");
        assert_eq!(repository("protocol=https\nhost=h").unwrap_err(), "missing component in git credential input: path");
        assert_eq!(repository("protocol=ssh\nhost=h\npath=p").unwrap_err(), "git remote must use the https protocol for repository credentials");
    }
}
