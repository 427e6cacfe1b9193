//! Dead letters, and their number for each tenant.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use async_trait::async_trait;
use model::Nanos;
use redb::{ReadableDatabase, ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize};

use super::file::Outcome;
use super::meta::{LETTER_BYTES, LETTER_COUNTS, LETTERS, LETTERS_TRIMMED};
use super::size::add;
use super::{EmbeddedStore, Inner, keys};
use crate::contract::{DeadLetters, Deadletter, LIST_BYTES, LetterBound, LetterSum, Result, StoreError};

#[derive(Serialize, Deserialize)]
struct Row {
    device: Option<String>,
    client: String,
    topic: String,
    payload: Vec<u8>,
    received: Nanos,
    reason: String,
    replayed: Option<Nanos>,
}

#[async_trait]
impl DeadLetters for EmbeddedStore {
    async fn put(&self, letters: Vec<Deadletter>) -> Result<()> {
        self.blocking(move |inner| {
            inner.sealing.prepare(letters.iter().map(|letter| &*letter.tenant))?;
            let mut rows = Vec::with_capacity(letters.len());
            for letter in &letters {
                let key = keys::letter(&letter.tenant, &letter.log, letter.offset, &letter.stage);
                let value = inner.value(&LETTERS, &key, &row(letter))?;
                rows.push((letter, key, value));
            }
            inner.change(|write| {
                let mut table = write.open_table(LETTERS)?;
                let mut counts = write.open_table(LETTER_COUNTS)?;
                let mut bytes = write.open_table(LETTER_BYTES)?;
                for (letter, key, value) in &rows {
                    if table.get(&key[..])?.is_some() {
                        continue;
                    }
                    table.insert(&key[..], &value[..])?;
                    add(&mut counts, &letter.tenant, 1)?;
                    add(&mut bytes, &letter.tenant, (key.len() + value.len()) as i64)?;
                }
                Ok(())
            })
        })
        .await
    }

    async fn list(&self, tenant: &str, after: Option<(&str, u64, &str)>, limit: usize) -> Result<Vec<Deadletter>> {
        let (from, end) = (keys::letters_after(tenant, after), keys::of_tenant(tenant).1);
        self.blocking(move |inner| inner.letters(&from, &end, limit)).await
    }

    async fn newest(&self, tenant: &str, log: &str, most: usize) -> Result<Vec<Deadletter>> {
        let from = keys::letter(tenant, log, 0, "");
        let end = keys::letters_of_log_end(tenant, log);
        self.blocking(move |inner| inner.newest_letters(&from, &end, most)).await
    }

    async fn get(&self, tenant: &str, log: &str, offset: u64, stage: &str) -> Result<Option<Deadletter>> {
        let key = keys::letter(tenant, log, offset, stage);
        self.blocking(move |inner| inner.letter(&key)).await
    }

    async fn mark_replayed(&self, tenant: &str, log: &str, offset: u64, stage: &str, at: Nanos) -> Result<()> {
        let key = keys::letter(tenant, log, offset, stage);
        self.blocking(move |inner| {
            let Some(mut letter) = inner.letter(&key)? else { return Ok(()) };
            letter.replayed = Some(at);
            let value = inner.value(&LETTERS, &key, &row(&letter))?;
            inner.change(|write| {
                let before = write.open_table(LETTERS)?.insert(&key[..], &value[..])?.map(|v| v.value().len());
                let grown = value.len() as i64 - before.unwrap_or_default() as i64;
                add(&mut write.open_table(LETTER_BYTES)?, &letter.tenant, grown)
            })
        })
        .await
    }

    async fn trim(&self, bound: LetterBound) -> Result<u64> {
        let mut deleted = 0;
        loop {
            let trimmed = self.blocking(move |inner| inner.trim_letters(bound, deleted > 0)).await?;
            deleted += trimmed.deleted;
            if trimmed.is_done {
                return Ok(deleted);
            }
        }
    }

    async fn count_trimmed(&self) -> Result<Vec<(Arc<str>, u64)>> {
        self.blocking(|inner| inner.letter_sums(LETTERS_TRIMMED)).await
    }

    async fn count(&self) -> Result<Vec<(Arc<str>, u64)>> {
        self.blocking(|inner| inner.letter_sums(LETTER_COUNTS)).await
    }
}

/// Letters deleted in one transaction.
const TRIMMED: usize = 500;

/// The outcome of one transaction that deletes letters.
struct Trimmed {
    deleted: u64,
    is_done: bool,
}

/// The oldest letter of a log that may leave.
struct Front {
    key: Vec<u8>,
    received: Nanos,
    bytes: u64,
    log_end: Vec<u8>,
}

impl Inner {
    pub(super) fn letter_sums(
        &self,
        table: TableDefinition<'static, &'static str, u64>,
    ) -> Result<Vec<(Arc<str>, u64)>> {
        self.meta.open()?.run(|meta| {
            let table = meta.begin_read()?.open_table(table)?;
            let mut all = Vec::new();
            for entry in table.iter()? {
                let (tenant, sum) = entry?;
                all.push((Arc::from(tenant.value()), sum.value()));
            }
            Ok(all)
        })
    }

    /// Deletes some of the oldest letters while more than `bound` are held. A log holds its letters
    /// in the order of their age, so that only the first of each log is looked at.
    fn trim_letters(&self, bound: LetterBound, over: bool) -> Result<Trimmed> {
        let mut held: BTreeMap<Arc<str>, LetterSum> = BTreeMap::new();
        for (tenant, count) in self.letter_sums(LETTER_COUNTS)? {
            held.entry(tenant).or_default().count = count;
        }
        for (tenant, bytes) in self.letter_sums(LETTER_BYTES)? {
            held.entry(tenant).or_default().bytes = bytes;
        }
        let mut fronts: BTreeMap<Arc<str>, Vec<Front>> = BTreeMap::new();
        let mut leaving = Vec::new();
        let mut is_done = false;
        while leaving.len() < TRIMMED {
            let over = over || !leaving.is_empty();
            let Some(tenant) = bound.exceeded_by(held.iter(), over).cloned() else {
                is_done = true;
                break;
            };
            let fronts = match fronts.entry(Arc::clone(&tenant)) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => new.insert(self.fronts(&tenant)?),
            };
            let Some(oldest) = (0..fronts.len()).min_by_key(|at| fronts[*at].received) else {
                // What it still has stays, and is no reason for others to leave.
                held.remove(&tenant);
                continue;
            };
            let front = fronts.swap_remove(oldest);
            let sum = held.entry(Arc::clone(&tenant)).or_default();
            sum.count = sum.count.saturating_sub(1);
            sum.bytes = sum.bytes.saturating_sub(front.bytes);
            let next = [&front.key[..], &[0]].concat();
            fronts.extend(self.front(&next, &front.log_end)?);
            leaving.push((tenant, front));
        }
        let mut deleted = 0;
        self.change(|write| {
            let mut letters = write.open_table(LETTERS)?;
            let (mut counts, mut bytes) = (write.open_table(LETTER_COUNTS)?, write.open_table(LETTER_BYTES)?);
            let mut trimmed = write.open_table(LETTERS_TRIMMED)?;
            for (tenant, Front { key, bytes: size, .. }) in &leaving {
                // One that was marked meanwhile has another length.
                let same = letters.get(&key[..])?.is_some_and(|v| (key.len() + v.value().len()) as u64 == *size);
                if !same {
                    continue;
                }
                letters.remove(&key[..])?;
                add(&mut counts, tenant, -1)?;
                add(&mut bytes, tenant, -(*size as i64))?;
                add(&mut trimmed, tenant, 1)?;
                deleted += 1;
            }
            Ok(())
        })?;
        Ok(Trimmed { deleted, is_done })
    }

    /// The oldest letter of each log of a tenant.
    fn fronts(&self, tenant: &str) -> Result<Vec<Front>> {
        let (mut from, end) = (keys::letters_after(tenant, None), keys::of_tenant(tenant).1);
        let mut fronts = Vec::new();
        while let Some((key, _)) = self.entries(LETTERS, &from, Some(&end), 1)?.pop() {
            let log_end = keys::letters_of_log_end(tenant, self.letter_key(&key)?.log);
            fronts.extend(self.front(&from, &log_end)?);
            from = log_end;
        }
        Ok(fronts)
    }

    /// The first letter of a range that may leave.
    fn front(&self, from: &[u8], log_end: &[u8]) -> Result<Option<Front>> {
        let mut from = from.to_vec();
        while let Some((key, value)) = self.entries(LETTERS, &from, Some(log_end), 1)?.pop() {
            // One that cannot be read any longer leaves first.
            let letter = self.read_letter(&key, &value)?;
            if letter.as_ref().is_none_or(Deadletter::may_leave) {
                let received = letter.map_or(Nanos::MIN, |letter| letter.received);
                let bytes = (key.len() + value.len()) as u64;
                return Ok(Some(Front { key, received, bytes, log_end: log_end.to_vec() }));
            }
            from = [&key[..], &[0]].concat();
        }
        Ok(None)
    }

    fn letters(&self, from: &[u8], end: &[u8], limit: usize) -> Result<Vec<Deadletter>> {
        let mut bytes = 0;
        let mut letters = Vec::new();
        self.walk_letters(from, end, |range| {
            for entry in range {
                if letters.len() >= limit {
                    break;
                }
                let (key, value) = entry?;
                let Some(letter) = self.read_letter(key.value(), value.value()).transpose() else { continue };
                bytes += letter.as_ref().map_or(0, Deadletter::bytes);
                letters.push(letter);
                if bytes >= LIST_BYTES {
                    break;
                }
            }
            Ok(())
        })?;
        letters.into_iter().collect()
    }

    fn newest_letters(&self, from: &[u8], end: &[u8], most: usize) -> Result<Vec<Deadletter>> {
        let mut letters = Vec::new();
        self.walk_letters(from, end, |range| {
            for entry in range.rev() {
                if letters.len() >= most {
                    break;
                }
                let (key, value) = entry?;
                letters.extend(self.read_letter(key.value(), value.value()).transpose());
            }
            Ok(())
        })?;
        letters.into_iter().collect()
    }

    fn walk_letters(
        &self,
        from: &[u8],
        end: &[u8],
        walk: impl FnOnce(redb::Range<'_, &'static [u8], &'static [u8]>) -> Outcome<()>,
    ) -> Result<()> {
        self.meta.open()?.run(|meta| {
            let table = meta.begin_read()?.open_table(LETTERS)?;
            walk(table.range::<&[u8]>(from..end)?)
        })
    }

    fn letter(&self, key: &[u8]) -> Result<Option<Deadletter>> {
        let end = [key, &[0]].concat();
        self.letters(key, &end, 1).map(|mut found| found.pop())
    }

    fn letter_key<'k>(&self, key: &'k [u8]) -> Result<keys::LetterKey<'k>> {
        keys::read_letter(key).ok_or_else(|| {
            StoreError::Damaged(format!("{}: a dead letter's key is malformed", self.meta.path().display()))
        })
    }

    /// Reads a letter; `None` when it cannot be read any longer.
    fn read_letter(&self, key: &[u8], value: &[u8]) -> Result<Option<Deadletter>> {
        let Some(row) = self.row::<Row>(&LETTERS, key, value)? else { return Ok(None) };
        let keys::LetterKey { tenant, log, offset, stage } = self.letter_key(key)?;
        Ok(Some(Deadletter {
            log: log.into(),
            offset,
            tenant: tenant.into(),
            device: row.device.map(Into::into),
            client: row.client,
            topic: row.topic,
            payload: row.payload,
            received: row.received,
            stage: stage.to_owned(),
            reason: row.reason,
            replayed: row.replayed,
        }))
    }
}

fn row(letter: &Deadletter) -> Row {
    Row {
        device: letter.device.as_deref().map(str::to_owned),
        client: letter.client.clone(),
        topic: letter.topic.clone(),
        payload: letter.payload.clone(),
        received: letter.received,
        reason: letter.reason.clone(),
        replayed: letter.replayed,
    }
}
