//! A refused reading as the payload of its dead letter.

use serde_json::{Map, Number, Value as Json};
use stores::{Block, ColumnData};

/// The only row of `block` as JSON: `{"ts": ns, "seq": n, "<name>": value, …}`. A name with values of two types keeps
/// the first.
pub(crate) fn payload(block: &Block) -> Vec<u8> {
    let mut fields = Map::new();
    let time = block.claimed.first().copied().flatten();
    let time = time.or_else(|| block.device_timed.first().copied().unwrap_or(true).then(|| block.times[0]));
    if let Some(time) = time {
        fields.insert("ts".to_owned(), time.into());
    }
    if let Some(seq) = block.seqs.first().copied().flatten() {
        fields.insert("seq".to_owned(), seq.into());
    }
    for column in &block.columns {
        let value = match &column.data {
            ColumnData::Float(v) => v.first().and_then(|v| Number::from_f64(*v)).map(Json::Number),
            ColumnData::Int(v) => v.first().map(|v| (*v).into()),
            ColumnData::Bool(v) => v.first().map(|v| (*v).into()),
            ColumnData::Str(v) => v.first().map(|v| v.to_string().into()),
        };
        if let Some(value) = value {
            fields.entry(column.name.to_string()).or_insert(value);
        }
    }
    Json::Object(fields).to_string().into_bytes()
}
