//! Subscriptions by topic filter: matching costs O(levels), not O(filters).
//!
//! The tree is walked by recursion, so its depth is bounded: [`crate::codec::subscribe`] refuses
//! filters of more than [`MAX_LEVELS`] levels. A topic may be longer: the walk ends where the tree
//! does.

mod group;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hashbrown::HashMap;
use model::{Budget, Full, Held};
use parking_lot::RwLock;

use crate::codec::subscribe::Options;
use group::Group;
pub use group::{Chosen, Subscriber};

/// Maximum number of levels of a filter: 200 separators, as many as Mosquitto accepts.
pub const MAX_LEVELS: usize = 201;

/// Bytes of a node: itself in the map of its parent, and a small map of its own.
const NODE_BYTES: usize = 512;
/// Bytes of a subscription: its entry here, and its filter in the session.
const ENTRY_BYTES: usize = 384;
/// A map that has shrunk to this part of its capacity is made smaller.
const SPARSE: usize = 8;

/// One subscription of a subscriber.
#[derive(Debug, Clone)]
pub struct Entry<S> {
    /// Client id.
    pub client: Arc<str>,
    /// Receiver of its messages.
    pub subscriber: S,
    /// Options of the subscription.
    pub options: Options,
    /// Subscription id, sent with each message.
    pub id: Option<u32>,
}

/// All subscriptions of a tenant. Readers do not wait for one another.
#[derive(Debug)]
pub struct Trie<S> {
    root: RwLock<Root<S>>,
    count: AtomicUsize,
    /// Shared subscriptions among them.
    shared: AtomicUsize,
}

#[derive(Debug)]
struct Root<S> {
    node: Node<S>,
    /// Memory of all nodes and entries.
    memory: Held,
}

type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

#[derive(Debug)]
struct Node<S> {
    children: Map<Box<str>, Node<S>>,
    /// By client id: thousands of clients may subscribe to one filter.
    here: Map<Arc<str>, Entry<S>>,
    shared: Map<Box<str>, Group<S>>,
}

impl<S> Node<S> {
    fn is_empty(&self) -> bool {
        self.here.is_empty() && self.shared.is_empty() && self.children.is_empty()
    }

    /// Removes a client's entry. True when there was one.
    fn take(&mut self, group: Option<&str>, client: &str) -> bool {
        let Some(name) = group else {
            let gone = self.here.remove(client).is_some();
            shrink(&mut self.here);
            return gone;
        };
        let Some(found) = self.shared.get_mut(name) else { return false };
        let gone = found.remove(client);
        if found.is_empty() {
            self.shared.remove(name);
            shrink(&mut self.shared);
        }
        gone
    }

    /// Bytes of the nodes and the entry that a filter would add.
    fn missing(&self, levels: &str, group: Option<&str>, client: &str) -> usize {
        let mut bytes = 0;
        let mut node = Some(self);
        for level in levels.split('/') {
            node = node.and_then(|node| node.children.get(level));
            if node.is_none() {
                bytes += node_bytes(level);
            }
        }
        let held = node.is_some_and(|node| match group {
            None => node.here.contains_key(client),
            Some(name) => node.shared.get(name).is_some_and(|group| group.contains(client)),
        });
        if held { bytes } else { bytes + entry_bytes(levels, group) }
    }
}

fn node_bytes(level: &str) -> usize {
    NODE_BYTES + level.len()
}

fn entry_bytes(levels: &str, group: Option<&str>) -> usize {
    ENTRY_BYTES + levels.len() + group.map_or(0, |name| ENTRY_BYTES + 3 * name.len() + levels.len())
}

/// Frees most of a map that has become nearly empty.
fn shrink<K: Eq + std::hash::Hash, V>(map: &mut Map<K, V>) {
    if map.capacity() > 64 && map.len() < map.capacity() / SPARSE {
        map.shrink_to(map.len() * 2);
    }
}

impl<S> Default for Node<S> {
    fn default() -> Self {
        Self { children: HashMap::default(), here: HashMap::default(), shared: HashMap::default() }
    }
}

impl<S> Default for Trie<S> {
    fn default() -> Self {
        Self::new(&Budget::new("subscriptions", usize::MAX))
    }
}

/// Splits `$share/GROUP/FILTER` into group and filter.
pub(crate) fn split(filter: &str) -> (Option<&str>, &str) {
    match filter.strip_prefix("$share/").and_then(|rest| rest.split_once('/')) {
        Some((group, filter)) => (Some(group), filter),
        None => (None, filter),
    }
}

impl<S> Trie<S> {
    /// No subscriptions; theirs is the memory of `budget`.
    pub fn new(budget: &Budget) -> Self {
        let root = Root { node: Node::default(), memory: budget.hold() };
        Self { root: RwLock::new(root), count: AtomicUsize::new(0), shared: AtomicUsize::new(0) }
    }
}

impl<S: Clone + Subscriber> Trie<S> {
    /// Returns the number of subscriptions.
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Returns the number of shared subscriptions.
    pub(crate) fn shared(&self) -> usize {
        self.shared.load(Ordering::Relaxed)
    }

    /// True when there are no subscriptions: one atomic load.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds a subscription, or replaces the one of the same client and filter. True when it is new.
    /// The filter has been checked and has at most [`MAX_LEVELS`] levels.
    ///
    /// # Errors
    /// [`Full`] when there is no memory for it; nothing is changed then.
    pub fn insert(&self, filter: &str, entry: Entry<S>) -> Result<bool, Full> {
        let (group, levels) = split(filter);
        debug_assert!(levels.split('/').count() <= MAX_LEVELS, "the codec refuses deeper filters");
        let mut root = self.root.write();
        let Root { node, memory } = &mut *root;
        memory.grow(node.missing(levels, group, &entry.client))?;
        let mut node = node;
        for level in levels.split('/') {
            node = node.children.entry(level.into()).or_default();
        }
        let new = match group {
            None => node.here.insert(Arc::clone(&entry.client), entry).is_none(),
            Some(name) => node.shared.entry(name.into()).or_insert_with(|| Group::new(filter)).insert(entry),
        };
        if new {
            self.count.fetch_add(1, Ordering::Relaxed);
            self.shared.fetch_add(group.is_some().into(), Ordering::Relaxed);
        }
        Ok(new)
    }

    /// Removes a subscription. True when there was one.
    pub fn remove(&self, filter: &str, client: &str) -> bool {
        let (group, levels) = split(filter);
        let mut root = self.root.write();
        let Root { node, memory } = &mut *root;
        let mut freed = entry_bytes(levels, group);
        let gone = remove(node, levels.split('/'), group, client, &mut freed);
        if gone {
            memory.shrink(freed);
            self.count.fetch_sub(1, Ordering::Relaxed);
            self.shared.fetch_sub(group.is_some().into(), Ordering::Relaxed);
        }
        gone
    }

    /// Returns the options and the id of a subscription.
    pub(crate) fn options(&self, filter: &str, client: &str) -> Option<(Options, Option<u32>)> {
        let (group, levels) = split(filter);
        let root = self.root.read();
        let mut node = &root.node;
        for level in levels.split('/') {
            node = node.children.get(level)?;
        }
        let entry = match group {
            None => node.here.get(client),
            Some(name) => node.shared.get(name)?.get(client),
        };
        entry.map(|entry| (entry.options, entry.id))
    }

    /// Calls `found` for each subscription that matches `topic`; of a shared group, for the member
    /// that was chosen.
    pub fn matches(&self, topic: &str, found: impl FnMut(&Entry<S>, Option<Chosen<'_>>)) {
        self.matches_of(topic, |_| true, found);
    }

    /// As [`Trie::matches`], for the `wanted` subscriptions: no other member of a group is chosen.
    pub(crate) fn matches_of(
        &self,
        topic: &str,
        wanted: impl Fn(&Entry<S>) -> bool,
        mut found: impl FnMut(&Entry<S>, Option<Chosen<'_>>),
    ) {
        if self.is_empty() {
            return;
        }
        let root = self.root.read();
        walk(&root.node, topic, topic.starts_with('$'), &mut |node| {
            node.here.values().filter(|entry| wanted(entry)).for_each(|entry| found(entry, None));
            node.shared.values().filter_map(|group| group.next(&wanted)).for_each(|(entry, chosen)| {
                found(entry, Some(chosen));
            });
        });
    }

    /// Chooses a member of a shared subscription among the `wanted`, and returns whether it is
    /// connected.
    pub(crate) fn choose(&self, filter: &str, wanted: impl Fn(&Entry<S>) -> bool) -> Option<(Entry<S>, bool)> {
        let root = self.root.read();
        let (entry, chosen) = find_group(&root.node, filter)?.next(wanted)?;
        Some((entry.clone(), chosen.is_connected))
    }

    /// Notes that a member of a shared subscription has connected or left.
    pub fn set_connected(&self, filter: &str, client: &str, connected: bool) {
        let (Some(name), levels) = split(filter) else { return };
        let mut root = self.root.write();
        let mut node = &mut root.node;
        for level in levels.split('/') {
            let Some(child) = node.children.get_mut(level) else { return };
            node = child;
        }
        if let Some(group) = node.shared.get_mut(name) {
            group.set_connected(client, connected);
        }
    }

    /// True when a member of a shared subscription is connected, apart from `except`.
    pub(crate) fn has_connected(&self, filter: &str, except: &str) -> bool {
        let root = self.root.read();
        let group = find_group(&root.node, filter);
        group.is_some_and(|group| group.has_connected(except))
    }

    /// Notes that a member of a shared subscription holds messages while it is away.
    pub(crate) fn note_holder(&self, filter: &str, client: &Arc<str>) {
        let root = self.root.read();
        if let Some(group) = find_group(&root.node, filter) {
            group.note_holder(client);
        }
    }

    /// Returns the members of a shared subscription that were away and hold messages, and forgets
    /// that.
    pub(crate) fn take_holders(&self, filter: &str) -> Vec<S> {
        let root = self.root.read();
        let Some(group) = find_group(&root.node, filter) else { return Vec::new() };
        group.take_holders()
    }

    /// True when there is a subscription below a first level without a wildcard.
    pub(crate) fn has_level(&self, level: &str) -> bool {
        !self.is_empty() && self.root.read().node.children.contains_key(level)
    }
}

/// Finds the group of a filter with `$share`.
fn find_group<'a, S>(root: &'a Node<S>, filter: &str) -> Option<&'a Group<S>> {
    let (name, levels) = split(filter);
    let node = levels.split('/').try_fold(root, |node, level| node.children.get(level))?;
    node.shared.get(name?)
}

/// Visits every node whose filter matches the rest of a topic. `top` is true for the first level of
/// a `$` topic, which no wildcard matches.
fn walk<S>(node: &Node<S>, rest: &str, top: bool, visit: &mut impl FnMut(&Node<S>)) {
    if !top && let Some(all) = node.children.get("#") {
        visit(all);
    }
    let (level, tail) = match rest.split_once('/') {
        Some((level, tail)) => (level, Some(tail)),
        None => (rest, None),
    };
    let one = if top { None } else { node.children.get("+") };
    for child in [node.children.get(level), one].into_iter().flatten() {
        match tail {
            Some(tail) => walk(child, tail, false, visit),
            None => {
                visit(child);
                // `a/#` matches `a` too.
                if let Some(all) = child.children.get("#") {
                    visit(all);
                }
            }
        }
    }
}

fn remove<'a, S>(
    node: &mut Node<S>,
    mut levels: impl Iterator<Item = &'a str>,
    group: Option<&str>,
    client: &str,
    freed: &mut usize,
) -> bool {
    let Some(level) = levels.next() else { return node.take(group, client) };
    let Some(child) = node.children.get_mut(level) else { return false };
    let gone = remove(child, levels, group, client, freed);
    if child.is_empty() {
        node.children.remove(level);
        shrink(&mut node.children);
        *freed += node_bytes(level);
    }
    gone
}

#[cfg(test)]
mod tests;
