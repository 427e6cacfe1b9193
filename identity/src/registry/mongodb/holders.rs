//! Transactions that a killed process left open.
//!
//! Such a transaction holds what it changed until the server ends it, a minute later. So the
//! sessions that make changes are written down, and a process whose change is held up ends those of
//! them whose transaction has been idle.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use mongodb::ClientSession;
use mongodb::bson::{Bson, DateTime, Document, doc};
use mongodb::options::ReadConcern;
use tokio::time::Instant;

use super::answer::meaning;
use super::store::Store;
use crate::registry::transaction::Outcome;

/// A session is written down again after this time, and forgotten after twice as long.
const KNOWN_FOR: Duration = Duration::from_secs(60 * 60);
/// Most sessions of a process, of which the driver uses a few in turn.
const MOST: usize = 1000;
/// A transaction of Weir waits for nothing but the server.
const IDLE: Duration = Duration::from_secs(1);

/// The sessions of this process that were written down, by id.
#[derive(Debug, Default)]
pub(super) struct Holders(HashMap<Vec<u8>, Instant>);

impl Holders {
    /// Writes a session down, before its first transaction.
    pub(super) async fn note(&mut self, store: &Store, session: &ClientSession) -> Outcome<()> {
        let Some(Bson::Binary(id)) = session.id().get("id") else { return Ok(()) };
        if self.0.get(&id.bytes).is_some_and(|noted| noted.elapsed() < KNOWN_FOR) {
            return Ok(());
        }
        let update = doc! { "$set": { "at": DateTime::now() } };
        store.within(store.holders().update_one(doc! { "_id": id.clone() }, update).upsert(true)).await?;
        if self.0.len() >= MOST {
            self.0.clear();
        }
        self.0.insert(id.bytes.clone(), Instant::now());
        Ok(())
    }
}

/// Ends transactions of Weir that are idle; returns their number.
pub(super) async fn end_abandoned(store: &Store) -> Outcome<usize> {
    let old = DateTime::from_system_time(SystemTime::now() - 2 * KNOWN_FOR);
    store.within(store.holders().delete_many(doc! { "at": { "$lt": old } })).await?;
    let noted: Vec<Bson> = store.within(store.holders().distinct("_id", doc! {})).await?;
    let idle = doc! { "$gt": i64::try_from(IDLE.as_micros()).unwrap_or(i64::MAX) };
    let pipeline = [
        doc! { "$currentOp": { "idleSessions": true } },
        doc! { "$match": { "lsid.id": { "$in": noted }, "transaction.timeInactiveMicros": idle } },
        doc! { "$project": { "id": "$lsid.id" } },
    ];
    let admin = store.client.database("admin");
    let mut cursor = store.within(admin.aggregate(pipeline).read_concern(ReadConcern::local())).await?;
    let mut abandoned = Vec::new();
    while store.within(cursor.advance()).await? {
        let row: Document = cursor.deserialize_current().map_err(|error| meaning(&error, &store.shown))?;
        abandoned.extend(row.get("id").map(|id| doc! { "id": id.clone() }));
    }
    let count = abandoned.len();
    if count > 0 {
        store.within(admin.run_command(doc! { "killSessions": abandoned })).await?;
        tracing::warn!(count, server = store.shown, "transactions that a killed process left open were ended");
    }
    Ok(count)
}
