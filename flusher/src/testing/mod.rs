//! A world for tests: a log and stores in memory that fail, stall and crash on demand.

mod catalogue;
mod exports;
mod fakes;
mod log;
mod stall;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use buffer::frame::{DeadLetterRef, Frame, FrameBuilder, ReadingHeader, RetainedRef, Staged};
use model::trace::Tracer;
use model::{DeviceKey, Schema, TimeRange, ValueRef};
use parking_lot::Mutex;
use stores::contract::Export;
use stores::{Block, ColumnData};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) use catalogue::FakeCatalogue;
pub(crate) use exports::{BusWriter, FakeBus, FakeSeries};
pub(crate) use fakes::{FakeHistory, FakeLatest, FakeLetters, FakeRetained};
pub(crate) use log::FakeLog;
pub(crate) use stall::{SharedStates, Sleep};

use crate::config::{Config, Retry};
use crate::projections::{ExportFilter, ExportSpec, export, standard};
use crate::sink::Sink;
use crate::{Claim, Error, Flusher, Handle, Metrics, Pace, Projections, StartAt, Stores};

/// Counts the steps that outlive a crash, and crashes at one of them.
#[derive(Default)]
pub(crate) struct Fate {
    state: Mutex<FateState>,
    crashed: Notify,
}

#[derive(Default)]
struct FateState {
    steps: Vec<&'static str>,
    crash_at: Option<usize>,
    dead: bool,
}

impl Fate {
    /// A step of a fake: returns before it takes effect and again after, or never when the crash
    /// comes there.
    pub(crate) async fn step(&self, name: &'static str) {
        let dead = {
            let mut state = self.state.lock();
            if state.crash_at == Some(state.steps.len()) {
                state.dead = true;
                self.crashed.notify_one();
            }
            state.steps.push(name);
            state.dead
        };
        if dead {
            std::future::pending::<()>().await;
        }
    }

    pub(crate) fn crash_at(&self, step: usize) {
        *self.state.lock() = FateState { crash_at: Some(step), ..FateState::default() };
    }

    pub(crate) fn live(&self) {
        *self.state.lock() = FateState::default();
    }

    pub(crate) async fn crashed(&self) {
        self.crashed.notified().await;
    }

    pub(crate) fn steps(&self) -> Vec<&'static str> {
        self.state.lock().steps.clone()
    }
}

/// One log and all stores.
pub(crate) struct World {
    pub(crate) fate: Arc<Fate>,
    pub(crate) log: Arc<FakeLog>,
    pub(crate) history: Arc<FakeHistory>,
    pub(crate) latest: Arc<FakeLatest>,
    pub(crate) letters: Arc<FakeLetters>,
    pub(crate) retained: Arc<FakeRetained>,
    /// Empty unless a test adds some.
    pub(crate) exports: Vec<TestExport>,
    pub(crate) config: Config,
    pub(crate) tracer: Option<Tracer>,
}

/// An export of a test.
pub(crate) struct TestExport {
    pub(crate) name: &'static str,
    /// The store as a new process opens it.
    pub(crate) open: Box<dyn Fn() -> Arc<dyn Export> + Send + Sync>,
    pub(crate) filter: ExportFilter,
    pub(crate) start: StartAt,
    pub(crate) flush: Duration,
}

/// Name of the export that a test adds with [`World::add_series`].
pub(crate) const SERIES: &str = "series";
/// Name of the export that a test adds with [`World::add_bus`].
pub(crate) const BUS: &str = "bus";

pub(crate) struct Running {
    pub(crate) handle: Handle,
    stop: CancellationToken,
    task: JoinHandle<Result<(), Error>>,
}

impl Running {
    pub(crate) async fn stop(self) -> Result<(), Error> {
        self.stop.cancel();
        self.task.await.unwrap()
    }

    /// As kill -9 does.
    pub(crate) async fn kill(self) {
        self.task.abort();
        drop(self.task.await);
    }

    /// The result with which it ends by itself.
    pub(crate) async fn ended(self) -> Result<(), Error> {
        self.task.await.unwrap()
    }

    /// Memory of the readings that the history sink took and has not written.
    pub(crate) fn unflushed_bytes(&self) -> u64 {
        self.handle.tail.sources[0].sink.load().bytes
    }

    pub(crate) fn state(&self, sink: &str) -> crate::SinkStatus {
        self.handle.status().into_iter().find(|s| *s.sink == *sink).unwrap()
    }
}

impl World {
    pub(crate) fn new() -> Self {
        let fate = Arc::new(Fate::default());
        let mut config = Config { retry: Retry { first_ms: 10, max_ms: 200, paused_secs: 1 }, ..Config::default() };
        config.history.flush_secs = 0.2;
        config.latest.flush_secs = 0.1;
        Self {
            log: Arc::new(FakeLog::new("log", Arc::clone(&fate))),
            history: Arc::new(FakeHistory::new(Arc::clone(&fate))),
            latest: Arc::new(FakeLatest::new(Arc::clone(&fate))),
            letters: Arc::new(FakeLetters::new(Arc::clone(&fate))),
            retained: Arc::new(FakeRetained::new(Arc::clone(&fate))),
            exports: Vec::new(),
            fate,
            config,
            tracer: None,
        }
    }

    pub(crate) fn stores(&self) -> Stores {
        Stores {
            name: "mongodb",
            history: self.history.clone(),
            latest: self.latest.clone(),
            dead_letters: self.letters.clone(),
            retained: self.retained.clone(),
        }
    }

    /// The projections of a new process.
    pub(crate) fn projections(&self) -> Projections {
        self.projections_into(&self.stores(), |store| store)
    }

    pub(super) fn projections_into(
        &self,
        stores: &Stores,
        wrap: impl Fn(Arc<dyn Export>) -> Arc<dyn Export>,
    ) -> Projections {
        let mut all = standard(&self.config, stores);
        all.extend(self.exports.iter().map(|test| {
            export(ExportSpec {
                name: test.name.into(),
                kind: "fake",
                store: wrap((test.open)()),
                filter: test.filter.clone(),
                pace: Pace::export(test.flush, 100_000, 128 << 20),
                start: test.start,
            })
        }));
        Projections::new(all).unwrap()
    }

    pub(crate) fn sinks(&self) -> Vec<Arc<str>> {
        self.projections().iter().map(|projection| Arc::clone(&projection.name)).collect()
    }

    pub(crate) fn add(&mut self, name: &'static str, open: impl Fn() -> Arc<dyn Export> + Send + Sync + 'static) {
        self.exports.push(TestExport {
            name,
            open: Box::new(open),
            filter: ExportFilter::default(),
            start: StartAt::Joining,
            flush: Duration::from_millis(50),
        });
    }

    /// Adds an export that recognises readings.
    pub(crate) fn add_series(&mut self) -> Arc<FakeSeries> {
        self.add_series_as(SERIES)
    }

    pub(crate) fn add_series_as(&mut self, name: &'static str) -> Arc<FakeSeries> {
        let series = Arc::new(FakeSeries::new(Arc::clone(&self.fate)));
        let store = Arc::clone(&series);
        self.add(name, move || store.clone());
        series
    }

    /// Adds an export that keeps a cursor in its transactions.
    pub(crate) fn add_bus(&mut self) -> Arc<FakeBus> {
        let bus = Arc::new(FakeBus::default());
        let (store, fate) = (Arc::clone(&bus), Arc::clone(&self.fate));
        self.add(BUS, move || Arc::new(BusWriter::new(Arc::clone(&store), Arc::clone(&fate))));
        bus
    }

    pub(crate) async fn start(&self) -> Running {
        self.start_with(vec![Claim::sole(self.log.clone())]).await
    }

    pub(crate) async fn start_with(&self, claims: Vec<Claim>) -> Running {
        let metrics = Arc::new(Metrics::default());
        let flusher =
            Flusher::start(self.config.clone(), claims, self.projections(), self.stores(), metrics).await.unwrap();
        if let Some(tracer) = self.tracer.clone() {
            flusher.trace(tracer);
        }
        let stop = CancellationToken::new();
        let handle = flusher.handle();
        let task = tokio::spawn(flusher.run(stop.clone()));
        Running { handle, stop, task }
    }

    /// Appends one frame of readings, numbered `from..to`, over `devices` devices, one second
    /// apart.
    pub(crate) fn append(&self, from: u64, to: u64, devices: u64) {
        self.log.append(|staged| (from..to).for_each(|n| stage(staged, "default", n, devices)));
    }

    pub(crate) async fn done_to(&self, sink: &str, offset: u64) {
        until(&format!("{sink} is done to {offset}"), async || self.log.cursor(sink).done_to >= offset).await;
    }
}

/// The device of reading `n`.
pub(crate) fn device(n: u64, devices: u64) -> DeviceKey {
    DeviceKey::new("default", &format!("d{}", n % devices)).unwrap()
}

pub(crate) fn stage(staged: &mut Staged, tenant: &str, n: u64, devices: u64) {
    let device = Arc::new(DeviceKey { tenant: tenant.into(), id: device(n, devices).id });
    let schema = Arc::new(Schema::new(["n", "even"]));
    let value = i64::try_from(n).unwrap();
    let header = ReadingHeader { time: value * 1_000_000_000, received: value + 1, identity: n, ..plain() };
    let even = n.is_multiple_of(2).then_some(ValueRef::Bool(true));
    staged.reading(&device, &schema, &header, [Some(ValueRef::Int(value)), even]);
}

pub(crate) fn plain() -> ReadingHeader<'static> {
    ReadingHeader {
        time: 0,
        received: 0,
        identity: 0,
        seq: None,
        device_timed: true,
        claimed_time: None,
        trace: None,
        resent: false,
    }
}

pub(crate) fn stage_letter(staged: &mut Staged, reason: &str) {
    let tenant = "default".into();
    let letter = DeadLetterRef {
        tenant: &tenant,
        device: None,
        received: 5,
        identity: 6,
        reason,
        topic: "devices/x/telemetry",
        client: "c",
        payload: b"{",
    };
    staged.dead_letter(&letter, false);
}

pub(crate) fn stage_retained(staged: &mut Staged, payload: &[u8]) {
    let tenant = "default".into();
    staged.retained(&RetainedRef { tenant: &tenant, received: 3, qos: 1, topic: "a/b", payload, properties: b"" });
}

/// A frame of the records that `stage` stages.
pub(crate) fn frame(first_offset: u64, stage: impl FnOnce(&mut Staged)) -> Frame {
    let mut staged = Staged::default();
    stage(&mut staged);
    let mut builder = FrameBuilder::default();
    builder.absorb(&mut staged);
    builder.build(first_offset, 1, i64::try_from(first_offset).unwrap())
}

/// The numbers of the readings in blocks, and how often each is there.
pub(crate) fn numbers<'a>(blocks: impl IntoIterator<Item = &'a Block>) -> BTreeMap<i64, usize> {
    let mut found = BTreeMap::new();
    for block in blocks {
        let column = block.columns.iter().find(|c| &*c.name == "n").unwrap();
        let ColumnData::Int(values) = &column.data else { panic!("numbers are integers") };
        assert_eq!(values.len(), block.times.len());
        for (value, time) in values.iter().zip(&block.times) {
            assert_eq!(value * 1_000_000_000, *time);
            *found.entry(*value).or_default() += 1;
        }
    }
    found
}

/// The numbers that a query finds of a device: the tail first, then the store.
pub(crate) async fn query(handle: &Handle, history: &FakeHistory, device: &DeviceKey) -> Vec<i64> {
    let tail = handle.tail().tail(device, TimeRange::ALL, None).await.unwrap();
    let stored = history.blocks_of(device);
    numbers(tail.blocks.iter().chain(&stored)).into_keys().collect()
}

/// Waits until `there` is true, for a bounded time.
pub(crate) async fn until(what: &str, mut there: impl AsyncFnMut() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(30), async {
        while !there().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    assert!(waited.await.is_ok(), "waited in vain: {what}");
}
