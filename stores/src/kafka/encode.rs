//! Records made from readings.

use std::collections::BTreeMap;
use std::sync::Arc;

use rdkafka::message::{Header, OwnedHeaders};

use super::config::{Config, Format};
use super::protobuf;
use super::topic::Template;
use crate::contract::{DeviceBatch, Result, StoreError};
use crate::reading::{SCHEMA, rows};

/// Names of the headers.
const TENANT: &str = "weir-tenant";
const MESSAGE_ID: &str = "weir-message-id";
const SCHEMA_OF: &str = "weir-schema";
const TRACE: &str = "traceparent";
/// More than Kafka adds to a record: lengths, header of the batch.
const FRAMING: usize = 160;

/// One reading on its way to Kafka.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) topic: Arc<str>,
    pub(super) key: Arc<str>,
    pub(super) value: Vec<u8>,
    /// Milliseconds since 1970.
    pub(super) timestamp: i64,
    /// Log offset of the reading.
    pub(super) offset: u64,
    tenant: Arc<str>,
    message_id: String,
    traceparent: Option<String>,
    schema: &'static str,
}

impl Record {
    pub(super) fn headers(&self) -> OwnedHeaders {
        let headers = OwnedHeaders::new_with_capacity(4)
            .insert(Header { key: TENANT, value: Some(&*self.tenant) })
            .insert(Header { key: MESSAGE_ID, value: Some(&self.message_id) })
            .insert(Header { key: SCHEMA_OF, value: Some(self.schema) });
        match &self.traceparent {
            Some(traceparent) => headers.insert(Header { key: TRACE, value: Some(traceparent) }),
            None => headers,
        }
    }

    /// An upper bound of the bytes that it takes in a batch.
    pub(super) fn size(&self) -> usize {
        let headers = TENANT.len() + MESSAGE_ID.len() + SCHEMA_OF.len() + TRACE.len();
        let values = self.tenant.len() + self.message_id.len() + self.schema.len();
        let trace = self.traceparent.as_ref().map_or(0, String::len);
        self.key.len() + self.value.len() + headers + values + trace + FRAMING
    }
}

/// The records of `batches` in the order of their log offsets, without those below `from`.
///
/// # Errors
/// [`StoreError::Refused`] for a reading that no record can be made of, or whose record is too
/// large.
pub(super) fn records(
    config: &Config,
    topics: &Template,
    batches: &[DeviceBatch],
    from: Option<u64>,
) -> Result<Vec<Record>> {
    let mut records = Vec::with_capacity(batches.iter().map(|batch| batch.offsets.len()).sum());
    for batch in batches {
        let device = &batch.block.id.device;
        let topic: Arc<str> = topics.topic(&device.tenant).map_err(StoreError::Refused)?.into();
        let key =
            if topics.by_tenant() { Arc::clone(&device.id) } else { format!("{}/{}", device.tenant, device.id).into() };
        let traces: BTreeMap<usize, _> = batch.traces.iter().copied().collect();
        for row in rows(&batch.block, &batch.offsets) {
            if from.is_some_and(|from| row.offset < from) {
                continue;
            }
            let (value, schema) = match config.format {
                Format::Json => {
                    let mut value = Vec::with_capacity(256);
                    row.write_json(&mut value);
                    (value, JSON)
                }
                Format::Protobuf => (protobuf::encode(&row), PROTOBUF),
            };
            let record = Record {
                topic: Arc::clone(&topic),
                key: Arc::clone(&key),
                value,
                // The client library takes 0 for "now".
                timestamp: (row.time() / 1_000_000).max(1),
                offset: row.offset,
                tenant: Arc::clone(&device.tenant),
                message_id: row.message_id(),
                traceparent: traces.get(&row.index).map(ToString::to_string),
                schema,
            };
            let (size, limit) = (record.size(), config.message_max_bytes as usize);
            if size > limit {
                return Err(StoreError::Refused(format!(
                    "reading {} makes a record of up to {size} bytes; `message_max_bytes` is {limit}",
                    record.message_id
                )));
            }
            records.push(record);
        }
    }
    records.sort_by_key(|record| record.offset);
    Ok(records)
}

const JSON: &str = "weir.reading+json;1";
const PROTOBUF: &str = "weir.v1.Reading";
const _: () = assert!(SCHEMA == 1, "the header `weir-schema` carries the version too");
