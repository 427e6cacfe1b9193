//! Subscriptions by topic filter: matching costs O(levels), not O(filters).
//!
//! The tree is walked by recursion, so its depth is bounded: [`crate::codec::subscribe`] refuses
//! filters of more than [`MAX_LEVELS`] levels. A topic may be longer: the walk ends where the tree
//! does.

use std::convert::Infallible;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hashbrown::HashMap;
use parking_lot::RwLock;

use crate::codec::subscribe::Options;

/// Maximum number of levels of a filter.
pub const MAX_LEVELS: usize = 128;

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
    root: RwLock<Node<S>>,
    count: AtomicUsize,
}

type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

#[derive(Debug)]
struct Node<S> {
    children: Map<Box<str>, Node<S>>,
    /// By client id: thousands of clients may subscribe to one filter.
    here: Map<Arc<str>, Entry<S>>,
    shared: Vec<Group<S>>,
}

/// The members of a `$share` group on one filter.
#[derive(Debug)]
struct Group<S> {
    name: Box<str>,
    members: Vec<Entry<S>>,
    turn: AtomicUsize,
}

impl<S> Group<S> {
    /// Returns the member whose turn it is.
    fn next(&self) -> Option<&Entry<S>> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        self.members.get(turn % self.members.len().max(1))
    }
}

impl<S> Node<S> {
    fn is_empty(&self) -> bool {
        self.here.is_empty() && self.shared.is_empty() && self.children.is_empty()
    }

    /// Returns the group of this name, after creating it if necessary.
    fn group(&mut self, name: &str) -> &mut Group<S> {
        let at = self.shared.iter().position(|g| *g.name == *name).unwrap_or_else(|| {
            self.shared.push(Group { name: name.into(), members: Vec::new(), turn: AtomicUsize::new(0) });
            self.shared.len() - 1
        });
        &mut self.shared[at]
    }

    /// Removes a client's entry. True when there was one.
    fn take(&mut self, group: Option<&str>, client: &str) -> bool {
        let Some(name) = group else { return self.here.remove(client).is_some() };
        let Some(at) = self.shared.iter().position(|g| *g.name == *name) else { return false };
        let members = &mut self.shared[at].members;
        let before = members.len();
        members.retain(|e| *e.client != *client);
        let gone = members.len() < before;
        if members.is_empty() {
            self.shared.swap_remove(at);
        }
        gone
    }
}

impl<S> Default for Node<S> {
    fn default() -> Self {
        Self { children: HashMap::default(), here: HashMap::default(), shared: Vec::new() }
    }
}

impl<S> Default for Trie<S> {
    fn default() -> Self {
        Self { root: RwLock::default(), count: AtomicUsize::new(0) }
    }
}

/// Splits `$share/GROUP/FILTER` into group and filter.
fn split(filter: &str) -> (Option<&str>, &str) {
    match filter.strip_prefix("$share/").and_then(|rest| rest.split_once('/')) {
        Some((group, filter)) => (Some(group), filter),
        None => (None, filter),
    }
}

impl<S: Clone> Trie<S> {
    /// Returns the number of subscriptions.
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// True when there are no subscriptions: one atomic load.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds a subscription, or replaces the one of the same client and filter. True when it is new.
    /// The filter has been checked and has at most [`MAX_LEVELS`] levels.
    pub fn insert(&self, filter: &str, entry: Entry<S>) -> bool {
        let (group, levels) = split(filter);
        debug_assert!(levels.split('/').count() <= MAX_LEVELS, "the codec refuses deeper filters");
        let mut root = self.root.write();
        let mut node = &mut *root;
        for level in levels.split('/') {
            node = node.children.entry(level.into()).or_default();
        }
        let new = match group {
            None => node.here.insert(Arc::clone(&entry.client), entry).is_none(),
            Some(name) => {
                let members = &mut node.group(name).members;
                match members.iter_mut().find(|e| e.client == entry.client) {
                    Some(held) => {
                        *held = entry;
                        false
                    }
                    None => {
                        members.push(entry);
                        true
                    }
                }
            }
        };
        if new {
            self.count.fetch_add(1, Ordering::Relaxed);
        }
        new
    }

    /// Removes a subscription. True when there was one.
    pub fn remove(&self, filter: &str, client: &str) -> bool {
        let (group, levels) = split(filter);
        let gone = remove(&mut self.root.write(), levels.split('/'), group, client);
        if gone {
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
        gone
    }

    /// Calls `found` for each subscription that matches `topic`; of a shared group, for one member
    /// in turn.
    pub fn matches(&self, topic: &str, mut found: impl FnMut(&Entry<S>)) {
        if self.is_empty() {
            return;
        }
        let root = self.root.read();
        let ControlFlow::<Infallible>::Continue(()) = walk(&root, topic, topic.starts_with('$'), &mut |node| {
            node.here.values().for_each(&mut found);
            node.shared.iter().filter_map(Group::next).for_each(&mut found);
            ControlFlow::Continue(())
        });
    }

    /// True when a subscription matches `topic`. Stops at the first one, and no group's turn
    /// passes.
    pub fn any(&self, topic: &str) -> bool {
        if self.is_empty() {
            return false;
        }
        let root = self.root.read();
        let found = walk(&root, topic, topic.starts_with('$'), &mut |node| {
            if node.here.is_empty() && node.shared.is_empty() {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        });
        found.is_break()
    }
}

/// Visits every node whose filter matches the rest of a topic, until `visit` breaks. `top` is true
/// for the first level of a `$` topic, which no wildcard matches.
fn walk<S, B>(
    node: &Node<S>,
    rest: &str,
    top: bool,
    visit: &mut impl FnMut(&Node<S>) -> ControlFlow<B>,
) -> ControlFlow<B> {
    if !top && let Some(all) = node.children.get("#") {
        visit(all)?;
    }
    let (level, tail) = match rest.split_once('/') {
        Some((level, tail)) => (level, Some(tail)),
        None => (rest, None),
    };
    let one = if top { None } else { node.children.get("+") };
    for child in [node.children.get(level), one].into_iter().flatten() {
        match tail {
            Some(tail) => walk(child, tail, false, visit)?,
            None => {
                visit(child)?;
                // `a/#` matches `a` too.
                if let Some(all) = child.children.get("#") {
                    visit(all)?;
                }
            }
        }
    }
    ControlFlow::Continue(())
}

fn remove<'a, S>(
    node: &mut Node<S>,
    mut levels: impl Iterator<Item = &'a str>,
    group: Option<&str>,
    client: &str,
) -> bool {
    let Some(level) = levels.next() else { return node.take(group, client) };
    let Some(child) = node.children.get_mut(level) else { return false };
    let gone = remove(child, levels, group, client);
    if child.is_empty() {
        node.children.remove(level);
    }
    gone
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(client: &str) -> Entry<()> {
        Entry { client: client.into(), subscriber: (), options: Options::default(), id: None }
    }

    fn found(trie: &Trie<()>, topic: &str) -> Vec<String> {
        let mut all = Vec::new();
        trie.matches(topic, |e| all.push(e.client.to_string()));
        all.sort();
        all
    }

    #[test]
    fn a_shared_group_gets_a_message_once_and_in_turn() {
        let trie = Trie::default();
        for client in ["a", "b"] {
            assert!(trie.insert("$share/g/x/+", entry(client)));
        }
        trie.insert("x/1", entry("c"));
        let mut seen: Vec<_> = (0..4).flat_map(|_| found(&trie, "x/1")).collect();
        seen.sort();
        assert_eq!(seen, ["a", "a", "b", "b", "c", "c", "c", "c"]);
        assert!(trie.remove("$share/g/x/+", "a") && trie.remove("$share/g/x/+", "b") && trie.remove("x/1", "c"));
        assert!(trie.is_empty() && trie.root.read().children.is_empty());
    }

    #[test]
    fn asking_for_any_subscription_takes_no_members_turn() {
        let trie = Trie::default();
        for client in ["a", "b"] {
            trie.insert("$share/g/x", entry(client));
        }
        let mut seen = Vec::new();
        for _ in 0..2 {
            assert!(trie.any("x") && !trie.any("y"));
            seen.extend(found(&trie, "x"));
        }
        assert_eq!(seen, ["a", "b"]);
    }

    #[test]
    fn the_deepest_filter_that_is_accepted_fits_a_small_stack() {
        let filter = vec!["+"; MAX_LEVELS].join("/");
        let topic = vec!["x"; 30_000].join("/");
        let worker = std::thread::Builder::new().stack_size(128 << 10).spawn(move || {
            let trie = Trie::default();
            trie.insert(&filter, entry("a"));
            trie.matches(&topic, |_| panic!("longer than the filter"));
            assert!(trie.remove(&filter, "a"));
            trie.insert(&filter, entry("a"));
        });
        worker.unwrap().join().unwrap();
    }

    fn level() -> impl Strategy<Value = String> {
        prop_oneof!["[ab]", Just(String::new()), Just("$s".to_owned())]
    }

    proptest! {
        #[test]
        fn the_trie_agrees_with_the_rules_of_a_single_filter(
            filters in prop::collection::vec(prop::collection::vec(prop_oneof![level(), Just("+".to_owned())], 1..4), 1..8),
            ends in prop::collection::vec(any::<bool>(), 8),
            topic in prop::collection::vec(level(), 1..4),
        ) {
            let topic = topic.join("/");
            prop_assume!(!topic.is_empty());
            let trie = Trie::default();
            let filters: Vec<String> = filters
                .iter()
                .zip(ends)
                .map(|(f, all)| if all { format!("{}/#", f.join("/")) } else { f.join("/") })
                .filter(|f| !f.is_empty())
                .collect();
            for (i, filter) in filters.iter().enumerate() {
                trie.insert(filter, entry(&i.to_string()));
            }
            let mut wanted: Vec<String> = filters
                .iter()
                .enumerate()
                .filter(|(_, f)| model::topic::matches(f, &topic))
                .map(|(i, _)| i.to_string())
                .collect();
            wanted.sort();
            prop_assert_eq!(trie.any(&topic), !wanted.is_empty());
            prop_assert_eq!(found(&trie, &topic), wanted);
            for (i, filter) in filters.iter().enumerate() {
                prop_assert!(trie.remove(filter, &i.to_string()));
            }
            prop_assert!(trie.is_empty() && trie.root.read().is_empty());
        }
    }
}
