//! Retained messages: the topic is the key.
//!
//! ```text
//! _id  topic
//! m    { received, qos, payload, properties }; no payload: the topic was cleared
//! ```
//! The server keeps the largest `m`, which is the newest: fields are compared in their order. So a writer that was left behind, and
//! comes with what has long been replaced or cleared, changes nothing.

use std::collections::BTreeMap;

use model::Nanos;
use mongodb::bson::{RawDocument, doc};

use super::schema::RETAINED;
use super::update::Updates;
use super::{Inner, decode};
use crate::contract::{Result, RetainedMessage};

/// A topic that was cleared is kept in mind for so long.
const CLEARED: Nanos = 86_400 * 1_000_000_000;

fn decode(collection: &str, document: &RawDocument) -> Result<RetainedMessage> {
    let read = || {
        let message = document.get_document("m").ok()?;
        let bytes = |field: &str| Some(message.get_binary(field).ok()?.bytes.to_vec());
        Some(RetainedMessage {
            topic: document.get_str("_id").ok()?.to_owned(),
            qos: u8::try_from(decode::long(message, "qos")?).ok()?,
            payload: bytes("payload")?,
            properties: bytes("properties")?,
            received: decode::long(message, "received")?,
        })
    };
    read().ok_or_else(|| decode::damaged(collection, document, "a field is missing or has another type"))
}

impl Inner {
    pub(super) async fn load_retained(&self) -> Result<Vec<RetainedMessage>> {
        let collection = self.collection(RETAINED);
        let request = collection.find(doc! {}).sort(doc! { "_id": 1 });
        let cursor = self.send("find", request).await.map_err(|error| self.failed(&error))?;
        let name = self.name(RETAINED);
        let all = self.gather(self.request_limit(), cursor, |document| decode(&name, document)).await?;
        let newest = all.iter().map(|message| message.received).max().unwrap_or_default();
        let (cleared, held): (Vec<_>, Vec<_>) = all.into_iter().partition(|message| message.payload.is_empty());
        let old: Vec<String> = cleared
            .into_iter()
            .filter(|message| message.received < newest - CLEARED)
            .map(|message| message.topic)
            .collect();
        if !old.is_empty() {
            let filter = doc! { "_id": { "$in": old }, "m.received": { "$lt": newest - CLEARED } };
            self.send("delete", collection.delete_many(filter)).await.map_err(|error| self.failed(&error))?;
        }
        Ok(held)
    }

    pub(super) async fn apply_retained(&self, changes: Vec<RetainedMessage>) -> Result<()> {
        // Of a topic only the last change counts, and topics do not depend on each other.
        let last: BTreeMap<&str, &RetainedMessage> = changes.iter().map(|change| (&*change.topic, change)).collect();
        let mut updates = Updates::new(&self.name(RETAINED));
        for message in last.into_values() {
            updates.add(|w| {
                w.nested("q", |w| w.text("_id", &message.topic));
                w.nested("u", |w| {
                    w.nested("$max", |w| {
                        w.nested("m", |w| {
                            w.long("received", message.received);
                            w.int("qos", message.qos.into());
                            w.binary("payload", &message.payload);
                            w.binary("properties", &message.properties);
                        });
                    });
                });
                w.boolean("upsert", true);
            });
        }
        self.update(updates).await
    }
}
