//! Tags of an EC2 instance: meta-data through IMDSv2, and the instance's own tags through the EC2 API.

use super::fetch::{Env, Fetch, object};
use super::sigv4::{self, Credentials};

/// Address of the instance metadata service; `AWS_EC2_METADATA_SERVICE_ENDPOINT` replaces it.
const IMDS: &str = "http://169.254.169.254";

/// An open session with the metadata service.
struct Imds<'a> {
    fetch: &'a Fetch,
    base: String,
    token: String,
}

impl<'a> Imds<'a> {
    async fn open(fetch: &'a Fetch, env: Env<'_>) -> Result<Imds<'a>, String> {
        let base = env("AWS_EC2_METADATA_SERVICE_ENDPOINT").filter(|e| !e.is_empty()).unwrap_or_else(|| IMDS.to_owned());
        let base = base.trim_end_matches('/').to_owned();
        let ttl = [("x-aws-ec2-metadata-token-ttl-seconds", "300".to_owned()), ("content-length", "0".to_owned())];
        let token = fetch.text("PUT", &format!("{base}/latest/api/token"), &ttl).await?;
        Ok(Imds { fetch, base, token })
    }

    async fn get(&self, path: &str) -> Result<String, String> {
        self.fetch.text("GET", &format!("{}/latest/{path}", self.base), &[("x-aws-ec2-metadata-token", self.token.clone())]).await
    }

    async fn json(&self, path: &str) -> Result<serde_json::Value, String> {
        object(&format!("{}/latest/{path}", self.base), &self.get(path).await?)
    }
}

/// The default tags of the instance.
pub(super) async fn meta_data(fetch: &Fetch, env: Env<'_>) -> Result<Vec<String>, String> {
    let imds = Imds::open(fetch, env).await?;
    let document = imds.json("dynamic/instance-identity/document").await?;
    let mut tags: Vec<String> = [
        ("account-id", "accountId"),
        ("ami-id", "imageId"),
        ("architecture", "architecture"),
        ("availability-zone", "availabilityZone"),
        ("instance-id", "instanceId"),
        ("instance-type", "instanceType"),
        ("region", "region"),
    ]
    .iter()
    .map(|(tag, key)| format!("aws:{tag}={}", document.get(*key).and_then(|v| v.as_str()).unwrap_or_default()))
    .collect();
    if let Ok(life_cycle) = imds.get("meta-data/instance-life-cycle").await {
        tags.push(format!("aws:instance-life-cycle={}", life_cycle.trim()));
    }
    Ok(tags)
}

/// Chosen paths of the meta-data; one try each, the first error ends it.
pub(super) async fn paths(fetch: &Fetch, env: Env<'_>, pairs: &[(String, String)]) -> Result<Vec<String>, String> {
    let imds = Imds::open(fetch, env).await?;
    let mut tags = Vec::new();
    for (name, path) in pairs {
        tags.push(format!("{name}={}", imds.get(&format!("meta-data/{path}")).await?));
    }
    Ok(tags)
}

/// The tags that the instance has in EC2. None at all counts as a failure: they may not be there yet.
pub(super) async fn tags(fetch: &Fetch, env: Env<'_>) -> Result<Vec<String>, String> {
    let imds = Imds::open(fetch, env).await?;
    let instance = imds.get("meta-data/instance-id").await?;
    let region = match env("AWS_REGION").or_else(|| env("AWS_DEFAULT_REGION")).filter(|r| !r.is_empty()) {
        Some(region) => region,
        None => imds.get("meta-data/placement/region").await?,
    };
    let credentials = credentials(&imds, env).await?;
    let endpoint = env("AWS_ENDPOINT_URL_EC2").filter(|e| !e.is_empty()).unwrap_or_else(|| format!("https://ec2.{region}.amazonaws.com"));
    let query = format!("Action=DescribeTags&Filter.1.Name=resource-id&Filter.1.Value.1={}&Version=2016-11-15", instance.trim());
    let now = jiff::Timestamp::now();
    let headers = sigv4::sign_get(&credentials, &region, "ec2", host_of(&endpoint), "/", &query, now);
    let answer = fetch.api(&format!("{}/?{query}", endpoint.trim_end_matches('/')), &headers).await?;
    let tags = described_tags(&answer);
    if tags.is_empty() { Err("EC2 tags are empty".into()) } else { Ok(tags) }
}

fn host_of(url: &str) -> &str {
    url.split_once("://").map_or(url, |(_, rest)| rest).split('/').next().unwrap_or_default()
}

async fn credentials(imds: &Imds<'_>, env: Env<'_>) -> Result<Credentials, String> {
    if let (Some(id), Some(secret)) = (env("AWS_ACCESS_KEY_ID"), env("AWS_SECRET_ACCESS_KEY")) {
        return Ok(Credentials { id, secret, session: env("AWS_SESSION_TOKEN") });
    }
    let roles = imds.get("meta-data/iam/security-credentials/").await?;
    let role =
        roles.lines().next().map(str::trim).filter(|r| !r.is_empty()).ok_or("the instance has no role and the environment no AWS credentials")?;
    let json = imds.json(&format!("meta-data/iam/security-credentials/{role}")).await?;
    let text = |key: &str| json.get(key).and_then(|v| v.as_str()).map(str::to_owned);
    match (text("AccessKeyId"), text("SecretAccessKey")) {
        (Some(id), Some(secret)) => Ok(Credentials { id, secret, session: text("Token") }),
        _ => Err(format!("the credentials of the role {role} are incomplete")),
    }
}

/// `key=value` of every item of a DescribeTags answer.
fn described_tags(xml: &str) -> Vec<String> {
    let inner = |item: &str, tag: &str| -> Option<String> {
        let start = item.find(&format!("<{tag}>"))? + tag.len() + 2;
        let end = start + item[start..].find(&format!("</{tag}>"))?;
        Some(unescape(&item[start..end]))
    };
    xml.split("<item>").skip(1).filter_map(|item| Some(format!("{}={}", inner(item, "key")?, inner(item, "value").unwrap_or_default()))).collect()
}

fn unescape(text: &str) -> String {
    text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&apos;", "'").replace("&amp;", "&")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_read_from_the_answer() {
        let xml = "<DescribeTagsResponse><tagSet><item><resourceId>i-1</resourceId><key>Name</key><value>a &amp; b</value></item><item><key>queue</key><value/></item></tagSet></DescribeTagsResponse>";
        assert_eq!(described_tags(xml), ["Name=a & b", "queue="]);
        assert_eq!(described_tags("<tagSet/>"), [""; 0]);
    }
}
