//! Blocks to write.

use std::sync::Arc;

use model::{DeviceKey, Kind, Nanos, Value};
use weir_stores::{Block, BlockId, Column, ColumnData};

/// A time that every bucket without retention takes.
pub(crate) const T: Nanos = 1_750_000_000_000_000_000;
pub(crate) const MILLI: Nanos = 1_000_000;

/// Time, sequence, values.
pub(crate) type Row<'a> = (Nanos, Option<u64>, Vec<(&'a str, Value)>);

pub(crate) fn device(tenant: &str, id: &str) -> DeviceKey {
    DeviceKey::new(tenant, id).unwrap()
}

pub(crate) fn float(v: f64) -> Value {
    Value::Float(v)
}

pub(crate) fn int(v: i64) -> Value {
    Value::Int(v)
}

pub(crate) fn text(v: &str) -> Value {
    Value::Str(v.into())
}

pub(crate) fn block(device: &DeviceKey, rows: &[Row<'_>]) -> Block {
    let mut keys: Vec<(&str, Kind)> =
        rows.iter().flat_map(|(_, _, values)| values.iter().map(|(name, value)| (*name, value.kind()))).collect();
    keys.sort_unstable();
    keys.dedup();
    let column = |(name, kind): &(&str, Kind)| {
        let value = |row: &Row<'_>| row.2.iter().find(|(n, v)| n == name && v.kind() == *kind).map(|(_, v)| v.clone());
        let values: Vec<Option<Value>> = rows.iter().map(value).collect();
        let present = values.iter().map(Option::is_some).collect::<Vec<_>>();
        let there = values.into_iter().flatten();
        let data = match kind {
            Kind::Float => ColumnData::Float(there.map(|v| if let Value::Float(v) = v { v } else { 0.0 }).collect()),
            Kind::Int => ColumnData::Int(there.map(|v| if let Value::Int(v) = v { v } else { 0 }).collect()),
            Kind::Bool => ColumnData::Bool(there.map(|v| v == Value::Bool(true)).collect()),
            Kind::Str => ColumnData::Str(there.map(|v| if let Value::Str(v) = v { v } else { "".into() }).collect()),
        };
        Column { name: Arc::from(*name), present: if present.contains(&false) { present } else { Vec::new() }, data }
    };
    Block {
        id: BlockId { device: device.clone(), log: "log".into(), first_offset: 0, part: 0 },
        times: rows.iter().map(|row| row.0).collect(),
        received: rows.iter().map(|row| row.0).collect(),
        seqs: rows.iter().map(|row| row.1).collect(),
        claimed: Vec::new(),
        device_timed: Vec::new(),
        columns: keys.iter().map(column).collect(),
    }
}

/// Readings with one value each.
pub(crate) fn simple(device: &DeviceKey, from: Nanos, rows: i64, name: &str, value: impl Fn(i64) -> Value) -> Block {
    let rows: Vec<Row<'_>> =
        (0..rows).map(|n| (from + n * MILLI, Some(n.unsigned_abs()), vec![(name, value(n))])).collect();
    block(device, &rows)
}
