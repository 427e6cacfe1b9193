//! Windows of one width on the clocks of a zone.
//!
//! A window begins when the clocks show a multiple of the width, counted from their midnight of
//! 1970-01-01. Where clocks change by a multiple of the width, as they do for hourly windows in
//! most zones, every window has its width: a day of 25 hours has 25 of them. Where they change by
//! something else, the window around the change is longer or shorter by it, and the next ones begin
//! at the same times of day as before; a time that the clocks show twice begins a window once.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use model::{Nanos, TimeRange};

/// Longer than any change of clocks: Samoa skipped a day.
const LONGEST_CHANGE: Nanos = 26 * 3600 * model::time::SECOND;

/// A width and a zone.
#[derive(Debug, Clone)]
pub struct Clock {
    width: Nanos,
    zone: TimeZone,
}

/// A change of clocks that moves the multiples of the width.
#[derive(Debug, Clone, Copy)]
struct Change {
    at: Nanos,
    /// Offsets from UTC.
    before: Nanos,
    after: Nanos,
}

impl Change {
    /// First moment at which the clocks show a time that they had not shown before the change.
    fn resumes(self) -> Nanos {
        self.at + (self.before - self.after).max(0)
    }

    /// True when the clocks skip a multiple of the width, or come to one.
    fn skips(self, width: Nanos) -> bool {
        (self.at + self.after).div_euclid(width) > (self.at - 1 + self.before).div_euclid(width)
    }
}

impl Clock {
    pub(super) fn new(width: Nanos, zone: TimeZone) -> Self {
        Self { width, zone }
    }

    pub(super) fn around(&self, time: Nanos) -> Option<TimeRange> {
        Some(TimeRange { start: self.start(time)?, end: self.end(time)? })
    }

    /// Start of the window that holds a time.
    fn start(&self, time: Nanos) -> Option<Nanos> {
        let mut time = time;
        loop {
            let multiple = self.multiple_before(time)?;
            let Some(change) = self.change_until(time, multiple) else { return Some(multiple) };
            if multiple >= change.resumes() {
                return Some(multiple);
            }
            if change.skips(self.width) {
                return Some(change.at);
            }
            time = change.at - 1;
        }
    }

    /// End of the window that holds a time.
    fn end(&self, time: Nanos) -> Option<Nanos> {
        let mut from = time;
        loop {
            let last = self.multiple_before(from)?;
            let mut end = last.checked_add(self.width)?;
            if let Some(change) = self.change_until(from, last) {
                while end < change.resumes() {
                    end = end.checked_add(self.width)?;
                }
            }
            match self.change_after(from, end) {
                Some(change) if change.skips(self.width) => return Some(change.at),
                Some(change) => from = change.at,
                None => return Some(end),
            }
        }
    }

    /// The last moment until `time` at which clocks with the offset of `time` show a multiple of
    /// the width.
    fn multiple_before(&self, time: Nanos) -> Option<Nanos> {
        let offset = self.offset(time)?;
        let shown = time.checked_add(offset)?;
        shown.div_euclid(self.width).checked_mul(self.width)?.checked_sub(offset)
    }

    /// The last change until `time` that can matter to a window from `multiple` on.
    fn change_until(&self, time: Nanos, multiple: Nanos) -> Option<Change> {
        let least = multiple.saturating_sub(LONGEST_CHANGE);
        let changes = self.zone.preceding(stamp(time.checked_add(1)?)?);
        let moments = changes.filter_map(|change| i64::try_from(change.timestamp().as_nanosecond()).ok());
        moments.take_while(|at| *at >= least).find_map(|at| self.change(at))
    }

    /// The first change after `time` and no later than `last`.
    fn change_after(&self, time: Nanos, last: Nanos) -> Option<Change> {
        let changes = self.zone.following(stamp(time)?);
        let moments = changes.map_while(|change| i64::try_from(change.timestamp().as_nanosecond()).ok());
        moments.take_while(|at| *at <= last).find_map(|at| self.change(at))
    }

    /// The change at a moment, unless the multiples of the width stay where they are.
    fn change(&self, at: Nanos) -> Option<Change> {
        let (before, after) = (self.offset(at - 1)?, self.offset(at)?);
        ((after - before) % self.width != 0).then_some(Change { at, before, after })
    }

    fn offset(&self, time: Nanos) -> Option<Nanos> {
        Some(Nanos::from(self.zone.to_offset(stamp(time)?).seconds()) * model::time::SECOND)
    }
}

fn stamp(time: Nanos) -> Option<Timestamp> {
    Timestamp::from_nanosecond(i128::from(time)).ok()
}
