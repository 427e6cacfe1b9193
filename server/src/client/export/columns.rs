//! The columns of an export, and chunks read by them.

use std::collections::{BTreeMap, BTreeSet};

use proto::v1::column::Values;
use proto::v1::{Column, ReadingChunk};

/// Columns of every reading.
pub(super) const FIXED: [&str; 4] = ["device", "time", "received", "seq"];

/// The type of a column, in the order of precedence for the plain name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Type {
    Double,
    Int,
    Bool,
    Text,
}

/// The names and types found so far.
#[derive(Debug, Default)]
pub(super) struct Columns {
    types: BTreeMap<String, BTreeSet<Type>>,
    rows: u64,
}

/// A column of the output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Output {
    /// Name of the column.
    pub(super) name: String,
    /// Name of its values.
    pub(super) metric: String,
    /// Type of its values.
    pub(super) kind: Type,
}

impl Columns {
    /// Adds the columns of a chunk.
    pub(super) fn note(&mut self, chunk: &ReadingChunk) {
        self.rows += chunk.time_deltas_nanos.len() as u64;
        for column in &chunk.columns {
            let Some(kind) = kind(column) else { continue };
            match self.types.get_mut(&column.metric) {
                Some(types) => types.insert(kind),
                None => self.types.entry(column.metric.clone()).or_default().insert(kind),
            };
        }
    }

    /// Number of readings added.
    pub(super) fn rows(&self) -> u64 {
        self.rows
    }

    /// Names of the values, in order.
    pub(super) fn metrics(&self) -> impl Iterator<Item = &str> {
        self.types.keys().map(String::as_str)
    }

    /// Returns one column for each name and type. A name with one type is the name of the column.
    /// With several types, the first of double, integer, boolean and text gets the plain name, and
    /// the others `name_int`, `name_bool` and `name_text`. A name already in use gets `_` appended.
    pub(super) fn typed(&self) -> Vec<Output> {
        let mut taken: BTreeSet<String> = FIXED.iter().map(|name| (*name).to_owned()).collect();
        // Plain names first, so that a name with a suffix never displaces the name of a metric.
        let mut outputs: Vec<Output> = Vec::new();
        for first in [true, false] {
            for (metric, types) in &self.types {
                let range = if first { 0..1 } else { 1..types.len() };
                for kind in types.iter().skip(range.start).take(range.len()) {
                    let mut name = if first { metric.clone() } else { format!("{metric}_{}", suffix(*kind)) };
                    while !taken.insert(name.clone()) {
                        name.push('_');
                    }
                    outputs.push(Output { name, metric: metric.clone(), kind: *kind });
                }
            }
        }
        outputs.sort_by(|a, b| (&a.metric, a.kind).cmp(&(&b.metric, b.kind)));
        outputs
    }
}

fn suffix(kind: Type) -> &'static str {
    match kind {
        Type::Double => "double",
        Type::Int => "int",
        Type::Bool => "bool",
        Type::Text => "text",
    }
}

/// Returns the type of a column of a chunk.
pub(super) fn kind(column: &Column) -> Option<Type> {
    Some(match column.values.as_ref()? {
        Values::Doubles(_) => Type::Double,
        Values::Ints(_) => Type::Int,
        Values::Bools(_) => Type::Bool,
        Values::Strings(_) => Type::Text,
    })
}

/// True when a row has a value in the column.
pub(super) fn is_present(column: &Column, row: usize) -> bool {
    column.present.is_empty() || column.present.get(row / 8).is_some_and(|byte| byte >> (row % 8) & 1 == 1)
}

/// Iterates over time, receive time and sequence of each row.
pub(super) fn rows(chunk: &ReadingChunk) -> impl Iterator<Item = (i64, i64, Option<u64>)> {
    let mut time = chunk.base_time_unix_nanos;
    chunk.time_deltas_nanos.iter().enumerate().map(move |(row, delta)| {
        time = time.wrapping_add(*delta);
        let received = time.wrapping_add(chunk.ingest_delays_nanos.get(row).copied().unwrap_or(0));
        let seq = chunk.sequences_plus_one.get(row).and_then(|s| s.checked_sub(1));
        (time, received, seq)
    })
}

#[cfg(test)]
mod tests {
    use proto::v1::{DoubleColumn, IntColumn};

    use super::*;

    fn column(metric: &str, values: Values) -> Column {
        Column { metric: metric.into(), present: Vec::new(), values: Some(values) }
    }

    #[test]
    fn a_name_with_two_types_gets_two_columns_and_displaces_no_other_name() {
        let ints = || Values::Ints(IntColumn::default());
        let doubles = || Values::Doubles(DoubleColumn::default());
        let mut columns = Columns::default();
        columns.note(&ReadingChunk {
            columns: vec![column("t", ints()), column("t", doubles()), column("t_int", ints()), column("time", ints())],
            ..Default::default()
        });
        let names: Vec<String> = columns.typed().into_iter().map(|o| o.name).collect();
        assert_eq!(names, ["t", "t_int_", "t_int", "time_"]);
    }

    #[test]
    fn presence_is_read_bit_by_bit_from_the_least() {
        let mut sparse = column("x", Values::Ints(IntColumn::default()));
        sparse.present = vec![0b0000_0101, 0b1];
        let rows: Vec<usize> = (0..10).filter(|row| is_present(&sparse, *row)).collect();
        assert_eq!(rows, [0, 2, 8]);
    }
}
