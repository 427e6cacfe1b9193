//! Reads the history of a device: stored readings and those not yet flushed, merged (P3).
//!
//! The tail is read before the store: a reading that moves from one to the other in between is seen
//! twice and returned once. The history is read slice by slice in order of time, so that a long
//! range needs no more memory than a short one: each slice ends where the next unread block begins.

mod columns;
mod merge;
mod rows;

use std::collections::VecDeque;
use std::sync::Arc;

use model::{DeviceKey, Nanos, TimeRange};
use stores::contract::Result as StoreResult;
use stores::{Block, BlockMeta, StoreError};
use tonic::Status;

use crate::Backend;
use crate::errors;
use crate::glob::Metrics;
use crate::traces;

pub(crate) use columns::{Details, chunk, take_rows};
use merge::{Draft, Piece};
pub(crate) use merge::{Position, Slice};
pub(crate) use rows::reading;

/// Approximate rows of a slice when the caller reads everything.
pub(crate) const SLICE_ROWS: usize = 32_768;
/// Maximum number of times that blocks may move between being found and being read.
const MOVES: usize = 16;

/// Order of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    Ascending,
    Descending,
}

/// Completeness of the data read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Freshness {
    pub(crate) complete_until: Nanos,
    pub(crate) unflushed: bool,
}

impl Freshness {
    /// Completeness of an empty read.
    pub(crate) const COMPLETE: Self = Self { complete_until: Nanos::MAX, unflushed: false };

    /// Completeness of both reads together.
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            complete_until: self.complete_until.min(other.complete_until),
            unflushed: self.unflushed || other.unflushed,
        }
    }

    pub(crate) fn to_proto(self) -> proto::v1::Freshness {
        // Without any device, the answer is complete as of now.
        let until = if self.complete_until == Nanos::MAX { crate::convert::now() } else { self.complete_until };
        proto::v1::Freshness {
            complete_until_time: Some(crate::convert::timestamp(until)),
            includes_unflushed: self.unflushed,
        }
    }
}

/// Reads the history of one device in order of time.
pub(crate) struct Sweep {
    backend: Backend,
    device: DeviceKey,
    metrics: Metrics,
    names: Option<Vec<Arc<str>>>,
    order: Order,
    slice_rows: usize,
    /// The part of the range that was not read yet.
    range: TimeRange,
    metas: VecDeque<BlockMeta>,
    /// Blocks of the previous slice that extend into the next one.
    carried: Vec<Piece>,
    tail: Vec<Piece>,
    freshness: Freshness,
}

impl Sweep {
    /// Reads the tail, then finds the blocks of the store.
    pub(crate) async fn open(
        backend: &Backend,
        device: &DeviceKey,
        range: TimeRange,
        metrics: &Metrics,
        order: Order,
        slice_rows: usize,
    ) -> Result<Self, Status> {
        let names = metrics.names();
        // All names: readings of the tail and of the store are told apart by all their values.
        let asked = backend.tail.tail(device, range, None);
        let tail = traces::reading("read tail", asked, |tail, counts| {
            traces::add(&counts.devices, 1);
            traces::add(&counts.tail_rows, rows_of(&tail.blocks))
        });
        let tail = tail.await.map_err(errors::store)?;
        let freshness = Freshness { complete_until: tail.complete_until, unflushed: !tail.blocks.is_empty() };
        let mut sweep = Self {
            backend: backend.clone(),
            device: device.clone(),
            metrics: metrics.clone(),
            names,
            order,
            slice_rows,
            range,
            metas: VecDeque::new(),
            carried: Vec::new(),
            tail: Vec::new(),
            freshness,
        };
        sweep.tail = tail.blocks.into_iter().map(|block| sweep.piece(block, None)).collect();
        sweep.find().await.map_err(errors::store)?;
        Ok(sweep)
    }

    /// Completeness of the answer.
    pub(crate) fn freshness(&self) -> Freshness {
        self.freshness
    }

    /// Reads the next slice of rows in order; `None` at the end. A slice may be empty.
    pub(crate) async fn next(&mut self) -> Result<Option<Slice>, Status> {
        for _ in 0..MOVES {
            if self.range.start >= self.range.end {
                return Ok(None);
            }
            match self.slice().await {
                Ok(slice) => return Ok(Some(slice)),
                Err(StoreError::Moved) => {
                    // The blocks found now include those carried over.
                    self.carried.clear();
                    self.find().await.map_err(errors::store)?;
                }
                Err(error) => return Err(errors::store(error)),
            }
        }
        Err(errors::store(StoreError::Moved))
    }

    async fn find(&mut self) -> StoreResult<()> {
        let asked = self.backend.history.find(&self.device, self.range);
        let mut metas =
            traces::reading("find blocks", asked, |metas, _| metas.iter().map(|meta| u64::from(meta.rows)).sum())
                .await?;
        match self.order {
            Order::Ascending => metas.sort_by_key(|meta| meta.first_time),
            Order::Descending => metas.sort_by_key(|meta| std::cmp::Reverse(meta.last_time)),
        }
        self.metas = metas.into();
        Ok(())
    }

    async fn slice(&mut self) -> StoreResult<Slice> {
        let (count, range) = self.plan();
        let metas: Vec<BlockMeta> = self.metas.range(..count).cloned().collect();
        let fetched = if metas.is_empty() {
            Vec::new()
        } else {
            let asked = self.backend.history.fetch(&self.device, &metas, self.names.as_deref());
            traces::reading("fetch blocks", asked, |blocks, counts| {
                traces::add(&counts.blocks, blocks.len() as u64);
                traces::add(&counts.rows, rows_of(blocks))
            })
            .await?
        };
        self.metas.drain(..count);
        let mut pieces = std::mem::take(&mut self.carried);
        pieces.extend(fetched.into_iter().zip(metas).map(|(block, meta)| self.piece(block, Some(meta))));
        let before = self.range;
        match self.order {
            Order::Ascending => self.range.start = range.end,
            Order::Descending => self.range.end = range.start,
        }
        let left = self.range;
        self.carried = pieces.iter().filter(|piece| touches(&piece.shown, left)).cloned().collect();
        pieces.extend(self.tail.iter().filter(|piece| touches(&piece.shown, range)).cloned());
        let (order, valued) = (self.order, !self.metrics.is_all());
        let rows: usize = pieces.iter().map(|piece| piece.shown.times.len()).sum();
        let mut draft = heavy(rows, move || Draft::new(pieces, range, valued)).await?;
        if let Err(error) = self.complete(&mut draft).await {
            // The slice is read again.
            self.range = before;
            return Err(error);
        }
        heavy(rows, move || draft.finish(order)).await
    }

    /// Fetches all columns of the blocks that have readings of one time in common.
    async fn complete(&self, draft: &mut Draft) -> StoreResult<()> {
        let lacking = draft.lacking();
        let metas: Vec<BlockMeta> = lacking.iter().filter_map(|at| draft.piece(*at).meta.clone()).collect();
        if metas.is_empty() {
            return Ok(());
        }
        let asked = self.backend.history.fetch(&self.device, &metas, None);
        let whole = traces::reading("fetch whole blocks", asked, |blocks, counts| {
            traces::add(&counts.blocks, blocks.len() as u64);
            traces::add(&counts.rows, rows_of(blocks))
        });
        for (at, block) in lacking.into_iter().zip(whole.await?) {
            draft.piece(at).whole = Some(Arc::new(block));
        }
        Ok(())
    }

    /// Number of blocks that the next slice reads, and the times it covers: up to the start of the
    /// first unread block.
    fn plan(&self) -> (usize, TimeRange) {
        let TimeRange { start, end } = self.range;
        let mut rows = 0;
        for (i, meta) in self.metas.iter().enumerate() {
            let cut = match self.order {
                Order::Ascending => meta.first_time,
                Order::Descending => meta.last_time.saturating_add(1),
            };
            if rows >= self.slice_rows && start < cut && cut < end {
                return match self.order {
                    Order::Ascending => (i, TimeRange { start, end: cut }),
                    Order::Descending => (i, TimeRange { start: cut, end }),
                };
            }
            rows += meta.rows as usize;
        }
        (self.metas.len(), self.range)
    }

    /// A block with the columns that are selected; one of the tail is kept whole beside.
    fn piece(&self, mut block: Block, meta: Option<BlockMeta>) -> Piece {
        if self.metrics.is_all() {
            let shown = Arc::new(block);
            return Piece { whole: Some(Arc::clone(&shown)), shown, meta };
        }
        if meta.is_some() {
            block.columns.retain(|column| self.metrics.selects(&column.name));
            return Piece { shown: Arc::new(block), whole: None, meta };
        }
        let columns = std::mem::take(&mut block.columns);
        let selected = columns.iter().filter(|column| self.metrics.selects(&column.name)).cloned().collect();
        let shown = Block { columns: selected, ..block.clone() };
        block.columns = columns;
        Piece { shown: Arc::new(shown), whole: Some(Arc::new(block)), meta }
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

fn rows_of(blocks: &[Block]) -> u64 {
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
