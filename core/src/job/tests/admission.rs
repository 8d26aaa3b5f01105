//! Allow-lists, plugin sources, URLs (job-runner §2.5, §4.3).

use super::*;

fn lists(repositories: &[&str], variables: Option<&[&str]>, plugins: &[&str]) -> JobConfig {
    let owned = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
    JobConfig {
        allowed_repositories: owned(repositories),
        allowed_environment_variables: variables.map(owned),
        allowed_plugins: owned(plugins),
        ..config().job
    }
}

#[test]
fn empty_lists_allow_everything() {
    assert_eq!(allow_lists(&lists(&[], None, &[]), &job(&[("ANY", "x"), ("BUILDKITE_PLUGINS", r#"["docker#v1"]"#)])), Ok(()));
}

#[test]
fn patterns_are_searched_not_matched_whole() {
    assert_eq!(allow_lists(&lists(&["host:re"], None, &[]), &job(&[])), Ok(()));
    let refused = allow_lists(&lists(&["^host"], None, &[]), &job(&[]));
    assert_eq!(refused, Err("failed to validate repo: git@host:repo.git has no match in [^host]".into()));
}

#[test]
fn a_job_without_a_repository_is_checked_as_the_empty_string() {
    let mut accepted = job(&[]);
    accepted.env = JobEnv::default();
    assert_eq!(allow_lists(&lists(&["x"], None, &[]), &accepted), Err("failed to validate repo:  has no match in [x]".into()));
    assert_eq!(allow_lists(&lists(&["^$"], None, &[]), &accepted), Ok(()));
}

#[test]
fn w9_variables_are_checked_in_order_of_name_and_buildkites_own_pass() {
    let config = lists(&[], Some(&["^OK_"]), &[]);
    assert_eq!(allow_lists(&config, &job(&[("CI", "true"), ("BUILDKITE", "true"), ("OK_A", "1")])), Ok(()));
    let refused = allow_lists(&config, &job(&[("Z", "1"), ("M", "1"), ("CI_X", "1")]));
    assert_eq!(refused, Err("failed to validate environment variables: CI_X has no match in [^BUILDKITE$ ^BUILDKITE_.*$ ^CI$ ^OK_]".into()));
}

#[test]
fn w9_the_repository_is_checked_first_then_variables_then_plugins() {
    let config = lists(&["no"], Some(&[]), &["no"]);
    let bad = job(&[("X", "1"), ("BUILDKITE_PLUGINS", "nonsense")]);
    assert!(allow_lists(&config, &bad).unwrap_err().starts_with("failed to validate repo: "));
    let config = lists(&[], Some(&[]), &["no"]);
    assert!(allow_lists(&config, &bad).unwrap_err().starts_with("failed to validate environment variables: X "));
    let config = lists(&[], None, &["no"]);
    assert!(allow_lists(&config, &bad).unwrap_err().starts_with("failed to validate plugins: failed to unmarshal plugins for validation: "));
}

#[test]
fn plugins_are_checked_by_their_full_source() {
    let plugins = r#"["docker#v1", {"acme/tool#v2": {"a": 1}, "./local": null}]"#;
    let with = |patterns: &[&str]| allow_lists(&lists(&[], None, patterns), &job(&[("BUILDKITE_PLUGINS", plugins)]));
    assert_eq!(with(&["^github.com/buildkite-plugins/docker-buildkite-plugin#v1$", "^github.com/acme/tool-", r"^\./local$"]), Ok(()));
    let refused = "failed to validate plugins: github.com/acme/tool-buildkite-plugin#v2 has no match in [docker]";
    assert_eq!(with(&["docker"]), Err(refused.into()));
}

#[test]
fn a_plugin_list_of_another_shape_refuses_even_without_a_list_unless_plugins_are_off() {
    for (plugins, ok) in
        [("null", true), (r#"{"a#1": null}"#, true), ("[]", true), ("", true), ("5", false), ("[5]", false), ("[[]]", false), ("{", false)]
    {
        let accepted = job(&[("BUILDKITE_PLUGINS", plugins)]);
        assert_eq!(allow_lists(&lists(&[], None, &[]), &accepted).is_ok(), ok, "{plugins}");
        let off = JobConfig { plugins_enabled: false, ..lists(&[], None, &["no"]) };
        assert_eq!(allow_lists(&off, &accepted), Ok(()), "{plugins}");
    }
}

#[test]
fn a_pattern_that_cannot_be_compiled_refuses() {
    assert!(allow_lists(&lists(&["("], None, &[]), &job(&[])).unwrap_err().starts_with("failed to validate repo: "));
}

#[test]
fn passwords_in_urls_are_masked() {
    for (url, masked) in [
        ("https://user:hunter2@host/p?q#f", "https://user:xxxxx@host/p?q#f"),
        ("https://user@host/p", "https://user@host/p"),
        ("https://:t0ken@host", "https://:xxxxx@host"),
        ("https://user:@host", "https://user:xxxxx@host"),
        ("https://host/a:b@c", "https://host/a:b@c"),
        ("ssh://git:pw@[::1]:22/x", "ssh://git:xxxxx@[::1]:22/x"),
        ("git@host:repo.git", "git@host:repo.git"),
        ("https://u:p%zz@host/", "(invalid URL)"),
        ("https://u:p@ho st/", "(invalid URL)"),
        ("https://u:p@host:port/", "(invalid URL)"),
        ("1http://u:p@h", "1http://u:p@h"),
    ] {
        assert_eq!(masked_url(url), masked, "{url}");
    }
}

#[test]
fn a_recorded_job_env_decides_like_the_one_that_was_received() {
    let plugins = r#"["docker#v1", {"acme/tool#v2": {"token": "s3cret"}}, {"https://u:s3cret@local/p": null}]"#;
    let received = env(&[
        ("BUILDKITE_PLUGINS", plugins),
        ("BUILDKITE_REPO", "https://u:s3cret@host/r"),
        ("BUILDKITE_GIT_REMOTE_MIRROR_URL", "https://u:s3cret@mirror/r"),
        ("PASSWORD", "s3cret"),
    ]);
    let text = serde_json::to_string(&received).unwrap();
    assert!(!text.contains("s3cret"), "{text}");
    let recorded: JobEnv = serde_json::from_str(&text).unwrap();
    assert_eq!(serde_json::to_string(&recorded).unwrap(), text, "masking is idempotent");
    let config = lists(&["host", "^https://good/"], None, &["docker", "acme", "local"]);
    for env in [received, recorded] {
        let accepted = AcceptedJob { env, ..job(&[]) };
        assert_eq!(allow_lists(&config, &accepted), Ok(()));
        let edited = edit(&accepted.env, &config);
        assert_eq!(edited.dropped_mirror.map(|url| mirror_notice(&url)), Some(mirror_notice("https://u:xxxxx@mirror/r")));
    }
}
