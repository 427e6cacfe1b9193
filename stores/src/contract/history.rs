//! History: blocks of readings.

use std::sync::Arc;

use async_trait::async_trait;
use model::{DeviceKey, Nanos, TimeRange};

use super::Result;
use crate::block::{Block, BlockMeta};

/// Blocks of readings, written once and found by device and time.
#[async_trait]
pub trait History: Send + Sync + 'static {
    /// Writes blocks. A block whose [`BlockId`](crate::BlockId) is stored already changes nothing,
    /// also when it has been merged into a larger one since. Not durable before [`History::sync`].
    async fn write(&self, blocks: Vec<Block>) -> Result<()>;

    /// Returns when everything written before survives a crash of the machine, past any journal of
    /// the store.
    async fn sync(&self) -> Result<()>;

    /// Declares that no block of `log` with a first offset below `below` will be written again, so
    /// that they may be merged.
    fn done(&self, log: &str, below: u64);

    /// Returns the blocks of a device that touch `range`, by first time.
    async fn find(&self, device: &DeviceKey, range: TimeRange) -> Result<Vec<BlockMeta>>;

    /// Reads blocks in the order of `metas`, with the columns in `names` only, or all when it is
    /// `None`.
    ///
    /// # Errors
    /// [`StoreError::Moved`](super::StoreError::Moved) when a block no longer exists: find again.
    async fn fetch(&self, device: &DeviceKey, metas: &[BlockMeta], names: Option<&[Arc<str>]>) -> Result<Vec<Block>>;

    /// Counts the readings held, by tenant: for the books. The rows that are in the store are
    /// counted, not writes. Readings that have expired, or were found to be the same as another
    /// when blocks were merged, count as held: they were stored.
    async fn count(&self) -> Result<Vec<(Arc<str>, u64)>>;

    /// Counts the readings between two ordering times, by tenant. `None` from a store that merges
    /// equal readings later, where the count would not be a measure of what was written.
    async fn count_between(&self, _: TimeRange) -> Result<Option<Vec<(Arc<str>, u64)>>> {
        Ok(None)
    }

    /// Deletes readings older than `before`, as far as the store can; returns their number.
    async fn expire(&self, before: Nanos) -> Result<u64>;

    /// Merges small blocks for up to about a second; true when there is more to do.
    async fn merge(&self) -> Result<bool>;
}
