//! Deletion of all that is held of a tenant, in slices of one transaction.

use async_trait::async_trait;
use model::Nanos;
use redb::{ReadableDatabase, ReadableTable};

use super::file::Outcome;
use super::meta::{EXPIRED, LATEST, LETTER_BYTES, LETTER_COUNTS, LETTERS, LETTERS_TRIMMED, RETAINED};
use super::partition::{BLOCKS, MERGED};
use super::size::Changes;
use super::{EmbeddedStore, Inner, keys};
use crate::block::partition_of;
use crate::contract::{Result, StoreError, TenantCounts, TenantData};

#[async_trait]
impl TenantData for EmbeddedStore {
    async fn count_of(&self, tenant: &str) -> Result<TenantCounts> {
        let tenant = tenant.to_owned();
        self.blocking(move |inner| {
            let mut readings = 0;
            for number in inner.partitions.all() {
                readings += inner.rows_of_tenant(number, &tenant)?;
            }
            let [latest_states, dead_letters, retained_messages] = inner.entries_of_tenant(&tenant)?;
            Ok(TenantCounts { readings, latest_states, dead_letters, retained_messages })
        })
        .await
    }

    async fn size_of(&self, tenant: &str) -> Result<u64> {
        let tenant = tenant.to_owned();
        self.blocking(move |inner| {
            let mut size = 0;
            for number in inner.partitions.all() {
                size += inner.size_in(number, &tenant)?;
            }
            Ok(size)
        })
        .await
    }

    async fn delete_some_of(&self, tenant: &str, most: usize) -> Result<bool> {
        let tenant = tenant.to_owned();
        self.blocking(move |inner| {
            // A merge that goes on would write again what it has read before. A copy of the store
            // that is being made has to be of one moment.
            let is_quiet = inner.quiet.lock();
            if *is_quiet {
                return Err(StoreError::busy("a copy of the store is being made"));
            }
            for number in inner.partitions.all() {
                if inner.delete_blocks(number, &tenant, most)? {
                    return Ok(true);
                }
            }
            inner.delete_entries(&tenant, most)
        })
        .await
    }

    async fn expire_of(&self, tenant: &str, before: Nanos) -> Result<u64> {
        let mut total = 0;
        for number in self.0.partitions.all().into_iter().filter(|number| *number <= partition_of(before)) {
            let mut from = keys::of_tenant(tenant).0;
            loop {
                let tenant = tenant.to_owned();
                let slice = self.blocking(move |inner| inner.expire_some(number, &tenant, from, before)).await?;
                total += slice.rows;
                match slice.next {
                    Some(next) => from = next,
                    None => break,
                }
            }
        }
        Ok(total)
    }
}

/// Blocks whose keys are read in one slice of an expiry.
const STRIDE: usize = 1_000;

/// One slice of an expiry.
struct Expired {
    rows: u64,
    /// The key to go on from.
    next: Option<Vec<u8>>,
}

impl Inner {
    /// Counts the rows of a tenant's blocks in a partition.
    fn rows_of_tenant(&self, number: i64, tenant: &str) -> Result<u64> {
        let (from, to) = keys::of_tenant(tenant);
        let (mut rows, mut malformed) = (0, None);
        self.partitions.open(number)?.run(|database| {
            let table = database.begin_read()?.open_table(BLOCKS)?;
            for entry in table.range(&from[..]..&to[..])? {
                match keys::tenant_and_rows(entry?.0.value()) {
                    Ok((_, count)) => rows += u64::from(count),
                    Err(error) => malformed = Some(error),
                }
            }
            Ok(())
        })?;
        malformed.map_or(Ok(rows), Err)
    }

    /// Counts a tenant's states, letters and retained messages.
    fn entries_of_tenant(&self, tenant: &str) -> Result<[u64; 3]> {
        let (from, to) = keys::of_tenant(tenant);
        self.meta.open()?.run(|meta| {
            let read = meta.begin_read()?;
            let mut counts = [0; 3];
            for (count, table) in counts.iter_mut().zip([LATEST, LETTERS, RETAINED]) {
                let table = read.open_table(table)?;
                for entry in table.range(&from[..]..&to[..])? {
                    entry?;
                    *count += 1;
                }
            }
            Ok(counts)
        })
    }

    /// True while a tenant has a state, a letter or a retained message.
    fn has_entries(&self, tenant: &str) -> Result<bool> {
        let (from, to) = keys::of_tenant(tenant);
        self.meta.open()?.run(|meta| {
            let read = meta.begin_read()?;
            for table in [LATEST, LETTERS, RETAINED] {
                if read.open_table(table)?.range(&from[..]..&to[..])?.next().transpose()?.is_some() {
                    return Ok(true);
                }
            }
            Ok(false)
        })
    }

    /// Deletes some blocks of a tenant; false when the partition has none.
    fn delete_blocks(&self, number: i64, tenant: &str, most: usize) -> Result<bool> {
        let (from, to) = keys::of_tenant(tenant);
        let deleted = self.partitions.open(number)?.run(|database| {
            let read = database.begin_read()?;
            let blocks = read.open_table(BLOCKS)?;
            let has_blocks = blocks.range(&from[..]..&to[..])?.next().is_some();
            let has_merged = read.open_table(MERGED)?.get(tenant)?.is_some();
            if !has_blocks && !has_merged {
                return Ok(false);
            }
            let write = database.begin_write()?;
            remove_some(&mut write.open_table(BLOCKS)?, &from, &to, most)?;
            write.open_table(MERGED)?.remove(tenant)?;
            Changes::default().apply_after_removal(&write, tenant)?;
            write.commit()?;
            Ok(true)
        });
        self.sizes.changed(number);
        deleted
    }

    /// Deletes the old ones among some blocks of a tenant, and counts them with those that merges
    /// dropped: as held.
    fn expire_some(&self, number: i64, tenant: &str, from: Vec<u8>, before: Nanos) -> Result<Expired> {
        let to = keys::of_tenant(tenant).1;
        // A merge that goes on would write again what it has read before.
        let is_quiet = self.quiet.lock();
        if *is_quiet {
            return Ok(Expired { rows: 0, next: None });
        }
        let (path, mut malformed) = (self.partitions.path(number), None);
        let expired = self.partitions.open(number)?.run(|database| {
            let (mut old, mut rows, mut next) = (Vec::new(), 0, None);
            let mut changes = Changes::default();
            let blocks = database.begin_read()?.open_table(BLOCKS)?;
            for (seen, entry) in blocks.range(&from[..]..&to[..])?.enumerate() {
                let (key, value) = entry?;
                if seen == STRIDE {
                    next = Some(key.value().to_vec());
                    break;
                }
                match keys::read_block(key.value()) {
                    Ok(block) if block.meta.last_time < before => {
                        rows += u64::from(block.meta.rows);
                        changes.remove(tenant, self.size_of_block(&path, key.value(), value.value(), &block));
                        old.push(key.value().to_vec());
                    }
                    Ok(_) => {}
                    Err(error) => malformed = Some(error),
                }
            }
            drop(blocks);
            if !old.is_empty() {
                let write = database.begin_write()?;
                {
                    let mut table = write.open_table(BLOCKS)?;
                    for key in &old {
                        table.remove(&key[..])?;
                    }
                    let mut counts = write.open_table(MERGED)?;
                    let held = counts.get(tenant)?.map_or(0, |held| held.value());
                    counts.insert(tenant, held + rows)?;
                }
                changes.apply_after_removal(&write, tenant)?;
                write.commit()?;
            }
            Ok(Expired { rows, next })
        });
        self.sizes.changed(number);
        let expired = expired?;
        malformed.map_or(Ok(expired), Err)
    }

    /// Deletes some states, letters and messages of a tenant, and its counts; false when there was
    /// nothing.
    fn delete_entries(&self, tenant: &str, most: usize) -> Result<bool> {
        let (from, to) = keys::of_tenant(tenant);
        if !self.has_entries(tenant)? && !self.has_counts(tenant)? {
            return Ok(false);
        }
        self.change(|write| {
            for table in [LATEST, LETTERS, RETAINED] {
                remove_some(&mut write.open_table(table)?, &from, &to, most)?;
            }
            for table in [LETTER_COUNTS, LETTER_BYTES, LETTERS_TRIMMED] {
                write.open_table(table)?.remove(tenant)?;
            }
            write.open_table(EXPIRED)?.retain(|(_, of), _| of != tenant)?;
            Ok(())
        })?;
        Ok(true)
    }

    /// True while something is counted of a tenant.
    fn has_counts(&self, tenant: &str) -> Result<bool> {
        let sums = [LETTER_COUNTS, LETTER_BYTES, LETTERS_TRIMMED];
        for table in sums {
            if self.letter_sums(table)?.iter().any(|(of, _)| **of == *tenant) {
                return Ok(true);
            }
        }
        Ok(self.expired()?.contains_key(tenant))
    }
}

/// Removes the first entries of a range.
fn remove_some(
    table: &mut redb::Table<'_, &'static [u8], &'static [u8]>,
    from: &[u8],
    to: &[u8],
    most: usize,
) -> Outcome<()> {
    let mut keys = Vec::new();
    for entry in table.range(from..to)?.take(most) {
        keys.push(entry?.0.value().to_vec());
    }
    for key in keys {
        table.remove(&key[..])?;
    }
    Ok(())
}
