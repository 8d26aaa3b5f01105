//! Where a redirect leads, and what it takes along (agent-api §2.6).

use super::encode::origin;
use super::types::{RawRequest, RawResponse};

/// Redirects followed per exchange.
pub const REDIRECTS: usize = 10;

/// What a response asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hop {
    /// It is the answer.
    Stay,
    /// Send this request next.
    Follow(Box<RawRequest>),
}

/// Judges a response. 301, 302 and 303 turn any method but GET and HEAD into a GET without body; 307 and 308 repeat method
/// and body. The credential does not follow to another scheme, host or port.
pub fn redirect(request: &RawRequest, response: &RawResponse) -> Hop {
    if !matches!(response.status, 301 | 302 | 303 | 307 | 308) {
        return Hop::Stay;
    }
    let location = response.headers.iter().find(|(n, _)| n == "location").map(|(_, v)| v.trim());
    let Some(url) = location.filter(|l| !l.is_empty()).and_then(|l| resolve(&request.url, l)) else { return Hop::Stay };
    let mut next = request.clone();
    if !same_origin(&url, &request.url) {
        next.headers.retain(|(name, _)| *name != "authorization");
    }
    if response.status < 307 && !matches!(next.method, "GET" | "HEAD") {
        next.method = "GET";
        next.body = None;
        next.headers.retain(|(name, _)| !matches!(*name, "content-length" | "content-type" | "content-encoding"));
    }
    next.url = url;
    Hop::Follow(Box::new(next))
}

/// Whether scheme, host and port are the same; a default port may be written out, and user information is no part of it.
fn same_origin(a: &str, b: &str) -> bool {
    let parts = |url: &str| {
        let origin = origin(url).to_ascii_lowercase();
        let (scheme, authority) = origin.split_once("://")?;
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        let default = if scheme == "https" { ":443" } else { ":80" };
        Some((scheme.to_owned(), host.strip_suffix(default).unwrap_or(host).to_owned()))
    };
    parts(a).is_some_and(|a| parts(b) == Some(a))
}

/// Resolves `location` against `base`; only http and https. Escapes are left as they are.
fn resolve(base: &str, location: &str) -> Option<String> {
    let location = location.split('#').next().unwrap_or_default();
    let has_scheme = location.find(':').is_some_and(|i| {
        let scheme = &location[..i];
        scheme.starts_with(|c: char| c.is_ascii_alphabetic()) && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
    });
    if has_scheme {
        let lower = location.to_ascii_lowercase();
        return (lower.starts_with("http://") || lower.starts_with("https://")).then(|| location.to_owned());
    }
    let base_origin = origin(base);
    if location.starts_with("//") {
        return Some(format!("{}:{location}", base_origin.split("://").next()?));
    }
    if location.starts_with('/') {
        return Some(format!("{base_origin}{}", without_dots(location)));
    }
    let path_and_query = &base[base_origin.len()..];
    let path = path_and_query.split('?').next().unwrap_or_default();
    if location.starts_with('?') || location.is_empty() {
        return Some(format!("{base_origin}{path}{location}"));
    }
    let directory = path.rfind('/').map_or("/", |i| &path[..=i]);
    Some(format!("{base_origin}{}", without_dots(&format!("{directory}{location}"))))
}

/// Removes `.` and `..` segments of an absolute path.
fn without_dots(path_and_query: &str) -> String {
    let (path, query) = match path_and_query.find('?') {
        Some(i) => path_and_query.split_at(i),
        None => (path_and_query, ""),
    };
    let mut kept: Vec<&str> = Vec::new();
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    for (i, segment) in segments.iter().enumerate() {
        let last = i + 1 == segments.len();
        match *segment {
            "." | ".." => {
                if *segment == ".." {
                    kept.pop();
                }
                if last {
                    kept.push("");
                }
            }
            other => kept.push(other),
        }
    }
    format!("/{}{query}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn hop(method: &'static str, status: u16, location: &str) -> Option<RawRequest> {
        let request = RawRequest {
            method,
            url: "http://h:1/v3/jobs/a%2Eb/start?x=1".into(),
            headers: vec![("authorization", "Token t".into()), ("content-type", "application/json".into()), ("content-length", "2".into())],
            extra_headers: Default::default(),
            body: Some(Bytes::from_static(b"{}")),
        };
        let headers = if location.is_empty() { vec![] } else { vec![("location".to_owned(), location.to_owned())] };
        match redirect(&request, &RawResponse { proto: "HTTP/1.1", status, headers, body: Bytes::new(), url: request.url.clone() }) {
            Hop::Stay => None,
            Hop::Follow(next) => Some(*next),
        }
    }

    #[test]
    fn locations_are_resolved_and_escapes_kept() {
        for (location, url) in [
            ("http://h:1/x%2E", "http://h:1/x%2E"),
            ("/x/%2E%2E/y", "http://h:1/x/%2E%2E/y"),
            ("//other/x", "http://other/x"),
            ("y", "http://h:1/v3/jobs/a%2Eb/y"),
            ("../y?q#f", "http://h:1/v3/jobs/y?q"),
            ("?z", "http://h:1/v3/jobs/a%2Eb/start?z"),
        ] {
            assert_eq!(hop("PUT", 307, location).unwrap().url, url, "{location}");
        }
        for location in ["", "ftp://h/x", "mailto:x"] {
            assert_eq!(hop("PUT", 302, location), None, "{location}");
        }
        assert_eq!(hop("PUT", 304, "/x"), None);
    }

    #[test]
    fn the_credential_stays_with_its_origin() {
        let has_token = |location: &str| hop("PUT", 307, location).unwrap().headers.iter().any(|(n, _)| *n == "authorization");
        assert!(has_token("/x"));
        assert!(has_token("HTTP://H:1/x"));
        for elsewhere in ["https://h:1/x", "http://h:2/x", "http://other:1/x"] {
            assert!(!has_token(elsewhere), "{elsewhere}");
        }
        for (a, b, same) in [
            ("https://h/x", "https://H:443/y", true),
            ("http://h:80", "http://h/y", true),
            ("http://u:p@h/x", "http://h/y", true),
            ("https://h:80/x", "https://h/y", false),
            ("http://[::1]:80/x", "http://[::1]/y", true),
            ("http://h@evil/x", "http://h/y", false),
            ("http://h/x", "https://h/x", false),
        ] {
            assert_eq!(same_origin(a, b), same, "{a} {b}");
        }
    }

    #[test]
    fn see_other_becomes_get_and_temporary_repeats() {
        for status in [301, 302, 303] {
            let next = hop("PUT", status, "/x").unwrap();
            assert_eq!((next.method, next.body), ("GET", None), "{status}");
            assert_eq!(next.headers.len(), 1);
        }
        for status in [307, 308] {
            let next = hop("PUT", status, "/x").unwrap();
            assert_eq!((next.method, next.body.as_deref()), ("PUT", Some(&b"{}"[..])), "{status}");
        }
    }
}
