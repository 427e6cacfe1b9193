//! The audit and the control log.

use redb::{Database, ReadableDatabase, ReadableTable, WriteTransaction};

use super::file::{Outcome, Stop};
use super::rows::{AUDIT, CONTROL, HEADS, get, put, seal, unseal};
use crate::registry::audit::{Walk, link};
use crate::registry::rules::KEPT_CHANGES;
use crate::registry::{AuditEvent, AuditReport, Change, ChangeKind, Changes, Checkpoint, Fault};

const HASH: usize = 32;

/// Adds an event to a chain.
pub(super) fn append(write: &WriteTransaction, tenant: &str, mut event: AuditEvent) -> Outcome<()> {
    let head: Option<(u64, [u8; HASH])> = get(&write.open_table(HEADS)?, tenant)?;
    let (last, previous) = head.unwrap_or_default();
    event.sequence = last + 1;
    let mut bytes = vec![0; HASH];
    serde_json::to_writer(&mut bytes, &event).map_err(|error| Stop::Damaged(error.to_string()))?;
    let hash = link(&previous, &bytes[HASH..]);
    bytes[..HASH].copy_from_slice(&hash);
    write.open_table(AUDIT)?.insert((tenant, event.sequence), bytes.as_slice())?;
    put(write, HEADS, tenant, &(event.sequence, hash))
}

/// Adds an entry to the control log.
pub(super) fn control(write: &WriteTransaction, tenant: &str, kind: ChangeKind) -> Outcome<()> {
    let mut table = write.open_table(CONTROL)?;
    let number = table.last()?.map_or(0, |(number, _)| number.value()) + 1;
    table.insert(number, seal(&Change { number, tenant: tenant.to_owned(), kind }).as_slice())?;
    if let Some(old) = number.checked_sub(KEPT_CHANGES) {
        table.remove(old)?;
    }
    Ok(())
}

/// Returns events, the newest first.
pub(super) fn list(database: &Database, tenant: &str, before: Option<u64>, limit: usize) -> Outcome<Vec<AuditEvent>> {
    newest(&database.begin_read()?.open_table(AUDIT)?, tenant, before, limit)
}

/// Returns events of the table, the newest first.
pub(super) fn newest(
    table: &impl ReadableTable<(&'static str, u64), &'static [u8]>,
    tenant: &str,
    before: Option<u64>,
    limit: usize,
) -> Outcome<Vec<AuditEvent>> {
    let events = table.range((tenant, 0)..(tenant, before.unwrap_or(u64::MAX)))?;
    let mut found = Vec::new();
    for entry in events.rev().take(limit) {
        let (key, bytes) = entry?;
        let damaged = || Stop::Damaged(format!("event {} of the audit of {tenant}", key.value().1));
        let (hash, json) = bytes.value().split_first_chunk::<HASH>().ok_or_else(damaged)?;
        let mut event: AuditEvent = serde_json::from_slice(json).map_err(|_| damaged())?;
        event.hash = *hash;
        found.push(event);
    }
    Ok(found)
}

/// Checks a chain.
pub(super) fn verify(database: &Database, tenant: &str, checkpoint: Option<Checkpoint>) -> Outcome<AuditReport> {
    let read = database.begin_read()?;
    let mut walk = Walk::new(checkpoint);
    let mut fault = None;
    for entry in read.open_table(AUDIT)?.range((tenant, 0)..=(tenant, u64::MAX))? {
        let (key, bytes) = entry?;
        let (hash, json) = bytes.value().split_at_checked(HASH).unwrap_or_default();
        if let Err(found) = walk.step(key.value().1, hash, json) {
            fault = Some(found);
            break;
        }
    }
    let fault = match fault {
        Some(fault) => Some(fault),
        None => match get::<(u64, [u8; HASH])>(&read.open_table(HEADS)?, tenant) {
            Ok(head) => {
                let (sequence, hash) = head.unwrap_or_default();
                walk.end(Checkpoint { sequence, hash }).err()
            }
            Err(Stop::Damaged(_)) => Some(Fault::End { ends: walk.last().sequence, head: 0 }),
            Err(stop) => return Err(stop),
        },
    };
    Ok(AuditReport { verified: walk.last(), fault })
}

/// Returns entries of the control log.
pub(super) fn changes(database: &Database, after: u64, limit: usize) -> Outcome<Changes> {
    let table = database.begin_read()?.open_table(CONTROL)?;
    let newest = table.last()?.map_or(0, |(number, _)| number.value());
    let oldest = table.first()?.map_or(1, |(number, _)| number.value());
    let mut changes = Changes { newest, has_gap: after > newest || oldest > after + 1, entries: Vec::new() };
    if after < newest {
        for entry in table.range(after + 1..)?.take(limit) {
            let (number, bytes) = entry?;
            changes.entries.push(unseal(&format!("control/{}", number.value()), bytes.value())?);
        }
    }
    Ok(changes)
}
