//! Dead letters.
//!
//! The key is tenant # log # offset (16 hexadecimal digits) # stage, so that keys sort in the order
//! of listing.

use std::sync::Arc;

use async_trait::async_trait;
use model::Nanos;
use mongodb::bson::{Document, RawBsonRef, RawDocument, RawDocumentBuf, doc};

use super::schema::LETTERS;
use super::server::Server;
use super::writer::Writer;
use super::{MongoStore, decode};
use crate::contract::{DeadLetters, Deadletter, LIST_BYTES, Result};

/// Bytes of letters in one request.
const BYTES: usize = 8 << 20;
/// Letters in one request.
const DOCUMENTS: usize = 1_000;

fn id(tenant: &str, log: &str, offset: u64, stage: &str) -> String {
    format!("{tenant}#{log}#{offset:016x}#{stage}")
}

fn encode(letter: &Deadletter) -> RawDocumentBuf {
    Writer::document(|w| {
        w.text("_id", &id(&letter.tenant, &letter.log, letter.offset, &letter.stage));
        w.text("w", &letter.tenant);
        w.text("log", &letter.log);
        w.long("offset", letter.offset.cast_signed());
        w.text("stage", &letter.stage);
        match &letter.device {
            Some(device) => w.text("d", device),
            None => w.null("d"),
        }
        w.text("client", &letter.client);
        w.text("topic", &letter.topic);
        w.binary("payload", &letter.payload);
        w.long("received", letter.received);
        w.text("reason", &letter.reason);
        w.optional_long("replayed", letter.replayed);
    })
}

fn decode(collection: &str, document: &RawDocument) -> Result<Deadletter> {
    let value = |field: &str| document.get(field).ok().flatten();
    let text = |field: &str| value(field).and_then(RawBsonRef::as_str);
    let read = || {
        Some(Deadletter {
            log: text("log")?.into(),
            offset: decode::long(document, "offset")?.cast_unsigned(),
            tenant: text("w")?.into(),
            device: text("d").map(Into::into),
            client: text("client")?.to_owned(),
            topic: text("topic")?.to_owned(),
            payload: value("payload")?.as_binary()?.bytes.to_vec(),
            received: decode::long(document, "received")?,
            stage: text("stage")?.to_owned(),
            reason: text("reason")?.to_owned(),
            replayed: decode::long(document, "replayed"),
        })
    };
    read().ok_or_else(|| decode::damaged(collection, document, "a field is missing or has another type"))
}

#[async_trait]
impl DeadLetters for MongoStore {
    async fn put(&self, letters: Vec<Deadletter>) -> Result<()> {
        let server = self.server().await?;
        let mut request = Vec::new();
        let mut bytes = 0;
        for letter in &letters {
            let document = encode(letter);
            let size = document.as_bytes().len();
            if !request.is_empty() && (bytes + size > BYTES || request.len() == DOCUMENTS) {
                server.insert(LETTERS, std::mem::take(&mut request)).await?;
                bytes = 0;
            }
            bytes += size;
            request.push(document);
        }
        if !request.is_empty() {
            server.insert(LETTERS, request).await?;
        }
        Ok(())
    }

    async fn list(&self, tenant: &str, after: Option<(&str, u64, &str)>, limit: usize) -> Result<Vec<Deadletter>> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        let from = match after {
            Some((log, offset, stage)) => id(tenant, log, offset, stage),
            None => format!("{tenant}#"),
        };
        // `$` follows `#`.
        let filter = doc! { "_id": { "$gt": from, "$lt": format!("{tenant}$") } };
        self.server().await?.letters(filter, 1, limit).await
    }

    async fn newest(&self, tenant: &str, log: &str, most: usize) -> Result<Vec<Deadletter>> {
        if most == 0 {
            return Ok(Vec::new());
        }
        let filter = doc! { "_id": { "$gt": format!("{tenant}#{log}#"), "$lt": format!("{tenant}#{log}$") } };
        self.server().await?.letters(filter, -1, most).await
    }

    async fn get(&self, tenant: &str, log: &str, offset: u64, stage: &str) -> Result<Option<Deadletter>> {
        Ok(self.server().await?.letters(doc! { "_id": id(tenant, log, offset, stage) }, 1, 1).await?.pop())
    }

    async fn mark_replayed(&self, tenant: &str, log: &str, offset: u64, stage: &str, at: Nanos) -> Result<()> {
        let server = self.server().await?;
        let request = server.collection(LETTERS);
        let request =
            request.update_one(doc! { "_id": id(tenant, log, offset, stage) }, doc! { "$set": { "replayed": at } });
        server.send("update", request).await.map(drop).map_err(|error| server.failed(&error))
    }

    async fn count_replayed(&self, stage: &str) -> Result<Vec<(Arc<str>, u64)>> {
        let replayed = doc! { "$match": { "stage": stage, "replayed": { "$exists": true, "$ne": null } } };
        let pipeline = [replayed, doc! { "$group": { "_id": "$w", "n": { "$sum": 1 } } }];
        Ok(self.server().await?.sums(LETTERS, pipeline, None).await?.into_iter().collect())
    }

    async fn count(&self) -> Result<Vec<(Arc<str>, u64)>> {
        let pipeline = [doc! { "$group": { "_id": "$w", "n": { "$sum": 1 } } }];
        Ok(self.server().await?.sums(LETTERS, pipeline, Some("by_tenant")).await?.into_iter().collect())
    }
}

impl Server {
    /// Reads letters in the order of `direction`, until they are [`LIST_BYTES`] long.
    async fn letters(&self, filter: Document, direction: i32, limit: usize) -> Result<Vec<Deadletter>> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let collection = self.collection(LETTERS);
        let request = collection.find(filter).sort(doc! { "_id": direction }).limit(limit);
        let cursor = self.send("find", request).await.map_err(|error| self.failed(&error))?;
        let name = self.name(LETTERS);
        let full = |letters: &[Deadletter]| letters.iter().map(Deadletter::bytes).sum::<usize>() >= LIST_BYTES;
        self.gather_until(self.request_limit(), cursor, |document| decode(&name, document), full).await
    }
}
