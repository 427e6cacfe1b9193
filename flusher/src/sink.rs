//! The contract between a sink and the engine that drives it.

use async_trait::async_trait;
use buffer::frame::Frame;
use buffer::{Log, ReadError};
use model::Nanos;
use stores::contract::{Deadletter, Result};

use crate::accounting::tallies::{HourTallies, Tallies};

/// A projection of one log. It takes records in order; from time to time the engine delivers what
/// was taken as one batch, while the sink takes more.
#[async_trait]
pub trait Sink: Send + Sync + 'static {
    /// The records taken between two closings.
    type Batch: Send + Sync + 'static;
    /// The unit that the store accepts or refuses as a whole.
    type Item: Clone + Send + Sync + 'static;

    /// True when the written items depend on where a range ends, so that a restart has to cut the
    /// same range again.
    fn seals(&self) -> bool {
        false
    }

    /// Reads from the log below `done_to` what the sink needs before its first record.
    ///
    /// # Errors
    /// [`ReadError`].
    async fn prepare(&self, _log: &dyn Log, _done_to: u64) -> std::result::Result<(), ReadError> {
        Ok(())
    }

    /// Becomes the one writer of the log under the lease `epoch`. Returns the offset below which
    /// the store itself records that it holds everything; `None` when only the log's cursor records
    /// that.
    ///
    /// # Errors
    /// The store's answer.
    async fn join(&self, _epoch: u64) -> Result<Option<u64>> {
        Ok(None)
    }

    /// Forgets the readings that were delivered, before they are counted or delivered again.
    fn forget(&self) {}

    /// Takes the records of `frame` with offsets in `from..to`.
    fn take(&self, frame: &Frame, from: u64, to: u64);

    /// The records that were taken and are not finished.
    fn load(&self) -> Load;

    /// Ends the batch and begins the next.
    fn close(&self) -> Self::Batch;

    /// Part `index` of a batch, ready to be written; `None` after the last. A pure function of the
    /// records, unless writing again what has changed since is harmless.
    fn cut(&self, batch: &Self::Batch, index: usize) -> Option<Part<Self::Item>>;

    /// Writes items; those that are there already change nothing.
    ///
    /// # Errors
    /// The store's answer.
    async fn write(&self, items: Vec<Self::Item>) -> Result<()>;

    /// Makes everything written durable, together with `done_to` where the store keeps a cursor of
    /// its own.
    ///
    /// # Errors
    /// The store's answer.
    async fn commit(&self, done_to: u64) -> Result<()>;

    /// Sets the store's own cursor back to `done_to`, where it keeps one.
    ///
    /// # Errors
    /// The store's answer.
    async fn rewind(&self, _epoch: u64, _done_to: u64) -> Result<()> {
        Ok(())
    }

    /// Both halves of an item, `None` when it cannot be split.
    fn halve(&self, item: &Self::Item) -> Option<(Self::Item, Self::Item)>;

    /// Decides about an item that the store refuses and that cannot be split.
    fn on_refused(&self, item: &Self::Item, reason: &str) -> Refusal;

    /// The ordering time of an item that cannot be split, where hours are counted.
    fn time_of(&self, _: &Self::Item) -> Option<Nanos> {
        None
    }

    /// Frees the closed batch: it is durable in the store and the cursor has passed it, up to
    /// `done_to`.
    fn finish(&self, done_to: u64);
}

/// The records that a sink has taken and that are not finished.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    /// Records of the open batch that have to be delivered.
    pub records: u64,
    /// Memory of all that is not finished, closed batches included.
    pub bytes: u64,
    /// The share of `bytes` that is not closed.
    pub open_bytes: u64,
}

/// Part of a batch.
#[derive(Debug)]
pub struct Part<I> {
    /// To be written.
    pub items: Vec<I>,
    /// Outcomes of the records once all items are written.
    pub tallies: Tallies,
    /// The hours of what is stored, for sinks whose stores can be counted by time.
    pub hours: HourTallies,
}

impl<I> Part<I> {
    /// A part without items; `tallies` count the records that are not items.
    pub fn begin(tallies: Tallies) -> Self {
        Self { items: Vec::new(), tallies, hours: HourTallies::new() }
    }
}

/// Outcome of an item that a store rejects.
#[derive(Debug)]
pub enum Refusal {
    /// It becomes a dead letter.
    DeadLetter(Box<Deadletter>),
    /// The store goes without it: it is not the only copy.
    LeaveOut,
    /// It is the last resort itself: the sink pauses.
    Pause,
}
