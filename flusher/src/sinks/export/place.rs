//! The place of a reading within its millisecond. A store of points knows one point for each series
//! and time, so readings of one device and millisecond have to differ in their places, and one that
//! is sent again has to have the same.
//!
//! A reading's place is its sequence; without one, the nanoseconds of its device time; when those
//! are zero, a number made from its values, which is equal when the same reading is sent again, in
//! any payload; when the device gave no time, a number made from its identity, which is equal
//! when the same message is sent again. Only when that place is taken within the batch is it the
//! next free one.

use buffer::frame::ReadingRef;
use foldhash::fast::RandomState;
use hashbrown::HashSet;

use crate::sinks::history::cut::Placed;
use crate::sinks::history::same;

/// Places in one millisecond, and its nanoseconds.
pub(crate) const PLACES: u64 = 1_000_000;
const MILLI: i64 = 1_000_000;
/// Places are equal in all processes and releases.
pub(crate) const PLACE_SEED: u64 = 0;

/// The places of a device's readings, which are sorted by time. Without `separate` they are the
/// sequences, as sent.
pub(super) fn seqs(rows: &[Placed<'_>], separate: bool) -> Vec<Option<u64>> {
    if !separate {
        return rows.iter().map(|(_, reading)| reading.seq).collect();
    }
    let mut places = Vec::with_capacity(rows.len());
    let mut taken: HashSet<u64, RandomState> = HashSet::default();
    for same in rows.chunk_by(|a, b| milli(&a.1) == milli(&b.1)) {
        if let [(_, reading)] = same {
            places.push(Some(wanted(reading)));
            continue;
        }
        taken.clear();
        for (_, reading) in same {
            let mut place = wanted(reading);
            while taken.len() < same.len().min(999_999) && !taken.insert(place) {
                place = (place + 1) % PLACES;
            }
            places.push(Some(place));
        }
    }
    places
}

fn milli(reading: &ReadingRef<'_>) -> i64 {
    reading.time.div_euclid(MILLI)
}

fn wanted(reading: &ReadingRef<'_>) -> u64 {
    let within = reading.time.rem_euclid(MILLI).unsigned_abs();
    match reading.seq {
        Some(seq) => seq % PLACES,
        None if reading.device_timed && within != 0 => within,
        None if reading.device_timed => (same::digest(PLACE_SEED, reading) % u128::from(PLACES)) as u64,
        None => reading.identity % PLACES,
    }
}
