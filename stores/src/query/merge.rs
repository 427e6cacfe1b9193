//! Several blocks of a device as one.

use std::sync::Arc;

use model::{Kind, ValueRef};

use crate::block::{Block, Column, ColumnData};

/// One block with the rows of all, by time and sequence, equal readings once. It has the identity of the first. None of none.
///
/// Equal are readings with the same time, sequence and values to the last bit, when the time came from the device: a reading
/// without a time of its own has one that no other has.
pub fn merge_blocks(blocks: &[Block]) -> Option<Block> {
    let first = blocks.first()?;
    let readers: Vec<Reader<'_>> = blocks.iter().map(Reader::new).collect();
    let mut rows: Vec<(usize, usize)> =
        blocks.iter().enumerate().flat_map(|(b, block)| (0..block.times.len()).map(move |r| (b, r))).collect();
    // Stable: rows that are equal in both keep the order in which they came.
    rows.sort_by_key(|(b, r)| (blocks[*b].times[*r], seq(&blocks[*b], *r)));
    let mut kept: Vec<(usize, usize)> = Vec::with_capacity(rows.len());
    for (b, r) in rows {
        let block = &blocks[b];
        let key = (block.times[r], seq(block, r));
        let before = kept.iter().rev().take_while(|(pb, pr)| (blocks[*pb].times[*pr], seq(&blocks[*pb], *pr)) == key);
        let twin = timed(block, r) && before.into_iter().any(|(pb, pr)| equal(&readers[*pb], *pr, &readers[b], r));
        if !twin {
            kept.push((b, r));
        }
    }
    Some(gather(first, blocks, &readers, &kept))
}

fn seq(block: &Block, row: usize) -> Option<u64> {
    block.seqs.get(row).copied().flatten()
}

fn timed(block: &Block, row: usize) -> bool {
    block.device_timed.get(row).copied().unwrap_or(true)
}

/// A block whose values can be reached by row.
struct Reader<'a> {
    block: &'a Block,
    /// For each column with absent values, how many values stand before each row.
    ranks: Vec<Vec<u32>>,
}

impl<'a> Reader<'a> {
    fn new(block: &'a Block) -> Self {
        let rank = |column: &Column| {
            let mut before = 0;
            let count = |present: &bool| {
                before += u32::from(*present);
                before - u32::from(*present)
            };
            column.present.iter().map(count).collect()
        };
        Self { block, ranks: block.columns.iter().map(rank).collect() }
    }

    fn value(&self, column: usize, row: usize) -> Option<ValueRef<'a>> {
        let c = &self.block.columns[column];
        match c.present.get(row) {
            None => c.data.get(row),
            Some(false) => None,
            Some(true) => c.data.get(self.ranks[column][row] as usize),
        }
    }

    fn values(&self, row: usize) -> impl Iterator<Item = (&'a Arc<str>, ValueRef<'a>)> {
        let columns = self.block.columns.iter().enumerate();
        columns.filter_map(move |(i, column)| Some((&column.name, self.value(i, row)?)))
    }
}

fn equal(a: &Reader<'_>, ra: usize, b: &Reader<'_>, rb: usize) -> bool {
    let within = |x: &Reader<'_>, rx, y: &Reader<'_>, ry| {
        x.values(rx).all(|(name, value)| y.values(ry).any(|(n, v)| n == name && v.same(value)))
    };
    timed(a.block, ra) && within(a, ra, b, rb) && within(b, rb, a, ra)
}

fn gather(first: &Block, blocks: &[Block], readers: &[Reader<'_>], rows: &[(usize, usize)]) -> Block {
    let some = |any: &dyn Fn(&Block) -> bool| blocks.iter().any(any);
    let all = || rows.iter().map(|(b, r)| (&blocks[*b], *r));
    let mut names: Vec<(Arc<str>, Kind)> = Vec::new();
    for column in blocks.iter().flat_map(|b| &b.columns) {
        let key = (Arc::clone(&column.name), column.data.kind());
        if !names.contains(&key) {
            names.push(key);
        }
    }
    Block {
        id: first.id.clone(),
        times: all().map(|(b, r)| b.times[r]).collect(),
        received: all().map(|(b, r)| b.received[r]).collect(),
        seqs: if some(&|b| !b.seqs.is_empty()) { all().map(|(b, r)| seq(b, r)).collect() } else { Vec::new() },
        claimed: if some(&|b| !b.claimed.is_empty()) {
            all().map(|(b, r)| b.claimed.get(r).copied().flatten()).collect()
        } else {
            Vec::new()
        },
        device_timed: if some(&|b| !b.device_timed.is_empty()) {
            all().map(|(b, r)| timed(b, r)).collect()
        } else {
            Vec::new()
        },
        columns: names.into_iter().map(|(name, kind)| column(name, kind, readers, rows)).collect(),
    }
}

fn column(name: Arc<str>, kind: Kind, readers: &[Reader<'_>], rows: &[(usize, usize)]) -> Column {
    let places: Vec<Option<usize>> =
        readers.iter().map(|r| r.block.columns.iter().position(|c| c.name == name && c.data.kind() == kind)).collect();
    let values: Vec<Option<ValueRef<'_>>> =
        rows.iter().map(|(b, r)| places[*b].and_then(|c| readers[*b].value(c, *r))).collect();
    let present: Vec<bool> = values.iter().map(Option::is_some).collect();
    let there = values.into_iter().flatten();
    let data = match kind {
        Kind::Float => {
            ColumnData::Float(there.filter_map(|v| if let ValueRef::Float(v) = v { Some(v) } else { None }).collect())
        }
        Kind::Int => {
            ColumnData::Int(there.filter_map(|v| if let ValueRef::Int(v) = v { Some(v) } else { None }).collect())
        }
        Kind::Bool => {
            ColumnData::Bool(there.filter_map(|v| if let ValueRef::Bool(v) = v { Some(v) } else { None }).collect())
        }
        Kind::Str => ColumnData::Str(
            there.filter_map(|v| if let ValueRef::Str(v) = v { Some(v.into()) } else { None }).collect(),
        ),
    };
    Column { name, present: if present.iter().all(|p| *p) { Vec::new() } else { present }, data }
}
