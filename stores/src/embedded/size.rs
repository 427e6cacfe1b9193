//! The bytes of each tenant's readings, as storage is counted ([`model::size`]).
//!
//! Each partition has them for its own blocks, and a transaction that writes, merges or deletes
//! blocks changes them too, so that they are right after any crash. A partition that is deleted
//! takes its own with it.
//!
//! A count asks every partition. Most of them change no longer, and are not opened for it again:
//! their bytes are remembered until a change of the partition.

use std::collections::BTreeMap;
use std::path::Path;

use hashbrown::HashMap;
use parking_lot::Mutex;
use redb::{ReadableDatabase, ReadableTable, TableError, TableHandle, WriteTransaction};

use super::file::{Opened, Outcome};
use super::partition::{BLOCKS, SIZES};
use super::{Inner, keys};
use crate::contract::Result;

/// Numbers that are remembered; when there are more, all are read again.
const REMEMBERED: usize = 100_000;

/// Adds to the number of a tenant.
pub(super) fn add(table: &mut redb::Table<'_, &'static str, u64>, tenant: &str, change: i64) -> Outcome<()> {
    let held = table.get(tenant)?.map_or(0, |held| held.value());
    table.insert(tenant, held.saturating_add_signed(change))?;
    Ok(())
}

/// Bytes that a transaction adds or removes, by tenant.
#[derive(Debug, Default)]
pub(super) struct Changes<'a>(BTreeMap<&'a str, i64>);

impl<'a> Changes<'a> {
    pub(super) fn add(&mut self, tenant: &'a str, bytes: u64) {
        let sum = self.0.entry(tenant).or_default();
        *sum = sum.saturating_add_unsigned(bytes);
    }

    pub(super) fn remove(&mut self, tenant: &'a str, bytes: u64) {
        let sum = self.0.entry(tenant).or_default();
        *sum = sum.saturating_sub_unsigned(bytes);
    }

    /// Applies them in the transaction that changes the blocks.
    pub(super) fn apply(self, write: &WriteTransaction) -> Outcome<()> {
        let changes = self.0.into_iter().filter(|(_, change)| *change != 0);
        let Some(mut sizes) = table(write)? else { return Ok(()) };
        changes.into_iter().try_for_each(|(tenant, change)| add(&mut sizes, tenant, change))
    }

    /// Applies them after blocks of a tenant were removed. With its last block all of its bytes are
    /// gone, also of blocks that could not be read.
    pub(super) fn apply_after_removal(self, write: &WriteTransaction, tenant: &str) -> Outcome<()> {
        self.apply(write)?;
        let (from, to) = keys::of_tenant(tenant);
        let is_empty = write.open_table(BLOCKS)?.range(&from[..]..&to[..])?.next().is_none();
        if is_empty && let Some(mut sizes) = table(write)? {
            sizes.remove(tenant)?;
        }
        Ok(())
    }
}

/// The table, unless the file is of an earlier release and was not counted yet.
fn table(write: &WriteTransaction) -> Outcome<Option<redb::Table<'_, &'static str, u64>>> {
    let is_there = write.list_tables()?.any(|table| table.name() == SIZES.name());
    Ok(is_there.then(|| write.open_table(SIZES)).transpose()?)
}

/// Bytes that were read.
#[derive(Debug, Default)]
pub(super) struct Sizes(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// Count of changes: what was read before one of them is not remembered.
    changes: u64,
    by_partition: HashMap<i64, HashMap<Box<str>, u64>>,
    count: usize,
}

impl Sizes {
    /// Forgets the bytes of a partition whose blocks were changed.
    pub(super) fn changed(&self, number: i64) {
        let mut known = self.0.lock();
        known.changes += 1;
        let forgotten = known.by_partition.remove(&number).map_or(0, |of_tenants| of_tenants.len());
        known.count -= forgotten;
    }

    /// Returns the bytes of a tenant in a partition, or the count of changes.
    fn get(&self, number: i64, tenant: &str) -> std::result::Result<u64, u64> {
        let known = self.0.lock();
        let found = known.by_partition.get(&number).and_then(|of_tenants| of_tenants.get(tenant));
        found.copied().ok_or(known.changes)
    }

    /// Remembers what was read after this count of changes.
    fn put(&self, number: i64, tenant: &str, bytes: u64, changes: u64) {
        let mut known = self.0.lock();
        if known.changes != changes {
            return;
        }
        if known.count >= REMEMBERED {
            known.by_partition.clear();
            known.count = 0;
        }
        let is_new = known.by_partition.entry(number).or_default().insert(tenant.into(), bytes).is_none();
        known.count += usize::from(is_new);
    }
}

impl Inner {
    /// Returns the bytes of a tenant's readings in a partition.
    pub(super) fn size_in(&self, number: i64, tenant: &str) -> Result<u64> {
        let changes = match self.sizes.get(number, tenant) {
            Ok(known) => return Ok(known),
            Err(changes) => changes,
        };
        // Held so that the partition is not deleted meanwhile: to open it would make it anew.
        let _quiet = self.quiet.lock();
        if !self.partitions.all().contains(&number) {
            return Ok(0);
        }
        let partition = self.partitions.open(number)?;
        let held = partition.run(|database| match database.begin_read()?.open_table(SIZES) {
            Ok(sizes) => Ok(Some(sizes.get(tenant)?.map_or(0, |bytes| bytes.value()))),
            Err(TableError::TableDoesNotExist(_)) => Ok(None),
            Err(error) => Err(error.into()),
        })?;
        let bytes = match held {
            Some(bytes) => bytes,
            None => self.count_sizes(&partition, number)?.get(tenant).copied().unwrap_or_default(),
        };
        self.sizes.put(number, tenant, bytes, changes);
        Ok(bytes)
    }

    /// Counts the bytes of all tenants in a partition of an earlier release, once. Writes wait for
    /// it: every block is read.
    fn count_sizes(&self, partition: &Opened, number: i64) -> Result<BTreeMap<String, u64>> {
        let path = self.partitions.path(number);
        tracing::info!(file = %path.display(), "counting the bytes of each tenant in a file of an earlier release");
        partition.run(|database| {
            let write = database.begin_write()?;
            let mut counted: BTreeMap<String, u64> = BTreeMap::new();
            {
                for entry in write.open_table(BLOCKS)?.iter()? {
                    let (key, value) = entry?;
                    let Ok(block) = keys::read_block(key.value()) else { continue };
                    let size = self.size_of_block(&path, key.value(), value.value(), &block);
                    *counted.entry(block.id.device.tenant.to_string()).or_default() += size;
                }
                let mut sizes = write.open_table(SIZES)?;
                for (tenant, bytes) in &counted {
                    sizes.insert(&**tenant, bytes)?;
                }
            }
            write.commit()?;
            Ok(counted)
        })
    }

    /// Returns the bytes of the readings of a block, and of one that cannot be read the least that
    /// they may be.
    pub(super) fn size_of_block(&self, path: &Path, key: &[u8], value: &[u8], block: &keys::BlockKey) -> u64 {
        let least = u64::from(block.meta.rows) * model::size::READING;
        self.decode(path, &block.id.device, key, value, None).map_or(least, |block| block.size())
    }
}

#[cfg(test)]
mod tests;
