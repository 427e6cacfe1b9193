//! Blocks into documents.
//!
//! ```text
//! _id   log # first offset (16 hexadecimal digits) # part # tenant # device
//! w, d  tenant, device          t0, t1  first and last time        n  rows
//! b     bytes of the readings, as storage is counted; absent in blocks of earlier releases
//! l     true when the block covers more than ten minutes, else absent
//! t, r  times and receive times, ns since 1970, one per row
//! s, c  sequences, device times too far ahead to be used; null where a row has none, absent when none has
//! o     false where the time is not the device's own; absent when it always is
//! v     value name → one value per row, null where a row has none; the type of each value as sent
//! ```
//! The key begins with log and offset, so that its index grows at its end. Neither a tenant nor a
//! device contains `#`. Sequences from 2^63 on are negative. Names are encoded by
//! [`names`](super::names).

use std::collections::HashMap;

use model::Nanos;
use mongodb::bson::RawDocumentBuf;

use super::names;
use super::writer::Writer;
use crate::block::{Block, BlockId, Column, ColumnData};

/// A block that covers more time than this is marked, so that long blocks that reach into a range
/// are found without reading all that begin before it.
pub(super) const LONG: Nanos = 600 * model::time::SECOND;

/// Returns the key of a block.
pub(super) fn id(id: &BlockId) -> String {
    let BlockId { device, log, first_offset, part } = id;
    format!("{log}#{first_offset:016x}#{part}#{}#{}", device.tenant, device.id)
}

/// Returns the document of a block that has rows.
pub(super) fn encode(block: &Block) -> RawDocumentBuf {
    let (first, last) = (block.times[0], block.times[block.times.len() - 1]);
    Writer::document(|w| {
        w.text("_id", &id(&block.id));
        w.text("w", &block.id.device.tenant);
        w.text("d", &block.id.device.id);
        w.long("t0", first);
        w.long("t1", last);
        w.int("n", i32::try_from(block.times.len()).expect("a block has fewer than 2^31 rows"));
        w.long("b", i64::try_from(block.size()).unwrap_or(i64::MAX));
        if last.saturating_sub(first) > LONG {
            w.boolean("l", true);
        }
        w.array("t", |w| block.times.iter().enumerate().for_each(|(i, t)| w.long(i, *t)));
        w.array("r", |w| block.received.iter().enumerate().for_each(|(i, t)| w.long(i, *t)));
        if !block.seqs.is_empty() {
            let seqs = block.seqs.iter().map(|s| s.map(u64::cast_signed)).enumerate();
            w.array("s", |w| seqs.for_each(|(i, s)| w.optional_long(i, s)));
        }
        if !block.claimed.is_empty() {
            w.array("c", |w| block.claimed.iter().enumerate().for_each(|(i, t)| w.optional_long(i, *t)));
        }
        if !block.device_timed.is_empty() {
            w.array("o", |w| block.device_timed.iter().enumerate().for_each(|(i, own)| w.boolean(i, *own)));
        }
        w.nested("v", |w| values(w, block));
    })
}

/// Columns of one name share a field as long as no row has a value in two of them.
fn values(w: &mut Writer, block: &Block) {
    let rows = block.times.len();
    let mut done = vec![false; block.columns.len()];
    let mut same: HashMap<&str, Vec<usize>> = HashMap::with_capacity(block.columns.len());
    for (at, column) in block.columns.iter().enumerate() {
        same.entry(&column.name).or_default().push(at);
    }
    for (at, column) in block.columns.iter().enumerate() {
        if done[at] {
            continue;
        }
        if column.data.is_empty() {
            w.array(&*names::field_of_kind(&column.name, column.data.kind()), |w| (0..rows).for_each(|i| w.null(i)));
            continue;
        }
        let mut shared = vec![column];
        for &other in same[&*column.name].iter().filter(|other| **other > at) {
            let more = &block.columns[other];
            if more.data.is_empty() {
                continue;
            }
            done[other] = true;
            if shared.iter().any(|held| meet(held, more, rows)) {
                let field = names::field_of_kind(&more.name, more.data.kind());
                w.array(&*field, |w| write(w, &[more], rows));
            } else {
                shared.push(more);
            }
        }
        w.array(&*names::field(&column.name), |w| write(w, &shared, rows));
    }
}

fn meet(a: &Column, b: &Column, rows: usize) -> bool {
    let has = |column: &Column, row: usize| column.present.get(row).copied().unwrap_or(true);
    (0..rows).any(|row| has(a, row) && has(b, row))
}

fn write(w: &mut Writer, columns: &[&Column], rows: usize) {
    if let [column] = columns
        && column.present.is_empty()
    {
        (0..rows).for_each(|row| put(w, row, &column.data, row));
        return;
    }
    let mut next = vec![0; columns.len()];
    for row in 0..rows {
        match columns.iter().position(|column| column.present[row]) {
            Some(at) => {
                put(w, row, &columns[at].data, next[at]);
                next[at] += 1;
            }
            None => w.null(row),
        }
    }
}

fn put(w: &mut Writer, row: usize, data: &ColumnData, at: usize) {
    match data {
        ColumnData::Float(values) => w.double(row, values[at]),
        ColumnData::Int(values) => w.long(row, values[at]),
        ColumnData::Bool(values) => w.boolean(row, values[at]),
        ColumnData::Str(values) => w.text(row, &values[at]),
    }
}
