//! However the bytes of a ping stream arrive, the same messages come out (agent-api §8.2).
#![no_main]

use ibex_core::api::PingStream;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (Vec<u8>, Vec<u8>)| {
    let (bytes, cuts) = input;
    let headers = [("content-type".to_owned(), "application/grpc".to_owned())];
    let open = || PingStream::open(200, &headers).expect("a stream");
    let mut whole = Vec::new();
    let ended = open().data(&bytes, &mut whole).is_err();
    let (mut pieces, mut stream, mut rest, mut failed) = (Vec::new(), open(), &bytes[..], false);
    for cut in cuts {
        let (head, tail) = rest.split_at(usize::from(cut).min(rest.len()));
        failed = failed || stream.data(head, &mut pieces).is_err();
        rest = tail;
        if failed {
            break;
        }
    }
    if !failed {
        failed = stream.data(rest, &mut pieces).is_err();
    }
    assert_eq!((whole, ended), (pieces, failed));
});
