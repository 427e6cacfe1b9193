//! Merges the rows of several blocks into one order and drops duplicates.

use std::cmp::Ordering;
use std::sync::Arc;

use model::{Nanos, TimeRange, ValueRef};
use stores::Block;
use stores::query::{BlockRows, same_row};

use super::Order;

/// Position of a row: block and row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RowAt {
    block: u32,
    row: u32,
}

/// Rows of one device in order, each once.
#[derive(Debug)]
pub(crate) struct Slice {
    blocks: Vec<BlockRows<Arc<Block>>>,
    rows: Vec<RowAt>,
}

/// Sort key of rows. Beyond time and sequence it only has to be stable.
type Key = (Nanos, Option<u64>, Nanos, u64, u32);

impl Slice {
    /// The rows of `blocks` inside `range`. With `valued`, rows without a value are left out: they
    /// have none of the selected columns.
    pub(super) fn new(blocks: Vec<Arc<Block>>, range: TimeRange, order: Order, valued: bool) -> Self {
        let blocks = blocks.into_iter().map(BlockRows::new).collect();
        let mut slice = Self { blocks, rows: Vec::new() };
        for (b, block) in slice.blocks.iter().enumerate() {
            let times = &block.block().times;
            let from = times.partition_point(|t| *t < range.start);
            let to = times.partition_point(|t| *t < range.end);
            let rows = (from..to).filter(|row| !valued || block.has_value(*row));
            slice.rows.extend(rows.map(|row| RowAt { block: index(b), row: index(row) }));
        }
        let mut rows = std::mem::take(&mut slice.rows);
        // A stable sort is linear on sorted input, which is the usual case.
        rows.sort_by_key(|at| slice.key(*at));
        slice.drop_duplicates(&mut rows);
        if order == Order::Descending {
            rows.reverse();
        }
        slice.rows = rows;
        slice
    }

    fn key(&self, at: RowAt) -> Key {
        let block = self.block(at);
        let row = at.row as usize;
        (block.times[row], self.sequence(at), block.received[row], block.id.first_offset, at.row)
    }

    /// Drops each row that equals a kept row of another block. Equal rows of one block are distinct
    /// readings: the writer has already dropped duplicates among them.
    fn drop_duplicates(&self, rows: &mut Vec<RowAt>) {
        if self.blocks.len() < 2 {
            return;
        }
        let mut kept: Vec<RowAt> = Vec::with_capacity(rows.len());
        for &at in rows.iter() {
            let group = kept.iter().rev().take_while(|k| self.moment(**k) == self.moment(at));
            let duplicate = group.filter(|k| k.block != at.block).any(|k| same_row(self.row(*k), self.row(at)));
            if !duplicate {
                kept.push(at);
            }
        }
        *rows = kept;
    }

    fn moment(&self, at: RowAt) -> (Nanos, Option<u64>) {
        (self.time(at), self.sequence(at))
    }

    /// The rows, in order.
    pub(crate) fn rows(&self) -> &[RowAt] {
        &self.rows
    }

    fn row(&self, at: RowAt) -> (&BlockRows<Arc<Block>>, usize) {
        (&self.blocks[at.block as usize], at.row as usize)
    }

    fn block(&self, at: RowAt) -> &Block {
        self.blocks[at.block as usize].block()
    }

    pub(crate) fn time(&self, at: RowAt) -> Nanos {
        self.block(at).times[at.row as usize]
    }

    pub(crate) fn received(&self, at: RowAt) -> Nanos {
        self.block(at).received[at.row as usize]
    }

    pub(crate) fn sequence(&self, at: RowAt) -> Option<u64> {
        self.blocks[at.block as usize].sequence(at.row as usize)
    }

    pub(crate) fn claimed(&self, at: RowAt) -> Option<Nanos> {
        self.block(at).claimed.get(at.row as usize).copied().flatten()
    }

    pub(crate) fn device_timed(&self, at: RowAt) -> bool {
        self.blocks[at.block as usize].device_timed(at.row as usize)
    }

    /// Names and values of a row.
    pub(crate) fn values(&self, at: RowAt) -> impl Iterator<Item = (&Arc<str>, ValueRef<'_>)> {
        self.blocks[at.block as usize].values(at.row as usize)
    }
}

fn index(n: usize) -> u32 {
    u32::try_from(n).expect("a slice has fewer than 2^32 blocks and rows")
}

/// End of a page: the time of its last row and the number of rows of that time that were sent. Rows
/// of one time are few, and a count needs no key that is stable between store and tail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) time: Nanos,
    pub(crate) sent: u64,
}

impl Position {
    /// The position after one more row.
    pub(crate) fn after(before: Option<Self>, time: Nanos) -> Self {
        match before {
            Some(Self { time: last, sent }) if last.cmp(&time) == Ordering::Equal => Self { time, sent: sent + 1 },
            _ => Self { time, sent: 1 },
        }
    }

    /// The part of a range that was not sent yet; it still contains the rows of [`Position::time`].
    pub(crate) fn rest(self, range: TimeRange, order: Order) -> TimeRange {
        match order {
            Order::Ascending => TimeRange { start: range.start.max(self.time), end: range.end },
            Order::Descending => TimeRange { start: range.start, end: range.end.min(self.time.saturating_add(1)) },
        }
    }
}
