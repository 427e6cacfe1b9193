//! The columns of a block while it is filled, row by row.

use std::hash::BuildHasher;
use std::sync::Arc;

use buffer::frame::ReadingRef;
use foldhash::fast::RandomState;
use hashbrown::HashTable;
use model::{Kind, ValueRef};
use stores::block::is_sparse;
use stores::{Column, ColumnData};

use super::cut::{Names, Placed};

/// A value of a row and its column, if that is there.
type Found<'a> = (Option<usize>, &'a str, ValueRef<'a>);

/// Columns with the values of the first rows.
pub(super) struct Columns<'n> {
    pub(super) rows: usize,
    values: usize,
    open: Vec<OpenColumn>,
    index: HashTable<u32>,
    hasher: RandomState,
    names: &'n mut Names,
}

struct OpenColumn {
    name: Arc<str>,
    /// Rows that have a value, ascending.
    rows: Vec<u32>,
    data: ColumnData,
}

impl OpenColumn {
    fn fits(&self, name: &str, kind: Kind) -> bool {
        self.data.kind() == kind && *self.name == *name
    }
}

impl<'n> Columns<'n> {
    /// Takes the values that `wanted` names of as many rows as go together.
    pub(super) fn fill(rows: &[Placed<'_>], names: &'n mut Names, wanted: &impl Fn(&str) -> bool) -> Self {
        let (open, index, hasher) = (Vec::new(), HashTable::new(), RandomState::default());
        let mut columns = Self { rows: 0, values: 0, open, index, hasher, names };
        let mut found = Vec::new();
        for (_, reading) in rows {
            columns.find_all(reading, wanted, &mut found);
            if !columns.has_room(&found) {
                break;
            }
            columns.add(&mut found);
        }
        columns
    }

    fn find_all<'a>(&self, reading: &ReadingRef<'a>, wanted: &impl Fn(&str) -> bool, found: &mut Vec<Found<'a>>) {
        found.clear();
        for (hint, (name, value)) in reading.values().enumerate() {
            if wanted(name) {
                found.push((self.find(hint, name, value.kind()), name, value));
            }
        }
    }

    /// The column of a name and type; first the one at `hint`, since rows mostly have equal names.
    fn find(&self, hint: usize, name: &str, kind: Kind) -> Option<usize> {
        if self.open.get(hint).is_some_and(|column| column.fits(name, kind)) {
            return Some(hint);
        }
        let hash = self.hasher.hash_one((name, kind));
        let place = self.index.find(hash, |place| self.open[*place as usize].fits(name, kind));
        place.map(|place| *place as usize)
    }

    fn has_room(&self, row: &[Found<'_>]) -> bool {
        let new = row.iter().filter(|(column, ..)| column.is_none()).count();
        !is_sparse(self.rows + 1, self.open.len() + new, self.values + row.len())
    }

    fn add(&mut self, row: &mut Vec<Found<'_>>) {
        let number = u32::try_from(self.rows).expect("a block has fewer than 2^32 rows");
        self.values += row.len();
        for (column, name, value) in row.drain(..) {
            // A name may stand twice in one reading.
            let place = column.or_else(|| self.find(usize::MAX, name, value.kind()));
            let place = place.unwrap_or_else(|| self.open_column(name, value.kind()));
            let column = &mut self.open[place];
            if column.rows.last() == Some(&number) {
                // The last one counts.
                column.rows.pop();
                truncate(&mut column.data, column.rows.len());
            }
            column.rows.push(number);
            push(&mut column.data, value);
        }
        self.rows += 1;
    }

    fn open_column(&mut self, name: &str, kind: Kind) -> usize {
        let Self { open, index, hasher, names, .. } = self;
        let place = u32::try_from(open.len()).expect("a block has fewer than 2^32 columns");
        let name = Arc::clone(names.get_or_insert_with(name, |name| name.into()));
        open.push(OpenColumn { name, rows: Vec::new(), data: empty(kind) });
        let hash = |column: &OpenColumn| hasher.hash_one((&*column.name, column.data.kind()));
        index.insert_unique(hash(&open[place as usize]), place, |place| hash(&open[*place as usize]));
        place as usize
    }

    pub(super) fn finish(self) -> Vec<Column> {
        let all = self.rows;
        let column = |open: OpenColumn| {
            let mut present = Vec::new();
            if open.rows.len() < all {
                present.resize(all, false);
                open.rows.iter().for_each(|row| present[*row as usize] = true);
            }
            Column { name: open.name, present, data: open.data }
        };
        let mut columns: Vec<Column> = self.open.into_iter().map(column).collect();
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
