//! Windows of time to aggregate over.

use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, ToSpan, Unit};
use model::{Nanos, TimeRange};

/// A division of time into windows, each with an explicit start and end.
#[derive(Debug, Clone)]
pub enum Window {
    /// All of the same length, counted from local midnight of 1970-01-01 in the zone's standard of
    /// that day; UTC without a zone.
    Fixed {
        /// Length; positive.
        width: Nanos,
        /// Start of one of them.
        origin: Nanos,
    },
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
    /// Returns windows of one length, aligned to midnight in a zone as of 1970.
    ///
    /// # Errors
    /// [`WindowError::Width`], [`WindowError::Zone`].
    pub fn fixed(width: Nanos, zone_name: &str) -> Result<Self, WindowError> {
        if width <= 0 {
            return Err(WindowError::Width);
        }
        let offset = zone(zone_name)?.to_offset(Timestamp::UNIX_EPOCH).seconds();
        Ok(Self::Fixed { width, origin: -i64::from(offset) * model::time::SECOND })
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
            Self::Fixed { width, origin } => {
                let start = (time - origin).div_euclid(*width).checked_mul(*width)?.checked_add(*origin)?;
                Some(TimeRange { start, end: start.checked_add(*width)? })
            }
            Self::Calendar { count, unit, zone } => calendar(time, *count, *unit, zone),
        }
    }
}

fn calendar(time: Nanos, count: i32, unit: Unit, zone: &TimeZone) -> Option<TimeRange> {
    let day = Timestamp::from_nanosecond(i128::from(time)).ok()?.to_zoned(zone.clone()).date();
    let epoch = jiff::civil::date(1970, 1, 1);
    let (start, span) = match unit {
        Unit::Year => {
            let year = i32::from(day.year() - 1970).div_euclid(count) * count + 1970;
            (jiff::civil::Date::new(i16::try_from(year).ok()?, 1, 1).ok()?, count.years())
        }
        Unit::Month => {
            let months = i32::from(day.year() - 1970) * 12 + i32::from(day.month()) - 1;
            let first = months.div_euclid(count) * count;
            (epoch.checked_add(first.months()).ok()?, count.months())
        }
        unit => {
            // Weeks begin on Monday: 1970-01-05 was one.
            let (origin, days) =
                if unit == Unit::Week { (jiff::civil::date(1970, 1, 5), count * 7) } else { (epoch, count) };
            let since = day.since((Unit::Day, origin)).ok()?.get_days();
            (origin.checked_add((since.div_euclid(days) * days).days()).ok()?, days.days())
        }
    };
    let at = |date: jiff::civil::Date| {
        let stamp = date.to_zoned(zone.clone()).ok()?.timestamp();
        i64::try_from(stamp.as_nanosecond()).ok()
    };
    Some(TimeRange { start: at(start)?, end: at(start.checked_add(span).ok()?)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nanos(text: &str) -> Nanos {
        i64::try_from(text.parse::<Timestamp>().unwrap().as_nanosecond()).unwrap()
    }

    #[test]
    fn a_day_on_which_clocks_change_is_shorter_or_longer() {
        let days = Window::calendar("P1D", "Europe/Berlin").unwrap();
        let hours = |at: &str| {
            let window = days.around(nanos(at)).unwrap();
            (window.end - window.start) / (3600 * model::time::SECOND)
        };
        assert_eq!(hours("2026-03-29T12:00:00Z"), 23);
        assert_eq!(hours("2026-10-25T12:00:00Z"), 25);
        assert_eq!(hours("2026-06-01T12:00:00Z"), 24);
    }

    #[test]
    fn windows_hold_their_time_and_meet_without_a_gap() {
        let all = [
            Window::fixed(60 * model::time::SECOND, "Asia/Kolkata").unwrap(),
            Window::calendar("P1W", "UTC").unwrap(),
            Window::calendar("P3M", "America/New_York").unwrap(),
            Window::calendar("P1Y", "").unwrap(),
        ];
        for window in &all {
            let mut at = nanos("2015-02-03T04:05:06.7Z");
            for _ in 0..20 {
                let range = window.around(at).unwrap();
                assert!(range.contains(at), "{window:?} {at}");
                assert_eq!(window.around(range.end).unwrap().start, range.end);
                at = range.end;
            }
        }
        let week = all[1].around(nanos("2026-11-20T00:00:00Z")).unwrap();
        assert_eq!(week.start, nanos("2026-11-16T00:00:00Z"), "a Monday");
    }

    #[test]
    fn a_text_that_is_not_a_period_is_refused() {
        for bad in ["", "P", "PT1H", "P1M2D", "P0D", "-P1D", "1d"] {
            assert!(Window::calendar(bad, "UTC").is_err(), "{bad}");
        }
        assert!(Window::calendar("P1D", "Mars/Phobos").is_err());
        assert!(Window::fixed(0, "UTC").is_err());
    }
}
