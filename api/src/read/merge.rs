//! Merges the rows of several blocks into one order and drops duplicates.

use std::cmp::Ordering;
use std::sync::Arc;

use hashbrown::HashMap;
use model::{Held, Kind, Nanos, TimeRange, ValueRef};
use stores::query::{BlockRows, Distinct};
use stores::{Block, BlockMeta};

use super::Order;
use super::room::{Counted, ROW_BYTES};

/// Position of a row: block and row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RowAt {
    block: u32,
    row: u32,
}

/// A block on its way into a slice.
#[derive(Debug, Clone)]
pub(super) struct Piece {
    /// The selected columns.
    pub(super) shown: Counted,
    /// All columns, where they are known: two readings are told apart by all their values.
    pub(super) whole: Option<Counted>,
    /// Its place in the store; `None` for one of the tail.
    pub(super) meta: Option<BlockMeta>,
}

impl Piece {
    /// Bytes of it, and of its rows while they are merged.
    pub(super) fn cost(&self) -> usize {
        let whole = self.whole.as_ref().filter(|whole| !whole.is(&self.shown));
        self.shown.cost() + whole.map_or(0, Counted::cost)
    }

    /// The first row of it inside `range`, and the first one behind.
    pub(super) fn rows_in(&self, range: TimeRange) -> std::ops::Range<usize> {
        let times = &self.shown.times;
        times.partition_point(|t| *t < range.start)..times.partition_point(|t| *t < range.end)
    }
}

/// Rows of one device in order, each once.
#[derive(Debug)]
pub(crate) struct Slice {
    blocks: Vec<Shown>,
    rows: Vec<RowAt>,
    columns: Vec<(Arc<str>, Kind)>,
    /// The memory of the rows.
    held: Held,
}

#[derive(Debug)]
struct Shown {
    rows: BlockRows<Counted>,
    /// For each column of the block, its place among all columns.
    columns: Vec<u32>,
}

/// A slice whose rows are in order and still may be there twice.
#[derive(Debug)]
pub(super) struct Draft {
    pieces: Vec<Piece>,
    slice: Slice,
}

/// Sort key of rows. Beyond time and sequence it only has to be stable.
type Key = (Nanos, Option<u64>, Nanos, u64, u32);

impl Draft {
    /// The rows of `pieces` inside `range`, for which `held` has [`ROW_BYTES`] each. With `valued`,
    /// rows without a value are left out: they have none of the selected columns.
    pub(super) fn new(pieces: Vec<Piece>, range: TimeRange, valued: bool, held: Held) -> Self {
        let slice = Slice::of(&pieces, held);
        let mut rows = Vec::with_capacity(slice.held.bytes() / ROW_BYTES);
        for (b, piece) in pieces.iter().enumerate() {
            let reader = &slice.blocks[b].rows;
            let selected = piece.rows_in(range).filter(|row| !valued || reader.has_value(*row));
            rows.extend(selected.map(|row| RowAt { block: index(b), row: index(row) }));
        }
        // A stable sort is linear on sorted input, which is the usual case.
        rows.sort_by_key(|at| slice.key(*at));
        Self { pieces, slice: Slice { rows, ..slice } }
    }

    /// The places of the pieces that have rows of the same time and sequence as others, and whose
    /// columns are not all known.
    pub(super) fn lacking(&self) -> Vec<usize> {
        let mut meets = vec![false; self.pieces.len()];
        for pair in self.slice.rows.windows(2) {
            let (a, b) = (pair[0], pair[1]);
            if a.block != b.block && self.slice.moment(a) == self.slice.moment(b) {
                meets[a.block as usize] = true;
                meets[b.block as usize] = true;
            }
        }
        let lacks = |at: &usize| meets[*at] && self.pieces[*at].whole.is_none();
        (0..self.pieces.len()).filter(lacks).collect()
    }

    pub(super) fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// The piece at a place.
    pub(super) fn piece(&mut self, at: usize) -> &mut Piece {
        &mut self.pieces[at]
    }

    /// The rows, each once.
    pub(super) fn finish(self, order: Order) -> Slice {
        let Self { pieces, mut slice } = self;
        let mut rows = std::mem::take(&mut slice.rows);
        if pieces.len() > 1 {
            let is_whole = |piece: &Piece| piece.whole.as_ref().filter(|whole| !whole.is(&piece.shown)).cloned();
            let whole: Vec<Option<BlockRows<Counted>>> =
                pieces.iter().map(|piece| is_whole(piece).map(BlockRows::new)).collect();
            let row = |at: RowAt| {
                let place = at.block as usize;
                (whole[place].as_ref().unwrap_or(&slice.blocks[place].rows), at.row as usize)
            };
            // No block holds a reading twice: its writer has seen to that. Blocks that meet here
            // are whole.
            let alone = |run: &[RowAt]| run.iter().all(|at| at.block == run[0].block);
            let is_stored = |at: RowAt| pieces[at.block as usize].meta.is_some();
            Distinct::default().retain(&mut rows, alone, is_stored, row);
        }
        if order == Order::Descending {
            rows.reverse();
        }
        let unused = slice.held.bytes().saturating_sub(rows.capacity() * size_of::<RowAt>());
        slice.held.shrink(unused);
        slice.rows = rows;
        slice
    }
}

impl Slice {
    fn of(pieces: &[Piece], held: Held) -> Self {
        let mut places: HashMap<(&str, Kind), u32, foldhash::fast::RandomState> = HashMap::default();
        let mut columns = Vec::new();
        let mut blocks = Vec::with_capacity(pieces.len());
        for piece in pieces {
            let mut of_block = Vec::with_capacity(piece.shown.columns.len());
            for column in &piece.shown.columns {
                let next = index(columns.len());
                let at = *places.entry((&*column.name, column.data.kind())).or_insert(next);
                if at == next {
                    columns.push((Arc::clone(&column.name), column.data.kind()));
                }
                of_block.push(at);
            }
            blocks.push(Shown { rows: BlockRows::new(piece.shown.clone()), columns: of_block });
        }
        Self { blocks, rows: Vec::new(), columns, held }
    }

    fn key(&self, at: RowAt) -> Key {
        let block = self.block(at);
        let row = at.row as usize;
        (block.times[row], self.sequence(at), block.received[row], block.id.first_offset, at.row)
    }

    fn moment(&self, at: RowAt) -> (Nanos, Option<u64>) {
        (self.time(at), self.sequence(at))
    }

    /// Names and types of all columns.
    pub(crate) fn columns(&self) -> &[(Arc<str>, Kind)] {
        &self.columns
    }

    /// The values of a row, each with the place of its column.
    pub(crate) fn cells(&self, at: RowAt) -> impl Iterator<Item = (usize, ValueRef<'_>)> {
        let block = &self.blocks[at.block as usize];
        block.rows.cells(at.row as usize).map(|(column, value)| (block.columns[column] as usize, value))
    }

    /// The rows, in order.
    pub(crate) fn rows(&self) -> &[RowAt] {
        &self.rows
    }

    fn reader(&self, at: RowAt) -> &BlockRows<Counted> {
        &self.blocks[at.block as usize].rows
    }

    fn block(&self, at: RowAt) -> &Block {
        self.reader(at).block()
    }

    pub(crate) fn time(&self, at: RowAt) -> Nanos {
        self.block(at).times[at.row as usize]
    }

    pub(crate) fn received(&self, at: RowAt) -> Nanos {
        self.block(at).received[at.row as usize]
    }

    pub(crate) fn sequence(&self, at: RowAt) -> Option<u64> {
        self.reader(at).sequence(at.row as usize)
    }

    pub(crate) fn claimed(&self, at: RowAt) -> Option<Nanos> {
        self.block(at).claimed.get(at.row as usize).copied().flatten()
    }

    pub(crate) fn device_timed(&self, at: RowAt) -> bool {
        self.reader(at).device_timed(at.row as usize)
    }

    /// Names and values of a row.
    pub(crate) fn values(&self, at: RowAt) -> impl Iterator<Item = (&Arc<str>, ValueRef<'_>)> {
        self.reader(at).values(at.row as usize)
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
