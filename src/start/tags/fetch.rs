//! Small requests to metadata services, and trying them again.

use ibex_core::api::{ProxyRules, RawRequest};
use ibex_core::rng::Rng;
use ibex_io::tokio::Http;
use serde_json::Value;
use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

/// Tries of a source (start-flags §5).
const TRIES: u32 = 5;
/// Limit of one request: a metadata service is on the same machine or does not exist.
const REQUEST: Duration = Duration::from_secs(5);

/// Makes requests.
pub(super) struct Fetch {
    /// For the metadata services. They are reached over the link and hand out credentials: no proxy could, or should, see them.
    direct: Http,
    /// For the clouds' APIs.
    http: Http,
    rng: RefCell<Rng>,
}

impl Fetch {
    pub(super) fn new() -> Fetch {
        Fetch {
            direct: Http::with_proxies(Ok(ProxyRules::default()), false),
            http: Http::new(false),
            rng: RefCell::new(Rng::from_bytes(crate::api::seed())),
        }
    }

    /// Five tries, `wait` and up to a second between them.
    pub(super) async fn tries<T>(&self, wait: Duration, attempt: impl AsyncFn() -> Result<T, String>) -> Result<T, String> {
        let mut n = 1;
        loop {
            match attempt().await {
                Err(_) if n < TRIES => {}
                result => return result,
            }
            n += 1;
            let jitter = self.rng.borrow_mut().duration_below(Duration::from_secs(1));
            tokio::time::sleep(wait + jitter).await;
        }
    }

    /// Five tries, a fifth of `whole` and up to a second between them.
    pub(super) async fn fifth_of<T>(&self, whole: Duration, attempt: impl AsyncFn() -> Result<T, String>) -> Result<T, String> {
        self.tries(whole / TRIES, attempt).await
    }

    /// A metadata service's answer: the body of a 2xx. Everything else is an error that names the URL.
    pub(super) async fn text(&self, method: &'static str, url: &str, headers: &[(&'static str, String)]) -> Result<String, String> {
        exchange(&self.direct, method, url, headers).await
    }

    /// A metadata service's answer that is a JSON object.
    pub(super) async fn object(&self, url: &str, headers: &[(&'static str, String)]) -> Result<Value, String> {
        object(url, &self.text("GET", url, headers).await?)
    }

    /// The answer of a cloud's API.
    pub(super) async fn api(&self, url: &str, headers: &[(&'static str, String)]) -> Result<String, String> {
        exchange(&self.http, "GET", url, headers).await
    }
}

/// `text` as the JSON object that `url` should have answered with.
pub(super) fn object(url: &str, text: &str) -> Result<Value, String> {
    match serde_json::from_str(text) {
        Ok(value @ Value::Object(_)) => Ok(value),
        Ok(_) => Err(format!("GET {url}: the answer is no JSON object")),
        Err(e) => Err(format!("GET {url}: the answer is no JSON: {e}")),
    }
}

async fn exchange(http: &Http, method: &'static str, url: &str, headers: &[(&'static str, String)]) -> Result<String, String> {
    let request = RawRequest {
        method,
        url: url.to_owned(),
        headers: headers.to_vec(),
        extra_headers: Arc::default(),
        body: (method != "GET").then(Default::default),
    };
    match tokio::time::timeout(REQUEST, http.exchange(&request)).await {
        Err(_) => Err(format!("{method} {url}: no answer within {}s", REQUEST.as_secs())),
        Ok(Err(e)) => Err(e.text),
        Ok(Ok(r)) if (200..300).contains(&r.status) => Ok(String::from_utf8_lossy(&r.body).into_owned()),
        Ok(Ok(r)) => Err(format!("{method} {url}: {}", ibex_core::api::status_text(r.status))),
    }
}

/// Looks up a variable of the environment.
pub(super) type Env<'a> = &'a dyn Fn(&str) -> Option<String>;
