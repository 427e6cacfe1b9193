//! Stores in memory whose answers the tests decide.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use api::{Replay, ReplayError, StatusSource};
use async_trait::async_trait;
use model::{DeviceKey, Nanos, TimeRange, Value, ValueRef};
use parking_lot::Mutex;
use stores::contract::{
    BookLine, Books, DeadLetters, Deadletter, History, LatestState, LatestView, Result, StoreError, Tail, TailAnswer,
};
use stores::{Block, BlockId, BlockMeta, Column, ColumnData};

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

/// A block of rows that the device timed; received one nanosecond later.
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

#[derive(Default)]
pub(crate) struct FakeHistory {
    blocks: Mutex<BTreeMap<u64, Block>>,
    next: Mutex<u64>,
    /// So many fetches say that blocks have moved.
    pub(crate) moves: AtomicU32,
    /// Rows of the largest fetch.
    pub(crate) largest_fetch: AtomicU32,
    /// Answers with this instead.
    pub(crate) error: Mutex<Option<StoreError>>,
    /// Never answers.
    pub(crate) hangs: AtomicBool,
}

impl FakeHistory {
    pub(crate) fn put(&self, block: Block) {
        let mut next = self.next.lock();
        *next += 1;
        self.blocks.lock().insert(*next, block);
    }

    /// Replaces everything by one merged block; places found before are no more.
    pub(crate) fn merge_all(&self) {
        let mut next = self.next.lock();
        let mut blocks = self.blocks.lock();
        let all: Vec<Block> = std::mem::take(&mut *blocks).into_values().collect();
        *next += 1;
        blocks.extend(stores::query::merge_blocks(&all).map(|merged| (*next, merged)));
    }
}

#[async_trait]
impl History for FakeHistory {
    async fn write(&self, blocks: Vec<Block>) -> Result<()> {
        blocks.into_iter().for_each(|block| self.put(block));
        Ok(())
    }

    async fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn done(&self, _log: &str, _below: u64) {}

    async fn find(&self, device: &DeviceKey, range: TimeRange) -> Result<Vec<BlockMeta>> {
        if self.hangs.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        if let Some(error) = &*self.error.lock() {
            return Err(error.clone());
        }
        let blocks = self.blocks.lock();
        let meta = |(place, block): (&u64, &Block)| BlockMeta {
            place: place.to_le_bytes().into(),
            first_time: block.times[0],
            last_time: *block.times.last().unwrap(),
            rows: u32::try_from(block.times.len()).unwrap(),
        };
        let mut metas: Vec<BlockMeta> = blocks.iter().filter(|(_, b)| touches(b, device, range)).map(meta).collect();
        metas.sort_by_key(|m| m.first_time);
        Ok(metas)
    }

    async fn fetch(&self, _device: &DeviceKey, metas: &[BlockMeta], names: Option<&[Arc<str>]>) -> Result<Vec<Block>> {
        if self.moves.load(Ordering::SeqCst) > 0 {
            self.moves.fetch_sub(1, Ordering::SeqCst);
            return Err(StoreError::Moved);
        }
        self.largest_fetch.fetch_max(metas.iter().map(|m| m.rows).sum(), Ordering::SeqCst);
        let blocks = self.blocks.lock();
        let place = |m: &BlockMeta| u64::from_le_bytes(m.place[..].try_into().unwrap());
        metas
            .iter()
            .map(|m| blocks.get(&place(m)).cloned().map(|b| project(b, names)).ok_or(StoreError::Moved))
            .collect()
    }

    async fn count(&self) -> Result<Vec<(Arc<str>, u64)>> {
        Ok(Vec::new())
    }

    async fn expire(&self, _before: Nanos) -> Result<u64> {
        Ok(0)
    }

    async fn merge(&self) -> Result<bool> {
        Ok(false)
    }
}

pub(crate) struct FakeTail {
    history: Arc<FakeHistory>,
    blocks: Mutex<Vec<Block>>,
}

impl FakeTail {
    pub(crate) fn new(history: Arc<FakeHistory>) -> Self {
        Self { history, blocks: Mutex::default() }
    }

    pub(crate) fn put(&self, block: Block) {
        self.blocks.lock().push(block);
    }

    /// Moves everything to the store: for a moment it is in both, as with the real one.
    pub(crate) fn flush(&self) {
        let blocks = self.blocks.lock().clone();
        let count = blocks.len();
        blocks.into_iter().for_each(|block| self.history.put(block));
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

#[derive(Default)]
pub(crate) struct FakeLatest {
    states: Mutex<BTreeMap<DeviceKey, LatestState>>,
}

impl FakeLatest {
    pub(crate) fn put(&self, state: LatestState) {
        self.states.lock().insert(state.device.clone(), state);
    }

    /// A device with one value for each name, of increasing times from `seen` on.
    pub(crate) fn device(&self, id: &str, seen: Nanos, readings: u64, names: &[&str]) {
        let value = |(i, name): (usize, &&str)| stores::contract::LatestValue {
            name: (*name).into(),
            value: Value::Float(i as f64),
            time: seen + i as i64,
            seq: None,
            received: seen + 100,
        };
        self.put(LatestState {
            device: crate::world::key(id),
            first_seen: seen,
            last_seen: seen + 100,
            readings,
            clock_skew: -2_000_000_000,
            values: names.iter().enumerate().map(value).collect(),
        });
    }
}

#[async_trait]
impl LatestView for FakeLatest {
    async fn get(&self, devices: &[DeviceKey]) -> Result<Vec<Option<LatestState>>> {
        let states = self.states.lock();
        Ok(devices.iter().map(|device| states.get(device).cloned()).collect())
    }

    async fn list(&self, tenant: &str, after: Option<&str>, limit: usize) -> Result<Vec<LatestState>> {
        let states = self.states.lock();
        let of = states.values().filter(|s| &*s.device.tenant == tenant && after.is_none_or(|a| &*s.device.id > a));
        Ok(of.take(limit).cloned().collect())
    }
}

#[derive(Default)]
pub(crate) struct FakeLetters {
    letters: Mutex<BTreeMap<(String, u64, String), Deadletter>>,
}

#[async_trait]
impl DeadLetters for FakeLetters {
    async fn put(&self, letters: Vec<Deadletter>) -> Result<()> {
        let key = |l: &Deadletter| (l.log.to_string(), l.offset, l.stage.clone());
        self.letters.lock().extend(letters.into_iter().map(|l| (key(&l), l)));
        Ok(())
    }

    async fn list(&self, tenant: &str, after: Option<(&str, u64, &str)>, limit: usize) -> Result<Vec<Deadletter>> {
        let after = after.map(|(log, offset, stage)| (log.to_owned(), offset, stage.to_owned()));
        let letters = self.letters.lock();
        let of = letters.iter().filter(|(k, l)| &*l.tenant == tenant && after.as_ref().is_none_or(|a| *k > a));
        Ok(of.map(|(_, l)| l.clone()).take(limit).collect())
    }

    async fn get(&self, tenant: &str, log: &str, offset: u64, stage: &str) -> Result<Option<Deadletter>> {
        let found = self.letters.lock().get(&(log.to_owned(), offset, stage.to_owned())).cloned();
        Ok(found.filter(|letter| &*letter.tenant == tenant))
    }

    async fn mark_replayed(&self, _tenant: &str, log: &str, offset: u64, stage: &str, at: Nanos) -> Result<()> {
        if let Some(letter) = self.letters.lock().get_mut(&(log.to_owned(), offset, stage.to_owned())) {
            letter.replayed = Some(at);
        }
        Ok(())
    }

    async fn count(&self) -> Result<Vec<(Arc<str>, u64)>> {
        Ok(Vec::new())
    }
}

#[derive(Default)]
pub(crate) struct FakeReplay {
    /// Offsets of the letters taken in.
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

pub(crate) struct FakeStatus;

#[async_trait]
impl StatusSource for FakeStatus {
    async fn status(&self) -> proto::v1::Status {
        proto::v1::Status { version: "1.2.3".into(), ready: true, ..Default::default() }
    }
}
