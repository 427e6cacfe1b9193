//! Several blocks of a device as one.

use std::sync::Arc;

use model::{Kind, ValueRef};

use super::same::{BlockRows, same_reading};
use crate::block::{Block, Column, ColumnData};

type Rows<'a> = BlockRows<&'a Block>;

/// Returns one block with the rows of all, by time and sequence, the [same](super::same_reading)
/// reading once. It has the identity of the first. `None` without blocks.
pub fn merge_blocks(blocks: &[Block]) -> Option<Block> {
    let first = blocks.first()?;
    let readers: Vec<Rows<'_>> = blocks.iter().map(BlockRows::new).collect();
    let mut rows: Vec<(usize, usize)> =
        blocks.iter().enumerate().flat_map(|(b, block)| (0..block.times.len()).map(move |r| (b, r))).collect();
    let moment = |(b, r): (usize, usize)| (blocks[b].times[r], readers[b].sequence(r));
    // Stable: rows that are equal in both keep their order.
    rows.sort_by_key(|row| moment(*row));
    let mut kept: Vec<(usize, usize)> = Vec::with_capacity(rows.len());
    for row in rows {
        let mut before = kept.iter().rev().take_while(|held| moment(**held) == moment(row));
        if !before.any(|(b, r)| same_reading((&readers[*b], *r), (&readers[row.0], row.1))) {
            kept.push(row);
        }
    }
    Some(gather(first, blocks, &readers, &kept))
}

fn gather(first: &Block, blocks: &[Block], readers: &[Rows<'_>], rows: &[(usize, usize)]) -> Block {
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
        seqs: if some(&|b| !b.seqs.is_empty()) {
            rows.iter().map(|(b, r)| readers[*b].sequence(*r)).collect()
        } else {
            Vec::new()
        },
        claimed: if some(&|b| !b.claimed.is_empty()) {
            all().map(|(b, r)| b.claimed.get(r).copied().flatten()).collect()
        } else {
            Vec::new()
        },
        device_timed: if some(&|b| !b.device_timed.is_empty()) {
            rows.iter().map(|(b, r)| readers[*b].device_timed(*r)).collect()
        } else {
            Vec::new()
        },
        columns: names.into_iter().map(|(name, kind)| column(name, kind, readers, rows)).collect(),
    }
}

fn column(name: Arc<str>, kind: Kind, readers: &[Rows<'_>], rows: &[(usize, usize)]) -> Column {
    let places: Vec<Option<usize>> = readers
        .iter()
        .map(|r| r.block().columns.iter().position(|c| c.name == name && c.data.kind() == kind))
        .collect();
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
