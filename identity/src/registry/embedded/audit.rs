//! The audit and the control log.

use std::ops::Bound;

use redb::{Database, ReadableDatabase, ReadableTable, WriteTransaction};

use super::file::{Outcome, Stop};
use super::rows::{AUDIT, CONTROL, HEADS, get, put, seal, unseal};
use crate::registry::audit::{Walk, link};
use crate::registry::rules::KEPT_CHANGES;
use crate::registry::{AuditEvent, AuditRange, AuditReport, Change, ChangeKind, Changes, Checkpoint};

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

/// Checks a part of a chain.
pub(super) fn check(database: &Database, tenant: &str, range: &AuditRange) -> Outcome<AuditReport> {
    let read = database.begin_read()?;
    let mut walk = Walk::new(range);
    let mut fault = None;
    for entry in read.open_table(AUDIT)?.range((tenant, walk.next())..=(tenant, u64::MAX))? {
        let (key, bytes) = entry?;
        let (hash, json) = bytes.value().split_at_checked(HASH).unwrap_or_default();
        fault = walk.step(key.value().1, hash, json).err();
        if fault.is_some() || walk.is_done() {
            break;
        }
    }
    if fault.is_none() && !walk.is_done() {
        let head = read.open_table(HEADS)?.get(tenant)?.map(|bytes| head(tenant, bytes.value()));
        fault = walk.end(head.unwrap_or_default()).err();
    }
    Ok(AuditReport { verified: walk.last(), fault })
}

/// Reads the end of a chain. A damaged one is that of no event.
fn head(tenant: &str, bytes: &[u8]) -> Checkpoint {
    let (sequence, hash) = unseal(tenant, bytes).unwrap_or_default();
    Checkpoint { sequence, hash }
}

/// Returns the ends of chains.
pub(super) fn heads(database: &Database, after: &str, limit: usize) -> Outcome<Vec<(String, Checkpoint)>> {
    let table = database.begin_read()?.open_table(HEADS)?;
    let mut found = Vec::new();
    for entry in table.range::<&str>((Bound::Excluded(after), Bound::Unbounded))?.take(limit) {
        let (tenant, bytes) = entry?;
        found.push((tenant.value().to_owned(), head(tenant.value(), bytes.value())));
    }
    Ok(found)
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
