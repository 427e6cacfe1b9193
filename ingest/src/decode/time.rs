//! A device's time.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use model::{Nanos, ValueRef, time};

use super::Refusal;

/// Reads a device time: a number (its unit by its size), a number as text, RFC 3339, or a local time without offset in `zone`.
/// A local time that a clock change makes twice is the earlier one; one that it leaves out counts with the offset before.
pub(crate) fn read(name: &str, value: ValueRef<'_>, zone: &TimeZone) -> Result<Nanos, Refusal> {
    let read = match value {
        ValueRef::Int(n) => time::from_integer(n),
        ValueRef::Float(n) => time::from_number(n),
        ValueRef::Bool(_) => None,
        ValueRef::Str(text) => from_text(text.trim(), zone),
    };
    let read = read.ok_or_else(|| format!("time in {name} is not one: {value}"))?;
    if (time::EARLIEST..time::LATEST).contains(&read) {
        Ok(read)
    } else {
        Err(format!("time in {name} lies before 1970 or after 2038-01-19: {value}"))
    }
}

fn from_text(text: &str, zone: &TimeZone) -> Option<Nanos> {
    if let Ok(n) = text.parse::<i64>() {
        return time::from_integer(n);
    }
    if let Ok(n) = text.parse::<f64>() {
        return time::from_number(n);
    }
    let stamp = match text.parse::<jiff::Timestamp>() {
        Ok(stamp) => stamp,
        Err(_) => text.parse::<DateTime>().ok()?.to_zoned(zone.clone()).ok()?.timestamp(),
    };
    i64::try_from(stamp.as_nanosecond()).ok()
}
