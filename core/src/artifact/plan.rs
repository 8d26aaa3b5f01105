//! Splitting arguments, naming artifacts, cutting files into parts (artifacts §3, §5, §9).

/// Artifacts of one create request, so that pre-signed URLs stay fresh (artifacts §2).
pub const BATCH: usize = 30;
/// Largest file that the hosted store takes, in bytes.
pub const HOSTED_BYTES_MAX: u64 = 5 << 30;

/// Splits the pattern argument: at every delimiter, trimmed, empty pieces dropped. An empty delimiter does not split.
pub fn split_patterns(argument: &str, delimiter: &str) -> Vec<String> {
    let pieces: Vec<&str> = if delimiter.is_empty() { vec![argument] } else { argument.split(delimiter).collect() };
    pieces.into_iter().map(str::trim).filter(|p| !p.is_empty()).map(str::to_owned).collect()
}

/// Lexically cleaned path: no `.`, no double slashes, `..` resolved where a name stands before it; empty becomes `.`.
pub fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut out: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => match out.last() {
                Some(&last) if last != ".." => {
                    out.pop();
                }
                _ if rooted => {}
                _ => out.push(".."),
            },
            name => out.push(name),
        }
    }
    let joined = out.join("/");
    match (rooted, joined.is_empty()) {
        (true, _) => format!("/{joined}"),
        (false, true) => ".".to_owned(),
        (false, false) => joined,
    }
}

/// The artifact's path: relative to `cwd` for a file that was matched by a relative path, else the absolute path without its
/// leading slash. Both arguments are clean absolute paths.
pub fn artifact_path(absolute: &str, cwd: &str, matched_relative: bool) -> String {
    if !matched_relative {
        return absolute.trim_start_matches('/').to_owned();
    }
    let file: Vec<&str> = absolute.split('/').filter(|p| !p.is_empty()).collect();
    let base: Vec<&str> = cwd.split('/').filter(|p| !p.is_empty()).collect();
    let common = file.iter().zip(&base).take_while(|(a, b)| a == b).count();
    let mut out = vec![".."; base.len() - common];
    out.extend(&file[common..]);
    out.join("/")
}

/// One part of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub size: u64,
}

/// Cuts `size` bytes into `count` contiguous parts; the first `size % count` parts have one byte more.
pub fn parts(size: u64, count: u64) -> Vec<Part> {
    let (quotient, rest) = (size / count.max(1), size % count.max(1));
    let mut offset = 0;
    (0..count)
        .map(|i| {
            let part = Part { offset, size: quotient + u64::from(i < rest) };
            offset += part.size;
            part
        })
        .collect()
}

/// A size for people: `5 B`, `1.2 KiB`, `12 MiB` (one decimal below 10, none above).
pub fn iec(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if value < 10.0 { format!("{value:.1} {}", UNITS[unit]) } else { format!("{value:.0} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_contiguous_and_nearly_equal() {
        let sizes = |size, n| parts(size, n).iter().map(|p| p.size).collect::<Vec<_>>();
        assert_eq!(sizes(18, 3), [6, 6, 6]);
        assert_eq!(sizes(11, 3), [4, 4, 3]);
        assert_eq!(sizes(10, 4), [3, 3, 2, 2]);
        assert_eq!(sizes(2, 3), [1, 1, 0]);
        assert_eq!(parts(11, 3)[2], Part { offset: 8, size: 3 });
    }

    #[test]
    fn paths_are_relative_to_the_directory_of_the_command() {
        assert_eq!(artifact_path("/w/a/x", "/w", true), "a/x");
        assert_eq!(artifact_path("/other/x.txt", "/w", true), "../other/x.txt");
        assert_eq!(artifact_path("/w/a/x", "/w", false), "w/a/x");
    }

    #[test]
    fn cleaning_is_lexical() {
        for (path, expected) in [("a/../b", "b"), ("a//b/", "a/b"), ("", "."), ("./x", "x"), ("../x", "../x"), ("/../x", "/x"), ("a/../../b", "../b")]
        {
            assert_eq!(clean(path), expected, "{path}");
        }
    }

    #[test]
    fn arguments_are_split_at_the_delimiter() {
        assert_eq!(split_patterns(" top.log ; a/one.log ;; ", ";"), ["top.log", "a/one.log"]);
        assert_eq!(split_patterns("semi;colon.log", ""), ["semi;colon.log"]);
        assert!(split_patterns(" ; ", ";").is_empty());
    }

    #[test]
    fn sizes_are_for_people() {
        for (n, text) in [(5, "5 B"), (1229, "1.2 KiB"), (12 << 20, "12 MiB"), (10 << 30, "10 GiB")] {
            assert_eq!(iec(n), text);
        }
    }
}
