//! A CSV file with a header: one reading a line.

use anyhow::{Context, bail, ensure};
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use model::{Nanos, Value};
use serde_json::json;

use super::Recorded;
use crate::plan::parsed;

/// Columns of a table.
#[derive(Debug, Clone)]
pub struct Columns {
    /// Column of the time; None uses the first of `ts`, `time`, `timestamp`, `date`.
    pub time: Option<String>,
    /// Column of the device; None assigns all readings to `device_id`.
    pub device: Option<String>,
    /// Device of readings without a column for it.
    pub device_id: String,
    /// Topic of a reading; `{device}` is its device.
    pub topic: String,
}

pub(super) fn read(text: &str, columns: &Columns) -> anyhow::Result<Vec<Recorded>> {
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let head = reader.headers().context("head line")?.clone();
    let find = |name: &str| head.iter().position(|column| column.eq_ignore_ascii_case(name));
    let named = |name: &String| {
        find(name)
            .with_context(|| format!("no column {name:?}; there are {}", head.iter().collect::<Vec<_>>().join(", ")))
    };
    let time = match &columns.time {
        Some(name) => named(name)?,
        None => ["ts", "time", "timestamp", "date"].into_iter().find_map(find).context(
            "no column is named ts, time, timestamp or date: say with --time-column which one holds the time",
        )?,
    };
    let device = columns.device.as_ref().map(named).transpose()?;
    let mut out = Vec::new();
    for record in reader.records() {
        let record = record?;
        let line = record.position().map_or(0, csv::Position::line);
        let at = instant(record.get(time).unwrap_or_default()).with_context(|| format!("line {line}"))?;
        let device = device.and_then(|place| record.get(place)).unwrap_or(&columns.device_id).to_owned();
        ensure!(!device.is_empty(), "line {line}: the device is empty");
        let mut object = serde_json::Map::new();
        object.insert("ts".into(), json!(at.div_euclid(1_000)));
        for (place, (name, cell)) in head.iter().zip(&record).enumerate() {
            let used = place == time || columns.device.as_deref() == Some(name) || name.is_empty();
            if !used && !cell.trim().is_empty() {
                object.insert(name.to_owned(), tree(&parsed(cell.trim())));
            }
        }
        let topic = columns.topic.replace("{device}", &device);
        let payload = serde_json::Value::Object(object).to_string().into_bytes();
        out.push(Recorded { at, device, topic, payload });
    }
    Ok(out)
}

fn tree(value: &Value) -> serde_json::Value {
    match value {
        Value::Float(v) => json!(v),
        Value::Int(v) => json!(v),
        Value::Bool(v) => json!(v),
        Value::Str(v) => json!(v),
    }
}

/// RFC 3339, a date and time in UTC, or seconds, milliseconds, microseconds, nanoseconds since 1970
/// by their size.
pub(super) fn instant(text: &str) -> anyhow::Result<Nanos> {
    let text = text.trim().trim_matches('"');
    if let Ok(number) = text.parse::<f64>() {
        let unit = match number.abs() {
            n if n <= 1e11 => 1e9,
            n if n <= 1e14 => 1e6,
            n if n <= 1e17 => 1e3,
            _ => 1.0,
        };
        #[expect(clippy::cast_possible_truncation, reason = "times of this age fit")]
        return Ok((number * unit) as Nanos);
    }
    let timestamp = text.parse::<Timestamp>().or_else(|_| {
        let local: DateTime = text.parse()?;
        local.to_zoned(TimeZone::UTC).map(|zoned| zoned.timestamp())
    });
    match timestamp {
        Ok(at) => Ok(Nanos::try_from(at.as_nanosecond())?),
        Err(_) => bail!("{text:?} is no time: give RFC 3339, 2026-11-20 12:00:00, or a number since 1970"),
    }
}
