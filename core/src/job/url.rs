//! URLs as they may be shown (job-runner §2.5).

/// A URL with its password replaced (job-runner §2.5).
pub fn masked_url(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    if !is_scheme(scheme) {
        return url.to_owned();
    }
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, tail) = rest.split_at(end);
    let valid = !url.chars().any(|c| c.is_ascii_control()) && percent_decoded(authority).is_some() && percent_decoded(tail).is_some();
    let (userinfo, host) = match authority.rsplit_once('@') {
        Some((userinfo, host)) => (Some(userinfo), host),
        None => (None, authority),
    };
    if !valid || !valid_host(host) {
        return "(invalid URL)".to_owned();
    }
    match userinfo.and_then(|userinfo| userinfo.split_once(':')) {
        Some((user, _)) => format!("{scheme}://{user}:xxxxx@{host}{tail}"),
        None => url.to_owned(),
    }
}

fn valid_host(host: &str) -> bool {
    let port = match host.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((_, port)) => port,
            None => return false,
        },
        None => host.find(':').map_or("", |colon| &host[colon..]),
    };
    let port_ok = port.is_empty() || port.strip_prefix(':').is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_digit()));
    port_ok && !host.contains([' ', '"', '<', '>', '\\', '^', '`', '{', '|', '}'])
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
}

/// Percent-decoding; `None` where an escape is not one.
fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |b: Option<u8>| b.and_then(|b| char::from(b).to_digit(16));
        let value = digit(rest.next())? * 16 + digit(rest.next())?;
        bytes.push(u8::try_from(value).ok()?);
    }
    Some(String::from_utf8_lossy(&bytes).into_owned())
}
