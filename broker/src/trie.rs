//! Subscriptions by topic filter: matching costs O(levels), not O(filters).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hashbrown::HashMap;
use parking_lot::RwLock;

use crate::codec::subscribe::Options;

/// One subscription of a subscriber.
#[derive(Debug, Clone)]
pub struct Entry<S> {
    /// Client id.
    pub client: Arc<str>,
    /// Where its messages go.
    pub subscriber: S,
    /// What it asked for.
    pub options: Options,
    /// Sent along with each message.
    pub id: Option<u32>,
}

/// All subscriptions. Readers do not wait for one another.
#[derive(Debug)]
pub struct Trie<S> {
    root: RwLock<Node<S>>,
    count: AtomicUsize,
    turn: AtomicUsize,
}

#[derive(Debug)]
struct Node<S> {
    children: HashMap<Box<str>, Node<S>, foldhash::fast::RandomState>,
    here: Vec<Entry<S>>,
    shared: Vec<(Box<str>, Vec<Entry<S>>)>,
}

impl<S> Default for Node<S> {
    fn default() -> Self {
        Self { children: HashMap::default(), here: Vec::new(), shared: Vec::new() }
    }
}

impl<S> Default for Trie<S> {
    fn default() -> Self {
        Self { root: RwLock::default(), count: AtomicUsize::new(0), turn: AtomicUsize::new(0) }
    }
}

/// `$share/GROUP/FILTER` as group and filter.
fn split(filter: &str) -> (Option<&str>, &str) {
    match filter.strip_prefix("$share/").and_then(|rest| rest.split_once('/')) {
        Some((group, filter)) => (Some(group), filter),
        None => (None, filter),
    }
}

impl<S: Clone> Trie<S> {
    /// Subscriptions held.
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// True when nobody subscribes: one atomic load.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds a subscription, or replaces the one of the same client and filter. True when it is new.
    pub fn insert(&self, filter: &str, entry: Entry<S>) -> bool {
        let (group, levels) = split(filter);
        let mut root = self.root.write();
        let mut node = &mut *root;
        for level in levels.split('/') {
            node = node.children.entry(level.into()).or_default();
        }
        let list = match group {
            None => &mut node.here,
            Some(group) => {
                let at = node.shared.iter().position(|(g, _)| **g == *group).unwrap_or_else(|| {
                    node.shared.push((group.into(), Vec::new()));
                    node.shared.len() - 1
                });
                &mut node.shared[at].1
            }
        };
        if let Some(held) = list.iter_mut().find(|e| e.client == entry.client) {
            *held = entry;
            return false;
        }
        list.push(entry);
        self.count.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// Removes a subscription. True when it was there.
    pub fn remove(&self, filter: &str, client: &str) -> bool {
        let (group, levels) = split(filter);
        let gone = remove(&mut self.root.write(), levels.split('/'), group, client);
        if gone {
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
        gone
    }

    /// Gives a client's subscription another receiver.
    pub fn replace(&self, filter: &str, client: &str, subscriber: &S) {
        let (group, levels) = split(filter);
        let mut root = self.root.write();
        let mut node = &mut *root;
        for level in levels.split('/') {
            match node.children.get_mut(level) {
                Some(child) => node = child,
                None => return,
            }
        }
        let lists = match group {
            None => std::slice::from_mut(&mut node.here).iter_mut().collect::<Vec<_>>(),
            Some(group) => node.shared.iter_mut().filter(|(g, _)| **g == *group).map(|(_, list)| list).collect(),
        };
        for entry in lists.into_iter().flatten().filter(|e| *e.client == *client) {
            entry.subscriber = subscriber.clone();
        }
    }

    /// Calls `found` for each subscription that takes `topic`; of a shared group, for one member in turn.
    pub fn matches(&self, topic: &str, mut found: impl FnMut(&Entry<S>)) {
        if self.is_empty() {
            return;
        }
        let root = self.root.read();
        let mut visit = |node: &Node<S>| {
            node.here.iter().for_each(&mut found);
            for (_, members) in &node.shared {
                let turn = self.turn.fetch_add(1, Ordering::Relaxed);
                if let Some(member) = members.get(turn % members.len().max(1)) {
                    found(member);
                }
            }
        };
        walk(&root, topic, true, topic.starts_with('$'), &mut visit);
    }
}

/// Walks all branches that take the rest of a topic. A `$` topic is not taken by a wildcard in the first level.
fn walk<S>(node: &Node<S>, rest: &str, first: bool, dollar: bool, visit: &mut impl FnMut(&Node<S>)) {
    let wildcards = !(first && dollar);
    if wildcards && let Some(all) = node.children.get("#") {
        visit(all);
    }
    let (level, tail) = match rest.split_once('/') {
        Some((level, tail)) => (level, Some(tail)),
        None => (rest, None),
    };
    let one = if wildcards { node.children.get("+") } else { None };
    for child in [node.children.get(level), one].into_iter().flatten() {
        match tail {
            Some(tail) => walk(child, tail, false, dollar, visit),
            None => {
                visit(child);
                // `a/#` takes `a` too.
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
) -> bool {
    let Some(level) = levels.next() else {
        let take = |list: &mut Vec<Entry<S>>| {
            let before = list.len();
            list.retain(|e| *e.client != *client);
            list.len() < before
        };
        return match group {
            None => take(&mut node.here),
            Some(group) => {
                let gone = node.shared.iter_mut().filter(|(g, _)| **g == *group).any(|(_, list)| take(list));
                node.shared.retain(|(_, list)| !list.is_empty());
                gone
            }
        };
    };
    let Some(child) = node.children.get_mut(level) else { return false };
    let gone = remove(child, levels, group, client);
    if child.here.is_empty() && child.shared.is_empty() && child.children.is_empty() {
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
            let wanted: Vec<String> = filters
                .iter()
                .enumerate()
                .filter(|(_, f)| model::topic::matches(f, &topic))
                .map(|(i, _)| i.to_string())
                .collect();
            prop_assert_eq!(found(&trie, &topic), wanted);
        }
    }
}
