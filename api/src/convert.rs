//! Conversions between the model and the API.

use std::collections::HashMap;
use std::time::Duration;

pub(crate) use model::clock::now;
use model::{Kind, Nanos, TimeRange, Value, ValueRef};
use proto::v1;
use stores::contract::{LatestState, LatestValue};
use tonic::Status;

use crate::services::KnownDevice;
use crate::{errors, names};

/// Converts a time.
pub(crate) fn timestamp(nanos: Nanos) -> prost_types::Timestamp {
    let within = nanos.rem_euclid(1_000_000_000);
    prost_types::Timestamp {
        seconds: nanos.div_euclid(1_000_000_000),
        nanos: i32::try_from(within).expect("below a billion"),
    }
}

/// Converts a duration.
pub(crate) fn duration(nanos: Nanos) -> prost_types::Duration {
    prost_types::Duration {
        seconds: nanos / 1_000_000_000,
        nanos: i32::try_from(nanos % 1_000_000_000).expect("below a billion"),
    }
}

/// Reads a time of a request.
pub(crate) fn nanos(field: &str, time: &prost_types::Timestamp) -> Result<Nanos, Status> {
    if !(0..1_000_000_000).contains(&time.nanos) {
        return Err(errors::invalid(field, "nanos must be 0..999999999"));
    }
    let whole = time.seconds.checked_mul(1_000_000_000).and_then(|n| n.checked_add(i64::from(time.nanos)));
    whole.ok_or_else(|| errors::invalid(field, "must be between the years 1678 and 2261"))
}

/// Reads a duration of a request; it must not be negative.
pub(crate) fn length(field: &str, length: &prost_types::Duration) -> Result<Nanos, Status> {
    let whole = length.seconds.checked_mul(1_000_000_000).and_then(|n| n.checked_add(i64::from(length.nanos)));
    match whole {
        Some(nanos) if nanos >= 0 && length.nanos >= 0 => Ok(nanos),
        Some(_) => Err(errors::invalid(field, "must not be negative")),
        None => Err(errors::invalid(field, "is longer than 292 years")),
    }
}

/// Reads a duration of a request that must lie in `min..=max`; `default` when it is not set.
pub(crate) fn wait(
    field: &str,
    given: Option<&prost_types::Duration>,
    default: Duration,
    (min, max): (Duration, Duration),
) -> Result<Duration, Status> {
    let Some(given) = given else { return Ok(default) };
    let wait = Duration::from_nanos(length(field, given)?.unsigned_abs());
    if (min..=max).contains(&wait) {
        Ok(wait)
    } else {
        Err(errors::invalid(field, format!("must be {} to {} seconds", min.as_secs_f32(), max.as_secs_f32())))
    }
}

/// Reads a range; an end that is not set is open.
pub(crate) fn range(range: Option<&v1::TimeRange>) -> Result<TimeRange, Status> {
    let Some(range) = range else { return Ok(TimeRange::ALL) };
    let start = range.start_time.as_ref().map_or(Ok(Nanos::MIN), |t| nanos("range.start_time", t))?;
    let end = range.end_time.as_ref().map_or(Ok(Nanos::MAX), |t| nanos("range.end_time", t))?;
    if start > end {
        return Err(errors::invalid("range", "end_time lies before start_time"));
    }
    Ok(TimeRange { start, end })
}

/// Reads a range that must have both ends.
pub(crate) fn closed_range(given: Option<&v1::TimeRange>) -> Result<TimeRange, Status> {
    let both = given.is_some_and(|r| r.start_time.is_some() && r.end_time.is_some());
    if both { range(given) } else { Err(errors::invalid("range", "start_time and end_time are required")) }
}

/// Converts a value.
pub(crate) fn value(value: ValueRef<'_>) -> v1::Value {
    use v1::value::Kind;
    let kind = match value {
        ValueRef::Float(v) => Kind::DoubleValue(v),
        ValueRef::Int(v) => Kind::IntValue(v),
        ValueRef::Bool(v) => Kind::BoolValue(v),
        ValueRef::Str(v) => Kind::StringValue(v.to_owned()),
    };
    v1::Value { kind: Some(kind) }
}

fn value_type(kind: Kind) -> v1::ValueType {
    match kind {
        Kind::Float => v1::ValueType::Double,
        Kind::Int => v1::ValueType::Int,
        Kind::Bool => v1::ValueType::Bool,
        Kind::Str => v1::ValueType::String,
    }
}

/// Converts a reading of a log; `None` when it has none of the selected metrics.
pub(crate) fn reading(
    name: String,
    reading: &buffer::frame::ReadingRef<'_>,
    metrics: &crate::glob::Metrics,
) -> Option<v1::Reading> {
    let values = reading.values().filter(|(metric, _)| metrics.selects(metric));
    let values: HashMap<String, v1::Value> = values.map(|(metric, v)| (metric.to_owned(), value(v))).collect();
    (!values.is_empty() || metrics.is_all()).then(|| v1::Reading {
        device: name,
        measure_time: Some(timestamp(reading.time)),
        ingest_time: Some(timestamp(reading.received)),
        values,
        sequence: reading.seq,
        claimed_time: reading.claimed_time.map(timestamp),
        device_timed: reading.device_timed,
    })
}

/// Converts a device.
pub(crate) fn device(device: &KnownDevice) -> v1::Device {
    let KnownDevice { key, row, state } = device;
    let metric = |v: &LatestValue| v1::Metric { name: v.name.to_string(), r#type: value_type(v.value.kind()).into() };
    let mut shown = v1::Device {
        name: names::device(&key.tenant, &key.id),
        create_time: device.created().map(timestamp),
        ..v1::Device::default()
    };
    if let Some(row) = row {
        shown.uid.clone_from(&row.uid);
        shown.display_name.clone_from(&row.display_name);
        shown.labels = row.labels.clone().into_iter().collect();
        shown.device_type.clone_from(&row.device_type);
        shown.expected_interval = row.expected_interval.map(duration);
        shown.update_time = Some(timestamp(row.updated));
        shown.quarantine_time = row.quarantined.map(timestamp);
        shown.delete_time = row.deleted.map(timestamp);
        shown.etag = row.version.to_string();
    }
    if let Some(state) = state {
        shown.last_seen_time = Some(timestamp(state.last_seen));
        shown.reading_count = count(state.readings);
        shown.clock_skew = Some(duration(state.clock_skew));
        shown.metrics = state.values.iter().map(metric).collect();
    }
    shown
}

/// Converts the latest state of a device, reduced to the selected metrics.
pub(crate) fn latest(state: &LatestState, metrics: &crate::glob::Metrics) -> v1::LatestState {
    let values = state.values.iter().filter(|v| metrics.selects(&v.name));
    let values = values.map(|v| v1::LatestValue {
        metric: v.name.to_string(),
        value: Some(owned_value(&v.value)),
        measure_time: Some(timestamp(v.time)),
        ingest_time: Some(timestamp(v.received)),
        sequence: v.seq,
    });
    v1::LatestState {
        device: names::device(&state.device.tenant, &state.device.id),
        values: values.collect(),
        last_seen_time: Some(timestamp(state.last_seen)),
    }
}

/// Converts an owned value.
pub(crate) fn owned_value(v: &Value) -> v1::Value {
    value(v.as_ref())
}

/// Converts a count.
pub(crate) fn count(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_have_positive_nanoseconds() {
        let time = timestamp(-1);
        assert_eq!((time.seconds, time.nanos), (-1, 999_999_999));
        assert_eq!(nanos("t", &time).expect("a time"), -1);
    }

    #[test]
    fn a_time_that_does_not_fit_names_its_field() {
        let far = prost_types::Timestamp { seconds: i64::MAX, nanos: 0 };
        let status = nanos("range.start_time", &far).expect_err("too far");
        assert!(status.message().starts_with("range.start_time:"), "{status}");
    }
}
