//! Dead letters.
//!
//! The key is tenant # log # offset (16 hexadecimal digits) # stage, so that keys sort in the order
//! of listing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use model::Nanos;
use mongodb::bson::{Bson, Document, RawBsonRef, RawDocument, RawDocumentBuf, doc};
use mongodb::error::Error;

use super::schema::{LETTERS, SCHEMA};
use super::server::Server;
use super::writer::Writer;
use super::{LONG_REQUEST, MongoStore, decode};
use crate::contract::{DeadLetters, Deadletter, INGEST, LIST_BYTES, LetterBound, LetterSum, Result, StoreError};

/// Bytes of letters in one request.
const BYTES: usize = 8 << 20;
/// Letters in one request.
const DOCUMENTS: usize = 1_000;

fn id(tenant: &str, log: &str, offset: u64, stage: &str) -> String {
    format!("{tenant}#{log}#{offset:016x}#{stage}")
}

/// A number of the server, of whichever type.
fn number(value: &Bson) -> Option<u64> {
    match value {
        Bson::Int32(number) => u64::try_from(*number).ok(),
        Bson::Int64(number) => u64::try_from(*number).ok(),
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count of the server")]
        Bson::Double(number) => Some(*number as u64),
        _ => None,
    }
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
        self.server().await?.letters(filter, 1, limit, LIST_BYTES).await
    }

    async fn newest(&self, tenant: &str, log: &str, most: usize) -> Result<Vec<Deadletter>> {
        if most == 0 {
            return Ok(Vec::new());
        }
        let filter = doc! { "_id": { "$gt": format!("{tenant}#{log}#"), "$lt": format!("{tenant}#{log}$") } };
        self.server().await?.letters(filter, -1, most, usize::MAX).await
    }

    async fn get(&self, tenant: &str, log: &str, offset: u64, stage: &str) -> Result<Option<Deadletter>> {
        Ok(self.server().await?.letters(doc! { "_id": id(tenant, log, offset, stage) }, 1, 1, LIST_BYTES).await?.pop())
    }

    async fn mark_replayed(&self, tenant: &str, log: &str, offset: u64, stage: &str, at: Nanos) -> Result<()> {
        let server = self.server().await?;
        let request = server.collection(LETTERS);
        let request =
            request.update_one(doc! { "_id": id(tenant, log, offset, stage) }, doc! { "$set": { "replayed": at } });
        server.send("update", request).await.map(drop).map_err(|error| server.failed(&error))
    }

    async fn trim(&self, bound: LetterBound) -> Result<u64> {
        self.server().await?.trim_letters(bound).await
    }

    async fn count_trimmed(&self) -> Result<Vec<(Arc<str>, u64)>> {
        let server = self.server().await?;
        let counts = doc! { "$match": { "_id": { "$gt": TRIMMED, "$lt": TRIMMED_END } } };
        let counts = server.sums(SCHEMA, [counts], None).await?;
        Ok(counts.into_iter().map(|(id, count)| (id[TRIMMED.len()..].into(), count)).collect())
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

/// Beginning of the ids of documents of `schema` that count deleted letters, before the tenant; and
/// the first text after all of them.
pub(super) const TRIMMED: &str = "dead_letters_trimmed#";
const TRIMMED_END: &str = "dead_letters_trimmed$";
/// Letters deleted in one transaction.
const TRANSACTION: i64 = 500;

impl Server {
    async fn trim_letters(&self, bound: LetterBound) -> Result<u64> {
        let (mut deleted, mut staying) = (0, BTreeSet::new());
        // A look at what the server knows of the collection costs it nothing.
        let stats = doc! { "collStats": self.name(LETTERS) };
        let stats =
            self.send("collStats", self.database.run_command(stats)).await.map_err(|error| self.failed(&error))?;
        let stat = |field: &str| stats.get(field).and_then(number).unwrap_or(u64::MAX);
        if stat("count") <= bound.count && stat("size") <= bound.bytes {
            return Ok(0);
        }
        loop {
            let sum = |of: Document| [doc! { "$group": { "_id": "$w", "n": { "$sum": of } } }];
            let counts = self.sums(LETTERS, [doc! { "$group": { "_id": "$w", "n": { "$sum": 1 } } }], None).await?;
            let bytes = self.sums(LETTERS, sum(doc! { "$bsonSize": "$$ROOT" }), None).await?;
            let held: BTreeMap<Arc<str>, LetterSum> = counts
                .into_iter()
                .filter(|(tenant, _)| !staying.contains(tenant))
                .map(|(tenant, count)| {
                    let bytes = bytes.get(&tenant).copied().unwrap_or_default();
                    (tenant, LetterSum { count, bytes })
                })
                .collect();
            let Some(tenant) = bound.exceeded_by(held.iter(), deleted > 0) else { return Ok(deleted) };
            let leaving = self.oldest_letters(tenant, bound, &held).await?;
            if leaving.is_empty() {
                // What it still has stays, and is no reason for others to leave.
                staying.insert(Arc::clone(tenant));
                continue;
            }
            self.delete_letters(tenant, &leaving).await?;
            deleted += leaving.len() as u64;
        }
    }

    /// Returns the ids of the oldest letters of a tenant that may leave, as many as are too many.
    async fn oldest_letters(
        &self,
        tenant: &Arc<str>,
        bound: LetterBound,
        held: &BTreeMap<Arc<str>, LetterSum>,
    ) -> Result<Vec<String>> {
        let filter = doc! {
            "_id": { "$gt": format!("{tenant}#"), "$lt": format!("{tenant}$") },
            "$or": [{ "stage": INGEST }, { "replayed": null }],
        };
        let pipeline = [
            doc! { "$match": filter },
            doc! { "$project": { "received": 1, "n": { "$bsonSize": "$$ROOT" } } },
            doc! { "$sort": { "received": 1, "_id": 1 } },
            doc! { "$limit": TRANSACTION },
        ];
        let collection = self.collection(LETTERS);
        let request = collection.aggregate(pipeline).with_type::<RawDocumentBuf>();
        let cursor = self.send_within(LONG_REQUEST, "aggregate", request).await.map_err(|error| self.failed(&error))?;
        let read = |document: &RawDocument| {
            let size = decode::long(document, "n").and_then(|n| u64::try_from(n).ok()).unwrap_or_default();
            Ok((decode::key(document).to_owned(), size))
        };
        let oldest = self.gather(LONG_REQUEST, cursor, read).await?;
        let mut held = held.clone();
        let mut leaving = Vec::new();
        for (id, size) in oldest {
            if bound.exceeded_by(held.iter(), true) != Some(tenant) {
                break;
            }
            let sum = held.entry(Arc::clone(tenant)).or_default();
            (sum.count, sum.bytes) = (sum.count.saturating_sub(1), sum.bytes.saturating_sub(size));
            leaving.push(id);
        }
        Ok(leaving)
    }

    /// Deletes letters and counts them in one transaction.
    async fn delete_letters(&self, tenant: &str, ids: &[String]) -> Result<()> {
        let failed = |error: Error| self.failed(&error);
        let mut session = self.client.start_session().await.map_err(failed)?;
        session.start_transaction().await.map_err(failed)?;
        // A letter that was replayed meanwhile stays.
        let filter = doc! { "_id": { "$in": ids }, "$or": [{ "stage": INGEST }, { "replayed": null }] };
        let letters = self.collection(LETTERS);
        let request = letters.delete_many(filter).session(&mut session);
        let deleted = self.send("delete", request).await.map_err(failed)?.deleted_count;
        if deleted != ids.len() as u64 {
            let ended = session.abort_transaction().await;
            let why = ended.err().map(|error| format!(": {}", super::answer::describe(&error))).unwrap_or_default();
            return Err(StoreError::busy(format!("another process is changing the same dead letters{why}")));
        }
        let counts = self.collection(SCHEMA);
        let id = format!("{TRIMMED}{tenant}");
        let change = doc! { "$inc": { "n": i64::try_from(ids.len()).unwrap_or(i64::MAX) } };
        let count = counts.update_one(doc! { "_id": id }, change).upsert(true);
        self.send("update", count.session(&mut session)).await.map_err(failed)?;
        self.commit(session).await
    }

    /// Reads letters in the order of `direction`, until they are `most_bytes` long.
    async fn letters(
        &self,
        filter: Document,
        direction: i32,
        limit: usize,
        most_bytes: usize,
    ) -> Result<Vec<Deadletter>> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let collection = self.collection(LETTERS);
        let request = collection.find(filter).sort(doc! { "_id": direction }).limit(limit);
        let cursor = self.send("find", request).await.map_err(|error| self.failed(&error))?;
        let name = self.name(LETTERS);
        let full = |letters: &[Deadletter]| letters.iter().map(Deadletter::bytes).sum::<usize>() >= most_bytes;
        self.gather_until(self.request_limit(), cursor, |document| decode(&name, document), full).await
    }
}
