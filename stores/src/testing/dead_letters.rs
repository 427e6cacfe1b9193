//! Dead letters in memory, durable when they are put.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use model::Nanos;
use parking_lot::Mutex;

use super::MemoryStore;
use crate::contract::{DeadLetters, Deadletter, LIST_BYTES, LetterBound, LetterSum, Result};

/// Tenant, log, offset, stage.
type Key = (Arc<str>, Arc<str>, u64, String);

#[derive(Debug, Default)]
pub(super) struct Letters(Mutex<BTreeMap<Key, Deadletter>>, Mutex<BTreeMap<Arc<str>, u64>>);

impl Letters {
    pub(super) fn delete_some_of(&self, tenant: &str, most: usize) -> bool {
        let mut held = self.0.lock();
        let keys: Vec<_> = held.keys().filter(|key| *key.0 == *tenant).take(most).cloned().collect();
        keys.iter().for_each(|key| drop(held.remove(key)));
        self.1.lock().remove(tenant).is_some() || !keys.is_empty()
    }
}

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

    async fn trim(&self, bound: LetterBound) -> Result<u64> {
        self.faults.answer()?;
        let (mut letters, mut trimmed) = (self.letters.0.lock(), self.letters.1.lock());
        let (mut deleted, mut staying) = (0, BTreeSet::new());
        loop {
            let mut held: BTreeMap<Arc<str>, LetterSum> = BTreeMap::new();
            for letter in letters.values() {
                let sum = held.entry(Arc::clone(&letter.tenant)).or_default();
                (sum.count, sum.bytes) = (sum.count + 1, sum.bytes + letter.bytes() as u64);
            }
            held.retain(|tenant, _| !staying.contains(tenant));
            let Some(tenant) = bound.exceeded_by(held.iter(), deleted > 0) else { return Ok(deleted) };
            let leaving = letters.iter().filter(|(key, letter)| key.0 == *tenant && letter.may_leave());
            let Some(oldest) = leaving.min_by_key(|(_, letter)| letter.received).map(|(key, _)| key.clone()) else {
                staying.insert(Arc::clone(tenant));
                continue;
            };
            letters.remove(&oldest);
            *trimmed.entry(Arc::clone(tenant)).or_default() += 1;
            deleted += 1;
        }
    }

    async fn count_trimmed(&self) -> Result<Vec<(Arc<str>, u64)>> {
        self.faults.read().await?;
        Ok(self.letters.1.lock().iter().map(|(tenant, count)| (Arc::clone(tenant), *count)).collect())
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
