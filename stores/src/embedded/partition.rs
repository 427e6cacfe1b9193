//! Files of history, one for each week, a bounded number of them open.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use model::Nanos;
use parking_lot::Mutex;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use super::file::{Open, Opened, Outcome, StoreFile};
use super::keys;
use crate::block::partition_of;
use crate::contract::{Result, StoreError};
use crate::metrics::Metrics;

/// Block key to block.
pub(super) const BLOCKS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("blocks");
/// Tenant to rows that merges found to be the same as others, and dropped.
pub(super) const MERGED: TableDefinition<'_, &str, u64> = TableDefinition::new("merged");
/// Tenant to the bytes of its readings, as storage is counted. A file of an earlier release has
/// none until they are asked for.
pub(super) const SIZES: TableDefinition<'static, &'static str, u64> = TableDefinition::new("sizes");

/// Makes the tables of a new partition.
fn prepare(database: &Database) -> Outcome<()> {
    let write = database.begin_write()?;
    write.open_table(BLOCKS)?;
    write.open_table(MERGED)?;
    write.open_table(SIZES)?;
    write.commit()?;
    Ok(())
}

/// All partitions.
pub(super) struct Partitions {
    dir: PathBuf,
    capacity: usize,
    open: Open,
    state: Mutex<State>,
    metrics: Arc<Metrics>,
}

impl std::fmt::Debug for Partitions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Partitions").field(&self.dir).finish()
    }
}

#[derive(Default)]
struct State {
    there: BTreeSet<i64>,
    open: BTreeMap<i64, (u64, Arc<StoreFile>)>,
    uses: u64,
}

impl Partitions {
    pub(super) fn new(dir: PathBuf, capacity: usize, open: Open, metrics: &Arc<Metrics>) -> Result<Self> {
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
        Ok(Self { dir, capacity: capacity.max(1), open, state, metrics: Arc::clone(metrics) })
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
    pub(super) fn open(&self, number: i64) -> Result<Opened> {
        // Held while opening: a file must not be opened twice.
        let mut state = self.state.lock();
        state.uses += 1;
        let uses = state.uses;
        if let Some((used, file)) = state.open.get_mut(&number) {
            *used = uses;
            return file.open();
        }
        while state.open.len() >= self.capacity {
            // A file that a query still uses cannot be closed; for a moment a few more may be open.
            let idle = state.open.iter().filter(|(_, (_, file))| file.is_idle()).min_by_key(|(_, (used, _))| *used);
            let Some(oldest) = idle.map(|(n, _)| *n) else { break };
            state.open.remove(&oldest);
        }
        let file = Arc::new(StoreFile::new(self.path(number), Arc::clone(&self.open), prepare));
        let opened = file.open()?;
        state.there.insert(number);
        state.open.insert(number, (uses, file));
        self.metrics.partitions.set(state.there.len() as i64);
        Ok(opened)
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

    /// Counts the rows of the blocks in a partition, and those that merges have dropped, by tenant.
    pub(super) fn rows_of(&self, number: i64) -> Result<Vec<(Arc<str>, u64)>> {
        let opened = self.open(number)?;
        let (mut rows, mut malformed): (BTreeMap<Arc<str>, u64>, _) = (BTreeMap::new(), None);
        opened.run(|database| {
            let read = database.begin_read()?;
            for entry in read.open_table(BLOCKS)?.iter()? {
                match keys::tenant_and_rows(entry?.0.value()) {
                    Ok((tenant, count)) => match rows.get_mut(tenant) {
                        Some(held) => *held += u64::from(count),
                        None => drop(rows.insert(tenant.into(), u64::from(count))),
                    },
                    Err(error) => malformed = Some(error),
                }
            }
            for entry in read.open_table(MERGED)?.iter()? {
                let (tenant, count) = entry?;
                *rows.entry(tenant.value().into()).or_default() += count.value();
            }
            Ok(())
        })?;
        malformed.map_or_else(|| Ok(rows.into_iter().collect()), Err)
    }

    pub(super) fn rows(&self) -> Result<Vec<(Arc<str>, u64)>> {
        let mut all = Vec::new();
        for number in self.all() {
            all.extend(self.rows_of(number)?);
        }
        Ok(all)
    }
}
