//! Rows of one device, each reading once.

use std::borrow::Borrow;
use std::hash::BuildHasher;
use std::sync::Arc;

use foldhash::quality::RandomState;
use model::{Nanos, ValueRef};

use super::same::{BlockRows, same_reading, same_row};
use crate::block::Block;

/// Bits of a mark that are the place of a row; those above are of its digest.
const PLACE_BITS: u32 = u32::BITS;
const PLACE: u64 = u32::MAX as u64;

/// Removes rows that are the [same](super::same_reading) as an earlier one. Its work grows with the
/// rows, however many of them have one time.
///
/// Rows of one time and sequence are sorted by a keyed digest of their values; only rows of one
/// digest are compared. This takes [`Distinct::ROW_BYTES`] for each of them and no table.
#[derive(Debug, Default)]
pub struct Distinct {
    hasher: RandomState,
    /// For each row of the present time and sequence, half of its digest and its place among them.
    marks: Vec<u64>,
    keep: Vec<bool>,
    kept: Vec<Kept>,
}

/// A row that was kept, among rows of one digest.
#[derive(Debug)]
struct Kept {
    place: usize,
    stored: bool,
    /// Equal rows without a time of their own that a row of the other place may still be.
    copies: u32,
}

impl Distinct {
    /// Bytes that each of the rows of one time and sequence takes while they are compared.
    pub const ROW_BYTES: usize = size_of::<u64>() + size_of::<bool>();

    /// Removes the rows that are the same as an earlier one: the same reading, or, when one of them
    /// is `stored` and the other is not, the same row read from two places.
    ///
    /// `rows` are in the order of time and sequence, and `row` finds a row by its key. Of rows of
    /// one time and sequence for which `differ` is true, all are kept.
    ///
    /// # Panics
    /// When 2^32 or more rows have one time and sequence.
    pub fn retain<'a, K, B, F>(
        &mut self,
        rows: &mut Vec<K>,
        differ: impl Fn(&[K]) -> bool,
        stored: impl Fn(K) -> bool,
        row: F,
    ) where
        K: Copy,
        B: Borrow<Block> + 'a,
        F: Fn(K) -> (&'a BlockRows<B>, usize),
    {
        let moment = |key: K| -> (Nanos, Option<u64>) {
            let (block, at) = row(key);
            block.moment(at)
        };
        let (mut from, mut end) = (0, 0);
        while from < rows.len() {
            let now = moment(rows[from]);
            let more = rows[from + 1..].iter().take_while(|key| moment(**key) == now).count();
            let run = from..from + 1 + more;
            from = run.end;
            if run.len() == 1 || differ(&rows[run.clone()]) {
                rows.copy_within(run.clone(), end);
                end += run.len();
                continue;
            }
            self.compare(&rows[run.clone()], &stored, &row);
            for (at, keep) in run.zip(&self.keep) {
                rows[end] = rows[at];
                end += usize::from(*keep);
            }
        }
        rows.truncate(end);
    }

    /// Decides which rows of one time and sequence are kept.
    fn compare<'a, K, B, F>(&mut self, run: &[K], stored: &impl Fn(K) -> bool, row: &F)
    where
        K: Copy,
        B: Borrow<Block> + 'a,
        F: Fn(K) -> (&'a BlockRows<B>, usize),
    {
        assert!(u32::try_from(run.len()).is_ok(), "fewer than 2^32 rows have one time");
        let Self { hasher, marks, keep, kept } = self;
        keep.clear();
        keep.reserve_exact(run.len());
        keep.resize(run.len(), true);
        marks.clear();
        marks.reserve_exact(run.len());
        marks.extend(run.iter().enumerate().map(|(place, key)| {
            let (block, at) = row(*key);
            digest(hasher, block, at) & !PLACE | place as u64
        }));
        marks.sort_unstable();
        let of_one_digest = marks.chunk_by(|a, b| a >> PLACE_BITS == b >> PLACE_BITS);
        for marks in of_one_digest.filter(|marks| marks.len() > 1) {
            kept.clear();
            // In the order of the rows.
            for place in marks.iter().map(|mark| (mark & PLACE) as usize) {
                keep[place] = is_new(kept, place, stored(run[place]), |place| row(run[place]));
            }
        }
    }
}

/// True when a row is not the same as one that was kept.
fn is_new<'a, B, F>(kept: &mut Vec<Kept>, place: usize, stored: bool, row: F) -> bool
where
    B: Borrow<Block> + 'a,
    F: Fn(usize) -> (&'a BlockRows<B>, usize),
{
    let (block, at) = row(place);
    if block.device_timed(at) {
        if kept.iter().any(|held| same_reading(row(held.place), (block, at))) {
            return false;
        }
    } else {
        let same = |held: &Kept| same_row(row(held.place), (block, at));
        let other = kept.iter_mut().find(|held| held.stored != stored && held.copies > 0 && same(held));
        if let Some(other) = other {
            other.copies -= 1;
            return false;
        }
        if let Some(equal) = kept.iter_mut().find(|held| held.stored == stored && same(held)) {
            equal.copies += 1;
            return true;
        }
    }
    kept.push(Kept { place, stored, copies: 1 });
    true
}

/// Hash of what rows of one time and sequence are compared by: names and values, in any order, and
/// the time of receipt of a row that has no time of its own.
fn digest<B: Borrow<Block>>(hasher: &RandomState, block: &BlockRows<B>, at: usize) -> u64 {
    let hash = |(name, value): (&Arc<str>, ValueRef<'_>)| match value {
        ValueRef::Float(value) => hasher.hash_one((&**name, 1_u8, value.to_bits())),
        ValueRef::Int(value) => hasher.hash_one((&**name, 2_u8, value)),
        ValueRef::Bool(value) => hasher.hash_one((&**name, 3_u8, value)),
        ValueRef::Str(value) => hasher.hash_one((&**name, 4_u8, value)),
    };
    let received = if block.device_timed(at) { 0 } else { hasher.hash_one(block.block().received[at]) };
    block.values(at).map(hash).fold(received, u64::wrapping_add)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::{BlockId, Column, ColumnData};

    /// Rows of one time with these values, with times of the device's own or not.
    fn block(values: Vec<i64>, timed: bool) -> Block {
        let device = model::DeviceKey { tenant: "t".into(), id: "d".into() };
        Block {
            id: BlockId { device, log: "l".into(), first_offset: 0, part: 0 },
            times: vec![7; values.len()],
            received: vec![7; values.len()],
            seqs: Vec::new(),
            claimed: Vec::new(),
            device_timed: vec![timed; values.len()],
            columns: vec![Column { name: "v".into(), present: Vec::new(), data: ColumnData::Int(values) }],
        }
    }

    /// Block and row of the rows kept of two blocks, the second of which is not stored.
    fn kept(blocks: &[Block; 2], keys: &[(usize, usize)]) -> Vec<(usize, usize)> {
        let readers = blocks.each_ref().map(BlockRows::new);
        let mut rows = keys.to_vec();
        Distinct::default().retain(&mut rows, |_| false, |(b, _)| b == 0, |(b, r)| (&readers[b], r));
        rows
    }

    #[test]
    fn the_first_of_equal_rows_stays_in_its_place() {
        let blocks = [block(vec![3, 1, 2], true), block(vec![2, 4, 3], true)];
        let all = [(0, 0), (1, 0), (0, 1), (1, 1), (0, 2), (1, 2)];
        assert_eq!(kept(&blocks, &all), [(0, 0), (1, 0), (0, 1), (1, 1)]);
    }

    #[test]
    fn rows_without_a_time_of_their_own_are_paired_between_the_places() {
        // Two equal rows in the store, three in the tail: one has come since.
        let blocks = [block(vec![5, 5], false), block(vec![5, 5, 5, 6], false)];
        let all = [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (1, 3)];
        assert_eq!(kept(&blocks, &all), [(0, 0), (0, 1), (1, 2), (1, 3)]);
    }

    #[test]
    fn of_a_hundred_thousand_rows_of_one_time_the_equal_ones_are_found() {
        let (n, half) = (100_000_usize, 50_000);
        let values = |from: usize| (from as i64..(from + half) as i64).collect::<Vec<_>>();
        // A quarter of all is there twice.
        let blocks = [block(values(0), true), block(values(half / 2), true)];
        let all: Vec<(usize, usize)> = (0..half).flat_map(|row| [(0, row), (1, row)]).collect();
        let kept = kept(&blocks, &all);
        assert_eq!(kept.len(), n - half / 2);
        let mut values: Vec<usize> = kept.iter().map(|(b, r)| b * half / 2 + r).collect();
        values.sort_unstable();
        assert!(values.into_iter().eq(0..half + half / 2));
    }
}
