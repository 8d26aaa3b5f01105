//! Values that are an argument or, without one, all of standard input.

use crate::cli::{Failure, Invocation};
use crate::log::Logger;
use std::io::Read;
use std::os::unix::fs::FileTypeExt;

/// The argument at `index` if that many were given (even if empty), else standard input after the INFO line `said`.
pub(super) fn argument_or_stdin(call: &Invocation, index: usize, log: &Logger, said: &str) -> Result<String, Failure> {
    match call.positionals.get(index) {
        Some(value) => Ok(value.clone()),
        None => {
            log.info(said);
            stdin()
        }
    }
}

/// All of standard input, byte for byte; what is no UTF-8 becomes U+FFFD, one for each bad byte (commands §8).
pub(super) fn stdin() -> Result<String, Failure> {
    let mut bytes = Vec::new();
    std::io::stdin().lock().read_to_end(&mut bytes).map_err(|e| Failure::Fatal(format!("failed to read from STDIN: {e}")))?;
    Ok(lossy(&bytes))
}

/// Whether standard input is a pipe, a file or a socket: anything but a terminal or the null device.
pub(super) fn stdin_is_data() -> bool {
    std::fs::metadata("/dev/stdin").is_ok_and(|m| !m.file_type().is_char_device())
}

fn lossy(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        out.push_str(chunk.valid());
        out.extend(std::iter::repeat_n('\u{fffd}', chunk.invalid().len()));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bad_byte_becomes_one_replacement_character() {
        assert_eq!(lossy(b"a\xffb\xe2\x82c"), "a\u{fffd}b\u{fffd}\u{fffd}c");
        assert_eq!(lossy("süß\n".as_bytes()), "süß\n");
    }
}
