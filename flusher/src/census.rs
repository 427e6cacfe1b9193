//! Counts what the log holds, whatever the sinks say: the independent half of the books, and the measure of their lag.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use buffer::frame::{Frame, Record};
use buffer::{Log, ReadError};
use model::Nanos;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::config::Retry;
use crate::progress::{Place, Progress};
use crate::sink::{Tallies, tenant_of};
use crate::verdict::Backoff;

/// Bytes asked of the log at a time.
const READ_BYTES: usize = 1 << 20;
/// Least time between two looks when nobody asks.
const LOOK: Duration = Duration::from_millis(200);
/// Stretches that are counted apart; when there are more, neighbours are counted as one.
const STRETCHES: usize = 4_096;

/// Records of a tenant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Count {
    /// Readings.
    pub(crate) readings: u64,
    /// Messages that could not be read.
    pub(crate) letters: u64,
}

/// Counts by tenant.
pub(crate) type Counts = BTreeMap<Arc<str>, Count>;

#[derive(Debug, Clone)]
struct Stretch {
    from: u64,
    to: u64,
    appended: Nanos,
    bytes: u64,
    counts: Vec<(Arc<str>, Count)>,
}

/// The count of one log.
pub(crate) struct Census {
    log: Arc<dyn Log>,
    progress: Progress,
    inner: Mutex<Inner>,
}

struct Inner {
    stretches: VecDeque<Stretch>,
    /// Everything that was ever accepted, below the followed offset.
    accepted: BTreeMap<Arc<str>, u64>,
    /// Below it, records are in `accepted` already.
    accepted_from: u64,
}

/// How much lies between a cursor and the end.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Lag {
    pub(crate) bytes: u64,
    /// When the oldest frame of it was appended.
    pub(crate) since: Option<Nanos>,
}

/// What is between two offsets, as far as it is counted apart; the rest has to be read.
struct Between {
    counts: Counts,
    unread: Vec<(u64, u64)>,
}

impl Census {
    /// Counts from `from`. `tallies` are those of a cursor at `at`: what became of everything below, which was
    /// therefore accepted.
    pub(crate) fn new(log: Arc<dyn Log>, from: u64, at: u64, tallies: &Tallies) -> Self {
        let telemetry = |(tenant, t): (&String, &buffer::Tally)| (tenant.as_str().into(), t.total() - t.other);
        let inner =
            Inner { stretches: VecDeque::new(), accepted: tallies.iter().map(telemetry).collect(), accepted_from: at };
        Self { log, progress: Progress::new(from), inner: Mutex::new(inner) }
    }

    /// Counts until told to stop.
    ///
    /// # Errors
    /// A sentence when the log cannot be read.
    pub(crate) async fn run(self: Arc<Self>, retry: Retry, shutdown: CancellationToken) -> Result<(), String> {
        let mut end = self.log.watch_end();
        let mut backoff = Backoff::new(&retry);
        while !shutdown.is_cancelled() {
            let followed = self.progress.place().followed;
            if followed >= self.log.end() {
                tokio::select! {
                    changed = end.changed() => if changed.is_err() { shutdown.cancelled().await; },
                    () = shutdown.cancelled() => {}
                }
                continue;
            }
            match self.step(followed).await {
                Ok(()) => {}
                Err(ReadError::Unavailable(_)) => tokio::time::sleep(backoff.draw()).await,
                Err(error) => return Err(error.to_string()),
            }
            if !self.progress.is_wanted() && self.progress.place().followed >= self.log.end() {
                tokio::select! {
                    () = tokio::time::sleep(LOOK) => {}
                    () = self.progress.woken() => {}
                    () = shutdown.cancelled() => {}
                }
            }
        }
        self.progress.set(Place { ended: true, ..self.progress.place() });
        Ok(())
    }

    async fn step(&self, from: u64) -> Result<(), ReadError> {
        let frames = self.log.read(from, READ_BYTES).await?;
        let mut followed = from;
        for frame in &frames {
            let to = frame.header().end_offset();
            if to > followed {
                self.inner.lock().count(frame, followed);
                followed = to;
            }
        }
        self.progress.set(Place { followed, full: false, ended: false });
        Ok(())
    }

    /// Waits until everything below `end` is counted. False when that took too long.
    pub(crate) async fn reach(&self, end: u64, limit: Duration) -> bool {
        self.progress.reach(end, limit).await.followed >= end
    }

    /// Forgets the stretches below `offset`, which every sink has passed.
    pub(crate) fn forget_below(&self, offset: u64) {
        let mut inner = self.inner.lock();
        while inner.stretches.front().is_some_and(|s| s.to <= offset) {
            inner.stretches.pop_front();
        }
    }

    /// The lag of a cursor at `done_to`.
    pub(crate) fn lag(&self, done_to: u64) -> Lag {
        let inner = self.inner.lock();
        let behind = || inner.stretches.iter().filter(|s| s.to > done_to);
        Lag { bytes: behind().map(|s| s.bytes).sum(), since: behind().next().map(|s| s.appended) }
    }

    /// Everything accepted up to where it is, and what lies between each of `offsets` and there.
    ///
    /// # Errors
    /// [`ReadError`], when a part that is not counted apart cannot be read.
    pub(crate) async fn take_stock(&self, offsets: &[u64]) -> Result<Stock, ReadError> {
        let (accepted, between) = {
            let inner = self.inner.lock();
            // Under the lock, so that counts and place belong together.
            let end = inner.stretches.back().map_or(self.progress.place().followed, |s| s.to);
            let between: Vec<_> = offsets.iter().map(|from| inner.between(*from, end)).collect();
            (inner.accepted.clone(), between)
        };
        let mut pending = Vec::new();
        for mut part in between {
            for (from, to) in part.unread {
                self.read_counts(from, to, &mut part.counts).await?;
            }
            pending.push(part.counts);
        }
        Ok(Stock { accepted, pending })
    }

    async fn read_counts(&self, from: u64, to: u64, counts: &mut Counts) -> Result<(), ReadError> {
        let mut at = from;
        while at < to {
            let frames = self.log.read(at, READ_BYTES).await?;
            let Some(last) = frames.last() else { break };
            frames.iter().for_each(|frame| count_records(frame, at, to, |t, c| bump(counts, t, c)));
            at = last.header().end_offset();
        }
        Ok(())
    }
}

/// What a census found.
pub(crate) struct Stock {
    /// Readings and messages ever accepted, by tenant.
    pub(crate) accepted: BTreeMap<Arc<str>, u64>,
    /// Between each asked offset and where it is.
    pub(crate) pending: Vec<Counts>,
}

impl Inner {
    fn count(&mut self, frame: &Frame, from: u64) {
        let header = frame.header();
        let mut counts: Vec<(Arc<str>, Count)> = Vec::new();
        count_records(frame, from, header.end_offset(), |tenant, count| {
            let held = counts.iter().position(|(held, _)| **held == *tenant).unwrap_or_else(|| {
                counts.push((tenant.into(), Count::default()));
                counts.len() - 1
            });
            counts[held].1.readings += count.readings;
            counts[held].1.letters += count.letters;
        });
        if from >= self.accepted_from {
            counts.iter().for_each(|(tenant, count)| self.accept(tenant, *count));
        } else {
            let mut late: Vec<(Arc<str>, Count)> = Vec::new();
            count_records(frame, self.accepted_from, header.end_offset(), |t, count| late.push((t.into(), count)));
            late.iter().for_each(|(tenant, count)| self.accept(tenant, *count));
        }
        let bytes = frame.bytes().len() as u64;
        let (to, appended) = (header.end_offset(), header.appended);
        self.stretches.push_back(Stretch { from, to, appended, bytes, counts });
        if self.stretches.len() > STRETCHES {
            self.join();
        }
    }

    fn accept(&mut self, tenant: &Arc<str>, count: Count) {
        *self.accepted.entry(Arc::clone(tenant)).or_default() += count.readings + count.letters;
    }

    /// Counts neighbours as one.
    fn join(&mut self) {
        let mut joined = VecDeque::with_capacity(STRETCHES);
        while let Some(mut first) = self.stretches.pop_front() {
            if let Some(second) = self.stretches.pop_front() {
                first.to = second.to;
                first.bytes += second.bytes;
                for (tenant, count) in second.counts {
                    match first.counts.iter_mut().find(|(held, _)| *held == tenant) {
                        Some((_, held)) => {
                            held.readings += count.readings;
                            held.letters += count.letters;
                        }
                        None => first.counts.push((tenant, count)),
                    }
                }
            }
            joined.push_back(first);
        }
        self.stretches = joined;
    }

    fn between(&self, from: u64, to: u64) -> Between {
        let mut found = Between { counts: Counts::new(), unread: Vec::new() };
        for stretch in self.stretches.iter().filter(|s| s.to > from && s.from < to) {
            if stretch.from >= from && stretch.to <= to {
                stretch.counts.iter().for_each(|(tenant, count)| bump(&mut found.counts, tenant, *count));
            } else {
                found.unread.push((stretch.from.max(from), stretch.to.min(to)));
            }
        }
        found
    }
}

/// Adds to a tenant's count.
pub(crate) fn bump(counts: &mut Counts, tenant: &str, count: Count) {
    if !counts.contains_key(tenant) {
        counts.insert(tenant.into(), Count::default());
    }
    let held = counts.get_mut(tenant).expect("it was put there");
    held.readings += count.readings;
    held.letters += count.letters;
}

/// Counts the records of `frame` with offsets in `from..to`, one call for each run of one tenant.
pub(crate) fn count_records(frame: &Frame, from: u64, to: u64, mut found: impl FnMut(&str, Count)) {
    let mut run: Option<(&str, Count)> = None;
    for (offset, record) in frame.records() {
        if offset < from || offset >= to || matches!(record, Record::Retained(_)) {
            continue;
        }
        let tenant = tenant_of(&record);
        let (_, count) = match &mut run {
            Some(held) if held.0 == tenant => held,
            other => {
                if let Some((tenant, count)) = other.take() {
                    found(tenant, count);
                }
                other.insert((tenant, Count::default()))
            }
        };
        match record {
            Record::Reading(_) => count.readings += 1,
            _ => count.letters += 1,
        }
    }
    if let Some((tenant, count)) = run {
        found(tenant, count);
    }
}
