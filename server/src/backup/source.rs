//! The parts of a data folder: those that a running process has open, and others, which are opened
//! for the copy.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use buffer::Batcher;
use buffer::embedded::{EmbeddedLog, Snapshot};
use buffer::spill;
use identity::EmbeddedRegistry;
use stores::embedded::{EmbeddedStore, Held, Passed};

use crate::access::REGISTRY;
use crate::config::Config;
use crate::data_dir::{log_in, pool_folders, spill_in, store_in};

/// The parts that a process has open. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Open {
    pub(crate) log: Option<Arc<EmbeddedLog>>,
    pub(crate) spill: Option<spill::Status>,
    pub(crate) store: Option<EmbeddedStore>,
    pub(crate) registry: Option<EmbeddedRegistry>,
}

/// A data folder to copy.
#[derive(Debug, Clone)]
pub(super) struct Source {
    pub(super) config: Arc<Config>,
    pub(super) data: PathBuf,
    pub(super) open: Open,
    /// Parts of pools, by name.
    pub(super) pools: Vec<(String, Open)>,
}

/// The parts at one moment.
#[derive(Default)]
pub(super) struct Moment {
    pub(super) log: Option<Snapshot>,
    pub(super) spill: Option<Snapshot>,
    pub(super) store: Option<Held>,
    /// Logs that were opened for the copy, to be closed after it.
    opened: Vec<(Arc<EmbeddedLog>, Batcher)>,
}

impl Source {
    /// The folders of pools in the data folder, each with its place there.
    ///
    /// # Errors
    /// Names the pool and the key.
    pub(super) fn pools(&self) -> anyhow::Result<Vec<(PathBuf, Self)>> {
        let of_pool = |(name, data): (String, PathBuf)| {
            let configured = self.config.pool.iter().find(|pool| pool.name == name);
            let config = match configured {
                Some(pool) => Arc::new(self.config.of_pool(pool)?),
                None => Arc::clone(&self.config),
            };
            let open = self.pools.iter().find(|(known, _)| *known == name).map(|(_, open)| open.clone());
            let place = data.strip_prefix(&self.data).context("a pool lies in the data folder")?.to_owned();
            Ok((place, Self { config, data, open: open.unwrap_or_default(), pools: Vec::new() }))
        };
        pool_folders(&self.data).into_iter().map(of_pool).collect()
    }

    /// Takes all parts that are there, as they are now.
    ///
    /// # Errors
    /// Names the file and what to do.
    pub(super) fn moment(&self) -> anyhow::Result<Moment> {
        let mut moment = Moment::default();
        let config = self.config.log.clone();
        let store = self.store()?.map(|store| store.quiet()).transpose()?;
        let hold = || store.map(|store| store.hold()).transpose();
        let (log, store) = match (&self.open.log, log_in(&self.data)) {
            (Some(log), _) => taken(log.snapshot(hold)),
            (None, dir) if dir.is_dir() => {
                taken(moment.open(buffer::embedded::Config { dir, ..config })?.snapshot(hold))
            }
            (None, _) => (None, hold()),
        };
        (moment.log, moment.store) = (log, store?);
        let spill = self.config.redis.spill.clone();
        moment.spill = match (&self.open.spill, spill_in(&self.data)) {
            (Some(spill), _) => Some(spill.files().snapshot(|| ()).0),
            (None, dir) if dir.is_dir() => {
                let segment_bytes = self.config.log.segment_bytes.min(spill.segment_bytes);
                let config = buffer::embedded::Config { dir, segment_bytes, ..self.config.log.clone() };
                Some(moment.open(config)?.snapshot(|| ()).0)
            }
            (None, _) => None,
        };
        Ok(moment)
    }

    /// The registry of tenants and credentials, if there is one.
    pub(super) fn registry(&self) -> anyhow::Result<Option<EmbeddedRegistry>> {
        match &self.open.registry {
            Some(registry) => Ok(Some(registry.clone())),
            None => {
                let path = self.data.join(REGISTRY);
                let is_there = path.exists();
                is_there.then(|| EmbeddedRegistry::open(path)).transpose().context("open the registry")
            }
        }
    }

    fn store(&self) -> anyhow::Result<Option<EmbeddedStore>> {
        let dir = store_in(&self.data);
        match &self.open.store {
            Some(store) => Ok(Some(store.clone())),
            None if dir.is_dir() => {
                let config = stores::embedded::Config { dir, ..self.config.history.store.clone() };
                Ok(Some(EmbeddedStore::open(config, Arc::default()).context("open the store")?))
            }
            None => Ok(None),
        }
    }
}

fn taken<T>((log, store): (Snapshot, T)) -> (Option<Snapshot>, T) {
    (Some(log), store)
}

impl Moment {
    pub(super) fn is_empty(&self) -> bool {
        self.log.is_none() && self.spill.is_none() && self.store.is_none()
    }

    fn open(&mut self, config: buffer::embedded::Config) -> anyhow::Result<Arc<EmbeddedLog>> {
        let (log, batcher) = EmbeddedLog::open(config, Arc::default())?;
        self.opened.push((Arc::clone(&log), batcher));
        Ok(log)
    }

    /// Writes the parts into the existing folder `to`.
    ///
    /// # Errors
    /// Errors of either disk, with the file.
    pub(super) fn write_to(&self, to: &Path) -> anyhow::Result<()> {
        let folder = |path: PathBuf| super::files::create_folder(&path).map(|()| path);
        if let Some(log) = &self.log {
            log.write_to(&folder(log_in(to))?)?;
        }
        if let Some(spill) = &self.spill {
            spill.write_to(&folder(spill_in(to))?)?;
        }
        if let Some(store) = &self.store {
            let letters = self.log.as_ref().map(letters_passed);
            let passed = self.log.as_ref().zip(letters.as_ref()).map(|(log, letters)| Passed {
                log: log.id(),
                history: passed(log, flusher::HISTORY),
                letters,
            });
            store.write_to(&folder(store_in(to))?, passed)?;
        }
        Ok(())
    }
}

impl Drop for Moment {
    fn drop(&mut self) {
        self.opened.iter().for_each(|(_, batcher)| batcher.close());
    }
}

/// The offset that a sink had passed: the start of the log for one without a cursor, which reads it
/// from there.
fn passed(log: &Snapshot, sink: &str) -> u64 {
    log.cursors().get(sink).map_or(log.start(), |cursor| cursor.done_to)
}

/// The offset behind the dead letters of each stage: messages by the sink of the dead letters,
/// readings by the sink whose store refused them.
fn letters_passed(log: &Snapshot) -> BTreeMap<String, u64> {
    let sinks = log.cursors().iter().map(|(sink, cursor)| (sink.clone(), cursor.done_to));
    sinks.chain([(flusher::INGEST.to_owned(), passed(log, flusher::DEAD_LETTERS))]).collect()
}
