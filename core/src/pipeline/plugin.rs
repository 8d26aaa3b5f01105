//! The full source of a plugin (pipeline §2.8).

/// `docker#v1` → `github.com/buildkite-plugins/docker-buildkite-plugin#v1`, `acme/lint` → `github.com/acme/lint-buildkite-plugin`;
/// what is a path, a URL or has more parts stays as it is.
pub fn full_source(source: &str) -> String {
    if source.is_empty() || source.starts_with(['/', '.', '\\']) {
        return source.to_owned();
    }
    let (before, fragment) = source.split_once('#').map_or((source, ""), |(b, f)| (b, f));
    let path = before.split_once('?').map_or(before, |(p, _)| p);
    let first = path.split('/').next().unwrap_or(path);
    // A colon in the first part is a scheme, or makes the text no URL at all; either way it stays.
    if first.contains(':') || source.chars().any(|c| c.is_control()) {
        return source.to_owned();
    }
    let (Some(path), Some(fragment)) = (percent_decode(path), percent_decode(fragment)) else { return source.to_owned() };
    let suffix = if fragment.is_empty() { String::new() } else { format!("#{fragment}") };
    match path.split('/').collect::<Vec<_>>().as_slice() {
        [name] => clean(&format!("github.com/buildkite-plugins/{name}-buildkite-plugin{suffix}")),
        [org, name] => clean(&format!("github.com/{org}/{name}-buildkite-plugin{suffix}")),
        _ => source.to_owned(),
    }
}

fn clean(path: &str) -> String {
    crate::artifact::clean(path)
}

/// `None` for a bad escape.
fn percent_decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(b) = bytes.next() {
        if b != b'%' {
            out.push(b);
            continue;
        }
        let digit = |b: Option<u8>| char::from(b?).to_digit(16);
        let (high, low) = (digit(bytes.next())?, digit(bytes.next())?);
        out.push((high * 16 + low) as u8);
    }
    Some(String::from_utf8_lossy(&out).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_become_full_as_the_table_says() {
        for (source, expected) in [
            ("docker", "github.com/buildkite-plugins/docker-buildkite-plugin"),
            ("docker#v5.9.0", "github.com/buildkite-plugins/docker-buildkite-plugin#v5.9.0"),
            ("acme/lint#main", "github.com/acme/lint-buildkite-plugin#main"),
            ("acme/lint.git#v1", "github.com/acme/lint.git-buildkite-plugin#v1"),
            ("thing-buildkite-plugin", "github.com/buildkite-plugins/thing-buildkite-plugin-buildkite-plugin"),
            ("host.com/o", "github.com/host.com/o-buildkite-plugin"),
            ("o/p#feature%2Fx", "github.com/o/p-buildkite-plugin#feature/x"),
            ("p?x=1#v2", "github.com/buildkite-plugins/p-buildkite-plugin#v2"),
            ("p#", "github.com/buildkite-plugins/p-buildkite-plugin"),
        ] {
            assert_eq!(full_source(source), expected, "{source}");
        }
        for same in [
            "a/b/c#v1",
            "github.com/o/p-buildkite-plugin#v1",
            "./p",
            "../p",
            "/p",
            ".\\p",
            "ssh://git@h/p",
            "git@h:o/p.git#v1",
            "my:p",
            "a%zz",
            "",
            "https://x/y",
            "C:\\x",
        ] {
            assert_eq!(full_source(same), same);
        }
    }
}
