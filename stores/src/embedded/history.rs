//! Writing, finding and reading blocks; expiry.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use model::{DeviceKey, Nanos, TimeRange};
use redb::{ReadableDatabase, ReadableTable};

use super::file::Opened;
use super::partition::BLOCKS;
use super::sealing::Sealing;
use super::size::Changes;
use super::{EmbeddedStore, Inner, keys};
use crate::block::{Block, BlockMeta, PARTITION, partition_of};
use crate::codec;
use crate::contract::{History, Result, StoreError};

#[async_trait]
impl History for EmbeddedStore {
    async fn write(&self, blocks: Vec<Block>) -> Result<()> {
        self.blocking(move |inner| {
            inner.sealing.prepare(blocks.iter().map(|block| &*block.id.device.tenant))?;
            let mut by_partition: BTreeMap<i64, Vec<&Block>> = BTreeMap::new();
            for block in &blocks {
                let (Some(first), Some(last)) = (block.times.first(), block.times.last()) else {
                    return Err(StoreError::Refused(format!("a block of {} has no rows", block.id.device)));
                };
                let partition = partition_of(*first);
                if partition != partition_of(*last) {
                    return Err(StoreError::Refused(format!("a block of {} lies in two partitions", block.id.device)));
                }
                by_partition.entry(partition).or_default().push(block);
            }
            for (number, blocks) in by_partition {
                // Sorted keys fill pages one after the other.
                let mut keyed: Vec<(Vec<u8>, &Block)> = blocks.iter().map(|b| (keys::block(b), *b)).collect();
                keyed.sort_by(|a, b| a.0.cmp(&b.0));
                let values = keyed.into_iter().map(|(key, block)| Ok((inner.block_value(&key, block)?, key, block)));
                let values = values.collect::<Result<Vec<_>>>()?;
                let database = inner.partitions.open(number)?;
                let written = database.run(|database| inner.write_partition(database, &values));
                inner.sizes.changed(number);
                written?;
            }
            Ok(())
        })
        .await
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
        self.blocking(move |inner| {
            let mut found = Vec::new();
            let last = range.end.saturating_sub(1);
            for number in inner.partitions.touching(range.start, last) {
                let database = inner.partitions.open(number)?;
                inner.find_in(&database, &device, range, &mut found).map_err(|error| match error {
                    Ok(error) => error,
                    Err(error) => database.failed(error),
                })?;
            }
            Ok(found)
        })
        .await
    }

    async fn fetch(&self, device: &DeviceKey, metas: &[BlockMeta], names: Option<&[Arc<str>]>) -> Result<Vec<Block>> {
        let (device, metas, names) = (device.clone(), metas.to_vec(), names.map(<[_]>::to_vec));
        self.blocking(move |inner| inner.fetch(&device, &metas, names.as_deref())).await
    }

    async fn count(&self) -> Result<Vec<(Arc<str>, u64)>> {
        self.blocking(|inner| {
            let mut counts = inner.expired()?;
            for (tenant, rows) in inner.partitions.rows()? {
                *counts.entry(tenant).or_default() += rows;
            }
            Ok(counts.into_iter().collect())
        })
        .await
    }

    async fn expire(&self, before: Nanos) -> Result<u64> {
        self.blocking(move |inner| {
            let mut total = 0;
            // Later, when a copy of the store is being made.
            let is_quiet = inner.quiet.lock();
            if *is_quiet {
                return Ok(0);
            }
            for number in inner.partitions.all() {
                if (number + 1).saturating_mul(PARTITION) > before {
                    break;
                }
                let rows = inner.partitions.rows_of(number)?;
                // Counted first: after a crash in between, the partition still exists and is
                // counted again under the same number.
                inner.record_expired(number, &rows)?;
                inner.partitions.delete(number)?;
                inner.sizes.changed(number);
                total += rows.iter().map(|(_, rows)| rows).sum::<u64>();
            }
            Ok(total)
        })
        .await
    }

    async fn merge(&self) -> Result<bool> {
        self.blocking(Inner::merge).await
    }
}

impl Inner {
    /// Returns a block as it is stored.
    pub(super) fn block_value(&self, key: &[u8], block: &Block) -> Result<Vec<u8>> {
        self.sealing.seal(&BLOCKS, key, codec::encode(block))
    }

    fn write_partition(
        &self,
        database: &redb::Database,
        values: &[(Vec<u8>, Vec<u8>, &Block)],
    ) -> std::result::Result<(), redb::Error> {
        let write = database.begin_write()?;
        {
            let mut table = write.open_table(BLOCKS)?;
            let mut grown = Changes::default();
            for (bytes, key, block) in values {
                if table.get(&key[..])?.is_some() {
                    self.metrics.repeated.inc();
                    continue;
                }
                self.metrics.blocks.inc();
                self.metrics.readings.inc_by(block.times.len() as u64);
                self.metrics.bytes.inc_by(bytes.len() as u64);
                table.insert(&key[..], &bytes[..])?;
                grown.add(&block.id.device.tenant, block.size());
            }
            grown.apply(&write)?;
        }
        write.commit()?;
        Ok(())
    }

    fn find_in(
        &self,
        database: &redb::Database,
        device: &DeviceKey,
        range: TimeRange,
        found: &mut Vec<BlockMeta>,
    ) -> std::result::Result<(), std::result::Result<StoreError, redb::Error>> {
        let failed = |error: redb::Error| Err(error);
        let read = database.begin_read().map_err(|e| failed(e.into()))?;
        let table = read.open_table(BLOCKS).map_err(|e| failed(e.into()))?;
        let from = keys::device(device);
        let mut to = from.clone();
        to.extend_from_slice(&keys::sortable(range.end));
        let has_gone = self.sealing.has_gone(&from);
        for entry in table.range(&from[..]..&to[..]).map_err(|e| failed(e.into()))? {
            let (key, value) = entry.map_err(|e| failed(e.into()))?;
            // Contents are discarded also for a tenant that had no key to be destroyed.
            let is_gone = Sealing::is_discarded(value.value());
            if is_gone || has_gone && self.sealing.is_gone(key.value(), value.value()) {
                continue;
            }
            let meta = keys::read_block(key.value()).map_err(Ok)?.meta;
            if range.touches(meta.first_time, meta.last_time) {
                found.push(meta);
            }
        }
        Ok(())
    }

    fn fetch(&self, device: &DeviceKey, metas: &[BlockMeta], names: Option<&[Arc<str>]>) -> Result<Vec<Block>> {
        let mut blocks = Vec::with_capacity(metas.len());
        let mut open: Option<(i64, Opened, _)> = None;
        for meta in metas {
            let number = partition_of(meta.first_time);
            if open.as_ref().is_none_or(|(n, ..)| *n != number) {
                if !self.partitions.all().contains(&number) {
                    return Err(StoreError::Moved);
                }
                let database = self.partitions.open(number)?;
                let table = database.run(|database| Ok(database.begin_read()?.open_table(BLOCKS)?))?;
                open = Some((number, database, table));
            }
            let (_, database, table) = open.as_ref().expect("it was opened above");
            let path = self.partitions.path(number);
            let value = table.get(&meta.place[..]).map_err(|error| database.failed(error))?.ok_or(StoreError::Moved)?;
            blocks.push(self.decode(&path, device, &meta.place, value.value(), names)?);
        }
        self.metrics.fetched.inc_by(blocks.len() as u64);
        Ok(blocks)
    }

    /// Decodes a block; an error names the one that is damaged. [`StoreError::Moved`] when it
    /// cannot be read any longer: it is not found again.
    pub(super) fn decode(
        &self,
        path: &Path,
        device: &DeviceKey,
        key: &[u8],
        value: &[u8],
        names: Option<&[Arc<str>]>,
    ) -> Result<Block> {
        let bytes = self.sealing.open(path, &BLOCKS, key, value)?.ok_or(StoreError::Moved)?;
        let key = keys::read_block(key)?;
        let first = key.meta.first_time;
        codec::decode(&bytes, key.id, names).map_err(|error| {
            StoreError::Damaged(format!("{}: block of {device} from {first} ns: {error}", path.display()))
        })
    }
}
