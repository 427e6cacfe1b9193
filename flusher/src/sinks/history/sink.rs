//! The sink: an open memtable that fills, and the sealed one that is being written.

use std::sync::Arc;

use async_trait::async_trait;
use buffer::frame::Frame;
use buffer::{Log, ReadError};
use model::{DeviceKey, Nanos, TimeRange};
use parking_lot::Mutex;
use stores::contract::History;

use super::cut::{self, Cut, Names};
use super::letter::refused_reading;
use super::memtable::{Memtable, Selected};
use super::parts::{self, PartSize};
use super::recent::Recent;
use crate::PurgedTenants;
use crate::accounting::tallies::{Tallies, count_hours, entry};
use crate::sink::{Load, Part, Refusal, Sink};

/// Readings that are cut and written at a time.
const PART_READINGS: usize = 131_072;

pub(crate) struct HistorySink {
    log: Arc<str>,
    store: Arc<dyn History>,
    parts: PartSize,
    purged: PurgedTenants,
    tables: Mutex<Tables>,
    /// Changes only between two ranges.
    recent: Mutex<Recent>,
}

#[derive(Default)]
struct Tables {
    open: Memtable,
    /// Every record below was taken.
    taken_to: u64,
    sealed: Option<Arc<Memtable>>,
}

/// The readings of one device that are not stored yet.
pub(crate) struct Unflushed {
    pub(crate) rows: Vec<Selected>,
    /// Every record of the log below this offset is among the rows or in the store.
    pub(crate) taken_to: u64,
}

impl HistorySink {
    /// A sink of a log whose records below `done_to` are stored; `unflushed` bytes of memory are
    /// for those that are not.
    pub(crate) fn new(log: &str, store: Arc<dyn History>, done_to: u64, unflushed: u64, purged: PurgedTenants) -> Self {
        let tables = Tables { taken_to: done_to, ..Tables::default() };
        store.done(log, done_to);
        let parts = PartSize::new(PART_READINGS, unflushed);
        Self { log: log.into(), store, parts, purged, tables: Mutex::new(tables), recent: Mutex::default() }
    }

    /// Name of the log.
    pub(crate) fn log(&self) -> &Arc<str> {
        &self.log
    }

    /// The rows of a device in `range` that are not in the store yet, as far as they were taken.
    pub(crate) fn unflushed(&self, device: &DeviceKey, range: TimeRange) -> Unflushed {
        let tables = self.tables.lock();
        let sealed = tables.sealed.as_deref().into_iter();
        let rows = sealed.chain([&tables.open]).map(|table| table.select(device, range)).collect();
        Unflushed { rows, taken_to: tables.taken_to }
    }
}

#[async_trait]
impl Sink for HistorySink {
    type Batch = Arc<Memtable>;
    type Item = Cut;

    fn seals(&self) -> bool {
        true
    }

    async fn prepare(&self, log: &dyn Log, done_to: u64) -> Result<(), ReadError> {
        let recent = Recent::load(log, done_to).await?;
        *self.recent.lock() = recent;
        Ok(())
    }

    fn take(&self, frame: &Frame, from: u64, to: u64) {
        let mut tables = self.tables.lock();
        tables.open.take(frame, from, to);
        tables.taken_to = to;
    }

    fn load(&self) -> Load {
        let tables = self.tables.lock();
        let open_bytes = tables.open.bytes();
        let bytes = open_bytes + tables.sealed.as_ref().map_or(0, |sealed| sealed.bytes());
        Load { records: tables.open.readings(), bytes, open_bytes }
    }

    fn close(&self) -> Arc<Memtable> {
        let mut tables = self.tables.lock();
        let sealed = Arc::new(std::mem::take(&mut tables.open));
        debug_assert!(tables.sealed.is_none(), "one range is written at a time");
        tables.sealed = Some(Arc::clone(&sealed));
        sealed
    }

    fn cut(&self, batch: &Arc<Memtable>, index: usize) -> Option<Part<Cut>> {
        let bounds = self.parts.bounds(batch, index)?;
        let recent = self.recent.lock();
        let mut part = Part::begin(if index == 0 { batch.passed().clone() } else { Tallies::new() });
        let mut names = Names::default();
        for held in &batch.devices()[bounds.devices.clone()] {
            let settled = parts::settled(batch, held, &recent);
            let rows = &settled[bounds.share(settled.len())];
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
            part.items.append(&mut cut::cut(&self.log, &held.device, rows, &mut names));
        }
        Some(part)
    }

    async fn write(&self, items: Vec<Cut>) -> stores::contract::Result<()> {
        self.store.write(items.into_iter().map(|cut| cut.block).collect()).await
    }

    async fn commit(&self, _: u64) -> stores::contract::Result<()> {
        self.store.sync().await
    }

    fn halve(&self, item: &Cut) -> Option<(Cut, Cut)> {
        cut::halve(item)
    }

    fn on_refused(&self, item: &Cut, reason: &str) -> Refusal {
        Refusal::DeadLetter(Box::new(refused_reading(&item.block, crate::HISTORY, reason)))
    }

    fn time_of(&self, item: &Cut) -> Option<Nanos> {
        item.block.times.first().copied()
    }

    fn finish(&self, done_to: u64) {
        self.store.done(&self.log, done_to);
        let finished = self.tables.lock().sealed.take();
        if let Some(range) = &finished {
            self.recent.lock().stored(range, done_to);
        }
        // Freed outside the lock.
        drop(finished);
    }
}
