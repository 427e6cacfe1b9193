//! `weir.v1.Reading`, as far as an export writes it. A test reads it with the published messages.

use std::collections::BTreeMap;

use model::{Nanos, ValueRef};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use prost::Message;

use crate::reading::Row;

/// The bytes of resource names that are not encoded.
const NAME: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

#[derive(Clone, PartialEq, Message)]
struct Reading {
    #[prost(string, tag = "1")]
    device: String,
    #[prost(message, optional, tag = "3")]
    measure_time: Option<Timestamp>,
    #[prost(message, optional, tag = "4")]
    ingest_time: Option<Timestamp>,
    #[prost(btree_map = "string, message", tag = "8")]
    values: BTreeMap<String, Value>,
    #[prost(uint64, optional, tag = "9")]
    sequence: Option<u64>,
    #[prost(message, optional, tag = "10")]
    claimed_time: Option<Timestamp>,
    #[prost(bool, tag = "11")]
    device_timed: bool,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Timestamp {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(oneof = "Kind", tags = "1, 2, 3, 4")]
    kind: Option<Kind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Kind {
    #[prost(double, tag = "1")]
    Double(f64),
    #[prost(sint64, tag = "2")]
    Int(i64),
    #[prost(bool, tag = "3")]
    Bool(bool),
    #[prost(string, tag = "4")]
    String(String),
}

/// Encodes a reading.
pub(super) fn encode(row: &Row<'_>) -> Vec<u8> {
    let device = &row.block.id.device;
    let reading = Reading {
        device: format!(
            "tenants/{}/devices/{}",
            utf8_percent_encode(&device.tenant, NAME),
            utf8_percent_encode(&device.id, NAME)
        ),
        measure_time: Some(timestamp(row.time())),
        ingest_time: Some(timestamp(row.received())),
        values: row
            .values
            .iter()
            .map(|(name, value)| ((*name).to_owned(), Value { kind: Some(kind(*value)) }))
            .collect(),
        sequence: row.sequence(),
        claimed_time: row.claimed().map(timestamp),
        device_timed: row.device_timed(),
    };
    reading.encode_to_vec()
}

fn timestamp(time: Nanos) -> Timestamp {
    let nanos = time.rem_euclid(1_000_000_000);
    Timestamp { seconds: time.div_euclid(1_000_000_000), nanos: i32::try_from(nanos).unwrap_or_default() }
}

fn kind(value: ValueRef<'_>) -> Kind {
    match value {
        ValueRef::Float(value) => Kind::Double(value),
        ValueRef::Int(value) => Kind::Int(value),
        ValueRef::Bool(value) => Kind::Bool(value),
        ValueRef::Str(value) => Kind::String(value.to_owned()),
    }
}
