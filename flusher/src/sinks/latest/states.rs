//! The states of a process, and those of its store that are not in memory.

use std::sync::Arc;
use std::time::Duration;

use model::DeviceKey;
use parking_lot::RwLock;
use stores::contract::{Latest, LatestState, StoreError};

use super::map::{Bounds, Partial};
use super::{LatestMap, Question};

/// Devices in one request to the store.
const DEVICES: usize = 1_000;
/// Memory of the states that one request for a page brings, as far as it can be known.
const PAGE_BYTES: u64 = 4 << 20;
/// Devices in the first request for a page.
const FIRST_PAGE: usize = 256;
const LARGEST_PAGE: usize = 10_000;
/// A query does not wait longer for the stored part of a state: it asks the store itself then.
const PATIENCE: Duration = Duration::from_millis(500);

/// The latest states, shared by the sinks of all logs.
pub(crate) struct States {
    pub(crate) map: RwLock<LatestMap>,
    pub(crate) store: Arc<dyn Latest>,
}

impl States {
    /// The states of a process, within these bounds.
    pub(crate) fn new(store: Arc<dyn Latest>, bounds: Bounds) -> Self {
        Self { map: RwLock::new(LatestMap::new(bounds)), store }
    }

    /// Merges the states that the store holds with those that are known already, as far as there is
    /// room.
    ///
    /// # Errors
    /// As [`Latest::load`].
    pub(crate) async fn load(&self) -> Result<(), StoreError> {
        let departures = self.map.read().departures();
        let (mut last, mut limit) = (None::<DeviceKey>, FIRST_PAGE);
        while self.map.read().has_room() {
            let page = self.store.load(last.as_ref(), limit).await?;
            let is_last = page.len() < limit;
            last = page.last().map(|state| state.device.clone());
            let mut map = self.map.write();
            page.into_iter().for_each(|state| map.merge(state));
            map.shrink();
            if is_last {
                if map.departures() == departures {
                    map.set_whole();
                }
                return Ok(());
            }
            let states = PAGE_BYTES / map.mean_bytes().max(1);
            limit = usize::try_from(states).unwrap_or(LARGEST_PAGE).clamp(1, LARGEST_PAGE);
        }
        Ok(())
    }

    /// Merges what the store has of these partial states.
    ///
    /// # Errors
    /// The store's answer.
    pub(crate) async fn fill(&self, partial: &[Partial]) -> Result<(), StoreError> {
        for partial in partial.chunks(DEVICES) {
            let devices: Vec<DeviceKey> = partial.iter().map(|partial| partial.device.clone()).collect();
            let stored = self.store.get(&devices).await?;
            let mut map = self.map.write();
            partial.iter().zip(stored).for_each(|(partial, stored)| map.fill(partial, stored));
        }
        Ok(())
    }

    /// Returns the states in memory, and whether they are all that the store has too.
    pub(crate) async fn known(&self, question: &Question<'_>) -> (Vec<LatestState>, bool) {
        let partial = {
            let map = self.map.read();
            match *question {
                Question::Some(devices) => map.partial(devices),
                Question::List { tenant, after, limit } => map.partial_of(tenant, after, limit),
            }
        };
        let filled = match partial.is_empty() {
            true => true,
            false => matches!(tokio::time::timeout(PATIENCE, self.fill(&partial)).await, Ok(Ok(()))),
        };
        let map = self.map.read();
        let complete = match question {
            _ if map.is_whole() => true,
            Question::Some(devices) => devices.iter().all(|device| map.has_all_of(device)),
            Question::List { .. } => false,
        };
        (question.answer(&map), filled && complete)
    }

    /// Returns the states in memory and in the store.
    ///
    /// # Errors
    /// The store's answer.
    pub(crate) async fn all(&self, question: &Question<'_>) -> Result<Vec<LatestState>, StoreError> {
        let (known, complete) = self.known(question).await;
        if complete {
            return Ok(known);
        }
        let mut map = LatestMap::default();
        known.into_iter().for_each(|state| map.merge(state));
        question.ask(&*self.store).await?.into_iter().for_each(|state| map.merge(state));
        Ok(question.answer(&map))
    }
}
