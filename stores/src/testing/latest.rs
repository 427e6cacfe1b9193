//! Latest states in memory, durable when they are stored.

use std::collections::BTreeMap;
use std::ops::Bound;

use async_trait::async_trait;
use model::DeviceKey;
use parking_lot::Mutex;

use super::MemoryStore;
use crate::contract::{Latest, LatestState, Result};
use crate::ports::LatestView;

#[derive(Debug, Default)]
pub(super) struct States(Mutex<BTreeMap<DeviceKey, LatestState>>);

impl States {
    pub(super) fn delete_some_of(&self, tenant: &str, most: usize) -> bool {
        let mut held = self.0.lock();
        let keys: Vec<_> = held.keys().filter(|device| *device.tenant == *tenant).take(most).cloned().collect();
        keys.iter().for_each(|key| drop(held.remove(key)));
        !keys.is_empty()
    }
}

impl MemoryStore {
    /// Puts a state without a call of the contract.
    pub fn put_state(&self, state: LatestState) {
        self.latest.0.lock().insert(state.device.clone(), state);
    }

    /// Returns the states held, by device.
    pub fn states(&self) -> BTreeMap<DeviceKey, LatestState> {
        self.latest.0.lock().clone()
    }
}

#[async_trait]
impl Latest for MemoryStore {
    async fn load(&self, after: Option<&DeviceKey>, limit: usize) -> Result<Vec<LatestState>> {
        self.faults.read().await?;
        let states = self.latest.0.lock();
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        Ok(states.range::<DeviceKey, _>((from, Bound::Unbounded)).take(limit).map(|(_, state)| state.clone()).collect())
    }

    async fn store(&self, states: Vec<LatestState>) -> Result<()> {
        self.faults.answer()?;
        self.faults.step("before the states are stored").await;
        states.into_iter().for_each(|state| self.put_state(state));
        self.faults.step("after the states were stored").await;
        Ok(())
    }
}

#[async_trait]
impl LatestView for MemoryStore {
    async fn get(&self, devices: &[DeviceKey]) -> Result<Vec<Option<LatestState>>> {
        self.faults.read().await?;
        let states = self.latest.0.lock();
        Ok(devices.iter().map(|device| states.get(device).cloned()).collect())
    }

    async fn list(&self, tenant: &str, after: Option<&str>, limit: usize) -> Result<Vec<LatestState>> {
        self.faults.read().await?;
        let states = self.latest.0.lock();
        let of_tenant = states.values().filter(|state| &*state.device.tenant == tenant);
        Ok(of_tenant.filter(|state| after.is_none_or(|after| &*state.device.id > after)).take(limit).cloned().collect())
    }
}
