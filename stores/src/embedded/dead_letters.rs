//! Dead letters, and their number for each tenant.

use std::sync::Arc;

use async_trait::async_trait;
use model::Nanos;
use redb::{ReadableDatabase, ReadableTable};
use serde::{Deserialize, Serialize};

use super::file::Outcome;
use super::meta::{LETTER_COUNTS, LETTERS, seal, unseal};
use super::{EmbeddedStore, Inner, keys};
use crate::contract::{DeadLetters, Deadletter, LIST_BYTES, Result, StoreError};

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
            inner.change(|write| {
                let mut table = write.open_table(LETTERS)?;
                let mut counts = write.open_table(LETTER_COUNTS)?;
                for letter in &letters {
                    let key = keys::letter(&letter.tenant, &letter.log, letter.offset, &letter.stage);
                    if table.get(&key[..])?.is_some() {
                        continue;
                    }
                    table.insert(&key[..], &seal(&row(letter))[..])?;
                    let held = counts.get(&*letter.tenant)?.map_or(0, |c| c.value());
                    counts.insert(&*letter.tenant, held + 1)?;
                }
                Ok(())
            })
        })
        .await
    }

    async fn list(&self, tenant: &str, after: Option<(&str, u64, &str)>, limit: usize) -> Result<Vec<Deadletter>> {
        let (from, end) = (keys::letters_after(tenant, after), keys::letters_end(tenant));
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
            inner.change(|write| {
                write.open_table(LETTERS)?.insert(&key[..], &seal(&row(&letter))[..])?;
                Ok(())
            })
        })
        .await
    }

    async fn count(&self) -> Result<Vec<(Arc<str>, u64)>> {
        self.blocking(|inner| {
            inner.meta.open()?.run(|meta| {
                let table = meta.begin_read()?.open_table(LETTER_COUNTS)?;
                let mut all = Vec::new();
                for entry in table.iter()? {
                    let (tenant, count) = entry?;
                    all.push((Arc::from(tenant.value()), count.value()));
                }
                Ok(all)
            })
        })
        .await
    }
}

impl Inner {
    fn letters(&self, from: &[u8], end: &[u8], limit: usize) -> Result<Vec<Deadletter>> {
        let mut bytes = 0;
        let mut letters = Vec::new();
        self.walk_letters(from, end, |range| {
            for entry in range.take(limit) {
                let (key, value) = entry?;
                let letter = self.read_letter(key.value(), value.value());
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
            for entry in range.rev().take(most) {
                let (key, value) = entry?;
                letters.push(self.read_letter(key.value(), value.value()));
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

    fn read_letter(&self, key: &[u8], value: &[u8]) -> Result<Deadletter> {
        let path = self.meta_path();
        let row: Row = unseal(&path, key, value)?;
        let keys::LetterKey { tenant, log, offset, stage } = keys::read_letter(key)
            .ok_or_else(|| StoreError::Damaged(format!("{}: a dead letter's key is malformed", path.display())))?;
        Ok(Deadletter {
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
        })
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
