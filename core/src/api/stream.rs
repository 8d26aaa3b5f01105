//! The ping stream as bytes: gRPC frames, their messages, and how a stream's end is told (agent-api §8.2, §8.3).
//! Incremental and pure: whatever the split of the bytes, the same messages come out.

use super::types::{GrpcCode, StreamEnd, StreamMessage, TransportError, TransportKind};
use crate::limits;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;

/// Reads one ping stream, from the response's head to its trailers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PingStream {
    /// Bytes of a frame that is not complete.
    pending: BytesMut,
    /// Whether any byte of the body was seen: only an empty body may be "trailers-only".
    body_seen: bool,
    /// Head, for a trailers-only response.
    head: Vec<(String, String)>,
    trailers: Option<Vec<(String, String)>>,
}

impl PingStream {
    /// Judges the head of the response; names of headers are lower case.
    pub fn open(status: u16, headers: &[(String, String)]) -> Result<PingStream, StreamEnd> {
        let content_type = value(headers, "content-type").unwrap_or_default();
        if status != 200 || !matches!(content_type, "application/grpc" | "application/grpc+proto") {
            return Err(from_http(status, content_type));
        }
        Ok(PingStream { pending: BytesMut::new(), body_seen: false, head: headers.to_vec(), trailers: None })
    }

    /// Takes bytes of the body; complete messages are appended to `out`. An error ends the stream.
    pub fn data(&mut self, bytes: &[u8], out: &mut Vec<StreamMessage>) -> Result<(), StreamEnd> {
        self.body_seen |= !bytes.is_empty();
        self.pending.extend_from_slice(bytes);
        while let Some(frame) = self.frame()? {
            let message = PingResponse::decode(frame).map_err(|e| fail(GrpcCode::Internal, format!("undecodable message: {e}")))?;
            out.push(message.into());
        }
        Ok(())
    }

    /// Takes the trailers; names are lower case.
    pub fn trailers(&mut self, trailers: &[(String, String)]) {
        self.trailers = Some(trailers.to_vec());
    }

    /// The body has ended.
    pub fn end(self) -> StreamEnd {
        if !self.pending.is_empty() {
            return fail(GrpcCode::InvalidArgument, "stream ended inside a message");
        }
        match self.trailers {
            Some(trailers) => from_trailers(&trailers),
            None if !self.body_seen => from_trailers(&self.head),
            None => fail(GrpcCode::Internal, "stream ended without a status"),
        }
    }

    fn frame(&mut self) -> Result<Option<Bytes>, StreamEnd> {
        let Some(&[flags, a, b, c, d]) = self.pending.first_chunk::<5>() else { return Ok(None) };
        // Compression was not offered, and all other bits must be 0.
        if flags != 0 {
            return Err(fail(GrpcCode::Internal, format!("unsupported frame flags {flags:#04x}")));
        }
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if length > limits::PING_FRAME_BYTES {
            return Err(fail(GrpcCode::ResourceExhausted, format!("message of {length} bytes is larger than {}", limits::PING_FRAME_BYTES)));
        }
        if self.pending.len() < 5 + length {
            return Ok(None);
        }
        self.pending.advance(5);
        Ok(Some(self.pending.split_to(length).freeze()))
    }
}

/// How a stream ends that broke below HTTP.
pub fn stream_broken(error: &TransportError) -> StreamEnd {
    let code = if error.kind == TransportKind::Timeout { GrpcCode::DeadlineExceeded } else { GrpcCode::Unavailable };
    fail(code, error.text.clone())
}

/// How a stream ends whose client limit has passed.
pub fn stream_deadline() -> StreamEnd {
    fail(GrpcCode::DeadlineExceeded, "context deadline exceeded")
}

/// The one frame of the request.
pub(super) fn encode_ping_request(agent_id: &str) -> Bytes {
    let message = PingRequest { agent_id: agent_id.to_owned() };
    let mut frame = BytesMut::with_capacity(5 + message.encoded_len());
    frame.put_u8(0);
    frame.put_u32(message.encoded_len() as u32);
    message.encode(&mut frame).expect("the buffer grows");
    frame.freeze()
}

/// A response frame carrying `message`; the simulated and the embedded control plane send it.
pub fn encode_ping_response(message: &StreamMessage) -> Bytes {
    let action = match message.clone() {
        StreamMessage::Resume => Action::Resume(ResumeAction {}),
        StreamMessage::Pause { reason } => Action::Pause(ReasonAction { reason }),
        StreamMessage::Disconnect { reason } => Action::Disconnect(ReasonAction { reason }),
        StreamMessage::Job { id } => Action::JobAssigned(JobAssignedAction { job: Some(Job { id: id.to_string() }) }),
    };
    let message = PingResponse { action: Some(action) };
    let mut frame = BytesMut::with_capacity(5 + message.encoded_len());
    frame.put_u8(0);
    frame.put_u32(message.encoded_len() as u32);
    message.encode(&mut frame).expect("the buffer grows");
    frame.freeze()
}

/// Agent id of a request frame, if it is one.
pub fn decode_ping_request(frame: &[u8]) -> Option<String> {
    let (&[0, a, b, c, d], payload) = frame.split_first_chunk::<5>()? else { return None };
    if u32::from_be_bytes([a, b, c, d]) as usize != payload.len() {
        return None;
    }
    PingRequest::decode(payload).ok().map(|r| r.agent_id)
}

fn fail(code: GrpcCode, text: impl Into<String>) -> StreamEnd {
    StreamEnd::Code { code, text: format!("{}: {}", code_name(code), text.into()) }
}

fn from_http(status: u16, content_type: &str) -> StreamEnd {
    let code = match status {
        400 => GrpcCode::Internal,
        401 => GrpcCode::Unauthenticated,
        403 => GrpcCode::PermissionDenied,
        404 => GrpcCode::Unimplemented,
        429 | 502 | 503 | 504 => GrpcCode::Unavailable,
        _ => GrpcCode::Unknown,
    };
    if status == 200 {
        return fail(code, format!("invalid content-type: {content_type:?}"));
    }
    fail(code, format!("HTTP status {}", super::decode::status_text(status)))
}

fn from_trailers(trailers: &[(String, String)]) -> StreamEnd {
    if let Some(status) = value(trailers, "grpc-status-details-bin").and_then(base64).and_then(|b| RpcStatus::decode(&b[..]).ok()) {
        return from_code(u32::try_from(status.code).unwrap_or(2), &status.message);
    }
    let Some(code) = value(trailers, "grpc-status") else { return fail(GrpcCode::Internal, "no grpc-status in the trailers") };
    let Ok(code) = code.trim().parse() else { return fail(GrpcCode::Internal, format!("invalid grpc-status {code:?}")) };
    from_code(code, &percent_decode(value(trailers, "grpc-message").unwrap_or_default()))
}

fn from_code(code: u32, message: &str) -> StreamEnd {
    match code {
        0 => StreamEnd::Clean,
        1 => fail(GrpcCode::Canceled, message),
        2 => fail(GrpcCode::Unknown, message),
        3 => fail(GrpcCode::InvalidArgument, message),
        4 => fail(GrpcCode::DeadlineExceeded, message),
        7 => fail(GrpcCode::PermissionDenied, message),
        8 => fail(GrpcCode::ResourceExhausted, message),
        12 => fail(GrpcCode::Unimplemented, message),
        13 => fail(GrpcCode::Internal, message),
        14 => fail(GrpcCode::Unavailable, message),
        16 => fail(GrpcCode::Unauthenticated, message),
        n => fail(GrpcCode::Other(n), message),
    }
}

fn code_name(code: GrpcCode) -> String {
    match code {
        GrpcCode::Canceled => "canceled".into(),
        GrpcCode::Unknown => "unknown".into(),
        GrpcCode::InvalidArgument => "invalid_argument".into(),
        GrpcCode::DeadlineExceeded => "deadline_exceeded".into(),
        GrpcCode::PermissionDenied => "permission_denied".into(),
        GrpcCode::ResourceExhausted => "resource_exhausted".into(),
        GrpcCode::Unimplemented => "unimplemented".into(),
        GrpcCode::Internal => "internal".into(),
        GrpcCode::Unavailable => "unavailable".into(),
        GrpcCode::Unauthenticated => "unauthenticated".into(),
        GrpcCode::Other(n) => format!("code_{n}"),
    }
}

fn value<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
}

/// `%XX` becomes its byte; anything else stays.
pub(super) fn percent_decode(text: &str) -> String {
    let hex = |b: u8| char::from(b).to_digit(16).map(|d| d as u8);
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let escaped = match bytes.get(i..i + 3) {
            Some(&[b'%', high, low]) => hex(high).zip(hex(low)),
            _ => None,
        };
        match escaped {
            Some((high, low)) => out.push(high << 4 | low),
            None => out.push(bytes[i]),
        }
        i += if escaped.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Standard base64, padded or not.
fn base64(text: &str) -> Option<Vec<u8>> {
    let text = text.trim_end_matches('=').as_bytes();
    let mut out = Vec::with_capacity(text.len() * 3 / 4);
    let (mut bits, mut held) = (0u32, 0u32);
    for &b in text {
        let six = match b {
            b'A'..=b'Z' => b - b'A',
            b'a'..=b'z' => b - b'a' + 26,
            b'0'..=b'9' => b - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(six);
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push((bits >> held) as u8);
        }
    }
    Some(out)
}

#[derive(Clone, PartialEq, Message)]
struct PingRequest {
    #[prost(string, tag = "1")]
    agent_id: String,
}

#[derive(Clone, PartialEq, Message)]
struct PingResponse {
    #[prost(oneof = "Action", tags = "2, 3, 4, 5")]
    action: Option<Action>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Action {
    #[prost(message, tag = "2")]
    Resume(ResumeAction),
    #[prost(message, tag = "3")]
    Pause(ReasonAction),
    #[prost(message, tag = "4")]
    Disconnect(ReasonAction),
    #[prost(message, tag = "5")]
    JobAssigned(JobAssignedAction),
}

#[derive(Clone, PartialEq, Message)]
struct ResumeAction {}

#[derive(Clone, PartialEq, Message)]
struct ReasonAction {
    #[prost(string, tag = "1")]
    reason: String,
}

#[derive(Clone, PartialEq, Message)]
struct JobAssignedAction {
    #[prost(message, optional, tag = "1")]
    job: Option<Job>,
}

#[derive(Clone, PartialEq, Message)]
struct Job {
    #[prost(string, tag = "1")]
    id: String,
}

#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
}

impl From<PingResponse> for StreamMessage {
    fn from(response: PingResponse) -> StreamMessage {
        match response.action {
            None | Some(Action::Resume(_)) => StreamMessage::Resume,
            Some(Action::Pause(a)) => StreamMessage::Pause { reason: a.reason },
            Some(Action::Disconnect(a)) => StreamMessage::Disconnect { reason: a.reason },
            Some(Action::JobAssigned(a)) => StreamMessage::Job { id: a.job.unwrap_or_default().id.into() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn headers(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect()
    }

    fn opened() -> PingStream {
        PingStream::open(200, &headers(&[("content-type", "application/grpc")])).unwrap()
    }

    fn code(end: &StreamEnd) -> GrpcCode {
        match end {
            StreamEnd::Code { code, .. } => *code,
            other => panic!("not a code: {other:?}"),
        }
    }

    #[test]
    fn golden_frames_of_the_specification() {
        let uuid = b"0190a0b0-0000-4000-8000-000000000000";
        let mut wire = vec![0, 0, 0, 0, 2, 0x12, 0];
        wire.extend([0, 0, 0, 0, 2, 0x1a, 0]);
        wire.extend([0, 0, 0, 0, 5, 0x22, 3, 0x0a, 1, 0x78]);
        wire.extend([0, 0, 0, 0, 0x2a, 0x2a, 0x28, 0x0a, 0x26, 0x0a, 0x24]);
        wire.extend(uuid);
        wire.extend([0, 0, 0, 0, 0]);
        let mut got = Vec::new();
        opened().data(&wire, &mut got).unwrap();
        assert_eq!(
            got,
            [
                StreamMessage::Resume,
                StreamMessage::Pause { reason: String::new() },
                StreamMessage::Disconnect { reason: "x".into() },
                StreamMessage::Job { id: "0190a0b0-0000-4000-8000-000000000000".into() },
                StreamMessage::Resume,
            ]
        );
        let again: Vec<u8> = got[..4].iter().flat_map(encode_ping_response).collect();
        assert_eq!(again, wire[..wire.len() - 5]);
    }

    #[test]
    fn http_statuses_map_to_codes() {
        use GrpcCode::*;
        let table = [(400, Internal), (401, Unauthenticated), (403, PermissionDenied), (404, Unimplemented), (418, Unknown), (500, Unknown)];
        for (status, want) in table.into_iter().chain([429, 502, 503, 504].map(|s| (s, Unavailable))) {
            assert_eq!(code(&PingStream::open(status, &[]).unwrap_err()), want, "{status}");
        }
        let html = headers(&[("content-type", "text/html")]);
        assert_eq!(code(&PingStream::open(200, &html).unwrap_err()), Unknown);
        assert!(PingStream::open(200, &headers(&[("content-type", "application/grpc+proto")])).is_ok());
    }

    #[test]
    fn the_end_is_read_from_trailers_details_or_head() {
        let mut clean = opened();
        clean.trailers(&headers(&[("grpc-status", "0")]));
        assert_eq!(clean.end(), StreamEnd::Clean);

        let mut message = opened();
        message.trailers(&headers(&[("grpc-status", "7"), ("grpc-message", "no%20way")]));
        assert_eq!(message.end(), StreamEnd::Code { code: GrpcCode::PermissionDenied, text: "permission_denied: no way".into() });

        // code 14, message "x": wins over the header.
        let mut details = opened();
        details.trailers(&headers(&[("grpc-status", "0"), ("grpc-status-details-bin", "CA4SAXg")]));
        assert_eq!(details.end(), StreamEnd::Code { code: GrpcCode::Unavailable, text: "unavailable: x".into() });

        let only = PingStream::open(200, &headers(&[("content-type", "application/grpc"), ("grpc-status", "16")])).unwrap();
        assert_eq!(code(&only.end()), GrpcCode::Unauthenticated);
        assert_eq!(code(&opened().end()), GrpcCode::Internal);
    }

    #[test]
    fn broken_streams_have_codes_too() {
        let mut cut = opened();
        cut.data(&[0, 0, 0], &mut Vec::new()).unwrap();
        assert_eq!(code(&cut.end()), GrpcCode::InvalidArgument);
        assert_eq!(code(&opened().data(&[1, 0, 0, 0, 0], &mut Vec::new()).unwrap_err()), GrpcCode::Internal);
        assert_eq!(code(&opened().data(&[0, 255, 0, 0, 0], &mut Vec::new()).unwrap_err()), GrpcCode::ResourceExhausted);
        let timeout = TransportError { kind: TransportKind::Timeout, text: String::new() };
        assert_eq!(code(&stream_broken(&timeout)), GrpcCode::DeadlineExceeded);
        let refused = TransportError { kind: TransportKind::Refused, text: String::new() };
        assert_eq!(code(&stream_broken(&refused)), GrpcCode::Unavailable);
    }

    #[test]
    fn request_frames_read_back() {
        assert_eq!(decode_ping_request(&encode_ping_request("abc")).as_deref(), Some("abc"));
        assert_eq!(decode_ping_request(b"\0\0\0\0\x09abc"), None);
    }

    proptest! {
        #[test]
        fn any_split_of_the_bytes_yields_the_same_messages(
            reasons in proptest::collection::vec("[a-z]{0,40}", 1..8),
            cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..10),
        ) {
            let want: Vec<StreamMessage> = reasons.into_iter().map(|reason| StreamMessage::Pause { reason }).collect();
            let wire: Vec<u8> = want.iter().flat_map(encode_ping_response).collect();
            let mut cuts: Vec<usize> = cuts.iter().map(|c| c.index(wire.len())).collect();
            cuts.extend([0, wire.len()]);
            cuts.sort_unstable();
            let (mut stream, mut got) = (opened(), Vec::new());
            for pair in cuts.windows(2) {
                stream.data(&wire[pair[0]..pair[1]], &mut got).unwrap();
            }
            prop_assert_eq!(got, want);
        }
    }
}
