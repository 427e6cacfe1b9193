//! Files of history, one for each week, a bounded number of them open.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use model::Nanos;
use parking_lot::Mutex;
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition};

use crate::block::partition_of;
use crate::contract::{Result, StoreError};
use crate::metrics::Metrics;

/// Block key to block.
pub(super) const BLOCKS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("blocks");
/// Tenant to rows written: rows that a merge found to be equal still count.
pub(super) const ROWS: TableDefinition<'_, &str, u64> = TableDefinition::new("rows");

/// Returns the meaning of an error of the key-value store, with the name of the file.
pub(super) fn at<E: Into<redb::Error>>(path: &Path) -> impl Fn(E) -> StoreError + '_ {
    move |error| match error.into() {
        redb::Error::Corrupted(what) => StoreError::Damaged(format!("{}: {what}", path.display())),
        redb::Error::Io(error) if error.kind() == std::io::ErrorKind::StorageFull => StoreError::busy(format!(
            "no space left for {}: free some; the log keeps all readings meanwhile",
            path.display()
        )),
        error => StoreError::busy(format!("{}: {error}", path.display())),
    }
}

pub(super) fn open_file(path: &Path, cache_bytes: usize) -> Result<Database> {
    Database::builder().set_cache_size(cache_bytes).create(path).map_err(|error| match error {
        DatabaseError::DatabaseAlreadyOpen => StoreError::NeedsOperator(format!(
            "another process has {} open: stop it, or use another data folder",
            path.display()
        )),
        error => at(path)(error),
    })
}

/// All partitions.
#[derive(Debug)]
pub(super) struct Partitions {
    dir: PathBuf,
    capacity: usize,
    cache_bytes: usize,
    state: Mutex<State>,
    metrics: Arc<Metrics>,
}

#[derive(Debug, Default)]
struct State {
    there: BTreeSet<i64>,
    open: BTreeMap<i64, (u64, Arc<Database>)>,
    uses: u64,
}

impl Partitions {
    pub(super) fn new(dir: PathBuf, capacity: usize, cache_bytes: usize, metrics: &Arc<Metrics>) -> Result<Self> {
        let failed = |error: std::io::Error| StoreError::busy(format!("cannot list {}: {error}", dir.display()));
        let mut there = BTreeSet::new();
        for entry in std::fs::read_dir(&dir).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.extension().is_some_and(|e| e == "redb") {
                let number = path.file_stem().and_then(|s| s.to_str()).and_then(|s| s.parse().ok());
                there.insert(
                    number.ok_or_else(|| {
                        StoreError::Damaged(format!("{} is not named as a partition", path.display()))
                    })?,
                );
            }
        }
        metrics.partitions.set(there.len() as i64);
        let state = Mutex::new(State { there, ..State::default() });
        Ok(Self { dir, capacity: capacity.max(1), cache_bytes, state, metrics: Arc::clone(metrics) })
    }

    pub(super) fn path(&self, number: i64) -> PathBuf {
        self.dir.join(format!("{number}.redb"))
    }

    /// Returns the partitions that exist.
    pub(super) fn all(&self) -> Vec<i64> {
        self.state.lock().there.iter().copied().collect()
    }

    /// Returns the partitions that may hold blocks that touch `first..=last`. A block lies in the
    /// partition of its first row.
    pub(super) fn touching(&self, first: Nanos, last: Nanos) -> Vec<i64> {
        let (from, to) = (partition_of(first), partition_of(last));
        if from > to {
            return Vec::new();
        }
        self.state.lock().there.range(from..=to).copied().collect()
    }

    /// Opens a partition, creates it if it does not exist; the least recently used one is closed.
    pub(super) fn open(&self, number: i64) -> Result<Arc<Database>> {
        // Held while opening: a file must not be opened twice.
        let mut state = self.state.lock();
        state.uses += 1;
        let uses = state.uses;
        if let Some((used, database)) = state.open.get_mut(&number) {
            *used = uses;
            return Ok(Arc::clone(database));
        }
        while state.open.len() >= self.capacity {
            // A file that a query still uses cannot be closed; for a moment a few more may be open.
            let idle =
                state.open.iter().filter(|(_, (_, db))| Arc::strong_count(db) == 1).min_by_key(|(_, (used, _))| *used);
            let Some(oldest) = idle.map(|(n, _)| *n) else { break };
            state.open.remove(&oldest);
        }
        let path = self.path(number);
        let database = open_file(&path, self.cache_bytes)?;
        let prepare = || -> std::result::Result<(), redb::Error> {
            let write = database.begin_write()?;
            write.open_table(BLOCKS)?;
            write.open_table(ROWS)?;
            write.commit()?;
            Ok(())
        };
        if !state.there.contains(&number) {
            prepare().map_err(at(&path))?;
        }
        let database = Arc::new(database);
        state.there.insert(number);
        state.open.insert(number, (uses, Arc::clone(&database)));
        self.metrics.partitions.set(state.there.len() as i64);
        Ok(database)
    }

    /// Deletes a partition. Queries that have it open continue to read it.
    pub(super) fn delete(&self, number: i64) -> Result<()> {
        let mut state = self.state.lock();
        state.open.remove(&number);
        let path = self.path(number);
        std::fs::remove_file(&path)
            .map_err(|error| StoreError::busy(format!("cannot delete {}: {error}", path.display())))?;
        state.there.remove(&number);
        self.metrics.partitions.set(state.there.len() as i64);
        Ok(())
    }

    /// Returns the rows written to a partition, by tenant.
    pub(super) fn rows_of(&self, number: i64) -> Result<Vec<(Arc<str>, u64)>> {
        let database = self.open(number)?;
        let read = || -> std::result::Result<_, redb::Error> {
            let table = database.begin_read()?.open_table(ROWS)?;
            let mut rows = Vec::new();
            for entry in table.iter()? {
                let (tenant, count) = entry?;
                rows.push((Arc::from(tenant.value()), count.value()));
            }
            Ok(rows)
        };
        read().map_err(at(&self.path(number)))
    }

    pub(super) fn rows(&self) -> Result<Vec<(Arc<str>, u64)>> {
        let mut all = Vec::new();
        for number in self.all() {
            all.extend(self.rows_of(number)?);
        }
        Ok(all)
    }
}
