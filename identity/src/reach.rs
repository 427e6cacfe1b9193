//! The devices that a caller may act on.
//!
//! A caller that is bound to groups shares their devices with all others that are: a group is in
//! memory once, and a change of it is seen by calls that go on. A check takes a lock for reading, a
//! hash and a comparison for each group, and allocates nothing.

use std::hash::BuildHasher;
use std::sync::Arc;

use hashbrown::{DefaultHashBuilder, HashTable};
use model::glob::Glob;
use model::{Held, Nanos};
use tokio::sync::{Mutex, watch};

use crate::CredentialId;
use crate::registry::Group;

/// Bytes of a group besides its ids.
const GROUP_BYTES: usize = 1024;
/// Bytes of a member besides its id, with its share of the empty places of the table.
const MEMBER_BYTES: usize = 16;

/// The devices of a group at one time.
#[derive(Debug, Default)]
pub(crate) struct Devices {
    /// The ids of its members in order, one behind the other.
    ids: String,
    /// The end of each id.
    ends: Vec<u32>,
    /// The members by the hashes of their ids.
    places: HashTable<u32>,
    hasher: DefaultHashBuilder,
    /// Patterns of further devices.
    patterns: Vec<Pattern>,
    held: Option<Held>,
}

#[derive(Debug)]
struct Pattern {
    /// The text before the first wildcard.
    prefix: Box<str>,
    glob: Glob,
}

impl Devices {
    /// The members, in order of their ids, and the devices of some patterns.
    pub(crate) fn new(members: &[String], patterns: &[String], held: Option<Held>) -> Self {
        let mut devices = Self {
            ids: String::with_capacity(members.iter().map(String::len).sum()),
            ends: Vec::with_capacity(members.len()),
            places: HashTable::with_capacity(members.len()),
            held,
            ..Self::default()
        };
        for id in members {
            devices.ids.push_str(id);
            devices.ends.push(u32::try_from(devices.ids.len()).expect("10,000 ids of 256 bytes"));
        }
        let (places, hasher) = (std::mem::take(&mut devices.places), &devices.hasher);
        let mut places = places;
        for (place, id) in (0..).zip(members) {
            places.insert_unique(hasher.hash_one(id.as_str()), place, |other| hasher.hash_one(devices.id(*other)));
        }
        devices.places = places;
        let prefix = |pattern: &str| pattern.split('*').next().unwrap_or_default().into();
        let pattern = |text: &String| Pattern { prefix: prefix(text), glob: Glob::new(text) };
        devices.patterns = patterns.iter().map(pattern).collect();
        devices
    }

    /// Returns the memory that it takes.
    pub(crate) fn size(members: &[String], patterns: &[String]) -> usize {
        let patterns: usize = patterns.iter().map(|pattern| 3 * pattern.len() + 128).sum();
        GROUP_BYTES + patterns + members.iter().map(|id| id.len() + MEMBER_BYTES).sum::<usize>()
    }

    /// Returns the memory that is held for it.
    pub(crate) fn bytes(&self) -> usize {
        self.held.as_ref().map_or(0, Held::bytes)
    }

    fn id(&self, place: u32) -> &str {
        let place = place as usize;
        let start = place.checked_sub(1).map_or(0, |before| self.ends[before] as usize);
        &self.ids[start..self.ends[place] as usize]
    }

    fn has(&self, device: &str) -> bool {
        self.places.find(self.hasher.hash_one(device), |place| self.id(*place) == device).is_some()
            || self.patterns.iter().any(|pattern| pattern.glob.matches(device))
    }

    /// Returns the members after a device.
    fn after(&self, device: &str) -> impl Iterator<Item = &str> {
        let count = u32::try_from(self.ends.len()).unwrap_or(u32::MAX);
        let (mut low, mut high) = (0, count);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.id(middle) > device { high = middle } else { low = middle + 1 }
        }
        (low..count).map(|place| self.id(place))
    }

    /// True when no device of the group comes after this one.
    fn ends_before(&self, device: &str) -> bool {
        let is_behind = |pattern: &Pattern| *pattern.prefix < *device && !device.starts_with(&*pattern.prefix);
        self.after(device).next().is_none() && self.patterns.iter().all(is_behind)
    }
}

/// A group that callers are bound to, as it is now.
#[derive(Debug)]
pub(crate) struct LiveGroup {
    pub(crate) key: CredentialId,
    pub(crate) tenant: Arc<str>,
    pub(crate) id: Box<str>,
    devices: watch::Sender<Devices>,
    /// Creation and version of the row that was read; held while it is read again, so that an older
    /// answer never replaces a newer one.
    pub(crate) read: Mutex<Option<(Nanos, u64)>>,
}

impl LiveGroup {
    /// A group without devices.
    pub(crate) fn new(tenant: &Arc<str>, id: &str) -> Self {
        Self {
            key: Group::key(tenant, id),
            tenant: Arc::clone(tenant),
            id: id.into(),
            devices: watch::Sender::new(Devices::default()),
            read: Mutex::default(),
        }
    }

    pub(crate) fn set(&self, devices: Devices) {
        self.devices.send_replace(devices);
    }

    /// Returns the memory that is held for it.
    pub(crate) fn bytes(&self) -> usize {
        self.devices.borrow().bytes()
    }
}

/// The devices of its tenant that a caller may act on: all of them, or those of some groups.
#[derive(Debug, Clone, Default)]
pub struct DeviceReach(Option<Arc<[Arc<LiveGroup>]>>);

impl DeviceReach {
    /// The devices of some groups; of none of them, no devices.
    pub(crate) fn of(groups: Vec<Arc<LiveGroup>>) -> Self {
        Self(Some(groups.into()))
    }

    fn all(&self) -> &[Arc<LiveGroup>] {
        self.0.as_deref().unwrap_or_default()
    }

    /// True for all devices of the tenant, and the tenant itself.
    pub fn is_everything(&self) -> bool {
        self.0.is_none()
    }

    /// Returns the ids of its groups; none for all devices.
    pub fn groups(&self) -> impl Iterator<Item = &str> {
        self.all().iter().map(|group| &*group.id)
    }

    /// True for a device that the caller may act on.
    pub fn has(&self, device: &str) -> bool {
        self.is_everything() || self.all().iter().any(|group| group.devices.borrow().has(device))
    }

    /// Returns the first devices after one, in order. `None` unless the groups list all of them.
    pub fn listed_after(&self, device: &str, limit: usize) -> Option<Vec<Arc<str>>> {
        if self.is_everything() {
            return None;
        }
        let mut found: Vec<Arc<str>> = Vec::new();
        for group in self.all() {
            let devices = group.devices.borrow();
            if !devices.patterns.is_empty() {
                return None;
            }
            found.extend(devices.after(device).take(limit).map(Arc::from));
        }
        found.sort_unstable();
        found.dedup();
        found.truncate(limit);
        Some(found)
    }

    /// Returns an id before that of its first device, empty when that is not known.
    pub fn start(&self) -> String {
        let mut first: Option<String> = None;
        for group in self.all() {
            let devices = group.devices.borrow();
            let prefixes = devices.patterns.iter().map(|pattern| &*pattern.prefix);
            for id in devices.after("").take(1).chain(prefixes) {
                if first.as_deref().is_none_or(|first| id < first) {
                    first = Some(id.to_owned());
                }
            }
        }
        let mut first = first.unwrap_or_default();
        // Another one may be the first one itself, so that this one has to be before it.
        let last = first.pop().and_then(|last| char::from_u32(u32::from(last).checked_sub(1)?));
        first.extend(last.into_iter().chain(last.map(|_| char::MAX)));
        first
    }

    /// True when none of its devices comes after this one.
    pub fn ends_before(&self, device: &str) -> bool {
        !self.is_everything() && self.all().iter().all(|group| group.devices.borrow().ends_before(device))
    }

    /// Returns the changes of its groups from now on.
    pub fn changes(&self) -> ReachChanges {
        ReachChanges(self.all().iter().map(|group| group.devices.subscribe()).collect())
    }
}

/// Changes of the devices that a caller may act on.
#[derive(Debug)]
pub struct ReachChanges(Vec<watch::Receiver<Devices>>);

impl ReachChanges {
    /// True when there was a change since the last call, or since the beginning.
    pub fn happened(&mut self) -> bool {
        let mut happened = false;
        for group in &mut self.0 {
            if group.has_changed().unwrap_or_default() {
                group.mark_unchanged();
                happened = true;
            }
        }
        happened
    }

    /// Waits for a change; [`ReachChanges::happened`] is true then.
    pub async fn wait(&mut self) {
        if self.0.is_empty() {
            return std::future::pending().await;
        }
        let changes = self.0.iter_mut().map(|group| Box::pin(group.changed()));
        let (changed, at, _) = futures::future::select_all(changes).await;
        match changed {
            Ok(()) => self.0[at].mark_changed(),
            // Groups live as long as the caller.
            Err(_) => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn group(members: &[&str], patterns: &[&str]) -> Arc<LiveGroup> {
        let group = LiveGroup::new(&"t".into(), "g");
        group.set(devices(members, patterns));
        Arc::new(group)
    }

    fn devices(members: &[&str], patterns: &[&str]) -> Devices {
        let mut members: Vec<String> = members.iter().map(|id| (*id).to_owned()).collect();
        members.sort();
        let patterns: Vec<String> = patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
        Devices::new(&members, &patterns, None)
    }

    #[test]
    fn a_caller_without_groups_reaches_everything_and_one_of_empty_groups_nothing() {
        assert!(DeviceReach::default().has("d1") && DeviceReach::default().is_everything());
        for nothing in [DeviceReach::of(Vec::new()), DeviceReach::of(vec![group(&[], &[])])] {
            assert!(!nothing.has("d1") && !nothing.has("") && !nothing.is_everything());
            assert_eq!(nothing.listed_after("", 9), Some(Vec::new()));
        }
    }

    #[test]
    fn members_and_patterns_of_all_groups_count() {
        let reach = DeviceReach::of(vec![group(&["d1", "d10", "é"], &[]), group(&["d1"], &["pump-*", "*-x"])]);
        for inside in ["d1", "d10", "é", "pump-", "pump-7", "a-x"] {
            assert!(reach.has(inside), "{inside}");
        }
        for outside in ["", "d", "d2", "d1d10", "d100", "pump", "a-xy", "d1\0"] {
            assert!(!reach.has(outside), "{outside}");
        }
        assert_eq!(reach.listed_after("", 9), None);
    }

    #[test]
    fn members_are_listed_in_order_and_each_once() {
        let reach = DeviceReach::of(vec![group(&["d1", "d3", "d5"], &[]), group(&["d2", "d3"], &[])]);
        let after = |id, limit| reach.listed_after(id, limit).unwrap().iter().map(ToString::to_string).collect();
        let (all, some): (Vec<String>, Vec<String>) = (after("", 9), after("d2", 2));
        assert_eq!(all, ["d1", "d2", "d3", "d5"]);
        assert_eq!(some, ["d3", "d5"]);
        assert_eq!(reach.listed_after("d5", 2), Some(Vec::new()));
    }

    #[tokio::test]
    async fn a_change_is_seen_by_all_that_hold_the_group() {
        let live = group(&["d1"], &[]);
        let reach = DeviceReach::of(vec![group(&["x"], &[]), Arc::clone(&live)]);
        let mut changes = reach.changes();
        assert!(!changes.happened());
        live.set(devices(&["d2"], &[]));
        changes.wait().await;
        assert!(changes.happened() && !changes.happened());
        assert!(!reach.has("d1") && reach.has("d2"));
    }

    proptest! {
        #[test]
        fn all_devices_are_between_start_and_end(
            members in proptest::collection::btree_set("[a-c]{1,3}", 0..4),
            patterns in proptest::collection::vec("[a-c]{0,2}\\*?[a-c]{0,1}", 0..3),
            ids in proptest::collection::btree_set("[a-c]{1,4}", 1..40),
        ) {
            let members: Vec<&str> = members.iter().map(String::as_str).collect();
            let patterns: Vec<&str> = patterns.iter().map(String::as_str).collect();
            let reach = DeviceReach::of(vec![group(&members, &[]), group(&[], &patterns)]);
            let start = reach.start();
            for id in &ids {
                let globs = patterns.iter().any(|pattern| Glob::new(pattern).matches(id));
                prop_assert_eq!(reach.has(id), members.contains(&id.as_str()) || globs);
                prop_assert!(!reach.has(id) || start < *id, "{} is behind {:?}", id, start);
                let after = ids.iter().filter(|other| *other > id && reach.has(other)).count();
                prop_assert!(!reach.ends_before(id) || after == 0, "{} is not the end", id);
            }
        }
    }
}
