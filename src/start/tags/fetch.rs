//! Small requests to metadata services, and trying them again.

use ibex_core::api::RawRequest;
use ibex_core::rng::Rng;
use ibex_io::tokio::Http;
use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

/// Tries of a source (start-flags §5).
const TRIES: u32 = 5;
/// Limit of one request: a metadata service is on the same machine or does not exist.
const REQUEST: Duration = Duration::from_secs(5);

/// Makes requests.
pub(super) struct Fetch {
    http: Http,
    rng: RefCell<Rng>,
}

impl Fetch {
    pub(super) fn new() -> Fetch {
        Fetch { http: Http::new(false), rng: RefCell::new(Rng::from_bytes(crate::api::seed())) }
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

    /// The body of a 2xx; everything else is an error that names the URL.
    pub(super) async fn text(&self, method: &'static str, url: &str, headers: &[(&'static str, String)]) -> Result<String, String> {
        let request = RawRequest {
            method,
            url: url.to_owned(),
            headers: headers.to_vec(),
            extra_headers: Arc::default(),
            body: (method != "GET").then(Default::default),
        };
        match tokio::time::timeout(REQUEST, self.http.exchange(&request)).await {
            Err(_) => Err(format!("{method} {url}: no answer within {}s", REQUEST.as_secs())),
            Ok(Err(e)) => Err(e.text),
            Ok(Ok(r)) if (200..300).contains(&r.status) => Ok(String::from_utf8_lossy(&r.body).into_owned()),
            Ok(Ok(r)) => Err(format!("{method} {url}: {}", ibex_core::api::status_text(r.status))),
        }
    }

    /// The JSON body of a 2xx.
    pub(super) async fn json(&self, method: &'static str, url: &str, headers: &[(&'static str, String)]) -> Result<serde_json::Value, String> {
        let text = self.text(method, url, headers).await?;
        serde_json::from_str(&text).map_err(|e| format!("{method} {url}: the answer is no JSON: {e}"))
    }
}

/// Looks up a variable of the environment.
pub(super) type Env<'a> = &'a dyn Fn(&str) -> Option<String>;
