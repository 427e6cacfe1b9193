//! The store that needs no server: files of a key-value store in one folder.
//!
//! ```text
//! DIR/meta.redb           latest states, dead letters, retained messages, expired readings
//! DIR/history/N.redb      blocks of week N since 1970; deleted whole when the retention has passed
//! it
//! ```
//! Each write is one transaction that is on disk when it returns. Each value carries a checksum of
//! its own, checked at each read: the key-value store checks its pages only when it repairs itself.
//!
//! A disk that was full, or failed otherwise, makes the key-value store refuse a file for good; the
//! file is then closed and opened again, so that space alone ends the trouble.
//!
//! With [`Config::keys`], values are sealed under the keys of their tenant (`sealing`).
//!
//! A block's key holds its identity and its extent, so that finding blocks reads keys only. Writing
//! a block again finds its key. A merged block has lost its key, so only blocks that the log's
//! cursor has passed ([`History::done`](crate::History::done)) are merged.
//!
//! The bytes of each tenant's readings are kept beside its blocks, and change in the transactions
//! that change these (`size`).

mod backup;
mod dead_letters;
mod file;
mod history;
mod keys;
mod latest;
mod merge;
mod meta;
mod partition;
mod retained;
mod sealing;
mod size;
mod tenant;
mod verify;

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use envelope::Keyring;
use hashbrown::HashMap;
use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::contract::{Result, Store, StoreError};
use crate::metrics::Metrics;
use partition::Partitions;

pub use backup::{Held, Passed, Quiet};
pub use verify::verify;

/// Settings of the embedded store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Config {
    /// Folder of its files; not a key.
    #[serde(skip)]
    pub dir: PathBuf,
    /// Memory for pages of each open file of the store, in bytes.
    pub cache_bytes: usize,
    /// Files of the store open at one time; each holds a span of time.
    pub max_open_partitions: usize,
    /// Keys that values are sealed with; not a key of the configuration.
    #[serde(skip)]
    pub keys: Option<Keyring>,
}

impl Default for Config {
    fn default() -> Self {
        Self { dir: PathBuf::from("store"), cache_bytes: 32 << 20, max_open_partitions: 16, keys: None }
    }
}

/// The embedded store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct EmbeddedStore(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    meta: Arc<file::StoreFile>,
    sealing: sealing::Sealing,
    partitions: Partitions,
    /// For each log, the offset that its history cursor has passed.
    done: Mutex<HashMap<Arc<str>, u64>>,
    /// Position of the next merge.
    merging: Mutex<merge::Position>,
    apart: Mutex<merge::Apart>,
    /// True while a copy is made; held while blocks are merged or deleted.
    quiet: Mutex<bool>,
    sizes: size::Sizes,
    metrics: Arc<Metrics>,
}

impl EmbeddedStore {
    /// Opens the store, or creates it.
    ///
    /// # Errors
    /// [`StoreError`]: another process has it open, the folder cannot be written, or it is damaged.
    pub fn open(config: Config, metrics: Arc<Metrics>) -> Result<Self> {
        let open = file::opener(config.cache_bytes);
        Self::open_with(config, metrics, open)
    }

    fn open_with(config: Config, metrics: Arc<Metrics>, open: file::Open) -> Result<Self> {
        let history = config.dir.join("history");
        std::fs::create_dir_all(&history)
            .map_err(|error| StoreError::busy(format!("cannot create {}: {error}", history.display())))?;
        let path = config.dir.join("meta.redb");
        let meta = Arc::new(file::StoreFile::new(path, Arc::clone(&open), meta::prepare));
        // A file of an earlier release may lack a table.
        meta.open()?.run(meta::prepare)?;
        let partitions = Partitions::new(history, config.max_open_partitions, open, &metrics)?;
        let (done, merging, apart, quiet) = (Mutex::default(), Mutex::default(), Mutex::default(), Mutex::default());
        let sealing = sealing::Sealing::new(config.keys);
        let sizes = size::Sizes::default();
        Ok(Self(Arc::new(Inner { meta, sealing, partitions, done, merging, apart, quiet, sizes, metrics })))
    }

    /// Runs blocking work on a thread where it may block.
    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce(&Inner) -> Result<T> + Send + 'static) -> Result<T> {
        let inner = Arc::clone(&self.0);
        tokio::task::spawn_blocking(move || work(&inner)).await.map_err(|error| StoreError::busy(error.to_string()))?
    }
}

#[async_trait]
impl Store for EmbeddedStore {
    async fn ready(&self) -> Result<()> {
        Ok(())
    }

    fn name(&self) -> &'static str {
        "embedded"
    }
}

impl Inner {
    fn meta_path(&self) -> PathBuf {
        self.meta.path().to_owned()
    }
}

#[cfg(test)]
mod tests;
