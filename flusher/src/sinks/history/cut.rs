//! Rows into blocks: a pure function of the log's bytes and of where the range ends.

use std::sync::Arc;

use buffer::frame::ReadingRef;
use foldhash::fast::RandomState;
use hashbrown::HashSet;
use model::DeviceKey;
use stores::{Block, BlockId, Column, ColumnData};

use super::columns::Columns;
use super::same::{self, Distinct};

/// A reading and its offset.
pub(crate) type Placed<'a> = (u64, ReadingRef<'a>);

/// A block and the offset of each of its rows.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Cut {
    pub(crate) block: Block,
    pub(crate) offsets: Vec<u64>,
}

/// Sorts by (time, seq, offset) and drops readings that are the [same](super::same) as an earlier
/// one. Returns how many were dropped.
pub(crate) fn sort_and_merge(rows: &mut Vec<Placed<'_>>) -> u64 {
    rows.sort_unstable_by_key(|(offset, r)| (r.time, r.seq, *offset));
    let before = rows.len();
    // A reading without a time of its own has a receive time, which no other has; one whose own
    // time was not used to order it stands elsewhere.
    Distinct::new().retain(rows, |reading| (reading.time, reading.seq), |reading| !reading.device_timed);
    drop_equal_claims(rows);
    (before - rows.len()) as u64
}

/// Readings whose device time was too far ahead are ordered by receive time, so equal ones do not
/// stand together.
fn drop_equal_claims(rows: &mut Vec<Placed<'_>>) {
    let is_claimed = |reading: &ReadingRef<'_>| !reading.device_timed && same::own_time(reading).is_some();
    let mut claims: Vec<Placed<'_>> = rows.iter().filter(|(_, r)| is_claimed(r)).copied().collect();
    if claims.len() < 2 {
        return;
    }
    claims.sort_unstable_by_key(|(offset, r)| (r.claimed_time, r.seq, *offset));
    let before = claims.len();
    Distinct::new().retain(&mut claims, |reading| (reading.claimed_time, reading.seq), |_| false);
    if claims.len() == before {
        return;
    }
    let kept: HashSet<u64, RandomState> = claims.iter().map(|(offset, _)| *offset).collect();
    rows.retain(|(offset, reading)| !is_claimed(reading) || kept.contains(offset));
}

/// Cuts settled rows into blocks, each of one time partition.
pub(crate) fn cut(log: &Arc<str>, device: &DeviceKey, rows: &[Placed<'_>], names: &mut Names) -> Vec<Cut> {
    rows.chunk_by(|a, b| partition_of(a.1.time) == partition_of(b.1.time))
        .flat_map(|rows| blocks(log, device, rows, names, &|_| true))
        .collect()
}

fn partition_of(time: i64) -> i64 {
    stores::block::partition_of(time)
}

/// Value names, each held once.
pub(crate) type Names = HashSet<Arc<str>, RandomState>;

/// Makes blocks of sorted rows, with the columns that `wanted` names: one, unless most of its rows
/// would have no value for most of its names.
pub(crate) fn blocks(
    log: &Arc<str>,
    device: &DeviceKey,
    mut rows: &[Placed<'_>],
    names: &mut Names,
    wanted: &impl Fn(&str) -> bool,
) -> Vec<Cut> {
    let mut cuts = Vec::new();
    while !rows.is_empty() {
        let columns = Columns::fill(rows, names, wanted);
        let (here, rest) = rows.split_at(columns.rows);
        let offsets = here.iter().map(|(offset, _)| *offset).collect();
        cuts.push(Cut { offsets, block: build(log, device, here, columns.finish()) });
        rows = rest;
    }
    cuts
}

fn build(log: &Arc<str>, device: &DeviceKey, rows: &[Placed<'_>], columns: Vec<Column>) -> Block {
    let readings = || rows.iter().map(|(_, r)| r);
    let optional = |any: bool| if any { rows.len() } else { 0 };
    Block {
        id: BlockId {
            device: device.clone(),
            log: Arc::clone(log),
            first_offset: rows.iter().map(|(offset, _)| *offset).min().unwrap_or(0),
            part: 0,
        },
        times: readings().map(|r| r.time).collect(),
        received: readings().map(|r| r.received).collect(),
        seqs: readings().map(|r| r.seq).take(optional(readings().any(|r| r.seq.is_some()))).collect(),
        claimed: readings()
            .map(|r| r.claimed_time)
            .take(optional(readings().any(|r| r.claimed_time.is_some())))
            .collect(),
        device_timed: readings().map(|r| r.device_timed).take(optional(!readings().all(|r| r.device_timed))).collect(),
        columns,
    }
}

/// Both halves of a block, `None` when it has one row. `part` of a half counts how often the block
/// was halved, so that neither half is taken for the whole, which was refused.
pub(crate) fn halve(cut: &Cut) -> Option<(Cut, Cut)> {
    let middle = cut.offsets.len() / 2;
    (middle > 0).then(|| (slice(cut, 0, middle), slice(cut, middle, cut.offsets.len())))
}

fn slice(cut: &Cut, from: usize, to: usize) -> Cut {
    let block = &cut.block;
    let offsets = cut.offsets[from..to].to_vec();
    let id = BlockId {
        first_offset: offsets.iter().copied().min().unwrap_or(0),
        part: block.id.part + 1,
        ..block.id.clone()
    };
    let columns = block.columns.iter().filter_map(|column| slice_column(column, from, to)).collect();
    let seqs = some_of(&block.seqs, from, to);
    let claimed = some_of(&block.claimed, from, to);
    let device_timed = block.device_timed.get(from..to).filter(|t| t.contains(&false)).unwrap_or_default().to_vec();
    let (times, received) = (block.times[from..to].to_vec(), block.received[from..to].to_vec());
    Cut { block: Block { id, times, received, seqs, claimed, device_timed, columns }, offsets }
}

fn some_of<T: Copy>(all: &[Option<T>], from: usize, to: usize) -> Vec<Option<T>> {
    all.get(from..to).filter(|some| some.iter().any(Option::is_some)).unwrap_or_default().to_vec()
}

fn slice_column(column: &Column, from: usize, to: usize) -> Option<Column> {
    let values_before = |row: usize| match column.present.get(..row) {
        Some(present) if !column.present.is_empty() => present.iter().filter(|p| **p).count(),
        _ => row,
    };
    let (first, last) = (values_before(from), values_before(to));
    if first == last {
        return None;
    }
    let data = match &column.data {
        ColumnData::Float(values) => ColumnData::Float(values[first..last].to_vec()),
        ColumnData::Int(values) => ColumnData::Int(values[first..last].to_vec()),
        ColumnData::Bool(values) => ColumnData::Bool(values[first..last].to_vec()),
        ColumnData::Str(values) => ColumnData::Str(values[first..last].to_vec()),
    };
    let present = column.present.get(from..to).filter(|p| p.contains(&false)).unwrap_or_default().to_vec();
    Some(Column { name: Arc::clone(&column.name), present, data })
}
