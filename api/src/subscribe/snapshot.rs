//! The newest values, sent before the live events.

use std::collections::BTreeMap;

use model::{DeviceKey, Held};
use prost::Message;
use proto::v1::event::Payload;
use proto::v1::{Event, Reading};
use stores::contract::{LatestState, LatestValue};
use tonic::Status;

use super::start::Selection;
use crate::services::{Shared, Steps};
use crate::{convert, names};

/// Maximum number of devices read at one time.
const STEP: usize = 200;
/// Bytes of values in a page, apart from its last device.
const PAGE_BYTES: usize = 1 << 20;

/// Reads the latest states page by page.
pub(crate) struct Snapshot {
    selection: Selection,
    after: Option<String>,
    /// Devices not read yet, when the selection names all of them.
    named: Option<Vec<DeviceKey>>,
    /// States that were read and not sent, and their memory.
    ready: std::vec::IntoIter<LatestState>,
    held: Option<Held>,
    /// Every state was read.
    over: bool,
    steps: Steps,
}

/// A page of the snapshot.
pub(crate) struct Page {
    pub(crate) events: Vec<Event>,
    pub(crate) last: bool,
}

impl Snapshot {
    pub(crate) fn new(selection: &Selection) -> Self {
        Self {
            selection: selection.clone(),
            after: None,
            named: selection.named(),
            ready: Vec::new().into_iter(),
            held: None,
            over: false,
            steps: Steps::default(),
        }
    }

    /// Reads the next page.
    pub(crate) async fn page(&mut self, shared: &Shared) -> Result<Page, Status> {
        // An empty page would tell of devices that the caller does not see.
        while self.ready.len() == 0 && !self.over {
            self.read(shared).await?;
        }
        let (mut page, mut bytes) = (Vec::new(), 0);
        while bytes < PAGE_BYTES {
            let Some(state) = self.ready.next() else {
                self.held = None;
                break;
            };
            if self.selection.selects(&state.device) {
                let of_state = events(&state, &self.selection);
                bytes += of_state.iter().map(Message::encoded_len).sum::<usize>();
                page.extend(of_state);
            }
        }
        Ok(Page { events: page, last: self.over && self.ready.len() == 0 })
    }

    /// Reads the states of the next devices.
    async fn read(&mut self, shared: &Shared) -> Result<(), Status> {
        // Not held together with the next ones.
        self.held = None;
        let count = self.steps.size(STEP);
        let (states, held) = match &mut self.named {
            Some(left) => {
                let some: Vec<DeviceKey> = left.drain(..left.len().min(count)).collect();
                let (states, held) = self.steps.get(shared, &some).await?;
                self.over = left.is_empty();
                (states.into_iter().flatten().collect(), held)
            }
            None => {
                let after = self.after.take();
                let seen = self.steps.seen(shared, self.selection.visible(), after.as_deref(), count).await?;
                self.over = seen.after.is_none();
                self.after = seen.after;
                (seen.states, seen.held)
            }
        };
        (self.ready, self.held) = (states.into_iter(), Some(held));
        Ok(())
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
