//! The books of all logs, those that were removed included.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use buffer::{Cursor, Log};
use futures::future::join_all;
use proto::internal::v1 as proto;
use stores::contract::{BookLine, Books, Result};
use tokio::time::Instant;

use super::member::Member;
use super::readers::Reading;
use super::wire;
use crate::books::{Cursors, Lines, add_hours, check_hours, count_points, enter, expect_replayed, fill, line};
use crate::census::{Counts, Stock, bump, count_records};
use crate::{DEAD_LETTERS, HISTORY, POINTS, scan};

/// How long the books are looked at again and again for a moment at which no flush was under way.
const QUIET: Duration = Duration::from_secs(20);

/// The books of the fleet.
pub(super) struct FleetBooks(pub(super) Arc<Reading>);

/// Of logs that are held here.
pub(super) async fn of_members(members: &[Arc<Member>]) -> Result<Lines> {
    let mut lines = Lines::new();
    for account in members.iter().flat_map(|member| &member.handle.books.accounts) {
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
        // Flushes of other processes cannot be held back: what the stores count is right for the books when no cursor moved and no
        // range was under way meanwhile.
        let begun = Instant::now();
        let stores = &self.0.stores;
        let mut checked: BTreeMap<&'static str, Vec<(Arc<str>, u64)>> = BTreeMap::new();
        let (mut lines, mut seen) = (Lines::new(), AllCursors::new());
        while begun.elapsed() < QUIET && checked.is_empty() {
            let before = self.cursors().await?;
            lines = self.lines().await?;
            let history = stores.history.count().await?;
            let letters = stores.dead_letters.count().await?;
            let points = match count_points(stores.points.as_deref()).await {
                Ok(points) => points,
                Err(error) => {
                    tracing::warn!(%error, "the store of points cannot be counted; its books are not checked");
                    None
                }
            };
            let after = self.cursors().await?;
            let quiet = |sink: &str| still(&before, sink) == still(&after, sink) && still(&after, sink).is_some();
            if quiet(HISTORY) && quiet(DEAD_LETTERS) {
                checked.insert(HISTORY, history);
                checked.insert(DEAD_LETTERS, letters);
                checked.extend(points.filter(|_| quiet(POINTS)).map(|points| (POINTS, points)));
                seen = after;
            }
        }
        if checked.is_empty() {
            return Err(scan::busy("flushes are under way all the time; ask again".to_owned()));
        }
        for (sink, counts) in checked {
            fill(&mut lines, sink, counts);
            if sink != DEAD_LETTERS {
                expect_replayed(&mut lines, sink, &*stores.dead_letters).await?;
            }
        }
        let kept_from = (self.0.kept_from)();
        let points = stores.points.as_deref();
        check_hours(&mut lines, &*stores.history, points, kept_from).await?;
        if self.cursors().await? != seen {
            // Something was flushed while the hours were counted: they say nothing then.
            lines.values_mut().flat_map(|line| &mut line.hours).for_each(|hour| hour.held = None);
        }
        Ok(lines.into_values().collect())
    }
}

type AllCursors = BTreeMap<String, BTreeMap<String, Cursor>>;

/// Where a sink is in every log; `None` while it writes.
fn still(cursors: &AllCursors, sink: &str) -> Option<Vec<(String, u64)>> {
    let places = cursors.iter().filter_map(|(log, cursors)| Some((log, cursors.get(sink)?)));
    places.map(|(log, cursor)| (cursor.sealed_to <= cursor.done_to).then(|| (log.clone(), cursor.done_to))).collect()
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
        let mut client = self.0.peers.client(address)?;
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
        let mut unanswered = std::mem::take(&mut groups.nobody);
        let mut lines = match local {
            Some(local) => of_members(&local.0.held(&groups.here)).await?,
            None => Lines::new(),
        };
        let mut asked = Vec::new();
        for (address, logs) in &groups.there {
            asked.push(self.ask(address, logs));
        }
        for (answer, logs) in join_all(asked).await.into_iter().zip(groups.there.values()) {
            let answer = answer.unwrap_or_default();
            unanswered.extend(logs.iter().filter(|log| !answer.logs.contains(log)).cloned());
            answer.lines.into_iter().map(wire::read_line).for_each(|told| add(&mut lines, &told));
        }
        if !unanswered.is_empty() {
            // Somebody holds them by now, perhaps.
            self.0.directory.forget();
        }
        for log in self.0.open_all(&unanswered).await? {
            let read = from_log(&*log, self.0.wait).await;
            if let Some((cursors, stock)) = self.0.unless_gone(log.id(), read).await? {
                enter(&cursors, &stock, &mut lines);
            }
        }
        let cursors = Cursors::of(settled);
        enter(&cursors, &stock_below(&cursors), &mut lines);
        Ok(lines)
    }
}

fn add(lines: &mut Lines, told: &BookLine) {
    let known = crate::SINKS.into_iter().chain([POINTS]).find(|sink| *sink == told.sink);
    let Some(sink) = known else { return };
    let line = line(lines, sink, &told.tenant);
    line.accepted += told.accepted;
    line.stored += told.stored;
    line.merged += told.merged;
    line.pending += told.pending;
    line.dead_lettered += told.dead_lettered;
    line.expected += told.expected;
    add_hours(line, told.hours.iter().map(|hour| (&hour.hour, &hour.expected)));
}

/// What the sinks have passed, and nothing behind them.
fn stock_below(cursors: &Cursors) -> Stock {
    let tallies = cursors.history.tallies.iter();
    let accepted = tallies.map(|(tenant, tally)| (tenant.as_str().into(), tally.total() - tally.other)).collect();
    Stock { accepted, pending: cursors.places().iter().map(|_| Counts::new()).collect() }
}

/// Of a log that nobody answers for: what its cursors say, and a count of what lies behind them.
async fn from_log(log: &dyn Log, wait: Duration) -> Result<(Cursors, Stock)> {
    let cursors = Cursors::of(log.cursors().await.map_err(|error| scan::busy(error.to_string()))?);
    let (target, _) = scan::end(log, wait).await?;
    let (places, mut stock) = (cursors.places(), stock_below(&cursors));
    let take = |frame: &buffer::frame::Frame| {
        for (place, counts) in places.iter().zip(&mut stock.pending) {
            count_records(frame, *place, target, |tenant, count| bump(counts, tenant, count));
        }
        count_records(frame, places[0], target, |tenant, count| {
            *stock.accepted.entry(tenant.into()).or_default() += count.readings + count.letters;
        });
    };
    let lowest = places.iter().copied().min().unwrap_or(target);
    scan::frames(log, lowest, target, take).await?;
    Ok((cursors, stock))
}
