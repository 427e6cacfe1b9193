//! The first step of a holder: the cursors of a log become its own. Exports that are new join the
//! log, exports that are no longer configured leave it, so that the log keeps nothing for them.

use std::collections::BTreeMap;
use std::sync::Arc;

use buffer::{CatalogueError, Cursor, CursorError, Log, Tally};
use stores::contract::StoreError;

use super::join_log;
use crate::accounting::tallies::entry;
use crate::fleet::Fresh;
use crate::{Claim, Projection, Projections, StartAt};

/// The reason why a log cannot be flushed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unready {
    pub(crate) reason: String,
    /// True when a later attempt may succeed without an operator.
    pub(crate) passing: bool,
}

impl From<String> for Unready {
    fn from(reason: String) -> Self {
        Self { reason, passing: false }
    }
}

impl From<CursorError> for Unready {
    fn from(error: CursorError) -> Self {
        Self { passing: matches!(error, CursorError::Unavailable(_)), reason: error.to_string() }
    }
}

impl From<CatalogueError> for Unready {
    fn from(error: CatalogueError) -> Self {
        Self { passing: matches!(error, CatalogueError::Unavailable(_)), reason: error.to_string() }
    }
}

impl From<StoreError> for Unready {
    fn from(error: StoreError) -> Self {
        Self { passing: matches!(error, StoreError::Busy { .. }), reason: error.to_string() }
    }
}

/// Each projection with its cursor, in the order of the projections.
pub(crate) type Registered = Vec<(Arc<Projection>, Cursor)>;

/// Registers every projection, so that nothing is trimmed before all have passed it. An export that
/// begins now does so on logs that are older than the export alone; all logs are, unless `fresh` is
/// known.
///
/// # Errors
/// [`Unready`] when a cursor is not inside its log, belongs to another holder, or cannot be read.
pub(crate) async fn register(
    claim: &Claim,
    projections: &Projections,
    fresh: Option<&Fresh>,
) -> Result<Registered, Unready> {
    let log = &*claim.log;
    let held = log.cursors().await?;
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
) -> Result<(), Unready> {
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
        log.forget_cursor(export, claim.epoch).await?;
    }
    Ok(())
}

/// Makes a sink's cursor that of this holder.
async fn take(claim: &Claim, sink: &str, mut cursor: Cursor) -> Result<Cursor, Unready> {
    check(sink, &mut cursor, &*claim.log).await?;
    if cursor.epoch > claim.epoch {
        return Err(CursorError::Fenced { sink: sink.to_owned(), held: cursor.epoch, tried: claim.epoch }.into());
    }
    cursor.epoch = claim.epoch;
    claim.log.move_cursor(sink, cursor.clone()).await?;
    Ok(cursor)
}

async fn check(sink: &str, cursor: &mut Cursor, log: &dyn Log) -> Result<(), Unready> {
    let (start, (end, _)) = (log.start(), log.confirm_end().await);
    if cursor.done_to < start && log.has_lost() {
        pass_lost(log.id(), sink, cursor, start);
    }
    if cursor.done_to < start {
        return Err(format!(
            "sink {sink} is at offset {}, the log begins at {start}: what lies between is gone; restore the log",
            cursor.done_to
        )
        .into());
    }
    if cursor.sealed_to.max(cursor.done_to) > end {
        return Err(format!(
            "sink {sink} is at offset {}, the log ends at {end}: this is not the log it followed; restore the log",
            cursor.sealed_to.max(cursor.done_to)
        )
        .into());
    }
    Ok(())
}

/// Moves a cursor over records that the server of the log has lost, and counts them: the books do
/// not balance by their number.
pub(crate) fn pass_lost(log: &str, sink: &str, cursor: &mut Cursor, start: u64) {
    let lost = start.saturating_sub(cursor.done_to);
    tracing::error!(log, sink, lost, "the server of the log has lost records that the sink did not have yet");
    // The records are gone, and with them their tenants.
    let tenant = match cursor.tallies.len() {
        1 => cursor.tallies.keys().next().cloned(),
        _ => None,
    };
    let tenant = tenant.unwrap_or_else(|| model::DEFAULT_TENANT.to_owned());
    entry(&mut cursor.tallies, &tenant).lost += lost;
    cursor.done_to = cursor.done_to.max(start);
    cursor.sealed_to = cursor.sealed_to.max(cursor.done_to);
}

/// The tally of a tenant.
pub(crate) fn tally_of(cursor: &Cursor, tenant: &str) -> Tally {
    cursor.tallies.get(tenant).copied().unwrap_or_default()
}
