//! Times and time ranges, in nanoseconds since 1970-01-01 UTC.

/// Nanoseconds since 1970-01-01T00:00:00Z.
pub type Nanos = i64;

/// One second.
pub const SECOND: Nanos = 1_000_000_000;

/// The start of the times that stores are asked for: 1970-01-01. Device times are accepted from
/// 2000 on.
pub const EARLIEST: Nanos = 0;

/// The end of accepted device times, exclusive: 2038-01-19T03:14:08Z. A later time stops the TTL
/// deletion of a whole MongoDB collection.
pub const LATEST: Nanos = 2_147_483_648 * SECOND;

/// Half-open: `start <= t < end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TimeRange {
    /// First time, inclusive.
    pub start: Nanos,
    /// End, exclusive.
    pub end: Nanos,
}

impl TimeRange {
    /// The range of all times.
    pub const ALL: Self = Self { start: Nanos::MIN, end: Nanos::MAX };

    /// True when `t` is in the range.
    pub fn contains(self, t: Nanos) -> bool {
        self.start <= t && t < self.end
    }

    /// True when the range overlaps the closed span `first..=last`.
    pub fn touches(self, first: Nanos, last: Nanos) -> bool {
        first < self.end && last >= self.start
    }
}

/// Converts a number to a time, with a unit chosen by its magnitude: up to 1e11 seconds, up to 1e14
/// milliseconds, up to 1e17 microseconds, else nanoseconds. (1e11 s is the year 5138; 1e11 ms is
/// 1973.)
///
/// Returns `None` when it is not finite or overflows.
pub fn from_number(n: f64) -> Option<Nanos> {
    let scale = match n.abs() {
        a if !a.is_finite() => return None,
        a if a < 1e11 => 1e9,
        a if a < 1e14 => 1e6,
        a if a < 1e17 => 1e3,
        _ => 1.0,
    };
    let nanos = n * scale;
    #[expect(clippy::cast_possible_truncation, reason = "checked against the range of i64")]
    (nanos.abs() < 9.2e18).then_some(nanos.round() as Nanos)
}

/// Like [`from_number`], without floating point.
pub fn from_integer(n: i64) -> Option<Nanos> {
    let scale = match n.unsigned_abs() {
        a if a < 100_000_000_000 => 1_000_000_000,
        a if a < 100_000_000_000_000 => 1_000_000,
        a if a < 100_000_000_000_000_000 => 1_000,
        _ => 1,
    };
    n.checked_mul(scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_of_a_bare_number_is_read_from_its_size() {
        let t = 1_700_000_000_123_456_789;
        assert_eq!(from_integer(1_700_000_000), Some(1_700_000_000 * SECOND));
        assert_eq!(from_integer(t / 1_000_000), Some(t / 1_000_000 * 1_000_000));
        assert_eq!(from_integer(t / 1_000), Some(t / 1_000 * 1_000));
        assert_eq!(from_integer(t), Some(t));
        assert_eq!(from_number(1_700_000_000.5), Some(1_700_000_000_500_000_000));
        assert_eq!(from_number(f64::NAN), None);
    }

    #[test]
    fn a_range_holds_its_start_and_not_its_end() {
        let r = TimeRange { start: 10, end: 20 };
        assert!(r.contains(10) && !r.contains(20));
        assert!(r.touches(0, 10) && !r.touches(20, 30) && r.touches(19, 25));
    }
}
