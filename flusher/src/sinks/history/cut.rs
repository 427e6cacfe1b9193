//! Rows into blocks: a pure function of the log's bytes and of where the range ends.

use std::sync::Arc;

use buffer::frame::ReadingRef;
use foldhash::fast::RandomState;
use hashbrown::{HashMap, HashSet};
use model::{DeviceKey, Kind, ValueRef};
use stores::{Block, BlockId, Column, ColumnData};

/// A reading and its offset.
pub(crate) type Placed<'a> = (u64, ReadingRef<'a>);

/// A block and the offset of each of its rows.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Cut {
    pub(crate) block: Block,
    pub(crate) offsets: Vec<u64>,
}

/// Sorts by (time, seq, offset) and drops readings that are equal to an earlier one. Returns how
/// many were dropped.
pub(crate) fn sort_and_merge(rows: &mut Vec<Placed<'_>>) -> u64 {
    rows.sort_unstable_by_key(|(offset, r)| (r.time, r.seq, *offset));
    let before = rows.len();
    // Of a run with one time and sequence, at most a few are there: compare each with those kept of
    // its run.
    let mut kept: usize = 0;
    let mut run: usize = 0;
    for at in 0..rows.len() {
        let row = rows[at];
        if kept == 0 || key(&rows[kept - 1]) != key(&row) {
            run = kept;
        }
        if !rows[run..kept].iter().any(|held| equal(&held.1, &row.1)) {
            rows[kept] = row;
            kept += 1;
        }
    }
    rows.truncate(kept);
    drop_equal_claims(rows);
    (before - rows.len()) as u64
}

fn key(row: &Placed<'_>) -> (i64, Option<u64>) {
    (row.1.time, row.1.seq)
}

/// One and the same reading, sent twice. Without a device time two equal messages are two readings.
fn equal(a: &ReadingRef<'_>, b: &ReadingRef<'_>) -> bool {
    a.device_timed && b.device_timed && same_message(a, b)
}

fn same_message(a: &ReadingRef<'_>, b: &ReadingRef<'_>) -> bool {
    a.identity == b.identity && a.seq == b.seq && a.schema == b.schema && a.value_bytes() == b.value_bytes()
}

/// Readings whose device time was too far ahead are ordered by receive time, so equal ones do not
/// stand together.
fn drop_equal_claims(rows: &mut Vec<Placed<'_>>) {
    if rows.iter().filter(|(_, r)| r.claimed_time.is_some()).count() < 2 {
        return;
    }
    let mut seen: HashMap<(i64, u64), Vec<ReadingRef<'_>>, RandomState> = HashMap::default();
    rows.retain(|(_, reading)| {
        let Some(claimed) = reading.claimed_time else { return true };
        let held = seen.entry((claimed, reading.identity)).or_default();
        let is_new = !held.iter().any(|h| same_message(h, reading));
        if is_new {
            held.push(*reading);
        }
        is_new
    });
}

/// Cuts settled rows into one block for each time partition.
pub(crate) fn cut(log: &Arc<str>, device: &DeviceKey, rows: &[Placed<'_>], names: &mut Names) -> Vec<Cut> {
    rows.chunk_by(|a, b| partition_of(a.1.time) == partition_of(b.1.time))
        .map(|rows| Cut {
            offsets: rows.iter().map(|(offset, _)| *offset).collect(),
            block: build(log, device, rows, 0, names, |_| true),
        })
        .collect()
}

fn partition_of(time: i64) -> i64 {
    stores::block::partition_of(time)
}

/// Value names, each held once.
pub(crate) type Names = HashSet<Arc<str>, RandomState>;

fn intern(names: &mut Names, name: &str) -> Arc<str> {
    Arc::clone(names.get_or_insert_with(name, |name| name.into()))
}

/// Builds a block of sorted rows, with the columns that `wanted` names.
pub(crate) fn build(
    log: &Arc<str>,
    device: &DeviceKey,
    rows: &[Placed<'_>],
    part: u16,
    names: &mut Names,
    wanted: impl Fn(&str) -> bool,
) -> Block {
    let mut columns = Columns { rows: rows.len(), open: Vec::new() };
    for (row, (_, reading)) in rows.iter().enumerate() {
        for (hint, (name, value)) in reading.values().enumerate() {
            if wanted(name) {
                columns.put(row, hint, name, value, names);
            }
        }
    }
    let readings = || rows.iter().map(|(_, r)| r);
    let optional = |any: bool| if any { rows.len() } else { 0 };
    Block {
        id: BlockId {
            device: device.clone(),
            log: Arc::clone(log),
            first_offset: rows.iter().map(|(offset, _)| *offset).min().unwrap_or(0),
            part,
        },
        times: readings().map(|r| r.time).collect(),
        received: readings().map(|r| r.received).collect(),
        seqs: readings().map(|r| r.seq).take(optional(readings().any(|r| r.seq.is_some()))).collect(),
        claimed: readings()
            .map(|r| r.claimed_time)
            .take(optional(readings().any(|r| r.claimed_time.is_some())))
            .collect(),
        device_timed: readings().map(|r| r.device_timed).take(optional(!readings().all(|r| r.device_timed))).collect(),
        columns: columns.finish(),
    }
}

struct Columns {
    rows: usize,
    open: Vec<OpenColumn>,
}

struct OpenColumn {
    name: Arc<str>,
    /// Rows that have a value, ascending.
    rows: Vec<u32>,
    data: ColumnData,
}

impl Columns {
    fn put(&mut self, row: usize, hint: usize, name: &str, value: ValueRef<'_>, names: &mut Names) {
        let row = u32::try_from(row).expect("a block has fewer than 2^32 rows");
        let fits = |c: &OpenColumn| c.data.kind() == value.kind() && &*c.name == name;
        let place = match self.open.get(hint) {
            Some(column) if fits(column) => Some(hint),
            _ => self.open.iter().position(fits),
        };
        let place = place.unwrap_or_else(|| {
            let data = empty(value.kind());
            self.open.push(OpenColumn { name: intern(names, name), rows: Vec::new(), data });
            self.open.len() - 1
        });
        let column = &mut self.open[place];
        if column.rows.last() == Some(&row) {
            // A name that stands twice in one reading: the last one counts.
            column.rows.pop();
            truncate(&mut column.data, column.rows.len());
        }
        column.rows.push(row);
        push(&mut column.data, value);
    }

    fn finish(self) -> Vec<Column> {
        let all = self.rows;
        let mut columns: Vec<Column> = self
            .open
            .into_iter()
            .map(|open| {
                let mut present = Vec::new();
                if open.rows.len() < all {
                    present.resize(all, false);
                    open.rows.iter().for_each(|row| present[*row as usize] = true);
                }
                Column { name: open.name, present, data: open.data }
            })
            .collect();
        columns.sort_by(|a, b| (&a.name, a.data.kind()).cmp(&(&b.name, b.data.kind())));
        columns
    }
}

fn empty(kind: Kind) -> ColumnData {
    match kind {
        Kind::Float => ColumnData::Float(Vec::new()),
        Kind::Int => ColumnData::Int(Vec::new()),
        Kind::Bool => ColumnData::Bool(Vec::new()),
        Kind::Str => ColumnData::Str(Vec::new()),
    }
}

fn push(data: &mut ColumnData, value: ValueRef<'_>) {
    match (data, value) {
        (ColumnData::Float(values), ValueRef::Float(v)) => values.push(v),
        (ColumnData::Int(values), ValueRef::Int(v)) => values.push(v),
        (ColumnData::Bool(values), ValueRef::Bool(v)) => values.push(v),
        (ColumnData::Str(values), ValueRef::Str(v)) => values.push(v.into()),
        _ => unreachable!("a column holds one kind"),
    }
}

fn truncate(data: &mut ColumnData, length: usize) {
    match data {
        ColumnData::Float(values) => values.truncate(length),
        ColumnData::Int(values) => values.truncate(length),
        ColumnData::Bool(values) => values.truncate(length),
        ColumnData::Str(values) => values.truncate(length),
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
