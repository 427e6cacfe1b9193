//! Exports in memory: one that recognises readings, and one that keeps a cursor in its
//! transactions.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use model::{DeviceKey, Nanos, TimeRange, ValueRef};
use parking_lot::Mutex;
use stores::Block;
use stores::contract::{DeviceBatch, Export, Result, StoreError};

use super::Fate;
use super::fakes::Refuse;

/// Device, time, place in the millisecond.
pub(crate) type Point = (DeviceKey, Nanos, Option<u64>);

/// A database of series: durable when a write returns; one reading for each device and point time,
/// from any writer.
pub(crate) struct FakeSeries {
    fate: Arc<Fate>,
    points: Mutex<BTreeMap<Point, i64>>,
    refuse: Mutex<Option<Refuse>>,
    down: Mutex<Option<StoreError>>,
}

impl FakeSeries {
    pub(crate) fn new(fate: Arc<Fate>) -> Self {
        Self { fate, points: Mutex::default(), refuse: Mutex::default(), down: Mutex::default() }
    }

    pub(crate) fn set_down(&self, error: Option<StoreError>) {
        *self.down.lock() = error;
    }

    pub(crate) fn refuse(&self, refuse: impl Fn(&Block) -> Option<StoreError> + Send + 'static) {
        *self.refuse.lock() = Some(Box::new(refuse));
    }

    /// Loses everything, as a bucket that was dropped and made again.
    pub(crate) fn clear(&self) {
        self.points.lock().clear();
    }

    /// The points, each with the number of its reading.
    pub(crate) fn points(&self) -> BTreeMap<Point, i64> {
        self.points.lock().clone()
    }

    /// The numbers of the readings, in order.
    pub(crate) fn numbers(&self) -> Vec<i64> {
        let mut found: Vec<i64> = self.points.lock().values().copied().collect();
        found.sort_unstable();
        found
    }
}

/// The numbers of the readings of a block.
fn numbers_of(block: &Block) -> Vec<i64> {
    let column = block.columns.iter().find(|column| &*column.name == "n").unwrap();
    let number = |row| match column.data.get(row) {
        Some(ValueRef::Int(n)) => n,
        _ => panic!("numbers are integers"),
    };
    (0..block.times.len()).map(number).collect()
}

#[async_trait]
impl Export for FakeSeries {
    async fn write(&self, _: &str, batches: Vec<DeviceBatch>) -> Result<()> {
        self.fate.step("before the points are written").await;
        if let Some(error) = self.down.lock().clone() {
            return Err(error);
        }
        let refusal = |refuse: &Refuse| batches.iter().find_map(|batch| refuse(&batch.block));
        if let Some(error) = self.refuse.lock().as_ref().and_then(refusal) {
            return Err(error);
        }
        for DeviceBatch { block, offsets, .. } in &batches {
            assert_eq!(offsets.len(), block.times.len());
            for (row, n) in numbers_of(block).into_iter().enumerate() {
                let seq = block.seqs.get(row).copied().flatten();
                self.points.lock().insert((block.id.device.clone(), block.times[row], seq), n);
            }
        }
        self.fate.step("after the points were written").await;
        Ok(())
    }

    async fn count(&self, range: TimeRange) -> Result<Option<Vec<(Arc<str>, u64)>>> {
        let mut counts = BTreeMap::new();
        for (device, ..) in self.points.lock().keys().filter(|(_, time, _)| range.contains(*time)) {
            *counts.entry(Arc::clone(&device.tenant)).or_insert(0) += 1;
        }
        Ok(Some(counts.into_iter().collect()))
    }

    fn needs_distinct_times(&self) -> bool {
        true
    }
}

/// A bus whose transactions hold readings and the writer's cursor. It recognises no reading that is
/// sent twice.
#[derive(Default)]
pub(crate) struct FakeBus(Mutex<BTreeMap<String, Topic>>);

#[derive(Default)]
struct Topic {
    epoch: u64,
    /// None before the first transaction.
    done_to: Option<u64>,
    /// Offset and number of each reading, as a reader of committed records sees them.
    committed: Vec<(u64, i64)>,
    /// The next transaction is aborted.
    aborts_next: bool,
}

impl FakeBus {
    /// Aborts the next transaction.
    pub(crate) fn abort_next(&self, log: &str) {
        self.0.lock().entry(log.to_owned()).or_default().aborts_next = true;
    }

    /// The numbers of the readings that a reader of committed records sees, in order.
    pub(crate) fn numbers(&self) -> Vec<i64> {
        let topics = self.0.lock();
        let mut found: Vec<i64> = topics.values().flat_map(|topic| topic.committed.iter().map(|(_, n)| *n)).collect();
        found.sort_unstable();
        found
    }
}

/// Epoch of the writer, offsets and numbers of the readings.
type OpenTransaction = (u64, Vec<(u64, i64)>);

/// The bus client of one process. Its uncommitted records end with it.
pub(crate) struct BusWriter {
    bus: Arc<FakeBus>,
    fate: Arc<Fate>,
    open: Mutex<BTreeMap<String, OpenTransaction>>,
}

impl BusWriter {
    pub(crate) fn new(bus: Arc<FakeBus>, fate: Arc<Fate>) -> Self {
        Self { bus, fate, open: Mutex::default() }
    }
}

#[async_trait]
impl Export for BusWriter {
    async fn join(&self, log: &str, epoch: u64) -> Result<Option<u64>> {
        self.fate.step("before the bus is joined").await;
        let mut topics = self.bus.0.lock();
        let topic = topics.entry(log.to_owned()).or_default();
        if epoch < topic.epoch {
            return Err(StoreError::NeedsOperator(format!("fenced by epoch {}", topic.epoch)));
        }
        topic.epoch = epoch;
        self.open.lock().insert(log.to_owned(), (epoch, Vec::new()));
        Ok(topic.done_to)
    }

    async fn write(&self, log: &str, batches: Vec<DeviceBatch>) -> Result<()> {
        self.fate.step("before the records are sent").await;
        let mut open = self.open.lock();
        let (_, records) = open.get_mut(log).expect("joined before the first write");
        for batch in &batches {
            records.extend(batch.offsets.iter().copied().zip(numbers_of(&batch.block)));
        }
        Ok(())
    }

    async fn commit(&self, log: &str, done_to: u64) -> Result<()> {
        self.fate.step("before the transaction is committed").await;
        {
            let mut open = self.open.lock();
            let (epoch, records) = open.get_mut(log).expect("joined before the first commit");
            let records = std::mem::take(records);
            let mut topics = self.bus.0.lock();
            let topic = topics.entry(log.to_owned()).or_default();
            if *epoch < topic.epoch {
                return Err(StoreError::Aborted(format!("fenced by epoch {}", topic.epoch)));
            }
            if std::mem::take(&mut topic.aborts_next) {
                return Err(StoreError::Aborted("the coordinator moved".to_owned()));
            }
            topic.committed.extend(records);
            topic.done_to = Some(done_to);
        }
        self.fate.step("after the transaction was committed").await;
        Ok(())
    }

    async fn rewind(&self, log: &str, epoch: u64, done_to: u64) -> Result<()> {
        self.fate.step("before the bus is set back").await;
        let mut topics = self.bus.0.lock();
        let topic = topics.entry(log.to_owned()).or_default();
        if epoch < topic.epoch {
            return Err(StoreError::NeedsOperator(format!("fenced by epoch {}", topic.epoch)));
        }
        (topic.epoch, topic.done_to) = (epoch, Some(done_to));
        Ok(())
    }
}
