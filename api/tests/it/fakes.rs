//! Ports whose answers the tests control, besides the stores in memory.

use std::sync::Arc;

use api::{ExportError, ExportStatus, Exports, Replay, ReplayError, Rewound, StatusSource};
use async_trait::async_trait;
use model::{DeviceKey, Nanos, TimeRange, Value, ValueRef};
use parking_lot::Mutex;
use stores::contract::{BookLine, Books, Deadletter, LatestState, Result, Tail, TailAnswer};
use stores::testing::MemoryStore;
use stores::{Block, BlockId, Column, ColumnData};

/// A row to make blocks of.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    pub(crate) time: Nanos,
    pub(crate) seq: Option<u64>,
    pub(crate) values: Vec<(&'static str, Value)>,
}

pub(crate) fn row(time: Nanos, name: &'static str, value: f64) -> Row {
    Row { time, seq: None, values: vec![(name, Value::Float(value))] }
}

/// A block of rows with device times, received one nanosecond later.
pub(crate) fn block(device: &DeviceKey, first_offset: u64, rows: &[Row]) -> Block {
    let id = BlockId { device: device.clone(), log: "log1".into(), first_offset, part: 0 };
    let mut names: Vec<(&str, model::Kind)> = Vec::new();
    for (name, value) in rows.iter().flat_map(|r| &r.values) {
        if !names.contains(&(*name, value.kind())) {
            names.push((*name, value.kind()));
        }
    }
    Block {
        id,
        times: rows.iter().map(|r| r.time).collect(),
        received: rows.iter().map(|r| r.time + 1).collect(),
        seqs: rows.iter().map(|r| r.seq).collect(),
        claimed: Vec::new(),
        device_timed: Vec::new(),
        columns: names.into_iter().map(|(name, kind)| column(name, kind, rows)).collect(),
    }
}

fn column(name: &str, kind: model::Kind, rows: &[Row]) -> Column {
    let of = |r: &Row| r.values.iter().find(|(n, v)| *n == name && v.kind() == kind).map(|(_, v)| v.clone());
    let values: Vec<Option<Value>> = rows.iter().map(of).collect();
    let present = values.iter().map(Option::is_some).collect();
    let mut data = match kind {
        model::Kind::Float => ColumnData::Float(Vec::new()),
        model::Kind::Int => ColumnData::Int(Vec::new()),
        model::Kind::Bool => ColumnData::Bool(Vec::new()),
        model::Kind::Str => ColumnData::Str(Vec::new()),
    };
    for value in values.iter().flatten() {
        match (&mut data, value.as_ref()) {
            (ColumnData::Float(c), ValueRef::Float(v)) => c.push(v),
            (ColumnData::Int(c), ValueRef::Int(v)) => c.push(v),
            (ColumnData::Bool(c), ValueRef::Bool(v)) => c.push(v),
            (ColumnData::Str(c), ValueRef::Str(v)) => c.push(v.into()),
            _ => unreachable!("looked up by kind"),
        }
    }
    Column { name: name.into(), present, data }
}

fn project(mut block: Block, names: Option<&[Arc<str>]>) -> Block {
    if let Some(names) = names {
        block.columns.retain(|column| names.contains(&column.name));
    }
    block
}

fn touches(block: &Block, device: &DeviceKey, range: TimeRange) -> bool {
    block.id.device == *device
        && matches!((block.times.first(), block.times.last()), (Some(a), Some(b)) if range.touches(*a, *b))
}

pub(crate) struct FakeTail {
    history: Arc<MemoryStore>,
    blocks: Mutex<Vec<Block>>,
}

impl FakeTail {
    pub(crate) fn new(history: Arc<MemoryStore>) -> Self {
        Self { history, blocks: Mutex::default() }
    }

    pub(crate) fn put(&self, block: Block) {
        self.blocks.lock().push(block);
    }

    /// Moves everything to the store: for a moment it is in both, as with the real one.
    pub(crate) fn flush(&self) {
        let blocks = self.blocks.lock().clone();
        let count = blocks.len();
        blocks.into_iter().for_each(|block| self.history.put_block(block));
        self.blocks.lock().drain(..count);
    }
}

#[async_trait]
impl Tail for FakeTail {
    async fn tail(&self, device: &DeviceKey, range: TimeRange, names: Option<&[Arc<str>]>) -> Result<TailAnswer> {
        let blocks = self.blocks.lock();
        let blocks = blocks.iter().filter(|b| touches(b, device, range)).cloned().map(|b| project(b, names)).collect();
        Ok(TailAnswer { blocks, complete_until: crate::world::now() })
    }
}

/// The state of a device with one value for each name, of increasing times from `seen` on.
pub(crate) fn state(id: &str, seen: Nanos, readings: u64, names: &[&str]) -> LatestState {
    let value = |(i, name): (usize, &&str)| stores::contract::LatestValue {
        name: (*name).into(),
        value: Value::Float(i as f64),
        time: seen + i as i64,
        order: seen + i as i64,
        seq: None,
        received: seen + 100,
    };
    LatestState {
        device: crate::world::key(id),
        first_seen: seen,
        last_seen: seen + 100,
        readings,
        clock_skew: -2_000_000_000,
        values: names.iter().enumerate().map(value).collect(),
    }
}

#[derive(Default)]
pub(crate) struct FakeReplay {
    /// Offsets of the replayed letters.
    pub(crate) taken: Mutex<Vec<u64>>,
}

#[async_trait]
impl Replay for FakeReplay {
    async fn replay(&self, letter: &Deadletter) -> std::result::Result<(), ReplayError> {
        match &letter.payload[..] {
            b"hopeless" => Err(ReplayError::Refused("no object".into())),
            b"full" => Err(ReplayError::Unavailable("disk full".into())),
            _ => {
                self.taken.lock().push(letter.offset);
                Ok(())
            }
        }
    }
}

#[derive(Default)]
pub(crate) struct FakeBooks {
    pub(crate) lines: Mutex<Vec<BookLine>>,
}

#[async_trait]
impl Books for FakeBooks {
    async fn books(&self, check: bool) -> Result<Vec<BookLine>> {
        let mut lines = self.lines.lock().clone();
        if !check {
            lines.iter_mut().for_each(|line| line.held = None);
        }
        Ok(lines)
    }
}

/// Exports whose logs begin at [`FakeExports::log_starts`].
#[derive(Default)]
pub(crate) struct FakeExports {
    pub(crate) exports: Mutex<Vec<ExportStatus>>,
    pub(crate) log_starts: Mutex<Nanos>,
    /// Returned instead of an answer.
    pub(crate) error: Mutex<Option<ExportError>>,
}

impl FakeExports {
    fn change(&self, name: &str, change: impl FnOnce(&mut ExportStatus)) -> std::result::Result<(), ExportError> {
        let mut exports = self.exports.lock();
        let known = exports.iter().map(|export| export.name.to_string()).collect();
        let found = exports.iter_mut().find(|export| &*export.name == name);
        found.map(change).ok_or(ExportError::Unknown { name: name.to_owned(), known })
    }
}

#[async_trait]
impl Exports for FakeExports {
    async fn list(&self) -> std::result::Result<Vec<ExportStatus>, ExportError> {
        match &*self.error.lock() {
            Some(error) => Err(error.clone()),
            None => Ok(self.exports.lock().clone()),
        }
    }

    async fn pause(&self, name: &str) -> std::result::Result<(), ExportError> {
        self.change(name, |export| export.paused = true)
    }

    async fn resume(&self, name: &str) -> std::result::Result<(), ExportError> {
        self.change(name, |export| export.paused = false)
    }

    async fn rewind(&self, name: &str, to: Nanos) -> std::result::Result<Rewound, ExportError> {
        self.change(name, |export| export.logs.iter_mut().for_each(|log| log.done_to = 0))?;
        let start = *self.log_starts.lock();
        Ok(Rewound { begins: to.max(start), truncated: to < start })
    }
}

pub(crate) struct FakeStatus;

#[async_trait]
impl StatusSource for FakeStatus {
    async fn status(&self) -> proto::v1::Status {
        proto::v1::Status { version: "1.2.3".into(), ready: true, ..Default::default() }
    }
}
