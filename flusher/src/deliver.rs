//! One batch on its way into a store: seal, write, sync, move the cursor, trim.

use std::sync::Arc;
use std::time::{Duration, Instant};

use buffer::cursor::add_hours;
use buffer::{Cursor, CursorError, Log};
use stores::contract::{DeadLetters, Deadletter};
use tokio::sync::RwLock;

use crate::config::Retry;
use crate::metrics::{AnswerLabel, Metrics, SinkLabel};
use crate::sink::{Blame, HourTallies, Part, Sink, Tallies, add, hour_of, tally};
use crate::status::Shared;
use crate::traces::{Carried, Flush, Traces, Trouble};
use crate::verdict::{Backoff, Verdict, verdict};

/// Why a sink stops before it is told to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Another holder has the log: not a fault.
    Fenced(String),
    /// Nothing more can be promised.
    Fatal(String),
}

/// What a delivery works with.
pub(crate) struct Delivery<S> {
    pub(crate) log: Arc<dyn Log>,
    pub(crate) sink: Arc<S>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) letters: Arc<dyn DeadLetters>,
    pub(crate) retry: Retry,
    pub(crate) metrics: Arc<Metrics>,
    /// Held for reading while the store and the cursor do not agree.
    pub(crate) gate: Arc<RwLock<()>>,
    pub(crate) traces: Traces,
    pub(crate) trouble: Trouble,
}

enum Step<I> {
    Write(Vec<I>),
    Sync,
    Letter(Box<Deadletter>),
}

impl<S: Sink> Delivery<S> {
    /// Delivers everything below `to`, however long the store takes. When it returns, all of it is durable, the cursor
    /// has passed it, and the batch is let go.
    pub(crate) async fn run(self: Arc<Self>, batch: Arc<S::Batch>, to: u64, carried: Carried) -> Result<(), Stop> {
        let begun = Instant::now();
        let gate = self.gate.read().await;
        let mut cursor = self.shared.cursor();
        let mut told = Flush::begin(&self.traces, &self.shared, carried, &self.trouble, (cursor.done_to, to));
        if self.sink.seals() && cursor.sealed_to != to {
            cursor.sealed_to = to;
            self.move_cursor(&cursor).await?;
        }
        let (tallies, hours) = loop {
            let tallies = self.write_all(&batch).await;
            // What a failed sync may have lost is written again before the next one.
            if self.until_taken(&Step::Sync, true).await.is_ok() {
                break tallies;
            }
        };
        if let Some(flush) = &mut told {
            flush.answered();
        }
        let passed = to - cursor.done_to;
        cursor.done_to = to;
        cursor.sealed_to = to;
        add(&mut cursor.tallies, &tallies);
        for (tenant, hours) in hours {
            add_hours(cursor.hours.entry(tenant).or_default(), &hours);
        }
        self.move_cursor(&cursor).await?;
        self.sink.finish(to);
        drop(gate);
        if let Err(error) = self.log.trim().await {
            tracing::warn!(log = %self.shared.log, sink = self.shared.sink, %error, "cannot trim the log");
        }
        if let Some(flush) = told {
            flush.end(&self.trouble);
        }
        let label = SinkLabel { sink: self.shared.sink };
        self.metrics.flush.get_or_create(&label).observe(begun.elapsed().as_secs_f64());
        self.metrics.records.get_or_create(&label).inc_by(passed);
        self.metrics.merged.get_or_create(&label).inc_by(tallies.values().map(|t| t.merged).sum());
        Ok(())
    }

    async fn write_all(&self, batch: &Arc<S::Batch>) -> (Tallies, HourTallies) {
        let (mut tallies, mut hours) = (Tallies::new(), HourTallies::new());
        let mut index = 0;
        while let Some(mut part) = self.cut(batch, index).await {
            let items = std::mem::take(&mut part.items);
            self.metrics.items.get_or_create(&SinkLabel { sink: self.shared.sink }).inc_by(items.len() as u64);
            self.write_part(items, &mut part).await;
            add(&mut tallies, &part.tallies);
            for (tenant, counts) in part.hours {
                let held = hours.entry(tenant).or_default();
                counts.into_iter().for_each(|(hour, count)| *held.entry(hour).or_default() += count);
            }
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

    /// Writes items; those that the store refuses for good are found by halving and become what the sink says.
    async fn write_part(&self, items: Vec<S::Item>, part: &mut Part<S::Item>) {
        let mut groups = vec![items];
        while let Some(group) = groups.pop() {
            if group.is_empty() {
                continue;
            }
            let step = Step::Write(group);
            let Err(reason) = self.until_taken(&step, false).await else { continue };
            let Step::Write(mut group) = step else { unreachable!("it was a write") };
            if group.len() > 1 {
                let second = group.split_off(group.len() / 2);
                groups.extend([second, group]);
            } else if let Some((first, second)) = self.sink.halve(&group[0]) {
                groups.extend([vec![second], vec![first]]);
            } else {
                self.leave_out(&group[0], &reason, part).await;
            }
        }
    }

    async fn leave_out(&self, item: &S::Item, reason: &str, part: &mut Part<S::Item>) {
        self.trouble.refused();
        self.metrics.refused.get_or_create(&SinkLabel { sink: self.shared.sink }).inc();
        match self.sink.blame(item, reason) {
            Blame::Letter(letter) => {
                let hour = self.sink.time_of(item).map(hour_of);
                let held = part.hours.get_mut(&*letter.tenant).zip(hour).and_then(|(hours, hour)| hours.get_mut(&hour));
                if let Some(held) = held {
                    *held = held.saturating_sub(1);
                }
                let counts = tally(&mut part.tallies, &letter.tenant);
                if counts.stored > 0 {
                    counts.stored -= 1;
                } else {
                    counts.other = counts.other.saturating_sub(1);
                }
                counts.dead_lettered += 1;
                // Asked to keep trying, it returns only when the letter is durable.
                let kept = self.until_taken(&Step::Letter(letter), true).await;
                debug_assert!(kept.is_ok());
            }
            Blame::Leave => {
                tracing::error!(log = %self.shared.log, sink = self.shared.sink, reason, "the store refuses an item; it is left out");
            }
            Blame::Pause => {
                let step = Step::Write(vec![item.clone()]);
                let kept = self.until_taken(&step, true).await;
                debug_assert!(kept.is_ok());
            }
        }
    }

    /// Tries a step until the store takes it. With `insist`, a refusal pauses instead of being returned, and a sync
    /// that failed is returned after the wait, so that the caller can write again before it.
    async fn until_taken(&self, step: &Step<S::Item>, insist: bool) -> Result<(), String> {
        let mut backoff = Backoff::new(&self.retry);
        loop {
            let Err(error) = self.perform(step).await else {
                self.count("done");
                if self.shared.running() {
                    tracing::info!(log = %self.shared.log, sink = self.shared.sink, "the store takes writes again");
                }
                return Ok(());
            };
            let answer = verdict(&error);
            self.trouble.retried();
            self.count(answer.name());
            match answer {
                Verdict::Split { reason } if !insist => return Err(reason),
                Verdict::Split { reason } | Verdict::Pause { reason } => {
                    self.say_paused(&reason);
                    tokio::time::sleep(Duration::from_secs(self.retry.paused_secs.max(1))).await;
                }
                Verdict::Retry { reason, after } => {
                    if self.shared.retrying(&reason) {
                        tracing::warn!(log = %self.shared.log, sink = self.shared.sink, reason, "the store does not take a write; trying again");
                    }
                    self.metrics.waits.get_or_create(&SinkLabel { sink: self.shared.sink }).inc();
                    let wait = backoff.draw();
                    tokio::time::sleep(after.unwrap_or(wait)).await;
                }
                Verdict::Halt { reason } => {
                    self.say_paused(&reason);
                    std::future::pending::<()>().await;
                }
            }
            if matches!(step, Step::Sync) {
                return Err(error.to_string());
            }
        }
    }

    async fn perform(&self, step: &Step<S::Item>) -> stores::contract::Result<()> {
        match step {
            Step::Write(items) => self.sink.write(items.clone()).await,
            Step::Sync => self.sink.sync().await,
            Step::Letter(letter) => self.letters.put(vec![Deadletter::clone(letter)]).await,
        }
    }

    fn say_paused(&self, reason: &str) {
        if self.shared.paused(reason) {
            tracing::error!(log = %self.shared.log, sink = self.shared.sink, reason, "the sink is paused; everything is kept in the log");
        }
    }

    fn count(&self, verdict: &'static str) {
        self.metrics.answers.get_or_create(&AnswerLabel { sink: self.shared.sink, verdict }).inc();
    }

    async fn move_cursor(&self, cursor: &Cursor) -> Result<(), Stop> {
        let mut backoff = Backoff::new(&self.retry);
        loop {
            match self.log.move_cursor(self.shared.sink, cursor.clone()).await {
                Ok(()) => {
                    self.shared.set_cursor(cursor.clone());
                    return Ok(());
                }
                Err(error @ CursorError::Fenced { .. }) => return Err(Stop::Fenced(error.to_string())),
                Err(error @ CursorError::Backwards { .. }) => return Err(Stop::Fatal(error.to_string())),
                Err(error @ CursorError::Unavailable(_)) => {
                    if self.shared.retrying(&error.to_string()) {
                        tracing::warn!(log = %self.shared.log, sink = self.shared.sink, %error, "trying again");
                    }
                    tokio::time::sleep(backoff.draw()).await;
                }
            }
        }
    }
}
