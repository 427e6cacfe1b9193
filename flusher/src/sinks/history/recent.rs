//! The readings stored shortly before. A device that publishes a reading again, without marking it
//! as a duplicate, may do so after the range with the first one was sealed: the second is then
//! known here and not stored again.
//!
//! The known readings depend on the log alone: those with offsets from [`WINDOW`] below the start
//! of a range up to it. They are read again after a restart. Where the log has been trimmed, an
//! equal reading is stored a second time and merged when it is read.

use std::sync::Arc;

use buffer::frame::{ReadingRef, Record};
use buffer::{Log, ReadError};
use foldhash::fast::RandomState;
use hashbrown::HashMap;
use model::{DeviceKey, Nanos};
use xxhash_rust::xxh3::Xxh3;

use super::memtable::Memtable;

/// Records of the log that are remembered.
pub(crate) const WINDOW: u64 = 131_072;
const READ_BYTES: usize = 1 << 20;

/// A reading: device, contents and counter as a hash, and its own time.
type Key = (u64, Nanos);

/// Readings by their keys, with their offsets.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    offsets: HashMap<Key, u64, RandomState>,
    /// Every reading below was stored.
    done_to: u64,
}

impl Recent {
    /// The last readings of `log` below `done_to`.
    ///
    /// # Errors
    /// [`ReadError`], except for trimmed records.
    pub(crate) async fn load(log: &dyn Log, done_to: u64) -> Result<Self, ReadError> {
        let mut recent = Self { offsets: HashMap::default(), done_to };
        let mut at = log.start().max(done_to.saturating_sub(WINDOW));
        while at < done_to {
            for frame in log.read(at, READ_BYTES).await? {
                for (offset, (_, record)) in (frame.header().first_offset..).zip(frame.positions()) {
                    if let Record::Reading(reading) = record
                        && offset < done_to
                    {
                        recent.add(seed(reading.device), &reading, offset);
                    }
                }
                at = frame.header().end_offset();
            }
        }
        Ok(recent)
    }

    /// True when an equal reading of the device was stored. `seed` is the device's.
    pub(crate) fn knows(&self, seed: u64, reading: &ReadingRef<'_>) -> bool {
        let least = self.done_to.saturating_sub(WINDOW);
        key(seed, reading).and_then(|key| self.offsets.get(&key)).is_some_and(|offset| *offset >= least)
    }

    /// Notes that all readings of a range are stored, up to `done_to`.
    pub(crate) fn stored(&mut self, range: &Memtable, done_to: u64) {
        let least = done_to.saturating_sub(WINDOW);
        for held in range.devices() {
            let seed = seed(&held.device);
            for row in held.rows.iter().filter(|row| row.offset >= least) {
                self.add(seed, &range.reading(row), row.offset);
            }
        }
        self.done_to = done_to;
        if self.offsets.len() as u64 > 2 * WINDOW {
            self.offsets.retain(|_, offset| *offset >= least);
        }
    }

    fn add(&mut self, seed: u64, reading: &ReadingRef<'_>, offset: u64) {
        if let Some(key) = key(seed, reading) {
            let held = self.offsets.entry(key).or_insert(offset);
            *held = offset.max(*held);
        }
    }
}

/// A device's part of the keys.
pub(crate) fn seed(device: &Arc<DeviceKey>) -> u64 {
    let mut hasher = Xxh3::new();
    // Neither holds a zero byte.
    hasher.update(device.tenant.as_bytes());
    hasher.update(&[0]);
    hasher.update(device.id.as_bytes());
    hasher.digest()
}

/// None without a time of the device's own: two equal messages are then two readings.
fn key(seed: u64, reading: &ReadingRef<'_>) -> Option<Key> {
    let time = reading.claimed_time.or(reading.device_timed.then_some(reading.time))?;
    let counter = reading.seq.map_or(0, |seq| seq.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    Some((seed ^ reading.identity.rotate_left(17) ^ counter, time))
}
