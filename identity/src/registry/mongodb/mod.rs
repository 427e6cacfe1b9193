//! The registry on MongoDB.
//!
//! Each change is one transaction, which changes the end of the audit of its tenant first and the
//! number of the control log last: transactions that do so at one time conflict, and all but one
//! are repeated. Reads are those of a majority, at the primary.

mod answer;
mod chain;
mod devices;
mod groups;
mod holders;
mod rows;
mod store;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use mongodb::ClientSession;
use mongodb::bson::{Document, doc};
use mongodb::error::UNKNOWN_TRANSACTION_COMMIT_RESULT;
use mongodb::options::ReadConcern;
use tokio::sync::{Mutex, OnceCell};
use tokio::time::Instant;

use super::rules::KEPT_CHANGES;
use super::transaction::{Outcome, Stop, Work};
use super::tries::Tries;
use super::writes::Transact;
use super::{
    AuditEvent, AuditRange, AuditReport, Changes, Checkpoint, Class, Credential, Error, Found, Listed, Registry,
    Result, Tenant,
};
use crate::CredentialId;
use answer::meaning;
use holders::{Holders, end_abandoned};
use rows::{MongoRows, body, damaged, event, number, signed};
use store::{Store, durably};

/// Time within which a change is repeated after conflicts and lost connections.
const PATIENCE: Duration = Duration::from_secs(15);
/// Time of conflicts after which a transaction that a killed process left open is searched for.
const HELD_UP: Duration = Duration::from_secs(1);
/// Times that the commit itself is sent again when its answer was lost.
const COMMITS: usize = 3;

/// Bounds of the use of a server, and the names of its collections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MongoOptions {
    /// Prefix of the name of each collection, so that two installations can share a database.
    pub collection_prefix: String,
    /// Most connections to each server.
    pub max_connections: u32,
    /// Longest time to find the primary, and to wait for its answer.
    pub request_timeout: Duration,
}

impl Default for MongoOptions {
    fn default() -> Self {
        Self { collection_prefix: String::new(), max_connections: 16, request_timeout: Duration::from_secs(5) }
    }
}

/// The registry on a replica set of MongoDB. Cheap to clone.
#[derive(Clone)]
pub struct MongoRegistry(Arc<Inner>);

struct Inner {
    store: Store,
    /// No try of a read begins after this time.
    read_limit: Duration,
    /// Set once the server was checked and the collections exist.
    ready: OnceCell<()>,
    /// Changes of this process are made one after the other: they would only conflict.
    changing: Mutex<Holders>,
}

impl std::fmt::Debug for MongoRegistry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("MongoRegistry").field(&self.0.store.shown).finish()
    }
}

impl MongoRegistry {
    /// Connects, and makes the collections that do not exist.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when no primary answers; [`Error::NeedsOperator`] when the URI is not
    /// valid, the server is not a replica set, or its registry is of a newer release.
    pub async fn connect(uri: &str, database: &str, options: MongoOptions) -> std::result::Result<Self, Error> {
        let registry = Self::new(uri, database, options).await?;
        registry.0.ready().await.map_err(Stop::error)?;
        Ok(registry)
    }

    /// Returns a registry that connects when it is used first: until the server answers, it is
    /// unavailable.
    ///
    /// # Errors
    /// [`Error::NeedsOperator`]: the URI is not valid. [`Error::Unavailable`]: the servers of
    /// `mongodb+srv` cannot be looked up.
    pub async fn new(uri: &str, database: &str, options: MongoOptions) -> std::result::Result<Self, Error> {
        let store = Store::new(uri, database, &options).await?;
        let read_limit = options.request_timeout;
        Ok(Self(Arc::new(Inner { store, read_limit, ready: OnceCell::new(), changing: Mutex::default() })))
    }

    /// Returns a document.
    async fn one(&self, collection: &mongodb::Collection<Document>, filter: Document) -> Result<Option<Document>> {
        let mut tries = Tries::within(self.0.read_limit);
        loop {
            match self.0.one(collection, filter.clone()).await {
                Ok(row) => return Ok(row),
                Err(stop) => tries.after(stop).await?,
            }
        }
    }

    /// Returns the documents that a filter finds, in an order.
    async fn all(
        &self,
        collection: &mongodb::Collection<Document>,
        filter: Document,
        order: Document,
        limit: usize,
    ) -> Result<Vec<Document>> {
        self.fields(collection, filter, order, Document::new(), limit).await
    }

    /// Returns some fields of the documents that a filter finds, in an order; all fields when none
    /// is named.
    async fn fields(
        &self,
        collection: &mongodb::Collection<Document>,
        filter: Document,
        order: Document,
        fields: Document,
        limit: usize,
    ) -> Result<Vec<Document>> {
        if limit == 0 {
            // To the server it is no limit.
            return Ok(Vec::new());
        }
        let mut tries = Tries::within(self.0.read_limit);
        loop {
            match self.0.all(collection, (&filter, &order, &fields), limit).await {
                Ok(rows) => return Ok(rows),
                Err(stop) => tries.after(stop).await?,
            }
        }
    }

    fn body<T: serde::de::DeserializeOwned>(&self, place: &str, row: &Document) -> Result<T> {
        body(&self.0.store.shown, place, row)
    }

    /// Reads credentials and the states of their tenants, with two requests. A row that cannot be
    /// read is the error of its credential alone.
    async fn found(&self, ids: &[CredentialId]) -> Result<Vec<Result<Option<Found>>>> {
        let by_id = doc! { "_id": 1 };
        let wanted: Vec<&str> = ids.iter().map(CredentialId::as_str).collect();
        let wanted = doc! { "_id": { "$in": wanted } };
        let rows = self.all(&self.0.store.credentials(), wanted, by_id.clone(), ids.len()).await?;
        let rows: HashMap<&str, &Document> =
            rows.iter().filter_map(|row| Some((row.get_str("_id").ok()?, row))).collect();
        let read = ids.iter().map(|id| {
            let Some(row) = rows.get(id.as_str()) else { return Ok(None) };
            Ok(Some((self.body::<Credential>(id.as_str(), row)?, row.get_i64("last_use").ok())))
        });
        let read: Vec<Result<_>> = read.collect();
        let tenants = read.iter().flatten().flatten().map(|(credential, _)| credential.tenant.as_str());
        let tenants: Vec<&str> = tenants.collect::<BTreeSet<_>>().into_iter().collect();
        let count = tenants.len();
        let rows = self.all(&self.0.store.tenants(), doc! { "_id": { "$in": tenants } }, by_id, count).await?;
        let rows: HashMap<&str, &Document> =
            rows.iter().filter_map(|row| Some((row.get_str("_id").ok()?, row))).collect();
        let found = ids.iter().zip(read).map(|(id, read)| {
            let Some((credential, last_use)) = read? else { return Ok(None) };
            let row = rows.get(credential.tenant.as_str());
            let row = row.ok_or_else(|| damaged(&self.0.store.shown, &format!("the tenant of {id}")))?;
            let tenant = self.body::<Tenant>(&credential.tenant, row)?.state;
            Ok(Some(Found { credential, tenant, last_use }))
        });
        Ok(found.collect())
    }

    fn listed(&self, rows: &[Document]) -> Result<Vec<Listed>> {
        let of = |row: &Document| {
            Ok(Listed { credential: self.body("a credential", row)?, last_use: row.get_i64("last_use").ok() })
        };
        rows.iter().map(of).collect()
    }
}

impl Inner {
    /// Returns once the server was checked.
    async fn ready(&self) -> Outcome<()> {
        self.ready.get_or_try_init(|| self.store.prepare()).await.copied()
    }

    async fn transaction<W: Work>(&self, work: &W, in_doubt: bool) -> Outcome<W::Output> {
        self.ready().await?;
        let mut holders = self.changing.lock().await;
        let store = &self.store;
        let mut session = store.within(store.client.start_session()).await?;
        holders.note(store, &session).await?;
        let begin = session.start_transaction().read_concern(ReadConcern::snapshot()).write_concern(durably());
        store.within(begin).await?;
        let mut rows = MongoRows::new(store, &mut session);
        let outcome = work.run(&mut rows, in_doubt).await;
        let trim_to = rows.trim_to;
        match outcome {
            Ok(output) => {
                self.commit(&mut session).await?;
                if let Some(last) = trim_to {
                    let old = doc! { "_id": { "$lte": signed(last) } };
                    if let Err(stop) = store.within(store.control().delete_many(old)).await {
                        tracing::debug!(?stop, "the control log is trimmed by a later change");
                    }
                }
                Ok(output)
            }
            Err(stop) => {
                // Otherwise the server ends it after a time.
                if let Err(failed) = store.within(session.abort_transaction()).await {
                    tracing::debug!(?failed, "a transaction was not ended");
                }
                Err(stop)
            }
        }
    }

    async fn commit(&self, session: &mut ClientSession) -> Outcome<()> {
        let mut tries = 0;
        loop {
            let Err(error) = self.store.answer(session.commit_transaction()).await.map_err(Stop::at_commit)? else {
                return Ok(());
            };
            if !error.contains_label(UNKNOWN_TRANSACTION_COMMIT_RESULT) {
                return Err(meaning(&error, &self.store.shown).at_commit());
            }
            tries += 1;
            if tries == COMMITS {
                return Err(Stop::InDoubt(meaning(&error, &self.store.shown).error()));
            }
        }
    }

    async fn one(&self, collection: &mongodb::Collection<Document>, filter: Document) -> Outcome<Option<Document>> {
        self.ready().await?;
        self.store.within(collection.find_one(filter)).await
    }

    async fn all(
        &self,
        collection: &mongodb::Collection<Document>,
        (filter, order, fields): (&Document, &Document, &Document),
        limit: usize,
    ) -> Outcome<Vec<Document>> {
        self.ready().await?;
        let find = collection.find(filter.clone()).sort(order.clone()).projection(fields.clone());
        let find = find.limit(signed(limit as u64));
        let mut cursor = self.store.within(find).await?;
        let mut found = Vec::new();
        while self.store.within(cursor.advance()).await? {
            let row = cursor.deserialize_current().map_err(|error| meaning(&error, &self.store.shown))?;
            found.push(row);
        }
        Ok(found)
    }
}

#[async_trait]
impl Transact for MongoRegistry {
    const USES: usize = 100;

    async fn change<W: Work>(&self, work: W) -> Result<W::Output> {
        let inner = Arc::clone(&self.0);
        let change = async move {
            let mut tries = Tries::within(PATIENCE);
            let mut waiting = Instant::now();
            loop {
                let stop = match inner.transaction(&work, tries.in_doubt()).await {
                    Ok(output) => return Ok(output),
                    Err(stop) => stop,
                };
                let is_held_up = matches!(stop, Stop::Again(_));
                tries.after(stop).await?;
                if is_held_up && waiting.elapsed() > HELD_UP {
                    waiting = Instant::now();
                    if let Err(stop) = end_abandoned(&inner.store).await {
                        tracing::debug!(?stop, "transactions that a killed process left open cannot be searched for");
                    }
                }
            }
        };
        tokio::spawn(change).await.map_err(|error| Error::Unavailable(error.to_string()))?
    }
}

#[async_trait]
impl Registry for MongoRegistry {
    async fn tenant(&self, id: &str) -> Result<Option<Tenant>> {
        let row = self.one(&self.0.store.tenants(), doc! { "_id": id }).await?;
        row.map(|row| self.body(id, &row)).transpose()
    }

    async fn tenants(&self, after: &str, limit: usize) -> Result<Vec<Tenant>> {
        let filter = doc! { "_id": { "$gt": after } };
        let rows = self.all(&self.0.store.tenants(), filter, doc! { "_id": 1 }, limit).await?;
        rows.iter().map(|row| self.body("a tenant", row)).collect()
    }

    async fn credential(&self, id: CredentialId) -> Result<Option<Found>> {
        self.found(&[id]).await?.pop().unwrap_or(Ok(None))
    }

    async fn credentials(&self, ids: &[CredentialId]) -> Vec<Result<Option<Found>>> {
        self.found(ids).await.unwrap_or_else(|error| vec![Err(error); ids.len()])
    }

    async fn device_credentials(
        &self,
        tenant: &str,
        device: Option<&str>,
        after: Option<(&str, CredentialId)>,
        limit: usize,
    ) -> Result<Vec<Listed>> {
        let (from, id) = after.as_ref().map_or(("", ""), |(device, id)| (*device, id.as_str()));
        let mut filter = doc! {
            "tenant": tenant,
            "$or": [{ "device": { "$gt": from } }, { "device": from, "_id": { "$gt": id } }],
        };
        if let Some(device) = device {
            filter.insert("device", device);
        }
        let order = doc! { "device": 1, "_id": 1 };
        self.listed(&self.all(&self.0.store.credentials(), filter, order, limit).await?)
    }

    async fn tenant_credentials(
        &self,
        tenant: &str,
        class: Class,
        after: Option<CredentialId>,
        limit: usize,
    ) -> Result<Vec<Listed>> {
        let after = after.as_ref().map_or("", CredentialId::as_str);
        let filter = doc! { "tenant": tenant, "class": class.as_str(), "device": null, "_id": { "$gt": after } };
        self.listed(&self.all(&self.0.store.credentials(), filter, doc! { "_id": 1 }, limit).await?)
    }

    async fn audit(&self, tenant: &str, before: Option<u64>, limit: usize) -> Result<Vec<AuditEvent>> {
        let before = signed(before.unwrap_or(u64::MAX));
        let filter = doc! { "tenant": tenant, "sequence": { "$lt": before } };
        let rows = self.all(&self.0.store.audit(), filter, doc! { "sequence": -1 }, limit).await?;
        rows.iter().map(|row| event(&self.0.store.shown, row)).collect()
    }

    async fn check_audit(&self, tenant: &str, range: &AuditRange) -> Result<AuditReport> {
        let mut tries = Tries::within(self.0.read_limit);
        loop {
            match self.0.check(tenant, range).await {
                Ok(report) => return Ok(report),
                Err(stop) => tries.after(stop).await?,
            }
        }
    }

    async fn audit_heads(&self, after: &str, limit: usize) -> Result<Vec<(String, Checkpoint)>> {
        let filter = doc! { "_id": { "$gt": after } };
        let rows = self.all(&self.0.store.heads(), filter, doc! { "_id": 1 }, limit).await?;
        let head = |row: &Document| {
            let tenant = row.get_str("_id").ok()?.to_owned();
            Some((tenant, rows::checkpoint(&self.0.store.shown, row).unwrap_or_default()))
        };
        Ok(rows.iter().filter_map(head).collect())
    }

    async fn changes(&self, after: u64, limit: usize) -> Result<Changes> {
        let state = self.one(&self.0.store.state(), doc! { "_id": "control" }).await?;
        let newest = state.map_or(0, |row| number(&row, "newest"));
        let oldest = newest.saturating_sub(KEPT_CHANGES) + 1;
        let mut changes = Changes { newest, has_gap: after > newest || after + 1 < oldest, entries: Vec::new() };
        if after < newest {
            // Entries that were added meanwhile are read the next time.
            let from = signed(after.max(oldest - 1));
            let filter = doc! { "_id": { "$gt": from, "$lte": signed(newest) } };
            for row in self.all(&self.0.store.control(), filter, doc! { "_id": 1 }, limit).await? {
                changes.entries.push(self.body("an entry of the control log", &row)?);
            }
            // Those that were removed meanwhile are missing.
            changes.has_gap |= changes.entries.first().is_some_and(|first| first.number != after + 1);
        }
        Ok(changes)
    }
}
