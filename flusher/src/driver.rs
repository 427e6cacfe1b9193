//! Runs one sink on one log: follows the log into the sink, closes batches at the sink's pace, delivers them while it
//! goes on following.

use std::sync::Arc;

use buffer::ReadError;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::Pace;
use crate::deliver::{Delivery, Stop};
use crate::metrics::{SinkLabel, signed};
use crate::progress::Place;
use crate::sink::Sink;
use crate::traces::Carried;
use crate::verdict::Backoff;

/// Bytes asked of the log at a time.
const READ_BYTES: usize = 1 << 20;

pub(crate) struct Driver<S: Sink> {
    delivery: Arc<Delivery<S>>,
    pace: Pace,
    stop: std::time::Duration,
    end: watch::Receiver<u64>,
    followed: u64,
    /// Where the open batch begins.
    open_from: u64,
    /// The range that was sealed before a restart ends here: it has to be cut again just so.
    resealed: Option<u64>,
    /// When the open batch took its first record, and its first record that has to be delivered.
    passing_since: Option<Instant>,
    keeping_since: Option<Instant>,
    next_look: Instant,
    backoff: Backoff,
    in_flight: JoinSet<Result<(), Stop>>,
    /// Traced messages of the open batch.
    carried: Carried,
}

impl<S: Sink> Driver<S> {
    pub(crate) fn new(delivery: Delivery<S>, pace: Pace, stop: std::time::Duration) -> Self {
        let cursor = delivery.shared.cursor();
        Self {
            end: delivery.log.watch_end(),
            pace,
            stop,
            followed: cursor.done_to,
            open_from: cursor.done_to,
            resealed: (delivery.sink.seals() && cursor.sealed_to > cursor.done_to).then_some(cursor.sealed_to),
            passing_since: None,
            keeping_since: None,
            next_look: Instant::now(),
            backoff: Backoff::new(&delivery.retry),
            in_flight: JoinSet::new(),
            carried: Carried::default(),
            delivery: Arc::new(delivery),
        }
    }

    /// Runs until told to stop, then flushes once more. Another holder's epoch ends it without a fault.
    ///
    /// # Errors
    /// A sentence when the sink cannot go on.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) -> Result<(), String> {
        let ended = self.follow_until(&shutdown).await;
        let ended = match ended {
            Ok(()) => self.last_flush().await,
            stopped => stopped,
        };
        let shared = Arc::clone(&self.delivery.shared);
        match ended {
            Ok(()) => {
                shared.ended("stopped");
                Ok(())
            }
            Err(Stop::Fenced(reason)) => {
                tracing::warn!(log = %shared.log, sink = shared.sink, reason, "another holder has the log");
                shared.ended(&reason);
                Ok(())
            }
            Err(Stop::Fatal(reason)) => {
                shared.ended(&reason);
                Err(reason)
            }
        }
    }

    async fn follow_until(&mut self, shutdown: &CancellationToken) -> Result<(), Stop> {
        let shared = Arc::clone(&self.delivery.shared);
        while !shutdown.is_cancelled() {
            self.reap()?;
            if self.is_due() {
                self.close();
                continue;
            }
            let behind = self.followed < self.delivery.log.end();
            let full = self.is_full();
            shared.progress.set(Place { followed: self.followed, full, ended: false });
            if behind && !full && (shared.progress.is_wanted() || Instant::now() >= self.next_look) {
                self.follow().await?;
                continue;
            }
            let timer = self.timer(behind && !full);
            tokio::select! {
                Some(done) = self.in_flight.join_next() => delivered(done)?,
                () = at(timer) => {}
                () = shared.progress.woken() => {}
                () = changed(&mut self.end), if !behind => {}
                () = shutdown.cancelled() => {}
            }
        }
        Ok(())
    }

    /// When to look again if nothing else happens.
    fn timer(&self, can_follow: bool) -> Option<Instant> {
        let look = can_follow.then_some(self.next_look);
        let due = if self.in_flight.is_empty() { self.due_at() } else { None };
        look.into_iter().chain(due).min()
    }

    fn due_at(&self) -> Option<Instant> {
        let deliver = self.keeping_since.map(|t| t + self.pace.deliver);
        let skip = self.passing_since.map(|t| t + self.pace.skip);
        deliver.into_iter().chain(skip).min()
    }

    fn is_due(&self) -> bool {
        if !self.in_flight.is_empty() || self.followed == self.open_from {
            return false;
        }
        if let Some(sealed_to) = self.resealed {
            return self.followed == sealed_to;
        }
        let load = self.delivery.sink.load();
        load.records >= self.pace.records
            || load.open_bytes >= self.pace.bytes
            || load.bytes >= self.pace.max_bytes
            || self.due_at().is_some_and(|due| Instant::now() >= due)
            || self.delivery.shared.progress.is_delivery_wanted(self.open_from)
    }

    fn is_full(&self) -> bool {
        // A range that was sealed has to be taken in whole, however much it is.
        self.resealed.is_none() && self.delivery.sink.load().bytes >= self.pace.max_bytes
    }

    async fn follow(&mut self) -> Result<(), Stop> {
        let Delivery { log, sink, shared, metrics, traces, .. } = &*self.delivery;
        self.next_look = Instant::now() + self.pace.follow;
        let there = log.end();
        let frames = match log.read(self.followed, READ_BYTES).await {
            Ok(frames) => frames,
            Err(ReadError::Unavailable(reason)) => {
                if shared.retrying(&reason) {
                    tracing::warn!(log = %shared.log, sink = shared.sink, reason, "cannot read the log; trying again");
                }
                tokio::time::sleep(self.backoff.draw()).await;
                return Ok(());
            }
            Err(error) => return Err(Stop::Fatal(error.to_string())),
        };
        let stop_at = self.resealed.unwrap_or(u64::MAX);
        for frame in &frames {
            let end = frame.header().end_offset().min(stop_at);
            if end <= self.followed {
                continue;
            }
            sink.take(frame, self.followed, end);
            self.carried.take(traces, shared.sink, frame, self.followed, end);
            self.followed = end;
        }
        if self.followed > self.open_from {
            let now = Instant::now();
            self.passing_since.get_or_insert(now);
            if sink.load().records > 0 {
                self.keeping_since.get_or_insert(now);
            }
        }
        if self.followed < there && !frames.is_empty() {
            // One read did not bring all that was there when it began.
            self.next_look = Instant::now();
        }
        let load = sink.load();
        let label = SinkLabel { sink: shared.sink };
        metrics.unflushed_records.get_or_create(&label).set(signed(load.records));
        metrics.unflushed_bytes.get_or_create(&label).set(signed(load.bytes));
        shared.progress.set(Place { followed: self.followed, full: self.is_full(), ended: false });
        Ok(())
    }

    fn close(&mut self) {
        let batch = Arc::new(self.delivery.sink.close());
        self.resealed = None;
        self.passing_since = None;
        self.keeping_since = None;
        self.open_from = self.followed;
        let carried = std::mem::take(&mut self.carried);
        self.in_flight.spawn(Arc::clone(&self.delivery).run(batch, self.followed, carried));
    }

    fn reap(&mut self) -> Result<(), Stop> {
        while let Some(done) = self.in_flight.try_join_next() {
            delivered(done)?;
        }
        Ok(())
    }

    /// Delivers what is durable in the log now, as far as the store takes it in time. The rest stays in the log.
    async fn last_flush(&mut self) -> Result<(), Stop> {
        let limit = self.stop;
        match tokio::time::timeout(limit, self.drain()).await {
            Ok(done) => done,
            Err(_) => {
                let shared = &self.delivery.shared;
                let left = self.delivery.log.end() - shared.done_to();
                tracing::warn!(log = %shared.log, sink = shared.sink, left, "not flushed in time; the rest stays in the log");
                Ok(())
            }
        }
    }

    async fn drain(&mut self) -> Result<(), Stop> {
        let end = self.delivery.log.end();
        loop {
            while self.followed < end && !self.is_full() && self.resealed.is_none_or(|to| self.followed < to) {
                self.follow().await?;
            }
            while let Some(done) = self.in_flight.join_next().await {
                delivered(done)?;
            }
            if self.followed == self.open_from {
                if self.followed >= end {
                    return Ok(());
                }
                continue;
            }
            self.close();
        }
    }
}

fn delivered(done: Result<Result<(), Stop>, tokio::task::JoinError>) -> Result<(), Stop> {
    match done {
        Ok(result) => result,
        Err(error) => Err(Stop::Fatal(format!("delivery ended: {error}"))),
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

async fn changed(end: &mut watch::Receiver<u64>) {
    if end.changed().await.is_err() {
        // The log is closed; whoever closed it says what happens next.
        std::future::pending().await
    }
}
