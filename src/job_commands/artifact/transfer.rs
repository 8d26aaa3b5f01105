//! Moving bytes to hosted storage (artifacts §9, §10). Storage never sees the agent's credential and has no time limit.

use super::collect::Artifact;
use crate::api::Client;
use ibex_core::api::{RawRequest, RequestHeaders, status_text};
use ibex_core::artifact::{Part, parts};
use ibex_io::tokio::{Body, Piece, Storage};
use serde::Deserialize;
use std::collections::BTreeMap;

/// What the control plane says of a transfer (agent-api §13.1).
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Instructions {
    #[serde(default)]
    data: Option<BTreeMap<String, String>>,
    #[serde(default)]
    action: Option<Action>,
    #[serde(default)]
    pub(super) actions: Option<Vec<Action>>,
}

/// One request to make.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Action {
    #[serde(default)]
    url: String,
    #[serde(default)]
    method: String,
    #[serde(default)]
    path: String,
    #[serde(default)]
    file_input: String,
    #[serde(default)]
    pub(super) part_number: u64,
}

/// One request to storage.
#[derive(Clone, Debug)]
pub(super) enum Unit {
    Form { data: BTreeMap<String, String>, action: Action },
    Part { number: u64, of: usize, action: Action, range: Part },
}

/// The units of one artifact, parts in order.
pub(super) fn units(artifact: &Artifact, instructions: &Instructions) -> Result<Vec<Unit>, String> {
    if let Some(actions) = instructions.actions.as_ref().filter(|a| !a.is_empty()) {
        let mut actions = actions.clone();
        actions.sort_by_key(|a| a.part_number);
        let ranges = parts(artifact.size, actions.len() as u64);
        let of = actions.len();
        return Ok(actions.into_iter().zip(ranges).map(|(action, range)| Unit::Part { number: action.part_number, of, action, range }).collect());
    }
    let action = instructions.action.clone().ok_or("the control plane gave no upload instructions")?;
    Ok(vec![Unit::Form { data: instructions.data.clone().unwrap_or_default(), action }])
}

/// Makes the request of one unit. The value is the ETag of a part.
pub(super) async fn send(client: &Client, storage: &Storage, artifact: &Artifact, unit: &Unit) -> Result<Option<String>, String> {
    let (request, body) = match unit {
        Unit::Form { data, action } => form(client, artifact, data, action)?,
        Unit::Part { action, range, .. } => {
            let body = Body::of(vec![Piece::File { path: artifact.absolute.clone().into(), offset: range.offset, len: range.size }]);
            (request(client, &action.method, action.url.clone(), artifact.content_type.clone(), body.len())?, body)
        }
    };
    let response = client.observed(&request, storage.send(&request, body)).await.map_err(|e| e.text)?;
    let text = || String::from_utf8_lossy(&response.body).into_owned();
    let good = (200..300).contains(&response.status);
    match unit {
        Unit::Form { .. } if good => Ok(None),
        Unit::Form { .. } => Err(format!("{} ({})", text(), status_text(response.status))),
        Unit::Part { .. } if !good => Err(format!("unsuccessful status {}: {}", status_text(response.status), text())),
        Unit::Part { .. } => match response.headers.iter().find(|(n, v)| n == "etag" && !v.is_empty()) {
            Some((_, etag)) => Ok(Some(etag.clone())),
            None => Err("response missing ETag header".to_owned()),
        },
    }
}

fn request(client: &Client, method: &str, url: String, content_type: String, len: u64) -> Result<RawRequest, String> {
    let method = match method.to_ascii_uppercase().as_str() {
        "PUT" => "PUT",
        "POST" => "POST",
        other => return Err(format!("the control plane asks for the method {other:?}, which no storage takes")),
    };
    let headers = vec![("user-agent", client.user_agent().to_owned()), ("content-type", content_type), ("content-length", len.to_string())];
    Ok(RawRequest { method, url, headers, extra_headers: RequestHeaders::default(), body: None })
}

/// One multipart form: the fields, then the file last. The length is exact, so nothing is sent in chunks.
fn form(client: &Client, artifact: &Artifact, data: &BTreeMap<String, String>, action: &Action) -> Result<(RawRequest, Body), String> {
    let boundary = format!("ibex-{}", client.uuid());
    let mut head = String::new();
    for (name, value) in data {
        let value = value.replace("${artifact:path}", &artifact.path);
        head += &format!("--{boundary}\r\nContent-Disposition: form-data; name=\"{}\"\r\n\r\n{value}\r\n", quoted(name));
    }
    head += &format!(
        "--{boundary}\r\nContent-Disposition: form-data; name=\"{}\"; filename=\"{}\"\r\nContent-Type: application/octet-stream\r\n\r\n",
        quoted(&action.file_input),
        quoted(&artifact.path)
    );
    let tail = format!("\r\n--{boundary}--\r\n");
    let file = Piece::File { path: artifact.absolute.clone().into(), offset: 0, len: artifact.size };
    let body = Body::of(vec![Piece::Bytes(head.into()), file, Piece::Bytes(tail.into())]);
    let url = with_path(&action.url, &action.path);
    Ok((request(client, &action.method, url, format!("multipart/form-data; boundary={boundary}"), body.len())?, body))
}

fn quoted(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"")
}

/// The URL with its path replaced; scheme, host and query stay.
fn with_path(url: &str, path: &str) -> String {
    let origin_end = url.find("://").map_or(0, |i| i + 3);
    let path_start = url[origin_end..].find(['/', '?', '#']).map_or(url.len(), |i| origin_end + i);
    let query = url[path_start..].find(['?', '#']).map_or("", |i| &url[path_start + i..]);
    let slash = if path.starts_with('/') { "" } else { "/" };
    format!("{}{slash}{path}{query}", &url[..path_start])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_of_the_form_url_is_replaced() {
        assert_eq!(with_path("https://s/ignored?s=1", "bucket"), "https://s/bucket?s=1");
        assert_eq!(with_path("https://s", "/b"), "https://s/b");
    }

    #[test]
    fn parts_come_in_order_with_their_ranges() {
        let artifact =
            Artifact { path: "p".into(), absolute: "/p".into(), size: 10, sha1: String::new(), sha256: String::new(), content_type: String::new() };
        let action = |n| Action { part_number: n, ..Action::default() };
        let instructions = Instructions { actions: Some(vec![action(3), action(1), action(2)]), ..Instructions::default() };
        let got: Vec<(u64, u64, u64)> = units(&artifact, &instructions)
            .unwrap()
            .iter()
            .map(|u| match u {
                Unit::Part { number, range, .. } => (*number, range.offset, range.size),
                Unit::Form { .. } => unreachable!("only parts"),
            })
            .collect();
        assert_eq!(got, [(1, 0, 4), (2, 4, 3), (3, 7, 3)]);
        assert!(units(&artifact, &Instructions::default()).is_err());
    }
}
