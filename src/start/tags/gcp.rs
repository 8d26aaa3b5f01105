//! Tags of a Google Cloud instance: meta-data, and labels through the Compute API.

use super::fetch::{Env, Fetch, object};

/// Host of the metadata server; `GCE_METADATA_HOST` replaces it.
const METADATA: &str = "169.254.169.254";
/// The Compute API; `CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE` replaces it.
const COMPUTE: &str = "https://compute.googleapis.com/compute/v1/";

async fn get(fetch: &Fetch, env: Env<'_>, path: &str) -> Result<String, String> {
    let host = env("GCE_METADATA_HOST").filter(|h| !h.is_empty()).unwrap_or_else(|| METADATA.to_owned());
    fetch.text("GET", &format!("http://{host}/computeMetadata/v1/{path}"), &[("metadata-flavor", "Google".to_owned())]).await
}

/// The last part of `projects/1/zones/x`.
fn last(path: &str) -> &str {
    path.trim().rsplit('/').next().unwrap_or_default()
}

/// The default tags of the instance.
pub(super) async fn meta_data(fetch: &Fetch, env: Env<'_>) -> Result<Vec<String>, String> {
    let id = get(fetch, env, "instance/id").await?;
    let name = get(fetch, env, "instance/name").await?;
    let machine_type = get(fetch, env, "instance/machine-type").await?;
    let preemptible = get(fetch, env, "instance/scheduling/preemptible").await?;
    let project = get(fetch, env, "project/project-id").await?;
    let zone = get(fetch, env, "instance/zone").await?;
    let zone = last(&zone);
    Ok(vec![
        format!("gcp:instance-id={id}"),
        format!("gcp:instance-name={name}"),
        format!("gcp:machine-type={}", last(&machine_type)),
        format!("gcp:preemptible={}", preemptible.to_lowercase()),
        format!("gcp:project-id={project}"),
        format!("gcp:zone={zone}"),
        format!("gcp:region={}", region(zone)),
    ])
}

/// A zone without its last `-x`.
fn region(zone: &str) -> &str {
    zone.rsplit_once('-').map_or(zone, |(region, _)| region)
}

/// Chosen paths of the meta-data; one try each, the first error ends it.
pub(super) async fn paths(fetch: &Fetch, env: Env<'_>, pairs: &[(String, String)]) -> Result<Vec<String>, String> {
    let mut tags = Vec::new();
    for (name, path) in pairs {
        tags.push(format!("{name}={}", get(fetch, env, path).await?));
    }
    Ok(tags)
}

/// The labels of the instance. None at all counts as a failure: they may not be there yet.
pub(super) async fn labels(fetch: &Fetch, env: Env<'_>) -> Result<Vec<String>, String> {
    let path = "instance/service-accounts/default/token";
    let token = object(path, &get(fetch, env, path).await?)?;
    let token = token.get("access_token").and_then(|t| t.as_str()).unwrap_or_default();
    let project = get(fetch, env, "project/project-id").await?;
    let zone = get(fetch, env, "instance/zone").await?;
    let name = get(fetch, env, "instance/name").await?;
    let base = env("CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE").filter(|e| !e.is_empty()).unwrap_or_else(|| COMPUTE.to_owned());
    let url = format!("{}/projects/{project}/zones/{}/instances/{name}", base.trim_end_matches('/'), last(&zone));
    let instance = object(&url, &fetch.api(&url, &[("authorization", format!("Bearer {token}"))]).await?)?;
    let labels: Vec<String> = match instance.get("labels").and_then(|l| l.as_object()) {
        Some(labels) => labels.iter().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect(),
        None => Vec::new(),
    };
    if labels.is_empty() { Err("GCP instance labels are empty".into()) } else { Ok(labels) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_and_types_are_the_last_parts() {
        assert_eq!(last("projects/1/zones/europe-west1-b\n"), "europe-west1-b");
        assert_eq!(region("europe-west1-b"), "europe-west1");
    }
}
