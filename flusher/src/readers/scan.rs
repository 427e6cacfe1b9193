//! Reads a range of a log, for readers that do not follow it.

use std::ops::Range;
use std::time::Duration;

use buffer::frame::Frame;
use buffer::{Log, ReadError};
use model::Nanos;
use stores::contract::{Result, StoreError};

/// Bytes asked of a log at a time.
const READ_BYTES: usize = 4 << 20;

/// The end of a log as it is now, once it can be read up to there; and the time until which that is
/// known to be all.
///
/// # Errors
/// [`StoreError::Busy`] when that takes longer than `wait`.
pub(crate) async fn end(log: &dyn Log, wait: Duration) -> Result<(u64, Nanos)> {
    let (target, known_until) = log.confirm_end().await;
    let mut end = log.watch_end();
    match tokio::time::timeout(wait, end.wait_for(|end| *end >= target)).await {
        Ok(Ok(_)) => Ok((target, known_until)),
        _ => Err(busy(format!("the end of log {} cannot be read now; ask again", log.id()))),
    }
}

/// The offsets of a log that a sink has not passed, up to the log's end as it is now; and the time
/// until which that is known to be all.
///
/// # Errors
/// As [`end`], and when the cursors cannot be read.
pub(crate) async fn not_passed(log: &dyn Log, sink: &str, wait: Duration) -> Result<(Range<u64>, Nanos)> {
    let cursors = log.cursors().await.map_err(|error| busy(error.to_string()))?;
    let from = cursors.get(sink).map_or_else(|| log.start(), |cursor| cursor.done_to);
    let (to, known_until) = end(log, wait).await?;
    Ok((from..to, known_until))
}

/// Passes every frame between two offsets to `each`; the first may begin below `from`. Frames that
/// were trimmed meanwhile are left out: every store has them.
///
/// # Errors
/// When the log cannot be read.
pub(crate) async fn frames(log: &dyn Log, from: u64, to: u64, mut each: impl FnMut(&Frame)) -> Result<()> {
    let mut at = from;
    while at < to {
        match log.read(at, READ_BYTES).await {
            Ok(frames) => {
                let Some(last) = frames.last() else { break };
                at = last.header().end_offset();
                frames.iter().for_each(&mut each);
            }
            Err(ReadError::Trimmed { start, .. }) => at = start.max(at + 1),
            Err(error) => return Err(unread(error)),
        }
    }
    Ok(())
}

/// The answer to a query when the log cannot be read.
pub(crate) fn unread(error: ReadError) -> StoreError {
    match error {
        ReadError::Damaged(reason) => StoreError::Damaged(reason),
        error => busy(error.to_string()),
    }
}

pub(crate) fn busy(reason: String) -> StoreError {
    StoreError::busy(reason)
}
