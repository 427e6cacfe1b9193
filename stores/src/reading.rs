//! Readings one by one, as exports hand them on: a walk through the rows of a block, and the JSON
//! of a reading.

use std::fmt::Write as _;

use model::{Nanos, ValueRef};
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use crate::block::{Block, Column};

/// Version of the JSON form. Members may be added to a version; a member that changes its meaning
/// makes the next.
pub(crate) const SCHEMA: u32 = 1;

/// One row of a block.
#[derive(Debug)]
pub(crate) struct Row<'a> {
    pub(crate) block: &'a Block,
    /// Row within the block.
    pub(crate) index: usize,
    /// Log offset of the reading.
    pub(crate) offset: u64,
    /// The values that the row has, in the order of the columns.
    pub(crate) values: Vec<(&'a str, ValueRef<'a>)>,
}

impl Row<'_> {
    /// Identifies the reading: `log:offset`, the same each time it is sent.
    pub(crate) fn message_id(&self) -> String {
        format!("{}:{}", self.block.id.log, self.offset)
    }

    pub(crate) fn time(&self) -> Nanos {
        self.block.times[self.index]
    }

    pub(crate) fn received(&self) -> Nanos {
        self.block.received.get(self.index).copied().unwrap_or_else(|| self.time())
    }

    pub(crate) fn sequence(&self) -> Option<u64> {
        self.block.seqs.get(self.index).copied().flatten()
    }

    pub(crate) fn claimed(&self) -> Option<Nanos> {
        self.block.claimed.get(self.index).copied().flatten()
    }

    pub(crate) fn device_timed(&self) -> bool {
        self.block.device_timed.get(self.index).copied().unwrap_or(true)
    }

    /// Appends the reading as one JSON object, without an end of line.
    pub(crate) fn write_json(&self, out: &mut Vec<u8>) {
        let device = &self.block.id.device;
        let json = Json {
            schema: SCHEMA,
            id: &self.message_id(),
            tenant: &device.tenant,
            device: &device.id,
            measure_time: rfc3339(self.time()),
            ingest_time: rfc3339(self.received()),
            sequence: self.sequence(),
            device_timed: self.device_timed(),
            claimed_time: self.claimed().map(rfc3339),
            values: Values(&self.values),
        };
        serde_json::to_writer(out, &json).expect("writing into memory does not fail");
    }
}

/// The rows of a block in the order of their log offsets, the order in which they were received.
pub(crate) fn rows<'a>(block: &'a Block, offsets: &[u64]) -> Vec<Row<'a>> {
    let mut next = vec![0; block.columns.len()];
    let mut rows = Vec::with_capacity(block.times.len());
    for (index, offset) in (0..block.times.len()).zip(offsets) {
        let values = block.columns.iter().zip(&mut next).filter_map(|(column, next)| value(column, index, next));
        rows.push(Row { block, index, offset: *offset, values: values.collect() });
    }
    rows.sort_by_key(|row| row.offset);
    rows
}

fn value<'a>(column: &'a Column, row: usize, next: &mut usize) -> Option<(&'a str, ValueRef<'a>)> {
    if !column.present.is_empty() && !column.present[row] {
        return None;
    }
    let value = column.data.get(*next)?;
    *next += 1;
    Some((&column.name, value))
}

/// The members have the names of `weir.v1.Reading`.
#[derive(Serialize)]
struct Json<'a> {
    schema: u32,
    id: &'a str,
    tenant: &'a str,
    device: &'a str,
    measure_time: String,
    ingest_time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    sequence: Option<u64>,
    device_timed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    claimed_time: Option<String>,
    values: Values<'a>,
}

struct Values<'a>(&'a [(&'a str, ValueRef<'a>)]);

impl Serialize for Values<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in self.0 {
            match value {
                ValueRef::Float(value) => map.serialize_entry(name, value)?,
                ValueRef::Int(value) => map.serialize_entry(name, value)?,
                ValueRef::Bool(value) => map.serialize_entry(name, value)?,
                ValueRef::Str(value) => map.serialize_entry(name, value)?,
            }
        }
        map.end()
    }
}

/// A time with as many digits as it has.
fn rfc3339(time: Nanos) -> String {
    let mut out = String::with_capacity(30);
    match jiff::Timestamp::from_nanosecond(i128::from(time)) {
        Ok(time) => write!(out, "{time}"),
        Err(_) => write!(out, "{time}"),
    }
    .expect("writing into a string does not fail");
    out
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;

    use model::DeviceKey;

    use super::*;
    use crate::block::{BlockId, ColumnData};
    use crate::contract::DeviceBatch;

    /// Readings of a device, one a millisecond, with the log offsets `offsets` and `n` equal to the
    /// offset.
    pub(crate) fn batch(tenant: &str, device: &str, offsets: &[u64]) -> DeviceBatch {
        let time = |offset: &u64| 1_700_000_000_000_000_000 + i64::try_from(*offset).unwrap() * 1_000_000;
        let device = DeviceKey::new(tenant, device).unwrap();
        let n = offsets.iter().map(|offset| i64::try_from(*offset).unwrap()).collect();
        let block = Block {
            id: BlockId { device, log: "log-1".into(), first_offset: offsets[0], part: 0 },
            times: offsets.iter().map(time).collect(),
            received: offsets.iter().map(time).collect(),
            seqs: Vec::new(),
            claimed: Vec::new(),
            device_timed: Vec::new(),
            columns: vec![Column { name: Arc::from("n"), present: Vec::new(), data: ColumnData::Int(n) }],
        };
        DeviceBatch { block, offsets: offsets.to_vec(), traces: Vec::new() }
    }

    #[test]
    fn a_reading_is_one_json_object_with_the_types_of_its_values() {
        let mut batch = batch("acme", "zigbee/küche", &[7, 9]);
        let block = &mut batch.block;
        block.seqs = vec![Some(3), None];
        block.device_timed = vec![true, false];
        block.claimed = vec![None, Some(4_000_000_000_000_000_000)];
        let float = Column { name: "t".into(), present: vec![false, true], data: ColumnData::Float(vec![21.0]) };
        let text = Column { name: "s".into(), present: vec![true, false], data: ColumnData::Str(vec!["a\"b".into()]) };
        block.columns.extend([float, text]);
        let lines: Vec<String> = rows(&batch.block, &batch.offsets)
            .iter()
            .map(|row| {
                let mut out = Vec::new();
                row.write_json(&mut out);
                String::from_utf8(out).unwrap()
            })
            .collect();
        assert_eq!(
            lines,
            [
                r#"{"schema":1,"id":"log-1:7","tenant":"acme","device":"zigbee/küche","measure_time":"2023-11-14T22:13:20.007Z","ingest_time":"2023-11-14T22:13:20.007Z","sequence":3,"device_timed":true,"values":{"n":7,"s":"a\"b"}}"#,
                r#"{"schema":1,"id":"log-1:9","tenant":"acme","device":"zigbee/küche","measure_time":"2023-11-14T22:13:20.009Z","ingest_time":"2023-11-14T22:13:20.009Z","device_timed":false,"claimed_time":"2096-10-02T07:06:40Z","values":{"n":9,"t":21.0}}"#
            ]
        );
    }

    #[test]
    fn rows_come_in_the_order_of_their_offsets_each_with_its_own_values() {
        let mut batch = batch("t", "d", &[5, 6, 7]);
        // Ordered by time, received in another order.
        batch.offsets = vec![7, 5, 6];
        batch.block.columns[0].present = vec![true, false, true];
        batch.block.columns[0].data = ColumnData::Int(vec![70, 60]);
        let rows = rows(&batch.block, &batch.offsets);
        let seen: Vec<_> = rows.iter().map(|row| (row.offset, row.values.clone())).collect();
        assert_eq!(seen, [(5, vec![]), (6, vec![("n", ValueRef::Int(60))]), (7, vec![("n", ValueRef::Int(70))])]);
    }
}
