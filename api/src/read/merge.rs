//! Brings the rows of several blocks into one order and drops the doubles.

use std::cmp::Ordering;
use std::sync::Arc;

use model::{Nanos, TimeRange, ValueRef};
use stores::{Block, Column};

use super::Order;

/// Where a row stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RowAt {
    block: u32,
    row: u32,
}

/// Rows of one device in order, each once.
#[derive(Debug)]
pub(crate) struct Slice {
    blocks: Vec<Ranked>,
    rows: Vec<RowAt>,
}

/// A block whose values can be reached by row.
#[derive(Debug)]
struct Ranked {
    block: Arc<Block>,
    /// For each column, for each row, the index of its value or [`ABSENT`]; empty when every row has one.
    ranks: Vec<Vec<u32>>,
}

const ABSENT: u32 = u32::MAX;

impl Ranked {
    fn new(block: Arc<Block>) -> Self {
        let ranks = block.columns.iter().map(rank).collect();
        Self { block, ranks }
    }

    fn value(&self, column: usize, row: usize) -> Option<ValueRef<'_>> {
        let index = match self.ranks[column].get(row) {
            Some(&ABSENT) => return None,
            Some(&index) => index as usize,
            None => row,
        };
        self.block.columns[column].data.get(index)
    }

    fn has_value(&self, row: usize) -> bool {
        (0..self.block.columns.len()).any(|column| self.value(column, row).is_some())
    }
}

fn rank(column: &Column) -> Vec<u32> {
    let mut next = 0;
    let rank = |present: &bool| {
        if !*present {
            return ABSENT;
        }
        next += 1;
        next - 1
    };
    column.present.iter().map(rank).collect()
}

/// What orders rows. Beyond time and sequence it only has to be the same each time.
type Key = (Nanos, Option<u64>, Nanos, u64, u32);

impl Slice {
    /// The rows of `blocks` inside `range`. With `valued`, rows without any value are left out: none of the columns
    /// that are wanted is in them.
    pub(super) fn new(blocks: Vec<Arc<Block>>, range: TimeRange, order: Order, valued: bool) -> Self {
        let blocks: Vec<Ranked> = blocks.into_iter().map(Ranked::new).collect();
        let mut slice = Self { blocks, rows: Vec::new() };
        for (b, ranked) in slice.blocks.iter().enumerate() {
            let times = &ranked.block.times;
            let from = times.partition_point(|t| *t < range.start);
            let to = times.partition_point(|t| *t < range.end);
            let rows = (from..to).filter(|row| !valued || ranked.has_value(*row));
            slice.rows.extend(rows.map(|row| RowAt { block: index(b), row: index(row) }));
        }
        let mut rows = std::mem::take(&mut slice.rows);
        // A stable sort is linear on what is sorted already, which is the usual case.
        rows.sort_by_key(|at| slice.key(*at));
        slice.drop_doubles(&mut rows);
        if order == Order::Descending {
            rows.reverse();
        }
        slice.rows = rows;
        slice
    }

    fn key(&self, at: RowAt) -> Key {
        let block = &self.blocks[at.block as usize].block;
        let row = at.row as usize;
        (block.times[row], self.sequence(at), block.received[row], block.id.first_offset, at.row)
    }

    /// Drops each row that equals a kept one of another block. Equal rows inside one block were equal readings to the
    /// writer too, which kept both with reason.
    fn drop_doubles(&self, rows: &mut Vec<RowAt>) {
        if self.blocks.len() < 2 {
            return;
        }
        let mut kept: Vec<RowAt> = Vec::with_capacity(rows.len());
        for &at in rows.iter() {
            let group = kept.iter().rev().take_while(|k| self.moment(**k) == self.moment(at));
            let double = group.filter(|k| k.block != at.block).any(|k| self.same(*k, at));
            if !double {
                kept.push(at);
            }
        }
        *rows = kept;
    }

    fn moment(&self, at: RowAt) -> (Nanos, Option<u64>) {
        (self.time(at), self.sequence(at))
    }

    /// True when two rows of one moment are one reading: equal values, and equal receive times unless the device
    /// itself said when it measured.
    fn same(&self, a: RowAt, b: RowAt) -> bool {
        let timed = self.device_timed(a) && self.device_timed(b);
        if !timed && (self.received(a) != self.received(b) || self.device_timed(a) != self.device_timed(b)) {
            return false;
        }
        let has =
            |at: RowAt, name: &str, value: ValueRef<'_>| self.values(at).any(|(n, v)| **n == *name && v.same(value));
        self.values(a).count() == self.values(b).count() && self.values(a).all(|(name, value)| has(b, name, value))
    }

    /// The rows, in order.
    pub(crate) fn rows(&self) -> &[RowAt] {
        &self.rows
    }

    fn block(&self, at: RowAt) -> &Block {
        &self.blocks[at.block as usize].block
    }

    pub(crate) fn time(&self, at: RowAt) -> Nanos {
        self.block(at).times[at.row as usize]
    }

    pub(crate) fn received(&self, at: RowAt) -> Nanos {
        self.block(at).received[at.row as usize]
    }

    pub(crate) fn sequence(&self, at: RowAt) -> Option<u64> {
        self.block(at).seqs.get(at.row as usize).copied().flatten()
    }

    pub(crate) fn claimed(&self, at: RowAt) -> Option<Nanos> {
        self.block(at).claimed.get(at.row as usize).copied().flatten()
    }

    pub(crate) fn device_timed(&self, at: RowAt) -> bool {
        self.block(at).device_timed.get(at.row as usize).copied().unwrap_or(true)
    }

    /// Names and values of a row.
    pub(crate) fn values(&self, at: RowAt) -> impl Iterator<Item = (&Arc<str>, ValueRef<'_>)> {
        let ranked = &self.blocks[at.block as usize];
        let columns = ranked.block.columns.iter().enumerate();
        columns.filter_map(move |(i, column)| Some((&column.name, ranked.value(i, at.row as usize)?)))
    }
}

fn index(n: usize) -> u32 {
    u32::try_from(n).expect("a slice has fewer than 2^32 blocks and rows")
}

/// Where a page ends: the time of its last row, and how many rows of that time were sent. Rows of one time are few, and
/// counting them needs no other key to be stable between store and tail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) time: Nanos,
    pub(crate) sent: u64,
}

impl Position {
    /// After one more row.
    pub(crate) fn after(before: Option<Self>, time: Nanos) -> Self {
        match before {
            Some(Self { time: last, sent }) if last.cmp(&time) == Ordering::Equal => Self { time, sent: sent + 1 },
            _ => Self { time, sent: 1 },
        }
    }

    /// The range with what was sent cut off; rows of [`Position::time`] are still in it.
    pub(crate) fn rest(self, range: TimeRange, order: Order) -> TimeRange {
        match order {
            Order::Ascending => TimeRange { start: range.start.max(self.time), end: range.end },
            Order::Descending => TimeRange { start: range.start, end: range.end.min(self.time.saturating_add(1)) },
        }
    }
}
