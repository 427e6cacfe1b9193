//! The members of a shared subscription, and the choice of one for each message.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hashbrown::HashMap;
use parking_lot::Mutex;

use super::{Entry, Map};

/// Messages that wait for a member before it is passed over.
const BEHIND: u32 = 64;
/// Members that are looked at for one message.
const LOOK_AT: usize = 16;

/// The members of a `$share` group on one filter.
#[derive(Debug)]
pub(super) struct Group<S> {
    /// With `$share` and the name.
    filter: Arc<str>,
    /// The ones that are connected come first.
    members: Vec<Entry<S>>,
    /// Number of the ones that are connected.
    connected: usize,
    /// Places in `members` by client id.
    places: Map<Arc<str>, usize>,
    turn: AtomicUsize,
    /// Members that are away and hold messages, as no other was connected.
    holders: Mutex<Vec<Arc<str>>>,
}

/// The subscriber behind an entry.
pub trait Subscriber {
    /// Number of messages that wait for it.
    fn waiting(&self) -> u32;
}

impl Subscriber for () {
    fn waiting(&self) -> u32 {
        0
    }
}

/// The member of a shared subscription that was chosen for a message.
#[derive(Debug, Clone, Copy)]
pub struct Chosen<'a> {
    /// Filter of the subscription, with `$share` and the group.
    pub filter: &'a Arc<str>,
    /// A member is connected: this one.
    pub is_connected: bool,
}

impl<S> Group<S> {
    pub(super) fn new(filter: &str) -> Self {
        Self {
            filter: filter.into(),
            members: Vec::new(),
            connected: 0,
            places: HashMap::default(),
            turn: AtomicUsize::new(0),
            holders: Mutex::default(),
        }
    }

    /// Adds a member that is connected, or replaces its entry. True when it is new.
    pub(super) fn insert(&mut self, entry: Entry<S>) -> bool {
        let client = Arc::clone(&entry.client);
        let is_new = match self.places.get(&client) {
            Some(place) => {
                self.members[*place] = entry;
                false
            }
            None => {
                self.places.insert(Arc::clone(&client), self.members.len());
                self.members.push(entry);
                true
            }
        };
        self.set_connected(&client, true);
        is_new
    }

    /// Removes a member. True when there was one.
    pub(super) fn remove(&mut self, client: &str) -> bool {
        self.set_connected(client, false);
        self.holders.get_mut().retain(|holder| **holder != *client);
        let Some(place) = self.places.remove(client) else { return false };
        self.members.swap_remove(place);
        if let Some(moved) = self.members.get(place) {
            self.places.insert(Arc::clone(&moved.client), place);
        }
        true
    }

    /// Moves a member among the ones that are connected, or among the others.
    pub(super) fn set_connected(&mut self, client: &str, connected: bool) {
        let Some(place) = self.places.get(client).copied() else { return };
        let other = match (place < self.connected, connected) {
            (false, true) => {
                self.connected += 1;
                self.connected - 1
            }
            (true, false) => {
                self.connected -= 1;
                self.connected
            }
            _ => return,
        };
        self.members.swap(place, other);
        for place in [place, other] {
            self.places.insert(Arc::clone(&self.members[place].client), place);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    pub(super) fn contains(&self, client: &str) -> bool {
        self.places.contains_key(client)
    }

    pub(super) fn get(&self, client: &str) -> Option<&Entry<S>> {
        self.members.get(*self.places.get(client)?)
    }

    /// True when a member is connected, apart from `except`.
    pub(super) fn has_connected(&self, except: &str) -> bool {
        self.members[..self.connected].iter().take(2).any(|entry| *entry.client != *except)
    }

    /// Notes that a member that is away holds messages.
    pub(super) fn note_holder(&self, client: &Arc<str>) {
        let mut holders = self.holders.lock();
        if !holders.contains(client) {
            holders.push(Arc::clone(client));
        }
    }
}

impl<S: Clone> Group<S> {
    /// Returns the members that were away and hold messages, and forgets that.
    pub(super) fn take_holders(&self) -> Vec<S> {
        let holders = std::mem::take(&mut *self.holders.lock());
        let members = holders.iter().filter_map(|client| self.members.get(*self.places.get(client)?));
        members.map(|entry| entry.subscriber.clone()).collect()
    }
}

impl<S: Subscriber> Group<S> {
    /// Chooses the member for a message: one that is connected, in turn, as long as few messages
    /// wait for it. Without one, always the same member that is away. Others than the `wanted` are
    /// passed over.
    pub(super) fn next(&self, wanted: impl Fn(&Entry<S>) -> bool) -> Option<(&Entry<S>, Chosen<'_>)> {
        let filter = &self.filter;
        let others = |entry: &&Entry<S>| wanted(entry);
        let connected = &self.members[..self.connected];
        if connected.is_empty() {
            let holder = self.holders.lock().first().and_then(|client| self.places.get(client)).copied();
            let holder = holder.and_then(|place| self.members.get(place)).filter(others);
            let entry = holder.or_else(|| self.members.iter().find(others))?;
            return Some((entry, Chosen { filter, is_connected: false }));
        }
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let from = turn % connected.len();
        let in_turn = connected[from..].iter().chain(&connected[..from]).filter(others).take(LOOK_AT);
        let mut best: Option<&Entry<S>> = None;
        for entry in in_turn {
            let waiting = entry.subscriber.waiting();
            if waiting < BEHIND {
                return Some((entry, Chosen { filter, is_connected: true }));
            }
            if best.is_none_or(|best| waiting < best.subscriber.waiting()) {
                best = Some(entry);
            }
        }
        if let Some(entry) = best {
            return Some((entry, Chosen { filter, is_connected: true }));
        }
        let entry = self.members[self.connected..].iter().find(others)?;
        Some((entry, Chosen { filter, is_connected: false }))
    }
}
