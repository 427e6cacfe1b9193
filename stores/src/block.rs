//! The columns of one device's readings: the unit that is written, stored, fetched and merged.

use std::sync::Arc;

use model::{DeviceKey, Kind, Nanos, ValueRef};

/// Time that one partition covers: a week. The smaller, the finer the retention; the larger, the
/// fewer files.
pub const PARTITION: Nanos = 7 * 24 * 3600 * model::time::SECOND;

/// Returns the partition of a time. All rows of a block lie in one, so that a store may keep
/// partitions apart and delete them whole.
pub fn partition_of(time: Nanos) -> i64 {
    time.div_euclid(PARTITION)
}

/// Places without a value that a block may have: so many, and [`EMPTY_PER_VALUE`] for each value.
const EMPTY: usize = 1 << 17;
const EMPTY_PER_VALUE: usize = 4;

/// True when most rows of a block would have no value in most of its columns, so that it is better
/// cut in two. A reader passes every place of a block: a device that sends new names with each
/// reading would make as many as rows times columns.
pub fn is_sparse(rows: usize, columns: usize, values: usize) -> bool {
    rows > 1 && (rows * columns).saturating_sub(values) > EMPTY + EMPTY_PER_VALUE * values
}

/// The identity of a block: a block that is written again has the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockId {
    /// The device.
    pub device: DeviceKey,
    /// [`buffer::Log::id`](../../buffer) of the log the readings came in.
    pub log: Arc<str>,
    /// Offset of the first reading in that log.
    pub first_offset: u64,
    /// Distinguishes blocks that begin at one offset: a block that a store refuses is halved, and
    /// halved again.
    pub part: u16,
}

/// Readings of one device as columns, rows sorted by (time, seq). Immutable.
#[derive(Debug, Clone, PartialEq)]
pub struct Block {
    /// The identity.
    pub id: BlockId,
    /// Ordering times, one per row, ascending.
    pub times: Vec<Nanos>,
    /// Receive times, one per row.
    pub received: Vec<Nanos>,
    /// Device counters, one per row; empty when no row has one.
    pub seqs: Vec<Option<u64>>,
    /// Device times that were too far ahead to be used, one per row; empty when no row has one.
    pub claimed: Vec<Option<Nanos>>,
    /// One bit per row: the time is the device's own; empty when all are.
    pub device_timed: Vec<bool>,
    /// Named columns. A name occurs once for each type it had.
    pub columns: Vec<Column>,
}

impl Block {
    /// Returns the bytes that the contents take in memory, with the places of values that a reader
    /// keeps.
    pub fn memory(&self) -> usize {
        let Self { times, received, seqs, claimed, device_timed, columns, .. } = self;
        let of_rows = 8 * (times.capacity() + received.capacity()) + 16 * (seqs.capacity() + claimed.capacity());
        of_rows + device_timed.capacity() + columns.iter().map(Column::memory).sum::<usize>()
    }

    /// Returns the bytes of its readings as storage is counted, see [`model::size`]: the sum over
    /// those of each, in whichever blocks they are.
    pub fn size(&self) -> u64 {
        self.times.len() as u64 * model::size::READING + self.columns.iter().map(Column::size).sum::<u64>()
    }
}

/// The values of one name and type.
#[derive(Debug, Clone, PartialEq)]
pub struct Column {
    /// Value name.
    pub name: Arc<str>,
    /// Rows that have a value, one bit per row; empty when all have.
    pub present: Vec<bool>,
    /// The values of the rows that have one, in row order.
    pub data: ColumnData,
}

impl Column {
    /// Bytes besides the values: the allocation of the name, and its places in readers.
    const BYTES: usize = size_of::<Self>() + 96;
    /// Bytes of a text's allocation besides the text.
    const TEXT_BYTES: usize = size_of::<Box<str>>() + 16;

    fn size(&self) -> u64 {
        let count = self.data.len() as u64;
        let values = match &self.data {
            ColumnData::Float(_) | ColumnData::Int(_) => count * model::size::NUMBER,
            ColumnData::Bool(_) => count * model::size::BOOLEAN,
            ColumnData::Str(texts) => texts.iter().map(|text| text.len() as u64).sum(),
        };
        count * self.name.len() as u64 + values
    }

    fn memory(&self) -> usize {
        let values = match &self.data {
            ColumnData::Float(values) => 8 * values.capacity(),
            ColumnData::Int(values) => 8 * values.capacity(),
            ColumnData::Bool(values) => values.capacity(),
            ColumnData::Str(values) => values.iter().map(|text| Self::TEXT_BYTES + text.len()).sum(),
        };
        // A reader has the place of each value where some row lacks one.
        let places = size_of::<u32>() * self.present.len();
        Self::BYTES + self.name.len() + self.present.capacity() + places + values
    }
}

/// Values of one type.
#[derive(Debug, Clone, PartialEq)]
pub enum ColumnData {
    /// Floating point.
    Float(Vec<f64>),
    /// Integers.
    Int(Vec<i64>),
    /// Booleans.
    Bool(Vec<bool>),
    /// Texts.
    Str(Vec<Box<str>>),
}

impl ColumnData {
    /// Returns the type.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Float(_) => Kind::Float,
            Self::Int(_) => Kind::Int,
            Self::Bool(_) => Kind::Bool,
            Self::Str(_) => Kind::Str,
        }
    }

    /// Returns the number of values.
    pub fn len(&self) -> usize {
        match self {
            Self::Float(v) => v.len(),
            Self::Int(v) => v.len(),
            Self::Bool(v) => v.len(),
            Self::Str(v) => v.len(),
        }
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the value at `index`.
    pub fn get(&self, index: usize) -> Option<ValueRef<'_>> {
        match self {
            Self::Float(v) => v.get(index).map(|v| ValueRef::Float(*v)),
            Self::Int(v) => v.get(index).map(|v| ValueRef::Int(*v)),
            Self::Bool(v) => v.get(index).map(|v| ValueRef::Bool(*v)),
            Self::Str(v) => v.get(index).map(|v| ValueRef::Str(v)),
        }
    }
}

/// A block's place and extent, without its columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockMeta {
    /// Its place in the store; opaque, valid until the block is merged or its partition expires.
    pub place: Box<[u8]>,
    /// First ordering time.
    pub first_time: Nanos,
    /// Last ordering time.
    pub last_time: Nanos,
    /// Rows.
    pub rows: u32,
}
