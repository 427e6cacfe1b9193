//! Documents into blocks: the inverse of [`encode`](super::encode).

use std::sync::Arc;

use model::{DeviceKey, Kind, Nanos, Value};
use mongodb::bson::{RawArray, RawBsonRef, RawDocument};

use super::names;
use crate::block::{Block, BlockId, BlockMeta, Column, ColumnData};
use crate::contract::{Result, StoreError};

/// Returns the key of a document, for error messages too.
pub(super) fn key(document: &RawDocument) -> &str {
    document.get("_id").ok().flatten().and_then(RawBsonRef::as_str).unwrap_or("without a key")
}

/// Returns an error that names the damaged document.
pub(super) fn damaged(collection: &str, document: &RawDocument, what: &str) -> StoreError {
    StoreError::Damaged(format!("document {} of collection {collection}: {what}", key(document)))
}

/// Returns the integer in a field.
pub(super) fn long(document: &RawDocument, field: &str) -> Option<i64> {
    match document.get(field).ok().flatten()? {
        RawBsonRef::Int64(value) => Some(value),
        RawBsonRef::Int32(value) => Some(value.into()),
        _ => None,
    }
}

/// Returns a value with its type.
pub(super) fn value(value: RawBsonRef<'_>) -> Option<Value> {
    match value {
        RawBsonRef::Double(v) => Some(Value::Float(v)),
        RawBsonRef::Int64(v) => Some(Value::Int(v)),
        RawBsonRef::Int32(v) => Some(Value::Int(v.into())),
        RawBsonRef::Boolean(v) => Some(Value::Bool(v)),
        RawBsonRef::String(v) => Some(Value::Str(v.into())),
        _ => None,
    }
}

/// Returns place and extent of a block.
pub(super) fn meta(collection: &str, document: &RawDocument) -> Result<BlockMeta> {
    let read = || {
        let place = document.get("_id").ok().flatten()?.as_str()?.as_bytes().into();
        let (first_time, last_time) = (long(document, "t0")?, long(document, "t1")?);
        Some(BlockMeta { place, first_time, last_time, rows: u32::try_from(long(document, "n")?).ok()? })
    };
    read().ok_or_else(|| damaged(collection, document, "a key, t0, t1 or n is missing or has another type"))
}

fn id(key: &str) -> Option<BlockId> {
    let mut parts = key.rsplitn(5, '#');
    let (device, tenant) = (parts.next()?, parts.next()?);
    let part = parts.next()?.parse().ok()?;
    let first_offset = u64::from_str_radix(parts.next()?, 16).ok()?;
    let log = parts.next()?.into();
    Some(BlockId { device: DeviceKey { tenant: tenant.into(), id: device.into() }, log, first_offset, part })
}

/// Returns the block of a document, with the columns that were requested, by name and type.
pub(super) fn decode(collection: &str, document: &RawDocument) -> Result<Block> {
    let fault = |what: &str| damaged(collection, document, what);
    let id = id(key(document)).ok_or_else(|| fault("its key is malformed"))?;
    let times = longs(document, "t").and_then(whole).ok_or_else(|| fault("t is missing or malformed"))?;
    let rows = times.len();
    let received = longs(document, "r").and_then(whole).ok_or_else(|| fault("r is missing or malformed"))?;
    let optional = |field: &str| match document.get(field) {
        Ok(None) => Ok(Vec::new()),
        _ => longs(document, field)
            .filter(|values| values.len() == rows)
            .ok_or_else(|| fault(&format!("{field} is malformed"))),
    };
    let seqs = optional("s")?.into_iter().map(|s| s.map(i64::cast_unsigned)).collect();
    let claimed = optional("c")?;
    let device_timed = match document.get("o") {
        Ok(None) => Vec::new(),
        _ => bits(document, "o").filter(|bits| bits.len() == rows).ok_or_else(|| fault("o is malformed"))?,
    };
    if rows == 0 || received.len() != rows || long(document, "n").is_some_and(|n| usize::try_from(n) != Ok(rows)) {
        return Err(fault("its arrays have different lengths"));
    }
    let mut columns = Vec::new();
    if let Ok(Some(values)) = document.get("v") {
        let values = values.as_document().ok_or_else(|| fault("v is not a document"))?;
        for field in values {
            let (field, value) = field.map_err(|error| fault(&error.to_string()))?;
            let fault = || fault(&format!("value {} is malformed", field.as_str()));
            let array = value.as_array().ok_or_else(fault)?;
            read_columns(field.as_str(), array, rows, &mut columns).ok_or_else(fault)?;
        }
    }
    columns.sort_by(|a: &Column, b: &Column| (&a.name, a.data.kind()).cmp(&(&b.name, b.data.kind())));
    Ok(Block { id, times, received, seqs, claimed, device_timed, columns })
}

fn longs(document: &RawDocument, field: &str) -> Option<Vec<Option<Nanos>>> {
    let array = document.get(field).ok().flatten()?.as_array()?;
    array
        .into_iter()
        .map(|value| match value.ok()? {
            RawBsonRef::Int64(value) => Some(Some(value)),
            RawBsonRef::Int32(value) => Some(Some(value.into())),
            RawBsonRef::Null => Some(None),
            _ => None,
        })
        .collect()
}

fn whole(values: Vec<Option<i64>>) -> Option<Vec<i64>> {
    values.into_iter().collect()
}

fn bits(document: &RawDocument, field: &str) -> Option<Vec<bool>> {
    let array = document.get(field).ok().flatten()?.as_array()?;
    array.into_iter().map(|value| value.ok()?.as_bool()).collect()
}

/// Returns the columns of one field, one for each type that its values have.
fn read_columns(field: &str, array: &RawArray, rows: usize, columns: &mut Vec<Column>) -> Option<()> {
    let (name, kind) = names::name(field)?;
    let name: Arc<str> = name.into();
    let mut open: Vec<(Vec<bool>, ColumnData)> = kind.map(|kind| (Vec::new(), empty(kind))).into_iter().collect();
    let mut row = 0;
    for value in array {
        let value = value.ok()?;
        let kind = match value {
            RawBsonRef::Null => {
                row += 1;
                continue;
            }
            RawBsonRef::Double(_) => Kind::Float,
            RawBsonRef::Int64(_) | RawBsonRef::Int32(_) => Kind::Int,
            RawBsonRef::Boolean(_) => Kind::Bool,
            RawBsonRef::String(_) => Kind::Str,
            _ => return None,
        };
        let at = open.iter().position(|(_, data)| data.kind() == kind).unwrap_or_else(|| {
            open.push((Vec::new(), empty(kind)));
            open.len() - 1
        });
        let (present, data) = &mut open[at];
        present.resize(row, false);
        present.push(true);
        match (data, value) {
            (ColumnData::Float(values), RawBsonRef::Double(value)) => values.push(value),
            (ColumnData::Int(values), RawBsonRef::Int64(value)) => values.push(value),
            (ColumnData::Int(values), RawBsonRef::Int32(value)) => values.push(value.into()),
            (ColumnData::Bool(values), RawBsonRef::Boolean(value)) => values.push(value),
            (ColumnData::Str(values), RawBsonRef::String(value)) => values.push(value.into()),
            _ => return None,
        }
        row += 1;
    }
    for (mut present, data) in open {
        present.resize(row, false);
        if data.len() == row {
            present.clear();
        }
        columns.push(Column { name: Arc::clone(&name), present, data });
    }
    (row == rows).then_some(())
}

fn empty(kind: Kind) -> ColumnData {
    match kind {
        Kind::Float => ColumnData::Float(Vec::new()),
        Kind::Int => ColumnData::Int(Vec::new()),
        Kind::Bool => ColumnData::Bool(Vec::new()),
        Kind::Str => ColumnData::Str(Vec::new()),
    }
}
