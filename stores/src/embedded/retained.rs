//! Retained messages, one entry for each tenant and topic.

use async_trait::async_trait;
use model::Nanos;
use serde::{Deserialize, Serialize};

use super::meta::{RETAINED, seal, unseal};
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
            let path = inner.meta_path();
            let entries = inner.entries(RETAINED, &[], None, usize::MAX)?;
            let message = |(key, value): (Vec<u8>, Vec<u8>)| {
                let row: Row = unseal(&path, &key, &value)?;
                let (tenant, topic) = keys::read_retained(&key)?;
                Ok(RetainedMessage {
                    tenant: tenant.into(),
                    topic: topic.to_owned(),
                    qos: row.qos,
                    payload: row.payload,
                    properties: row.properties,
                    received: row.received,
                })
            };
            entries.into_iter().map(message).collect()
        })
        .await
    }

    async fn apply(&self, changes: Vec<RetainedMessage>) -> Result<()> {
        self.blocking(move |inner| {
            inner.change(|write| {
                let mut table = write.open_table(RETAINED)?;
                for change in changes {
                    let key = keys::retained(&change.tenant, &change.topic);
                    if change.payload.is_empty() {
                        table.remove(&key[..])?;
                        continue;
                    }
                    let RetainedMessage { qos, payload, properties, received, .. } = change;
                    table.insert(&key[..], &seal(&Row { qos, payload, properties, received })[..])?;
                }
                Ok(())
            })
        })
        .await
    }
}
