//! The sink: an open table that fills, and the closed one that is being written.

use std::sync::Arc;

use async_trait::async_trait;
use buffer::frame::Frame;
use model::Nanos;
use parking_lot::Mutex;
use stores::Block;
use stores::contract::{Deadletter, Points};

use super::place;
use crate::history::cut::{self, Cut, Names};
use crate::history::letter;
use crate::history::memtable::Memtable;
use crate::history::sink::{count_hours, part_bounds};
use crate::sink::{Blame, Load, Part, Sink, Tallies, tally};

/// Readings that are cut and written at a time.
const PART_READINGS: usize = 50_000;

pub(crate) struct PointsSink {
    log: Arc<str>,
    store: Arc<dyn Points>,
    separate: bool,
    tables: Mutex<Tables>,
}

#[derive(Default)]
struct Tables {
    open: Memtable,
    closed_bytes: u64,
}

/// A device's readings and their places within their milliseconds.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    cut: Cut,
    places: Vec<Option<u64>>,
}

impl Item {
    /// The block as the store tells its rows apart.
    fn into_block(self) -> Block {
        let seqs = if self.places.iter().any(Option::is_some) { self.places } else { Vec::new() };
        Block { seqs, ..self.cut.block }
    }
}

impl PointsSink {
    /// A sink of one log. `separate`: see [`crate::config::Points::separate_equal_times`].
    pub(crate) fn new(log: &str, store: Arc<dyn Points>, separate: bool) -> Self {
        Self { log: log.into(), store, separate, tables: Mutex::default() }
    }
}

#[async_trait]
impl Sink for PointsSink {
    type Batch = Memtable;
    type Item = Item;

    fn seals(&self) -> bool {
        false
    }

    fn take(&self, frame: &Frame, from: u64, to: u64) {
        self.tables.lock().open.take(frame, from, to);
    }

    fn load(&self) -> Load {
        let tables = self.tables.lock();
        let open_bytes = tables.open.bytes();
        Load { records: tables.open.readings(), bytes: open_bytes + tables.closed_bytes, open_bytes }
    }

    fn close(&self) -> Memtable {
        let mut tables = self.tables.lock();
        tables.closed_bytes = tables.open.bytes();
        std::mem::take(&mut tables.open)
    }

    fn cut(&self, batch: &Memtable, index: usize) -> Option<Part<Item>> {
        let (from, to) = part_bounds(batch, index, PART_READINGS)?;
        let mut part = Part::begin(if index == 0 { batch.passed().clone() } else { Tallies::new() });
        let mut names = Names::default();
        for held in &batch.devices()[from..to] {
            let mut rows: Vec<_> = held.rows.iter().map(|row| (row.offset, batch.reading(row))).collect();
            let merged = cut::settle(&mut rows);
            let counts = tally(&mut part.tallies, &held.device.tenant);
            counts.merged += merged;
            counts.stored += rows.len() as u64;
            count_hours(&mut part.hours, &held.device.tenant, &rows);
            let block = cut::build(&self.log, &held.device, &rows, 0, &mut names, |_| true);
            let offsets = rows.iter().map(|(offset, _)| *offset).collect();
            part.items.push(Item { places: place::places(&rows, self.separate), cut: Cut { block, offsets } });
        }
        Some(part)
    }

    async fn write(&self, items: Vec<Item>) -> stores::contract::Result<()> {
        self.store.write(items.into_iter().map(Item::into_block).collect()).await
    }

    async fn sync(&self) -> stores::contract::Result<()> {
        // Durable when the write returned.
        Ok(())
    }

    fn halve(&self, item: &Item) -> Option<(Item, Item)> {
        let (first, second) = cut::halve(&item.cut)?;
        let (left, right) = item.places.split_at(first.offsets.len());
        Some((Item { cut: first, places: left.to_vec() }, Item { cut: second, places: right.to_vec() }))
    }

    fn blame(&self, item: &Item, reason: &str) -> Blame {
        let block = &item.cut.block;
        Blame::Letter(Box::new(Deadletter {
            log: Arc::clone(&self.log),
            offset: block.id.first_offset,
            tenant: Arc::clone(&block.id.device.tenant),
            device: Some(Arc::clone(&block.id.device.id)),
            client: String::new(),
            topic: String::new(),
            payload: letter::payload(block),
            received: block.received.first().copied().unwrap_or_default(),
            stage: crate::POINTS.to_owned(),
            reason: reason.to_owned(),
            replayed: None,
        }))
    }

    fn time_of(&self, item: &Item) -> Option<Nanos> {
        item.cut.block.times.first().copied()
    }

    fn finish(&self, _: u64) {
        self.tables.lock().closed_bytes = 0;
    }
}
