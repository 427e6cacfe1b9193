//! Runs one sink on one log: follows the log into the sink, closes batches at the sink's pace,
//! delivers them while it follows further.

use std::sync::Arc;

use buffer::{ExportSetting, ReadError};
use model::Backoff;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::control::Control;
use super::deliver::{Batch, Delivery, Stop};
use super::progress::LogPosition;
use super::register::pass_lost;
use super::traces::BatchTraces;
use crate::config::Pace;
use crate::metrics::{SinkLabel, signed};
use crate::sink::Sink;

/// Bytes asked of the log at a time.
const READ_BYTES: usize = 1 << 20;

pub(crate) struct Driver<S: Sink> {
    pub(super) delivery: Arc<Delivery<S>>,
    pace: Pace,
    stop: std::time::Duration,
    end: watch::Receiver<u64>,
    pub(super) followed: u64,
    /// Start of the open batch.
    open_from: u64,
    /// End of the range that was sealed before a restart: it has to be cut into the same blocks
    /// again.
    resealed: Option<u64>,
    /// Times at which the open batch took its first record, and its first record that has to be
    /// delivered.
    passing_since: Option<Instant>,
    keeping_since: Option<Instant>,
    next_read: Instant,
    pub(super) backoff: Backoff,
    pub(super) in_flight: JoinSet<Result<(), Stop>>,
    /// Cancelled to give up the delivery in flight.
    pub(super) interrupt: CancellationToken,
    /// Traced messages of the open batch.
    traces: BatchTraces,
    /// Setting of the export.
    pub(super) control: Control,
    /// The setting under which it delivers now.
    pub(super) setting: Option<ExportSetting>,
}

impl<S: Sink> Driver<S> {
    pub(crate) fn new(delivery: Delivery<S>, control: Control, stop: std::time::Duration) -> Self {
        let mut driver = Self {
            end: delivery.log.watch_end(),
            pace: delivery.shared.projection.pace,
            stop,
            followed: 0,
            open_from: 0,
            resealed: None,
            passing_since: None,
            keeping_since: None,
            next_read: Instant::now(),
            backoff: delivery.retry.backoff(),
            in_flight: JoinSet::new(),
            interrupt: CancellationToken::new(),
            traces: BatchTraces::default(),
            control,
            setting: None,
            delivery: Arc::new(delivery),
        };
        driver.begin_at_cursor();
        driver
    }

    /// Follows from the cursor, with nothing taken.
    pub(super) fn begin_at_cursor(&mut self) {
        let cursor = self.delivery.shared.cursor();
        self.followed = cursor.done_to;
        self.open_from = cursor.done_to;
        let seals = self.delivery.sink.seals();
        self.resealed = (seals && cursor.sealed_to > cursor.done_to).then_some(cursor.sealed_to);
        self.passing_since = None;
        self.keeping_since = None;
        self.next_read = Instant::now();
        self.traces = BatchTraces::default();
    }

    /// Runs until `shutdown`, then flushes once more. A higher epoch of another holder ends it
    /// without a fault.
    ///
    /// # Errors
    /// A sentence when the sink cannot go on.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) -> Result<(), String> {
        let ended = self.work(&shutdown).await;
        let shared = Arc::clone(&self.delivery.shared);
        match ended {
            Ok(()) | Err(Stop::Interrupted) => {
                shared.ended("stopped");
                Ok(())
            }
            Err(Stop::Fenced(reason)) => {
                tracing::warn!(log = %shared.log, sink = %shared.name(), reason, "another holder has the log");
                shared.ended(&reason);
                Ok(())
            }
            Err(Stop::Fatal(reason)) => {
                shared.ended(&reason);
                Err(reason)
            }
        }
    }

    async fn work(&mut self, shutdown: &CancellationToken) -> Result<(), Stop> {
        self.prepare(shutdown).await?;
        if self.delivery.shared.projection.is_export() {
            return self.export(shutdown).await;
        }
        self.follow_until(shutdown).await?;
        self.last_flush().await
    }

    /// Lets the sink read what it needs of the log before its first record.
    async fn prepare(&mut self, shutdown: &CancellationToken) -> Result<(), Stop> {
        while !shutdown.is_cancelled() {
            let Delivery { sink, log, shared, .. } = &*self.delivery;
            match sink.prepare(&**log, shared.done_to()).await {
                Ok(()) => break,
                Err(error) => self.unread(error).await?,
            }
        }
        Ok(())
    }

    pub(super) async fn follow_until(&mut self, shutdown: &CancellationToken) -> Result<(), Stop> {
        let shared = Arc::clone(&self.delivery.shared);
        let (is_export, setting) = (shared.projection.is_export(), self.setting);
        while !shutdown.is_cancelled() {
            if is_export && self.control.get() != setting {
                return Ok(());
            }
            self.reap()?;
            if self.is_due() {
                self.close();
                continue;
            }
            let behind = self.followed < self.delivery.log.end();
            let full = self.is_full();
            shared.progress.set(LogPosition { followed: self.followed, full, ended: false });
            if behind && !full && (shared.progress.is_wanted() || Instant::now() >= self.next_read) {
                self.follow().await?;
                continue;
            }
            let timer = self.timer(behind && !full);
            tokio::select! {
                Some(done) = self.in_flight.join_next() => delivered(done)?,
                () = at(timer) => {}
                () = shared.progress.woken() => {}
                () = changed(&mut self.end), if !behind => {}
                () = self.control.differs(setting.as_ref()), if is_export => {}
                () = shutdown.cancelled() => {}
            }
        }
        Ok(())
    }

    /// Waits before the log is read again, if that can help.
    pub(super) async fn unread(&mut self, error: ReadError) -> Result<(), Stop> {
        let shared = &self.delivery.shared;
        match error {
            ReadError::Unavailable(reason) => {
                if shared.retrying(&reason) {
                    tracing::warn!(log = %shared.log, sink = %shared.name(), reason, "cannot read the log; trying again");
                }
                tokio::time::sleep(self.backoff.draw()).await;
                Ok(())
            }
            ReadError::Trimmed { start, .. } if self.delivery.log.has_lost() => self.skip_lost(start).await,
            error => Err(Stop::Fatal(error.to_string())),
        }
    }

    /// Delivers the records that were taken before the server of the log lost those that follow,
    /// and goes on at `start`.
    async fn skip_lost(&mut self, start: u64) -> Result<(), Stop> {
        while let Some(done) = self.in_flight.join_next().await {
            delivered(done)?;
        }
        if self.followed > self.open_from {
            self.close();
        }
        while let Some(done) = self.in_flight.join_next().await {
            delivered(done)?;
        }
        let shared = Arc::clone(&self.delivery.shared);
        let mut cursor = shared.cursor();
        pass_lost(&shared.log, shared.name(), &mut cursor, start);
        self.delivery.move_cursor(&cursor).await?;
        self.begin_at_cursor();
        Ok(())
    }

    /// When to go on if nothing else happens.
    fn timer(&self, can_follow: bool) -> Option<Instant> {
        let read = can_follow.then_some(self.next_read);
        let due = if self.in_flight.is_empty() { self.due_at() } else { None };
        read.into_iter().chain(due).min()
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
        let delivery = Arc::clone(&self.delivery);
        let Delivery { log, sink, shared, metrics, traces, .. } = &*delivery;
        self.next_read = Instant::now() + self.pace.follow;
        let there = log.end();
        let frames = match log.read(self.followed, READ_BYTES).await {
            Ok(frames) => frames,
            Err(error) => return self.unread(error).await,
        };
        let is_traced = shared.projection.store.is_some() && traces.get().is_some();
        let stop_at = self.resealed.unwrap_or(u64::MAX);
        for frame in &frames {
            let end = frame.header().end_offset().min(stop_at);
            if end <= self.followed {
                continue;
            }
            sink.take(frame, self.followed, end);
            if is_traced {
                self.traces.take(frame, self.followed, end);
            }
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
            self.next_read = Instant::now();
        }
        let load = sink.load();
        let label = SinkLabel::new(shared.name());
        metrics.unflushed_records.get_or_create(&label).set(signed(load.records));
        metrics.unflushed_bytes.get_or_create(&label).set(signed(load.bytes));
        shared.progress.set(LogPosition { followed: self.followed, full: self.is_full(), ended: false });
        Ok(())
    }

    fn close(&mut self) {
        let records = Arc::new(self.delivery.sink.close());
        self.resealed = None;
        self.passing_since = None;
        self.keeping_since = None;
        self.open_from = self.followed;
        let (traces, interrupt) = (std::mem::take(&mut self.traces), self.interrupt.clone());
        let batch = Batch { records, to: self.followed, traces, interrupt };
        self.in_flight.spawn(Arc::clone(&self.delivery).run(batch));
    }

    fn reap(&mut self) -> Result<(), Stop> {
        while let Some(done) = self.in_flight.try_join_next() {
            delivered(done)?;
        }
        Ok(())
    }

    /// Delivers the records that are durable in the log now, as far as the store accepts them in
    /// time. The rest stays in the log.
    pub(super) async fn last_flush(&mut self) -> Result<(), Stop> {
        let limit = self.stop;
        match tokio::time::timeout(limit, self.drain()).await {
            Ok(done) => done,
            Err(_) => {
                let shared = &self.delivery.shared;
                let left = self.delivery.log.end() - shared.done_to();
                tracing::warn!(log = %shared.log, sink = %shared.name(), left, "not flushed in time; the rest stays in the log");
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

pub(super) fn delivered(done: Result<Result<(), Stop>, tokio::task::JoinError>) -> Result<(), Stop> {
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
        // The log is closed: its owner decides what happens next.
        std::future::pending().await
    }
}
