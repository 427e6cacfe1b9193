//! A holder's first step: the cursors of a log become its own.

use buffer::{Cursor, CursorError, Log};

use crate::Claim;

/// The cursors of one log, in the order of [`crate::SINKS`].
pub(crate) type Registered = [Cursor; 4];

pub(crate) async fn register(claim: &Claim) -> Result<Registered, String> {
    let log = &claim.log;
    let held = log.cursors().await.map_err(|error| error.to_string())?;
    let mut cursors = Registered::default();
    for (sink, cursor) in crate::SINKS.into_iter().zip(&mut cursors) {
        let fresh = Cursor { done_to: log.start(), sealed_to: log.start(), ..Cursor::default() };
        *cursor = take(claim, sink, held.get(sink).cloned().unwrap_or(fresh)).await?;
    }
    Ok(cursors)
}

/// Makes a sink's cursor that of this holder.
pub(crate) async fn take(claim: &Claim, sink: &str, mut cursor: Cursor) -> Result<Cursor, String> {
    check(sink, &cursor, &*claim.log).await?;
    if cursor.epoch > claim.epoch {
        let reason = CursorError::Fenced { sink: sink.to_owned(), held: cursor.epoch, tried: claim.epoch };
        return Err(reason.to_string());
    }
    cursor.epoch = claim.epoch;
    claim.log.move_cursor(sink, cursor.clone()).await.map_err(|error| error.to_string())?;
    Ok(cursor)
}

async fn check(sink: &str, cursor: &Cursor, log: &dyn Log) -> Result<(), String> {
    let (start, (end, _)) = (log.start(), log.confirm_end().await);
    if cursor.done_to < start {
        return Err(format!(
            "sink {sink} is at offset {}, the log begins at {start}: what lies between is gone; restore the log",
            cursor.done_to
        ));
    }
    if cursor.sealed_to.max(cursor.done_to) > end {
        return Err(format!(
            "sink {sink} is at offset {}, the log ends at {end}: this is not the log it followed; restore the log",
            cursor.sealed_to.max(cursor.done_to)
        ));
    }
    Ok(())
}
