//! Windows of time to aggregate over.

use jiff::civil::{Date, Time, date};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{Span, Timestamp, ToSpan, Unit};
use model::{Nanos, TimeRange};

use super::clock::Clock;

/// A division of time into windows, each with an explicit start and end.
#[derive(Debug, Clone)]
pub enum Window {
    /// Of one width on the clocks of a zone, counted from their midnight of 1970-01-01.
    Fixed(Clock),
    /// By the calendar of a zone: days of 23 and 25 hours, months, years.
    Calendar {
        /// Number of units.
        count: i32,
        /// Day, week (from Monday), month or year.
        unit: Unit,
        /// Time zone of the calendar.
        zone: TimeZone,
    },
}

/// A window that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WindowError {
    /// Not an ISO 8601 period of one calendar unit.
    #[error("`{0}` is not a calendar period: use P1D, P1W, P1M, P1Y or a multiple of one")]
    Period(String),
    /// Not in the time zone database.
    #[error("`{0}` is not a time zone: use an IANA name such as Europe/Berlin")]
    Zone(String),
    /// Zero or negative.
    #[error("a window must be longer than zero")]
    Width,
}

/// Returns a zone by its IANA name; empty is UTC.
///
/// # Errors
/// [`WindowError::Zone`].
fn zone(name: &str) -> Result<TimeZone, WindowError> {
    match name {
        "" => Ok(TimeZone::UTC),
        name => TimeZone::get(name).map_err(|_| WindowError::Zone(name.to_owned())),
    }
}

impl Window {
    /// Returns windows of one width on the clocks of a zone.
    ///
    /// # Errors
    /// [`WindowError::Width`], [`WindowError::Zone`].
    pub fn fixed(width: Nanos, zone_name: &str) -> Result<Self, WindowError> {
        if width <= 0 {
            return Err(WindowError::Width);
        }
        Ok(Self::Fixed(Clock::new(width, zone(zone_name)?)))
    }

    /// Returns windows by an ISO 8601 period in a zone.
    ///
    /// # Errors
    /// [`WindowError::Period`], [`WindowError::Zone`].
    pub fn calendar(period: &str, zone_name: &str) -> Result<Self, WindowError> {
        let bad = || WindowError::Period(period.to_owned());
        if !period.starts_with('P') {
            return Err(bad());
        }
        let span: Span = period.parse().map_err(|_| bad())?;
        let parts = [
            (span.get_years().into(), Unit::Year),
            (span.get_months(), Unit::Month),
            (span.get_weeks(), Unit::Week),
            (span.get_days(), Unit::Day),
        ];
        let given: Vec<_> = parts.into_iter().filter(|(count, _)| *count != 0).collect();
        let [(count, unit)] = given[..] else { return Err(bad()) };
        if count < 1 || span.get_hours() != 0 || span.get_minutes() != 0 || span.get_seconds() != 0 {
            return Err(bad());
        }
        Ok(Self::Calendar { count, unit, zone: zone(zone_name)? })
    }

    /// Returns the window that holds `time`; `None` for a time that the calendar does not cover.
    pub fn around(&self, time: Nanos) -> Option<TimeRange> {
        match self {
            Self::Fixed(clock) => clock.around(time),
            Self::Calendar { count, unit, zone } => calendar(time, *count, *unit, zone),
        }
    }
}

fn calendar(time: Nanos, count: i32, unit: Unit, zone: &TimeZone) -> Option<TimeRange> {
    let day = Timestamp::from_nanosecond(i128::from(time)).ok()?.to_zoned(zone.clone()).date();
    let epoch = date(1970, 1, 1);
    let (first, span) = match unit {
        Unit::Year => {
            let year = i32::from(day.year() - 1970).div_euclid(count) * count + 1970;
            (Date::new(i16::try_from(year).ok()?, 1, 1).ok()?, count.years())
        }
        Unit::Month => {
            let months = i32::from(day.year() - 1970) * 12 + i32::from(day.month()) - 1;
            let first = months.div_euclid(count) * count;
            (epoch.checked_add(first.months()).ok()?, count.months())
        }
        unit => {
            // Weeks begin on Monday: 1970-01-05 was one.
            let (origin, days) = if unit == Unit::Week { (date(1970, 1, 5), count * 7) } else { (epoch, count) };
            let since = day.since((Unit::Day, origin)).ok()?.get_days();
            (origin.checked_add((since.div_euclid(days) * days).days()).ok()?, days.days())
        }
    };
    let (start, next) = (begin(first, zone)?, first.checked_add(span).ok()?);
    let end = begin(next, zone)?;
    if time < end {
        return Some(TimeRange { start, end });
    }
    // Clocks that were set back over midnight show the day before again: the new day goes on.
    Some(TimeRange { start: end, end: begin(next.checked_add(span).ok()?, zone)? })
}

/// The first moment of a day: midnight, or the moment at which clocks skip it.
fn begin(day: Date, zone: &TimeZone) -> Option<Nanos> {
    let midnight = day.to_datetime(Time::midnight());
    let moment = match zone.to_ambiguous_timestamp(midnight).offset() {
        AmbiguousOffset::Unambiguous { offset } | AmbiguousOffset::Fold { before: offset, .. } => {
            offset.to_timestamp(midnight).ok()?
        }
        AmbiguousOffset::Gap { before, after } => {
            // Read with the later offset, a skipped time lies before the moment of the skip.
            let earlier = after.to_timestamp(midnight).ok()?;
            let skip = zone.following(earlier).next()?.timestamp();
            debug_assert!(skip <= before.to_timestamp(midnight).ok()?);
            skip
        }
    };
    i64::try_from(moment.as_nanosecond()).ok()
}

#[cfg(test)]
mod tests;
