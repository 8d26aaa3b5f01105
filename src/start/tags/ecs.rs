//! Tags of an ECS task, from the container metadata service.

use super::fetch::{Env, Fetch};
use serde_json::Value;

/// Asks the metadata service that the environment names.
pub(super) async fn meta_data(fetch: &Fetch, env: Env<'_>) -> Result<Vec<String>, String> {
    let v4 = env("ECS_CONTAINER_METADATA_URI_V4").filter(|u| !u.is_empty());
    let is_v4 = v4.is_some();
    let Some(uri) = v4.or_else(|| env("ECS_CONTAINER_METADATA_URI").filter(|u| !u.is_empty())) else {
        return Err("neither ECS_CONTAINER_METADATA_URI_V4 nor ECS_CONTAINER_METADATA_URI is set; is this an ECS task?".into());
    };
    let task = fetch.object(&format!("{uri}/task"), &[]).await?;
    let container = fetch.object(&uri, &[]).await?;
    Ok(tags(&task, &container, is_v4))
}

fn tags(task: &Value, container: &Value, v4: bool) -> Vec<String> {
    let text = |v: &Value, key: &str| v.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let limit = |key: &str| {
        let of = |v: &Value| v.get("Limits").and_then(|l| l.get(key)).and_then(Value::as_f64).filter(|n| *n != 0.0);
        of(task).or_else(|| of(container))
    };
    let mut tags = vec![format!("ecs:task-arn={}", text(task, "TaskARN"))];
    tags.extend(limit("CPU").map(|n| format!("ecs:cpu-limit={n}")));
    tags.extend(limit("Memory").map(|n| format!("ecs:memory-limit={n}")));
    tags.push(format!("ecs:container-name={}", text(container, "DockerName")));
    tags.push(format!("ecs:image={}", text(container, "Image")));
    if v4 {
        tags.push(format!("ecs:launch-type={}", text(task, "LaunchType")));
        let zone = text(task, "AvailabilityZone");
        if zone != "true" {
            tags.push(format!("ecs:availability-zone={zone}"));
        }
    }
    tags
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn limits_are_left_out_when_zero_and_version_4_tells_more() {
        let task = json!({"TaskARN": "arn:1", "Limits": {"CPU": 0.25, "Memory": 512}, "LaunchType": "FARGATE", "AvailabilityZone": "us-1a"});
        let container = json!({"DockerName": "c", "Image": "i:1"});
        assert_eq!(
            tags(&task, &container, true),
            [
                "ecs:task-arn=arn:1",
                "ecs:cpu-limit=0.25",
                "ecs:memory-limit=512",
                "ecs:container-name=c",
                "ecs:image=i:1",
                "ecs:launch-type=FARGATE",
                "ecs:availability-zone=us-1a"
            ]
        );
        let task = json!({"TaskARN": "arn:1", "Limits": {"CPU": 0}, "AvailabilityZone": "true"});
        assert_eq!(tags(&task, &container, false), ["ecs:task-arn=arn:1", "ecs:container-name=c", "ecs:image=i:1"]);
    }
}
