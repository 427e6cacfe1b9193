//! Blocks in memory: durable when they are synced.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use model::{DeviceKey, Nanos, TimeRange};
use parking_lot::Mutex;

use super::MemoryStore;
use crate::block::{Block, BlockId, BlockMeta, partition_of};
use crate::contract::{History, Result, StoreError};
use crate::query::merge_blocks;

#[derive(Debug, Default)]
pub(super) struct Blocks {
    tables: Mutex<Tables>,
    done: AtomicU64,
}

#[derive(Debug, Default)]
struct Tables {
    /// Blocks by place.
    written: BTreeMap<u64, Block>,
    /// Places of all blocks that were ever written.
    places: BTreeMap<BlockId, u64>,
    /// Blocks that survive a crash.
    durable: BTreeMap<u64, Block>,
    expired: BTreeMap<Arc<str>, u64>,
    /// The last place given.
    last: u64,
}

impl Tables {
    fn put(&mut self, block: Block) {
        if !self.places.contains_key(&block.id) {
            self.last += 1;
            self.places.insert(block.id.clone(), self.last);
            self.written.insert(self.last, block);
        }
    }
}

impl Blocks {
    /// Deletes old blocks, of one tenant or of all.
    pub(super) fn expire(&self, before: Nanos, of: Option<&str>) -> u64 {
        let mut tables = self.tables.lock();
        let is_of = |block: &Block| of.is_none_or(|tenant| *block.id.device.tenant == *tenant);
        let old = |block: &Block| is_of(block) && block.times.last().is_some_and(|last| *last < before);
        let all = std::mem::take(&mut tables.written);
        let (expired, kept): (BTreeMap<_, _>, _) = all.into_iter().partition(|(_, block)| old(block));
        tables.written = kept;
        tables.durable.retain(|_, block| !old(block));
        for block in expired.values() {
            *tables.expired.entry(Arc::clone(&block.id.device.tenant)).or_default() += block.times.len() as u64;
        }
        expired.values().map(|block| block.times.len() as u64).sum()
    }

    pub(super) fn count_of(&self, tenant: &str) -> u64 {
        let tables = self.tables.lock();
        let of_tenant = tables.written.values().filter(|block| *block.id.device.tenant == *tenant);
        of_tenant.map(|block| block.times.len() as u64).sum()
    }

    pub(super) fn size_of(&self, tenant: &str) -> u64 {
        let tables = self.tables.lock();
        let of_tenant = tables.written.values().filter(|block| *block.id.device.tenant == *tenant);
        of_tenant.map(Block::size).sum()
    }

    pub(super) fn delete_some_of(&self, tenant: &str, most: usize) -> bool {
        let mut tables = self.tables.lock();
        let of_tenant = tables.written.iter().filter(|(_, block)| *block.id.device.tenant == *tenant);
        let places: Vec<u64> = of_tenant.map(|(place, _)| *place).take(most).collect();
        for place in &places {
            let block = tables.written.remove(place);
            tables.durable.remove(place);
            block.map(|block| tables.places.remove(&block.id));
        }
        tables.expired.remove(tenant).is_some() || !places.is_empty()
    }
}

impl MemoryStore {
    /// Loses the blocks that were not synced, except for every `keep`-th.
    pub fn crash(&self, keep: usize) {
        let mut tables = self.history.tables.lock();
        let Tables { written, durable, places, .. } = &mut *tables;
        for (at, (place, block)) in written.iter().enumerate() {
            if at % keep.max(1) == 0 {
                durable.insert(*place, block.clone());
            }
        }
        *written = durable.clone();
        places.retain(|_, place| durable.contains_key(place));
    }

    /// Loses the blocks that were not synced.
    pub fn crash_losing_all(&self) {
        let mut tables = self.history.tables.lock();
        let Tables { written, durable, places, .. } = &mut *tables;
        *written = durable.clone();
        places.retain(|_, place| durable.contains_key(place));
    }

    /// Returns the durable blocks, by identity.
    pub fn blocks(&self) -> Vec<Block> {
        let mut blocks: Vec<Block> = self.history.tables.lock().durable.values().cloned().collect();
        blocks.sort_by(|a, b| a.id.cmp(&b.id));
        blocks
    }

    /// Returns the durable blocks of a device.
    pub fn blocks_of(&self, device: &DeviceKey) -> Vec<Block> {
        self.history.tables.lock().durable.values().filter(|block| block.id.device == *device).cloned().collect()
    }

    /// Puts a block, durably, without a call of the contract; blocks of one identity are all kept.
    pub fn put_block(&self, block: Block) {
        let mut tables = self.history.tables.lock();
        tables.last += 1;
        let place = tables.last;
        tables.written.insert(place, block.clone());
        tables.durable.insert(place, block);
    }

    /// Removes one block, as no store does.
    pub fn lose_one_block(&self) {
        let mut tables = self.history.tables.lock();
        if let Some((place, _)) = tables.durable.pop_first() {
            tables.written.remove(&place);
        }
    }

    /// Replaces all blocks by one; places that were found before are not valid afterwards.
    pub fn merge_all(&self) {
        let mut tables = self.history.tables.lock();
        let all: Vec<Block> = std::mem::take(&mut tables.written).into_values().collect();
        tables.last += 1;
        let place = tables.last;
        tables.written = merge_blocks(&all).map(|merged| (place, merged)).into_iter().collect();
        tables.durable = tables.written.clone();
    }

    /// Returns the offset that was last declared as done.
    pub fn done_to(&self) -> u64 {
        self.history.done.load(Ordering::Relaxed)
    }
}

#[async_trait]
impl History for MemoryStore {
    async fn write(&self, blocks: Vec<Block>) -> Result<()> {
        self.faults.writes.fetch_add(1, Ordering::Relaxed);
        let _permit = self.faults.permits.acquire().await.map_err(|error| StoreError::busy(error.to_string()))?;
        self.faults.answer()?;
        self.faults.step("before the blocks are written").await;
        let mut refused = None;
        for block in blocks {
            assert!(block.times.is_sorted(), "rows are sorted by time");
            let (Some(first), Some(last)) = (block.times.first(), block.times.last()) else {
                return Err(StoreError::Refused(format!("a block of {} has no rows", block.id.device)));
            };
            assert_eq!(partition_of(*first), partition_of(*last), "rows lie in one partition");
            match self.faults.refusal(&block) {
                Some(error) => refused = Some(error),
                None => self.history.tables.lock().put(block),
            }
        }
        self.faults.step("after the blocks were written").await;
        refused.map_or(Ok(()), Err)
    }

    async fn sync(&self) -> Result<()> {
        self.faults.answer()?;
        self.faults.step("before the sync").await;
        {
            let mut tables = self.history.tables.lock();
            tables.durable = tables.written.clone();
        }
        self.faults.step("after the sync").await;
        Ok(())
    }

    fn done(&self, _: &str, below: u64) {
        self.history.done.store(below, Ordering::Relaxed);
    }

    async fn find(&self, device: &DeviceKey, range: TimeRange) -> Result<Vec<BlockMeta>> {
        self.faults.read().await?;
        let tables = self.history.tables.lock();
        let of_device = tables.written.iter().filter(|(_, block)| block.id.device == *device);
        let metas = of_device.filter_map(|(place, block)| {
            let (first_time, last_time) = (*block.times.first()?, *block.times.last()?);
            let rows = u32::try_from(block.times.len()).ok()?;
            Some(BlockMeta { place: place.to_be_bytes().into(), first_time, last_time, rows })
        });
        let mut metas: Vec<BlockMeta> = metas.filter(|meta| range.touches(meta.first_time, meta.last_time)).collect();
        metas.sort_by_key(|meta| meta.first_time);
        Ok(metas)
    }

    async fn fetch(&self, _: &DeviceKey, metas: &[BlockMeta], names: Option<&[Arc<str>]>) -> Result<Vec<Block>> {
        self.faults.read().await?;
        let moves = |left: u32| left.checked_sub(1);
        if self.faults.moves.fetch_update(Ordering::SeqCst, Ordering::SeqCst, moves).is_ok() {
            return Err(StoreError::Moved);
        }
        self.faults.largest_fetch.fetch_max(metas.iter().map(|meta| meta.rows).sum(), Ordering::SeqCst);
        let tables = self.history.tables.lock();
        let block = |meta: &BlockMeta| {
            let place = u64::from_be_bytes(meta.place[..].try_into().ok()?);
            let mut block = tables.written.get(&place)?.clone();
            if let Some(names) = names {
                block.columns.retain(|column| names.contains(&column.name));
            }
            Some(block)
        };
        metas.iter().map(|meta| block(meta).ok_or(StoreError::Moved)).collect()
    }

    async fn count(&self) -> Result<Vec<(Arc<str>, u64)>> {
        self.faults.read().await?;
        self.faults.count().await;
        let tables = self.history.tables.lock();
        let mut counts = tables.expired.clone();
        for block in tables.written.values() {
            *counts.entry(Arc::clone(&block.id.device.tenant)).or_default() += block.times.len() as u64;
        }
        Ok(counts.into_iter().collect())
    }

    async fn count_between(&self, range: TimeRange) -> Result<Option<Vec<(Arc<str>, u64)>>> {
        self.faults.read().await?;
        let mut counts = BTreeMap::new();
        for block in self.history.tables.lock().written.values() {
            let within = block.times.iter().filter(|time| range.contains(**time)).count();
            *counts.entry(Arc::clone(&block.id.device.tenant)).or_default() += within as u64;
        }
        Ok(Some(counts.into_iter().collect()))
    }

    async fn expire(&self, before: Nanos) -> Result<u64> {
        self.faults.answer()?;
        Ok(self.history.expire(before, None))
    }

    async fn merge(&self) -> Result<bool> {
        Ok(false)
    }
}
