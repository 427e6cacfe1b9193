//! The readings stored shortly before. A device that publishes a reading again, without marking it
//! as a duplicate or in another payload, may do so after the range with the first one was sealed:
//! the second is then known here and not stored again.
//!
//! The known readings depend on the log alone: those with offsets from [`WINDOW`] below the start
//! of a range up to it. They are read again after a restart. Where the log has been trimmed, an
//! equal reading is stored a second time and merged when it is read.

use std::sync::Arc;

use buffer::frame::{ReadingRef, Record};
use buffer::{Log, ReadError};
use foldhash::fast::RandomState;
use hashbrown::HashMap;
use model::DeviceKey;
use xxhash_rust::xxh3::xxh3_128_with_seed;

use super::memtable::Memtable;
use super::same;

/// Records of the log that are remembered.
pub(crate) const WINDOW: u64 = 131_072;
const READ_BYTES: usize = 1 << 20;

/// A reading as a hash: device, own time, sequence and values. Two that meet cannot be made without
/// the seed.
/// In two halves, so that an entry has no padding.
type Key = [u64; 2];

/// A device's part of the keys.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OfDevice(u128);

/// Readings by their keys, with their offsets.
#[derive(Debug)]
pub(crate) struct Recent {
    seed: u64,
    offsets: HashMap<Key, u64, RandomState>,
    /// Every reading below was stored.
    done_to: u64,
}

impl Default for Recent {
    fn default() -> Self {
        Self { seed: same::secret_seed(), offsets: HashMap::default(), done_to: 0 }
    }
}

impl Recent {
    /// The last readings of `log` below `done_to`.
    ///
    /// # Errors
    /// [`ReadError`], except for trimmed records.
    pub(crate) async fn load(log: &dyn Log, done_to: u64) -> Result<Self, ReadError> {
        let mut recent = Self { done_to, ..Self::default() };
        let mut at = log.start().max(done_to.saturating_sub(WINDOW));
        while at < done_to {
            for frame in log.read(at, READ_BYTES).await? {
                for (offset, (_, record)) in (frame.header().first_offset..).zip(frame.positions()) {
                    if let Record::Reading(reading) = record
                        && offset < done_to
                    {
                        let device = recent.device(reading.device);
                        recent.add(device, &reading, offset);
                    }
                }
                at = frame.header().end_offset();
            }
        }
        Ok(recent)
    }

    /// True when the same reading of the device was stored.
    pub(crate) fn knows(&self, device: OfDevice, reading: &ReadingRef<'_>) -> bool {
        let least = self.done_to.saturating_sub(WINDOW);
        self.key(device, reading).and_then(|key| self.offsets.get(&key)).is_some_and(|offset| *offset >= least)
    }

    /// Notes that all readings of a range are stored, up to `done_to`.
    pub(crate) fn stored(&mut self, range: &Memtable, done_to: u64) {
        let least = done_to.saturating_sub(WINDOW);
        // First, so that the table does not grow for entries that leave.
        if self.offsets.len() as u64 + range.readings().min(WINDOW) > WINDOW {
            self.offsets.retain(|_, offset| *offset >= least);
        }
        for held in range.devices() {
            let device = self.device(&held.device);
            for row in held.rows.iter().filter(|row| (least..done_to).contains(&row.offset)) {
                self.add(device, &range.reading(row), row.offset);
            }
        }
        self.done_to = done_to;
    }

    fn add(&mut self, device: OfDevice, reading: &ReadingRef<'_>, offset: u64) {
        if let Some(key) = self.key(device, reading) {
            let held = self.offsets.entry(key).or_insert(offset);
            *held = offset.max(*held);
        }
    }

    /// A device's part of the keys.
    pub(crate) fn device(&self, device: &Arc<DeviceKey>) -> OfDevice {
        // Neither holds a zero byte.
        let parts = [device.tenant.as_bytes(), &[0], device.id.as_bytes()].concat();
        OfDevice(xxh3_128_with_seed(&parts, self.seed))
    }

    /// None without a time of the device's own: two equal messages are then two readings.
    fn key(&self, OfDevice(device): OfDevice, reading: &ReadingRef<'_>) -> Option<Key> {
        let time = same::own_time(reading)?;
        let mut moment = [0; 17];
        moment[..8].copy_from_slice(&time.to_le_bytes());
        if let Some(seq) = reading.seq {
            moment[8..16].copy_from_slice(&seq.to_le_bytes());
            moment[16] = 1;
        }
        let moment = xxh3_128_with_seed(&moment, self.seed);
        let key = device.wrapping_add(moment).wrapping_add(same::digest(self.seed, reading));
        Some([key as u64, (key >> 64) as u64])
    }
}
