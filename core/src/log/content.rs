//! What happens to bytes between the process and the buffer, by timestamp mode (header-times).

use super::TimestampMode;
use super::headers::HeaderScanner;
use super::lines::LineStamper;
use super::sink::Sink;
use super::timestamps::Timestamper;
use crate::wall::WallTime;
use serde::{Deserialize, Serialize};

/// The transducers of one mode.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) enum Content {
    Ansi(Timestamper),
    Lines { stamper: LineStamper, scanner: HeaderScanner },
    Plain { scanner: HeaderScanner },
}

impl Content {
    pub(crate) fn new(mode: TimestampMode) -> Content {
        match mode {
            TimestampMode::Ansi => Content::Ansi(Timestamper::default()),
            TimestampMode::Lines => Content::Lines { stamper: LineStamper::default(), scanner: HeaderScanner::default() },
            TimestampMode::Plain => Content::Plain { scanner: HeaderScanner::default() },
        }
    }

    /// Passes one delivery on; `header` is called for every header line that ends in it.
    pub(crate) fn push(&mut self, wall: WallTime, data: &[u8], out: &mut impl Sink, header: impl FnMut(WallTime)) {
        match self {
            Content::Ansi(stamper) => stamper.push(wall, data, out),
            Content::Lines { stamper, scanner } => {
                stamper.push(wall, data, out);
                scanner.push(wall, data, header);
            }
            Content::Plain { scanner } => {
                out.append(data);
                scanner.push(wall, data, header);
            }
        }
    }

    /// Whether bytes are held that no buffer has yet.
    pub(crate) fn holds(&self) -> bool {
        matches!(self, Content::Lines { stamper, .. } if stamper.holds())
    }

    /// A cut takes everything (job-runner §6.10, I22): what is held goes out as the plain line that it looks like by now, and
    /// does not count as a header later, so that header times still match the headers in the log.
    pub(crate) fn release(&mut self, out: &mut impl Sink) {
        if let Content::Lines { stamper, scanner } = self
            && stamper.release(out)
        {
            scanner.disown();
        }
    }

    /// Output has ended.
    pub(crate) fn finish(&mut self, wall: WallTime, out: &mut impl Sink, header: impl FnMut(WallTime)) {
        match self {
            Content::Ansi(_) => {}
            Content::Lines { stamper, scanner } => {
                stamper.release(out);
                scanner.finish(wall, header);
            }
            Content::Plain { scanner } => scanner.finish(wall, header),
        }
    }
}
