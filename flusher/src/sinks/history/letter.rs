//! A refused reading as a dead letter.

use std::sync::Arc;

use serde_json::{Map, Number, Value as Json};
use stores::contract::Deadletter;
use stores::{Block, ColumnData};

/// The only row of `block` as a dead letter of the projection `stage`.
pub(crate) fn refused_reading(block: &Block, stage: &str, reason: &str) -> Deadletter {
    Deadletter {
        log: Arc::clone(&block.id.log),
        offset: block.id.first_offset,
        tenant: Arc::clone(&block.id.device.tenant),
        device: Some(Arc::clone(&block.id.device.id)),
        client: String::new(),
        topic: String::new(),
        payload: payload(block),
        received: block.received.first().copied().unwrap_or_default(),
        stage: stage.to_owned(),
        reason: reason.to_owned(),
        replayed: None,
    }
}

/// The only row of `block` as JSON: `{"ts": ns, "seq": n, "<name>": value, …}`. A name with values
/// of two types keeps the first.
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
