//! The store in MongoDB, 6.0 or newer, as a replica set or sharded.
//!
//! ```text
//! blocks        one immutable document per device and sealed range; see encode.rs
//! readings      a view: one document per reading, for people and their tools
//! devices       latest state of each device
//! dead_letters  messages that could not be read, readings that a store refused
//! retained      retained MQTT messages
//! expired       readings that the retention deleted, by tenant
//! schema        the version of all of this
//! ```
//! Every write is acknowledged by a majority and journalled when it returns, so [`History::sync`] has nothing to do. Keys are made
//! from what a document holds, so writing again finds the key and changes nothing.
//!
//! Nothing is deleted by a TTL index: a deletion that nobody counts would leave the books unbalanced. [`History::expire`] deletes and
//! counts in one transaction. Blocks are never merged: a document that never changes costs the server least.
//!
//! Reads go to the primary and see all that it holds: what a query merges with the tail must not be behind it, as the majority's view
//! is for a moment after an election. What a read sees too early and a failover takes back is still in the log, and is written again.

mod aggregate;
mod answer;
mod config;
mod connect;
mod decode;
mod encode;
mod expire;
mod history;
mod latest;
mod letters;
mod metrics;
mod names;
mod retained;
mod schema;
mod update;
mod writer;

use std::future::IntoFuture;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use model::{DeviceKey, Nanos, TimeRange};
use mongodb::bson::{RawDocument, RawDocumentBuf};
use mongodb::error::Error;
use mongodb::{Client, Collection, Cursor, Database};

use crate::block::{Block, BlockMeta};
use crate::contract::{
    DeadLetters, Deadletter, History, Latest, LatestState, LatestView, Result, Retained, RetainedMessage, StoreError,
};
use crate::query::Window;

pub use aggregate::WindowValues;
pub use config::Config;
pub use metrics::{CommandLabel, FailureLabel, Metrics};

/// Longest wait for an answer that reads a whole collection.
const LONG_REQUEST: Duration = Duration::from_secs(600);

/// The store in MongoDB. Cheap to clone.
#[derive(Debug, Clone)]
pub struct MongoStore(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: Config,
    client: Client,
    database: Database,
    metrics: Arc<Metrics>,
}

impl MongoStore {
    /// Connects, and makes the collections, indexes and the view that are not there.
    ///
    /// # Errors
    /// [`StoreError::Busy`] when no server answers, [`StoreError::Paused`] when a person has to change something; both name the
    /// key: a wrong password, a missing permission, no replica set, a server or a schema of another release.
    pub async fn open(config: Config, metrics: Arc<Metrics>) -> Result<Self> {
        let inner = connect::connect(config, metrics).await?;
        inner.check_privileges().await?;
        inner.prepare().await?;
        Ok(Self(Arc::new(inner)))
    }

    /// Connects with a user who may only read. Nothing is made: what is not there is empty.
    ///
    /// # Errors
    /// As [`MongoStore::open`].
    pub async fn open_for_reading(config: Config, metrics: Arc<Metrics>) -> Result<Self> {
        let inner = connect::connect(config, metrics).await?;
        inner.check_version().await?;
        Ok(Self(Arc::new(inner)))
    }

    /// Aggregates of one value of a device over the windows that hold one, in order, computed by the server from the readings in
    /// `range`. `None` when that cannot be right and the blocks have to be read: some of them overlap (equal readings count once), a
    /// reading has two values of that name, or the windows are not all of one length.
    ///
    /// # Errors
    /// As the requests of [`History`].
    pub async fn aggregate(
        &self,
        device: &DeviceKey,
        range: TimeRange,
        name: &str,
        window: &Window,
    ) -> Result<Option<Vec<WindowValues>>> {
        self.0.aggregate(device, range, name, window).await
    }

    /// Ends the connections, those of clones too. Requests that are under way end with [`StoreError::Busy`].
    pub async fn close(self) {
        self.0.client.clone().shutdown().immediate(true).await;
    }
}

impl Inner {
    /// The full name of one of our collections.
    fn name(&self, collection: &str) -> String {
        format!("{}{collection}", self.config.collection_prefix)
    }

    fn collection(&self, name: &str) -> Collection<RawDocumentBuf> {
        self.database.collection(&self.name(name))
    }

    /// Sends a request and waits for its answer, not for ever.
    async fn send<T, R>(&self, command: &'static str, request: R) -> std::result::Result<T, Error>
    where
        R: IntoFuture<Output = std::result::Result<T, Error>>,
    {
        self.send_within(Duration::from_millis(self.config.request_timeout_ms), command, request).await
    }

    async fn send_within<T, R>(
        &self,
        limit: Duration,
        command: &'static str,
        request: R,
    ) -> std::result::Result<T, Error>
    where
        R: IntoFuture<Output = std::result::Result<T, Error>>,
    {
        self.metrics.sent(command);
        answered(limit, command, request.into_future()).await
    }

    /// What a failed request means, counted.
    fn failed(&self, error: &Error) -> StoreError {
        self.counted(answer::answer(error))
    }

    fn counted(&self, meaning: StoreError) -> StoreError {
        self.metrics.failed(answer::label(&meaning));
        meaning
    }

    /// Reads a cursor to its end.
    async fn gather<T>(
        &self,
        limit: Duration,
        mut cursor: Cursor<RawDocumentBuf>,
        mut read: impl FnMut(&RawDocument) -> Result<T>,
    ) -> Result<Vec<T>> {
        let mut all = Vec::new();
        while answered(limit, "getMore", cursor.advance()).await.map_err(|error| self.failed(&error))? {
            all.push(read(cursor.current())?);
        }
        Ok(all)
    }

    fn request_limit(&self) -> Duration {
        Duration::from_millis(self.config.request_timeout_ms)
    }
}

/// Waits for an answer, not for ever. What is not waited for any more ends with its connection.
async fn answered<T>(
    limit: Duration,
    command: &'static str,
    request: impl Future<Output = std::result::Result<T, Error>>,
) -> std::result::Result<T, Error> {
    match tokio::time::timeout(limit, request).await {
        Ok(answer) => answer,
        Err(_) => {
            let what = format!("no answer to {command} within {} s", limit.as_secs_f64());
            Err(std::io::Error::new(std::io::ErrorKind::TimedOut, what).into())
        }
    }
}

/// Runs work that takes a processor for a while where others do not wait for it.
async fn compute<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|error| answer::busy(error.to_string()))
}

#[async_trait]
impl History for MongoStore {
    async fn write(&self, blocks: Vec<Block>) -> Result<()> {
        self.0.write(blocks).await
    }

    async fn sync(&self) -> Result<()> {
        // A majority had journalled every write when it returned.
        Ok(())
    }

    fn done(&self, _: &str, _: u64) {
        // Nothing is merged.
    }

    async fn find(&self, device: &DeviceKey, range: TimeRange) -> Result<Vec<BlockMeta>> {
        self.0.find(device, range).await
    }

    async fn fetch(&self, device: &DeviceKey, metas: &[BlockMeta], names: Option<&[Arc<str>]>) -> Result<Vec<Block>> {
        self.0.fetch(device, metas, names).await
    }

    async fn count(&self) -> Result<Vec<(Arc<str>, u64)>> {
        self.0.count_readings().await
    }

    async fn count_between(&self, range: TimeRange) -> Result<Option<Vec<(Arc<str>, u64)>>> {
        self.0.count_between(range).await.map(Some)
    }

    async fn expire(&self, before: Nanos) -> Result<u64> {
        self.0.expire(before).await
    }

    async fn merge(&self) -> Result<bool> {
        Ok(false)
    }
}

#[async_trait]
impl Latest for MongoStore {
    async fn load(&self) -> Result<Vec<LatestState>> {
        self.0.load_states().await
    }

    async fn store(&self, states: Vec<LatestState>) -> Result<()> {
        self.0.store_states(states).await
    }
}

#[async_trait]
impl LatestView for MongoStore {
    async fn get(&self, devices: &[DeviceKey]) -> Result<Vec<Option<LatestState>>> {
        self.0.get_states(devices).await
    }

    async fn list(&self, tenant: &str, after: Option<&str>, limit: usize) -> Result<Vec<LatestState>> {
        self.0.list_states(tenant, after, limit).await
    }
}

#[async_trait]
impl DeadLetters for MongoStore {
    async fn put(&self, letters: Vec<Deadletter>) -> Result<()> {
        self.0.put_letters(letters).await
    }

    async fn list(&self, tenant: &str, after: Option<(&str, u64, &str)>, limit: usize) -> Result<Vec<Deadletter>> {
        self.0.list_letters(tenant, after, limit).await
    }

    async fn get(&self, tenant: &str, log: &str, offset: u64, stage: &str) -> Result<Option<Deadletter>> {
        self.0.get_letter(tenant, log, offset, stage).await
    }

    async fn mark_replayed(&self, tenant: &str, log: &str, offset: u64, stage: &str, at: Nanos) -> Result<()> {
        self.0.mark_letter(tenant, log, offset, stage, at).await
    }

    async fn count(&self) -> Result<Vec<(Arc<str>, u64)>> {
        self.0.count_letters().await
    }

    async fn count_replayed(&self, stage: &str) -> Result<Vec<(Arc<str>, u64)>> {
        self.0.count_replayed(stage).await
    }
}

#[async_trait]
impl Retained for MongoStore {
    async fn load(&self) -> Result<Vec<RetainedMessage>> {
        self.0.load_retained().await
    }

    async fn apply(&self, changes: Vec<RetainedMessage>) -> Result<()> {
        self.0.apply_retained(changes).await
    }
}
