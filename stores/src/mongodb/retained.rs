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

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use async_trait::async_trait;
use model::Nanos;
use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{Binary, Document, RawDocument, doc};

use super::schema::RETAINED;
use super::update::Updates;
use super::{MongoStore, decode};
use crate::contract::{Result, Retained, RetainedKey, RetainedMessage, RetainedPage};

/// A cleared topic is remembered for this long.
const CLEARED: Nanos = 86_400 * 1_000_000_000;

/// Messages that are read in one request.
const READ_AT_ONCE: usize = 64;
/// Documents of a batch of a part.
const BATCH: u32 = 512;

fn id(message: &RetainedMessage) -> String {
    key(&message.tenant, &message.topic)
}

fn key(tenant: &str, topic: &str) -> String {
    format!("{tenant}#{topic}")
}

fn any_of(tenant: &str, topics: &[String]) -> Document {
    doc! { "$in": topics.iter().map(|topic| key(tenant, topic)).collect::<Vec<_>>() }
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
    async fn page(&self, after: Option<&RetainedKey>, most_bytes: usize) -> Result<RetainedPage> {
        let server = self.server().await?;
        let collection = server.collection(RETAINED);
        let behind = after.map_or_else(|| doc! {}, |(tenant, topic)| doc! { "_id": { "$gt": key(tenant, topic) } });
        // A batch that is larger than the part would be read for nothing.
        let request = collection.find(behind).sort(doc! { "_id": 1 }).batch_size(BATCH);
        let cursor = server.send("find", request).await.map_err(|error| server.failed(&error))?;
        let (name, mut bytes) = (server.name(RETAINED), 0);
        let is_full = |all: &[RetainedMessage]| {
            bytes += all.last().map_or(0, RetainedMessage::bytes);
            bytes >= most_bytes
        };
        let read = |document: &RawDocument| decode(&name, document);
        let all = server.gather_until(server.request_limit(), cursor, read, is_full).await?;
        let last = all.last().filter(|_| bytes >= most_bytes);
        let next = last.map(|last| (Arc::clone(&last.tenant), last.topic.clone()));
        let newest = all.iter().map(|message| message.received).max().unwrap_or_default();
        let (cleared, messages): (Vec<_>, Vec<_>) = all.into_iter().partition(|message| message.payload.is_empty());
        let old: Vec<String> = cleared
            .into_iter()
            .filter(|message| message.received < newest - CLEARED)
            .map(|message| id(&message))
            .collect();
        if !old.is_empty() {
            let filter = doc! { "_id": { "$in": old }, "m.received": { "$lt": newest - CLEARED } };
            server.send("delete", collection.delete_many(filter)).await.map_err(|error| server.failed(&error))?;
        }
        Ok(RetainedPage { messages, next })
    }

    async fn holds(&self, tenant: &str, topics: &[String]) -> Result<Vec<bool>> {
        let server = self.server().await?;
        let collection = server.collection(RETAINED);
        // Not one that was cleared, whose payload is empty.
        let empty = Binary { subtype: BinarySubtype::Generic, bytes: Vec::new() };
        let request = collection.find(doc! { "_id": any_of(tenant, topics), "m.payload": { "$ne": empty } });
        let request = request.projection(doc! { "t": 1 });
        let cursor = server.send("find", request).await.map_err(|error| server.failed(&error))?;
        let name = server.name(RETAINED);
        let topic = |document: &RawDocument| {
            let topic = document.get_str("t").map(str::to_owned);
            topic.map_err(|_| decode::damaged(&name, document, "it has no topic"))
        };
        let held = server.gather(server.request_limit(), cursor, topic).await?;
        let held: HashSet<String> = held.into_iter().collect();
        Ok(topics.iter().map(|topic| held.contains(topic)).collect())
    }

    async fn read(&self, tenant: &str, topics: &[String], most_bytes: usize) -> Result<Vec<Option<RetainedMessage>>> {
        let server = self.server().await?;
        let collection = server.collection(RETAINED);
        let (mut found, mut bytes) = (Vec::new(), 0);
        // Sizes are not known before.
        for topics in topics.chunks(READ_AT_ONCE) {
            let request = collection.find(doc! { "_id": any_of(tenant, topics) });
            let cursor = server.send("find", request).await.map_err(|error| server.failed(&error))?;
            let name = server.name(RETAINED);
            let read = server.gather(server.request_limit(), cursor, |document| decode(&name, document)).await?;
            let held = read.into_iter().filter(|message| !message.payload.is_empty());
            let mut held: HashMap<String, RetainedMessage> =
                held.map(|message| (message.topic.clone(), message)).collect();
            for topic in topics {
                let message = held.remove(topic);
                bytes += message.as_ref().map_or(1, RetainedMessage::bytes);
                found.push(message);
                if bytes >= most_bytes {
                    return Ok(found);
                }
            }
        }
        Ok(found)
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
