//! What debug level shows of HTTP traffic (agent-api §18).

use crate::flags::Values;
use crate::log::Logger;
use ibex_core::agent::Level;
use ibex_core::api::{RawRequest, RawResponse, TransportError, shown_url};
use ibex_core::retry::duration_text;
use ibex_io::tokio::HttpObserver;
use std::rc::Rc;
use std::time::Duration;

/// Writes exchanges to the log.
pub(crate) struct HttpLog {
    dump: bool,
    trace: bool,
    log: Rc<Logger>,
}

impl HttpLog {
    /// With the flags `debug-http` and `trace-http`. `None` if nothing would be shown.
    pub(crate) fn of(values: &Values, log: &Rc<Logger>) -> Option<HttpLog> {
        // A command whose answers are credentials has neither flag.
        let (dump, trace) = (values.has("debug-http"), values.has("trace-http"));
        (trace || log.enabled(Level::Debug)).then(|| HttpLog { dump, trace, log: log.clone() })
    }

    fn dump<N: AsRef<str>>(&self, first: &str, headers: &[(N, String)], body: Option<&[u8]>) {
        if !self.dump || !self.log.enabled(Level::Debug) {
            return;
        }
        let mut text = first.to_owned();
        for (name, value) in headers.iter().filter(|(n, _)| !n.as_ref().eq_ignore_ascii_case("authorization")) {
            text.push_str(&format!("\n{}: {value}", name.as_ref()));
        }
        let form = headers.iter().any(|(n, v)| n.as_ref().eq_ignore_ascii_case("content-type") && v.starts_with("multipart/form-data"));
        if let Some(body) = body.filter(|b| !b.is_empty() && !form) {
            text.push_str(&format!("\n\n{}", masked(&String::from_utf8_lossy(body))));
        }
        self.log.at(Level::Debug, text);
    }
}

impl HttpObserver for HttpLog {
    fn sending(&self, request: &RawRequest) {
        let what = format!("{} {}", request.method, shown_url(&request.url));
        self.log.at(Level::Debug, &what);
        let all = request.headers.iter().map(|(n, v)| (*n, v.clone())).chain(request.extra_headers.iter().map(|(n, v)| (n.as_str(), v.clone())));
        self.dump(&what, &all.collect::<Vec<_>>(), request.body.as_deref());
    }

    fn answered(&self, request: &RawRequest, answer: &Result<RawResponse, TransportError>, took: Duration) {
        let took = duration_text(took);
        let what = format!("{} {}", request.method, shown_url(&request.url));
        if let Ok(r) = answer {
            self.log.write(
                Level::Debug,
                None,
                &format!("↳ {what}"),
                &[("proto", r.proto.to_owned()), ("status", r.status.to_string()), ("Δ", took.clone())],
            );
            self.dump(&format!("{} {what}", r.status), &r.headers, Some(&r.body));
        }
        if self.trace {
            let level = if answer.is_ok() { Level::Debug } else { Level::Error };
            self.log.write(level, None, "HTTP Timing Trace", &[("request", what), ("total", took)]);
        }
    }
}

/// A body for the log, credentials masked (agent-api §18): the values of `access_token`, `token` and `value`. What is no JSON
/// is shown as it is.
fn masked(body: &str) -> String {
    fn mask(value: &mut serde_json::Value) {
        match value {
            serde_json::Value::Object(map) => {
                for (key, value) in map.iter_mut() {
                    match key.as_str() {
                        "access_token" | "token" | "value" if value.is_string() => *value = ibex_core::secret::MASK.into(),
                        _ => mask(value),
                    }
                }
            }
            serde_json::Value::Array(list) => list.iter_mut().for_each(mask),
            _ => {}
        }
    }
    match serde_json::from_str::<serde_json::Value>(body) {
        Ok(mut value) => {
            mask(&mut value);
            value.to_string()
        }
        // It may be the beginning of a credential.
        Err(_) if body.trim_start().starts_with('{') => format!("«{} bytes of malformed JSON»", body.len()),
        Err(_) => body.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_masked_in_dumps() {
        assert_eq!(masked("{\"a\":[{\"token\":\"s\"}],\"key\":\"k\"}"), "{\"a\":[{\"token\":\"[secret]\"}],\"key\":\"k\"}");
        assert!(!masked("{\"token\":\"sekret").contains("sekret"));
        assert_eq!(masked("<html>"), "<html>");
    }
}
