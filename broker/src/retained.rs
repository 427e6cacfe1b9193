//! Retained messages: the last message of each topic that was published with the retain flag.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Included, Unbounded};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use model::Budget;
use parking_lot::Mutex;

use crate::codec::subscribe::Options;
use crate::message::Message;

/// Topics visited before the lock is released: publishers wait for it.
const STEP: usize = 1024;
/// Bytes of messages found before they are sent.
const STEP_BYTES: usize = 1 << 20;
/// Topics visited by one sweep for expired messages.
const SWEEP: usize = 16;
/// Topics of a tenant that can be cleared before the messages of earlier starts are restored.
const CLEARED: usize = 100_000;

/// The reason why a message is not kept.
pub(crate) const NO_MEMORY: &str =
    "not retained: the memory for retained messages is used up (a share of memory.max_bytes)";

/// Room for the retained messages of all tenants.
#[derive(Debug)]
pub(crate) struct Room {
    held: AtomicUsize,
    capacity: usize,
    memory: Budget,
}

impl Room {
    pub(crate) fn new(capacity: usize, memory: Budget) -> Self {
        Self { held: AtomicUsize::new(0), capacity, memory }
    }

    /// The memory of all retained messages.
    pub(crate) fn memory(&self) -> &Budget {
        &self.memory
    }

    pub(crate) fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    pub(crate) fn is_full(&self) -> bool {
        // The last of the memory is for topics that are held, so that they can change.
        let most = self.memory.capacity() - self.memory.capacity() / 16;
        self.has_most_messages() || self.memory.held() >= most
    }

    fn has_most_messages(&self) -> bool {
        self.held() >= self.capacity
    }
}

/// One tenant's retained messages, in memory. Those of earlier starts are restored; new ones are
/// also given to the inbox, which stores them.
#[derive(Debug)]
pub(crate) struct Retained {
    held: Mutex<Held>,
    room: Arc<Room>,
}

#[derive(Debug, Default)]
struct Held {
    by_topic: BTreeMap<Box<str>, Arc<Message>>,
    /// Position of the sweep for expired messages.
    swept_to: Box<str>,
    /// Topics cleared before the messages of earlier starts were restored; None once they are.
    cleared: Option<BTreeSet<Box<str>>>,
}

impl Held {
    fn set(&mut self, message: &Arc<Message>) {
        if message.payload.is_empty() {
            self.by_topic.remove(&message.topic);
            if let Some(cleared) = &mut self.cleared {
                cleared.insert(message.topic.clone());
            }
        } else {
            self.by_topic.insert(message.topic.clone(), Arc::clone(message));
        }
    }

    /// True while no more topics can be cleared.
    fn is_full(&self, topic: &str) -> bool {
        self.cleared.as_ref().is_some_and(|cleared| cleared.len() >= CLEARED && !cleared.contains(topic))
    }

    /// Removes expired messages among the next topics, round and round.
    fn sweep(&mut self) {
        let next = self.by_topic.range::<str, _>((Excluded(&*self.swept_to), Unbounded)).take(SWEEP);
        let next: Vec<_> = next.map(|(topic, message)| (topic.clone(), is_expired(message))).collect();
        self.swept_to = next.last().map(|(topic, _)| topic.clone()).unwrap_or_default();
        for (topic, _) in next.iter().filter(|(_, expired)| *expired) {
            self.by_topic.remove(topic);
        }
    }
}

fn is_expired(message: &Message) -> bool {
    message.seconds_left() == Some(0)
}

impl Retained {
    /// No messages. With `awaiting`, those of earlier starts are restored later.
    pub(crate) fn new(room: Arc<Room>, awaiting: bool) -> Self {
        let held = Held { cleared: awaiting.then(BTreeSet::new), ..Held::default() };
        Self { held: Mutex::new(held), room }
    }

    /// Adds the messages of earlier starts, of which a later one replaces an earlier one. A topic
    /// that was set or cleared since this start stays as it is.
    pub(crate) fn restore(&self, messages: impl IntoIterator<Item = Message>) {
        self.change(|held| {
            let cleared = held.cleared.take().unwrap_or_default();
            let since = std::mem::take(&mut held.by_topic);
            for message in messages.into_iter().filter(|message| !cleared.contains(&message.topic)) {
                held.set(&Arc::new(message));
            }
            held.by_topic.extend(since);
        });
    }

    /// Changes the messages, and the count of all tenants with them.
    fn change<R>(&self, change: impl FnOnce(&mut Held) -> R) -> R {
        let mut held = self.held.lock();
        let before = held.by_topic.len();
        let changed = change(&mut held);
        let after = held.by_topic.len();
        // Adds the difference, which wraps around when there are fewer.
        self.room.held.fetch_add(after.wrapping_sub(before), Ordering::Relaxed);
        changed
    }

    /// Removes all messages.
    pub(crate) fn clear(&self) {
        self.change(|held| held.by_topic.clear());
    }

    /// Returns the limit for which a message for this topic is not accepted. A full store first
    /// removes a few expired messages.
    pub(crate) fn refusal(&self, topic: &str) -> Option<&'static str> {
        if self.room.is_full() {
            self.sweep();
        }
        let held = self.held.lock();
        let limit = if self.room.has_most_messages() {
            "not retained: mqtt.max_retained_messages are kept"
        } else if self.room.is_full() {
            NO_MEMORY
        } else if held.is_full(topic) {
            "not retained: retained messages of earlier starts are not read yet"
        } else {
            return None;
        };
        (!held.by_topic.contains_key(topic)).then_some(limit)
    }

    /// True when a message for this topic is accepted.
    #[cfg(test)]
    fn has_room(&self, topic: &str) -> bool {
        self.refusal(topic).is_none()
    }

    /// Returns the message of a topic.
    pub(crate) fn get(&self, topic: &str) -> Option<Arc<Message>> {
        self.held.lock().by_topic.get(topic).map(Arc::clone)
    }

    /// True when a topic has a message.
    pub(crate) fn holds(&self, topic: &str) -> bool {
        self.held.lock().by_topic.contains_key(topic)
    }

    pub(crate) fn len(&self) -> usize {
        self.held.lock().by_topic.len()
    }

    /// Removes expired messages among the next topics.
    pub(crate) fn sweep(&self) {
        self.change(Held::sweep);
    }

    /// Keeps a message in place of the one before; an empty payload clears the topic.
    #[cfg(test)]
    pub(crate) fn set(&self, message: &Arc<Message>) {
        self.change(|held| held.set(message));
    }

    /// Keeps a message of this node in place of the one before; an empty payload clears the topic.
    /// Its time becomes later than that of the one before, also when the clock of the node that set
    /// that one is ahead.
    pub(crate) fn set_next(&self, message: &mut Arc<Message>) {
        self.change(|held| {
            let before = held.by_topic.get(&message.topic).map_or(0, |before| before.at);
            if before >= message.at
                && let Some(own) = Arc::get_mut(message)
            {
                own.at = before + 1;
            }
            held.set(message);
        });
    }

    /// Keeps a message of another node, unless the one before is newer. Of two of the same time,
    /// all nodes keep the same one. True when it was kept.
    pub(crate) fn set_newer(&self, message: &Arc<Message>) -> bool {
        self.change(|held| {
            let is_older = |before: &Arc<Message>| (before.at, &before.payload) < (message.at, &message.payload);
            let is_newer = held.by_topic.get(&message.topic).is_none_or(is_older);
            if is_newer {
                held.set(message);
            }
            is_newer
        })
    }

    /// Continues a walk: adds at most `most` messages that match its filter and have not expired,
    /// in the order of their topics, and returns the topic to continue after; None at the end.
    /// Visits only topics that begin as the filter does, and only some of them. Messages set
    /// meanwhile may be among the found or not.
    pub(crate) fn step(&self, walk: &Walk, most: usize, found: &mut Vec<Arc<Message>>) -> Option<Box<str>> {
        let filter = &*walk.filter;
        let fixed = filter.find(['+', '#']).map_or(filter, |at| &filter[..at]);
        // `a/#` takes `a` as well.
        let fixed = if filter.ends_with('#') { fixed.strip_suffix('/').unwrap_or(fixed) } else { fixed };
        let from = walk.after.as_deref().map_or(Included(fixed), Excluded);
        let (mut count, mut bytes) = (0, 0);
        let held = self.held.lock();
        let begun = held.by_topic.range::<str, _>((from, Unbounded));
        for (seen, (topic, message)) in begun.take_while(|(topic, _)| topic.starts_with(fixed)).enumerate() {
            if model::topic::matches(filter, topic) && !is_expired(message) {
                found.push(Arc::clone(message));
                count += 1;
                bytes += message.bytes();
            }
            if seen + 1 == STEP || count >= most || bytes >= STEP_BYTES {
                return Some(topic.clone());
            }
        }
        None
    }
}

/// A subscription whose retained messages have not all been queued.
#[derive(Debug, Clone)]
pub(crate) struct Walk {
    pub(crate) filter: Box<str>,
    pub(crate) options: Options,
    /// Subscription id.
    pub(crate) id: Option<u32>,
    /// The last topic that was visited.
    pub(crate) after: Option<Box<str>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(capacity: usize) -> Arc<Room> {
        Arc::new(Room::new(capacity, Budget::new("retained messages", usize::MAX)))
    }

    impl Retained {
        /// All messages that match a filter.
        fn matching(&self, filter: &str) -> Vec<Arc<Message>> {
            let mut walk = Walk { filter: filter.into(), options: Options::default(), id: None, after: None };
            let mut found = Vec::new();
            loop {
                walk.after = self.step(&walk, 7, &mut found);
                if walk.after.is_none() {
                    return found;
                }
            }
        }
    }

    fn retained(messages: impl IntoIterator<Item = Message>, capacity: usize) -> Retained {
        let retained = Retained::new(room(capacity), false);
        retained.restore(messages);
        retained
    }

    fn message(topic: &str, payload: &str) -> Arc<Message> {
        Arc::new(Message::new(topic, payload.as_bytes(), 1, true, &[]))
    }

    #[test]
    fn the_last_message_of_a_topic_is_kept_and_an_empty_one_clears_it() {
        let retained = retained([], 10);
        retained.set(&message("a/b", "1"));
        retained.set(&message("a/b", "2"));
        retained.set(&message("a", "3"));
        retained.set(&message("ab", "4"));
        let payloads = |filter: &str| -> Vec<String> {
            let found = retained.matching(filter);
            found.iter().map(|m| String::from_utf8_lossy(&m.payload).into_owned()).collect()
        };
        assert_eq!(payloads("a/#"), ["3", "2"]);
        assert_eq!(payloads("+/b"), ["2"]);
        assert_eq!(payloads("#"), ["3", "2", "4"]);
        retained.set(&message("a/b", ""));
        assert_eq!(payloads("a/b").len(), 0);
    }

    #[test]
    fn restored_messages_do_not_replace_topics_that_were_set_or_cleared_since() {
        let retained = Retained::new(room(10), true);
        retained.set(&message("set", "new"));
        retained.set(&message("cleared", "new"));
        retained.set(&message("cleared", ""));
        retained.restore(["set", "cleared", "old"].map(|topic| Message::new(topic, b"old", 1, true, &[])));
        let found: Vec<_> = retained.matching("#").iter().map(|m| (m.topic.to_string(), m.payload.to_vec())).collect();
        assert_eq!(found, [("old".into(), b"old".to_vec()), ("set".into(), b"new".to_vec())]);
    }

    #[test]
    fn before_the_restore_only_so_many_topics_can_be_cleared() {
        let retained = Retained::new(room(10), true);
        for topic in 0..CLEARED {
            assert!(retained.has_room(&topic.to_string()));
            retained.set(&message(&topic.to_string(), ""));
        }
        assert!(retained.has_room("0") && !retained.has_room("new"));
        retained.restore([]);
        assert!(retained.has_room("new"));
    }

    #[test]
    fn more_topics_than_one_step_visits_are_all_found() {
        let all: Vec<_> = (0..3 * STEP).map(|i| Message::new(&format!("d/{i:05}/state"), b"1", 1, true, &[])).collect();
        let retained = retained(all, 0);
        assert_eq!(retained.matching("d/+/state").len(), 3 * STEP);
        assert_eq!(retained.matching("d/#").len(), 3 * STEP);
        assert_eq!(retained.matching("d/00007/+").len(), 1);
        assert_eq!(retained.matching("d/+").len(), 0);
    }

    #[test]
    fn a_full_store_makes_room_by_dropping_expired_messages() {
        // A message expiry of 0 seconds.
        let over = |i| Message::new(&format!("over/{i:02}"), b"1", 1, true, &[0x02, 0, 0, 0, 0]);
        let retained = retained((0..20).map(over).chain([Message::new("lasts", b"1", 1, true, &[])]), 21);
        assert!(retained.has_room("new"));
        while retained.room.held() > 1 {
            let before = retained.room.held();
            retained.sweep();
            retained.sweep();
            assert!(retained.room.held() < before, "two rounds of the sweep come by everything");
        }
        assert_eq!(retained.matching("#").len(), 1);
    }

    #[test]
    fn a_full_store_accepts_messages_only_for_topics_that_it_holds() {
        let retained = retained([Message::new("a", b"1", 1, true, &[])], 1);
        assert!(retained.has_room("a") && !retained.has_room("b"));
        retained.set(&message("a", ""));
        assert!(retained.has_room("b"));
    }

    #[test]
    fn a_step_visits_some_topics_and_finds_some_messages() {
        let all: Vec<_> = (0..3 * STEP).map(|i| Message::new(&format!("d/{i:05}"), b"1", 1, true, &[])).collect();
        let large = Message::new("large/1", &[0; STEP_BYTES], 1, true, &[]);
        let retained = retained(all.into_iter().chain([large, Message::new("large/2", b"1", 1, true, &[])]), 0);
        let step = |filter: &str, most| {
            let mut found = Vec::new();
            let walk = Walk { filter: filter.into(), options: Options::default(), id: None, after: None };
            let after = retained.step(&walk, most, &mut found);
            (found.len(), after.as_deref().map(str::to_owned))
        };
        assert_eq!(step("d/#", 5), (5, Some("d/00004".to_owned())));
        assert_eq!(step("d/+/none", 5), (0, Some(format!("d/{:05}", STEP - 1))));
        assert_eq!(step("large/+", 5), (1, Some("large/1".to_owned())), "no more bytes than one step may take");
        assert_eq!(step("none/#", 5), (0, None));
    }

    #[test]
    fn bytes_fill_the_store_and_topics_that_it_holds_can_still_change() {
        let memory = Budget::new("retained messages", 64 << 10);
        let retained = Retained::new(Arc::new(Room::new(1_000, memory.clone())), false);
        let mut topics = 0;
        while retained.has_room(&format!("t/{topics}")) {
            let message = Message::within(&memory, &format!("t/{topics}"), &[1; 1000], 1, true, &[]).unwrap();
            retained.set(&Arc::new(message));
            topics += 1;
        }
        assert!((50..60).contains(&topics), "{topics}");
        let change = Message::within(&memory, "t/0", &[2; 1000], 1, true, &[]).unwrap();
        assert!(retained.has_room("t/0"));
        retained.set(&Arc::new(change));
        assert_eq!(retained.matching("t/0")[0].payload[0], 2);
        for i in 0..topics {
            retained.set(&message(&format!("t/{i}"), ""));
        }
        assert!(memory.held() == 0 && retained.has_room("new"));
    }

    #[test]
    fn tenants_share_the_room_and_nothing_else() {
        let room = room(3);
        let (a, b) = (Retained::new(Arc::clone(&room), false), Retained::new(Arc::clone(&room), false));
        a.set(&message("x", "1"));
        a.set(&message("y", "1"));
        b.set(&message("x", "2"));
        assert_eq!((room.held(), a.matching("#").len(), b.matching("#").len()), (3, 2, 1));
        assert!(!a.has_room("z") && !b.has_room("y") && b.has_room("x"));
        a.set(&message("x", ""));
        assert_eq!((room.held(), b.matching("x").len()), (2, 1));
        assert!(b.has_room("y"));
    }
}
