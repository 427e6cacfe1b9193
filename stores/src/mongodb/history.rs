//! Writing, finding and reading blocks; counting them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use async_trait::async_trait;
use model::{DeviceKey, Nanos, TimeRange};
use mongodb::action::Action;
use mongodb::bson::{Document, RawDocument, RawDocumentBuf, doc};
use mongodb::error::ErrorKind;
use mongodb::options::Hint;

use super::answer::Failure;
use super::encode::{LONG, encode};
use super::schema::{BLOCKS, BY_TIME, EXPIRED, LONG_BLOCKS};
use super::server::{Server, compute};
use super::{LONG_REQUEST, MongoStore, decode, names};
use crate::block::{Block, BlockMeta};
use crate::contract::{History, Result, StoreError};

/// Documents in one request. The server leaves out the text of errors that together take more than
/// some megabytes, and only the text of an error shows that a block is stored already.
const DOCUMENTS: usize = 2_000;
/// Bytes of documents in one request; a single document may have more.
const BYTES: usize = 16 << 20;
/// Largest document that a server accepts.
const MAX_DOCUMENT: usize = 16 << 20;
/// Keys in one request.
const KEYS: usize = 1_000;
/// Attempts of a count during which readings are deleted.
const COUNTS: usize = 5;

/// Documents of one request, and the rows of each.
#[derive(Default)]
struct Request {
    documents: Vec<RawDocumentBuf>,
    rows: Vec<u64>,
    bytes: usize,
}

fn encode_all(blocks: &[Block]) -> Result<Vec<Request>> {
    let mut all = vec![Request::default()];
    for block in blocks {
        let device = &block.id.device;
        if block.times.is_empty() {
            return Err(StoreError::Refused(format!("a block of {device} has no rows")));
        }
        let document = encode(block);
        let bytes = document.as_bytes().len();
        if bytes > MAX_DOCUMENT {
            let rows = block.times.len();
            return Err(StoreError::TooLarge(format!(
                "a block of {device} with {rows} rows takes {bytes} bytes, more than the {MAX_DOCUMENT} of a document"
            )));
        }
        let mut last = all.pop().unwrap_or_default();
        if last.documents.len() == DOCUMENTS || (last.bytes > 0 && last.bytes + bytes > BYTES) {
            all.push(std::mem::take(&mut last));
        }
        last.documents.push(document);
        last.rows.push(block.times.len() as u64);
        last.bytes += bytes;
        all.push(last);
    }
    all.retain(|request| !request.documents.is_empty());
    Ok(all)
}

#[async_trait]
impl History for MongoStore {
    async fn write(&self, blocks: Vec<Block>) -> Result<()> {
        let server = self.server().await?;
        let requests = compute(move || encode_all(&blocks)).await?.map_err(|error| server.counted(error))?;
        for Request { documents, rows, bytes } in requests {
            let repeated = server.insert(BLOCKS, documents).await?;
            let readings = |places: &[usize]| places.iter().filter_map(|at| rows.get(*at)).sum::<u64>();
            server.metrics.blocks.inc_by((rows.len() - repeated.len()) as u64);
            server.metrics.repeated.inc_by(repeated.len() as u64);
            server.metrics.readings.inc_by(rows.iter().sum::<u64>() - readings(&repeated));
            server.metrics.bytes.inc_by(bytes as u64);
        }
        Ok(())
    }

    async fn sync(&self) -> Result<()> {
        // A majority had journalled every write when it returned.
        Ok(())
    }

    fn done(&self, _: &str, _: u64) {
        // Blocks are never merged.
    }

    async fn find(&self, device: &DeviceKey, range: TimeRange) -> Result<Vec<BlockMeta>> {
        let server = self.server().await?;
        let mut found = server.touching(device, range).await;
        if server.repaired(&found).await? {
            found = server.touching(device, range).await;
        }
        let mut found = found?;
        found.sort_by(|a, b| (a.first_time, &a.place).cmp(&(b.first_time, &b.place)));
        found.dedup();
        Ok(found)
    }

    async fn fetch(&self, device: &DeviceKey, metas: &[BlockMeta], names: Option<&[Arc<str>]>) -> Result<Vec<Block>> {
        let server = self.server().await?;
        let mut blocks = Vec::with_capacity(metas.len());
        for metas in metas.chunks(KEYS) {
            blocks.extend(server.fetch_some(device, metas, names).await?);
        }
        server.metrics.fetched.inc_by(blocks.len() as u64);
        Ok(blocks)
    }

    /// Counts readings in blocks and deleted readings, from an index: the server takes about half a
    /// second for each million blocks.
    async fn count(&self) -> Result<Vec<(Arc<str>, u64)>> {
        let server = self.server().await?;
        let counts = server.held().await;
        if server.repaired(&counts).await? { server.held().await } else { counts }
    }

    async fn count_between(&self, range: TimeRange) -> Result<Option<Vec<(Arc<str>, u64)>>> {
        let TimeRange { start, end } = range;
        let touched = doc! { "$match": { "t0": { "$lt": end }, "t1": { "$gte": start } } };
        let inside = doc! { "$and": [{ "$gte": ["$t0", start] }, { "$lt": ["$t1", end] }] };
        let within = doc! { "$and": [{ "$gte": ["$$t", start] }, { "$lt": ["$$t", end] }] };
        let some = doc! { "$size": { "$filter": { "input": "$t", "as": "t", "cond": within } } };
        let count = doc! { "$sum": { "$cond": [inside, "$n", some] } };
        let pipeline = [touched, doc! { "$group": { "_id": "$w", "n": count } }];
        let server = self.server().await?;
        let mut counts = server.sums(BLOCKS, pipeline.clone(), Some(BY_TIME)).await;
        if server.repaired(&counts).await? {
            counts = server.sums(BLOCKS, pipeline, Some(BY_TIME)).await;
        }
        Ok(Some(counts?.into_iter().collect()))
    }

    async fn expire(&self, before: Nanos) -> Result<u64> {
        let server = self.server().await?;
        let expired = server.expire(before).await;
        if server.repaired(&expired).await? { server.expire(before).await } else { expired }
    }

    async fn merge(&self) -> Result<bool> {
        Ok(false)
    }
}

impl Server {
    /// Inserts documents; returns the places of those that are stored already. An error of one
    /// document implies nothing for the others: all of them were tried.
    pub(super) async fn insert(&self, collection: &str, documents: Vec<RawDocumentBuf>) -> Result<Vec<usize>> {
        let collection = self.collection(collection);
        let Err(error) = self.send("insert", collection.insert_many(documents).ordered(false)).await else {
            return Ok(Vec::new());
        };
        let ErrorKind::InsertMany(details) = &*error.kind else { return Err(self.failed(&error)) };
        let failures = details.write_errors.iter().flatten();
        let failures = failures.map(|e| (e.index, Failure { code: e.code, message: e.message.clone() }));
        let (there, others): (Vec<_>, Vec<_>) = failures.partition(|(_, failure)| failure.is_there_already());
        let meanings: Vec<StoreError> =
            others.iter().map(|(_, failure)| self.named(failure.code, failure.meaning())).collect();
        let refusal = |meaning: &StoreError| matches!(meaning, StoreError::Refused(_) | StoreError::TooLarge(_));
        // A failure that passes is returned first: a refused document will be refused again.
        if let Some(meaning) = meanings.iter().find(|m| !refusal(m)).or(meanings.first()) {
            return Err(self.counted(meaning.clone()));
        }
        if let Some(unmet) = &details.write_concern_error {
            let unmet = StoreError::busy(format!("{} (code {})", unmet.message, unmet.code));
            return Err(self.counted(self.named(0, unmet)));
        }
        Ok(there.into_iter().map(|(place, _)| place).collect())
    }

    /// Returns the blocks of a device that touch a range, in any order.
    async fn touching(&self, device: &DeviceKey, range: TimeRange) -> Result<Vec<BlockMeta>> {
        let (mut found, others) =
            tokio::try_join!(self.metas(short(device, range), BY_TIME), self.metas(long(device, range), LONG_BLOCKS))?;
        found.extend(others);
        Ok(found)
    }

    /// Returns the readings in blocks, and those that were deleted, by tenant.
    async fn held(&self) -> Result<Vec<(Arc<str>, u64)>> {
        for _ in 0..COUNTS {
            let expired = self.expired().await?;
            let pipeline = [doc! { "$group": { "_id": "$w", "n": { "$sum": "$n" } } }];
            let mut counts = self.sums(BLOCKS, pipeline, Some(BY_TIME)).await?;
            // Readings deleted meanwhile may have been counted on both sides, or on neither.
            if self.expired().await? != expired {
                continue;
            }
            for (tenant, readings) in expired {
                *counts.entry(tenant).or_default() += readings;
            }
            return Ok(counts.into_iter().collect());
        }
        Err(StoreError::busy("readings are being deleted: count again"))
    }

    async fn metas(&self, filter: Document, hint: &str) -> Result<Vec<BlockMeta>> {
        let blocks = self.collection(BLOCKS);
        let request = blocks.find(filter).hint(Hint::Name(hint.into())).batch_size(10_000);
        let request = request.projection(doc! { "t0": 1, "t1": 1, "n": 1 });
        let cursor = self.send("find", request).await.map_err(|error| self.failed(&error))?;
        let name = self.name(BLOCKS);
        self.gather(self.request_limit(), cursor, |document| decode::meta(&name, document)).await
    }

    async fn fetch_some(
        &self,
        device: &DeviceKey,
        metas: &[BlockMeta],
        names: Option<&[Arc<str>]>,
    ) -> Result<Vec<Block>> {
        let keys: Vec<&str> = metas.iter().filter_map(|meta| std::str::from_utf8(&meta.place).ok()).collect();
        // Tenant and device direct a sharded cluster to the one shard.
        let filter = doc! { "_id": { "$in": &keys }, "w": &*device.tenant, "d": &*device.id };
        let blocks = self.collection(BLOCKS);
        let request = blocks.find(filter).hint(Hint::Name("_id_".into())).batch_size(1_000);
        let request = request.optional(names, |request, names| request.projection(projection(names)));
        let cursor = self.send("find", request).await.map_err(|error| self.failed(&error))?;
        let name = self.name(BLOCKS);
        let read = |document: &RawDocument| Ok((decode::key(document).to_owned(), decode::decode(&name, document)?));
        let mut found: HashMap<String, Block> =
            self.gather(self.request_limit(), cursor, read).await?.into_iter().collect();
        metas
            .iter()
            .map(|meta| {
                let key = std::str::from_utf8(&meta.place).map_err(|_| StoreError::Moved)?;
                found.remove(key).ok_or(StoreError::Moved)
            })
            .collect()
    }

    /// Returns the readings that were deleted, by tenant.
    async fn expired(&self) -> Result<BTreeMap<Arc<str>, u64>> {
        self.sums(EXPIRED, [doc! { "$project": { "n": 1 } }], None).await
    }

    /// Returns the number that a pipeline computes for each tenant.
    pub(super) async fn sums(
        &self,
        collection: &str,
        pipeline: impl IntoIterator<Item = Document>,
        hint: Option<&str>,
    ) -> Result<BTreeMap<Arc<str>, u64>> {
        let request = self.collection(collection);
        let request = request.aggregate(pipeline).with_type::<RawDocumentBuf>();
        let request = request.optional(hint, |request, hint| request.hint(Hint::Name(hint.into())));
        let cursor = self.send_within(LONG_REQUEST, "aggregate", request).await.map_err(|error| self.failed(&error))?;
        let name = self.name(collection);
        let read = |document: &RawDocument| {
            let count = decode::long(document, "n").and_then(|n| u64::try_from(n).ok());
            let count = count.ok_or_else(|| decode::damaged(&name, document, "n is not a count"))?;
            Ok((Arc::from(decode::key(document)), count))
        };
        Ok(self.gather(LONG_REQUEST, cursor, read).await?.into_iter().collect())
    }
}

/// Selects blocks that touch a range; of the long ones only those that begin in it or shortly
/// before.
fn short(device: &DeviceKey, range: TimeRange) -> Document {
    let from = range.start.saturating_sub(LONG);
    doc! {
        "w": &*device.tenant, "d": &*device.id,
        "t0": { "$gte": from, "$lt": range.end }, "t1": { "$gte": range.start },
    }
}

/// Selects long blocks that begin earlier and reach into the range.
fn long(device: &DeviceKey, range: TimeRange) -> Document {
    let before: Nanos = range.start.saturating_sub(LONG);
    doc! {
        "w": &*device.tenant, "d": &*device.id, "l": true,
        "t1": { "$gte": range.start }, "t0": { "$lt": before.min(range.end) },
    }
}

fn projection(names: &[Arc<str>]) -> Document {
    let mut wanted = doc! { "t": 1, "r": 1, "s": 1, "c": 1, "o": 1, "n": 1 };
    for name in names {
        wanted.extend(names::fields(name).map(|field| (format!("v.{field}"), 1.into())));
    }
    wanted
}
