//! The states of all devices of a process, and whether those of the store are among them.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use stores::contract::{Latest, StoreError};
use tokio::sync::watch;

use super::LatestMap;

/// The latest states, shared by the sinks of all logs.
pub(crate) struct States {
    pub(crate) map: RwLock<LatestMap>,
    pub(crate) store: Arc<dyn Latest>,
    loaded: watch::Sender<bool>,
}

impl States {
    /// Keeps up to `max_names` names of each device.
    pub(crate) fn new(store: Arc<dyn Latest>, max_names: usize) -> Self {
        let map = RwLock::new(LatestMap::with_max_names(max_names));
        Self { map, store, loaded: watch::channel(false).0 }
    }

    /// Merges the states that the store holds with those that are known already.
    ///
    /// # Errors
    /// As [`Latest::load`].
    pub(crate) async fn load(&self) -> Result<(), StoreError> {
        let states = self.store.load().await?;
        let mut map = self.map.write();
        states.into_iter().for_each(|state| map.merge(state));
        drop(map);
        self.loaded.send_replace(true);
        Ok(())
    }

    /// Waits until the store's states are among those in memory, for `limit` at most. False when
    /// they are not.
    pub(crate) async fn wait_loaded(&self, limit: Duration) -> bool {
        let mut loaded = self.loaded.subscribe();
        matches!(tokio::time::timeout(limit, loaded.wait_for(|loaded| *loaded)).await, Ok(Ok(_)))
    }
}
