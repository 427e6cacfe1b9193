//! The same reading, among records of a log: [`stores::query::same_reading`] before columns exist.

use std::hash::BuildHasher;

use buffer::frame::ReadingRef;
use hashbrown::HashTable;
use model::{Nanos, ValueRef};
use xxhash_rust::xxh3::{xxh3_64_with_seed, xxh3_128_with_seed};

/// The time by which two readings may be the same: the device's own. One that was too far ahead to
/// order the reading still is. A clock that was never set returns to the same times at each start,
/// so a time that lies behind is not.
pub(crate) fn own_time(reading: &ReadingRef<'_>) -> Option<Nanos> {
    if reading.device_timed {
        return Some(reading.time);
    }
    reading.claimed_time.filter(|claimed| *claimed > reading.received)
}

/// Hash of the names and values of a reading, in any order.
pub(crate) fn digest(seed: u64, reading: &ReadingRef<'_>) -> u128 {
    let hash = |(name, value): (&str, ValueRef<'_>)| digest_of(seed, name, value);
    reading.values().map(hash).fold(0, u128::wrapping_add)
}

/// Hash of one name and value: the sum over those of a reading is its [`digest`].
pub(crate) fn digest_of(seed: u64, name: &str, value: ValueRef<'_>) -> u128 {
    hash_value(xxh3_64_with_seed(name.as_bytes(), seed), value)
}

fn hash_value(seed: u64, value: ValueRef<'_>) -> u128 {
    let bits = match value {
        ValueRef::Float(value) => value.to_bits(),
        ValueRef::Int(value) => value.cast_unsigned(),
        ValueRef::Bool(value) => u64::from(value),
        ValueRef::Str(text) => return xxh3_128_with_seed(text.as_bytes(), !seed),
    };
    let mut bytes = [0; 9];
    bytes[..8].copy_from_slice(&bits.to_le_bytes());
    bytes[8] = value.kind() as u8;
    xxh3_128_with_seed(&bytes, seed)
}

/// A seed that no device knows, so that none can choose what collides.
pub(crate) fn secret_seed() -> u64 {
    std::hash::RandomState::new().hash_one(0_u8)
}

/// True when two readings have the same names and values, to the last bit.
pub(crate) fn same_values(a: &ReadingRef<'_>, b: &ReadingRef<'_>) -> bool {
    if a.schema == b.schema {
        return a.value_bytes() == b.value_bytes();
    }
    let (mut of_a, mut of_b): (Vec<_>, Vec<_>) = (a.values().collect(), b.values().collect());
    for values in [&mut of_a, &mut of_b] {
        values.sort_by_key(|(name, value)| (*name, value.kind()));
    }
    let same =
        |((a, value_a), (b, value_b)): (&(&str, ValueRef<'_>), &(&str, ValueRef<'_>))| a == b && value_a.same(*value_b);
    of_a.len() == of_b.len() && of_a.iter().zip(&of_b).all(same)
}

/// A table of this size is made anew rather than cleared.
const SMALL: usize = 64;

/// The readings of one own time and sequence, each once.
pub(crate) struct Distinct<'a> {
    seed: u64,
    first: Option<ReadingRef<'a>>,
    /// Filled when a second one comes.
    seen: HashTable<(u128, ReadingRef<'a>)>,
}

impl<'a> Distinct<'a> {
    pub(crate) fn new() -> Self {
        Self { seed: secret_seed(), first: None, seen: HashTable::new() }
    }

    /// False when the reading is the same as one before. Readings come in the order of their own
    /// times and sequences.
    pub(crate) fn is_new(&mut self, reading: &ReadingRef<'a>) -> bool {
        let Some(time) = own_time(reading) else { return true };
        let meets = |first: &ReadingRef<'_>| (own_time(first), first.seq) == (Some(time), reading.seq);
        let Some(first) = self.first.filter(meets) else {
            self.first = Some(*reading);
            if self.seen.capacity() > SMALL {
                self.seen = HashTable::new()
            } else {
                self.seen.clear()
            }
            return true;
        };
        if self.seen.is_empty() {
            self.note(&first);
        }
        self.note(reading)
    }

    fn note(&mut self, reading: &ReadingRef<'a>) -> bool {
        let digest = digest(self.seed, reading);
        let equal = |held: &(u128, ReadingRef<'_>)| held.0 == digest && same_values(&held.1, reading);
        if self.seen.find(digest as u64, equal).is_some() {
            return false;
        }
        self.seen.insert_unique(digest as u64, (digest, *reading), |held| held.0 as u64);
        true
    }
}
