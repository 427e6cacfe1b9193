//! Times on the command line and in answers.

use anyhow::Context;
use jiff::civil;
use jiff::tz::TimeZone;
use model::Nanos;
pub(crate) use model::clock::now;
use prost_types::{Duration, Timestamp};

const SECOND: i128 = 1_000_000_000;

/// Parses a time: a duration ago (`90s`, `15m`, `1h`, `7d`, `2w`), `now`, RFC 3339, or a date with
/// or without a time in UTC.
///
/// # Errors
/// When `text` has none of these forms; the message lists them.
pub(crate) fn parse(text: &str, now: Nanos) -> anyhow::Result<Nanos> {
    if text == "now" {
        return Ok(now);
    }
    if let Some(back) = span(text) {
        return Nanos::try_from(i128::from(now) - back)
            .with_context(|| format!("{text} ago is before the year 1678: use a shorter duration"));
    }
    let timestamp = text
        .parse::<jiff::Timestamp>()
        .or_else(|_| text.parse::<civil::DateTime>().and_then(|d| d.to_zoned(TimeZone::UTC)).map(|z| z.timestamp()))
        .map_err(|_| {
            anyhow::anyhow!(
                "cannot parse {text:?} as a time: use a duration ago (15m, 1h, 7d) or a time \
                 (2026-01-31T12:00:00Z, 2026-01-31)"
            )
        })?;
    Nanos::try_from(timestamp.as_nanosecond())
        .with_context(|| format!("{text} is out of range: use a year between 1678 and 2261"))
}

/// Parses a duration into nanoseconds: a number and ms, s, m, h, d or w. `None` when it has another
/// form.
pub(crate) fn span(text: &str) -> Option<i128> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = text.split_at(split);
    let seconds = match unit {
        "ms" => return Some(number.parse::<i128>().ok()? * 1_000_000),
        "s" | "sec" => 1,
        "m" | "min" => 60,
        "h" => 3600,
        "d" => 86_400,
        "w" => 7 * 86_400,
        _ => return None,
    };
    if let Ok(whole) = number.parse::<i64>() {
        return Some(i128::from(whole) * seconds * SECOND);
    }
    let fraction: f64 = number.parse().ok()?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "few digits, such as 1.5h")]
    Some((fraction * (seconds * SECOND) as f64) as i128)
}

/// Converts a time for a request.
pub(crate) fn to_proto(time: Nanos) -> Timestamp {
    let nanos = i32::try_from(time.rem_euclid(1_000_000_000)).unwrap_or(0);
    Timestamp { seconds: time.div_euclid(1_000_000_000), nanos }
}

/// Converts a time of an answer.
pub(crate) fn from_proto(time: &Timestamp) -> Nanos {
    time.seconds.saturating_mul(1_000_000_000).saturating_add(i64::from(time.nanos))
}

/// Formats a time as RFC 3339 in UTC, without trailing zeros.
pub(crate) fn show(time: Nanos) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(time)).map_or_else(|_| time.to_string(), |t| t.to_string())
}

/// Formats a time as RFC 3339 in UTC; empty when it is not set.
pub(crate) fn show_proto(time: Option<&Timestamp>) -> String {
    time.map(|t| show(from_proto(t))).unwrap_or_default()
}

/// Converts a duration into seconds.
#[expect(clippy::cast_precision_loss, reason = "shown with few digits")]
pub(crate) fn seconds(duration: &Duration) -> f64 {
    duration.seconds as f64 + f64::from(duration.nanos) / 1e9
}

/// Formats a duration: `1.5 s`, `3 min`, `2 h`.
pub(crate) fn show_duration(duration: &Duration) -> String {
    let seconds = seconds(duration);
    let (amount, unit) = match seconds.abs() {
        s if s < 1.0 => (seconds * 1000.0, "ms"),
        s if s < 120.0 => (seconds, "s"),
        s if s < 7200.0 => (seconds / 60.0, "min"),
        s if s < 172_800.0 => (seconds / 3600.0, "h"),
        _ => (seconds / 86_400.0, "d"),
    };
    format!("{} {unit}", (amount * 10.0).round() / 10.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_every_form() {
        let now = 1_700_000_000_000_000_000;
        assert_eq!(parse("1h", now).unwrap(), now - 3_600_000_000_000);
        assert_eq!(parse("1.5m", now).unwrap(), now - 90_000_000_000);
        assert_eq!(parse("now", now).unwrap(), now);
        assert_eq!(parse("2015-02-02T14:19:00Z", now).unwrap(), 1_422_886_740_000_000_000);
        assert_eq!(parse("2015-02-02T15:19:00+01:00", now).unwrap(), 1_422_886_740_000_000_000);
        assert_eq!(parse("2015-02-02 14:19", now).unwrap(), 1_422_886_740_000_000_000);
        assert_eq!(show(parse("2015-02-02", now).unwrap()), "2015-02-02T00:00:00Z");
        for bad in ["", "yesterday", "5 apples", "h", "2015-13-01", "99999999w"] {
            assert!(parse(bad, now).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_before_1970_and_fractions_survive_the_protocol() {
        for time in [-1, 0, 1_422_886_740_123_456_789, -1_500_000_000] {
            assert_eq!(from_proto(&to_proto(time)), time);
        }
        assert_eq!(show(1_422_886_740_500_000_000), "2015-02-02T14:19:00.5Z");
    }
}
