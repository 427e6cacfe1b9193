//! What a sink is to the driver that runs it.

use std::collections::BTreeMap;

use async_trait::async_trait;
use buffer::Tally;
use buffer::cursor::Hours;
use buffer::frame::{Frame, Record};
use model::{DEFAULT_TENANT, Nanos, TimeRange};
use stores::contract::Deadletter;

/// What became of records, by tenant.
pub(crate) type Tallies = BTreeMap<String, Tally>;

/// Readings stored, by tenant and hour of their ordering time.
pub(crate) type HourTallies = BTreeMap<String, Hours>;

const HOUR: Nanos = 3_600 * 1_000_000_000;

/// The hour of an ordering time, in hours since 1970.
pub(crate) fn hour_of(time: Nanos) -> i64 {
    time.div_euclid(HOUR)
}

/// The ordering times of an hour.
pub(crate) fn times_of(hour: i64) -> TimeRange {
    let start = hour.saturating_mul(HOUR);
    TimeRange { start, end: start.saturating_add(HOUR) }
}

/// A projection of one log. It takes records in order, and now and then delivers what it took as one batch while it
/// goes on taking.
#[async_trait]
pub(crate) trait Sink: Send + Sync + 'static {
    /// What was taken between two closings.
    type Batch: Send + Sync + 'static;
    /// What the store takes or refuses as a whole.
    type Item: Clone + Send + Sync + 'static;

    /// True when what it writes depends on where a range ends, so that a restart has to cut the same range again.
    fn seals(&self) -> bool;

    /// Takes the records of `frame` with offsets in `from..to`.
    fn take(&self, frame: &Frame, from: u64, to: u64);

    /// What it took and has not closed.
    fn load(&self) -> Load;

    /// Ends the batch and begins the next.
    fn close(&self) -> Self::Batch;

    /// Part `index` of a batch, ready to be written; `None` after the last. A pure function of the records, unless
    /// writing again what has changed since is harmless.
    fn cut(&self, batch: &Self::Batch, index: usize) -> Option<Part<Self::Item>>;

    /// Writes items; those that are there already change nothing.
    async fn write(&self, items: Vec<Self::Item>) -> stores::contract::Result<()>;

    /// Makes everything written durable.
    async fn sync(&self) -> stores::contract::Result<()>;

    /// Both halves of an item, `None` when it cannot be split.
    fn halve(&self, item: &Self::Item) -> Option<(Self::Item, Self::Item)>;

    /// What becomes of an item that the store refuses and that cannot be split.
    fn blame(&self, item: &Self::Item, reason: &str) -> Blame;

    /// The ordering time of an item that cannot be split, where hours are counted.
    fn time_of(&self, _: &Self::Item) -> Option<Nanos> {
        None
    }

    /// Lets go of the closed batch: it is durable in the store and the cursor has passed it, up to `done_to`.
    fn finish(&self, done_to: u64);
}

/// What a sink took and has not closed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Load {
    /// Records that have to be delivered.
    pub(crate) records: u64,
    /// Memory of all that is not finished, closed batches included.
    pub(crate) bytes: u64,
    /// The share of `bytes` that is not closed.
    pub(crate) open_bytes: u64,
}

/// Part of a batch.
#[derive(Debug)]
pub(crate) struct Part<I> {
    /// To be written.
    pub(crate) items: Vec<I>,
    /// What becomes of the records when all items are written.
    pub(crate) tallies: Tallies,
    /// Of what is stored, how much lies in which hour; only of sinks whose stores can be asked for that.
    pub(crate) hours: HourTallies,
}

impl<I> Part<I> {
    /// Without an item, and with what became of records that are none.
    pub(crate) fn begin(tallies: Tallies) -> Self {
        Self { items: Vec::new(), tallies, hours: HourTallies::new() }
    }
}

/// What becomes of an item that a store refuses.
#[derive(Debug)]
pub(crate) enum Blame {
    /// It becomes a dead letter.
    Letter(Box<Deadletter>),
    /// The store goes without it: it is not the only copy.
    Leave,
    /// It is the last resort itself: the sink pauses.
    Pause,
}

/// The tenant that a record counts for.
pub(crate) fn tenant_of<'a>(record: &Record<'a>) -> &'a str {
    match record {
        Record::Reading(reading) => &reading.device.tenant,
        Record::DeadLetter(letter) => letter.device.map_or(DEFAULT_TENANT, |d| &d.tenant),
        Record::Retained(_) => DEFAULT_TENANT,
    }
}

/// The tally of `tenant`, made when it is new.
pub(crate) fn tally<'a>(tallies: &'a mut Tallies, tenant: &str) -> &'a mut Tally {
    if !tallies.contains_key(tenant) {
        tallies.insert(tenant.to_owned(), Tally::default());
    }
    tallies.get_mut(tenant).expect("it was put there")
}

/// Adds all of `more` to `sum`.
pub(crate) fn add(sum: &mut Tallies, more: &Tallies) {
    for (tenant, counts) in more {
        tally(sum, tenant).add(counts);
    }
}

/// Counts the records that every sink but their own passes over: what is not kept is `other`, unread messages are in
/// the dead letters.
pub(crate) fn count_passed(tallies: &mut Tallies, record: &Record<'_>) {
    let counts = tally(tallies, tenant_of(record));
    match record {
        Record::DeadLetter(_) => counts.dead_lettered += 1,
        Record::Reading(_) | Record::Retained(_) => counts.other += 1,
    }
}
