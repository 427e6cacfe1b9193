//! Device times.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::fmt::strtime;
use jiff::tz::TimeZone;
use model::{Nanos, ValueRef, time};

/// The format of a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Format {
    /// A number whose unit follows from its size, RFC 3339, or a local time.
    Auto,
    /// A number of units, each of this many nanoseconds.
    Unit(i64),
    /// A strptime pattern.
    Pattern(String),
}

impl Format {
    /// Parses the `time_format` key.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        Ok(match text {
            "auto" => Self::Auto,
            "s" => Self::Unit(1_000_000_000),
            "ms" => Self::Unit(1_000_000),
            "us" => Self::Unit(1_000),
            "ns" => Self::Unit(1),
            pattern if pattern.contains('%') => {
                // A pattern is valid if it can format a time.
                strtime::format(pattern, &jiff::Zoned::new(Timestamp::UNIX_EPOCH, TimeZone::UTC))
                    .map_err(|error| format!("`{pattern}` is not a time format: {error}"))?;
                Self::Pattern(pattern.into())
            }
            other => {
                return Err(format!(
                    "`{other}` is not a time format: use auto, s, ms, us, ns, or a pattern such as `%d.%m.%Y %H:%M:%S`"
                ));
            }
        })
    }
}

/// The first plausible device time: 2000-01-01. Clocks that were never set show earlier ones.
const FIRST_PLAUSIBLE: Nanos = 946_684_800 * time::SECOND;

/// A route's rules for times.
#[derive(Debug)]
pub(crate) struct Rules {
    pub(crate) format: Format,
    pub(crate) zone: TimeZone,
    /// Numbers count from 1970 in `zone`.
    pub(crate) local_numbers: bool,
}

/// The time of a row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Timing {
    /// The device's time, if it can be used.
    pub(crate) time: Option<Nanos>,
    /// The device's time, if it cannot be used.
    pub(crate) claimed: Option<Nanos>,
    /// The time belongs to a clock that runs: the same message again is the same reading.
    pub(crate) identifies: bool,
    /// A time was removed from the values of the row.
    pub(crate) removed: bool,
    /// A time was there that is implausible or cannot be read.
    pub(crate) unusable: bool,
}

/// A time as a device sends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Claim {
    /// A time that can order the reading.
    Usable(Nanos),
    /// A time ahead of the clock, further than the limit.
    Ahead(Nanos),
    /// A time before 2000, or after all times that can be stored; None outside `i64` nanoseconds.
    Implausible(Option<Nanos>),
    /// No time: an empty text, or a date of zeros.
    Empty,
    Unreadable,
}

impl Claim {
    /// The time of a row without a better one.
    pub(crate) fn timing(self) -> Timing {
        match self {
            Self::Usable(time) => Timing { time: Some(time), identifies: true, removed: true, ..Timing::default() },
            Self::Ahead(time) => Timing { claimed: Some(time), identifies: true, removed: true, ..Timing::default() },
            Self::Implausible(claimed) => Timing { claimed, removed: true, unusable: true, ..Timing::default() },
            Self::Empty => Timing { removed: true, ..Timing::default() },
            Self::Unreadable => Timing { unusable: true, ..Timing::default() },
        }
    }
}

/// True for a small number as devices send it for a duration: a member `time` may be one.
pub(crate) fn is_duration(claim: Claim, value: ValueRef<'_>) -> bool {
    let numeric = match value {
        ValueRef::Int(_) | ValueRef::Float(_) => true,
        ValueRef::Bool(_) => false,
        ValueRef::Str(text) => is_numeric(text.trim()),
    };
    numeric && matches!(claim, Claim::Implausible(Some(time)) if time < FIRST_PLAUSIBLE)
}

/// Parses a device time. A local time that occurs twice at a clock change is the earlier one; one
/// that is skipped has the offset from before the change. Times later than `latest` are ahead.
pub(crate) fn read(value: ValueRef<'_>, rules: &Rules, latest: Nanos) -> Claim {
    if let ValueRef::Str(text) = value
        && is_empty(text.trim())
    {
        return Claim::Empty;
    }
    let (read, numeric) = match (&rules.format, value) {
        (_, ValueRef::Bool(_)) => (None, false),
        (Format::Auto, ValueRef::Int(n)) => (Some(time::from_integer(n)), true),
        (Format::Auto, ValueRef::Float(n)) => (n.is_finite().then(|| time::from_number(n)), true),
        (Format::Auto, ValueRef::Str(text)) if is_numeric(text.trim()) => (from_digits(text.trim()), true),
        (Format::Auto, ValueRef::Str(text)) => (from_text(text.trim(), &rules.zone), false),
        (Format::Unit(unit), ValueRef::Int(n)) => (Some(n.checked_mul(*unit)), true),
        (Format::Unit(unit), ValueRef::Float(n)) => (n.is_finite().then(|| scaled(n, *unit)), true),
        (Format::Unit(unit), ValueRef::Str(text)) => match text.trim().parse::<i64>() {
            Ok(n) => (Some(n.checked_mul(*unit)), true),
            Err(_) => (text.trim().parse::<f64>().ok().filter(|n| n.is_finite()).map(|n| scaled(n, *unit)), true),
        },
        (Format::Pattern(pattern), value) => (from_pattern(value.to_string().trim(), pattern, &rules.zone), false),
    };
    let read = match read {
        Some(Some(time)) if numeric && rules.local_numbers => local_number(time, &rules.zone),
        read => read,
    };
    match read {
        None => Claim::Unreadable,
        Some(Some(time)) if time >= FIRST_PLAUSIBLE && time <= latest && time < time::LATEST => Claim::Usable(time),
        Some(Some(time)) if time > latest && time < time::LATEST => Claim::Ahead(time),
        Some(claimed) => Claim::Implausible(claimed),
    }
}

/// True for a text without a time: nothing, a word for null, or the date of zeros of a database.
fn is_empty(text: &str) -> bool {
    let zeros = || {
        text.starts_with("0000")
            && text.contains(['-', '/', '.'])
            && text.chars().all(|c| matches!(c, '0' | '-' | '/' | '.' | ':' | ' ' | 'T' | 'Z' | '+'))
    };
    text.is_empty() || text == "null" || zeros()
}

fn is_numeric(text: &str) -> bool {
    let magnitude = text.strip_prefix(['-', '+']).unwrap_or(text);
    magnitude.starts_with(|c: char| c.is_ascii_digit()) && !magnitude.contains(['-', ':', 'T', '/', ' '])
}

fn scaled(n: f64, unit: i64) -> Option<Nanos> {
    #[expect(clippy::cast_precision_loss, reason = "units are powers of ten up to 10^9")]
    let nanos = n * unit as f64;
    #[expect(clippy::cast_possible_truncation, reason = "checked against the range of i64")]
    (nanos.abs() < 9.2e18).then_some(nanos.round() as Nanos)
}

fn from_digits(text: &str) -> Option<Option<Nanos>> {
    match text.parse() {
        Ok(n) => Some(time::from_integer(n)),
        Err(_) => text.parse::<f64>().ok().filter(|n| n.is_finite()).map(time::from_number),
    }
}

/// The outer None for text that cannot be read, the inner for a time outside `i64` nanoseconds.
fn from_text(text: &str, zone: &TimeZone) -> Option<Option<Nanos>> {
    match text.parse::<Timestamp>() {
        Ok(stamp) => Some(nanos(stamp)),
        // The last day of the year 9999 is outside of timestamps, but no less a time.
        Err(_) => Some(local(text.strip_suffix('Z').unwrap_or(text).parse().ok()?, zone)),
    }
}

fn from_pattern(text: &str, pattern: &str, zone: &TimeZone) -> Option<Option<Nanos>> {
    let parts = strtime::parse(pattern, text).ok()?;
    match parts.to_timestamp() {
        Ok(stamp) => Some(nanos(stamp)),
        Err(_) => match parts.to_datetime() {
            Ok(date_time) => Some(local(date_time, zone)),
            Err(_) => Some(local(parts.to_date().ok()?.at(0, 0, 0, 0), zone)),
        },
    }
}

fn local(date_time: DateTime, zone: &TimeZone) -> Option<Nanos> {
    // jiff's compatible rule: the earlier of two, and in a gap the offset before it.
    nanos(date_time.to_zoned(zone.clone()).ok()?.timestamp())
}

/// Reads a number of nanoseconds as the time that clocks in `zone` show.
fn local_number(number: Nanos, zone: &TimeZone) -> Option<Option<Nanos>> {
    let shown = Timestamp::from_nanosecond(number.into()).ok()?.to_zoned(TimeZone::UTC).datetime();
    Some(local(shown, zone))
}

fn nanos(stamp: Timestamp) -> Option<Nanos> {
    i64::try_from(stamp.as_nanosecond()).ok()
}
