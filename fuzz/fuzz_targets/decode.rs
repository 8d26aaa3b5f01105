//! No answer of a server can make decoding panic, and a JSON answer is never quoted (agent-api §3).
#![no_main]

use ibex_core::api::{Operation, Outcome, RawRequest, RawResponse, RequestHeaders, decode};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, u16, String, Vec<u8>)| {
    let (which, status, content_type, body) = input;
    let operation = match which % 5 {
        0 => Operation::Ping,
        1 => Operation::Accept { job: "j".into() },
        2 => Operation::JobState { job: "j".into() },
        3 => Operation::Heartbeat { sent_at: "t".into() },
        _ => Operation::Register(Box::default()),
    };
    let request = RawRequest { method: "GET", url: "http://h/v3/x".into(), headers: Vec::new(), extra_headers: RequestHeaders::default(), body: None };
    let response = RawResponse { status, headers: vec![("content-type".into(), content_type)], body: body.into(), url: "http://h/v3/x".into() };
    let outcome = decode(&operation, &request, Ok(response));
    assert_eq!(matches!(outcome, Outcome::Status(_)), !(200..300).contains(&status));
});
