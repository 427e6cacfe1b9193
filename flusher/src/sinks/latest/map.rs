//! The states of all devices. A value is replaced only by one with a later (time that orders it,
//! time, sequence, receive time), so that states never go backwards, and taking the same readings
//! again, or in another order, ends in the same state.
//!
//! The time that orders a value is its own, unless the device's clock is known to be wrong: see
//! [`order`](super::order).

use std::collections::BTreeMap;
use std::hash::BuildHasher;
use std::ops::Bound;
use std::sync::Arc;

use buffer::frame::ReadingRef;
use foldhash::fast::RandomState;
use hashbrown::{HashMap, HashTable};
use model::{DeviceKey, Nanos};
use stores::contract::LatestState;

use super::values::Values;

/// The states of all devices.
#[derive(Debug)]
pub(crate) struct LatestMap {
    states: Vec<Held>,
    by_key: HashTable<u32>,
    hasher: RandomState,
    by_tenant: HashMap<Arc<str>, BTreeMap<Arc<str>, u32>, RandomState>,
    /// Names that a device may have.
    max_names: usize,
}

/// The state of a device; its values stand apart.
#[derive(Debug)]
struct Held {
    state: LatestState,
    values: Values,
}

impl Default for LatestMap {
    /// One without a bound, for the time of a query.
    fn default() -> Self {
        Self::with_max_names(usize::MAX)
    }
}

impl LatestMap {
    /// One that keeps this many names of each device: those with the newest values.
    pub(crate) fn with_max_names(max_names: usize) -> Self {
        let (states, by_key, hasher, by_tenant) =
            (Vec::new(), HashTable::new(), RandomState::default(), HashMap::default());
        Self { states, by_key, hasher, by_tenant, max_names: max_names.max(1) }
    }

    /// Merges a state of a device that another source knows.
    pub(crate) fn merge(&mut self, state: LatestState) {
        let place = self.place(&state.device);
        let Held { state: held, values } = &mut self.states[place as usize];
        held.first_seen = held.first_seen.min(state.first_seen);
        held.last_seen = held.last_seen.max(state.last_seen);
        // Both counts go on from the store's.
        held.readings = held.readings.max(state.readings);
        if state.clock_skew.unsigned_abs() > held.clock_skew.unsigned_abs() {
            held.clock_skew = state.clock_skew;
        }
        values.merge(state.values, &self.hasher);
        values.keep_newest(self.max_names, &self.hasher);
    }

    /// The place of a device, made when it is new. Places never change.
    pub(crate) fn place(&mut self, device: &DeviceKey) -> u32 {
        let hash = self.hasher.hash_one(device);
        let Self { states, by_key, hasher, .. } = self;
        if let Some(place) = by_key.find(hash, |place| states[*place as usize].state.device == *device) {
            return *place;
        }
        let place = u32::try_from(states.len()).expect("fewer than 2^32 devices");
        by_key.insert_unique(hash, place, |place| hasher.hash_one(&states[*place as usize].state.device));
        let state = LatestState {
            device: device.clone(),
            first_seen: Nanos::MAX,
            last_seen: Nanos::MIN,
            readings: 0,
            clock_skew: 0,
            values: Vec::new(),
        };
        states.push(Held { state, values: Values::default() });
        self.by_tenant.entry(Arc::clone(&device.tenant)).or_default().insert(Arc::clone(&device.id), place);
        place
    }

    /// Takes a reading of the device at `place`. Returns the number of names that were left out,
    /// because the device has more than it may have.
    pub(crate) fn apply(&mut self, place: u32, reading: &ReadingRef<'_>) -> u64 {
        let Held { state, values } = &mut self.states[place as usize];
        state.first_seen = state.first_seen.min(reading.received);
        state.last_seen = state.last_seen.max(reading.received);
        state.readings += 1;
        let device_time = if reading.device_timed { Some(reading.time) } else { reading.claimed_time };
        if let Some(device_time) = device_time {
            let skew = device_time.saturating_sub(reading.received);
            if skew.unsigned_abs() > state.clock_skew.unsigned_abs() {
                state.clock_skew = skew;
            }
        }
        for (hint, (name, value)) in reading.values().enumerate() {
            values.put(hint, name, value, reading, &self.hasher);
        }
        values.keep_newest(self.max_names, &self.hasher)
    }

    /// The state at a place.
    pub(crate) fn at(&self, place: u32) -> LatestState {
        self.states[place as usize].sorted()
    }

    /// The state of a device.
    pub(crate) fn get(&self, device: &DeviceKey) -> Option<LatestState> {
        let hash = self.hasher.hash_one(device);
        let place = self.by_key.find(hash, |place| self.states[*place as usize].state.device == *device)?;
        let held = &self.states[*place as usize];
        (held.state.readings > 0).then(|| held.sorted())
    }

    /// Up to `limit` states of a tenant after device `after`, by device id.
    pub(crate) fn list(&self, tenant: &str, after: Option<&str>, limit: usize) -> Vec<LatestState> {
        let Some(devices) = self.by_tenant.get(tenant) else { return Vec::new() };
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let places = devices.range::<str, _>((from, Bound::Unbounded)).map(|(_, place)| &self.states[*place as usize]);
        places.filter(|held| held.state.readings > 0).take(limit).map(Held::sorted).collect()
    }
}

impl Held {
    fn sorted(&self) -> LatestState {
        LatestState { values: self.values.sorted(), ..self.state.clone() }
    }
}
