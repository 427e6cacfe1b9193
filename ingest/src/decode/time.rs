//! Device times.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::fmt::strtime;
use jiff::tz::TimeZone;
use model::{Nanos, ValueRef, time};

use super::{Class, Refusal};

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

/// Parses a device time. A local time that occurs twice at a clock change is the earlier one; one
/// that is skipped has the offset from before the change.
pub(crate) fn read(name: &str, value: ValueRef<'_>, format: &Format, zone: &TimeZone) -> Result<Nanos, Refusal> {
    let refuse = |what: &str| {
        let shown: String = value.to_string().chars().take(60).collect();
        Refusal::new(Class::Time, format!("time {shown:?} in `{name}` {what}"))
    };
    let read = match (format, value) {
        (_, ValueRef::Bool(_)) => None,
        (Format::Auto, ValueRef::Int(n)) => time::from_integer(n),
        (Format::Auto, ValueRef::Float(n)) => time::from_number(n),
        (Format::Auto, ValueRef::Str(text)) => from_text(text.trim(), zone),
        (Format::Unit(unit), ValueRef::Int(n)) => n.checked_mul(*unit),
        (Format::Unit(unit), ValueRef::Float(n)) => scaled(n, *unit),
        (Format::Unit(unit), ValueRef::Str(text)) => match text.trim().parse::<i64>() {
            Ok(n) => n.checked_mul(*unit),
            Err(_) => text.trim().parse().ok().and_then(|n| scaled(n, *unit)),
        },
        (Format::Pattern(pattern), value) => from_pattern(&value.to_string(), pattern, zone),
    };
    let read = read.ok_or_else(|| refuse("cannot be parsed"))?;
    if read < time::EARLIEST {
        return Err(refuse("is before 1970"));
    }
    if read >= time::LATEST {
        return Err(refuse("is after 2038-01-19"));
    }
    Ok(read)
}

fn scaled(n: f64, unit: i64) -> Option<Nanos> {
    #[expect(clippy::cast_precision_loss, reason = "units are powers of ten up to 10^9")]
    let nanos = n * unit as f64;
    #[expect(clippy::cast_possible_truncation, reason = "checked against the range of i64")]
    (nanos.abs() < 9.2e18).then_some(nanos.round() as Nanos)
}

fn from_text(text: &str, zone: &TimeZone) -> Option<Nanos> {
    let first = text.bytes().next()?;
    let numeric = (first.is_ascii_digit() || first == b'-') && !text[1..].contains(['-', ':', 'T']);
    if numeric {
        return match text.parse() {
            Ok(n) => time::from_integer(n),
            Err(_) => time::from_number(text.parse().ok()?),
        };
    }
    match text.parse::<Timestamp>() {
        Ok(stamp) => nanos(stamp),
        Err(_) => local(text.parse().ok()?, zone),
    }
}

fn from_pattern(text: &str, pattern: &str, zone: &TimeZone) -> Option<Nanos> {
    let parts = strtime::parse(pattern, text).ok()?;
    match parts.to_timestamp() {
        Ok(stamp) => nanos(stamp),
        Err(_) => match parts.to_datetime() {
            Ok(date_time) => local(date_time, zone),
            Err(_) => local(parts.to_date().ok()?.at(0, 0, 0, 0), zone),
        },
    }
}

fn local(date_time: DateTime, zone: &TimeZone) -> Option<Nanos> {
    // jiff's compatible rule: the earlier of two, and in a gap the offset before it.
    nanos(date_time.to_zoned(zone.clone()).ok()?.timestamp())
}

fn nanos(stamp: Timestamp) -> Option<Nanos> {
    i64::try_from(stamp.as_nanosecond()).ok()
}
