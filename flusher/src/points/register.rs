//! How the sink of points joins a log, and leaves it. Joined later than the log began, it starts at what the log still has,
//! and its books begin there; no longer configured, it is taken off, so that the log keeps nothing for it.

use std::collections::BTreeMap;

use buffer::frame::Record;
use buffer::{Cursor, Log, Tally};

use crate::Claim;
use crate::POINTS;
use crate::register::{Registered, take};
use crate::sink::{Tallies, tally, tenant_of};

/// Bytes asked of the log at a time.
const READ_BYTES: usize = 1 << 20;

/// Registers the sink when it is configured, takes it off the log when it is not.
///
/// # Errors
/// A sentence, as for every other sink.
pub(crate) async fn register(claim: &Claim, others: &Registered, configured: bool) -> Result<Option<Cursor>, String> {
    let log = &*claim.log;
    let held = log.cursors().await.map_err(|error| error.to_string())?.remove(POINTS);
    if !configured {
        if let Some(cursor) = held {
            let (at, left) = (cursor.done_to, log.end().saturating_sub(cursor.done_to));
            tracing::warn!(
                log = log.id(),
                at,
                left,
                "no store of points is configured any more: the sink is taken off the log, what it has not written stays out of that store"
            );
            log.forget_cursor(POINTS, claim.epoch).await.map_err(|error| error.to_string())?;
        }
        return Ok(None);
    }
    let cursor = match held {
        Some(cursor) => cursor,
        None => joined(log, others).await?,
    };
    take(claim, POINTS, cursor).await.map(Some)
}

/// The cursor of a sink that has not seen the log before. What is no longer there is told from what became of it elsewhere:
/// unread messages are in the dead letters, readings it missed.
async fn joined(log: &dyn Log, [history, _, letters, _]: &Registered) -> Result<Cursor, String> {
    let start = log.start();
    let mut tallies = Tallies::new();
    if start > 0 {
        let counts = count(log, start, &[history.done_to, letters.done_to]).await?;
        let [in_history, in_letters] = &counts[..] else { unreachable!("one for each offset") };
        let of = |counts: &BTreeMap<String, Counts>, tenant: &str| counts.get(tenant).copied().unwrap_or_default();
        for (tenant, passed) in &history.tallies {
            let counted = of(in_history, tenant);
            let lettered = letters.tallies.get(tenant).map_or(0, |t| t.dead_lettered);
            let dead_lettered = lettered.saturating_sub(of(in_letters, tenant).letters);
            let telemetry = (passed.total() - passed.other).saturating_sub(counted.readings + counted.letters);
            *tally(&mut tallies, tenant) = Tally {
                dead_lettered,
                other: passed.other.saturating_sub(counted.other),
                missed: telemetry.saturating_sub(dead_lettered),
                ..Tally::default()
            };
        }
        tracing::info!(
            log = log.id(),
            start,
            "the sink of points joins; readings before this offset are not in its store"
        );
    }
    Ok(Cursor { done_to: start, sealed_to: start, tallies, ..Cursor::default() })
}

#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    readings: u64,
    letters: u64,
    other: u64,
}

/// Records from `from` to each of `ends`, by tenant.
async fn count(log: &dyn Log, from: u64, ends: &[u64]) -> Result<Vec<BTreeMap<String, Counts>>, String> {
    let mut found = vec![BTreeMap::<String, Counts>::new(); ends.len()];
    let end = ends.iter().copied().max().unwrap_or(from);
    let mut at = from;
    while at < end {
        let frames = log.read(at, READ_BYTES).await.map_err(|error| error.to_string())?;
        let Some(last) = frames.last() else { break };
        for (offset, record) in frames.iter().flat_map(|frame| frame.records()) {
            for (counts, _) in found.iter_mut().zip(ends).filter(|(_, end)| (at..**end).contains(&offset)) {
                let counts = counts.entry(tenant_of(&record).to_owned()).or_default();
                match record {
                    Record::Reading(_) => counts.readings += 1,
                    Record::DeadLetter(_) => counts.letters += 1,
                    Record::Retained(_) => counts.other += 1,
                }
            }
        }
        at = last.header().end_offset();
    }
    Ok(found)
}
