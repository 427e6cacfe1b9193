//! The states of devices. A value is replaced only by one with a later (time that orders it, time,
//! sequence, receive time), so that states never go backwards, and taking the same readings again,
//! or in another order, ends in the same state.
//!
//! The time that orders a value is its own, unless the device's clock is known to be wrong: see
//! [`order`](super::order).
//!
//! States that the store has leave the memory when it is full, the one that was stored first before
//! the others. A device that sends again then begins with a partial state: its new readings alone,
//! until the stored state is [filled in](LatestMap::fill).

use std::collections::{BTreeMap, VecDeque};
use std::hash::BuildHasher;
use std::ops::Bound;
use std::sync::Arc;

use buffer::frame::ReadingRef;
use foldhash::fast::RandomState;
use hashbrown::{HashMap, HashTable};
use model::{DeviceKey, Nanos};
use stores::contract::LatestState;

use super::values::Values;

/// Memory of a state besides its ids and values: itself, and its entries in the indexes.
const STATE_BYTES: u64 = size_of::<Held>() as u64 + 128;

/// Amounts that states may have.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Names of a device.
    pub(crate) names: usize,
    /// Bytes of the values of a device.
    pub(crate) device_bytes: u64,
    /// Bytes of all states together.
    pub(crate) bytes: u64,
}

impl Bounds {
    const NONE: Self = Self { names: usize::MAX, device_bytes: u64::MAX, bytes: u64::MAX };
}

/// The states of devices.
#[derive(Debug)]
pub(crate) struct LatestMap {
    states: Vec<Option<Box<Held>>>,
    /// Places without a state.
    free: Vec<u32>,
    by_key: HashTable<u32>,
    hasher: RandomState,
    by_tenant: HashMap<Arc<str>, BTreeMap<Arc<str>, u32>, RandomState>,
    bounds: Bounds,
    bytes: u64,
    /// The share of `bytes` that is pinned.
    pinned: u64,
    /// Places that were unpinned, the earliest first, each with the stamp it got then.
    idle: VecDeque<(u32, u64)>,
    /// Number of the last change of a place from pinned to idle, or of the last new state.
    stamp: u64,
    /// Every state of the store is here.
    whole: bool,
    /// States that have left.
    departures: u64,
}

/// The state of a device; its values stand apart.
#[derive(Debug)]
struct Held {
    state: LatestState,
    values: Values,
    /// Batches with changes of it that are not stored.
    pins: u32,
    /// Unique among states at one place.
    born: u64,
    /// The stamp of its last entry among the idle ones.
    idle_since: u64,
    /// The store may have a state with which this one was not merged.
    partial: bool,
    /// Names were left out, and that was reported.
    reported: bool,
}

/// A partial state: device and the time it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Partial {
    pub(crate) device: DeviceKey,
    born: u64,
}

impl Default for LatestMap {
    /// One without bounds, for the time of a query.
    fn default() -> Self {
        Self { whole: true, ..Self::new(Bounds::NONE) }
    }
}

impl LatestMap {
    /// One without the states of the store.
    pub(crate) fn new(bounds: Bounds) -> Self {
        let bounds = Bounds { names: bounds.names.max(1), ..bounds };
        Self {
            states: Vec::new(),
            free: Vec::new(),
            by_key: HashTable::new(),
            hasher: RandomState::default(),
            by_tenant: HashMap::default(),
            bounds,
            bytes: 0,
            pinned: 0,
            idle: VecDeque::new(),
            stamp: 0,
            whole: false,
            departures: 0,
        }
    }

    /// Merges a state of a device that another source knows.
    pub(crate) fn merge(&mut self, state: LatestState) {
        let place = self.place(&state.device);
        self.change(place, |held, bounds, hasher| held.merge(state, bounds, hasher));
        self.rest(place);
    }

    /// The place of a device, made when it is new. Places change only when states leave.
    pub(crate) fn place(&mut self, device: &DeviceKey) -> u32 {
        if let Some(place) = self.find(device) {
            return place;
        }
        self.stamp += 1;
        let state = without_readings(device.clone());
        let (partial, born) = (!self.whole, self.stamp);
        let values = Values::default();
        let held = Box::new(Held { state, values, pins: 0, born, idle_since: 0, partial, reported: false });
        self.bytes += held.bytes();
        let place = match self.free.pop() {
            Some(place) => {
                self.states[place as usize] = Some(held);
                place
            }
            None => {
                self.states.push(Some(held));
                u32::try_from(self.states.len() - 1).expect("fewer than 2^32 devices")
            }
        };
        let Self { states, by_key, hasher, .. } = self;
        by_key.insert_unique(hasher.hash_one(device), place, |place| hasher.hash_one(&at(states, *place).state.device));
        self.by_tenant.entry(Arc::clone(&device.tenant)).or_default().insert(Arc::clone(&device.id), place);
        place
    }

    fn find(&self, device: &DeviceKey) -> Option<u32> {
        let hash = self.hasher.hash_one(device);
        self.by_key.find(hash, |place| at(&self.states, *place).state.device == *device).copied()
    }

    /// Changes a state and counts its memory again.
    fn change<T>(&mut self, place: u32, change: impl FnOnce(&mut Held, &Bounds, &RandomState) -> T) -> T {
        let held = self.states[place as usize].as_mut().expect("the place of a state");
        let before = held.bytes();
        let result = change(held, &self.bounds, &self.hasher);
        let after = held.bytes();
        self.bytes = self.bytes - before + after;
        if held.pins > 0 {
            self.pinned = self.pinned - before + after;
        }
        result
    }

    /// Takes a reading of the device at `place`. Returns the number of names that were left out,
    /// because the device has more than it may have.
    pub(crate) fn apply(&mut self, place: u32, reading: &ReadingRef<'_>) -> u64 {
        self.change(place, |held, bounds, hasher| {
            let Held { state, values, .. } = &mut *held;
            state.first_seen = state.first_seen.min(reading.received);
            state.last_seen = state.last_seen.max(reading.received);
            state.readings += 1;
            let device_time = if reading.device_timed { Some(reading.time) } else { reading.claimed_time };
            values.expect(reading.schema.names().len());
            for (hint, (name, value)) in reading.values().enumerate() {
                values.put(hint, name, value, reading, hasher);
            }
            if let Some(device_time) = device_time {
                held.take_skew(device_time.saturating_sub(reading.received));
            }
            held.keep_newest(bounds, hasher)
        })
    }

    /// Returns true the first time for a state.
    pub(crate) fn report(&mut self, place: u32) -> bool {
        self.states[place as usize].as_mut().is_some_and(|held| !std::mem::replace(&mut held.reported, true))
    }

    /// Keeps a state in memory until it is unpinned as often.
    pub(crate) fn pin(&mut self, place: u32) {
        let held = self.states[place as usize].as_mut().expect("the place of a state");
        if held.pins == 0 {
            self.pinned += held.bytes();
        }
        held.pins += 1;
    }

    /// Takes one pin from each of these states. States that are stored then may leave.
    pub(crate) fn unpin(&mut self, places: &[u32]) {
        for place in places {
            let held = self.states[*place as usize].as_mut().expect("a pinned state stays");
            held.pins -= 1;
            if held.pins == 0 {
                self.pinned -= held.bytes();
                self.rest(*place);
            }
        }
        self.shrink();
    }

    /// Notes that a state may leave, unless it is pinned.
    fn rest(&mut self, place: u32) {
        let Some(held) = self.states[place as usize].as_mut().filter(|held| held.pins == 0) else { return };
        self.stamp += 1;
        held.idle_since = self.stamp;
        self.idle.push_back((place, self.stamp));
        if self.idle.len() > 64 + 2 * self.by_key.len() {
            let Self { states, idle, .. } = self;
            idle.retain(|(place, since)| is_idle(states, *place, *since));
        }
    }

    /// Lets stored states leave until the bound is kept.
    pub(crate) fn shrink(&mut self) {
        while self.bytes > self.bounds.bytes {
            let Some((place, since)) = self.idle.pop_front() else { return };
            if is_idle(&self.states, place, since) {
                self.remove(place);
            }
        }
    }

    fn remove(&mut self, place: u32) {
        let Some(held) = self.states[place as usize].take() else { return };
        self.whole = false;
        self.departures += 1;
        self.bytes -= held.bytes();
        self.free.push(place);
        let DeviceKey { tenant, id } = &held.state.device;
        if let Ok(entry) = self.by_key.find_entry(self.hasher.hash_one(&held.state.device), |held| *held == place) {
            entry.remove();
        }
        if let Some(devices) = self.by_tenant.get_mut(tenant) {
            devices.remove(id);
            if devices.is_empty() {
                self.by_tenant.remove(tenant);
            }
        }
    }

    /// Removes the states of a tenant, of which the store has nothing either. Those that are being
    /// written stay as places without readings, until they are.
    pub(crate) fn forget(&mut self, tenant: &str) {
        let places: Vec<u32> =
            self.by_tenant.get(tenant).map(|held| held.values().copied().collect()).unwrap_or_default();
        let (whole, departures) = (self.whole, self.departures);
        for place in places {
            if at(&self.states, place).pins == 0 {
                self.remove(place);
                continue;
            }
            self.stamp += 1;
            let born = self.stamp;
            self.change(place, |held, _, _| {
                held.state = without_readings(held.state.device.clone());
                (held.values, held.partial, held.born, held.reported) = (Values::default(), false, born, false);
            });
        }
        (self.whole, self.departures) = (whole, departures);
    }

    /// The state at a place.
    pub(crate) fn at(&self, place: u32) -> LatestState {
        at(&self.states, place).sorted()
    }

    /// Memory of the state at a place.
    pub(crate) fn bytes_at(&self, place: u32) -> u64 {
        at(&self.states, place).bytes()
    }

    /// Memory of all states.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Memory of the states that are not stored.
    pub(crate) fn pinned_bytes(&self) -> u64 {
        self.pinned
    }

    /// True while the store's next states would fit too.
    pub(crate) fn has_room(&self) -> bool {
        self.bytes < self.bounds.bytes / 4 * 3
    }

    /// Mean memory of a state.
    pub(crate) fn mean_bytes(&self) -> u64 {
        self.bytes / self.by_key.len().max(1) as u64
    }

    /// True when the store has no state that is not here.
    pub(crate) fn is_whole(&self) -> bool {
        self.whole
    }

    /// States that have left.
    pub(crate) fn departures(&self) -> u64 {
        self.departures
    }

    /// Notes that all states of the store were merged.
    pub(crate) fn set_whole(&mut self) {
        self.whole = true;
        self.states.iter_mut().flatten().for_each(|held| held.partial = false);
    }

    /// The partial states among those of `devices`.
    pub(crate) fn partial<'a>(&self, devices: impl IntoIterator<Item = &'a DeviceKey>) -> Vec<Partial> {
        let held = devices.into_iter().filter_map(|device| Some(at(&self.states, self.find(device)?)));
        held.filter_map(Held::as_partial).collect()
    }

    /// The partial states among the first `limit` of a tenant after device `after`.
    pub(crate) fn partial_of(&self, tenant: &str, after: Option<&str>, limit: usize) -> Vec<Partial> {
        self.range(tenant, after).take(limit).filter_map(Held::as_partial).collect()
    }

    /// Merges the state that the store has of a device with its partial one; `None` when it has
    /// none. Changes nothing when the partial state has left or was filled meanwhile.
    pub(crate) fn fill(&mut self, partial: &Partial, stored: Option<LatestState>) {
        let Some(place) = self.find(&partial.device) else { return };
        let held = at(&self.states, place);
        if held.born != partial.born || !held.partial {
            return;
        }
        self.change(place, |held, bounds, hasher| match stored {
            Some(stored) => held.merge(stored, bounds, hasher),
            None => held.partial = false,
        });
    }

    /// The state of a device.
    pub(crate) fn get(&self, device: &DeviceKey) -> Option<LatestState> {
        let held = at(&self.states, self.find(device)?);
        (held.state.readings > 0).then(|| held.sorted())
    }

    /// True when the state of a device is here, with all that the store has of it.
    pub(crate) fn has_all_of(&self, device: &DeviceKey) -> bool {
        self.find(device).is_some_and(|place| !at(&self.states, place).partial)
    }

    /// Up to `limit` states of a tenant after device `after`, by device id.
    pub(crate) fn list(&self, tenant: &str, after: Option<&str>, limit: usize) -> Vec<LatestState> {
        self.range(tenant, after).filter(|held| held.state.readings > 0).take(limit).map(Held::sorted).collect()
    }

    fn range(&self, tenant: &str, after: Option<&str>) -> impl Iterator<Item = &Held> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let devices = self.by_tenant.get(tenant).map(|devices| devices.range::<str, _>((from, Bound::Unbounded)));
        devices.into_iter().flatten().map(|(_, place)| at(&self.states, *place))
    }
}

fn without_readings(device: DeviceKey) -> LatestState {
    let (first_seen, last_seen) = (Nanos::MAX, Nanos::MIN);
    LatestState { device, first_seen, last_seen, readings: 0, clock_skew: 0, values: Vec::new() }
}

fn at(states: &[Option<Box<Held>>], place: u32) -> &Held {
    states[place as usize].as_ref().expect("an indexed place has a state")
}

fn is_idle(states: &[Option<Box<Held>>], place: u32, since: u64) -> bool {
    states[place as usize].as_ref().is_some_and(|held| held.pins == 0 && held.idle_since == since)
}

impl Held {
    fn bytes(&self) -> u64 {
        STATE_BYTES + self.state.device.id.len() as u64 + self.values.bytes()
    }

    fn sorted(&self) -> LatestState {
        LatestState { values: self.values.sorted(), ..self.state.clone() }
    }

    fn as_partial(&self) -> Option<Partial> {
        self.partial.then(|| Partial { device: self.state.device.clone(), born: self.born })
    }

    fn take_skew(&mut self, skew: Nanos) {
        if skew.unsigned_abs() > self.state.clock_skew.unsigned_abs() {
            self.state.clock_skew = skew;
        }
    }

    fn keep_newest(&mut self, bounds: &Bounds, hasher: &RandomState) -> u64 {
        self.values.keep_newest(bounds.names, bounds.device_bytes, hasher)
    }

    /// Takes what another source knows of the device.
    fn merge(&mut self, other: LatestState, bounds: &Bounds, hasher: &RandomState) {
        self.state.first_seen = self.state.first_seen.min(other.first_seen);
        self.state.last_seen = self.state.last_seen.max(other.last_seen);
        self.state.readings = match std::mem::take(&mut self.partial) {
            true => self.state.readings + other.readings,
            // Both counts go on from the store's.
            false => self.state.readings.max(other.readings),
        };
        self.take_skew(other.clock_skew);
        self.values.merge(other.values, hasher);
        self.keep_newest(bounds, hasher);
    }
}
