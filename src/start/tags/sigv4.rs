//! AWS Signature Version 4 of a GET without a body.

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

/// AWS credentials.
pub(super) struct Credentials {
    pub(super) id: String,
    pub(super) secret: String,
    pub(super) session: Option<String>,
}

/// Headers that sign `GET <path>?<query>` at `now`. The query is in canonical order already.
pub(super) fn sign_get(
    credentials: &Credentials,
    region: &str,
    service: &str,
    host: &str,
    path: &str,
    query: &str,
    now: jiff::Timestamp,
) -> Vec<(&'static str, String)> {
    let stamp = now.strftime("%Y%m%dT%H%M%SZ").to_string();
    let day = &stamp[..8];
    let (mut canonical, mut signed) = (format!("host:{host}\nx-amz-date:{stamp}\n"), "host;x-amz-date".to_owned());
    if let Some(session) = &credentials.session {
        canonical.push_str(&format!("x-amz-security-token:{session}\n"));
        signed.push_str(";x-amz-security-token");
    }
    let request = format!("GET\n{path}\n{query}\n{canonical}\n{signed}\n{}", hex(&Sha256::digest(b"")));
    let scope = format!("{day}/{region}/{service}/aws4_request");
    let to_sign = format!("AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{}", hex(&Sha256::digest(request.as_bytes())));
    let mut key = mac(format!("AWS4{}", credentials.secret).as_bytes(), day);
    for part in [region, service, "aws4_request"] {
        key = mac(&key, part);
    }
    let signature = hex(&mac(&key, &to_sign));
    let mut headers = vec![
        ("x-amz-date", stamp.clone()),
        ("authorization", format!("AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={signed}, Signature={signature}", credentials.id)),
    ];
    headers.extend(credentials.session.clone().map(|s| ("x-amz-security-token", s)));
    headers
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    // A key of any length is taken.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return Vec::new() };
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_that_of_the_published_test_suite() {
        // "get-vanilla" of the AWS Signature Version 4 test suite.
        let credentials = Credentials { id: "AKIDEXAMPLE".into(), secret: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".into(), session: None };
        let now = "2015-08-30T12:36:00Z".parse().unwrap();
        let headers = sign_get(&credentials, "us-east-1", "service", "example.amazonaws.com", "/", "", now);
        let authorization = &headers.iter().find(|(n, _)| *n == "authorization").unwrap().1;
        assert!(authorization.ends_with("Signature=5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"), "{authorization}");
    }
}
