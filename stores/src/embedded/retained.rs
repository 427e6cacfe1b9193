//! Retained messages, one entry for each tenant and topic.

use async_trait::async_trait;
use model::Nanos;
use serde::{Deserialize, Serialize};

use super::meta::RETAINED;
use super::{EmbeddedStore, keys};
use crate::contract::{Result, Retained, RetainedKey, RetainedMessage, RetainedPage};

#[derive(Serialize, Deserialize)]
struct Row {
    qos: u8,
    payload: Vec<u8>,
    properties: Vec<u8>,
    received: Nanos,
}

/// The first key behind a topic.
fn behind(tenant: &str, topic: &str) -> Vec<u8> {
    [&keys::retained(tenant, topic)[..], &[0]].concat()
}

impl Row {
    fn message(self, tenant: &str, topic: &str) -> RetainedMessage {
        let Self { qos, payload, properties, received } = self;
        RetainedMessage { tenant: tenant.into(), topic: topic.to_owned(), qos, payload, properties, received }
    }
}

#[async_trait]
impl Retained for EmbeddedStore {
    async fn page(&self, after: Option<&RetainedKey>, most_bytes: usize) -> Result<RetainedPage> {
        let from = after.map(|(tenant, topic)| behind(tenant, topic)).unwrap_or_default();
        self.blocking(move |inner| {
            let (mut entries, mut bytes) = (Vec::new(), 0);
            inner.scan(RETAINED, &from, |key, value| {
                bytes += value.len();
                entries.push((key.to_vec(), value.to_vec()));
                bytes < most_bytes
            })?;
            let mut page = RetainedPage::default();
            for (key, value) in &entries {
                let (tenant, topic) = keys::read_retained(key)?;
                if let Some(row) = inner.row::<Row>(&RETAINED, key, value)? {
                    page.messages.push(row.message(tenant, topic));
                }
            }
            if let Some((key, _)) = entries.last().filter(|_| bytes >= most_bytes) {
                let (tenant, topic) = keys::read_retained(key)?;
                page.next = Some((tenant.into(), topic.to_owned()));
            }
            Ok(page)
        })
        .await
    }

    async fn holds(&self, tenant: &str, topics: &[String]) -> Result<Vec<bool>> {
        let keys: Vec<_> = topics.iter().map(|topic| keys::retained(tenant, topic)).collect();
        self.blocking(move |inner| {
            let mut held = Vec::with_capacity(keys.len());
            inner.values(RETAINED, keys.iter().map(Vec::as_slice), |value| {
                held.push(value.is_some());
                true
            })?;
            Ok(held)
        })
        .await
    }

    async fn read(&self, tenant: &str, topics: &[String], most_bytes: usize) -> Result<Vec<Option<RetainedMessage>>> {
        let (tenant, topics) = (tenant.to_owned(), topics.to_vec());
        self.blocking(move |inner| {
            let keys: Vec<_> = topics.iter().map(|topic| keys::retained(&tenant, topic)).collect();
            let (mut values, mut bytes) = (Vec::new(), 0);
            inner.values(RETAINED, keys.iter().map(Vec::as_slice), |value| {
                bytes += value.map_or(1, <[u8]>::len);
                values.push(value.map(<[u8]>::to_vec));
                bytes < most_bytes
            })?;
            let row = |((value, key), topic): ((Option<Vec<u8>>, &Vec<u8>), &String)| {
                let row = value.map(|value| inner.row::<Row>(&RETAINED, key, &value)).transpose()?.flatten();
                Ok(row.map(|row| row.message(&tenant, topic)))
            };
            values.into_iter().zip(&keys).zip(&topics).map(row).collect()
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
