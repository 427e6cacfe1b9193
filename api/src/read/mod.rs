//! Reads the history of a device: stored readings and those not yet flushed, merged (P3).
//!
//! The tail is read before the store: a reading that moves from one to the other in between is seen
//! twice and returned once. The history is read slice by slice in order of time, so that a long
//! range needs no more memory than a short one: each slice ends where the next unread block begins.
//! What is read is counted in the memory for all calls: estimated by rows before blocks are
//! fetched, exactly afterwards, for as long as the blocks are held.

mod columns;
mod freshness;
mod merge;
mod refusal;
mod room;
mod rows;

use std::sync::Arc;
use std::time::Duration;

use model::{DeviceKey, Full, Held, Nanos, TimeRange};
use stores::contract::Result as StoreResult;
use stores::{Block, BlockMeta, StoreError};
use tonic::Status;

use crate::errors;
use crate::glob::Metrics;
use crate::traces;

pub(crate) use columns::{Details, chunk, take_rows};
pub(crate) use freshness::Freshness;
use merge::{Draft, Piece};
pub(crate) use merge::{Position, Slice};
pub(crate) use room::Source;
use room::{Counted, ROW_BYTES, Refusal, Room, rows_of};
pub(crate) use rows::reading;

/// Approximate rows of a slice when the caller reads everything; fewer when they are wide, or when
/// little memory is free.
pub(crate) const SLICE_ROWS: usize = 32_768;
/// Maximum number of times that blocks may move between being found and being read.
const MOVES: usize = 16;
/// Pauses of a read that finds the memory for all calls used up. It holds no blocks of the store
/// meanwhile.
const PAUSES: [Duration; 3] = [Duration::from_millis(20), Duration::from_millis(100), Duration::from_millis(500)];

/// Order of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    Ascending,
    Descending,
}

/// Reads the history of one device in order of time.
pub(crate) struct Sweep {
    source: Source,
    room: Room,
    device: DeviceKey,
    metrics: Metrics,
    names: Option<Vec<Arc<str>>>,
    order: Order,
    slice_rows: usize,
    /// The part of the range that was not read yet.
    range: TimeRange,
    /// Blocks of the store, in the order in which they are read.
    metas: Vec<BlockMeta>,
    /// The first of them that was not read yet.
    unread: usize,
    /// Blocks of the previous slice that extend into the next one.
    carried: Vec<Piece>,
    tail: Vec<Piece>,
    freshness: Freshness,
}

/// The reason why a slice was not read.
enum Fault {
    /// A block is no longer where it was found.
    Moved,
    /// All calls together take too much memory.
    Full(Full),
    Failed(Status),
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Moved => Self::Moved,
            error => Self::Failed(errors::store(error)),
        }
    }
}

impl Sweep {
    /// Reads the tail, then finds the blocks of the store.
    pub(crate) async fn open(
        source: Source,
        device: &DeviceKey,
        range: TimeRange,
        metrics: &Metrics,
        order: Order,
        slice_rows: usize,
    ) -> Result<Self, Status> {
        let names = metrics.names();
        // All names: readings of the tail and of the store are told apart by all their values.
        let asked = source.tail.tail(device, range, None);
        let tail = traces::reading("read tail", asked, |tail, counts| {
            traces::add(&counts.devices, 1);
            traces::add(&counts.tail_rows, rows_in(&tail.blocks))
        });
        let tail = tail.await.map_err(errors::store)?;
        let freshness = Freshness { complete_until: tail.complete_until, unflushed: !tail.blocks.is_empty() };
        let mut sweep = Self {
            room: Room::new(&source),
            source,
            device: device.clone(),
            metrics: metrics.clone(),
            names,
            order,
            slice_rows,
            range,
            metas: Vec::new(),
            unread: 0,
            carried: Vec::new(),
            tail: Vec::new(),
            freshness,
        };
        sweep.keep_tail(tail.blocks)?;
        sweep.find().await.map_err(errors::store)?;
        Ok(sweep)
    }

    /// Completeness of the answer.
    pub(crate) fn freshness(&self) -> Freshness {
        self.freshness
    }

    /// Reads the next slice of rows in order; `None` at the end. A slice may be empty.
    ///
    /// # Errors
    /// INVALID_ARGUMENT when rows that have to be read together take more memory than one call may
    /// hold; RESOURCE_EXHAUSTED when all calls together do.
    pub(crate) async fn next(&mut self) -> Result<Option<Slice>, Status> {
        let (mut moves, mut pauses) = (MOVES, PAUSES.iter());
        loop {
            if self.range.start >= self.range.end {
                return Ok(None);
            }
            match self.slice().await {
                Ok(slice) => return Ok(Some(slice)),
                Err(Fault::Failed(status)) => return Err(status),
                Err(Fault::Moved) if moves > 1 => moves -= 1,
                Err(Fault::Moved) => return Err(errors::store(StoreError::Moved)),
                Err(Fault::Full(full)) => match pauses.next() {
                    Some(pause) => tokio::time::sleep(*pause).await,
                    None => return Err(errors::memory(full)),
                },
            }
            // The blocks found now include those carried over.
            self.find().await.map_err(errors::store)?;
        }
    }

    /// Counts the blocks of the tail, which are held to the end.
    fn keep_tail(&mut self, blocks: Vec<Block>) -> Result<(), Status> {
        let mut beside = 0;
        for block in blocks {
            let held = self.room.acquire(self.tail_bytes(&block)).map_err(errors::memory)?;
            let piece = self.piece(block, None, held);
            beside += piece.cost();
            self.tail.push(piece);
        }
        if self.room.fits(beside, 0) { Ok(()) } else { Err(self.tail_refusal()) }
    }

    fn tail_bytes(&self, block: &Block) -> usize {
        // With a selection of metrics, the selected ones are copied.
        let copies = if self.metrics.is_all() { 1 } else { 2 };
        copies * room::bytes(block)
    }

    async fn find(&mut self) -> StoreResult<()> {
        self.carried.clear();
        let asked = self.source.history.find(&self.device, self.range);
        let mut metas =
            traces::reading("find blocks", asked, |metas, _| metas.iter().map(|meta| u64::from(meta.rows)).sum())
                .await?;
        match self.order {
            Order::Ascending => metas.sort_by_key(|meta| meta.first_time),
            Order::Descending => metas.sort_by_key(|meta| std::cmp::Reverse(meta.last_time)),
        }
        self.metas = metas;
        self.unread = 0;
        Ok(())
    }

    async fn slice(&mut self) -> Result<Slice, Fault> {
        let mut pieces = std::mem::take(&mut self.carried);
        let range = self.gather(&mut pieces).await?;
        let before = self.range;
        match self.order {
            Order::Ascending => self.range.start = range.end,
            Order::Descending => self.range.end = range.start,
        }
        let left = self.range;
        self.carried = pieces.iter().filter(|piece| touches(&piece.shown, left)).cloned().collect();
        pieces.extend(self.tail.iter().filter(|piece| touches(&piece.shown, range)).cloned());
        let slice = self.merge(pieces, range).await;
        if slice.is_err() {
            // The slice is read again.
            self.range = before;
        }
        slice
    }

    async fn merge(&mut self, pieces: Vec<Piece>, range: TimeRange) -> Result<Slice, Fault> {
        let (order, valued) = (self.order, !self.metrics.is_all());
        let within: usize = pieces.iter().map(|piece| piece.rows_in(range).len()).sum();
        let held = self.room.acquire(within * ROW_BYTES).map_err(Fault::Full)?;
        let rows: usize = pieces.iter().map(|piece| piece.shown.times.len()).sum();
        let mut draft = heavy(rows, move || Draft::new(pieces, range, valued, held)).await?;
        self.complete(&mut draft).await?;
        Ok(heavy(rows, move || draft.finish(order)).await?)
    }

    /// Reads the blocks of the next slice, portion by portion, and returns the times it covers: up
    /// to the start of the first unread block.
    async fn gather(&mut self, pieces: &mut Vec<Piece>) -> Result<TimeRange, Fault> {
        let TimeRange { start, end } = self.range;
        let mut beside: usize = pieces.iter().chain(&self.tail).map(Piece::cost).sum();
        let (mut rows, mut bytes) = (self.slice_rows, self.room.slice_bytes(beside));
        if !self.room.may_fit(beside, rows_of(self.together())) {
            return Err(Fault::Failed(self.refusal(pieces)));
        }
        while let Some(meta) = self.metas.get(self.unread) {
            let cut = self.cut(meta);
            let is_full = rows == 0 || bytes == 0;
            if is_full && start < cut && cut < end {
                return Ok(match self.order {
                    Order::Ascending => TimeRange { start, end: cut },
                    Order::Descending => TimeRange { start: cut, end },
                });
            }
            // A full slice has to take the blocks that it cannot end at, still portion by portion.
            let most = if is_full { (self.slice_rows, self.room.slice_bytes(beside)) } else { (rows, bytes) };
            let Some(read) = self.portion(most, beside, pieces.is_empty()).await? else {
                return Err(Fault::Failed(self.refusal(pieces)));
            };
            self.unread += read.len();
            for piece in read {
                beside += piece.cost();
                rows = rows.saturating_sub(piece.shown.times.len());
                bytes = bytes.saturating_sub(piece.cost());
                pieces.push(piece);
            }
        }
        Ok(self.range)
    }

    /// The time at which a slice may end before a block.
    fn cut(&self, meta: &BlockMeta) -> Nanos {
        match self.order {
            Order::Ascending => meta.first_time,
            Order::Descending => meta.last_time.saturating_add(1),
        }
    }

    /// The unread blocks that the next slice cannot end at.
    fn together(&self) -> &[BlockMeta] {
        let unread = &self.metas[self.unread..];
        let behind = |meta: &BlockMeta| match self.order {
            Order::Ascending => meta.first_time <= self.range.start,
            Order::Descending => meta.last_time >= self.range.end.saturating_sub(1),
        };
        &unread[..unread.partition_point(behind)]
    }

    /// Reads the next blocks, about as many rows and bytes as `most`; `None` when not even one has
    /// room beside what the call holds. A block that is alone in its slice has more room.
    async fn portion(&mut self, most: (usize, usize), beside: usize, alone: bool) -> Result<Option<Vec<Piece>>, Fault> {
        let unread = &self.metas[self.unread..];
        let metas = unread[..self.room.portion(unread, false, most)].to_vec();
        let Some(read) = self.fetch(metas, false, (beside, alone)).await? else { return Ok(None) };
        let piece = |(meta, block, held)| self.piece(block, Some(meta), held);
        Ok(Some(read.into_iter().map(piece).collect()))
    }

    /// Fetches blocks with the selected columns or with all: as many of the first of `metas` as
    /// have room beside what the call holds; `None` when not even one has.
    async fn fetch(
        &mut self,
        mut metas: Vec<BlockMeta>,
        whole: bool,
        (beside, alone): (usize, bool),
    ) -> Result<Option<Vec<(BlockMeta, Block, Held)>>, Fault> {
        let names = self.names.as_deref().filter(|_| !whole);
        let what = if whole { "fetch whole blocks" } else { "fetch blocks" };
        loop {
            let mut held = match self.room.reserve(&metas, whole, beside) {
                Ok(held) => held,
                Err(Refusal::Share) => return Ok(None),
                Err(Refusal::Full(full)) => return Err(Fault::Full(full)),
            };
            let asked = self.source.history.fetch(&self.device, &metas, names);
            let blocks = traces::reading(what, asked, |blocks, counts| {
                traces::add(&counts.blocks, blocks.len() as u64);
                traces::add(&counts.rows, rows_in(blocks))
            });
            let blocks = blocks.await?;
            let sizes: Vec<usize> = blocks.iter().map(room::bytes).collect();
            let (rows, bytes) = (rows_of(&metas), sizes.iter().sum::<usize>());
            self.room.measured(whole, rows, bytes);
            let cost = bytes + rows * ROW_BYTES;
            if self.room.fits(beside, cost) || alone && metas.len() == 1 && self.room.fits_alone(beside, cost) {
                self.room.grow(&mut held, bytes).map_err(Fault::Full)?;
                let read = metas.into_iter().zip(blocks).zip(sizes);
                return Ok(Some(read.map(|((meta, block), size)| (meta, block, held.split(size))).collect()));
            }
            if metas.len() == 1 {
                return Ok(None);
            }
            // Wider than those before.
            metas.truncate(metas.len() / 2);
        }
    }

    /// Fetches all columns of the blocks that have readings of one time in common.
    async fn complete(&mut self, draft: &mut Draft) -> Result<(), Fault> {
        let lacking = draft.lacking();
        let metas: Vec<BlockMeta> = lacking.iter().filter_map(|at| draft.piece(*at).meta.clone()).collect();
        let stored = draft.pieces().iter().filter(|piece| piece.meta.is_some());
        let mut beside = stored.chain(&self.tail).map(Piece::cost).sum();
        let mut done = 0;
        while done < metas.len() {
            let most = (self.slice_rows, self.room.slice_bytes(beside));
            let count = self.room.portion(&metas[done..], true, most);
            let Some(read) = self.fetch(metas[done..done + count].to_vec(), true, (beside, false)).await? else {
                return Err(Fault::Failed(self.refusal(draft.pieces())));
            };
            for (_, block, held) in read {
                let whole = Counted::new(block, held);
                beside += whole.cost();
                draft.piece(lacking[done]).whole = Some(whole);
                done += 1;
            }
        }
        Ok(())
    }

    /// A block with the columns that are selected; one of the tail is kept whole beside.
    fn piece(&self, mut block: Block, meta: Option<BlockMeta>, mut held: Held) -> Piece {
        if self.metrics.is_all() {
            let shown = Counted::new(block, held);
            return Piece { whole: Some(shown.clone()), shown, meta };
        }
        if meta.is_some() {
            block.columns.retain(|column| self.metrics.selects(&column.name));
            let held = held.split(room::bytes(&block));
            return Piece { shown: Counted::new(block, held), whole: None, meta };
        }
        let columns = std::mem::take(&mut block.columns);
        let selected = columns.iter().filter(|column| self.metrics.selects(&column.name)).cloned().collect();
        let shown = Block { columns: selected, ..block.clone() };
        block.columns = columns;
        let shown = Counted::new(shown, held.split(held.bytes() / 2));
        Piece { shown, whole: Some(Counted::new(block, held)), meta }
    }
}

/// Rows that are sorted at once; more are work for a thread that may take its time.
const AT_ONCE: usize = 16_384;

async fn heavy<T: Send + 'static>(rows: usize, work: impl FnOnce() -> T + Send + 'static) -> StoreResult<T> {
    if rows <= AT_ONCE {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await.map_err(|error| StoreError::busy(error.to_string()))
}

fn rows_in(blocks: &[Block]) -> u64 {
    blocks.iter().map(|block| block.times.len() as u64).sum()
}

fn touches(block: &Block, range: TimeRange) -> bool {
    match (block.times.first(), block.times.last()) {
        (Some(first), Some(last)) => range.start < range.end && range.touches(*first, *last),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
