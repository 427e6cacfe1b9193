//! One log's way into the states.

use std::sync::Arc;

use async_trait::async_trait;
use buffer::frame::{Frame, ReadingRef, Record};
use foldhash::fast::RandomState;
use hashbrown::HashSet;
use model::DeviceKey;
use parking_lot::Mutex;
use stores::contract::LatestState;

use super::States;
use crate::accounting::tallies::{Tallies, count_passed, entry};
use crate::metrics::Metrics;
use crate::sink::{Load, Part, Refusal, Sink};

/// States written at a time.
const PART_STATES: usize = 2_000;

/// The latest-state sink of one log. The sinks of all logs share the states; each keeps its own
/// list of changed states, because its cursor may pass only records that it wrote itself.
pub(crate) struct LatestSink {
    states: Arc<States>,
    open: Mutex<Changed>,
    metrics: Arc<Metrics>,
    /// Devices that have been reported to have too many names.
    reported: Mutex<HashSet<u32, RandomState>>,
}

/// Changes since the last closing.
#[derive(Debug, Default)]
pub(crate) struct Changed {
    places: HashSet<u32, RandomState>,
    tallies: Tallies,
}

/// Changes of a closed batch.
#[derive(Debug)]
pub(crate) struct ToWrite {
    places: Vec<u32>,
    tallies: Tallies,
}

impl LatestSink {
    pub(crate) fn new(states: Arc<States>, metrics: Arc<Metrics>) -> Self {
        Self { states, open: Mutex::default(), metrics, reported: Mutex::default() }
    }

    /// Reports that names of a device were left out: each device once.
    fn report(&self, place: u32, reading: &ReadingRef<'_>, left_out: u64) {
        self.metrics.names_left_out.inc_by(left_out);
        if self.reported.lock().insert(place) {
            let DeviceKey { tenant, id } = &**reading.device;
            tracing::warn!(
                tenant = &**tenant,
                device = &**id,
                "the device sends more value names than `latest.max_names`: its latest state keeps those with the \
                 newest values, the history keeps all; look for names that contain a time or a counter, or raise the key"
            );
        }
    }
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
            let pointer = Arc::as_ptr(reading.device);
            let place = match last {
                Some((held, place)) if std::ptr::eq(held, pointer) => place,
                _ => {
                    let place = map.place(reading.device);
                    open.places.insert(place);
                    place
                }
            };
            last = Some((pointer, place));
            let left_out = map.apply(place, &reading);
            if left_out > 0 {
                self.report(place, &reading, left_out);
            }
            entry(&mut open.tallies, record.tenant()).stored += 1;
        }
    }

    fn load(&self) -> Load {
        let open = self.open.lock();
        Load { records: open.places.len() as u64, bytes: 0, open_bytes: 0 }
    }

    fn close(&self) -> ToWrite {
        let changed = std::mem::take(&mut *self.open.lock());
        ToWrite { places: changed.places.into_iter().collect(), tallies: changed.tallies }
    }

    fn cut(&self, batch: &ToWrite, index: usize) -> Option<Part<LatestState>> {
        // States as they are now: newer than the batch is as good.
        let places = batch.places.chunks(PART_STATES).nth(index);
        let tallies = if index == 0 { batch.tallies.clone() } else { Tallies::new() };
        let places = match places {
            Some(places) => places,
            None if index == 0 => &[],
            None => return None,
        };
        let map = self.states.map.read();
        Some(Part { items: places.iter().map(|place| map.at(*place)).collect(), ..Part::begin(tallies) })
    }

    async fn write(&self, items: Vec<LatestState>) -> stores::contract::Result<()> {
        self.states.store.store(items).await
    }

    async fn commit(&self, _: u64) -> stores::contract::Result<()> {
        // Durable when the write returned.
        Ok(())
    }

    fn halve(&self, _: &LatestState) -> Option<(LatestState, LatestState)> {
        None
    }

    fn on_refused(&self, _: &LatestState, _: &str) -> Refusal {
        // The readings behind it are in the history; readers are answered from memory.
        Refusal::LeaveOut
    }

    fn finish(&self, _: u64) {}
}
