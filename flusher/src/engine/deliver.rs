//! One batch on its way into a store: seal, write, commit, move the cursor, trim.

use std::sync::Arc;
use std::time::{Duration, Instant};

use buffer::cursor::add_hours;
use buffer::{Cursor, CursorError, Log};
use stores::contract::{DeadLetters, Deadletter};
use tokio_util::sync::CancellationToken;

use super::traces::{BatchTraces, Flush, FlushFaults, Traces};
use super::verdict::{Verdict, verdict};
use crate::accounting::accepted::Accepted;
use crate::accounting::tallies::{self, HourTallies, Tallies, entry, hour_of, uncount_hour};
use crate::config::Retry;
use crate::metrics::{AnswerLabel, Metrics, SinkLabel};
use crate::sink::{Part, Refusal, Sink};
use crate::status::Shared;

/// The reason why a sink stops before `shutdown`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Another holder has the log: not a fault.
    Fenced(String),
    /// Nothing more can be promised.
    Fatal(String),
    /// The driver gave up the delivery. The store may have any part of it; the log has all of it.
    Interrupted,
}

/// A sink with everything that a delivery needs.
pub(crate) struct Delivery<S> {
    pub(crate) log: Arc<dyn Log>,
    pub(crate) sink: Arc<S>,
    pub(crate) accepted: Arc<Accepted>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) letters: Arc<dyn DeadLetters>,
    pub(crate) retry: Retry,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) traces: Traces,
    pub(crate) faults: FlushFaults,
}

/// A request to a store, repeated until it accepts.
enum Step<I> {
    Write(Vec<I>),
    Commit(u64),
    Letter(Box<Deadletter>),
    Join(u64),
    Rewind(u64, u64),
}

/// Why a store has not accepted a step.
enum Declined {
    /// A part of the items can never be stored.
    Refused(String),
    /// Writes since the last commit may be lost: the whole batch has to be written again.
    Again,
    /// The delivery was given up.
    Interrupted,
}

/// A closed batch on its way.
pub(crate) struct Batch<B> {
    pub(crate) records: Arc<B>,
    /// Every record below belongs to it or was delivered before.
    pub(crate) to: u64,
    pub(crate) traces: BatchTraces,
    /// Cancelled when the driver gives the delivery up.
    pub(crate) interrupt: CancellationToken,
}

impl<S: Sink> Delivery<S> {
    /// Delivers a batch, however long the store takes. When it returns, all of it is durable, the
    /// cursor has passed it, and the batch is freed.
    pub(crate) async fn run(self: Arc<Self>, batch: Batch<S::Batch>) -> Result<(), Stop> {
        let begun = Instant::now();
        let Batch { records, to, traces, interrupt } = batch;
        let gate = self.shared.projection.gate.read().await;
        let mut cursor = self.shared.cursor();
        let mut flush = Flush::begin(&self.traces, &self.shared, traces, &self.faults, (cursor.done_to, to));
        if self.sink.seals() && cursor.sealed_to != to {
            cursor.sealed_to = to;
            self.move_cursor(&cursor).await?;
        }
        let (tallies, hours) = loop {
            match self.write_all(&records, to, &interrupt).await {
                Ok(written) => break written,
                Err(Declined::Interrupted) => return Err(Stop::Interrupted),
                // A failed commit may have lost any part of the batch.
                Err(Declined::Again | Declined::Refused(_)) => {}
            }
        };
        if let Some(flush) = &mut flush {
            flush.answered();
        }
        let passed = to - cursor.done_to;
        pass(&mut cursor, to, &tallies, hours);
        self.move_cursor(&cursor).await?;
        self.sink.finish(to);
        drop(gate);
        if let Err(error) = self.log.trim().await {
            tracing::warn!(log = %self.shared.log, sink = %self.shared.name(), %error, "cannot trim the log");
        }
        if let Some(flush) = flush {
            flush.end(&self.faults);
        }
        let label = SinkLabel::new(self.shared.name());
        self.metrics.flush.get_or_create(&label).observe(begun.elapsed().as_secs_f64());
        self.metrics.records.get_or_create(&label).inc_by(passed);
        self.metrics.merged.get_or_create(&label).inc_by(tallies.values().map(|t| t.merged).sum());
        Ok(())
    }

    /// Writes a batch and commits it once.
    async fn write_all(
        &self,
        batch: &Arc<S::Batch>,
        to: u64,
        interrupt: &CancellationToken,
    ) -> Result<(Tallies, HourTallies), Declined> {
        let (mut tallies, mut hours) = (Tallies::new(), HourTallies::new());
        let mut index = 0;
        while let Some(mut part) = self.cut(batch, index).await {
            let items = std::mem::take(&mut part.items);
            self.metrics.items.get_or_create(&SinkLabel::new(self.shared.name())).inc_by(items.len() as u64);
            self.write_part(items, &mut part, interrupt).await?;
            tallies::add(&mut tallies, &part.tallies);
            tallies::add_hours(&mut hours, &part.hours);
            index += 1;
        }
        self.until_accepted(&Step::Commit(to), true, interrupt).await?;
        Ok((tallies, hours))
    }

    /// Counts a batch as though all of it were written.
    pub(crate) async fn count(&self, batch: &Arc<S::Batch>) -> (Tallies, HourTallies) {
        let (mut tallies, mut hours) = (Tallies::new(), HourTallies::new());
        let mut index = 0;
        while let Some(part) = self.cut(batch, index).await {
            tallies::add(&mut tallies, &part.tallies);
            tallies::add_hours(&mut hours, &part.hours);
            index += 1;
        }
        (tallies, hours)
    }

    async fn cut(&self, batch: &Arc<S::Batch>, index: usize) -> Option<Part<S::Item>> {
        let (sink, batch) = (Arc::clone(&self.sink), Arc::clone(batch));
        match tokio::task::spawn_blocking(move || sink.cut(&batch, index)).await {
            Ok(part) => part,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime is going down: nothing that follows this line runs.
                Err(_) => std::future::pending().await,
            },
        }
    }

    /// Writes items; those that the store refuses for good are found by halving and become what the
    /// sink decides.
    async fn write_part(
        &self,
        items: Vec<S::Item>,
        part: &mut Part<S::Item>,
        interrupt: &CancellationToken,
    ) -> Result<(), Declined> {
        let mut groups = vec![items];
        while let Some(group) = groups.pop() {
            if group.is_empty() {
                continue;
            }
            let step = Step::Write(group);
            let reason = match self.until_accepted(&step, false, interrupt).await {
                Ok(_) => continue,
                Err(Declined::Refused(reason)) => reason,
                Err(declined) => return Err(declined),
            };
            let Step::Write(mut group) = step else { unreachable!("it was a write") };
            if group.len() > 1 {
                let second = group.split_off(group.len() / 2);
                groups.extend([second, group]);
            } else if let Some((first, second)) = self.sink.halve(&group[0]) {
                groups.extend([vec![second], vec![first]]);
            } else {
                self.leave_out(&group[0], &reason, part, interrupt).await?;
            }
        }
        Ok(())
    }

    async fn leave_out(
        &self,
        item: &S::Item,
        reason: &str,
        part: &mut Part<S::Item>,
        interrupt: &CancellationToken,
    ) -> Result<(), Declined> {
        self.faults.refused();
        self.metrics.refused.get_or_create(&SinkLabel::new(self.shared.name())).inc();
        match self.sink.on_refused(item, reason) {
            Refusal::DeadLetter(letter) => {
                if let Some(time) = self.sink.time_of(item) {
                    uncount_hour(&mut part.hours, &letter.tenant, hour_of(time));
                }
                let counts = entry(&mut part.tallies, &letter.tenant);
                if counts.stored > 0 {
                    counts.stored -= 1;
                } else {
                    counts.other = counts.other.saturating_sub(1);
                }
                counts.dead_lettered += 1;
                // One that was refused before a rewind has its dead letter already.
                let is_again = letter.offset < self.shared.cursor().rewound_from;
                if !is_again || !self.is_held(&letter, interrupt).await? {
                    entry(&mut part.tallies, &letter.tenant).refused += 1;
                }
                self.until_accepted(&Step::Letter(letter), true, interrupt).await?;
            }
            Refusal::LeaveOut => {
                tracing::error!(log = %self.shared.log, sink = %self.shared.name(), reason, "the store refuses an item; it is left out");
            }
            Refusal::Pause => {
                self.until_accepted(&Step::Write(vec![item.clone()]), true, interrupt).await?;
            }
        }
        Ok(())
    }

    /// True when the dead letter is there already.
    async fn is_held(&self, letter: &Deadletter, interrupt: &CancellationToken) -> Result<bool, Declined> {
        let mut backoff = self.retry.backoff();
        loop {
            let Deadletter { tenant, log, offset, stage, .. } = letter;
            match self.letters.get(tenant, log, *offset, stage).await {
                Ok(held) => return Ok(held.is_some()),
                Err(error) => self.note_retrying(&error.to_string()),
            }
            tokio::select! {
                () = tokio::time::sleep(backoff.draw()) => {}
                () = interrupt.cancelled() => return Err(Declined::Interrupted),
            }
        }
    }

    /// Becomes the one writer of the log, as [`Sink::join`]. `None` when the delivery was given up.
    pub(crate) async fn join(&self, interrupt: &CancellationToken) -> Option<Option<u64>> {
        self.until_accepted(&Step::Join(self.shared.cursor().epoch), true, interrupt).await.ok()
    }

    /// Sets the store's own cursor back, as [`Sink::rewind`]. False when that was given up.
    pub(crate) async fn rewind(&self, done_to: u64, interrupt: &CancellationToken) -> bool {
        self.until_accepted(&Step::Rewind(self.shared.cursor().epoch, done_to), true, interrupt).await.is_ok()
    }

    /// Repeats a step until the store accepts it. With `insist`, a refusal pauses instead of being
    /// returned. A commit that failed is returned after the wait, so that the caller can write
    /// again before it.
    async fn until_accepted(
        &self,
        step: &Step<S::Item>,
        insist: bool,
        interrupt: &CancellationToken,
    ) -> Result<Option<u64>, Declined> {
        let accepted = self.repeat(step, insist);
        tokio::select! {
            biased;
            () = interrupt.cancelled() => Err(Declined::Interrupted),
            accepted = accepted => accepted,
        }
    }

    async fn repeat(&self, step: &Step<S::Item>, insist: bool) -> Result<Option<u64>, Declined> {
        let mut backoff = self.retry.backoff();
        loop {
            let error = match self.perform(step).await {
                Ok(answer) => {
                    self.count_answer("done");
                    if self.shared.running() {
                        tracing::info!(log = %self.shared.log, sink = %self.shared.name(), "the store accepts writes again");
                    }
                    return Ok(answer);
                }
                Err(error) => error,
            };
            let answer = verdict(&error);
            self.faults.retried();
            self.count_answer(answer.name());
            match answer {
                Verdict::Split { reason } if !insist => return Err(Declined::Refused(reason)),
                Verdict::Split { reason } | Verdict::Pause { reason } => {
                    self.note_paused(&reason);
                    tokio::time::sleep(Duration::from_secs(self.retry.paused_secs.max(1))).await;
                }
                Verdict::Retry { reason, after } => {
                    self.note_retrying(&reason);
                    let wait = backoff.draw();
                    tokio::time::sleep(after.unwrap_or(wait)).await;
                }
                Verdict::Again { reason } => {
                    self.note_retrying(&reason);
                    tokio::time::sleep(backoff.draw()).await;
                    if matches!(step, Step::Write(_)) {
                        return Err(Declined::Again);
                    }
                }
                Verdict::Halt { reason } => {
                    self.note_paused(&reason);
                    std::future::pending::<()>().await;
                }
            }
            if matches!(step, Step::Commit(_)) {
                return Err(Declined::Again);
            }
        }
    }

    async fn perform(&self, step: &Step<S::Item>) -> stores::contract::Result<Option<u64>> {
        match step {
            Step::Write(items) => self.sink.write(items.clone()).await?,
            Step::Commit(done_to) => self.sink.commit(*done_to).await?,
            Step::Letter(letter) => self.letters.put(vec![Deadletter::clone(letter)]).await?,
            Step::Join(epoch) => return self.sink.join(*epoch).await,
            Step::Rewind(epoch, done_to) => self.sink.rewind(*epoch, *done_to).await?,
        }
        Ok(None)
    }

    fn note_retrying(&self, reason: &str) {
        if self.shared.retrying(reason) {
            tracing::warn!(log = %self.shared.log, sink = %self.shared.name(), reason, "the store does not accept a write; trying again");
        }
        self.metrics.waits.get_or_create(&SinkLabel::new(self.shared.name())).inc();
    }

    pub(super) fn note_paused(&self, reason: &str) {
        if self.shared.paused(reason) {
            tracing::error!(log = %self.shared.log, sink = %self.shared.name(), reason, "the sink is paused; everything is kept in the log");
        }
    }

    fn count_answer(&self, verdict: &'static str) {
        self.metrics.answers.get_or_create(&AnswerLabel::new(self.shared.name(), verdict)).inc();
    }

    pub(crate) async fn move_cursor(&self, cursor: &Cursor) -> Result<(), Stop> {
        self.set_cursor(cursor, || self.log.move_cursor(self.shared.name(), cursor.clone())).await
    }

    /// Sets the cursor back. False when the log no longer holds its first record.
    pub(crate) async fn rewind_cursor(&self, cursor: &Cursor) -> Result<bool, Stop> {
        let set = || self.log.rewind_cursor(self.shared.name(), cursor.clone());
        match self.set_cursor(cursor, set).await {
            Ok(()) => Ok(true),
            Err(Stop::Fatal(_)) if self.log.start() > cursor.done_to => Ok(false),
            Err(stop) => Err(stop),
        }
    }

    async fn set_cursor<F>(&self, cursor: &Cursor, set: impl Fn() -> F) -> Result<(), Stop>
    where
        F: Future<Output = Result<(), CursorError>>,
    {
        let mut backoff = self.retry.backoff();
        loop {
            match set().await {
                Ok(()) => {
                    self.shared.set_cursor(cursor.clone());
                    return Ok(());
                }
                Err(error @ CursorError::Fenced { .. }) => return Err(Stop::Fenced(error.to_string())),
                Err(error @ (CursorError::Backwards { .. } | CursorError::Outside { .. })) => {
                    return Err(Stop::Fatal(error.to_string()));
                }
                Err(error @ CursorError::Unavailable(_)) => {
                    if self.shared.retrying(&error.to_string()) {
                        tracing::warn!(log = %self.shared.log, sink = %self.shared.name(), %error, "cannot move the cursor; trying again");
                    }
                    tokio::time::sleep(backoff.draw()).await;
                }
            }
        }
    }
}

/// Moves a cursor to `to`, over the records that `tallies` and `hours` count.
pub(crate) fn pass(cursor: &mut Cursor, to: u64, tallies: &Tallies, hours: HourTallies) {
    cursor.done_to = to;
    cursor.sealed_to = to;
    tallies::add(&mut cursor.tallies, tallies);
    for (tenant, hours) in hours {
        add_hours(cursor.hours.entry(tenant).or_default(), &hours);
    }
}
