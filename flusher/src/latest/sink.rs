//! One log's way into the states.

use std::sync::Arc;

use async_trait::async_trait;
use buffer::frame::{Frame, Record};
use foldhash::fast::RandomState;
use hashbrown::HashSet;
use model::DeviceKey;
use parking_lot::{Mutex, RwLock};
use stores::contract::{Latest, LatestState};

use super::LatestMap;
use crate::sink::{Blame, Load, Part, Sink, Tallies, count_passed, tally, tenant_of};

/// States written at a time.
const PART_STATES: usize = 2_000;

/// The latest-state sink of one log. The map is shared by those of all logs; what has to be written is kept for each,
/// because its cursor may pass only what it wrote itself.
pub(crate) struct LatestSink {
    map: Arc<RwLock<LatestMap>>,
    store: Arc<dyn Latest>,
    open: Mutex<Changed>,
}

/// What changed since the last closing.
#[derive(Debug, Default)]
pub(crate) struct Changed {
    places: HashSet<u32, RandomState>,
    tallies: Tallies,
}

/// What changed in a closed batch.
#[derive(Debug)]
pub(crate) struct ToWrite {
    places: Vec<u32>,
    tallies: Tallies,
}

impl LatestSink {
    pub(crate) fn new(map: Arc<RwLock<LatestMap>>, store: Arc<dyn Latest>) -> Self {
        Self { map, store, open: Mutex::default() }
    }
}

#[async_trait]
impl Sink for LatestSink {
    type Batch = ToWrite;
    type Item = LatestState;

    fn seals(&self) -> bool {
        false
    }

    fn take(&self, frame: &Frame, from: u64, to: u64) {
        let mut open = self.open.lock();
        let mut map = self.map.write();
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
            map.apply(place, &reading);
            tally(&mut open.tallies, tenant_of(&record)).stored += 1;
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
        let map = self.map.read();
        Some(Part { items: places.iter().map(|place| map.at(*place)).collect(), ..Part::begin(tallies) })
    }

    async fn write(&self, items: Vec<LatestState>) -> stores::contract::Result<()> {
        self.store.store(items).await
    }

    async fn sync(&self) -> stores::contract::Result<()> {
        // Durable when the write returned.
        Ok(())
    }

    fn halve(&self, _: &LatestState) -> Option<(LatestState, LatestState)> {
        None
    }

    fn blame(&self, _: &LatestState, _: &str) -> Blame {
        // The readings behind it are in the history; readers are answered from memory.
        Blame::Leave
    }

    fn finish(&self, _: u64) {}
}
