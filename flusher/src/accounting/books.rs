//! The books: every accepted record, and where it is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use buffer::cursor::{HOURS, Hours};
use buffer::{Cursor, Log, Tally};
use stores::contract::{BookLine, Books, DeadLetters, HourLine, Result, StoreError};
use tokio::sync::OwnedRwLockWriteGuard;

use super::accepted::{Accepted, Count, Counts, Snapshot};
use super::replay;
use super::tallies::{hour_of, times_of};
use crate::status::Shared;
use crate::{Accounting, Clock, Projection, Projections, PurgedTenants, Retentions};

/// How long the books may wait: for the count to reach the end, and for a flush that is under way.
const WAIT: Duration = Duration::from_secs(10);

/// One log in the books.
pub(crate) struct Account {
    pub(crate) log: Arc<dyn Log>,
    pub(crate) accepted: Arc<Accepted>,
    pub(crate) sinks: Vec<Arc<Shared>>,
}

/// The books of the logs of this process.
pub(crate) struct Ledger {
    pub(crate) accounts: Vec<Account>,
    pub(crate) projections: Projections,
    /// The last hour from which readings may have been deleted.
    pub(crate) kept_from: KeptFrom,
}

/// The last hour that the retention reaches now, if there is one.
pub(crate) type KeptFrom = Arc<dyn Fn() -> Option<i64> + Send + Sync>;

/// Hours that are asked of a store.
const CHECKED: usize = 48;

/// The reach of the history's retention.
pub(crate) fn kept_from(retention_secs: Option<u64>, clock: Clock) -> KeptFrom {
    Arc::new(move || {
        let kept = i64::try_from(retention_secs?).ok()?.saturating_mul(1_000_000_000);
        Some(hour_of(clock().saturating_sub(kept)))
    })
}

/// By projection and tenant.
pub(crate) type Lines = BTreeMap<(Arc<str>, Arc<str>), BookLine>;

#[async_trait]
impl Books for Ledger {
    async fn books(&self, check: bool) -> Result<Vec<BookLine>> {
        let gates = if check { Gates::close(&self.projections).await? } else { Gates::default() };
        let mut lines = Lines::new();
        for account in &self.accounts {
            account.enter(&mut lines).await?;
        }
        if check {
            let closed = |projection: &Projection| gates.are_closed_for(projection) && !self.is_rewound(projection);
            compare(&mut lines, &self.projections, closed, (self.kept_from)()).await?;
        }
        drop(gates);
        Ok(lines.into_values().collect())
    }
}

impl Ledger {
    /// True while the store holds records behind the cursor: an operator has set it back.
    fn is_rewound(&self, projection: &Projection) -> bool {
        let mut sinks = self.accounts.iter().flat_map(|account| &account.sinks);
        sinks.any(|sink| *sink.name() == projection.name && is_rewound(&sink.cursor()))
    }
}

/// True while a cursor is not back where it was before a rewind.
pub(crate) fn is_rewound(cursor: &Cursor) -> bool {
    cursor.done_to < cursor.rewound_from
}

/// Projections whose flushes are held back while the stores count.
#[derive(Default)]
pub(crate) struct Gates {
    held: Vec<OwnedRwLockWriteGuard<()>>,
    /// Exports with a flush that does not end, because their store is away.
    open: Vec<Arc<str>>,
}

impl Gates {
    /// Waits for the flushes that are under way. Exports come first: while the store of one is
    /// away, it flushes all the time, and no other projection is held back meanwhile.
    ///
    /// # Errors
    /// [`StoreError::Busy`] when a flush into a standard store does not end.
    pub(crate) async fn close(projections: &Projections) -> Result<Self> {
        let mut gates = Self::default();
        let (exports, standard): (Vec<_>, Vec<_>) = projections.iter().partition(|projection| projection.is_export());
        for projection in exports {
            match tokio::time::timeout(WAIT, Arc::clone(&projection.gate).write_owned()).await {
                Ok(gate) => gates.held.push(gate),
                Err(_) => gates.open.push(Arc::clone(&projection.name)),
            }
        }
        for projection in standard.iter().filter(|projection| is_counted(projection)) {
            let gate = tokio::time::timeout(WAIT, Arc::clone(&projection.gate).write_owned()).await;
            gates.held.push(gate.map_err(|_| {
                let sink = &projection.name;
                StoreError::busy(format!("a flush of the sink {sink} does not end; `weir status` has its state"))
            })?);
        }
        Ok(gates)
    }

    /// True while nothing that the projection's store counts changes. A flush of an export may add
    /// dead letters.
    pub(crate) fn are_closed_for(&self, projection: &Projection) -> bool {
        match projection.accounting {
            Accounting::DeadLetters(_) => self.open.is_empty(),
            _ => !self.open.contains(&projection.name),
        }
    }
}

/// True when the projection's store is asked for a check.
pub(crate) fn is_counted(projection: &Projection) -> bool {
    matches!(projection.accounting, Accounting::Telemetry(Some(_)) | Accounting::DeadLetters(_))
}

/// Compares the lines with the stores' own counts, for the projections that are `quiet` meanwhile.
pub(crate) async fn compare(
    lines: &mut Lines,
    projections: &Projections,
    quiet: impl Fn(&Projection) -> bool,
    kept_from: Option<i64>,
) -> Result<()> {
    let counts = count(projections, &quiet).await?;
    enter_counts(lines, projections, counts, kept_from).await
}

/// The stores' own counts, by projection.
pub(crate) type StoreCounts = Vec<(Arc<str>, Vec<(Arc<str>, u64)>)>;

/// Asks the stores of the projections that are `quiet`; one that cannot be asked is left out.
pub(crate) async fn count(projections: &Projections, quiet: &impl Fn(&Projection) -> bool) -> Result<StoreCounts> {
    let mut found = StoreCounts::new();
    for projection in projections.iter() {
        if !quiet(projection) {
            if is_counted(projection) {
                let projection = &*projection.name;
                tracing::warn!(projection, "a flush or a rewind is under way; this part of the books is not checked");
            }
            continue;
        }
        let counts = match &projection.accounting {
            Accounting::Telemetry(Some(store)) => store.count().await?,
            Accounting::DeadLetters(store) => Some(with_trimmed(&**store).await?),
            Accounting::Telemetry(None) | Accounting::Nothing => None,
        };
        found.extend(counts.map(|counts| (Arc::clone(&projection.name), counts)));
    }
    Ok(found)
}

/// The letters that a store holds and those that its bound has deleted.
async fn with_trimmed(store: &dyn DeadLetters) -> Result<Vec<(Arc<str>, u64)>> {
    // A letter that leaves between the two would be counted twice, else not at all: ask until the
    // number of those deleted stays the same.
    let mut trimmed = store.count_trimmed().await?;
    loop {
        let mut counts: BTreeMap<Arc<str>, u64> = store.count().await?.into_iter().collect();
        let after = store.count_trimmed().await?;
        if after == trimmed {
            for (tenant, count) in trimmed {
                *counts.entry(tenant).or_default() += count;
            }
            return Ok(counts.into_iter().collect());
        }
        trimmed = after;
    }
}

/// Enters the stores' own counts: in all, and of each hour.
pub(crate) async fn enter_counts(
    lines: &mut Lines,
    projections: &Projections,
    counts: StoreCounts,
    kept_from: Option<i64>,
) -> Result<()> {
    let letters = projections.iter().find_map(|projection| match &projection.accounting {
        Accounting::DeadLetters(store) => Some(Arc::clone(store)),
        _ => None,
    });
    for (name, counts) in counts {
        let Some(projection) = projections.get(&name) else { continue };
        fill(lines, &name, counts, projections.purged());
        if let (Accounting::Telemetry(_), Some(letters)) = (&projection.accounting, &letters) {
            expect_replayed(lines, &name, &**letters).await?;
        }
    }
    for projection in projections.iter() {
        check_hours(lines, projection, (kept_from, projections.retentions())).await?;
    }
    Ok(())
}

/// Enters a store's own count. Of a tenant whose data is removed, the store has less than it was
/// given: the report of the deletion has the counts.
fn fill(lines: &mut Lines, sink: &Arc<str>, counts: Vec<(Arc<str>, u64)>, purged: &PurgedTenants) {
    for line in lines.values_mut().filter(|line| *line.sink == **sink && !purged.has(&line.tenant)) {
        line.held = Some(0);
    }
    for (tenant, count) in counts.into_iter().filter(|(tenant, _)| !purged.has(tenant)) {
        line(lines, sink, &tenant).held = Some(count);
    }
}

/// Adds the readings that were refused and that their store took later, by a replay: in all, and to
/// each hour.
async fn expect_replayed(lines: &mut Lines, sink: &Arc<str>, letters: &dyn DeadLetters) -> Result<()> {
    for ((tenant, hour), count) in replay::by_hour(letters, sink).await? {
        let line = line(lines, sink, &tenant);
        line.expected += count;
        if let Some(known) = line.hours.iter_mut().find(|known| known.hour == hour) {
            known.expected += count;
        }
    }
    Ok(())
}

/// The line of a projection and tenant, made when it is new.
pub(crate) fn line<'a>(lines: &'a mut Lines, sink: &Arc<str>, tenant: &Arc<str>) -> &'a mut BookLine {
    lines.entry((Arc::clone(sink), Arc::clone(tenant))).or_insert_with(|| BookLine {
        tenant: Arc::clone(tenant),
        sink: sink.to_string(),
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

/// Adds the hours of a log to a line. A log keeps only so many hours: hours before the first one of
/// such a log are not known of all logs, and are left out.
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

/// Asks a store for its count of each hour.
async fn check_hours(
    lines: &mut Lines,
    projection: &Projection,
    (kept_from, retentions): (Option<i64>, &Retentions),
) -> Result<()> {
    let Accounting::Telemetry(Some(store)) = &projection.accounting else { return Ok(()) };
    let is_checked = |sink: &Arc<str>, line: &BookLine| *sink == projection.name && line.held.is_some();
    let of_sink = lines.iter().filter(|((sink, _), line)| is_checked(sink, line));
    let asked: BTreeSet<i64> = of_sink.flat_map(|(_, line)| line.hours.iter().map(|known| known.hour)).collect();
    for hour in asked.into_iter().rev().take(CHECKED).filter(|hour| kept_from.is_none_or(|from| *hour > from)) {
        let Some(counts) = store.count_between(times_of(hour)).await? else { break };
        for ((_, tenant), line) in lines.iter_mut().filter(|((sink, _), line)| is_checked(sink, line)) {
            if retentions.reaches(tenant, hour) {
                continue;
            }
            let held = counts.iter().find(|(of, _)| of == tenant).map_or(0, |(_, count)| *count);
            line.hours.iter_mut().filter(|known| known.hour == hour).for_each(|known| known.held = Some(held));
        }
    }
    Ok(())
}

/// The cursors of a log that count in the books, each with its projection.
pub(crate) struct Cursors(Vec<(Arc<Projection>, Cursor)>);

impl Cursors {
    /// The cursors of a log by their names. A standard projection without one has not begun; an
    /// export without one has not joined the log.
    pub(crate) fn of(mut all: BTreeMap<String, Cursor>, projections: &Projections) -> Self {
        let known = projections.iter().filter(|projection| !matches!(projection.accounting, Accounting::Nothing));
        let cursor = |projection: &Arc<Projection>| match all.remove(&*projection.name) {
            Some(cursor) => Some((Arc::clone(projection), cursor)),
            None if projection.is_export() => None,
            None => Some((Arc::clone(projection), Cursor::default())),
        };
        Self(known.filter_map(cursor).collect())
    }

    /// Their offsets.
    pub(crate) fn places(&self) -> Vec<u64> {
        self.0.iter().map(|(_, cursor)| cursor.done_to).collect()
    }

    /// The cursor of a projection.
    pub(crate) fn get(&self, name: &str) -> Option<&Cursor> {
        self.0.iter().find(|(projection, _)| *projection.name == *name).map(|(_, cursor)| cursor)
    }
}

impl Account {
    pub(crate) async fn enter(&self, lines: &mut Lines) -> Result<()> {
        // Cursors first, the end after: so no cursor is past the end that is counted to.
        let known = self.sinks.iter().filter(|sink| !matches!(sink.projection.accounting, Accounting::Nothing));
        let cursors = Cursors(known.map(|sink| (Arc::clone(&sink.projection), sink.cursor())).collect());
        if !self.accepted.reach(self.log.end(), WAIT).await {
            return Err(StoreError::busy("the log is not counted to its end yet; ask again"));
        }
        let places = cursors.places();
        let snapshot = self.accepted.snapshot(&places).await?;
        enter(&cursors, &snapshot, lines);
        self.accepted.forget_below(places.into_iter().min().unwrap_or(0));
        Ok(())
    }
}

/// Adds a log: its accepted records, and those behind each of [`Cursors::places`].
pub(crate) fn enter(Cursors(cursors): &Cursors, snapshot: &Snapshot, lines: &mut Lines) {
    let sinks =
        || cursors.iter().zip(&snapshot.pending).map(|((projection, cursor), after)| (projection, cursor, after));
    let letters = sinks().find(|(projection, ..)| matches!(projection.accounting, Accounting::DeadLetters(_)));
    for (tenant, accepted) in &snapshot.accepted {
        let (lettered, unlettered) = letters
            .map_or((0, 0), |(_, cursor, after)| (of(cursor, tenant).dead_lettered, count_of(after, tenant).letters));
        let mut refused = 0;
        for (projection, cursor, after) in sinks() {
            if !matches!(projection.accounting, Accounting::Telemetry(_)) || !projection.covers(tenant) {
                continue;
            }
            let (tally, after) = (of(cursor, tenant), count_of(after, tenant));
            let line = line(lines, &projection.name, tenant);
            line.accepted += accepted.saturating_sub(tally.missed + tally.filtered);
            line.stored += tally.stored;
            line.merged += tally.merged;
            line.dead_lettered += tally.dead_lettered;
            line.pending += after.readings + after.letters;
            line.expected += tally.stored;
            if let Some(hours) = cursor.hours.get(&**tenant) {
                add_hours(line, hours.iter());
            }
            refused += tally.refused;
        }
        if let Some((projection, ..)) = letters {
            let line = line(lines, &projection.name, tenant);
            line.accepted += lettered + unlettered;
            line.dead_lettered += lettered;
            line.pending += unlettered;
            line.expected += lettered + refused;
        }
    }
}

fn of(cursor: &Cursor, tenant: &str) -> Tally {
    cursor.tallies.get(tenant).copied().unwrap_or_default()
}

fn count_of(counts: &Counts, tenant: &str) -> Count {
    counts.get(tenant).copied().unwrap_or_default()
}
