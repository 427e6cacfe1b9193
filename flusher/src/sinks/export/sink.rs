//! The sink: an open memtable that fills, and the closed one that is being written.

use std::sync::Arc;

use async_trait::async_trait;
use buffer::frame::Frame;
use buffer::{Cursor, Log, ReadError};
use model::Nanos;
use model::trace::TraceContext;
use parking_lot::Mutex;
use stores::contract::{DeviceBatch, Export};

use super::filter::ExportFilter;
use super::place;
use crate::PurgedTenants;
use crate::accounting::tallies::{Tallies, count_hours, entry};
use crate::sink::{Load, Part, Refusal, Sink};
use crate::sinks::history::cut::{self, Cut, Names, Placed};
use crate::sinks::history::letter::refused_reading;
use crate::sinks::history::memtable::Memtable;
use crate::sinks::history::parts::{self, PartSize};
use crate::sinks::history::recent::Recent;

/// Readings that are encoded and written at a time.
const PART_READINGS: usize = 50_000;

pub(crate) struct ExportSink {
    log: Arc<str>,
    /// Name of the export.
    name: Arc<str>,
    store: Arc<dyn Export>,
    filter: Arc<ExportFilter>,
    parts: PartSize,
    purged: PurgedTenants,
    tables: Mutex<Tables>,
    /// Changes only between two batches.
    recent: Mutex<Recent>,
}

#[derive(Default)]
struct Tables {
    open: Memtable,
    closed: Option<Arc<Memtable>>,
}

/// Readings of a device, as the store tells them apart.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    cut: Cut,
    /// [`stores::Block::seqs`] of the rows.
    seqs: Vec<Option<u64>>,
    traces: Vec<(usize, TraceContext)>,
}

impl Item {
    fn into_batch(self) -> DeviceBatch {
        let seqs = if self.seqs.iter().any(Option::is_some) { self.seqs } else { Vec::new() };
        let mut block = self.cut.block;
        block.seqs = seqs;
        DeviceBatch { block, offsets: self.cut.offsets, traces: self.traces }
    }
}

impl ExportSink {
    /// A sink of a log; `unflushed` bytes of memory are for readings that are not delivered.
    pub(crate) fn new(
        log: &str,
        name: Arc<str>,
        store: Arc<dyn Export>,
        filter: Arc<ExportFilter>,
        unflushed: u64,
    ) -> Self {
        let parts = PartSize::new(PART_READINGS, unflushed);
        let (tables, recent, purged) = Default::default();
        Self { log: log.into(), name, store, filter, parts, purged, tables, recent }
    }

    /// The same one, which delivers nothing of these tenants.
    pub(crate) fn without(self, purged: PurgedTenants) -> Self {
        Self { purged, ..self }
    }
}

#[async_trait]
impl Sink for ExportSink {
    type Batch = Arc<Memtable>;
    type Item = Item;

    async fn prepare(&self, log: &dyn Log, done_to: u64) -> Result<(), ReadError> {
        let cursors = log.cursors().await.map_err(|error| ReadError::Unavailable(error.to_string()))?;
        // Readings that were left out, or came before the export did, are not in the store: the
        // same reading, when it is sent again, is its first.
        let has_all = |cursor: &Cursor| cursor.tallies.values().all(|tally| tally.missed + tally.filtered == 0);
        if cursors.get(&*self.name).is_some_and(has_all) {
            let recent = Recent::load(log, done_to).await?;
            *self.recent.lock() = recent;
        }
        Ok(())
    }

    fn forget(&self) {
        *self.recent.lock() = Recent::default();
    }

    async fn join(&self, epoch: u64) -> stores::contract::Result<Option<u64>> {
        self.store.join(&self.log, epoch).await
    }

    fn take(&self, frame: &Frame, from: u64, to: u64) {
        let filter = (!self.filter.is_open()).then_some(&*self.filter);
        self.tables.lock().open.take_some(frame, from, to, filter);
    }

    fn load(&self) -> Load {
        let tables = self.tables.lock();
        let open_bytes = tables.open.bytes();
        Load {
            records: tables.open.readings(),
            bytes: open_bytes + tables.closed.as_ref().map_or(0, |closed| closed.bytes()),
            open_bytes,
        }
    }

    fn close(&self) -> Arc<Memtable> {
        let mut tables = self.tables.lock();
        let closed = Arc::new(std::mem::take(&mut tables.open));
        tables.closed = Some(Arc::clone(&closed));
        closed
    }

    fn cut(&self, batch: &Arc<Memtable>, index: usize) -> Option<Part<Item>> {
        let bounds = self.parts.bounds(batch, index)?;
        let mut part = Part::begin(if index == 0 { batch.passed().clone() } else { Tallies::new() });
        let recent = self.recent.lock();
        let (mut names, separate) = (Names::default(), self.store.needs_distinct_times());
        for held in &batch.devices()[bounds.devices.clone()] {
            let settled = parts::settled(batch, held, &recent);
            let share = bounds.share(settled.len());
            let rows = &settled[share.clone()];
            let counts = entry(&mut part.tallies, &held.device.tenant);
            if bounds.slice == 0 {
                counts.merged += (held.rows.len() - settled.len()) as u64;
            }
            // It may be deleted between two slices.
            if self.purged.has(&held.device.tenant) {
                counts.filtered += rows.len() as u64;
                continue;
            }
            counts.stored += rows.len() as u64;
            count_hours(&mut part.hours, &held.device.tenant, rows);
            let (mut seqs, mut rest) = (place::seqs(&settled, separate)[share].to_vec(), rows);
            let wanted = |name: &str| self.filter.has_name(name);
            for cut in cut::blocks(&self.log, &held.device, rows, &mut names, &wanted) {
                let (here, after) = rest.split_at(cut.offsets.len());
                let later = seqs.split_off(here.len());
                part.items.push(Item { seqs: std::mem::replace(&mut seqs, later), traces: traces(here), cut });
                rest = after;
            }
        }
        Some(part)
    }

    async fn write(&self, items: Vec<Item>) -> stores::contract::Result<()> {
        self.store.write(&self.log, items.into_iter().map(Item::into_batch).collect()).await
    }

    async fn commit(&self, done_to: u64) -> stores::contract::Result<()> {
        self.store.commit(&self.log, done_to).await
    }

    async fn rewind(&self, epoch: u64, done_to: u64) -> stores::contract::Result<()> {
        self.store.rewind(&self.log, epoch, done_to).await
    }

    fn halve(&self, item: &Item) -> Option<(Item, Item)> {
        let (first, second) = cut::halve(&item.cut)?;
        let middle = first.offsets.len();
        let (left, right) = item.seqs.split_at(middle);
        let (before, after): (Vec<_>, Vec<_>) = item.traces.iter().copied().partition(|(row, _)| *row < middle);
        let after = after.into_iter().map(|(row, context)| (row - middle, context)).collect();
        Some((
            Item { cut: first, seqs: left.to_vec(), traces: before },
            Item { cut: second, seqs: right.to_vec(), traces: after },
        ))
    }

    fn on_refused(&self, item: &Item, reason: &str) -> Refusal {
        Refusal::DeadLetter(Box::new(refused_reading(&item.cut.block, &self.name, reason)))
    }

    fn time_of(&self, item: &Item) -> Option<Nanos> {
        item.cut.block.times.first().copied()
    }

    fn finish(&self, done_to: u64) {
        let closed = self.tables.lock().closed.take();
        if let Some(batch) = &closed {
            self.recent.lock().stored(batch, done_to);
        }
        // Freed outside the lock.
        drop(closed);
    }
}

fn traces(rows: &[Placed<'_>]) -> Vec<(usize, TraceContext)> {
    let traced = rows.iter().enumerate().filter_map(|(row, (_, reading))| Some((row, reading.trace?)));
    traced.map(|(row, bytes)| (row, TraceContext::from_bytes(bytes))).collect()
}
