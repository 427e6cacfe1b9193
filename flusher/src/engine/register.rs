//! The first step of a holder: the cursors of a log become its own. Exports that are new join the
//! log, exports that are no longer configured leave it, so that the log keeps nothing for them.

use std::collections::BTreeMap;
use std::sync::Arc;

use buffer::{Cursor, CursorError, Log, Tally};

use super::join_log;
use crate::fleet::Fresh;
use crate::{Claim, Projection, Projections, StartAt};

/// Each projection with its cursor, in the order of the projections.
pub(crate) type Registered = Vec<(Arc<Projection>, Cursor)>;

/// Registers every projection, so that nothing is trimmed before all have passed it. An export that
/// begins now does so on logs that are older than the export alone; all logs are, unless `fresh` is
/// known.
///
/// # Errors
/// A sentence when a cursor is not inside its log, belongs to another holder, or cannot be read.
pub(crate) async fn register(
    claim: &Claim,
    projections: &Projections,
    fresh: Option<&Fresh>,
) -> Result<Registered, String> {
    let log = &*claim.log;
    let held = log.cursors().await.map_err(|error| error.to_string())?;
    let mut registered = Registered::new();
    for projection in projections.iter().filter(|projection| projection.start == StartAt::Beginning) {
        let start = log.start();
        let fresh = Cursor { done_to: start, sealed_to: start, ..Cursor::default() };
        let cursor = held.get(&*projection.name).cloned().unwrap_or(fresh);
        registered.push((Arc::clone(projection), take(claim, &projection.name, cursor).await?));
    }
    for projection in projections.iter().filter(|projection| projection.start != StartAt::Beginning) {
        let cursor = match held.get(&*projection.name) {
            Some(cursor) => cursor.clone(),
            None => {
                let is_older = fresh.is_none_or(|fresh| fresh.is_older(log.id(), &projection.name));
                let start = if is_older { projection.start } else { StartAt::Joining };
                join_log::joined(log, projection, start, &registered).await?
            }
        };
        registered.push((Arc::clone(projection), take(claim, &projection.name, cursor).await?));
    }
    let place = |projection: &Projection| projections.iter().position(|known| known.name == projection.name);
    registered.sort_by_key(|(projection, _)| place(projection));
    forget_others(claim, projections, &held).await?;
    Ok(registered)
}

/// Takes exports off the log that are no longer configured. Every other projection is always there.
async fn forget_others(
    claim: &Claim,
    projections: &Projections,
    held: &BTreeMap<String, Cursor>,
) -> Result<(), String> {
    let log = &*claim.log;
    for (export, cursor) in held.iter().filter(|(name, _)| projections.get(name).is_none()) {
        let (at, left) = (cursor.done_to, log.end().saturating_sub(cursor.done_to));
        tracing::warn!(
            log = log.id(),
            export,
            at,
            left,
            "the export is no longer configured and is taken off the log; records that it has not written are not exported"
        );
        log.forget_cursor(export, claim.epoch).await.map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// Makes a sink's cursor that of this holder.
async fn take(claim: &Claim, sink: &str, mut cursor: Cursor) -> Result<Cursor, String> {
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

/// The tally of a tenant.
pub(crate) fn tally_of(cursor: &Cursor, tenant: &str) -> Tally {
    cursor.tallies.get(tenant).copied().unwrap_or_default()
}
