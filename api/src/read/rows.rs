//! Rows as readings of the API.

use proto::v1;

use super::merge::{RowAt, Slice};
use crate::convert;

/// Converts a row into a reading of `device`, a resource name.
pub(crate) fn reading(slice: &Slice, at: RowAt, device: &str) -> v1::Reading {
    v1::Reading {
        device: device.to_owned(),
        measure_time: Some(convert::timestamp(slice.time(at))),
        ingest_time: Some(convert::timestamp(slice.received(at))),
        values: slice.values(at).map(|(name, value)| (name.to_string(), convert::value(value))).collect(),
        sequence: slice.sequence(at),
        claimed_time: slice.claimed(at).map(convert::timestamp),
        device_timed: slice.device_timed(at),
    }
}
