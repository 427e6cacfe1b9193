//! The newest values, sent before the live events.

use std::collections::BTreeMap;
use std::sync::Arc;

use model::DeviceKey;
use proto::v1::event::Payload;
use proto::v1::{Event, Reading};
use stores::contract::{LatestState, LatestValue};
use tonic::Status;

use super::start::Selection;
use crate::services::Shared;
use crate::{convert, errors, names};

/// Devices in one page.
const STEP: usize = 200;

/// Reads the latest states page by page.
pub(crate) struct Snapshot {
    selection: Selection,
    after: Option<Arc<str>>,
    /// Devices not read yet, when the selection names all of them.
    named: Option<Vec<DeviceKey>>,
}

/// A page of the snapshot.
pub(crate) struct Page {
    pub(crate) events: Vec<Event>,
    pub(crate) last: bool,
}

impl Snapshot {
    pub(crate) fn new(selection: &Selection) -> Self {
        Self { selection: selection.clone(), after: None, named: selection.named() }
    }

    /// Reads the next page.
    pub(crate) async fn page(&mut self, shared: &Shared) -> Result<Page, Status> {
        let latest = &shared.backend.latest;
        let (states, last) = match &mut self.named {
            Some(left) => {
                let some: Vec<DeviceKey> = left.drain(..left.len().min(STEP)).collect();
                let states = latest.get(&some).await.map_err(errors::store)?;
                (states.into_iter().flatten().collect(), left.is_empty())
            }
            None => {
                let after = self.after.take();
                let states =
                    latest.list(self.selection.tenant(), after.as_deref(), STEP).await.map_err(errors::store)?;
                self.after = states.last().map(|state| Arc::clone(&state.device.id));
                let last = states.len() < STEP;
                (states, last)
            }
        };
        let selection = states.iter().filter(|state| self.selection.selects(&state.device));
        Ok(Page { events: selection.flat_map(|state| events(state, &self.selection)).collect(), last })
    }
}

/// The newest values of a device as readings: one for each time and sequence.
fn events(state: &LatestState, selection: &Selection) -> Vec<Event> {
    let mut readings: BTreeMap<_, Vec<&LatestValue>> = BTreeMap::new();
    for value in state.values.iter().filter(|v| selection.metrics().selects(&v.name)) {
        readings.entry((value.time, value.seq, value.received)).or_default().push(value);
    }
    let device = names::device(&state.device.tenant, &state.device.id);
    let reading = |((time, seq, received), values): ((_, Option<u64>, _), Vec<&LatestValue>)| Reading {
        device: device.clone(),
        measure_time: Some(convert::timestamp(time)),
        ingest_time: Some(convert::timestamp(received)),
        values: values.into_iter().map(|v| (v.name.to_string(), convert::owned_value(&v.value))).collect(),
        sequence: seq,
        claimed_time: None,
        device_timed: time != received,
    };
    let event = |reading| Event { event_id: String::new(), payload: Some(Payload::Reading(reading)) };
    readings.into_iter().map(reading).map(event).collect()
}
