//! Counts the records of a log independently of the sinks: the one half of the books, and the
//! measure of the sinks' lag.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use buffer::frame::{Frame, Record};
use buffer::{Cursor, Log, ReadError};
use model::Nanos;
use parking_lot::Mutex;
use stores::contract::Result;
use tokio_util::sync::CancellationToken;

use crate::HISTORY;
use crate::config::Retry;
use crate::engine::progress::{LogPosition, Progress};
use crate::engine::register::Registered;
use crate::readers::scan;

/// Bytes asked of the log at a time.
const READ_BYTES: usize = 1 << 20;
/// Least time between two reads when no caller waits.
const POLL: Duration = Duration::from_millis(200);
/// Segments that are counted apart; when there are more, neighbours are counted as one.
const SEGMENTS: usize = 4_096;

/// Records of a tenant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) readings: u64,
    /// Messages that could not be read.
    pub(crate) letters: u64,
}

pub(crate) type Counts = BTreeMap<Arc<str>, Count>;

#[derive(Debug, Clone)]
struct Segment {
    from: u64,
    to: u64,
    appended: Nanos,
    bytes: u64,
    counts: Vec<(Arc<str>, Count)>,
}

impl Segment {
    /// The records of a frame with offsets in `from..to`.
    fn of(frame: &Frame, from: u64, to: u64) -> Self {
        let header = frame.header();
        let (from, to) = (header.first_offset.max(from), header.end_offset().min(to));
        let mut counts: Vec<(Arc<str>, Count)> = Vec::new();
        count_records(frame, from, to, |tenant, count| {
            let held = counts.iter().position(|(held, _)| **held == *tenant).unwrap_or_else(|| {
                counts.push((tenant.into(), Count::default()));
                counts.len() - 1
            });
            counts[held].1.readings += count.readings;
            counts[held].1.letters += count.letters;
        });
        Self { from, to, appended: header.appended, bytes: frame.bytes().len() as u64, counts }
    }
}

/// The count of one log.
pub(crate) struct Accepted {
    log: Arc<dyn Log>,
    progress: Progress,
    inner: Mutex<Inner>,
}

struct Inner {
    segments: VecDeque<Segment>,
    /// Everything that was ever accepted, below the followed offset.
    accepted: BTreeMap<Arc<str>, u64>,
    /// Below it, records are in `accepted` already.
    accepted_from: u64,
}

/// The distance between a cursor and the end.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Lag {
    pub(crate) bytes: u64,
    /// Time at which the oldest frame behind the cursor was appended.
    pub(crate) since: Option<Nanos>,
}

/// The counts between two offsets, as far as they are known; the rest has to be read.
struct Between {
    counts: Counts,
    unread: Vec<(u64, u64)>,
}

impl Accepted {
    /// Counts from the lowest cursor. The records below the history's cursor are counted by its
    /// tallies: all of them were accepted.
    pub(crate) fn new(log: Arc<dyn Log>, cursors: &Registered) -> Self {
        let lowest = cursors.iter().map(|(_, cursor)| cursor.done_to).min().unwrap_or(0);
        let mut inner = Inner { segments: VecDeque::new(), accepted: BTreeMap::new(), accepted_from: lowest };
        if let Some((_, history)) = cursors.iter().find(|(projection, _)| *projection.name == *HISTORY) {
            inner.accepted = accepted_below(history);
            inner.accepted_from = history.done_to;
        }
        Self { log, progress: Progress::new(lowest), inner: Mutex::new(inner) }
    }

    /// Counts until `shutdown`.
    ///
    /// # Errors
    /// A sentence when the log cannot be read.
    pub(crate) async fn run(
        self: Arc<Self>,
        retry: Retry,
        shutdown: CancellationToken,
    ) -> std::result::Result<(), String> {
        let mut end = self.log.watch_end();
        let mut backoff = retry.backoff();
        while !shutdown.is_cancelled() {
            let followed = self.progress.position().followed;
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
                Err(ReadError::Trimmed { start, .. }) if self.log.has_lost() => self.skip_lost(followed, start),
                Err(error) => return Err(error.to_string()),
            }
            if !self.progress.is_wanted() && self.progress.position().followed >= self.log.end() {
                tokio::select! {
                    () = tokio::time::sleep(POLL) => {}
                    () = self.progress.woken() => {}
                    () = shutdown.cancelled() => {}
                }
            }
        }
        self.progress.set(LogPosition { ended: true, ..self.progress.position() });
        Ok(())
    }

    async fn step(&self, from: u64) -> std::result::Result<(), ReadError> {
        let frames = self.log.read(from, READ_BYTES).await?;
        let mut followed = from;
        for frame in &frames {
            let to = frame.header().end_offset();
            if to > followed {
                self.inner.lock().count(frame, followed);
                followed = to;
            }
        }
        self.progress.set(LogPosition { followed, full: false, ended: false });
        Ok(())
    }

    /// Counts records that the server of the log has lost as accepted: they were acknowledged.
    fn skip_lost(&self, followed: u64, start: u64) {
        let mut inner = self.inner.lock();
        let counted = followed.max(inner.accepted_from).min(start);
        if start > counted {
            let lost = Count { readings: start - counted, letters: 0 };
            inner.accept(&model::DEFAULT_TENANT.into(), lost);
        }
        drop(inner);
        self.progress.set(LogPosition { followed: start, full: false, ended: false });
    }

    /// Waits until everything below `end` is counted. False when that took too long.
    pub(crate) async fn reach(&self, end: u64, limit: Duration) -> bool {
        self.progress.reach(end, limit).await.followed >= end
    }

    /// Drops the segments below `offset`, which every sink has passed.
    pub(crate) fn forget_below(&self, offset: u64) {
        let mut inner = self.inner.lock();
        while inner.segments.front().is_some_and(|s| s.to <= offset) {
            inner.segments.pop_front();
        }
    }

    /// The lag of a cursor at `done_to`.
    pub(crate) fn lag(&self, done_to: u64) -> Lag {
        let inner = self.inner.lock();
        let behind = || inner.segments.iter().filter(|s| s.to > done_to);
        Lag { bytes: behind().map(|s| s.bytes).sum(), since: behind().next().map(|s| s.appended) }
    }

    /// The records accepted up to the counted offset, and those between each of `offsets` and
    /// there.
    ///
    /// # Errors
    /// When a part that is not counted apart cannot be read.
    pub(crate) async fn snapshot(&self, offsets: &[u64]) -> Result<Snapshot> {
        let (accepted, between) = {
            let inner = self.inner.lock();
            // Under the lock, so that counts and place belong together.
            let end = inner.segments.back().map_or(self.progress.position().followed, |s| s.to);
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
        Ok(Snapshot { accepted, pending })
    }

    async fn read_counts(&self, from: u64, to: u64, counts: &mut Counts) -> Result<()> {
        scan::frames(&*self.log, from, to, |frame| count_records(frame, from, to, |t, c| add(counts, t, c))).await
    }

    /// Counts the records between `from` and the first segment, for a cursor that was set back to
    /// `from`.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub(crate) async fn count_back(&self, from: u64) -> Result<()> {
        let first = || self.inner.lock().segments.front().map_or(self.progress.position().followed, |s| s.from);
        let to = first();
        let mut found = Vec::new();
        scan::frames(&*self.log, from, to, |frame| found.push(Segment::of(frame, from, to))).await?;
        let mut inner = self.inner.lock();
        if inner.segments.front().map_or(self.progress.position().followed, |s| s.from) == to {
            found.into_iter().rev().for_each(|segment| inner.segments.push_front(segment));
            while inner.segments.len() > SEGMENTS {
                inner.join();
            }
        }
        Ok(())
    }
}

/// Everything that was accepted below a cursor whose projection has been there since the log began.
pub(crate) fn accepted_below(cursor: &Cursor) -> BTreeMap<Arc<str>, u64> {
    let telemetry = |(tenant, t): (&String, &buffer::Tally)| (tenant.as_str().into(), t.total() - t.other);
    cursor.tallies.iter().map(telemetry).collect()
}

/// The accepted records, and those of them that lie behind some offsets.
pub(crate) struct Snapshot {
    /// Readings and messages ever accepted, by tenant.
    pub(crate) accepted: BTreeMap<Arc<str>, u64>,
    /// Between each asked offset and where it is.
    pub(crate) pending: Vec<Counts>,
}

impl Inner {
    fn count(&mut self, frame: &Frame, from: u64) {
        let segment = Segment::of(frame, from, u64::MAX);
        if from >= self.accepted_from {
            segment.counts.iter().for_each(|(tenant, count)| self.accept(tenant, *count));
        } else {
            let mut late: Vec<(Arc<str>, Count)> = Vec::new();
            count_records(frame, self.accepted_from, segment.to, |t, count| late.push((t.into(), count)));
            late.iter().for_each(|(tenant, count)| self.accept(tenant, *count));
        }
        self.segments.push_back(segment);
        if self.segments.len() > SEGMENTS {
            self.join();
        }
    }

    fn accept(&mut self, tenant: &Arc<str>, count: Count) {
        *self.accepted.entry(Arc::clone(tenant)).or_default() += count.readings + count.letters;
    }

    /// Counts neighbours as one.
    fn join(&mut self) {
        let mut joined = VecDeque::with_capacity(SEGMENTS);
        while let Some(mut first) = self.segments.pop_front() {
            if let Some(second) = self.segments.pop_front() {
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
        self.segments = joined;
    }

    fn between(&self, from: u64, to: u64) -> Between {
        let mut found = Between { counts: Counts::new(), unread: Vec::new() };
        // Only a cursor that was set back lies below the first segment.
        let first = self.segments.front().map_or(to, |s| s.from);
        if from < first.min(to) {
            found.unread.push((from, first.min(to)));
        }
        for segment in self.segments.iter().filter(|s| s.to > from && s.from < to) {
            if segment.from >= from && segment.to <= to {
                segment.counts.iter().for_each(|(tenant, count)| add(&mut found.counts, tenant, *count));
            } else {
                found.unread.push((segment.from.max(from), segment.to.min(to)));
            }
        }
        found
    }
}

/// Adds to the count of a tenant.
pub(crate) fn add(counts: &mut Counts, tenant: &str, count: Count) {
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
        if offset < from || offset >= to || !record.is_telemetry() {
            continue;
        }
        let tenant: &str = record.tenant();
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
            Record::Reading(_) | Record::Destroyed(_) => count.readings += 1,
            _ => count.letters += 1,
        }
    }
    if let Some((tenant, count)) = run {
        found(tenant, count);
    }
}
