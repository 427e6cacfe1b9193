//! The newest value of each name of one device.

use std::hash::BuildHasher;
use std::sync::Arc;

use buffer::frame::ReadingRef;
use foldhash::fast::RandomState;
use hashbrown::HashTable;
use model::{Nanos, Value, ValueRef};
use stores::contract::LatestValue;

use super::order;

/// Names are looked up in an index when there are more.
const FEW: usize = 16;
/// Memory of a name or a text besides its characters: the counts of an `Arc`, and what the
/// allocator adds.
const TEXT_BYTES: u64 = 24;
/// When there are too many names, this share of those allowed is left out at once, so that the rest
/// is not looked through for each new one.
const SHARE: usize = 8;

/// Key by which a value is newer.
type Age = (Nanos, Nanos, Option<u64>, Nanos);

/// Values stand in the order in which their names first came, which is mostly the order of the next
/// reading too.
#[derive(Debug, Default)]
pub(super) struct Values {
    all: Vec<LatestValue>,
    /// The places of the names; empty while there are few.
    index: HashTable<u32>,
    /// Age and name of the newest value that was left out. No older one is taken for a name that is
    /// not there: a name that comes back has not gone backwards.
    floor: Option<(Age, Arc<str>)>,
    /// Memory of the names and texts.
    texts: u64,
}

impl Values {
    /// Makes room for the values of a first reading.
    pub(super) fn expect(&mut self, values: usize) {
        if self.all.is_empty() {
            self.all.reserve_exact(values);
        }
    }

    /// Memory of the values.
    pub(super) fn bytes(&self) -> u64 {
        (self.all.capacity() * size_of::<LatestValue>() + self.index.capacity() * 8) as u64 + self.texts
    }

    /// Takes a value of a reading, unless there is a newer one; `hint` is where it may stand.
    pub(super) fn put(
        &mut self,
        hint: usize,
        name: &str,
        value: ValueRef<'_>,
        reading: &ReadingRef<'_>,
        hasher: &RandomState,
    ) {
        let (time, seq, received) = (reading.time, reading.seq, reading.received);
        let place = match self.all.get(hint) {
            Some(held) if *held.name == *name => Some(hint),
            _ => self.find(name, hasher),
        };
        let order = order::of(reading, place.map(|place| &self.all[place]));
        let Some(place) = place else {
            let new = LatestValue { name: name.into(), value: value.to_owned(), time, order, seq, received };
            return self.add(new, hasher);
        };
        let held = &mut self.all[place];
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
            (held, new) => {
                self.texts -= text_bytes(held);
                *held = new.to_owned();
                self.texts += text_bytes(held);
            }
        }
    }

    /// Takes the values that another source knows, where they are newer.
    pub(super) fn merge(&mut self, values: Vec<LatestValue>, hasher: &RandomState) {
        for value in values {
            match self.find(&value.name, hasher) {
                Some(place) if value.age() > self.all[place].age() => {
                    self.texts = self.texts - text_bytes(&self.all[place].value) + text_bytes(&value.value);
                    self.all[place] = value;
                }
                Some(_) => {}
                None => self.add(value, hasher),
            }
        }
    }

    /// Leaves out the names with the oldest values when there are more than `most`, or when they
    /// take more than `bytes`, but not the last one. Returns their number.
    pub(super) fn keep_newest(&mut self, most: usize, bytes: u64, hasher: &RandomState) -> u64 {
        let before = self.all.len();
        let is_large = before > 1 && self.bytes() > bytes;
        if before <= most && !is_large {
            return 0;
        }
        let fit = if is_large { (before as f64 * (bytes as f64 / self.bytes() as f64)) as usize } else { before };
        let left = most.min(fit);
        let left = (left - left / SHARE).clamp(1, before - 1);
        let left_out = before - left;
        let mut ages: Vec<(Age, Arc<str>)> = self.all.iter().map(|v| (v.age(), Arc::clone(&v.name))).collect();
        let (_, floor, _) = ages.select_nth_unstable(left_out - 1);
        let floor = floor.clone();
        self.all.retain(|value| (value.age(), &value.name) > (floor.0, &floor.1));
        self.all.shrink_to(left + left / SHARE);
        self.texts = self.all.iter().map(bytes_of).sum();
        self.floor = Some(floor);
        self.index = HashTable::new();
        self.fill_index(hasher);
        (before - self.all.len()) as u64
    }

    /// All of them, by name.
    pub(super) fn sorted(&self) -> Vec<LatestValue> {
        let mut all = self.all.clone();
        all.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        all
    }

    fn find(&self, name: &str, hasher: &RandomState) -> Option<usize> {
        if self.index.is_empty() {
            return self.all.iter().position(|held| *held.name == *name);
        }
        let place = self.index.find(hasher.hash_one(name), |place| *self.all[*place as usize].name == *name);
        place.map(|place| *place as usize)
    }

    fn add(&mut self, value: LatestValue, hasher: &RandomState) {
        if self.floor.as_ref().is_some_and(|(floor, name)| (value.age(), &value.name) <= (*floor, name)) {
            return;
        }
        self.texts += bytes_of(&value);
        self.all.push(value);
        self.fill_index(hasher);
    }

    /// Adds the places that are not in the index, once it is of use.
    fn fill_index(&mut self, hasher: &RandomState) {
        let Self { all, index, .. } = self;
        if all.len() <= FEW {
            return;
        }
        let hash = |place: &u32| hasher.hash_one(&*all[*place as usize].name);
        for place in index.len()..all.len() {
            let place = u32::try_from(place).expect("a device has fewer than 2^32 names");
            index.insert_unique(hash(&place), place, hash);
        }
    }
}

/// Memory of the texts of a value.
fn bytes_of(value: &LatestValue) -> u64 {
    TEXT_BYTES + value.name.len() as u64 + text_bytes(&value.value)
}

fn text_bytes(value: &Value) -> u64 {
    match value {
        Value::Str(text) => TEXT_BYTES + text.len() as u64,
        Value::Float(_) | Value::Int(_) | Value::Bool(_) => 0,
    }
}
