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
use model::{DeviceKey, Nanos, Value, ValueRef};
use stores::contract::{LatestState, LatestValue};

use super::order;

/// The states of all devices.
#[derive(Debug, Default)]
pub(crate) struct LatestMap {
    states: Vec<LatestState>,
    by_key: HashTable<u32>,
    hasher: RandomState,
    by_tenant: HashMap<Arc<str>, BTreeMap<Arc<str>, u32>, RandomState>,
}

impl LatestMap {
    /// Merges a state of a device that another source knows.
    pub(crate) fn merge(&mut self, state: LatestState) {
        let place = self.place(&state.device);
        let held = &mut self.states[place as usize];
        held.first_seen = held.first_seen.min(state.first_seen);
        held.last_seen = held.last_seen.max(state.last_seen);
        // Both counts go on from the store's.
        held.readings = held.readings.max(state.readings);
        if state.clock_skew.unsigned_abs() > held.clock_skew.unsigned_abs() {
            held.clock_skew = state.clock_skew;
        }
        if held.values.is_empty() {
            held.values = state.values;
            return;
        }
        for value in state.values {
            match held.values.iter_mut().find(|known| known.name == value.name) {
                Some(known) if value.age() > known.age() => *known = value,
                Some(_) => {}
                None => held.values.push(value),
            }
        }
    }

    /// The place of a device, made when it is new. Places never change.
    pub(crate) fn place(&mut self, device: &DeviceKey) -> u32 {
        let hash = self.hasher.hash_one(device);
        let Self { states, by_key, hasher, .. } = self;
        if let Some(place) = by_key.find(hash, |place| states[*place as usize].device == *device) {
            return *place;
        }
        let place = u32::try_from(states.len()).expect("fewer than 2^32 devices");
        by_key.insert_unique(hash, place, |place| hasher.hash_one(&states[*place as usize].device));
        states.push(LatestState {
            device: device.clone(),
            first_seen: Nanos::MAX,
            last_seen: Nanos::MIN,
            readings: 0,
            clock_skew: 0,
            values: Vec::new(),
        });
        self.by_tenant.entry(Arc::clone(&device.tenant)).or_default().insert(Arc::clone(&device.id), place);
        place
    }

    /// Takes a reading of the device at `place`.
    pub(crate) fn apply(&mut self, place: u32, reading: &ReadingRef<'_>) {
        let state = &mut self.states[place as usize];
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
            put(&mut state.values, hint, name, value, reading);
        }
    }

    /// The state at a place.
    pub(crate) fn at(&self, place: u32) -> LatestState {
        sorted(&self.states[place as usize])
    }

    /// The state of a device.
    pub(crate) fn get(&self, device: &DeviceKey) -> Option<LatestState> {
        let hash = self.hasher.hash_one(device);
        let place = self.by_key.find(hash, |place| self.states[*place as usize].device == *device)?;
        let state = &self.states[*place as usize];
        (state.readings > 0).then(|| sorted(state))
    }

    /// Up to `limit` states of a tenant after device `after`, by device id.
    pub(crate) fn list(&self, tenant: &str, after: Option<&str>, limit: usize) -> Vec<LatestState> {
        let Some(devices) = self.by_tenant.get(tenant) else { return Vec::new() };
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let places = devices.range::<str, _>((from, Bound::Unbounded)).map(|(_, place)| &self.states[*place as usize]);
        places.filter(|state| state.readings > 0).take(limit).map(sorted).collect()
    }
}

fn sorted(state: &LatestState) -> LatestState {
    let mut state = state.clone();
    state.values.sort_by(|a, b| a.name.cmp(&b.name));
    state
}

/// Values stand in the order in which their names first came, which is mostly the order of the next
/// reading too.
fn put(values: &mut Vec<LatestValue>, hint: usize, name: &str, value: ValueRef<'_>, reading: &ReadingRef<'_>) {
    let (time, seq, received) = (reading.time, reading.seq, reading.received);
    let place = match values.get(hint) {
        Some(held) if *held.name == *name => Some(hint),
        _ => values.iter().position(|held| *held.name == *name),
    };
    let order = order::of(reading, place.map(|place| &values[place]));
    let Some(place) = place else {
        values.push(LatestValue { name: name.into(), value: value.to_owned(), time, order, seq, received });
        return;
    };
    let held = &mut values[place];
    if (order, time, seq) == (held.order, held.time, held.seq) && held.value.as_ref().same(value) {
        // The same value again: it was received when it came first.
        held.received = held.received.min(received);
        return;
    }
    if (order, time, seq, received) < held.age() {
        return;
    }
    if time < held.time {
        order::warn(reading.device, name, held);
    }
    (held.order, held.time, held.seq, held.received) = (order, time, seq, received);
    match (&mut held.value, value) {
        // Texts mostly stay: do not allocate the same again.
        (Value::Str(text), ValueRef::Str(new)) if **text == *new => {}
        (held, new) => *held = new.to_owned(),
    }
}
