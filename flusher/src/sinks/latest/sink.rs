//! One log's way into the states.

use std::sync::Arc;

use async_trait::async_trait;
use buffer::frame::{Frame, Record};
use foldhash::fast::RandomState;
use hashbrown::HashSet;
use model::DeviceKey;
use parking_lot::Mutex;
use stores::contract::LatestState;

use super::{LatestMap, States};
use crate::PurgedTenants;
use crate::accounting::tallies::{Tallies, count_passed, entry};
use crate::metrics::Metrics;
use crate::sink::{Load, Part, Refusal, Sink};

/// States written at a time.
const PART_STATES: usize = 2_000;
/// Memory of the states written at a time.
const PART_BYTES: u64 = 4 << 20;

/// The latest-state sink of one log. The sinks of all logs share the states; each keeps its own
/// list of changed states, because its cursor may pass only records that it wrote itself.
pub(crate) struct LatestSink {
    states: Arc<States>,
    open: Mutex<Changed>,
    metrics: Arc<Metrics>,
    purged: PurgedTenants,
}

/// Changes since the last closing.
#[derive(Debug, Default)]
pub(crate) struct Changed {
    places: HashSet<u32, RandomState>,
    tallies: Tallies,
}

/// Changes of a closed batch. Its states stay in memory as long as it does.
pub(crate) struct ToWrite {
    states: Arc<States>,
    places: Vec<u32>,
    /// The ends of its parts among the places.
    ends: Vec<usize>,
    tallies: Tallies,
}

impl Drop for ToWrite {
    fn drop(&mut self) {
        self.states.map.write().unpin(&self.places);
    }
}

impl LatestSink {
    pub(crate) fn new(states: Arc<States>, metrics: Arc<Metrics>, purged: PurgedTenants) -> Self {
        Self { states, open: Mutex::default(), metrics, purged }
    }
}

impl Drop for LatestSink {
    fn drop(&mut self) {
        let open: Vec<u32> = self.open.get_mut().places.iter().copied().collect();
        self.states.map.write().unpin(&open);
    }
}

/// Reports that names of a device were left out.
fn report(device: &DeviceKey) {
    let DeviceKey { tenant, id } = device;
    tracing::warn!(
        tenant = &**tenant,
        device = &**id,
        "the device sends more value names than `latest.max_names` or its share of `memory.max_bytes` allow: its latest \
         state keeps those with the newest values, the history keeps all; look for names that contain a time or a \
         counter, or raise the key"
    );
}

#[async_trait]
impl Sink for LatestSink {
    type Batch = ToWrite;
    type Item = LatestState;

    fn take(&self, frame: &Frame, from: u64, to: u64) {
        let mut open = self.open.lock();
        let mut map = self.states.map.write();
        let mut last: Option<(*const DeviceKey, u32)> = None;
        for (offset, record) in frame.records() {
            if offset < from || offset >= to {
                continue;
            }
            let Record::Reading(reading) = record else {
                count_passed(&mut open.tallies, &record);
                continue;
            };
            if self.purged.has(&reading.device.tenant) {
                entry(&mut open.tallies, record.tenant()).filtered += 1;
                continue;
            }
            let pointer = Arc::as_ptr(reading.device);
            let place = match last {
                Some((held, place)) if std::ptr::eq(held, pointer) => place,
                _ => {
                    let place = map.place(reading.device);
                    if open.places.insert(place) {
                        map.pin(place);
                    }
                    place
                }
            };
            last = Some((pointer, place));
            let left_out = map.apply(place, &reading);
            if left_out > 0 {
                self.metrics.names_left_out.inc_by(left_out);
                // Each device once.
                if map.report(place) {
                    report(reading.device);
                }
            }
            entry(&mut open.tallies, record.tenant()).stored += 1;
        }
        map.shrink();
    }

    fn load(&self) -> Load {
        let records = self.open.lock().places.len() as u64;
        // Of the sinks of all logs: they share the memory.
        let bytes = self.states.map.read().pinned_bytes();
        Load { records, bytes, open_bytes: if records > 0 { bytes } else { 0 } }
    }

    fn close(&self) -> ToWrite {
        let changed = std::mem::take(&mut *self.open.lock());
        let places: Vec<u32> = changed.places.into_iter().collect();
        let ends = part_ends(&self.states.map.read(), &places);
        ToWrite { states: Arc::clone(&self.states), places, ends, tallies: changed.tallies }
    }

    fn cut(&self, batch: &ToWrite, index: usize) -> Option<Part<LatestState>> {
        // States as they are now: newer than the batch is as good.
        let end = *batch.ends.get(index)?;
        let places = &batch.places[index.checked_sub(1).map_or(0, |before| batch.ends[before])..end];
        let tallies = if index == 0 { batch.tallies.clone() } else { Tallies::new() };
        let map = self.states.map.read();
        // States that were forgotten meanwhile have none.
        let items = places.iter().map(|place| map.at(*place)).filter(|state| state.readings > 0).collect();
        Some(Part { items, ..Part::begin(tallies) })
    }

    async fn write(&self, mut items: Vec<LatestState>) -> stores::contract::Result<()> {
        items.retain(|item| !self.purged.has(&item.device.tenant));
        let partial = self.states.map.read().partial(items.iter().map(|item| &item.device));
        if !partial.is_empty() {
            self.states.fill(&partial).await?;
            let map = self.states.map.read();
            items.iter_mut().for_each(|item| {
                if let Some(state) = map.get(&item.device) {
                    *item = state;
                }
            });
        }
        self.states.store.store(items).await
    }

    async fn commit(&self, _: u64) -> stores::contract::Result<()> {
        // Durable when the write returned.
        Ok(())
    }

    fn halve(&self, _: &LatestState) -> Option<(LatestState, LatestState)> {
        None
    }

    fn on_refused(&self, item: &LatestState, _: &str) -> Refusal {
        // The readings behind it are in the history; readers are answered from memory, where it
        // stays.
        let mut map = self.states.map.write();
        let place = map.place(&item.device);
        map.pin(place);
        Refusal::LeaveOut
    }

    fn finish(&self, _: u64) {}
}

/// The ends of the parts of a batch, at least one.
fn part_ends(map: &LatestMap, places: &[u32]) -> Vec<usize> {
    let (mut ends, mut from, mut bytes) = (Vec::new(), 0, 0);
    for (at, place) in places.iter().enumerate() {
        let more = map.bytes_at(*place);
        if at - from >= PART_STATES || (at > from && bytes + more > PART_BYTES) {
            ends.push(at);
            (from, bytes) = (at, 0);
        }
        bytes += more;
    }
    ends.push(places.len());
    ends
}
