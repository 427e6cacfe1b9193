//! The memory of a read: each block is counted for as long as it is held.

use std::borrow::Borrow;
use std::ops::Deref;
use std::sync::Arc;

use model::{Budget, Full, Held};
use stores::contract::{History, Tail};
use stores::query::Distinct;
use stores::{Block, BlockMeta};

use super::merge::RowAt;
use crate::Backend;
use crate::memory;

/// Largest slice, in bytes. A slice is also at most this part of the memory for all calls, and this
/// part of what is free, so that many calls at once have smaller ones.
const SLICE_BYTES: usize = 8 << 20;
const SLICE_SHARE: usize = 32;
const FREE_SHARE: usize = 16;
/// A slice of this size is read also when little memory is free.
const LEAST_SLICE: usize = 64 << 10;
/// Rows that are read before the width of a row is known, and their estimated width in bytes.
const FIRST_ROWS: usize = 256;
const FIRST_WIDTH: usize = 128;
/// Bytes of a row besides its values: its time and its time of receipt.
const LEAST_WIDTH: usize = 16;
/// Bytes that a row takes while slices are merged: its place, once more where it is sorted, and
/// where it is compared.
pub(super) const ROW_BYTES: usize = 2 * size_of::<RowAt>() + Distinct::ROW_BYTES;
/// Bytes of a block besides its contents.
const BLOCK_BYTES: usize = size_of::<(Block, Held)>();

/// The stores that a read asks, and the memory that it is counted in. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Source {
    pub(super) history: Arc<dyn History>,
    pub(super) tail: Arc<dyn Tail>,
    memory: Budget,
    /// The read leaves the memory above this to others.
    ceiling: usize,
}

impl Source {
    /// For a call with one answer.
    pub(crate) fn new(backend: &Backend, memory: &Budget) -> Self {
        Self {
            history: Arc::clone(&backend.history),
            tail: Arc::clone(&backend.tail),
            memory: memory.clone(),
            ceiling: memory.capacity(),
        }
    }

    /// For a stream: its client decides how long a slice is held, so that a quarter of the memory
    /// stays for calls with one answer.
    pub(crate) fn streamed(self) -> Self {
        Self { ceiling: self.memory.capacity() / 4 * 3, ..self }
    }

    #[cfg(test)]
    pub(super) fn of(history: Arc<dyn History>, tail: Arc<dyn Tail>, memory: &Budget) -> Self {
        Self { history, tail, memory: memory.clone(), ceiling: memory.capacity() }
    }
}

/// The reason why an amount was not acquired.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The call takes more than its share.
    Share,
    /// All calls together take too much.
    Full(Full),
}

/// The memory that one read may take.
pub(super) struct Room {
    memory: Budget,
    ceiling: usize,
    /// Bytes that the read may hold.
    most: usize,
    /// Bytes of a row with the selected columns and with all, as last measured.
    widths: [Option<usize>; 2],
}

impl Room {
    pub(super) fn new(source: &Source) -> Self {
        let most = memory::share(&source.memory);
        Self { memory: source.memory.clone(), ceiling: source.ceiling, most, widths: [None; 2] }
    }

    pub(super) fn most(&self) -> usize {
        self.most
    }

    /// Size of a slice for a read that holds `beside` already.
    pub(super) fn slice_bytes(&self, beside: usize) -> usize {
        let free = self.ceiling.saturating_sub(self.memory.held());
        let most = SLICE_BYTES.min(self.memory.capacity() / SLICE_SHARE).min(free / FREE_SHARE);
        most.max(LEAST_SLICE).min(self.most.saturating_sub(beside) / 2)
    }

    /// True when a read that holds `beside` has room for this.
    pub(super) fn fits(&self, beside: usize, bytes: usize) -> bool {
        beside.saturating_add(bytes) <= self.most
    }

    /// As [`Room::fits`], for one block: it cannot be read in parts, and has twice the room.
    pub(super) fn fits_alone(&self, beside: usize, bytes: usize) -> bool {
        beside.saturating_add(bytes) <= 2 * self.most
    }

    /// True when a read that holds `beside` may have room for this many rows.
    pub(super) fn may_fit(&self, beside: usize, rows: usize) -> bool {
        self.fits(beside, rows.saturating_mul(LEAST_WIDTH + ROW_BYTES))
    }

    /// Acquires an amount that was found to fit.
    pub(super) fn acquire(&self, bytes: usize) -> Result<Held, Full> {
        let mut held = self.memory.hold();
        self.grow(&mut held, bytes).map(|()| held)
    }

    pub(super) fn grow(&self, held: &mut Held, bytes: usize) -> Result<(), Full> {
        let more = bytes.saturating_sub(held.bytes());
        if self.memory.held().saturating_add(more) > self.ceiling {
            return Err(Full { part: self.memory.part(), capacity: self.memory.capacity() });
        }
        held.resize(bytes)
    }

    /// Acquires the estimated bytes of blocks before they are read, at most what is left of the
    /// share.
    pub(super) fn reserve(&self, metas: &[BlockMeta], whole: bool, beside: usize) -> Result<Held, Refusal> {
        let left = self.most.saturating_sub(beside);
        if left == 0 {
            return Err(Refusal::Share);
        }
        let width = self.widths[usize::from(whole)].unwrap_or(FIRST_WIDTH);
        self.acquire(rows_of(metas).saturating_mul(width).min(left)).map_err(Refusal::Full)
    }

    /// Notes how wide rows were.
    pub(super) fn measured(&mut self, whole: bool, rows: usize, bytes: usize) {
        self.widths[usize::from(whole)] = Some(bytes.div_ceil(rows.max(1)));
    }

    /// Number of the first blocks of `metas` that are read at once: up to about this many rows and
    /// bytes, at least one.
    pub(super) fn portion(&self, metas: &[BlockMeta], whole: bool, (rows, bytes): (usize, usize)) -> usize {
        let most = match self.widths[usize::from(whole)] {
            Some(width) => rows.min(bytes / (width + ROW_BYTES)),
            None => rows.min(FIRST_ROWS),
        };
        let mut sum = 0;
        let fits = |meta: &&BlockMeta| {
            let fits = sum < most;
            sum += meta.rows as usize;
            fits
        };
        metas.iter().take_while(fits).count().max(1).min(metas.len())
    }
}

pub(super) fn rows_of(metas: &[BlockMeta]) -> usize {
    metas.iter().map(|meta| meta.rows as usize).sum()
}

/// A block and its amount of the memory, which is returned with the last clone.
#[derive(Debug, Clone)]
pub(super) struct Counted(Arc<(Block, Held)>);

impl Counted {
    /// `held` is at least the [`bytes`] of the block.
    pub(super) fn new(block: Block, held: Held) -> Self {
        Self(Arc::new((block, held)))
    }

    /// True when both are one block.
    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Bytes of the block, and of its rows while they are merged.
    pub(super) fn cost(&self) -> usize {
        self.0.1.bytes() + self.times.len() * ROW_BYTES
    }
}

impl Deref for Counted {
    type Target = Block;

    fn deref(&self) -> &Block {
        &self.0.0
    }
}

impl Borrow<Block> for Counted {
    fn borrow(&self) -> &Block {
        self
    }
}

/// Bytes of a block and of its reader.
pub(super) fn bytes(block: &Block) -> usize {
    BLOCK_BYTES + block.memory()
}
