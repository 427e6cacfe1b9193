//! Rows as columns.

use std::sync::Arc;

use model::{Kind, ValueRef};
use proto::v1;
use proto::v1::column::Values;

use super::merge::{RowAt, Slice};
use crate::convert;

/// Detail of each row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Details {
    /// Time and values.
    No,
    /// Every field.
    Yes,
}

/// Number of `rows` that fill about `budget` bytes as columns, at least one unless there are none;
/// and their bytes.
pub(crate) fn take_rows(slice: &Slice, rows: &[RowAt], budget: usize) -> (usize, usize) {
    let mut seen = vec![false; slice.columns().len()];
    // Bytes of the rows, and of the names; each column has a bit for each row.
    let (mut bytes, mut names, mut columns) = (0, 0, 0);
    let mut total = 0;
    for (i, at) in rows.iter().enumerate() {
        bytes += 16;
        for (column, value) in slice.cells(*at) {
            bytes += value_bytes(value);
            if !std::mem::replace(&mut seen[column], true) {
                names += slice.columns()[column].0.len() + 16;
                columns += 1;
            }
        }
        let with_row = bytes + names + columns * (i + 1) / 8;
        if i > 0 && with_row > budget {
            return (i, total);
        }
        total = with_row;
    }
    (rows.len(), total)
}

fn value_bytes(value: ValueRef<'_>) -> usize {
    match value {
        ValueRef::Float(_) => 8,
        ValueRef::Int(_) => 5,
        ValueRef::Bool(_) => 1,
        ValueRef::Str(text) => text.len() + 3,
    }
}

/// Converts rows in ascending order into one chunk of `device`, a resource name.
pub(crate) fn chunk(slice: &Slice, rows: &[RowAt], device: &str, details: Details) -> v1::ReadingChunk {
    let base = rows.first().map_or(0, |at| slice.time(*at));
    let mut before = base;
    let mut chunk = v1::ReadingChunk {
        device: device.to_owned(),
        base_time_unix_nanos: base,
        time_deltas_nanos: Vec::with_capacity(rows.len()),
        ..Default::default()
    };
    let mut builder = Builder { rows: rows.len(), places: vec![None; slice.columns().len()], columns: Vec::new() };
    for (row, at) in rows.iter().enumerate() {
        let time = slice.time(*at);
        chunk.time_deltas_nanos.push(time.wrapping_sub(before));
        before = time;
        for (column, value) in slice.cells(*at) {
            builder.add(column, &slice.columns()[column].0, value, row);
        }
    }
    chunk.columns = builder.finish();
    if details == Details::Yes {
        add_details(&mut chunk, slice, rows);
    }
    chunk
}

fn add_details(chunk: &mut v1::ReadingChunk, slice: &Slice, rows: &[RowAt]) {
    let row_number = |row: usize| u32::try_from(row).expect("a chunk has fewer than 2^32 rows");
    chunk.ingest_delays_nanos = rows.iter().map(|at| slice.received(*at).wrapping_sub(slice.time(*at))).collect();
    if rows.iter().any(|at| slice.sequence(*at).is_some()) {
        let plus_one = |at: &RowAt| slice.sequence(*at).map_or(0, |seq| seq.saturating_add(1));
        chunk.sequences_plus_one = rows.iter().map(plus_one).collect();
    }
    for (row, at) in rows.iter().enumerate() {
        if !slice.device_timed(*at) {
            chunk.untimed_rows.push(row_number(row));
        }
        if let Some(claimed) = slice.claimed(*at) {
            let claimed_time = Some(convert::timestamp(claimed));
            chunk.claimed_times.push(v1::reading_chunk::ClaimedTime { row: row_number(row), claimed_time });
        }
    }
}

/// Collects values into columns, one for each name and type, in order of first appearance.
struct Builder {
    rows: usize,
    /// For each column of the slice, its place here.
    places: Vec<Option<usize>>,
    columns: Vec<Building>,
}

struct Building {
    metric: Arc<str>,
    present: Vec<u8>,
    count: usize,
    values: Values,
}

impl Builder {
    fn add(&mut self, column: usize, name: &Arc<str>, value: ValueRef<'_>, row: usize) {
        let place = self.places[column].unwrap_or_else(|| self.open(column, name, value.kind()));
        let column = &mut self.columns[place];
        column.present[row / 8] |= 1 << (row % 8);
        column.count += 1;
        match (&mut column.values, value) {
            (Values::Doubles(c), ValueRef::Float(v)) => c.values.push(v),
            (Values::Ints(c), ValueRef::Int(v)) => c.values.push(v),
            (Values::Bools(c), ValueRef::Bool(v)) => c.values.push(v),
            (Values::Strings(c), ValueRef::Str(v)) => c.values.push(v.to_owned()),
            _ => unreachable!("columns are looked up by type"),
        }
    }

    fn open(&mut self, column: usize, name: &Arc<str>, kind: Kind) -> usize {
        let values = match kind {
            Kind::Float => Values::Doubles(v1::DoubleColumn::default()),
            Kind::Int => Values::Ints(v1::IntColumn::default()),
            Kind::Bool => Values::Bools(v1::BoolColumn::default()),
            Kind::Str => Values::Strings(v1::StringColumn::default()),
        };
        let present = vec![0; self.rows.div_ceil(8)];
        self.columns.push(Building { metric: Arc::clone(name), present, count: 0, values });
        self.places[column] = Some(self.columns.len() - 1);
        self.columns.len() - 1
    }

    fn finish(self) -> Vec<v1::Column> {
        let column = |c: Building| v1::Column {
            metric: c.metric.to_string(),
            present: if c.count == self.rows { Vec::new() } else { c.present },
            values: Some(c.values),
        };
        self.columns.into_iter().map(column).collect()
    }
}
