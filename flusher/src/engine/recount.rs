//! Recounts a range of a log that an export has delivered: from the log, the filter and the dead
//! letters.

use std::sync::Arc;

use buffer::{Cursor, ReadError};
use model::Backoff;
use stores::contract::{DeadLetters, Deadletter, is_last};
use tokio_util::sync::CancellationToken;

use super::deliver::{Delivery, Stop};
use crate::accounting::replay;
use crate::accounting::tallies::{self, HourTallies, Tallies, entry, uncount_hour};
use crate::sink::Sink;

const READ_BYTES: usize = 1 << 20;
/// Dead letters asked of the store at a time.
const PAGE: usize = 1_000;

/// The counts of a range.
#[derive(Debug, Default)]
pub(crate) struct Recount {
    pub(crate) tallies: Tallies,
    pub(crate) hours: HourTallies,
}

/// Counts the records in `from..to` as the sink would deliver them now; readings in its dead
/// letters count as such. The sink must hold no open records. `None` when `stop` comes first.
///
/// # Errors
/// When the log cannot be read.
pub(crate) async fn recount<S: Sink>(
    delivery: &Delivery<S>,
    (from, to): (u64, u64),
    stop: &CancellationToken,
    backoff: &mut Backoff,
) -> Result<Option<Recount>, Stop> {
    let Delivery { log, sink, shared, letters, .. } = delivery;
    let mut found = Recount::default();
    let mut at = from;
    while at < to {
        if stop.is_cancelled() {
            return Ok(None);
        }
        match log.read(at, READ_BYTES).await {
            Ok(frames) => {
                for frame in &frames {
                    let end = frame.header().end_offset().min(to);
                    if end > at {
                        sink.take(frame, at, end);
                        at = end;
                    }
                }
                if frames.is_empty() {
                    return Err(Stop::Fatal(format!("log {} ends at offset {at}, before {to}", log.id())));
                }
            }
            Err(ReadError::Unavailable(reason)) => {
                if shared.retrying(&reason) {
                    tracing::warn!(log = log.id(), reason, "cannot read the log; trying again");
                }
                tokio::time::sleep(backoff.draw()).await;
                continue;
            }
            Err(error) => return Err(Stop::Fatal(error.to_string())),
        }
        if at >= to || sink.load().bytes >= shared.projection.pace.max_bytes {
            let batch = Arc::new(sink.close());
            let (tallies, hours) = delivery.count(&batch).await;
            sink.finish(at);
            tallies::add(&mut found.tallies, &tallies);
            tallies::add_hours(&mut found.hours, &hours);
        }
    }
    let tenants: Vec<String> = found.tallies.keys().cloned().collect();
    for tenant in tenants {
        loop {
            match refused(&**letters, &tenant, log.id(), shared.name(), (from, to)).await {
                Ok(refused) => {
                    refused.iter().for_each(|letter| found.take_back(letter));
                    break;
                }
                Err(error) if stop.is_cancelled() => {
                    tracing::debug!(%error, "stopped");
                    return Ok(None);
                }
                Err(error) => {
                    if shared.retrying(&error.to_string()) {
                        tracing::warn!(log = log.id(), %error, "cannot read the dead letters; trying again");
                    }
                    tokio::time::sleep(backoff.draw()).await;
                }
            }
        }
    }
    Ok(Some(found))
}

impl Recount {
    /// A reading that was refused is not stored.
    fn take_back(&mut self, letter: &Deadletter) {
        let counts = entry(&mut self.tallies, &letter.tenant);
        if counts.stored == 0 {
            return;
        }
        counts.stored -= 1;
        counts.dead_lettered += 1;
        counts.refused += 1;
        if let Some(hour) = replay::hour(letter) {
            uncount_hour(&mut self.hours, &letter.tenant, hour);
        }
    }
}

/// Sets a cursor back to `target`. `passed` is what became of the records from there to where it
/// was; the filter may have changed since they were delivered, so each kind is taken from where it
/// can have been counted.
pub(crate) fn take_back(cursor: &mut Cursor, target: u64, passed: Recount) {
    for (tenant, passed) in &passed.tallies {
        let tally = entry(&mut cursor.tallies, tenant);
        let mut left = passed.total();
        let mut take = |held: &mut u64, most: u64| {
            let taken = most.min(*held).min(left);
            *held -= taken;
            left -= taken;
        };
        take(&mut tally.other, passed.other);
        take(&mut tally.dead_lettered, passed.dead_lettered);
        take(&mut tally.merged, passed.merged);
        take(&mut tally.filtered, passed.filtered);
        // Readings: delivered, or left out when the export joined the log later or had another
        // filter.
        for held in [&mut tally.stored, &mut tally.filtered, &mut tally.missed, &mut tally.merged] {
            take(held, u64::MAX);
        }
        take(&mut tally.dead_lettered, u64::MAX);
    }
    for (tenant, passed) in &passed.hours {
        let hours = entry(&mut cursor.hours, tenant);
        for (hour, count) in passed {
            if let Some(held) = hours.get_mut(hour) {
                *held = held.saturating_sub(*count);
            }
        }
    }
    cursor.rewound_from = cursor.rewound_from.max(cursor.done_to);
    cursor.done_to = target;
    cursor.sealed_to = target;
}

/// The dead letters of a stage in a range of a log.
async fn refused(
    letters: &dyn DeadLetters,
    tenant: &str,
    log: &str,
    stage: &str,
    (from, to): (u64, u64),
) -> stores::contract::Result<Vec<Deadletter>> {
    let mut found = Vec::new();
    // Before every letter of the range: no stage is empty.
    let mut after = (from, String::new());
    loop {
        let page = letters.list(tenant, Some((log, after.0, &after.1)), PAGE).await?;
        let full = !is_last(&page, PAGE);
        let in_range = |letter: &Deadletter| *letter.log == *log && (from..to).contains(&letter.offset);
        let last = page.last().map(|last| (in_range(last), (last.offset, last.stage.clone())));
        found.extend(page.into_iter().filter(|letter| in_range(letter) && letter.stage == stage));
        match last {
            Some((true, last)) if full => after = last,
            _ => return Ok(found),
        }
    }
}
