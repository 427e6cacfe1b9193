//! Stores in memory.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use model::{DeviceKey, Nanos, TimeRange};
use parking_lot::Mutex;
use stores::contract::{
    DeadLetters, Deadletter, History, Latest, LatestState, LatestView, Result, Retained, RetainedKey, RetainedMessage,
    RetainedPage, StoreError,
};
use stores::testing::{messages_of, page_of};
use stores::{Block, BlockId, BlockMeta};
use tokio::sync::Semaphore;

use super::Fate;

pub(super) type Refuse = Box<dyn Fn(&Block) -> Option<StoreError> + Send>;

/// A history that loses unsynced writes in a crash.
pub(crate) struct FakeHistory {
    fate: Arc<Fate>,
    written: Mutex<BTreeMap<BlockId, Block>>,
    durable: Mutex<BTreeMap<BlockId, Block>>,
    refuse: Mutex<Option<Refuse>>,
    down: Mutex<Option<StoreError>>,
    /// Writes wait for a permit, which they give back.
    pub(crate) slow: Semaphore,
    pub(crate) writes: AtomicU64,
    pub(crate) done: AtomicU64,
}

impl FakeHistory {
    pub(crate) fn new(fate: Arc<Fate>) -> Self {
        Self {
            fate,
            written: Mutex::default(),
            durable: Mutex::default(),
            refuse: Mutex::default(),
            down: Mutex::default(),
            slow: Semaphore::new(1_000),
            writes: AtomicU64::new(0),
            done: AtomicU64::new(0),
        }
    }

    pub(crate) fn set_down(&self, error: Option<StoreError>) {
        *self.down.lock() = error;
    }

    pub(crate) fn refuse(&self, refuse: impl Fn(&Block) -> Option<StoreError> + Send + 'static) {
        *self.refuse.lock() = Some(Box::new(refuse));
    }

    /// Loses the unsynced blocks, except every `keep`-th one.
    pub(crate) fn crash(&self, keep: usize) {
        let mut durable = self.durable.lock();
        for (at, (id, block)) in self.written.lock().iter().enumerate() {
            if at % keep == 0 {
                durable.insert(id.clone(), block.clone());
            }
        }
        *self.written.lock() = durable.clone();
    }

    pub(crate) fn blocks(&self) -> Vec<Block> {
        self.durable.lock().values().cloned().collect()
    }

    pub(crate) fn blocks_of(&self, device: &DeviceKey) -> Vec<Block> {
        self.durable.lock().values().filter(|b| b.id.device == *device).cloned().collect()
    }

    pub(crate) fn forget_one_block(&self) {
        self.durable.lock().pop_first().unwrap();
    }

    fn answer(&self) -> Result<()> {
        self.down.lock().clone().map_or(Ok(()), Err)
    }
}

#[async_trait]
impl History for FakeHistory {
    async fn write(&self, blocks: Vec<Block>) -> Result<()> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        let _permit = self.slow.acquire().await.unwrap();
        self.answer()?;
        self.fate.step("before the blocks are written").await;
        let mut refused = None;
        for block in blocks {
            assert!(!block.times.is_empty() && block.times.is_sorted());
            match self.refuse.lock().as_ref().and_then(|refuse| refuse(&block)) {
                Some(error) => refused = Some(error),
                None => drop(self.written.lock().entry(block.id.clone()).or_insert(block)),
            }
        }
        self.fate.step("after the blocks were written").await;
        refused.map_or(Ok(()), Err)
    }

    async fn sync(&self) -> Result<()> {
        self.answer()?;
        self.fate.step("before the sync").await;
        let written = self.written.lock().clone();
        *self.durable.lock() = written;
        self.fate.step("after the sync").await;
        Ok(())
    }

    fn done(&self, _: &str, below: u64) {
        self.done.store(below, Ordering::Relaxed);
    }

    async fn find(&self, _: &DeviceKey, _: TimeRange) -> Result<Vec<BlockMeta>> {
        unreachable!("the sinks do not ask")
    }

    async fn fetch(&self, _: &DeviceKey, _: &[BlockMeta], _: Option<&[Arc<str>]>) -> Result<Vec<Block>> {
        unreachable!("the sinks do not ask")
    }

    async fn count(&self) -> Result<Vec<(Arc<str>, u64)>> {
        // Long enough for a flush to come in between, if it may.
        tokio::time::sleep(Duration::from_millis(30)).await;
        let mut counts = BTreeMap::new();
        for block in self.durable.lock().values() {
            *counts.entry(Arc::clone(&block.id.device.tenant)).or_insert(0) += block.times.len() as u64;
        }
        Ok(counts.into_iter().collect())
    }

    async fn count_between(&self, range: TimeRange) -> Result<Option<Vec<(Arc<str>, u64)>>> {
        let mut counts = BTreeMap::new();
        for block in self.durable.lock().values() {
            let within = block.times.iter().filter(|time| range.contains(**time)).count();
            *counts.entry(Arc::clone(&block.id.device.tenant)).or_insert(0) += within as u64;
        }
        Ok(Some(counts.into_iter().collect()))
    }

    async fn expire(&self, _: Nanos) -> Result<u64> {
        Ok(0)
    }

    async fn merge(&self) -> Result<bool> {
        Ok(false)
    }
}

/// Durable when it returns.
pub(crate) struct FakeLatest {
    fate: Arc<Fate>,
    pub(crate) states: Mutex<BTreeMap<DeviceKey, LatestState>>,
    /// Time that a load takes.
    pub(crate) slow: Mutex<std::time::Duration>,
}

impl FakeLatest {
    pub(crate) fn new(fate: Arc<Fate>) -> Self {
        Self { fate, states: Mutex::default(), slow: Mutex::default() }
    }
}

#[async_trait]
impl LatestView for FakeLatest {
    async fn get(&self, devices: &[DeviceKey]) -> Result<Vec<Option<LatestState>>> {
        self.fate.step("before states are read").await;
        let states = self.states.lock();
        Ok(devices.iter().map(|device| states.get(device).cloned()).collect())
    }

    async fn list(&self, tenant: &str, after: Option<&str>, limit: usize) -> Result<Vec<LatestState>> {
        let states = self.states.lock();
        let of_tenant = states.values().filter(|state| &*state.device.tenant == tenant);
        Ok(of_tenant.filter(|state| after.is_none_or(|after| &*state.device.id > after)).take(limit).cloned().collect())
    }
}

#[async_trait]
impl Latest for FakeLatest {
    async fn load(&self, after: Option<&DeviceKey>, limit: usize) -> Result<Vec<LatestState>> {
        let slow = *self.slow.lock();
        if !slow.is_zero() {
            tokio::time::sleep(slow).await;
        }
        let states = self.states.lock();
        let behind = |device: &DeviceKey| after.is_none_or(|after| device > after);
        Ok(states.iter().filter(|(device, _)| behind(device)).take(limit).map(|(_, state)| state.clone()).collect())
    }

    async fn store(&self, states: Vec<LatestState>) -> Result<()> {
        self.fate.step("before the states are stored").await;
        self.states.lock().extend(states.into_iter().map(|state| (state.device.clone(), state)));
        self.fate.step("after the states were stored").await;
        Ok(())
    }
}

/// Durable when it returns.
pub(crate) struct FakeLetters {
    fate: Arc<Fate>,
    pub(crate) letters: Mutex<BTreeMap<(u64, String), Deadletter>>,
}

impl FakeLetters {
    pub(crate) fn new(fate: Arc<Fate>) -> Self {
        Self { fate, letters: Mutex::default() }
    }
}

#[async_trait]
impl DeadLetters for FakeLetters {
    async fn put(&self, letters: Vec<Deadletter>) -> Result<()> {
        self.fate.step("before the letters are put").await;
        for letter in letters {
            self.letters.lock().entry((letter.offset, letter.stage.clone())).or_insert(letter);
        }
        self.fate.step("after the letters were put").await;
        Ok(())
    }

    async fn list(&self, _: &str, after: Option<(&str, u64, &str)>, limit: usize) -> Result<Vec<Deadletter>> {
        let letters = self.letters.lock();
        let behind = |at: &(u64, String)| after.is_none_or(|(_, offset, stage)| (at.0, &*at.1) > (offset, stage));
        Ok(letters.iter().filter(|(at, _)| behind(at)).map(|(_, letter)| letter.clone()).take(limit).collect())
    }

    async fn get(&self, _: &str, _: &str, offset: u64, stage: &str) -> Result<Option<Deadletter>> {
        Ok(self.letters.lock().get(&(offset, stage.to_owned())).cloned())
    }

    async fn mark_replayed(&self, _: &str, _: &str, _: u64, _: &str, _: Nanos) -> Result<()> {
        Ok(())
    }

    async fn count(&self) -> Result<Vec<(Arc<str>, u64)>> {
        let mut counts = BTreeMap::new();
        for letter in self.letters.lock().values() {
            *counts.entry(Arc::clone(&letter.tenant)).or_insert(0) += 1;
        }
        Ok(counts.into_iter().collect())
    }
}

/// Durable when it returns.
pub(crate) struct FakeRetained {
    fate: Arc<Fate>,
    pub(crate) messages: Mutex<BTreeMap<RetainedKey, RetainedMessage>>,
}

impl FakeRetained {
    pub(crate) fn new(fate: Arc<Fate>) -> Self {
        Self { fate, messages: Mutex::default() }
    }
}

#[async_trait]
impl Retained for FakeRetained {
    async fn page(&self, after: Option<&RetainedKey>, most_bytes: usize) -> Result<RetainedPage> {
        Ok(page_of(&self.messages.lock(), after, most_bytes))
    }

    async fn holds(&self, tenant: &str, topics: &[String]) -> Result<Vec<bool>> {
        let held = self.messages.lock();
        Ok(topics.iter().map(|topic| held.contains_key(&(tenant.into(), topic.clone()))).collect())
    }

    async fn read(&self, tenant: &str, topics: &[String], most_bytes: usize) -> Result<Vec<Option<RetainedMessage>>> {
        Ok(messages_of(&self.messages.lock(), tenant, topics, most_bytes))
    }

    async fn apply(&self, changes: Vec<RetainedMessage>) -> Result<()> {
        self.fate.step("before the messages are applied").await;
        for change in changes {
            let topic = (Arc::clone(&change.tenant), change.topic.clone());
            if change.payload.is_empty() {
                self.messages.lock().remove(&topic);
            } else {
                self.messages.lock().insert(topic, change);
            }
        }
        self.fate.step("after the messages were applied").await;
        Ok(())
    }
}
