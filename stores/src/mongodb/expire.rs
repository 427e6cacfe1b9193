//! Deletion of readings older than the retention, and their count.
//!
//! No index begins with a time: it would make every write more expensive. Devices are listed from
//! the index by device and time, one step for each, and for some of them at a time the oldest
//! blocks are looked up. A transaction deletes these and adds their readings to the tenant's count
//! of expired ones.

use std::sync::Arc;

use model::Nanos;
use mongodb::ClientSession;
use mongodb::bson::{Document, RawDocument, RawDocumentBuf, doc};
use mongodb::error::{Error, UNKNOWN_TRANSACTION_COMMIT_RESULT};
use mongodb::options::Hint;

use super::schema::{BLOCKS, BY_TIME, EXPIRED};
use super::server::Server;
use super::{LONG_REQUEST, decode};
use crate::contract::{Result, StoreError};

/// Devices in one request.
const DEVICES: usize = 200;
/// Blocks deleted in one transaction.
const BLOCKS_A_TRANSACTION: i64 = 1_000;
/// Attempts of a commit whose answer was lost.
const COMMITS: usize = 5;

/// Blocks to delete, and the number of their readings.
struct OldBlocks {
    keys: Vec<String>,
    readings: u64,
}

impl Server {
    pub(super) async fn expire(&self, before: Nanos) -> Result<u64> {
        let mut total = 0;
        for tenant in self.distinct(doc! {}, "$w").await? {
            total += self.expire_tenant(&tenant, before).await?;
        }
        Ok(total)
    }

    pub(super) async fn expire_tenant(&self, tenant: &str, before: Nanos) -> Result<u64> {
        let mut total = 0;
        let mut devices = self.distinct(doc! { "w": tenant }, "$d").await?;
        devices.sort_unstable();
        for devices in devices.chunks(DEVICES) {
            loop {
                let old = self.old(tenant, devices, before).await?;
                if old.keys.is_empty() {
                    break;
                }
                self.delete(tenant, devices, &old).await?;
                total += old.readings;
            }
        }
        Ok(total)
    }

    /// Returns the distinct values of a field, from steps in the index.
    async fn distinct(&self, filter: Document, field: &str) -> Result<Vec<Arc<str>>> {
        let order = if filter.is_empty() {
            doc! { "w": 1 }
        } else {
            doc! { "w": 1, "d": 1 }
        };
        let pipeline = [doc! { "$match": filter }, doc! { "$sort": order }, doc! { "$group": { "_id": field } }];
        let request = self.collection(BLOCKS);
        let request = request.aggregate(pipeline).with_type::<RawDocumentBuf>().hint(Hint::Name(BY_TIME.into()));
        let cursor = self.send_within(LONG_REQUEST, "aggregate", request).await.map_err(|error| self.failed(&error))?;
        self.gather(LONG_REQUEST, cursor, |document| Ok(Arc::from(decode::key(document)))).await
    }

    async fn old(&self, tenant: &str, devices: &[Arc<str>], before: Nanos) -> Result<OldBlocks> {
        let devices: Vec<&str> = devices.iter().map(|d| &**d).collect();
        let filter = doc! { "w": tenant, "d": { "$in": devices }, "t0": { "$lt": before }, "t1": { "$lt": before } };
        let blocks = self.collection(BLOCKS);
        let request = blocks.find(filter).hint(Hint::Name(BY_TIME.into()));
        let request = request.projection(doc! { "n": 1 }).limit(BLOCKS_A_TRANSACTION);
        let cursor = self.send("find", request).await.map_err(|error| self.failed(&error))?;
        let name = self.name(BLOCKS);
        let read = |document: &RawDocument| {
            let rows = decode::long(document, "n").and_then(|n| u64::try_from(n).ok());
            let rows = rows.ok_or_else(|| decode::damaged(&name, document, "n is not a count"))?;
            Ok((decode::key(document).to_owned(), rows))
        };
        let found = self.gather(self.request_limit(), cursor, read).await?;
        let readings = found.iter().map(|(_, rows)| rows).sum();
        Ok(OldBlocks { keys: found.into_iter().map(|(key, _)| key).collect(), readings })
    }

    /// Deletes blocks and counts their readings in one transaction.
    async fn delete(&self, tenant: &str, devices: &[Arc<str>], old: &OldBlocks) -> Result<()> {
        let devices: Vec<&str> = devices.iter().map(|d| &**d).collect();
        let filter = doc! { "_id": { "$in": &old.keys }, "w": tenant, "d": { "$in": devices } };
        let readings = i64::try_from(old.readings).unwrap_or(i64::MAX);
        let failed = |error: Error| self.failed(&error);
        let mut session = self.client.start_session().await.map_err(failed)?;
        session.start_transaction().await.map_err(failed)?;
        let blocks = self.collection(BLOCKS);
        let request = blocks.delete_many(filter).hint(Hint::Name("_id_".into())).session(&mut session);
        let deleted = self.send("delete", request).await.map_err(failed)?.deleted_count;
        if deleted != old.keys.len() as u64 {
            let ended = session.abort_transaction().await;
            let why = ended.err().map(|error| format!(": {}", super::answer::describe(&error))).unwrap_or_default();
            return Err(StoreError::busy(format!("another process is deleting the same blocks{why}")));
        }
        let count = self.collection(EXPIRED);
        let count = count.update_one(doc! { "_id": tenant }, doc! { "$inc": { "n": readings } }).upsert(true);
        self.send("update", count.session(&mut session)).await.map_err(failed)?;
        self.commit(session).await
    }

    /// Commits a transaction, again when the answer was lost.
    pub(super) async fn commit(&self, mut session: ClientSession) -> Result<()> {
        let mut left = COMMITS;
        loop {
            left -= 1;
            let Err(error) = self.send("commit", session.commit_transaction()).await else { return Ok(()) };
            // Repeating a commit that succeeded changes nothing.
            if left == 0 || !error.contains_label(UNKNOWN_TRANSACTION_COMMIT_RESULT) {
                return Err(self.failed(&error));
            }
        }
    }
}
