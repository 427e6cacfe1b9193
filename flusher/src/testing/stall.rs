//! A holder that can be made to sleep at any of its steps and to go on later, over stores and a log
//! that others use meanwhile.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use buffer::frame::Frame;
use buffer::log::State;
use buffer::{Cursor, CursorError, Log, ReadError};
use model::{DeviceKey, Nanos, TimeRange};
use parking_lot::Mutex;
use stores::contract::{
    DeadLetters, Deadletter, DeviceBatch, Export, History, Latest, LatestState, LatestView, Result, Retained,
    RetainedKey, RetainedMessage, RetainedPage,
};
use stores::{Block, BlockMeta};
use tokio::sync::watch;

use super::{FakeHistory, FakeLetters, FakeLog, FakeRetained, World};
use crate::sinks::latest::LatestMap;
use crate::{Projections, Stores};

/// Sleeps at a step until it is woken.
pub(crate) struct Sleep {
    at: usize,
    steps: Mutex<usize>,
    state: watch::Sender<Phase>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Awake,
    Asleep,
    Woken,
}

impl Sleep {
    /// Sleeps at step `at`, counted from zero.
    pub(crate) fn at(at: usize) -> Arc<Self> {
        Arc::new(Self { at, steps: Mutex::new(0), state: watch::channel(Phase::Awake).0 })
    }

    /// Passes a step. From the step at which it sleeps, every step waits until it is woken, as in a
    /// stopped process.
    async fn step(&self) {
        let step = {
            let mut steps = self.steps.lock();
            *steps += 1;
            *steps - 1
        };
        if step >= self.at {
            self.state.send_if_modified(|phase| {
                let falls = *phase == Phase::Awake;
                if falls {
                    *phase = Phase::Asleep;
                }
                falls
            });
            self.state.subscribe().wait_for(|phase| *phase == Phase::Woken).await.unwrap();
        }
    }

    pub(crate) async fn asleep(&self) {
        self.state.subscribe().wait_for(|phase| *phase >= Phase::Asleep).await.unwrap();
    }

    pub(crate) fn wake(&self) {
        self.state.send_replace(Phase::Woken);
    }
}

/// A log or store of a holder: every call is a step before it takes effect and another after.
pub(crate) struct Sleepy<T> {
    pub(crate) inner: Arc<T>,
    pub(crate) sleep: Arc<Sleep>,
}

#[async_trait]
impl Log for Sleepy<FakeLog> {
    fn id(&self) -> &str {
        self.inner.id()
    }

    fn start(&self) -> u64 {
        self.inner.start()
    }

    fn end(&self) -> u64 {
        self.inner.end()
    }

    fn watch_end(&self) -> watch::Receiver<u64> {
        self.inner.watch_end()
    }

    async fn read(&self, from: u64, max_bytes: usize) -> std::result::Result<Vec<Frame>, ReadError> {
        self.inner.read(from, max_bytes).await
    }

    async fn cursors(&self) -> std::result::Result<BTreeMap<String, Cursor>, CursorError> {
        self.inner.cursors().await
    }

    async fn move_cursor(&self, sink: &str, cursor: Cursor) -> std::result::Result<(), CursorError> {
        self.sleep.step().await;
        let moved = self.inner.move_cursor(sink, cursor).await;
        self.sleep.step().await;
        moved
    }

    async fn rewind_cursor(&self, sink: &str, cursor: Cursor) -> std::result::Result<(), CursorError> {
        self.sleep.step().await;
        self.inner.rewind_cursor(sink, cursor).await
    }

    async fn offset_at(&self, time: Nanos) -> std::result::Result<u64, ReadError> {
        self.inner.offset_at(time).await
    }

    async fn trim(&self) -> std::result::Result<u64, ReadError> {
        self.sleep.step().await;
        self.inner.trim().await
    }

    fn state(&self) -> State {
        self.inner.state()
    }
}

#[async_trait]
impl History for Sleepy<FakeHistory> {
    async fn write(&self, blocks: Vec<Block>) -> Result<()> {
        self.sleep.step().await;
        let written = self.inner.write(blocks).await;
        self.sleep.step().await;
        written
    }

    async fn sync(&self) -> Result<()> {
        self.sleep.step().await;
        self.inner.sync().await
    }

    fn done(&self, log: &str, below: u64) {
        self.inner.done(log, below);
    }

    async fn find(&self, device: &DeviceKey, range: TimeRange) -> Result<Vec<BlockMeta>> {
        self.inner.find(device, range).await
    }

    async fn fetch(&self, device: &DeviceKey, metas: &[BlockMeta], names: Option<&[Arc<str>]>) -> Result<Vec<Block>> {
        self.inner.fetch(device, metas, names).await
    }

    async fn count(&self) -> Result<Vec<(Arc<str>, u64)>> {
        self.inner.count().await
    }

    async fn count_between(&self, range: TimeRange) -> Result<Option<Vec<(Arc<str>, u64)>>> {
        self.inner.count_between(range).await
    }

    async fn expire(&self, before: Nanos) -> Result<u64> {
        self.inner.expire(before).await
    }

    async fn merge(&self) -> Result<bool> {
        self.inner.merge().await
    }
}

/// Keeps the newest of each value, as a store that several processes write does.
#[derive(Default)]
pub(crate) struct SharedStates(Mutex<LatestMap>);

impl SharedStates {
    pub(crate) fn get(&self, device: &DeviceKey) -> Option<LatestState> {
        self.0.lock().get(device)
    }
}

#[async_trait]
impl LatestView for Sleepy<SharedStates> {
    async fn get(&self, devices: &[DeviceKey]) -> Result<Vec<Option<LatestState>>> {
        let states = self.inner.0.lock();
        Ok(devices.iter().map(|device| states.get(device)).collect())
    }

    async fn list(&self, tenant: &str, after: Option<&str>, limit: usize) -> Result<Vec<LatestState>> {
        Ok(self.inner.0.lock().list(tenant, after, limit))
    }
}

#[async_trait]
impl Latest for Sleepy<SharedStates> {
    async fn load(&self, after: Option<&DeviceKey>, limit: usize) -> Result<Vec<LatestState>> {
        self.list("default", after.map(|after| &*after.id), limit).await
    }

    async fn store(&self, states: Vec<LatestState>) -> Result<()> {
        self.sleep.step().await;
        states.into_iter().for_each(|state| self.inner.0.lock().merge(state));
        self.sleep.step().await;
        Ok(())
    }
}

#[async_trait]
impl DeadLetters for Sleepy<FakeLetters> {
    async fn put(&self, letters: Vec<Deadletter>) -> Result<()> {
        self.sleep.step().await;
        let put = self.inner.put(letters).await;
        self.sleep.step().await;
        put
    }

    async fn list(&self, tenant: &str, after: Option<(&str, u64, &str)>, limit: usize) -> Result<Vec<Deadletter>> {
        self.inner.list(tenant, after, limit).await
    }

    async fn get(&self, tenant: &str, log: &str, offset: u64, stage: &str) -> Result<Option<Deadletter>> {
        self.inner.get(tenant, log, offset, stage).await
    }

    async fn mark_replayed(&self, tenant: &str, log: &str, offset: u64, stage: &str, at: Nanos) -> Result<()> {
        self.inner.mark_replayed(tenant, log, offset, stage, at).await
    }

    async fn count(&self) -> Result<Vec<(Arc<str>, u64)>> {
        self.inner.count().await
    }

    async fn count_replayed(&self, stage: &str) -> Result<Vec<(Arc<str>, u64)>> {
        self.inner.count_replayed(stage).await
    }
}

struct SleepyExport {
    inner: Arc<dyn Export>,
    sleep: Arc<Sleep>,
}

#[async_trait]
impl Export for SleepyExport {
    async fn join(&self, log: &str, epoch: u64) -> Result<Option<u64>> {
        self.sleep.step().await;
        let joined = self.inner.join(log, epoch).await;
        self.sleep.step().await;
        joined
    }

    async fn write(&self, log: &str, batches: Vec<DeviceBatch>) -> Result<()> {
        self.sleep.step().await;
        let written = self.inner.write(log, batches).await;
        self.sleep.step().await;
        written
    }

    async fn commit(&self, log: &str, done_to: u64) -> Result<()> {
        self.sleep.step().await;
        let committed = self.inner.commit(log, done_to).await;
        self.sleep.step().await;
        committed
    }

    async fn rewind(&self, log: &str, epoch: u64, done_to: u64) -> Result<()> {
        self.sleep.step().await;
        self.inner.rewind(log, epoch, done_to).await
    }

    async fn count(&self, range: TimeRange) -> Result<Option<Vec<(Arc<str>, u64)>>> {
        self.inner.count(range).await
    }

    fn needs_distinct_times(&self) -> bool {
        self.inner.needs_distinct_times()
    }
}

#[async_trait]
impl Retained for Sleepy<FakeRetained> {
    async fn page(&self, after: Option<&RetainedKey>, most_bytes: usize) -> Result<RetainedPage> {
        self.inner.page(after, most_bytes).await
    }

    async fn holds(&self, tenant: &str, topics: &[String]) -> Result<Vec<bool>> {
        self.inner.holds(tenant, topics).await
    }

    async fn read(&self, tenant: &str, topics: &[String], most_bytes: usize) -> Result<Vec<Option<RetainedMessage>>> {
        self.inner.read(tenant, topics, most_bytes).await
    }

    async fn apply(&self, changes: Vec<RetainedMessage>) -> Result<()> {
        self.sleep.step().await;
        let applied = self.inner.apply(changes).await;
        self.sleep.step().await;
        applied
    }
}

impl World {
    /// The log as a holder that sleeps sees it.
    pub(crate) fn sleepy_log(&self, sleep: &Arc<Sleep>) -> Arc<dyn Log> {
        Arc::new(Sleepy { inner: Arc::clone(&self.log), sleep: Arc::clone(sleep) })
    }

    /// The stores and projections as a holder that sleeps sees them.
    pub(crate) fn sleepy_stores(&self, states: &Arc<SharedStates>, sleep: &Arc<Sleep>) -> (Stores, Projections) {
        fn of<T>(inner: &Arc<T>, sleep: &Arc<Sleep>) -> Arc<Sleepy<T>> {
            Arc::new(Sleepy { inner: Arc::clone(inner), sleep: Arc::clone(sleep) })
        }
        let stores = Stores {
            name: "mongodb",
            history: of(&self.history, sleep),
            latest: of(states, sleep),
            dead_letters: of(&self.letters, sleep),
            retained: of(&self.retained, sleep),
        };
        let wrap = |inner| Arc::new(SleepyExport { inner, sleep: Arc::clone(sleep) }) as Arc<dyn Export>;
        let projections = self.projections_into(&stores, wrap);
        (stores, projections)
    }
}
