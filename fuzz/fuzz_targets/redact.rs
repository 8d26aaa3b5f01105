//! However a stream is cut, redaction gives the same bytes, and no secret passes (job-runner-and-process §6.3).
#![no_main]

use ibex_core::log::Redactor;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (Vec<String>, Vec<u8>, Vec<u8>)| {
    let (secrets, text, cuts) = input;
    let make = || {
        let mut r = Redactor::new();
        secrets.iter().take(8).for_each(|s| r.add(s));
        r
    };
    let whole = make().redact(&text);
    let mut pieces = Vec::new();
    let mut redactor = make();
    let mut rest = &text[..];
    for cut in cuts {
        let (head, tail) = rest.split_at(usize::from(cut).min(rest.len()));
        redactor.push(head, &mut pieces);
        rest = tail;
    }
    redactor.push(rest, &mut pieces);
    redactor.flush(&mut pieces);
    assert_eq!(whole, pieces, "the cuts must not show");
});
