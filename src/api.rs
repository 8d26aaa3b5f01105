//! The control-plane client of in-job commands (specification: commands §8, agent-api §2–4).

/// Server-specified headers found in the environment (agent-api §2.4): `BUILDKITE_REQUEST_HEADER_BUILDKITE_FOO=v` is
/// `Buildkite-Foo: v`; names that do not begin with `Buildkite-` are dropped.
pub(crate) fn request_headers(env: impl Iterator<Item = (std::ffi::OsString, std::ffi::OsString)>) -> Vec<(String, String)> {
    let mut headers: Vec<(String, String)> = env
        .filter_map(|(k, v)| {
            let name = title_case(k.to_str()?.strip_prefix("BUILDKITE_REQUEST_HEADER_")?);
            name.starts_with("Buildkite-").then(|| (name, v.to_string_lossy().into_owned()))
        })
        .collect();
    headers.sort();
    headers
}

/// `BUILDKITE_FOO_BAR` as `Buildkite-Foo-Bar`.
fn title_case(name: &str) -> String {
    let word = |w: &str| {
        let mut w = w.to_ascii_lowercase();
        if let Some(first) = w.get_mut(..1) {
            first.make_ascii_uppercase();
        }
        w
    };
    name.split('_').map(word).collect::<Vec<_>>().join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_buildkite_headers_pass() {
        let env = [("BUILDKITE_REQUEST_HEADER_BUILDKITE_HELLO_YOU", "world"), ("BUILDKITE_REQUEST_HEADER_CONTENT_TYPE", "x"), ("PATH", "/bin")];
        let headers = request_headers(env.into_iter().map(|(k, v)| (k.into(), v.into())));
        assert_eq!(headers, [("Buildkite-Hello-You".to_owned(), "world".to_owned())]);
    }
}
