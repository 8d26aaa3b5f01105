//! Meta-data and annotations (agent-api §11, §12).

use super::route::{Answer, Refusal, body, json, no_content};
use super::{Plane, PlaneRequest};
use crate::limits::{PLANE_ANNOTATION_BYTES, PLANE_ANNOTATIONS, PLANE_META_DATA_BYTES, PLANE_META_DATA_KEYS};
use serde::Deserialize;
use serde_json::json;

#[derive(Deserialize)]
struct Item {
    key: String,
    #[serde(default)]
    value: String,
}

#[derive(Deserialize)]
struct Batch {
    items: Vec<Item>,
}

#[derive(Deserialize)]
struct AnnotationRequest {
    #[serde(default)]
    body: String,
    #[serde(default)]
    context: String,
    #[serde(default)]
    style: String,
    #[serde(default)]
    append: bool,
    priority: Option<i64>,
    #[serde(default)]
    scope: String,
}

impl Plane {
    /// The calls under `jobs/{job}/data`.
    pub(super) fn job_data(&mut self, job: usize, what: &str, request: &PlaneRequest) -> Answer {
        let build = self.running(job)?;
        match what {
            "set" => {
                let item = body(request)?;
                self.set_data(build, vec![item])
            }
            "set-batch" => {
                let batch: Batch = body(request)?;
                self.set_data(build, batch.items)
            }
            _ => self.read_data(build, what, request),
        }
    }

    fn running(&self, job: usize) -> Result<usize, Refusal> {
        let j = &self.jobs[job];
        if j.state.is_active() { Ok(j.build) } else { Err(Refusal::unprocessable("the job is not running")) }
    }

    /// All or nothing; the last writer wins.
    fn set_data(&mut self, build: usize, items: Vec<Item>) -> Answer {
        let data = &mut self.builds[build].meta_data;
        for item in &items {
            if item.key.trim().is_empty() {
                return Err(Refusal::unprocessable("a meta-data key must not be empty"));
            }
            if item.value.len() > PLANE_META_DATA_BYTES {
                return Err(Refusal::unprocessable(format!("the value of `{}` has more than {PLANE_META_DATA_BYTES} bytes", item.key)));
            }
        }
        if data.len() + items.len() > PLANE_META_DATA_KEYS {
            return Err(Refusal::unprocessable(format!("a build has at most {PLANE_META_DATA_KEYS} meta-data keys")));
        }
        data.extend(items.into_iter().map(|i| (i.key, i.value)));
        no_content()
    }

    /// `get`, `exists`, `keys`.
    pub(super) fn read_data(&self, build: usize, what: &str, request: &PlaneRequest) -> Answer {
        let data = &self.builds[build].meta_data;
        if what == "keys" {
            return json(200, &data.keys().collect::<Vec<_>>());
        }
        let item: Item = body(request)?;
        match (what, data.get(&item.key)) {
            ("exists", value) => json(200, &json!({"exists": value.is_some()})),
            ("get", Some(value)) => json(200, &json!({"key": item.key, "value": value})),
            ("get", None) => Err(Refusal(404, "No key found".into())),
            _ => Err(Refusal::unknown("endpoint")),
        }
    }

    /// `POST jobs/{job}/annotations`
    pub(super) fn annotate(&mut self, job: usize, request: &PlaneRequest) -> Answer {
        let build = self.running(job)?;
        let new: AnnotationRequest = body(request)?;
        let or = |text: String, default: &str| if text.is_empty() { default.to_owned() } else { text };
        let (scope, context) = (or(new.scope, "build"), or(new.context, "default"));
        let all = &mut self.builds[build].annotations;
        let count: usize = all.values().map(|of_scope| of_scope.len()).sum();
        let known = all.entry(scope).or_default();
        let present = known.get(&context).map_or(0, |a| if new.append { a.body.len() } else { 0 });
        if present + new.body.len() > PLANE_ANNOTATION_BYTES {
            return Err(Refusal::unprocessable(format!("an annotation has at most {PLANE_ANNOTATION_BYTES} bytes")));
        }
        if count >= PLANE_ANNOTATIONS && !known.contains_key(&context) {
            return Err(Refusal::unprocessable(format!("a build has at most {PLANE_ANNOTATIONS} annotations")));
        }
        let annotation = known.entry(context).or_default();
        match new.append {
            true => annotation.body.push_str(&new.body),
            // A style-only update has no body.
            false if !new.body.is_empty() => annotation.body = new.body,
            false => {}
        }
        if !new.style.is_empty() {
            annotation.style = new.style;
        }
        annotation.priority = new.priority.unwrap_or(annotation.priority);
        json(201, &json!({}))
    }

    /// `DELETE jobs/{job}/annotations/{context}`
    pub(super) fn remove_annotation(&mut self, job: usize, context: &str, scope: &str) -> Answer {
        let build = self.running(job)?;
        let scope = if scope.is_empty() { "build" } else { scope };
        match self.builds[build].annotations.get_mut(scope).and_then(|known| known.remove(context)) {
            Some(_) => no_content(),
            None => Err(Refusal::unknown("annotation")),
        }
    }
}
