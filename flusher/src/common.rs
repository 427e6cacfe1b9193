//! What the sinks of all logs of a process have in common.

use std::sync::Arc;

use parking_lot::RwLock as SyncLock;
use stores::contract::StoreError;
use tokio::sync::RwLock;

use crate::config::Config;
use crate::latest::LatestMap;
use crate::metrics::Metrics;
use crate::traces::Traces;
use crate::{Clock, Stores};

/// Shared by the sinks of all logs. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Common {
    pub(crate) config: Config,
    pub(crate) stores: Stores,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) clock: Clock,
    /// The latest states.
    pub(crate) map: Arc<SyncLock<LatestMap>>,
    /// Held for reading while a store and its cursor do not agree: of the history, the dead letters and the points.
    pub(crate) gates: [Arc<RwLock<()>>; 3],
    /// Where flushes are told of, once somebody wants to know.
    pub(crate) traces: Traces,
}

impl Common {
    /// Without a latest state.
    pub(crate) fn new(config: Config, stores: Stores, metrics: Arc<Metrics>, clock: Clock) -> Self {
        let gates = std::array::from_fn(|_| Arc::new(RwLock::new(())));
        Self { config, stores, metrics, clock, map: Arc::default(), gates, traces: Traces::default() }
    }

    /// Takes in the latest states that the store holds, besides those that are known already.
    ///
    /// # Errors
    /// As [`stores::contract::Latest::load`].
    pub(crate) async fn load_states(&self) -> Result<(), StoreError> {
        let states = self.stores.latest.load().await?;
        let mut map = self.map.write();
        states.into_iter().for_each(|state| map.merge(state));
        Ok(())
    }
}
