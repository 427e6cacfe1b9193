//! Deletion of a tenant in memory.

use async_trait::async_trait;
use model::Nanos;

use super::MemoryStore;
use crate::contract::{Result, TenantCounts, TenantData};

#[async_trait]
impl TenantData for MemoryStore {
    async fn count_of(&self, tenant: &str) -> Result<TenantCounts> {
        self.faults.read().await?;
        Ok(TenantCounts {
            readings: self.history.count_of(tenant),
            latest_states: self.states().keys().filter(|device| *device.tenant == *tenant).count() as u64,
            dead_letters: self.letters().iter().filter(|letter| *letter.tenant == *tenant).count() as u64,
            retained_messages: self.retained_messages().iter().filter(|held| *held.tenant == *tenant).count() as u64,
        })
    }

    async fn size_of(&self, tenant: &str) -> Result<u64> {
        self.faults.read().await?;
        Ok(self.history.size_of(tenant))
    }

    async fn delete_some_of(&self, tenant: &str, most: usize) -> Result<bool> {
        self.faults.answer()?;
        self.faults.step("before a slice is deleted").await;
        let deleted = self.history.delete_some_of(tenant, most)
            || self.latest.delete_some_of(tenant, most)
            || self.letters.delete_some_of(tenant, most)
            || self.retained.delete_some_of(tenant, most);
        self.faults.step("after a slice was deleted").await;
        Ok(deleted)
    }

    async fn expire_of(&self, tenant: &str, before: Nanos) -> Result<u64> {
        self.faults.answer()?;
        Ok(self.history.expire(before, Some(tenant)))
    }
}
