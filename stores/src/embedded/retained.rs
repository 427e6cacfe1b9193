//! Retained messages, one entry for each tenant and topic.

use async_trait::async_trait;
use model::Nanos;
use serde::{Deserialize, Serialize};

use super::meta::RETAINED;
use super::{EmbeddedStore, keys};
use crate::contract::{Result, Retained, RetainedMessage};

#[derive(Serialize, Deserialize)]
struct Row {
    qos: u8,
    payload: Vec<u8>,
    properties: Vec<u8>,
    received: Nanos,
}

#[async_trait]
impl Retained for EmbeddedStore {
    async fn load(&self) -> Result<Vec<RetainedMessage>> {
        self.blocking(|inner| {
            let entries = inner.entries(RETAINED, &[], None, usize::MAX)?;
            let message = |(key, value): (Vec<u8>, Vec<u8>)| {
                let Some(row) = inner.row::<Row>(&RETAINED, &key, &value)? else { return Ok(None) };
                let (tenant, topic) = keys::read_retained(&key)?;
                Ok(Some(RetainedMessage {
                    tenant: tenant.into(),
                    topic: topic.to_owned(),
                    qos: row.qos,
                    payload: row.payload,
                    properties: row.properties,
                    received: row.received,
                }))
            };
            entries.into_iter().filter_map(|entry| message(entry).transpose()).collect()
        })
        .await
    }

    async fn apply(&self, changes: Vec<RetainedMessage>) -> Result<()> {
        self.blocking(move |inner| {
            inner.sealing.prepare(changes.iter().map(|change| &*change.tenant))?;
            let mut rows = Vec::with_capacity(changes.len());
            for change in changes {
                let key = keys::retained(&change.tenant, &change.topic);
                let RetainedMessage { qos, payload, properties, received, .. } = change;
                let row = (!payload.is_empty()).then_some(Row { qos, payload, properties, received });
                let value = row.map(|row| inner.value(&RETAINED, &key, &row)).transpose()?;
                rows.push((key, value));
            }
            inner.change(|write| {
                let mut table = write.open_table(RETAINED)?;
                for (key, value) in &rows {
                    match value {
                        Some(value) => table.insert(&key[..], &value[..])?,
                        None => table.remove(&key[..])?,
                    };
                }
                Ok(())
            })
        })
        .await
    }
}
