//! How an export joins a log that it has not seen before. It starts at a record that the log still
//! has, and its books begin there: earlier readings are counted as missed.

use std::collections::BTreeMap;

use buffer::frame::{Frame, Record};
use buffer::{Cursor, Log, Tally};

use super::register::{Registered, Unready, tally_of};
use crate::accounting::tallies::{Tallies, entry};
use crate::readers::scan;
use crate::{Accounting, DEAD_LETTERS, HISTORY, Projection, StartAt};

/// The first cursor of an export. The records below it are counted by what became of them
/// elsewhere: unread messages are in the dead letters, readings are missed.
///
/// # Errors
/// [`Unready`] when the log cannot be read.
pub(crate) async fn joined(
    log: &dyn Log,
    projection: &Projection,
    start: StartAt,
    others: &Registered,
) -> Result<Cursor, Unready> {
    let at = match start {
        StartAt::Now => log.confirm_end().await.0.min(log.end()),
        StartAt::Beginning | StartAt::Joining => log.start(),
    };
    let mut tallies = Tallies::new();
    let cursor_of = |name: &str| others.iter().find(|(other, _)| *other.name == *name).map(|(_, cursor)| cursor);
    if let (Some(history), Some(letters)) = (cursor_of(HISTORY), cursor_of(DEAD_LETTERS))
        && at > 0
    {
        let [below, in_history, in_letters] = &count(log, [at, history.done_to, letters.done_to]).await?;
        let tenants = history.tallies.keys().chain(below.keys());
        for tenant in tenants {
            let of = |counts: &BTreeMap<String, Counts>| counts.get(tenant).copied().unwrap_or_default();
            let (below, passed, lettered) = (of(below), of(in_history), of(in_letters));
            // All below the history's cursor, less what lies above the first offset of this export,
            // or the other way round.
            let known = tally_of(history, tenant);
            let telemetry = (known.total() - known.other + below.telemetry()).saturating_sub(passed.telemetry());
            let dead_lettered = tally_of(letters, tenant).dead_lettered + below.letters;
            let dead_lettered = dead_lettered.saturating_sub(lettered.letters).min(telemetry);
            let other = (known.other + below.other).saturating_sub(passed.other);
            let tally = match projection.covers(tenant) {
                true => Tally { dead_lettered, other, missed: telemetry - dead_lettered, ..Tally::default() },
                false => Tally { other, missed: telemetry, ..Tally::default() },
            };
            *entry(&mut tallies, tenant) = tally;
        }
        let name = &*projection.name;
        tracing::info!(log = log.id(), export = name, at, "the export joins; earlier readings are not exported");
    }
    debug_assert!(matches!(projection.accounting, Accounting::Telemetry(_)));
    Ok(Cursor { done_to: at, sealed_to: at, tallies, ..Cursor::default() })
}

#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    readings: u64,
    letters: u64,
    other: u64,
}

impl Counts {
    fn telemetry(self) -> u64 {
        self.readings + self.letters
    }
}

/// Records from the start of the log to each of `ends`, by tenant.
async fn count<const N: usize>(log: &dyn Log, ends: [u64; N]) -> Result<[BTreeMap<String, Counts>; N], Unready> {
    let mut found = std::array::from_fn(|_| BTreeMap::<String, Counts>::new());
    let (from, to) = (log.start(), ends.into_iter().max().unwrap_or(0));
    let each = |frame: &Frame| {
        for (offset, record) in frame.records().filter(|(offset, _)| (from..to).contains(offset)) {
            for (counts, _) in found.iter_mut().zip(ends).filter(|(_, end)| offset < *end) {
                let counts = entry(counts, record.tenant());
                match record {
                    Record::Reading(_) => counts.readings += 1,
                    Record::Destroyed(record) if record.is_telemetry => counts.readings += 1,
                    Record::DeadLetter(_) => counts.letters += 1,
                    Record::Retained(_) | Record::SessionEnd(_) | Record::Destroyed(_) => counts.other += 1,
                }
            }
        }
    };
    scan::frames(log, from, to, each).await?;
    Ok(found)
}
