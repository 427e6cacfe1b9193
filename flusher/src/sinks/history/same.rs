//! The same reading, among records of a log: [`stores::query::same_reading`] before columns exist.

use std::hash::BuildHasher;

use buffer::frame::ReadingRef;
use model::{Nanos, ValueRef};
use xxhash_rust::xxh3::{xxh3_64_with_seed, xxh3_128_with_seed};

use super::cut::Placed;

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

/// Bits of a mark that are the place of a reading; those above are of its digest.
const PLACE_BITS: u32 = u32::BITS;
const PLACE: u64 = u32::MAX as u64;

/// Removes readings that are the same as an earlier one. Its work grows with the readings, however
/// many of them have one time.
pub(crate) struct Distinct {
    seed: u64,
    /// For each reading of one time, half of its digest and its place among them.
    marks: Vec<u64>,
    keep: Vec<bool>,
    kept: Vec<usize>,
}

impl Distinct {
    /// Memory that a reading takes while it is compared with others of its time.
    pub(crate) const ROW_BYTES: usize = size_of::<u64>() + size_of::<bool>();

    pub(crate) fn new() -> Self {
        Self { seed: secret_seed(), marks: Vec::new(), keep: Vec::new(), kept: Vec::new() }
    }

    /// Removes readings that are the same as an earlier one. `rows` are in the order of `moment`;
    /// readings of one moment are the same when their values are. All for which `differs` is true
    /// are kept.
    pub(crate) fn retain<K: PartialEq>(
        &mut self,
        rows: &mut Vec<Placed<'_>>,
        moment: impl Fn(&ReadingRef<'_>) -> K,
        differs: impl Fn(&ReadingRef<'_>) -> bool,
    ) {
        let (mut from, mut end) = (0, 0);
        while from < rows.len() {
            let now = moment(&rows[from].1);
            let count = rows[from..].iter().take_while(|(_, reading)| moment(reading) == now).count();
            let run = from..from + count;
            from = run.end;
            self.keep.clear();
            if count > 1 {
                self.compare(&rows[run.clone()], &differs);
            } else {
                self.keep.push(true);
            }
            for (at, keep) in run.zip(&self.keep) {
                rows[end] = rows[at];
                end += usize::from(*keep);
            }
        }
        rows.truncate(end);
    }

    /// Decides which readings of one moment are kept.
    fn compare(&mut self, run: &[Placed<'_>], differs: &impl Fn(&ReadingRef<'_>) -> bool) {
        assert!(u32::try_from(run.len()).is_ok(), "fewer than 2^32 readings have one time");
        let Self { seed, marks, keep, kept } = self;
        keep.resize(run.len(), true);
        marks.clear();
        let comparable = run.iter().enumerate().filter(|(_, (_, reading))| !differs(reading));
        marks.extend(comparable.map(|(place, (_, reading))| digest(*seed, reading) as u64 & !PLACE | place as u64));
        marks.sort_unstable();
        let of_one_digest = marks.chunk_by(|a, b| a >> PLACE_BITS == b >> PLACE_BITS);
        for marks in of_one_digest.filter(|marks| marks.len() > 1) {
            kept.clear();
            // In the order of the rows.
            for place in marks.iter().map(|mark| (mark & PLACE) as usize) {
                if kept.iter().any(|held| same_values(&run[*held].1, &run[place].1)) {
                    keep[place] = false;
                } else {
                    kept.push(place);
                }
            }
        }
    }
}
