//! The client of the Job API, a socket of the job's executor (specification: commands §10): HTTP/1.1 over a Unix socket, one
//! request per connection, no retry.

use std::io::{Read, Write};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;

/// A Job API that answers connections.
pub(crate) struct JobApi {
    socket: String,
    token: String,
}

impl JobApi {
    /// The Job API that this process's environment names; the error is the reason alone.
    pub(crate) fn from_env(env: &dyn Fn(&str) -> Option<String>) -> Result<JobApi, String> {
        let var = |name: &str| env(name).filter(|v| !v.is_empty()).ok_or_else(|| format!("{name} empty or undefined"));
        let api = JobApi { socket: var("BUILDKITE_AGENT_JOB_API_SOCKET")?, token: var("BUILDKITE_AGENT_JOB_API_TOKEN")? };
        let meta = std::fs::metadata(&api.socket).map_err(|e| format!("stat socket: {e}"))?;
        if !meta.file_type().is_socket() {
            return Err(format!("{:?} is not a socket", api.socket));
        }
        UnixStream::connect(&api.socket).map_err(|e| format!("socket test connection: {e}"))?;
        Ok(api)
    }

    /// Makes one request below `/api/current-job/v0`; gives the body of the answer.
    pub(crate) fn call(&self, method: &str, path: &str, body: Option<&serde_json::Value>) -> Result<serde_json::Value, String> {
        let body = body.map(serde_json::Value::to_string).unwrap_or_default();
        let mut stream = UnixStream::connect(&self.socket).map_err(|e| e.to_string())?;
        let head = format!(
            "{method} /api/current-job/v0{path} HTTP/1.1\r\nHost: job\r\nAuthorization: Bearer {}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            self.token,
            body.len()
        );
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes())).map_err(|e| e.to_string())?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).map_err(|e| e.to_string())?;
        let (status, body) = parse(&answer).ok_or("the answer is no HTTP response")?;
        let json: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        if status >= 400 {
            let error = json.get("error").and_then(|e| e.as_str()).unwrap_or_default();
            return Err(format!("API status {status}: {error}"));
        }
        Ok(json)
    }

    /// Adds `text` to what the executor masks in the job's output.
    pub(crate) fn redact(&self, text: &str) -> Result<(), String> {
        self.call("POST", "/redactions", Some(&serde_json::json!({ "redact": text }))).map(|_| ())
    }
}

/// Status and body of a whole response.
fn parse(answer: &[u8]) -> Option<(u16, Vec<u8>)> {
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let body = &answer[end + 4..];
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let chunked = head.lines().any(|l| l.to_ascii_lowercase().replace(' ', "") == "transfer-encoding:chunked");
    Some((status, if chunked { dechunk(body)? } else { body.to_vec() }))
}

fn dechunk(mut body: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    loop {
        let line = body.windows(2).position(|w| w == b"\r\n")?;
        let size = std::str::from_utf8(&body[..line]).ok()?.split(';').next()?.trim();
        let size = usize::from_str_radix(size, 16).ok()?;
        body = &body[line + 2..];
        if size == 0 {
            return Some(out);
        }
        out.extend_from_slice(body.get(..size)?);
        body = body.get(size + 2..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::BufRead;
    use std::os::unix::net::UnixListener;

    #[test]
    fn responses_are_read_with_and_without_chunks() {
        assert_eq!(parse(b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\n{}"), Some((201, b"{}".to_vec())));
        assert_eq!(parse(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n"), Some((200, b"{}".to_vec())));
        assert_eq!(parse(b"nonsense"), None);
    }

    #[test]
    fn without_a_socket_the_reason_is_told() {
        let reason = |env: &[(&str, &str)]| JobApi::from_env(&|n| env.iter().find(|(k, _)| *k == n).map(|(_, v)| (*v).to_owned())).err().unwrap();
        assert_eq!(reason(&[]), "BUILDKITE_AGENT_JOB_API_SOCKET empty or undefined");
        assert_eq!(reason(&[("BUILDKITE_AGENT_JOB_API_SOCKET", "/s")]), "BUILDKITE_AGENT_JOB_API_TOKEN empty or undefined");
        let both = |path: &str| reason(&[("BUILDKITE_AGENT_JOB_API_SOCKET", path), ("BUILDKITE_AGENT_JOB_API_TOKEN", "t")]);
        assert!(both("/nowhere/s").starts_with("stat socket: "));
        assert_eq!(both("/"), "\"/\" is not a socket");
    }

    #[test]
    fn a_redaction_is_posted_with_the_token_and_a_refusal_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let server = std::thread::spawn(move || {
            let mut seen = Vec::new();
            // The first connection is the trial.
            for answer in ["", "HTTP/1.1 201 Created\r\n\r\n{\"redacted\":\"x\"}", "HTTP/1.1 422 Unprocessable Entity\r\n\r\n{\"error\":\"no\"}"] {
                let (mut stream, _) = listener.accept().unwrap();
                if answer.is_empty() {
                    continue;
                }
                let mut reader = std::io::BufReader::new(stream.try_clone().unwrap());
                let (mut head, mut length) = (String::new(), 0);
                loop {
                    let mut line = String::new();
                    reader.read_line(&mut line).unwrap();
                    if let Some(n) = line.strip_prefix("Content-Length: ") {
                        length = n.trim().parse().unwrap();
                    }
                    if line == "\r\n" {
                        break;
                    }
                    head.push_str(&line);
                }
                let mut body = vec![0; length];
                reader.read_exact(&mut body).unwrap();
                seen.push((head, String::from_utf8(body).unwrap()));
                stream.write_all(answer.as_bytes()).unwrap();
            }
            seen
        });
        let path = path.to_string_lossy().into_owned();
        let env = |n: &str| Some(if n.ends_with("SOCKET") { path.clone() } else { "tok".to_owned() });
        let api = JobApi::from_env(&env).unwrap();
        assert_eq!(api.redact("x"), Ok(()));
        assert_eq!(api.redact("y"), Err("API status 422: no".to_owned()));
        let seen = server.join().unwrap();
        assert!(seen[0].0.starts_with("POST /api/current-job/v0/redactions HTTP/1.1\r\n") && seen[0].0.contains("Authorization: Bearer tok\r\n"));
        assert_eq!(seen[0].1, "{\"redact\":\"x\"}");
    }
}
