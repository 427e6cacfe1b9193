//! Rows of one device, each reading once.

use std::borrow::Borrow;
use std::hash::BuildHasher;

use foldhash::quality::RandomState;
use hashbrown::HashTable;
use model::{Nanos, ValueRef};

use super::same::{BlockRows, same_reading, same_row};
use crate::block::Block;

/// A table of this size is made anew rather than cleared.
const SMALL: usize = 64;

/// A row that was kept.
#[derive(Debug, Clone, Copy)]
struct Kept<K> {
    digest: u64,
    row: K,
    stored: bool,
    /// Equal rows without a time of their own that a row of the other place may still be.
    copies: u32,
}

/// Recognises the rows that are the [same](super::same_reading) as an earlier one, among rows that
/// come in the order of time and sequence. Its work grows with the rows, however many of them have
/// one time.
#[derive(Debug)]
pub struct Distinct<K> {
    first: Option<(K, bool)>,
    /// The rows of the present time and sequence, once a second one comes.
    kept: HashTable<Kept<K>>,
    hasher: RandomState,
}

impl<K: Copy> Default for Distinct<K> {
    fn default() -> Self {
        Self { first: None, kept: HashTable::new(), hasher: RandomState::default() }
    }
}

impl<K: Copy> Distinct<K> {
    /// False when the row `key` is the same as one before: the same reading, or, when one of them
    /// is `stored` and the other is not, the same row read from two places. `row` finds a row by
    /// its key.
    pub fn is_new<'a, B, F>(&mut self, key: K, stored: bool, row: F) -> bool
    where
        B: Borrow<Block> + 'a,
        F: Fn(K) -> (&'a BlockRows<B>, usize),
    {
        let moment = |key: K| -> (Nanos, Option<u64>) {
            let (block, at) = row(key);
            block.moment(at)
        };
        let now = moment(key);
        let Some((first, of_store)) = self.first.filter(|(first, _)| moment(*first) == now) else {
            self.first = Some((key, stored));
            if self.kept.capacity() > SMALL {
                self.kept = HashTable::new()
            } else {
                self.kept.clear()
            }
            return true;
        };
        if self.kept.is_empty() {
            self.note(first, of_store, &row);
        }
        self.note(key, stored, &row)
    }

    fn note<'a, B, F>(&mut self, key: K, stored: bool, row: &F) -> bool
    where
        B: Borrow<Block> + 'a,
        F: Fn(K) -> (&'a BlockRows<B>, usize),
    {
        let (block, at) = row(key);
        let digest = self.digest(block, at);
        let timed = block.device_timed(at);
        let Self { kept, .. } = self;
        if timed {
            let same = |held: &Kept<K>| held.digest == digest && same_reading(row(held.row), (block, at));
            if kept.find(digest, same).is_some() {
                return false;
            }
        } else {
            let same = |held: &Kept<K>| held.digest == digest && same_row(row(held.row), (block, at));
            let other = kept.find_mut(digest, |held| held.stored != stored && held.copies > 0 && same(held));
            if let Some(other) = other {
                other.copies -= 1;
                return false;
            }
            if let Some(equal) = kept.find_mut(digest, |held| held.stored == stored && same(held)) {
                equal.copies += 1;
                return true;
            }
        }
        kept.insert_unique(digest, Kept { digest, row: key, stored, copies: 1 }, |held| held.digest);
        true
    }

    /// Hash of the names and values of a row, in any order.
    fn digest<B: Borrow<Block>>(&self, block: &BlockRows<B>, at: usize) -> u64 {
        let hash = |(name, value): (&std::sync::Arc<str>, ValueRef<'_>)| match value {
            ValueRef::Float(value) => self.hasher.hash_one((&**name, 1_u8, value.to_bits())),
            ValueRef::Int(value) => self.hasher.hash_one((&**name, 2_u8, value)),
            ValueRef::Bool(value) => self.hasher.hash_one((&**name, 3_u8, value)),
            ValueRef::Str(value) => self.hasher.hash_one((&**name, 4_u8, value)),
        };
        block.values(at).map(hash).fold(0, u64::wrapping_add)
    }
}
