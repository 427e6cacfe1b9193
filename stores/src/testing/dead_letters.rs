//! Dead letters in memory, durable when they are put.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use model::Nanos;
use parking_lot::Mutex;

use super::MemoryStore;
use crate::contract::{DeadLetters, Deadletter, LIST_BYTES, Result};

/// Tenant, log, offset, stage.
type Key = (Arc<str>, Arc<str>, u64, String);

#[derive(Debug, Default)]
pub(super) struct Letters(Mutex<BTreeMap<Key, Deadletter>>);

fn key(tenant: &str, log: &str, offset: u64, stage: &str) -> Key {
    (tenant.into(), log.into(), offset, stage.to_owned())
}

impl MemoryStore {
    /// Returns all letters, by tenant, log, offset and stage.
    pub fn letters(&self) -> Vec<Deadletter> {
        self.letters.0.lock().values().cloned().collect()
    }
}

#[async_trait]
impl DeadLetters for MemoryStore {
    async fn put(&self, letters: Vec<Deadletter>) -> Result<()> {
        self.faults.answer()?;
        self.faults.step("before the letters are put").await;
        for letter in letters {
            let key = key(&letter.tenant, &letter.log, letter.offset, &letter.stage);
            self.letters.0.lock().entry(key).or_insert(letter);
        }
        self.faults.step("after the letters were put").await;
        Ok(())
    }

    async fn list(&self, tenant: &str, after: Option<(&str, u64, &str)>, limit: usize) -> Result<Vec<Deadletter>> {
        self.faults.read().await?;
        let letters = self.letters.0.lock();
        let after = after.map(|(log, offset, stage)| key(tenant, log, offset, stage));
        let of_tenant = letters.iter().filter(|(key, _)| &*key.0 == tenant);
        let behind = of_tenant.filter(|(key, _)| after.as_ref().is_none_or(|after| *key > after));
        let mut bytes = 0;
        let fitting = behind.map(|(_, letter)| letter).take(limit).take_while(|letter| {
            let fits = bytes < LIST_BYTES;
            bytes += letter.bytes();
            fits
        });
        Ok(fitting.cloned().collect())
    }

    async fn get(&self, tenant: &str, log: &str, offset: u64, stage: &str) -> Result<Option<Deadletter>> {
        self.faults.read().await?;
        Ok(self.letters.0.lock().get(&key(tenant, log, offset, stage)).cloned())
    }

    async fn mark_replayed(&self, tenant: &str, log: &str, offset: u64, stage: &str, at: Nanos) -> Result<()> {
        self.faults.answer()?;
        if let Some(letter) = self.letters.0.lock().get_mut(&key(tenant, log, offset, stage)) {
            letter.replayed = Some(at);
        }
        Ok(())
    }

    async fn count(&self) -> Result<Vec<(Arc<str>, u64)>> {
        self.faults.read().await?;
        let mut counts = BTreeMap::new();
        for letter in self.letters.0.lock().values() {
            *counts.entry(Arc::clone(&letter.tenant)).or_default() += 1;
        }
        Ok(counts.into_iter().collect())
    }
}
