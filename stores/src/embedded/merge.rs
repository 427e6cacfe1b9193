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
use super::{Inner, history, keys};
use crate::block::Block;
use crate::codec;
use crate::contract::Result;
use crate::query;

/// Rows of a merged block.
const FULL: u32 = 4096;
/// Fewer blocks than this are not worth rewriting.
const WORTH: usize = 4;
/// Keys read in one transaction.
const STRIDE: usize = 20_000;
/// Runs merged in one transaction: each costs an fsync.
const RUNS_A_COMMIT: usize = 128;
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
            let path = self.partitions.path(number);
            let (runs, end) = database.run(|database| self.runs(database, &position.key))?;
            for some in runs.chunks(RUNS_A_COMMIT) {
                position.merged |= self.merge_runs(&database, &path, some)?;
            }
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
        let mut device = None;
        let mut seen = 0;
        let mut end = None;
        for entry in table.range(from..)? {
            let (key, _) = entry?;
            let Ok(block) = keys::read_block(key.value()) else { continue };
            let other = device.as_ref() != Some(&block.id.device);
            // A stride ends between devices, so that runs are not cut.
            if other && seen >= STRIDE {
                end = Some(key.value().to_vec());
                break;
            }
            seen += 1;
            let passed = done.get(&block.id.log).is_some_and(|below| block.id.first_offset < *below);
            let rows: u32 = run.iter().map(|(_, rows)| rows).sum();
            if other || rows + block.meta.rows > FULL {
                take(&mut runs, &mut run);
            }
            device = Some(block.id.device);
            if passed && block.meta.rows < FULL / 2 {
                run.push((key.value().to_vec(), block.meta.rows));
            }
        }
        take(&mut runs, &mut run);
        Ok((runs, end))
    }

    /// Replaces the blocks of each run by one, all in one transaction; by several when one would be
    /// too sparse. A new block has the identity of its first. False when all were left as they are.
    fn merge_runs(&self, database: &Opened, path: &Path, runs: &[Run]) -> Result<bool> {
        let mut merged: Vec<(&[StoredBlock], Block)> = Vec::with_capacity(runs.len());
        {
            let table = database.run(|database| Ok(database.begin_read()?.open_table(BLOCKS)?))?;
            let mut apart = self.apart.lock();
            for run in runs {
                if apart.0.contains(&apart.key(run)) {
                    continue;
                }
                let mut blocks = Vec::with_capacity(run.len());
                for (key, _) in run {
                    let device = keys::read_block(key)?.id.device;
                    let Some(value) = table.get(&key[..]).map_err(|error| database.failed(error))? else { break };
                    blocks.push(history::decode(path, &device, key, value.value(), None)?);
                }
                let (before, mut from) = (merged.len(), 0);
                while from < blocks.len() {
                    let to = from + query::fitting(&blocks[from..]);
                    if to - from > 1 {
                        merged.extend(query::merge_blocks(&blocks[from..to]).map(|block| (&run[from..to], block)));
                    }
                    from = to;
                }
                if merged.len() == before {
                    apart.note(run);
                }
            }
        }
        if merged.is_empty() {
            return Ok(false);
        }
        database.run(|database| {
            let write = database.begin_write()?;
            {
                let mut table = write.open_table(BLOCKS)?;
                let mut dropped = write.open_table(MERGED)?;
                for (run, block) in &merged {
                    for (key, _) in *run {
                        table.remove(&key[..])?;
                    }
                    table.insert(&keys::block(block)[..], &codec::encode(block)[..])?;
                    let rows: u64 = run.iter().map(|(_, rows)| u64::from(*rows)).sum();
                    let (rows, tenant) = (rows - block.times.len() as u64, &*block.id.device.tenant);
                    if rows > 0 {
                        let before = dropped.get(tenant)?.map_or(0, |count| count.value());
                        dropped.insert(tenant, before + rows)?;
                    }
                }
            }
            write.commit()?;
            Ok(())
        })?;
        self.metrics.merged.inc_by(merged.iter().map(|(run, _)| run.len() as u64).sum());
        Ok(true)
    }
}

fn take(runs: &mut Vec<Run>, run: &mut Run) {
    let run = std::mem::take(run);
    if run.len() >= WORTH {
        runs.push(run);
    }
}
