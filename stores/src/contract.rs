//! What Weir asks of a store. Each trait has one contract test suite that runs on every implementation.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use model::{DeviceKey, Nanos, TimeRange, Value};

use crate::block::{Block, BlockMeta};

/// What a store's refusal means, decided in the store, acted on by one driver in the flusher.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// Some of the items can never be stored; split the batch to find them, then dead-letter them with this reason.
    #[error("refused: {0}")]
    Refused(String),
    /// The batch is too large: split it.
    #[error("too large: {0}")]
    TooLarge(String),
    /// Needs a person (credentials, permissions, missing database): pause the sink, keep everything.
    #[error("needs attention: {0}")]
    Paused(String),
    /// Try again, after this long if the store said so.
    #[error("not now: {reason}")]
    Busy {
        /// Why.
        reason: String,
        /// When the store said to come back.
        retry_after: Option<Duration>,
    },
    /// Stored bytes are not what was written. Never retried, never skipped.
    #[error("stored data is damaged: {0}")]
    Damaged(String),
    /// A block was merged away between find and fetch: find again.
    #[error("block has moved")]
    Moved,
}

/// The result of asking a store.
pub type Result<T> = std::result::Result<T, StoreError>;

/// History: blocks of readings.
#[async_trait]
pub trait History: Send + Sync + 'static {
    /// Writes blocks. A block whose [`BlockId`](crate::BlockId) is there already changes nothing, also when it was
    /// merged into a larger one since. Not durable before [`History::sync`].
    async fn write(&self, blocks: Vec<Block>) -> Result<()>;

    /// Returns when everything written before survives a crash of the machine, past any journal of the store.
    async fn sync(&self) -> Result<()>;

    /// Says that no block of `log` with a first offset below `below` will be written again: they may be merged.
    fn done(&self, log: &str, below: u64);

    /// The blocks of a device that touch `range`, by first time.
    async fn find(&self, device: &DeviceKey, range: TimeRange) -> Result<Vec<BlockMeta>>;

    /// Reads blocks; of the columns only those named, all when `names` is `None`. In the order of `metas`.
    ///
    /// # Errors
    /// [`StoreError::Moved`] when one is not there any more: find again.
    async fn fetch(&self, device: &DeviceKey, metas: &[BlockMeta], names: Option<&[Arc<str>]>) -> Result<Vec<Block>>;

    /// Readings held, by tenant: the store's own count, for the books. Readings that were expired, or found to be equal to
    /// another when blocks were merged, count as held: they were stored.
    async fn count(&self) -> Result<Vec<(Arc<str>, u64)>>;

    /// Readings held between two ordering times, by tenant, as they stand in the store; `None` for a store that finds equal readings
    /// only later, so that this would be no measure of what it was given.
    async fn count_between(&self, _: TimeRange) -> Result<Option<Vec<(Arc<str>, u64)>>> {
        Ok(None)
    }

    /// Deletes what is older than the retention; returns the number of readings deleted.
    async fn expire(&self, before: Nanos) -> Result<u64>;

    /// Merges small blocks for up to about a second; true when there is more to do.
    async fn merge(&self) -> Result<bool>;
}

/// The newest value of one name of a device.
#[derive(Debug, Clone, PartialEq)]
pub struct LatestValue {
    /// Value name.
    pub name: Arc<str>,
    /// The value.
    pub value: Value,
    /// Its ordering time.
    pub time: Nanos,
    /// Its sequence.
    pub seq: Option<u64>,
    /// When Weir took it.
    pub received: Nanos,
}

/// What is known of a device now.
#[derive(Debug, Clone, PartialEq)]
pub struct LatestState {
    /// Who.
    pub device: DeviceKey,
    /// Receive time of its first reading.
    pub first_seen: Nanos,
    /// Receive time of its last reading.
    pub last_seen: Nanos,
    /// Readings taken from it; an estimate after a crash (never less than what is stored).
    pub readings: u64,
    /// Largest distance seen between the device's clock and ours, device minus ours.
    pub clock_skew: Nanos,
    /// Newest value of each name, by name.
    pub values: Vec<LatestValue>,
}

/// Latest state of each device.
#[async_trait]
pub trait Latest: Send + Sync + 'static {
    /// Everything, for the start.
    async fn load(&self) -> Result<Vec<LatestState>>;

    /// Replaces the states of these devices, durably when it returns. Where several processes write, each value that is newer than
    /// what is held.
    async fn store(&self, states: Vec<LatestState>) -> Result<()>;
}

/// A message that could not be read or a reading that a store refused.
#[derive(Debug, Clone, PartialEq)]
pub struct Deadletter {
    /// Log it came in.
    pub log: Arc<str>,
    /// Its offset there.
    pub offset: u64,
    /// Whose.
    pub tenant: Arc<str>,
    /// Device, as far as is known.
    pub device: Option<Arc<str>>,
    /// MQTT client id of the sender.
    pub client: String,
    /// Where it was published.
    pub topic: String,
    /// The payload as it came.
    pub payload: Vec<u8>,
    /// When Weir took it.
    pub received: Nanos,
    /// Which store refused it; `ingest` when it could not be read.
    pub stage: String,
    /// Why, for a person.
    pub reason: String,
    /// When it was replayed, if it was.
    pub replayed: Option<Nanos>,
}

/// Dead letters, in the order of (log, offset).
#[async_trait]
pub trait DeadLetters: Send + Sync + 'static {
    /// Adds letters, durably when it returns; one that is there already (same log, offset, stage) changes nothing.
    async fn put(&self, letters: Vec<Deadletter>) -> Result<()>;

    /// Up to `limit` letters of a tenant after `after` = (log, offset, stage).
    async fn list(&self, tenant: &str, after: Option<(&str, u64, &str)>, limit: usize) -> Result<Vec<Deadletter>>;

    /// One letter.
    async fn get(&self, tenant: &str, log: &str, offset: u64, stage: &str) -> Result<Option<Deadletter>>;

    /// Marks one as replayed.
    async fn mark_replayed(&self, tenant: &str, log: &str, offset: u64, stage: &str, at: Nanos) -> Result<()>;

    /// Letters held, by tenant.
    async fn count(&self) -> Result<Vec<(Arc<str>, u64)>>;

    /// Letters of a stage that were replayed, by tenant.
    async fn count_replayed(&self, stage: &str) -> Result<Vec<(Arc<str>, u64)>> {
        const PAGE: usize = 1_000;
        let mut counts = Vec::new();
        for (tenant, _) in self.count().await? {
            let (mut count, mut last) = (0, None::<Deadletter>);
            loop {
                let after = last.as_ref().map(|letter| (&*letter.log, letter.offset, &*letter.stage));
                let page = self.list(&tenant, after, PAGE).await?;
                count += page.iter().filter(|l| l.stage == stage && l.replayed.is_some()).count() as u64;
                let full = page.len() == PAGE;
                last = page.into_iter().last();
                if !full {
                    break;
                }
            }
            counts.push((tenant, count));
        }
        Ok(counts)
    }
}

/// Points: readings for a store of series, each identified by its series and its time, so that a write may be repeated.
#[async_trait]
pub trait Points: Send + Sync + 'static {
    /// Writes the readings of blocks, durably when it returns; what is there already changes nothing. Readings of one
    /// device and millisecond are told apart by [`Block::seqs`] alone: whoever writes gives each its own.
    async fn write(&self, blocks: Vec<Block>) -> Result<()>;

    /// Readings held between two ordering times, by tenant: the store's own count, for the books.
    async fn count(&self, range: TimeRange) -> Result<Vec<(Arc<str>, u64)>>;

    /// False when the store deletes what is old by itself: then its count is less than what was written.
    async fn keeps_everything(&self) -> Result<bool> {
        Ok(true)
    }
}

/// A retained MQTT message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetainedMessage {
    /// Topic name.
    pub topic: String,
    /// Quality of service.
    pub qos: u8,
    /// Payload; empty means: cleared.
    pub payload: Vec<u8>,
    /// MQTT 5 properties, encoded.
    pub properties: Vec<u8>,
    /// When it was set.
    pub received: Nanos,
}

/// Retained messages.
#[async_trait]
pub trait Retained: Send + Sync + 'static {
    /// All of them.
    async fn load(&self) -> Result<Vec<RetainedMessage>>;

    /// Applies changes in order, durably when it returns. Where several processes write, one that was received before what is held
    /// changes nothing.
    async fn apply(&self, changes: Vec<RetainedMessage>) -> Result<()>;
}

/// Readings that the history sink has not stored yet. The flusher answers this from memory.
#[async_trait]
pub trait Tail: Send + Sync + 'static {
    /// The unflushed readings of a device in `range`, holding at least everything durable when the call began. Ask the
    /// tail before the store: what moves from one to the other in between is then seen twice, never not at all.
    async fn tail(&self, device: &DeviceKey, range: TimeRange, names: Option<&[Arc<str>]>) -> Result<TailAnswer>;
}

/// What a tail holds of a device.
#[derive(Debug, Clone)]
pub struct TailAnswer {
    /// Rows not stored yet; empty when there are none.
    pub blocks: Vec<Block>,
    /// Everything received before this is in the answer or in the store.
    pub complete_until: Nanos,
}

/// The latest states as readers see them. The flusher answers this from memory.
#[async_trait]
pub trait LatestView: Send + Sync + 'static {
    /// The states of these devices, holding at least everything durable when the call began; `None` for a device that
    /// never sent a reading.
    async fn get(&self, devices: &[DeviceKey]) -> Result<Vec<Option<LatestState>>>;

    /// Up to `limit` states of a tenant with device ids after `after`, by device id.
    async fn list(&self, tenant: &str, after: Option<&str>, limit: usize) -> Result<Vec<LatestState>>;
}

/// One line of the books: a tenant in a store. `accepted = stored + merged + pending + dead_lettered`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BookLine {
    /// Whose.
    pub tenant: Arc<str>,
    /// Sink: `history`, `latest`, ...
    pub sink: String,
    /// Messages and readings acknowledged as durable: counted from the log, whatever the sink says.
    pub accepted: u64,
    /// Stored.
    pub stored: u64,
    /// Equal to one stored already.
    pub merged: u64,
    /// In the log, not yet in the store.
    pub pending: u64,
    /// In the dead letters.
    pub dead_lettered: u64,
    /// What the store itself counts, when it was asked (`check`).
    pub held: Option<u64>,
    /// What it should count.
    pub expected: u64,
    /// The same by the hour of the readings' time, for stores that can be asked for that; the latest hours.
    pub hours: Vec<HourLine>,
}

/// What a store should hold of an hour, and holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HourLine {
    /// Hours since 1970.
    pub hour: i64,
    /// What it should count.
    pub expected: u64,
    /// What it counts, when it was asked.
    pub held: Option<u64>,
}

/// The books.
#[async_trait]
pub trait Books: Send + Sync + 'static {
    /// One line for each tenant and sink; with `check`, the stores are asked what they really hold.
    async fn books(&self, check: bool) -> Result<Vec<BookLine>>;
}
