//! The sink: an open memtable that fills, and the sealed one that is being written.

use std::sync::Arc;

use async_trait::async_trait;
use buffer::frame::Frame;
use model::{DeviceKey, Nanos, TimeRange};
use parking_lot::Mutex;
use stores::contract::{Deadletter, History};

use super::cut::{self, Cut, Names};
use super::memtable::{Memtable, Row};
use super::recent::{self, Recent};
use crate::sink::{Blame, HourTallies, Load, Part, Sink, Tallies, hour_of, tally};

/// Readings that are cut and written at a time.
const PART_READINGS: usize = 131_072;

pub(crate) struct HistorySink {
    log: Arc<str>,
    store: Arc<dyn History>,
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

/// What is not in the store yet, of one device.
pub(crate) struct Unflushed {
    pub(crate) rows: Vec<(Frame, Row)>,
    /// Every record of the log below this offset is among the rows or in the store.
    pub(crate) taken_to: u64,
}

impl HistorySink {
    /// Of a log whose records below `done_to` are stored, the last of which are `recent`.
    pub(crate) fn new(log: &str, store: Arc<dyn History>, done_to: u64, recent: Recent) -> Self {
        let tables = Tables { taken_to: done_to, ..Tables::default() };
        store.done(log, done_to);
        Self { log: log.into(), store, tables: Mutex::new(tables), recent: Mutex::new(recent) }
    }

    /// Name of the log.
    pub(crate) fn log(&self) -> &Arc<str> {
        &self.log
    }

    /// The rows of a device in `range` that are not in the store yet, as far as they were taken.
    pub(crate) fn unflushed(&self, device: &DeviceKey, range: TimeRange) -> Unflushed {
        let tables = self.tables.lock();
        let mut rows = tables.sealed.as_ref().map_or_else(Vec::new, |sealed| sealed.select(device, range));
        rows.append(&mut tables.open.select(device, range));
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
        let (from, to) = part_bounds(batch, index, PART_READINGS)?;
        let recent = self.recent.lock();
        let mut part = Part::begin(if index == 0 { batch.passed().clone() } else { Tallies::new() });
        let mut names = Names::default();
        for held in &batch.devices()[from..to] {
            let mut rows: Vec<_> = held.rows.iter().map(|row| (row.offset, batch.reading(row))).collect();
            let seed = recent::seed(&held.device);
            rows.retain(|(_, reading)| !recent.knows(seed, reading));
            cut::settle(&mut rows);
            let merged = (held.rows.len() - rows.len()) as u64;
            let counts = tally(&mut part.tallies, &held.device.tenant);
            counts.merged += merged;
            counts.stored += rows.len() as u64;
            count_hours(&mut part.hours, &held.device.tenant, &rows);
            part.items.append(&mut cut::cut(&self.log, &held.device, &rows, &mut names));
        }
        Some(part)
    }

    async fn write(&self, items: Vec<Cut>) -> stores::contract::Result<()> {
        self.store.write(items.into_iter().map(|cut| cut.block).collect()).await
    }

    async fn sync(&self) -> stores::contract::Result<()> {
        self.store.sync().await
    }

    fn halve(&self, item: &Cut) -> Option<(Cut, Cut)> {
        cut::halve(item)
    }

    fn blame(&self, item: &Cut, reason: &str) -> Blame {
        let block = &item.block;
        Blame::Letter(Box::new(Deadletter {
            log: Arc::clone(&self.log),
            offset: block.id.first_offset,
            tenant: Arc::clone(&block.id.device.tenant),
            device: Some(Arc::clone(&block.id.device.id)),
            client: String::new(),
            topic: String::new(),
            payload: super::letter::payload(block),
            received: block.received.first().copied().unwrap_or_default(),
            stage: crate::HISTORY.to_owned(),
            reason: reason.to_owned(),
            replayed: None,
        }))
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

/// Counts rows, sorted by time, by their hours.
pub(crate) fn count_hours(hours: &mut HourTallies, tenant: &str, rows: &[cut::Placed<'_>]) {
    for same in rows.chunk_by(|a, b| hour_of(a.1.time) == hour_of(b.1.time)) {
        let held = match hours.get_mut(tenant) {
            Some(held) => held,
            None => hours.entry(tenant.to_owned()).or_default(),
        };
        // All of them: what is kept is decided when they join the cursor.
        *held.entry(hour_of(same[0].1.time)).or_default() += same.len() as u64;
    }
}

/// The devices of part `index`: as many as make about `most` readings, at least one. The first part is there even
/// when it is empty, for the records that are no readings.
pub(crate) fn part_bounds(table: &Memtable, index: usize, most: usize) -> Option<(usize, usize)> {
    let devices = table.devices();
    let mut from = 0;
    for part in 0.. {
        let mut readings = 0;
        let mut to = from;
        while to < devices.len() && (to == from || readings + devices[to].rows.len() <= most) {
            readings += devices[to].rows.len();
            to += 1;
        }
        if part == index {
            return (part == 0 || from < to).then_some((from, to));
        }
        if from == to {
            return None;
        }
        from = to;
    }
    None
}
