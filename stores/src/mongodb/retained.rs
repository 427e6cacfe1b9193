//! Retained messages: the topic is the key.

use std::collections::BTreeMap;

use mongodb::bson::{RawBsonRef, RawDocument, doc};

use super::schema::RETAINED;
use super::update::Updates;
use super::{Inner, decode};
use crate::contract::{Result, RetainedMessage};

fn decode(collection: &str, document: &RawDocument) -> Result<RetainedMessage> {
    let value = |field: &str| document.get(field).ok().flatten();
    let bytes = |field: &str| Some(value(field).and_then(RawBsonRef::as_binary)?.bytes.to_vec());
    let read = || {
        Some(RetainedMessage {
            topic: value("_id")?.as_str()?.to_owned(),
            qos: u8::try_from(decode::long(document, "qos")?).ok()?,
            payload: bytes("payload")?,
            properties: bytes("properties")?,
            received: decode::long(document, "received")?,
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
        self.gather(self.request_limit(), cursor, |document| decode(&name, document)).await
    }

    pub(super) async fn apply_retained(&self, changes: Vec<RetainedMessage>) -> Result<()> {
        // Of a topic only the last change counts, and topics do not depend on each other.
        let last: BTreeMap<&str, &RetainedMessage> = changes.iter().map(|change| (&*change.topic, change)).collect();
        let (cleared, set): (Vec<_>, Vec<_>) = last.into_values().partition(|change| change.payload.is_empty());
        let mut updates = Updates::new(&self.name(RETAINED));
        for message in set {
            updates.add(|w| {
                w.nested("q", |w| w.text("_id", &message.topic));
                w.nested("u", |w| {
                    w.int("qos", message.qos.into());
                    w.binary("payload", &message.payload);
                    w.binary("properties", &message.properties);
                    w.long("received", message.received);
                });
                w.boolean("upsert", true);
            });
        }
        self.update(updates).await?;
        if !cleared.is_empty() {
            let topics: Vec<&str> = cleared.iter().map(|change| &*change.topic).collect();
            let collection = self.collection(RETAINED);
            let request = collection.delete_many(doc! { "_id": { "$in": topics } });
            self.send("delete", request).await.map_err(|error| self.failed(&error))?;
        }
        Ok(())
    }
}
