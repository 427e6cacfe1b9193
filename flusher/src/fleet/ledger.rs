//! The books of all logs, including removed ones.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use buffer::{Cursor, Log};
use futures::future::join_all;
use proto::internal::v1 as proto;
use stores::contract::{BookLine, Books, Result};
use tokio::time::Instant;

use super::held_log::HeldLog;
use super::readers::Reading;
use super::{call, convert};
use crate::accounting::accepted::{Counts, Snapshot, accepted_below, add, count_records};
use crate::accounting::books::{
    Cursors, Gates, Lines, StoreCounts, add_hours, count, enter, enter_counts, is_counted, is_rewound, line,
};
use crate::readers::scan;
use crate::{HISTORY, Projection, Projections};

/// Time within which the check of the books waits for a moment without a flush.
const QUIET: Duration = Duration::from_secs(20);

/// The books of the fleet.
pub(super) struct FleetBooks(pub(super) Arc<Reading>);

/// The books of logs that are held here.
pub(super) async fn of_held(held_logs: &[Arc<HeldLog>]) -> Result<Lines> {
    let mut lines = Lines::new();
    for account in held_logs.iter().flat_map(|held_log| &held_log.handle.books.accounts) {
        account.enter(&mut lines).await?;
    }
    Ok(lines)
}

#[async_trait]
impl Books for FleetBooks {
    async fn books(&self, check: bool) -> Result<Vec<BookLine>> {
        if !check {
            return Ok(self.lines().await?.into_values().collect());
        }
        // Flushes of this process are held back. Those of other processes cannot be: the stores'
        // counts are right for the books when no cursor moved and no range was under way meanwhile.
        let begun = Instant::now();
        let projections = &self.0.projections;
        let gates = match &self.0.local {
            Some(_) => Gates::close(projections).await?,
            None => Gates::default(),
        };
        let (mut lines, counts, seen) = loop {
            let before = self.cursors().await?;
            let lines = self.lines().await?;
            let all = count(projections, &|projection: &Projection| gates.are_closed_for(projection)).await?;
            let after = self.cursors().await?;
            let quiet = |sink: &str| still(&before, sink) == still(&after, sink) && still(&after, sink).is_some();
            let standard = projections.iter().filter(|projection| !projection.is_export() && is_counted(projection));
            if standard.into_iter().all(|projection| quiet(&projection.name)) {
                let counts: StoreCounts = all.into_iter().filter(|(name, _)| quiet(name)).collect();
                break (lines, counts, after);
            }
            if begun.elapsed() >= QUIET {
                return Err(scan::busy("flushes are under way all the time; ask again".to_owned()));
            }
        };
        let kept_from = (self.0.kept_from)();
        enter_counts(&mut lines, projections, counts, kept_from).await?;
        if self.cursors().await? != seen {
            // Something was flushed while the hours were counted: their counts mean nothing then.
            lines.values_mut().flat_map(|line| &mut line.hours).for_each(|hour| hour.held = None);
        }
        drop(gates);
        Ok(lines.into_values().collect())
    }
}

type AllCursors = BTreeMap<String, BTreeMap<String, Cursor>>;

/// The offsets of a sink in every log; `None` while it writes, or is behind a rewind.
fn still(cursors: &AllCursors, sink: &str) -> Option<Vec<(String, u64)>> {
    let places = cursors.iter().filter_map(|(log, cursors)| Some((log, cursors.get(sink)?)));
    let quiet = |cursor: &Cursor| cursor.sealed_to <= cursor.done_to && !is_rewound(cursor);
    places.map(|(log, cursor)| quiet(cursor).then(|| (log.clone(), cursor.done_to))).collect()
}

impl FleetBooks {
    async fn cursors(&self) -> Result<AllCursors> {
        let listing = self.0.directory.list().await?;
        let logs: Vec<String> = listing.logs.iter().map(|info| info.id.clone()).collect();
        let mut found = AllCursors::new();
        for log in self.0.open_all(&logs).await? {
            let cursors = log.cursors().await.map_err(|error| scan::busy(error.to_string()));
            found.extend(self.0.unless_gone(log.id(), cursors).await?.map(|cursors| (log.id().to_owned(), cursors)));
        }
        Ok(found)
    }

    async fn ask(&self, address: &str, logs: &[String]) -> Option<proto::BooksResponse> {
        let mut client = call::client(&self.0.peers, address)?;
        let request = proto::BooksRequest { logs: logs.to_vec() };
        self.0.peers.first(address, client.books(request)).await
    }

    async fn lines(&self) -> Result<Lines> {
        // A log that is removed here meanwhile would be counted twice.
        let local = self.0.local.as_ref();
        let _still = match local {
            Some(local) => Some(local.0.moving.read().await),
            None => None,
        };
        let settled = self.0.directory.catalogue.settled().await.map_err(|error| scan::busy(error.to_string()))?;
        let listing = self.0.directory.list().await?;
        let mut groups = self.0.groups(&listing);
        let mut unanswered = std::mem::take(&mut groups.unheld);
        let mut lines = match local {
            Some(local) => of_held(&local.0.held(&groups.here)).await?,
            None => Lines::new(),
        };
        let mut asked = Vec::new();
        for (address, logs) in &groups.there {
            asked.push(self.ask(address, logs));
        }
        for (answer, logs) in join_all(asked).await.into_iter().zip(groups.there.values()) {
            let answer = answer.unwrap_or_default();
            unanswered.extend(logs.iter().filter(|log| !answer.logs.contains(log)).cloned());
            answer.lines.into_iter().map(convert::read_line).for_each(|sent| join(&mut lines, &sent));
        }
        if !unanswered.is_empty() {
            // They may have a new holder.
            self.0.directory.forget();
        }
        for log in self.0.open_all(&unanswered).await? {
            let read = from_log(&*log, &self.0.projections, self.0.wait).await;
            if let Some((cursors, snapshot)) = self.0.unless_gone(log.id(), read).await? {
                enter(&cursors, &snapshot, &mut lines);
            }
        }
        let cursors = Cursors::of(settled, &self.0.projections);
        enter(&cursors, &snapshot_below(&cursors), &mut lines);
        Ok(lines)
    }
}

fn join(lines: &mut Lines, sent: &BookLine) {
    let line = line(lines, &sent.sink.as_str().into(), &sent.tenant);
    line.accepted += sent.accepted;
    line.stored += sent.stored;
    line.merged += sent.merged;
    line.pending += sent.pending;
    line.dead_lettered += sent.dead_lettered;
    line.expected += sent.expected;
    add_hours(line, sent.hours.iter().map(|hour| (&hour.hour, &hour.expected)));
}

/// The records that the sinks have passed, and nothing behind them.
fn snapshot_below(cursors: &Cursors) -> Snapshot {
    let accepted = cursors.get(HISTORY).map(accepted_below).unwrap_or_default();
    Snapshot { accepted, pending: cursors.places().iter().map(|_| Counts::new()).collect() }
}

/// A log that no process answers for: its cursors, and a count of the records behind them.
async fn from_log(log: &dyn Log, projections: &Projections, wait: Duration) -> Result<(Cursors, Snapshot)> {
    let cursors = log.cursors().await.map_err(|error| scan::busy(error.to_string()))?;
    let cursors = Cursors::of(cursors, projections);
    let (target, _) = scan::end(log, wait).await?;
    let (places, mut snapshot) = (cursors.places(), snapshot_below(&cursors));
    let counted = cursors.get(HISTORY).map_or(0, |cursor| cursor.done_to);
    let take = |frame: &buffer::frame::Frame| {
        for (place, counts) in places.iter().zip(&mut snapshot.pending) {
            count_records(frame, *place, target, |tenant, count| add(counts, tenant, count));
        }
        count_records(frame, counted, target, |tenant, count| {
            *snapshot.accepted.entry(tenant.into()).or_default() += count.readings + count.letters;
        });
    };
    let lowest = places.iter().copied().min().unwrap_or(target);
    scan::frames(log, lowest, target, take).await?;
    Ok((cursors, snapshot))
}
