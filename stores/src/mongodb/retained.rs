//! Retained messages: tenant and topic are the key.
//!
//! ```text
//! _id   tenant # topic; its index is unique, and no tenant holds `#`
//! w, t  tenant, topic
//! m     { received, qos, payload, properties }; an empty payload: the topic was cleared
//! ```
//! The server keeps the largest `m`, which is the newest: documents are compared field by field. So
//! a writer that was left behind and comes with a message that has long been replaced or cleared
//! changes nothing.

use std::collections::BTreeMap;

use async_trait::async_trait;
use model::Nanos;
use mongodb::bson::{RawDocument, doc};

use super::schema::RETAINED;
use super::update::Updates;
use super::{MongoStore, decode};
use crate::contract::{Result, Retained, RetainedMessage};

/// A cleared topic is remembered for this long.
const CLEARED: Nanos = 86_400 * 1_000_000_000;

fn id(message: &RetainedMessage) -> String {
    format!("{}#{}", message.tenant, message.topic)
}

fn decode(collection: &str, document: &RawDocument) -> Result<RetainedMessage> {
    let read = || {
        let message = document.get_document("m").ok()?;
        let bytes = |field: &str| Some(message.get_binary(field).ok()?.bytes.to_vec());
        Some(RetainedMessage {
            tenant: document.get_str("w").ok()?.into(),
            topic: document.get_str("t").ok()?.to_owned(),
            qos: u8::try_from(decode::long(message, "qos")?).ok()?,
            payload: bytes("payload")?,
            properties: bytes("properties")?,
            received: decode::long(message, "received")?,
        })
    };
    read().ok_or_else(|| decode::damaged(collection, document, "a field is missing or has another type"))
}

#[async_trait]
impl Retained for MongoStore {
    async fn load(&self) -> Result<Vec<RetainedMessage>> {
        let server = self.server().await?;
        let collection = server.collection(RETAINED);
        let request = collection.find(doc! {}).sort(doc! { "_id": 1 });
        let cursor = server.send("find", request).await.map_err(|error| server.failed(&error))?;
        let name = server.name(RETAINED);
        let all = server.gather(server.request_limit(), cursor, |document| decode(&name, document)).await?;
        let newest = all.iter().map(|message| message.received).max().unwrap_or_default();
        let (cleared, held): (Vec<_>, Vec<_>) = all.into_iter().partition(|message| message.payload.is_empty());
        let old: Vec<String> = cleared
            .into_iter()
            .filter(|message| message.received < newest - CLEARED)
            .map(|message| id(&message))
            .collect();
        if !old.is_empty() {
            let filter = doc! { "_id": { "$in": old }, "m.received": { "$lt": newest - CLEARED } };
            server.send("delete", collection.delete_many(filter)).await.map_err(|error| server.failed(&error))?;
        }
        Ok(held)
    }

    async fn apply(&self, changes: Vec<RetainedMessage>) -> Result<()> {
        let server = self.server().await?;
        // Only the last change of a topic counts, and topics do not depend on each other.
        let last: BTreeMap<(&str, &str), &RetainedMessage> =
            changes.iter().map(|change| ((&*change.tenant, &*change.topic), change)).collect();
        let mut updates = Updates::new(&server.name(RETAINED));
        for message in last.into_values() {
            updates.add(|w| {
                w.nested("q", |w| w.text("_id", &id(message)));
                w.nested("u", |w| {
                    w.nested("$setOnInsert", |w| {
                        w.text("w", &message.tenant);
                        w.text("t", &message.topic);
                    });
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
        server.update(updates).await
    }
}
