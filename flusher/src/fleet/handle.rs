//! The state of a flusher that its readers share.

use std::collections::BTreeMap;
use std::sync::Arc;

use buffer::{Catalogue, Holder};
use parking_lot::RwLock;
use stores::contract::LatestState;

use super::held_log::HeldLog;
use crate::context::Context;
use crate::sinks::latest::Question;
use crate::status::SinkStatus;

/// The state that readers and the flusher share.
pub(crate) struct Shared {
    pub(crate) catalogue: Arc<dyn Catalogue>,
    pub(crate) holder: Holder,
    pub(crate) context: Context,
    pub(super) held_logs: RwLock<BTreeMap<String, Arc<HeldLog>>>,
    /// The reasons why logs cannot be flushed here.
    pub(super) failed: RwLock<BTreeMap<String, String>>,
    /// Held while a log moves from the held ones to the removed ones, so that the books count it
    /// once.
    pub(crate) moving: tokio::sync::RwLock<()>,
}

/// Readers of the logs held here, for the rest of the process. Cheap to clone.
#[derive(Clone)]
pub struct FleetHandle(pub(crate) Arc<Shared>);

impl FleetHandle {
    /// The state of each sink of each log held here. Sets the lag gauges too.
    pub fn status(&self) -> Vec<SinkStatus> {
        let statuses = self.0.statuses();
        self.0.context.metrics.observe(&self.0.context.projections, &statuses);
        statuses
    }

    /// The state of each export on each log held here.
    pub fn exports(&self) -> Vec<SinkStatus> {
        self.0.statuses().into_iter().filter(SinkStatus::is_export).collect()
    }

    /// Logs that cannot be flushed here, with the reasons.
    pub fn failures(&self) -> Vec<(String, String)> {
        self.0.failed.read().iter().map(|(log, reason)| (log.clone(), reason.clone())).collect()
    }
}

impl Shared {
    /// Returns the latest states in memory, and whether they are all that the store has too.
    pub(crate) async fn known(&self, question: &Question<'_>) -> (Vec<LatestState>, bool) {
        match self.context.projections.states() {
            Some(states) => states.known(question).await,
            None => (Vec::new(), true),
        }
    }

    pub(super) async fn load_states(&self) -> Result<(), stores::StoreError> {
        match self.context.projections.states() {
            Some(states) => states.load().await,
            None => Ok(()),
        }
    }

    pub(crate) fn statuses(&self) -> Vec<SinkStatus> {
        self.held_logs().iter().flat_map(|held_log| held_log.handle.statuses()).collect()
    }

    pub(crate) fn held_logs(&self) -> Vec<Arc<HeldLog>> {
        self.held_logs.read().values().cloned().collect()
    }

    /// The ones of `logs` that are held here.
    pub(crate) fn held(&self, logs: &[String]) -> Vec<Arc<HeldLog>> {
        let held_logs = self.held_logs.read();
        logs.iter().filter_map(|log| held_logs.get(log)).filter(|held_log| !held_log.has_ended()).cloned().collect()
    }
}
