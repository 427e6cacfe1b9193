//! Backfill of an export with readings of the history, for a system that lost what it was given.
//!
//! A reading has the place in the system that its delivery gave to it, as far as the history still
//! knows it: a reading that is still there, or is filled in twice, changes nothing in a system of
//! points. The place of a reading without a device time came from its message, which the history
//! does not keep: it is made from its values, so such a reading has to be gone before.

use std::sync::Arc;
use std::time::Duration;

use foldhash::fast::RandomState;
use hashbrown::HashSet;
use model::{Backoff, DeviceKey, Nanos};
use stores::contract::{DeviceBatch, Export, Result, StoreError};
use stores::{Block, BlockId, Column, ColumnData};

use crate::projections::ExportSpec;
use crate::sinks::export::filter::ExportFilter;
use crate::sinks::export::place::{PLACE_SEED, PLACES};
use crate::sinks::history::cut::{self, Cut};
use crate::sinks::history::same;

/// Readings that are filled in have a writer of their own, so that they are not part of a delivery
/// that is under way.
const WRITER: &str = "refill";
const MILLI: Nanos = 1_000_000;
/// Between two attempts, at first and at most.
const WAIT: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));
/// Attempts of a write into a system that is away: some minutes.
const ATTEMPTS: usize = 30;

/// Fills an export with readings that were received before a time.
pub struct Refill {
    store: Arc<dyn Export>,
    filter: ExportFilter,
    before: Nanos,
    places: Places,
    written: u64,
    refused: u64,
}

/// The places that are taken in the last millisecond of the device that is written.
#[derive(Default)]
struct Places {
    of: Option<(DeviceKey, Nanos)>,
    taken: HashSet<u64, RandomState>,
}

impl Refill {
    /// Begins to fill the export with readings received before `before`.
    ///
    /// # Errors
    /// As [`Export::ready`].
    pub async fn begin(spec: &ExportSpec, before: Nanos) -> Result<Self> {
        let store = Arc::clone(&spec.store);
        store.ready().await?;
        // Later ones fence earlier ones that are still under way.
        store.join(WRITER, u64::try_from(crate::flusher::now()).unwrap_or_default()).await?;
        let (filter, places) = (spec.filter.clone(), Places::default());
        Ok(Self { store, filter, before, places, written: 0, refused: 0 })
    }

    /// Writes readings of one device, durably. Blocks of a device come one after the other, in the
    /// order of their times, with all values.
    ///
    /// # Errors
    /// When the system needs an operator, or is away for minutes. What was written stays; a refill
    /// that begins again changes nothing of it.
    pub async fn write(&mut self, block: Block) -> Result<()> {
        if !self.filter.has_device(&block.id.device) {
            return Ok(());
        }
        let Some(cut) = self.wanted(block) else { return Ok(()) };
        let mut waiting = vec![cut];
        while let Some(cut) = waiting.pop() {
            match self.send(&cut).await {
                Ok(()) => self.written += cut.offsets.len() as u64,
                Err(StoreError::Refused(_) | StoreError::TooLarge(_)) => match cut::halve(&cut) {
                    Some((first, second)) => waiting.extend([second, first]),
                    // It was refused by its delivery too, and is a dead letter.
                    None => self.refused += 1,
                },
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Readings that were written, and those that the system refuses.
    pub fn counts(&self) -> (u64, u64) {
        (self.written, self.refused)
    }

    async fn send(&self, cut: &Cut) -> Result<()> {
        let mut backoff = Backoff::new(WAIT.0, WAIT.1);
        let mut attempts = 1;
        loop {
            let batch = DeviceBatch { block: cut.block.clone(), offsets: cut.offsets.clone(), traces: Vec::new() };
            let sent = match self.store.write(WRITER, vec![batch]).await {
                Ok(()) => self.store.commit(WRITER, 0).await,
                refused => refused,
            };
            let Err(StoreError::Busy { .. } | StoreError::Aborted(_)) = &sent else { return sent };
            if attempts == ATTEMPTS {
                return sent;
            }
            attempts += 1;
            tokio::time::sleep(backoff.draw()).await;
        }
    }

    /// The rows and values that the export wants, with their places.
    fn wanted(&mut self, block: Block) -> Option<Cut> {
        let rows = block.times.len();
        let digests = digests(&block);
        let mut keep: Vec<bool> = block.received.iter().map(|received| *received < self.before).collect();
        let separate = self.store.needs_distinct_times();
        let columns: Vec<Column> =
            block.columns.iter().filter(|column| self.filter.has_name(&column.name)).cloned().collect();
        let has_value =
            |row: usize| columns.iter().any(|column| column.present.get(row).is_none_or(|present| *present));
        for (row, keep) in keep.iter_mut().enumerate() {
            *keep &= has_value(row);
        }
        let mut seqs = Vec::new();
        for row in (0..rows).filter(|row| keep[*row]) {
            let sent = block.seqs.get(row).copied().flatten();
            seqs.push(match separate {
                true => {
                    let wanted = wanted(&block, row, sent, digests[row]);
                    Some(self.places.take(&block.id.device, block.times[row], wanted))
                }
                false => sent,
            });
        }
        let kept = |row: &usize| keep[*row];
        // Equal each time, so that consumers recognise a reading that is filled in twice.
        let offsets: Vec<u64> = (0..rows).filter(kept).map(|row| identity(&block, row, digests[row])).collect();
        let first_offset = offsets.iter().copied().min()?;
        let id = BlockId { log: WRITER.into(), first_offset, ..block.id.clone() };
        let select = |all: &[Option<Nanos>]| pick(all, &keep);
        let block = Block {
            id,
            times: pick(&block.times, &keep),
            received: pick(&block.received, &keep),
            seqs: if seqs.iter().any(Option::is_some) { seqs } else { Vec::new() },
            claimed: select(&block.claimed),
            device_timed: pick(&block.device_timed, &keep),
            columns: columns.iter().filter_map(|column| rows_of(column, &keep)).collect(),
        };
        Some(Cut { block, offsets })
    }
}

impl Places {
    /// The place, or the next one that is free among readings of the same millisecond.
    fn take(&mut self, device: &DeviceKey, time: Nanos, wanted: u64) -> u64 {
        let milli = time.div_euclid(MILLI);
        if self.of.as_ref().is_none_or(|(of, at)| of != device || *at != milli) {
            self.of = Some((device.clone(), milli));
            self.taken.clear();
        }
        let mut place = wanted;
        while !self.taken.insert(place) && (self.taken.len() as u64) < PLACES {
            place = (place + 1) % PLACES;
        }
        place
    }
}

/// The place of a reading within its millisecond, as its delivery chose it.
fn wanted(block: &Block, row: usize, seq: Option<u64>, digest: u128) -> u64 {
    let within = block.times[row].rem_euclid(MILLI).unsigned_abs();
    let device_timed = block.device_timed.get(row).copied().unwrap_or(true);
    match seq {
        Some(seq) => seq % PLACES,
        None if device_timed && within != 0 => within,
        None if device_timed => (digest % u128::from(PLACES)) as u64,
        None => identity(block, row, digest) % PLACES,
    }
}

/// A number that is equal for equal readings.
fn identity(block: &Block, row: usize, digest: u128) -> u64 {
    let parts = [block.times[row].to_le_bytes(), block.received[row].to_le_bytes()].concat();
    xxhash_rust::xxh3::xxh3_64_with_seed(&parts, digest as u64) >> 1
}

/// The digest of the values of each row.
fn digests(block: &Block) -> Vec<u128> {
    let mut digests = vec![0_u128; block.times.len()];
    for column in &block.columns {
        let mut value = 0;
        for (row, digest) in digests.iter_mut().enumerate() {
            if column.present.get(row).is_some_and(|present| !present) {
                continue;
            }
            if let Some(found) = column.data.get(value) {
                *digest = digest.wrapping_add(same::digest_of(PLACE_SEED, &column.name, found));
            }
            value += 1;
        }
    }
    digests
}

fn pick<T: Clone>(all: &[T], keep: &[bool]) -> Vec<T> {
    all.iter().zip(keep).filter(|(_, keep)| **keep).map(|(value, _)| value.clone()).collect()
}

/// The rows of a column; `None` when none of them has a value.
fn rows_of(column: &Column, keep: &[bool]) -> Option<Column> {
    let is_present = |row: usize| column.present.get(row).is_none_or(|present| *present);
    // Of the rows that have a value.
    let kept: Vec<bool> = (0..keep.len()).filter(|row| is_present(*row)).map(|row| keep[row]).collect();
    let data = match &column.data {
        ColumnData::Float(values) => ColumnData::Float(pick(values, &kept)),
        ColumnData::Int(values) => ColumnData::Int(pick(values, &kept)),
        ColumnData::Bool(values) => ColumnData::Bool(pick(values, &kept)),
        ColumnData::Str(values) => ColumnData::Str(pick(values, &kept)),
    };
    let present = pick(&column.present, keep);
    let present = if present.contains(&false) { present } else { Vec::new() };
    (!data.is_empty()).then(|| Column { name: Arc::clone(&column.name), present, data })
}
