//! Wall-clock time as data. Machines never ask for it: they hold a [`WallClock`], which the driver replaces with an event
//! when the system's clock has jumped against the monotonic one.

use crate::machine::Instant;
use serde::{Deserialize, Serialize};

/// Nanoseconds since 1970-01-01T00:00:00 UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WallTime(i64);

impl WallTime {
    /// From nanoseconds since the Unix epoch.
    pub const fn from_nanos(nanos: i64) -> WallTime {
        WallTime(nanos)
    }

    /// Nanoseconds since the Unix epoch.
    pub const fn as_nanos(self) -> i64 {
        self.0
    }

    /// Whole milliseconds since the Unix epoch, rounded down.
    pub const fn as_millis(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    fn timestamp(self) -> jiff::Timestamp {
        jiff::Timestamp::from_nanosecond(i128::from(self.0)).unwrap_or_default()
    }

    /// RFC 3339 in UTC (`Z`), up to nanoseconds, trailing zeros trimmed (agent-api §2.5).
    pub fn rfc3339_utc(self) -> String {
        self.timestamp().to_string()
    }

    /// RFC 3339 with the given zone offset in seconds, up to nanoseconds, trailing zeros trimmed.
    pub fn rfc3339_local(self, utc_offset_seconds: i32) -> String {
        match jiff::tz::Offset::from_seconds(utc_offset_seconds) {
            Ok(o) if utc_offset_seconds != 0 => self.timestamp().display_with_offset(o).to_string(),
            _ => self.rfc3339_utc(),
        }
    }
}

/// Maps monotonic to wall-clock time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct WallClock {
    /// Wall-clock time at [`Instant::ZERO`].
    pub base: WallTime,
    /// Offset of the local zone from UTC.
    pub utc_offset_seconds: i32,
}

impl WallClock {
    /// The wall-clock time at `now`.
    pub fn at(&self, now: Instant) -> WallTime {
        WallTime(self.base.0.saturating_add(i64::try_from(now.as_nanos()).unwrap_or(i64::MAX)))
    }
}
