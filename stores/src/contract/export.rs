//! Exports: readings on their way to a system outside Weir, a series database or an event bus.

use std::sync::Arc;

use async_trait::async_trait;
use model::TimeRange;
use model::trace::TraceContext;

use super::{Result, StoredPart};
use crate::block::Block;

/// One device's readings of one delivery.
#[derive(Debug, Clone, PartialEq)]
pub struct DeviceBatch {
    /// The readings.
    pub block: Block,
    /// Log offset of each row. With the log's id it identifies a reading, so that a consumer can
    /// drop repeats.
    pub offsets: Vec<u64>,
    /// Rows that are traced, with the contexts they were received in.
    pub traces: Vec<(usize, TraceContext)>,
}

/// A system that readings are exported to. A delivery is one or more writes and a commit; it is
/// repeated, in any cut, until the commit returns.
#[async_trait]
pub trait Export: Send + Sync + 'static {
    /// Becomes the one writer for `log` under the lease `epoch`: fences writers with lower epochs
    /// where the system can. Returns the offset below which the system itself records that it holds
    /// everything, `None` where only the log's cursor records it.
    async fn join(&self, _log: &str, _epoch: u64) -> Result<Option<u64>> {
        Ok(None)
    }

    /// Tries to reach the system, now, and checks that it accepts the settings.
    ///
    /// # Errors
    /// [`StoreError::Busy`](super::StoreError::Busy) when it is away: continue, the log keeps its
    /// readings. [`StoreError::NeedsOperator`](super::StoreError::NeedsOperator), with the key to
    /// change, when it refuses them: end the start if they are new, else pause the export.
    async fn ready(&self) -> Result<()> {
        Ok(())
    }

    /// Returns the parts that hold what was written, as they are now; none of a system that cannot
    /// be asked. They do not change while nothing is lost.
    ///
    /// # Errors
    /// As [`Export::ready`].
    async fn parts(&self) -> Result<Vec<StoredPart>> {
        Ok(Vec::new())
    }

    /// Writes readings; those that are held already change nothing where the system can recognise
    /// them. Durable at the latest when [`Export::commit`] returns.
    async fn write(&self, log: &str, batches: Vec<DeviceBatch>) -> Result<()>;

    /// Ends the delivery: everything written for `log` since the last commit is durable when it
    /// returns, together with `done_to` where the system keeps the cursor.
    async fn commit(&self, _log: &str, _done_to: u64) -> Result<()> {
        Ok(())
    }

    /// Follows a cursor that an operator has set back. A system that keeps no cursor has nothing to
    /// do.
    async fn rewind(&self, _log: &str, _epoch: u64, _done_to: u64) -> Result<()> {
        Ok(())
    }

    /// Counts the readings between two ordering times, by tenant, in the system itself: for the
    /// books. `None` from a system that cannot be asked.
    async fn count(&self, _range: TimeRange) -> Result<Option<Vec<(Arc<str>, u64)>>> {
        Ok(None)
    }

    /// False when the system deletes old readings by itself, so that it counts fewer than were
    /// written.
    async fn keeps_everything(&self) -> Result<bool> {
        Ok(true)
    }

    /// Counts the readings of a tenant that the system holds. `None` from a system that cannot be
    /// asked.
    async fn count_of(&self, _tenant: &str) -> Result<Option<u64>> {
        Ok(None)
    }

    /// Deletes some of the readings of a tenant, durably when it returns; false when none were
    /// left.
    /// `None` from a system in which a single tenant's readings cannot be deleted: they stay until
    /// the system itself deletes them.
    async fn delete_some_of(&self, _tenant: &str) -> Result<Option<bool>> {
        Ok(None)
    }

    /// True when the system holds one reading for each device, millisecond and place within it, so
    /// that [`Block::seqs`] must hold distinct places. False: sequences as sent.
    fn needs_distinct_times(&self) -> bool {
        false
    }
}
