//! Small blocks of a device become one larger block, in the background.

use std::hash::BuildHasher;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;
use hashbrown::{HashMap, HashSet};
use redb::{ReadableDatabase, ReadableTable};

use super::file::Opened;
use super::partition::{BLOCKS, MERGED};
use super::size::Changes;
use super::{Inner, keys};
use crate::block::Block;
use crate::contract::Result;
use crate::query;

/// Most rows of a merged block, and most bytes of the blocks that become one: as they are stored,
/// and in memory.
const FULL: u32 = 4096;
const FULL_BYTES: usize = 4 << 20;
/// Fewer blocks than this are not worth rewriting.
const WORTH: usize = 4;
/// Keys read in one transaction.
const STRIDE: usize = 20_000;
/// Bytes of memory of the merged blocks of one transaction: each costs an fsync.
const COMMIT_BYTES: usize = 16 << 20;
const BUDGET: Duration = Duration::from_secs(1);

/// The position of the walk over all partitions and devices.
#[derive(Debug, Default)]
pub(super) struct Position {
    partition: Option<i64>,
    key: Vec<u8>,
    /// At least one run was merged since the walk began.
    merged: bool,
}

/// Runs that were found to be better left apart, by a hash of their keys.
#[derive(Debug, Default)]
pub(super) struct Apart(HashSet<u64, RandomState>);

impl Apart {
    const MOST: usize = 65_536;

    fn key(&self, run: &Run) -> u64 {
        self.0.hasher().hash_one(run)
    }

    fn note(&mut self, run: &Run) {
        if self.0.len() >= Self::MOST {
            // They are read once more.
            self.0.clear();
        }
        self.0.insert(self.key(run));
    }
}

/// Adjacent blocks of one device.
type Run = Vec<StoredBlock>;

/// Key and rows of a block.
type StoredBlock = (Vec<u8>, u32);

/// A block that takes the place of others.
struct Merged<'a> {
    group: &'a [StoredBlock],
    block: Block,
    /// Bytes of the readings of the group.
    size: u64,
}

type Table = redb::ReadOnlyTable<&'static [u8], &'static [u8]>;

impl Inner {
    /// Continues the walk for up to [`BUDGET`]. True when there is more to do, which
    /// waits while a copy of the store is made.
    pub(super) fn merge(&self) -> Result<bool> {
        let begun = Instant::now();
        let is_quiet = self.quiet.lock();
        if *is_quiet {
            return Ok(false);
        }
        let mut position = self.merging.lock();
        loop {
            let next = self.partitions.all().into_iter().find(|n| position.partition.is_none_or(|p| *n >= p));
            let Some(number) = next else {
                let again = position.merged;
                *position = Position::default();
                return Ok(again);
            };
            if position.partition != Some(number) {
                position.partition = Some(number);
                position.key.clear();
            }
            let database = self.partitions.open(number)?;
            let (runs, end) = database.run(|database| self.runs(database, &position.key))?;
            position.merged |= self.merge_runs(&database, number, &runs)?;
            match end {
                Some(key) => position.key = key,
                None => {
                    position.partition = Some(number + 1);
                    position.key.clear();
                }
            }
            if begun.elapsed() > BUDGET {
                return Ok(true);
            }
        }
    }

    /// Returns the runs that are worth merging among the next keys, and the key to continue from.
    fn runs(
        &self,
        database: &redb::Database,
        from: &[u8],
    ) -> std::result::Result<(Vec<Run>, Option<Vec<u8>>), redb::Error> {
        let done: HashMap<Arc<str>, u64> = self.done.lock().clone();
        let table = database.begin_read()?.open_table(BLOCKS)?;
        let mut runs = Vec::new();
        let mut run: Run = Vec::new();
        let (mut rows, mut bytes) = (0, 0);
        let mut device = None;
        let mut seen = 0;
        let mut end = None;
        for entry in table.range(from..)? {
            let (key, value) = entry?;
            let Ok(block) = keys::read_block(key.value()) else { continue };
            let other = device.as_ref() != Some(&block.id.device);
            // A stride ends between devices, so that runs are not cut.
            if other && seen >= STRIDE {
                end = Some(key.value().to_vec());
                break;
            }
            seen += 1;
            let passed = done.get(&block.id.log).is_some_and(|below| block.id.first_offset < *below);
            let length = value.value().len();
            if other || rows + block.meta.rows > FULL || bytes + length > FULL_BYTES {
                take(&mut runs, &mut run);
                (rows, bytes) = (0, 0);
            }
            device = Some(block.id.device);
            let is_gone = self.sealing.is_gone(key.value(), value.value());
            if passed && !is_gone && block.meta.rows < FULL / 2 && length < FULL_BYTES / 2 {
                run.push((key.value().to_vec(), block.meta.rows));
                rows += block.meta.rows;
                bytes += length;
            }
        }
        take(&mut runs, &mut run);
        Ok((runs, end))
    }

    /// Replaces the blocks of each run by one; by several when one would be too sparse or too
    /// large. A new block has the identity of its first. False when all were left as they are.
    fn merge_runs(&self, database: &Opened, number: i64, runs: &[Run]) -> Result<bool> {
        let path = &self.partitions.path(number);
        let table = database.run(|database| Ok(database.begin_read()?.open_table(BLOCKS)?))?;
        let (mut apart, mut changed) = (self.apart.lock(), false);
        let (mut merged, mut bytes) = (Vec::new(), 0);
        for run in runs {
            if apart.0.contains(&apart.key(run)) {
                continue;
            }
            let before = merged.len();
            let mut rest = &run[..];
            while !rest.is_empty() {
                let blocks = self.read_run(database, path, &table, rest)?;
                let (group, others) = rest.split_at(blocks.len().max(1));
                merge_group(group, &blocks, &mut merged);
                rest = others;
            }
            if merged.len() == before {
                apart.note(run);
            }
            bytes += merged[before..].iter().map(|merged| merged.block.memory()).sum::<usize>();
            if bytes > COMMIT_BYTES {
                self.replace(database, number, &merged)?;
                (changed, bytes) = (true, 0);
                merged.clear();
            }
        }
        if !merged.is_empty() {
            self.replace(database, number, &merged)?;
        }
        Ok(changed || !merged.is_empty())
    }

    /// Replaces stored blocks by the merged ones, in one transaction.
    fn replace(&self, database: &Opened, number: i64, merged: &[Merged<'_>]) -> Result<()> {
        let value = |block: &Block| {
            let key = keys::block(block);
            Ok((self.block_value(&key, block)?, key))
        };
        let values = merged.iter().map(|merged| value(&merged.block)).collect::<Result<Vec<_>>>()?;
        let replaced = database.run(|database| {
            let write = database.begin_write()?;
            {
                let mut table = write.open_table(BLOCKS)?;
                let mut dropped = write.open_table(MERGED)?;
                let mut changes = Changes::default();
                for (Merged { group, block, size }, (value, merged_key)) in merged.iter().zip(&values) {
                    for (key, _) in *group {
                        table.remove(&key[..])?;
                    }
                    table.insert(&merged_key[..], &value[..])?;
                    let rows: u64 = group.iter().map(|(_, rows)| u64::from(*rows)).sum();
                    let (rows, tenant) = (rows - block.times.len() as u64, &*block.id.device.tenant);
                    if rows > 0 {
                        let before = dropped.get(tenant)?.map_or(0, |count| count.value());
                        dropped.insert(tenant, before + rows)?;
                        changes.remove(tenant, size.saturating_sub(block.size()));
                    }
                }
                changes.apply(&write)?;
            }
            write.commit()?;
            Ok(())
        });
        self.sizes.changed(number);
        replaced?;
        self.metrics.merged.inc_by(merged.iter().map(|merged| merged.group.len() as u64).sum());
        Ok(())
    }

    /// Reads the first blocks of a run that take at most [`FULL_BYTES`] together, at least one.
    /// None when the first is no longer there.
    fn read_run(&self, database: &Opened, path: &Path, table: &Table, run: &[StoredBlock]) -> Result<Vec<Block>> {
        let (mut blocks, mut bytes) = (Vec::new(), 0);
        for (key, _) in run {
            let device = keys::read_block(key)?.id.device;
            let Some(value) = table.get(&key[..]).map_err(|error| database.failed(error))? else { break };
            let block = self.decode(path, &device, key, value.value(), None)?;
            bytes += block.memory();
            if bytes > FULL_BYTES && !blocks.is_empty() {
                break;
            }
            blocks.push(block);
        }
        Ok(blocks)
    }
}

/// Merges the blocks of a group, those that fit each other.
fn merge_group<'a>(group: &'a [StoredBlock], blocks: &[Block], merged: &mut Vec<Merged<'a>>) {
    let mut from = 0;
    while from < blocks.len() {
        let to = from + query::fitting(&blocks[from..]);
        if to - from > 1 {
            let size = blocks[from..to].iter().map(Block::size).sum();
            let block = query::merge_blocks(&blocks[from..to]);
            merged.extend(block.map(|block| Merged { group: &group[from..to], block, size }));
        }
        from = to;
    }
}

fn take(runs: &mut Vec<Run>, run: &mut Run) {
    let run = std::mem::take(run);
    if run.len() >= WORTH {
        runs.push(run);
    }
}
