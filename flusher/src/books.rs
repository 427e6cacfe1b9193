//! The books: what was accepted, and where it is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use buffer::cursor::{HOURS, Hours};
use buffer::{Cursor, Log, Tally};
use model::TimeRange;
use stores::contract::{BookLine, Books, DeadLetters, History, HourLine, Points, Result, StoreError};
use tokio::sync::RwLock;

use crate::census::{Census, Count, Counts, Stock};
use crate::sink::{hour_of, times_of};
use crate::status::Shared;
use crate::{Clock, DEAD_LETTERS, HISTORY, LATEST, POINTS, again};

/// How long the books may wait: for the count to reach the end, and for a flush that is under way.
const WAIT: Duration = Duration::from_secs(10);

/// One log in the books.
pub(crate) struct Account {
    pub(crate) log: Arc<dyn Log>,
    pub(crate) census: Arc<Census>,
    pub(crate) history: Arc<Shared>,
    pub(crate) latest: Arc<Shared>,
    pub(crate) dead_letters: Arc<Shared>,
    pub(crate) points: Option<Arc<Shared>>,
}

/// The books of all logs.
pub(crate) struct Ledger {
    pub(crate) accounts: Vec<Account>,
    pub(crate) history: Arc<dyn History>,
    pub(crate) dead_letters: Arc<dyn DeadLetters>,
    pub(crate) points: Option<Arc<dyn Points>>,
    /// Held for reading while a store and its cursor do not agree.
    pub(crate) gates: [Arc<RwLock<()>>; 3],
    /// The last hour of which something may have been deleted.
    pub(crate) kept_from: KeptFrom,
}

/// The last hour that the retention reaches now, if there is one.
pub(crate) type KeptFrom = Arc<dyn Fn() -> Option<i64> + Send + Sync>;

/// Hours that are asked of a store.
const CHECKED: usize = 48;

/// What the retention of the history reaches.
pub(crate) fn kept_from(retention_secs: Option<u64>, clock: Clock) -> KeptFrom {
    Arc::new(move || {
        let kept = i64::try_from(retention_secs?).ok()?.saturating_mul(1_000_000_000);
        Some(hour_of(clock().saturating_sub(kept)))
    })
}

/// By sink and tenant.
pub(crate) type Lines = BTreeMap<(&'static str, Arc<str>), BookLine>;

#[async_trait]
impl Books for Ledger {
    async fn books(&self, check: bool) -> Result<Vec<BookLine>> {
        if !check {
            let mut lines = Lines::new();
            for account in &self.accounts {
                account.enter(&mut lines).await?;
            }
            return Ok(lines.into_values().collect());
        }
        // No flush is under way while the stores count. The points come first: while their store is away, a flush of
        // theirs is always under way, and nobody else is made to wait for it.
        let [writes, puts, points] = &self.gates;
        let points = tokio::time::timeout(WAIT, points.write()).await.ok();
        let held = tokio::time::timeout(WAIT, async { (writes.write().await, puts.write().await) });
        let Ok(held) = held.await else { return Err(busy("a flush is under way; ask again")) };
        let mut lines = Lines::new();
        for account in &self.accounts {
            account.enter(&mut lines).await?;
        }
        fill(&mut lines, HISTORY, self.history.count().await?);
        expect_replayed(&mut lines, HISTORY, &*self.dead_letters).await?;
        if points.is_none() {
            tracing::warn!("points are being written; the books of points and dead letters are not checked");
            return Ok(lines.into_values().collect());
        }
        fill(&mut lines, DEAD_LETTERS, self.dead_letters.count().await?);
        // The points may take their time: nobody else waits for it.
        let held = Some(held);
        match count_points(self.points.as_deref()).await {
            Ok(Some(counts)) => {
                fill(&mut lines, POINTS, counts);
                expect_replayed(&mut lines, POINTS, &*self.dead_letters).await?;
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "the store of points cannot be counted; its books are not checked"),
        }
        let kept_from = (self.kept_from)();
        check_hours(&mut lines, &*self.history, self.points.as_deref(), kept_from).await?;
        drop(held);
        Ok(lines.into_values().collect())
    }
}

/// What the store of points counts; `None` when there is none, or when it deletes what is old by itself.
pub(crate) async fn count_points(store: Option<&dyn Points>) -> Result<Option<Vec<(Arc<str>, u64)>>> {
    match store {
        Some(store) if store.keeps_everything().await? => store.count(TimeRange::ALL).await.map(Some),
        _ => Ok(None),
    }
}

/// Notes what a store counts.
pub(crate) fn fill(lines: &mut Lines, sink: &'static str, counts: Vec<(Arc<str>, u64)>) {
    for line in lines.values_mut().filter(|line| line.sink == sink) {
        line.held = Some(0);
    }
    for (tenant, count) in counts {
        line(lines, sink, &tenant).held = Some(count);
    }
}

/// Readings that were refused and that their store took later, by a replay: in all, and of each hour.
pub(crate) async fn expect_replayed(lines: &mut Lines, sink: &'static str, letters: &dyn DeadLetters) -> Result<()> {
    for ((tenant, hour), count) in again::by_hour(letters, sink).await? {
        let line = line(lines, sink, &tenant);
        line.expected += count;
        if let Some(known) = line.hours.iter_mut().find(|known| known.hour == hour) {
            known.expected += count;
        }
    }
    Ok(())
}

fn busy(reason: &str) -> StoreError {
    StoreError::Busy { reason: reason.to_owned(), retry_after: None }
}

/// The line of a sink and tenant, made when it is new.
pub(crate) fn line<'a>(lines: &'a mut Lines, sink: &'static str, tenant: &Arc<str>) -> &'a mut BookLine {
    lines.entry((sink, Arc::clone(tenant))).or_insert_with(|| BookLine {
        tenant: Arc::clone(tenant),
        sink: sink.to_owned(),
        accepted: 0,
        stored: 0,
        merged: 0,
        pending: 0,
        dead_lettered: 0,
        held: None,
        expected: 0,
        hours: Vec::new(),
    })
}

/// Joins the hours of a log to those of a line. Hours before the first of a log that keeps no more of them are not known of all logs.
pub(crate) fn add_hours<'a>(line: &mut BookLine, hours: impl ExactSizeIterator<Item = (&'a i64, &'a u64)>) {
    let mut sums: Hours = line.hours.iter().map(|hour| (hour.hour, hour.expected)).collect();
    let (mut first, full) = (i64::MIN, |count: usize| count >= HOURS);
    if full(sums.len()) {
        first = sums.first_key_value().map_or(first, |(hour, _)| *hour);
    }
    let was_full = full(hours.len());
    for (at, (hour, count)) in hours.enumerate() {
        if at == 0 && was_full {
            first = first.max(*hour);
        }
        *sums.entry(*hour).or_default() += count;
    }
    let known = sums.into_iter().filter(|(hour, _)| *hour >= first).rev().take(HOURS);
    line.hours = known.map(|(hour, expected)| HourLine { hour, expected, held: None }).collect();
    line.hours.reverse();
}

/// Asks the stores what they hold of each hour.
pub(crate) async fn check_hours(
    lines: &mut Lines,
    history: &dyn History,
    points: Option<&dyn Points>,
    kept_from: Option<i64>,
) -> Result<()> {
    for sink in [HISTORY, POINTS] {
        let of_sink = || lines.iter().filter(|((of, _), line)| *of == sink && line.held.is_some());
        let asked: BTreeSet<i64> = of_sink().flat_map(|(_, line)| line.hours.iter().map(|known| known.hour)).collect();
        for hour in asked.into_iter().rev().take(CHECKED).filter(|hour| kept_from.is_none_or(|from| *hour > from)) {
            let counts = match (sink, points) {
                (HISTORY, _) => history.count_between(times_of(hour)).await?,
                // It may have gone away since it counted all of them.
                (_, Some(points)) => points.count(times_of(hour)).await.ok(),
                _ => None,
            };
            let Some(counts) = counts else { break };
            for ((_, tenant), line) in lines.iter_mut().filter(|((of, _), line)| *of == sink && line.held.is_some()) {
                let held = counts.iter().find(|(of, _)| of == tenant).map_or(0, |(_, count)| *count);
                line.hours.iter_mut().filter(|known| known.hour == hour).for_each(|known| known.held = Some(held));
            }
        }
    }
    Ok(())
}

/// The cursors of a log that count in the books.
pub(crate) struct Cursors {
    pub(crate) history: Cursor,
    pub(crate) latest: Cursor,
    pub(crate) dead_letters: Cursor,
    pub(crate) points: Option<Cursor>,
}

impl Cursors {
    /// Out of all of a log's.
    pub(crate) fn of(mut all: BTreeMap<String, Cursor>) -> Self {
        let mut take = |sink: &str| all.remove(sink);
        Self {
            points: take(POINTS),
            history: take(HISTORY).unwrap_or_default(),
            latest: take(LATEST).unwrap_or_default(),
            dead_letters: take(DEAD_LETTERS).unwrap_or_default(),
        }
    }

    /// Where they are: history, latest states, dead letters, points.
    pub(crate) fn places(&self) -> Vec<u64> {
        let always = [&self.history, &self.latest, &self.dead_letters];
        always.into_iter().chain(&self.points).map(|cursor| cursor.done_to).collect()
    }
}

impl Account {
    pub(crate) async fn enter(&self, lines: &mut Lines) -> Result<()> {
        // Cursors first, the end after: so no cursor is past the end that is counted to.
        let cursors = Cursors {
            points: self.points.as_ref().map(|shared| shared.cursor()),
            history: self.history.cursor(),
            latest: self.latest.cursor(),
            dead_letters: self.dead_letters.cursor(),
        };
        if !self.census.reach(self.log.end(), WAIT).await {
            return Err(busy("the log is not counted to its end yet; ask again"));
        }
        let places = cursors.places();
        let stock = self.census.take_stock(&places).await;
        let stock = stock.map_err(|error| StoreError::Damaged(error.to_string()))?;
        enter(&cursors, &stock, lines);
        self.census.forget_below(places.into_iter().min().unwrap_or(0));
        Ok(())
    }
}

/// Adds a log: what was accepted, and what lies behind each of [`Cursors::places`].
pub(crate) fn enter(cursors: &Cursors, stock: &Stock, lines: &mut Lines) {
    let Cursors { history, latest, dead_letters: letters, points } = cursors;
    let [after_history, after_latest, after_letters, after_points @ ..] = &stock.pending[..] else {
        unreachable!("one for each cursor")
    };
    for (tenant, accepted) in &stock.accepted {
        let both = |count: Count| count.readings + count.letters;
        let of_points = points.as_ref().zip(after_points.first()).map(|(cursor, after)| (POINTS, cursor, after));
        let always = [(HISTORY, history, after_history), (LATEST, latest, after_latest)];
        for (sink, cursor, pending) in always.into_iter().chain(of_points) {
            let tally = of(cursor, tenant);
            let line = line(lines, sink, tenant);
            line.accepted += accepted.saturating_sub(tally.missed);
            line.stored += tally.stored;
            line.merged += tally.merged;
            line.dead_lettered += tally.dead_lettered;
            line.pending += both(count_of(pending, tenant));
            line.expected += tally.stored;
            if let Some(hours) = cursor.hours.get(&**tenant) {
                add_hours(line, hours.iter());
            }
        }
        let lettered = of(letters, tenant).dead_lettered;
        let pending = count_of(after_letters, tenant).letters;
        let all = lettered + pending;
        let refused_by = |cursor: &Cursor, after: &Counts| {
            let before = all - count_of(after, tenant).letters.min(all);
            of(cursor, tenant).dead_lettered.saturating_sub(before)
        };
        let refused =
            refused_by(history, after_history) + of_points.map_or(0, |(_, cursor, after)| refused_by(cursor, after));
        let line = line(lines, DEAD_LETTERS, tenant);
        line.accepted += all;
        line.dead_lettered += lettered;
        line.pending += pending;
        line.expected += lettered + refused;
    }
}

fn of(cursor: &Cursor, tenant: &str) -> Tally {
    cursor.tallies.get(tenant).copied().unwrap_or_default()
}

fn count_of(counts: &Counts, tenant: &str) -> Count {
    counts.get(tenant).copied().unwrap_or_default()
}
