//! The store that needs no server: files of a key-value store in one folder.
//!
//! ```text
//! DIR/meta.redb           latest states, dead letters, retained messages, counts
//! DIR/history/N.redb      blocks whose first time lies in week N since 1970; deleted whole when the retention has passed it
//! ```
//! Each write is one transaction that is on disk when it returns. Each value carries a checksum of its own, checked at each read:
//! the key-value store checks its pages only when it repairs itself.
//!
//! A block's key holds its identity and its extent, so that finding blocks reads keys only. Writing a block again finds its key.
//! Merged blocks have lost theirs: so only blocks are merged that the log's cursor has passed ([`History::done`]).

mod history;
mod keys;
mod merge;
mod meta;
mod partition;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use hashbrown::HashMap;
use model::{DeviceKey, Nanos, TimeRange};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::block::{Block, BlockMeta};
use crate::contract::{
    DeadLetters, Deadletter, History, Latest, LatestState, Result, Retained, RetainedMessage, StoreError,
};
use crate::metrics::Metrics;
use partition::Partitions;

pub use partition::{PARTITION, partition_of};

/// Settings of the embedded store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where its files are.
    pub dir: PathBuf,
    /// Memory for pages of each open file.
    pub cache_bytes: usize,
    /// Partition files open at one time.
    pub max_open_partitions: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { dir: PathBuf::from("store"), cache_bytes: 32 << 20, max_open_partitions: 16 }
    }
}

/// The embedded store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct EmbeddedStore(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: Config,
    meta: redb::Database,
    partitions: Partitions,
    /// For each log, the offset that its history cursor has passed.
    done: Mutex<HashMap<Arc<str>, u64>>,
    /// Where the next merge goes on.
    merging: Mutex<merge::Position>,
    metrics: Arc<Metrics>,
}

impl EmbeddedStore {
    /// Opens or makes the store.
    ///
    /// # Errors
    /// [`StoreError`]: another process has it open, the folder cannot be written, or it is damaged.
    pub fn open(config: Config, metrics: Arc<Metrics>) -> Result<Self> {
        let history = config.dir.join("history");
        std::fs::create_dir_all(&history).map_err(|error| StoreError::Busy {
            reason: format!("cannot make {}: {error}", history.display()),
            retry_after: None,
        })?;
        let path = config.dir.join("meta.redb");
        let meta = partition::open_file(&path, config.cache_bytes)?;
        meta::prepare(&meta).map_err(partition::at(&path))?;
        let partitions = Partitions::new(history, config.max_open_partitions, config.cache_bytes, &metrics)?;
        let (done, merging) = (Mutex::default(), Mutex::default());
        Ok(Self(Arc::new(Inner { config, meta, partitions, done, merging, metrics })))
    }

    /// Runs blocking work where it may block.
    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce(&Inner) -> Result<T> + Send + 'static) -> Result<T> {
        let inner = Arc::clone(&self.0);
        tokio::task::spawn_blocking(move || work(&inner))
            .await
            .map_err(|error| StoreError::Busy { reason: error.to_string(), retry_after: None })?
    }
}

impl Inner {
    fn meta_path(&self) -> PathBuf {
        self.config.dir.join("meta.redb")
    }
}

#[async_trait]
impl History for EmbeddedStore {
    async fn write(&self, blocks: Vec<Block>) -> Result<()> {
        self.blocking(move |inner| inner.write(&blocks)).await
    }

    async fn sync(&self) -> Result<()> {
        // Every transaction was on disk when its write returned.
        Ok(())
    }

    fn done(&self, log: &str, below: u64) {
        self.0.done.lock().insert(log.into(), below);
    }

    async fn find(&self, device: &DeviceKey, range: TimeRange) -> Result<Vec<BlockMeta>> {
        let device = device.clone();
        self.blocking(move |inner| inner.find(&device, range)).await
    }

    async fn fetch(&self, device: &DeviceKey, metas: &[BlockMeta], names: Option<&[Arc<str>]>) -> Result<Vec<Block>> {
        let (device, metas, names) = (device.clone(), metas.to_vec(), names.map(<[_]>::to_vec));
        self.blocking(move |inner| inner.fetch(&device, &metas, names.as_deref())).await
    }

    async fn count(&self) -> Result<Vec<(Arc<str>, u64)>> {
        self.blocking(|inner| {
            let mut counts: BTreeMap<Arc<str>, u64> = inner.expired()?.into_iter().collect();
            for (tenant, rows) in inner.partitions.rows()? {
                *counts.entry(tenant).or_default() += rows;
            }
            Ok(counts.into_iter().collect())
        })
        .await
    }

    async fn expire(&self, before: Nanos) -> Result<u64> {
        self.blocking(move |inner| inner.expire(before)).await
    }

    async fn merge(&self) -> Result<bool> {
        self.blocking(Inner::merge).await
    }
}

#[async_trait]
impl Latest for EmbeddedStore {
    async fn load(&self) -> Result<Vec<LatestState>> {
        self.blocking(Inner::load_latest).await
    }

    async fn store(&self, states: Vec<LatestState>) -> Result<()> {
        self.blocking(move |inner| inner.store_latest(&states)).await
    }
}

#[async_trait]
impl DeadLetters for EmbeddedStore {
    async fn put(&self, letters: Vec<Deadletter>) -> Result<()> {
        self.blocking(move |inner| inner.put_letters(&letters)).await
    }

    async fn list(&self, tenant: &str, after: Option<(&str, u64, &str)>, limit: usize) -> Result<Vec<Deadletter>> {
        let from = keys::letters_after(tenant, after);
        let end = keys::letters_end(tenant);
        self.blocking(move |inner| inner.list_letters(&from, &end, limit)).await
    }

    async fn get(&self, tenant: &str, log: &str, offset: u64, stage: &str) -> Result<Option<Deadletter>> {
        let key = keys::letter(tenant, log, offset, stage);
        self.blocking(move |inner| inner.get_letter(&key)).await
    }

    async fn mark_replayed(&self, tenant: &str, log: &str, offset: u64, stage: &str, at: Nanos) -> Result<()> {
        let key = keys::letter(tenant, log, offset, stage);
        self.blocking(move |inner| inner.mark_letter(&key, at)).await
    }

    async fn count(&self) -> Result<Vec<(Arc<str>, u64)>> {
        self.blocking(Inner::count_letters).await
    }
}

#[async_trait]
impl Retained for EmbeddedStore {
    async fn load(&self) -> Result<Vec<RetainedMessage>> {
        self.blocking(Inner::load_retained).await
    }

    async fn apply(&self, changes: Vec<RetainedMessage>) -> Result<()> {
        self.blocking(move |inner| inner.apply_retained(&changes)).await
    }
}

#[cfg(test)]
mod tests;
