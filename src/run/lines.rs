//! Log bytes to lines for people: timestamps taken out, carriage returns acted on, colours only where they are wanted.

/// Bytes without a line end after which a line is shown as it is.
const LINE_BYTES: usize = 64 * 1024;

/// Cuts the log of one job into lines.
#[derive(Debug, Default)]
pub(super) struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    /// Takes bytes and gives the lines that are complete by now.
    pub(super) fn push(&mut self, data: &[u8], plain: bool) -> Vec<String> {
        self.rest.extend_from_slice(data);
        let mut lines = Vec::new();
        while let Some(end) = self.rest.iter().position(|b| *b == b'\n').or((self.rest.len() > LINE_BYTES).then_some(LINE_BYTES)) {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            lines.push(show(&line, plain));
        }
        lines
    }

    /// What is left at the end of the job, if anything.
    pub(super) fn finish(&mut self, plain: bool) -> Option<String> {
        let rest = std::mem::take(&mut self.rest);
        let line = show(&rest, plain);
        (!line.is_empty()).then_some(line)
    }
}

/// One line as a terminal would leave it: what follows the last carriage return stays.
fn show(line: &[u8], plain: bool) -> String {
    let line = strip(line, plain);
    let line = line.trim_end_matches(['\n', '\r']);
    line.rsplit('\r').next().unwrap_or_default().to_owned()
}

/// Takes out `ESC _ … BEL` (timestamps, and whatever else is told to the control plane that way); for plain output all other escape
/// sequences and control characters, too.
fn strip(line: &[u8], plain: bool) -> String {
    let mut out = Vec::with_capacity(line.len());
    let mut i = 0;
    while i < line.len() {
        let sequence = (line[i] == 0x1b).then(|| escape(&line[i..])).flatten();
        match sequence {
            Some((length, invisible)) => {
                if !(invisible || plain) {
                    out.extend_from_slice(&line[i..i + length]);
                }
                i += length;
            }
            None => {
                let b = line[i];
                if !(plain && b < 0x20 && !matches!(b, b'\n' | b'\r' | b'\t')) {
                    out.push(b);
                }
                i += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Length of the escape sequence at the start, and whether it is a message that no terminal shows.
fn escape(bytes: &[u8]) -> Option<(usize, bool)> {
    match bytes.get(1)? {
        b'_' | b']' => {
            let end = bytes.iter().position(|b| *b == 0x07)?;
            Some((end + 1, bytes[1] == b'_'))
        }
        b'[' => {
            let end = bytes.iter().skip(2).position(|b| (0x40..=0x7e).contains(b))?;
            Some((end + 3, false))
        }
        _ => Some((2, false)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_go_colours_stay_where_they_are_wanted() {
        let log = b"\x1b_bk;t=1700000000000\x07\x1b[32mok\x1b[0m\r\n\x1b_bk;t=17";
        let mut lines = Lines::default();
        assert_eq!(lines.push(log, false), ["\x1b[32mok\x1b[0m"]);
        assert_eq!(lines.push(b"5\x07next", false), Vec::<String>::new());
        assert_eq!(lines.finish(false).as_deref(), Some("next"));
        assert_eq!(lines.finish(false), None);
        assert_eq!(Lines::default().push(log, true), ["ok"]);
    }

    #[test]
    fn a_progress_bar_leaves_its_last_state() {
        assert_eq!(Lines::default().push(b"10%\r50%\r100%\r\n\n", true), ["100%", ""]);
    }

    #[test]
    fn an_endless_line_is_shown_in_pieces() {
        let lines = Lines::default().push(&vec![b'x'; LINE_BYTES * 2 + 10], true);
        assert_eq!(lines.len(), 1 + 1, "two full pieces, the rest waits");
    }

    #[test]
    fn what_is_no_sequence_is_left_alone() {
        assert_eq!(Lines::default().push(b"a\x1b_no end\n", false), ["a\x1b_no end"]);
        assert_eq!(Lines::default().push("h\u{e9}\x01\n".as_bytes(), true), ["h\u{e9}"]);
    }
}
