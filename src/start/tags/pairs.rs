//! `tag=path` pairs of the meta-data path options (start-flags §5).

/// Pairs of tag name and path, and the error about the first malformed one, before which the pairs stand.
pub(super) fn parse(pairs: &[String]) -> (Vec<(String, String)>, Option<String>) {
    let mut out = Vec::new();
    for pair in pairs {
        let mut parts = pair.split('=');
        let name = parts.next().unwrap_or_default().trim().to_lowercase();
        let path = parts.next().map(|p| p.trim().trim_start_matches('/'));
        match path {
            Some(path) if !name.is_empty() && !path.is_empty() => out.push((name, path.to_owned())),
            _ => {
                let error = format!("Error parsing meta-data tag and path pairs: {pair:?} cannot be parsed, format should be `tag=metadata/path`");
                return (out, Some(error));
            }
        }
    }
    (out, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_before_the_first_malformed_one_are_used() {
        let pairs: Vec<String> = [" AMI =/ami-id", "zone=a/b=c", "nonsense", "late=x"].map(str::to_owned).into();
        let (good, error) = parse(&pairs);
        assert_eq!(good, [("ami".to_owned(), "ami-id".to_owned()), ("zone".to_owned(), "a/b".to_owned())]);
        assert_eq!(error.unwrap(), "Error parsing meta-data tag and path pairs: \"nonsense\" cannot be parsed, format should be `tag=metadata/path`");
    }
}
