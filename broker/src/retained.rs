//! Retained messages: the last one of each topic that was published to be kept.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Included, Unbounded};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::message::Message;

/// Topics looked at before the lock is let go: publishers wait for it.
const STEP: usize = 1024;
/// Topics looked at for a message that is over, each time room is asked for in a full store.
const SWEEP: usize = 16;

/// The retained messages, in memory; what survives a restart is given at the start and told to the inbox.
#[derive(Debug)]
pub struct Retained {
    held: Mutex<Held>,
    capacity: usize,
}

#[derive(Debug, Default)]
struct Held {
    by_topic: BTreeMap<Box<str>, Arc<Message>>,
    /// Where the sweep for messages that are over goes on.
    swept_to: Box<str>,
    /// Topics that were cleared before the messages of earlier starts came; none when they are here.
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

    /// Removes what is over among the next topics, round and round.
    fn sweep(&mut self) {
        let next = self.by_topic.range::<str, _>((Excluded(&*self.swept_to), Unbounded)).take(SWEEP);
        let next: Vec<_> = next.map(|(topic, message)| (topic.clone(), is_over(message))).collect();
        self.swept_to = next.last().map(|(topic, _)| topic.clone()).unwrap_or_default();
        for (topic, _) in next.iter().filter(|(_, over)| *over) {
            self.by_topic.remove(topic);
        }
    }
}

fn is_over(message: &Message) -> bool {
    message.seconds_left() == Some(0)
}

impl Retained {
    /// With these messages, of which a later one takes the place of an earlier one. New topics are taken up to `capacity`.
    pub fn new(messages: impl IntoIterator<Item = Message>, capacity: usize) -> Self {
        let mut held = Held::default();
        messages.into_iter().for_each(|message| held.set(&Arc::new(message)));
        Self { held: Mutex::new(held), capacity }
    }

    /// Without the messages of earlier starts, which [`Retained::restore`] brings.
    pub fn awaiting(capacity: usize) -> Self {
        let held = Held { cleared: Some(BTreeSet::new()), ..Held::default() };
        Self { held: Mutex::new(held), capacity }
    }

    /// The messages of earlier starts. What was set or cleared since this start stays so.
    pub fn restore(&self, messages: impl IntoIterator<Item = Message>) {
        let mut held = self.held.lock();
        let cleared = held.cleared.take().unwrap_or_default();
        for message in messages {
            if !held.by_topic.contains_key(&message.topic) && !cleared.contains(&message.topic) {
                held.set(&Arc::new(message));
            }
        }
    }

    /// Messages held.
    pub fn len(&self) -> usize {
        self.held.lock().by_topic.len()
    }

    /// True when none is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// True when a message for this topic can be taken. A full store looks for messages that are over, a few at each call.
    pub fn has_room(&self, topic: &str) -> bool {
        let mut held = self.held.lock();
        if held.by_topic.len() >= self.capacity {
            held.sweep();
        }
        held.by_topic.len() < self.capacity || held.by_topic.contains_key(topic)
    }

    /// Keeps a message in place of the one before; an empty payload clears the topic.
    pub fn set(&self, message: &Arc<Message>) {
        self.held.lock().set(message);
    }

    /// The messages that a filter takes and that are not over, in the order of their topics. Looks only at topics that begin as
    /// the filter does. What is set meanwhile may be among them or not.
    pub fn matching(&self, filter: &str) -> Vec<Arc<Message>> {
        let fixed = filter.find(['+', '#']).map_or(filter, |at| &filter[..at]);
        // `a/#` takes `a` as well.
        let fixed = if filter.ends_with('#') { fixed.strip_suffix('/').unwrap_or(fixed) } else { fixed };
        let mut found = Vec::new();
        let mut from = Included(Box::<str>::from(fixed));
        loop {
            let held = self.held.lock();
            let bound = from.as_ref().map(|topic| &**topic);
            let mut last = None;
            let step = held.by_topic.range::<str, _>((bound, Unbounded)).take(STEP);
            for (seen, (topic, message)) in step.take_while(|(topic, _)| topic.starts_with(fixed)).enumerate() {
                if model::topic::matches(filter, topic) && !is_over(message) {
                    found.push(Arc::clone(message));
                }
                last = (seen + 1 == STEP).then(|| topic.clone());
            }
            match last {
                Some(topic) => from = Excluded(topic),
                None => return found,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(topic: &str, payload: &str) -> Arc<Message> {
        Arc::new(Message::new(topic, payload.as_bytes(), 1, true, &[]))
    }

    #[test]
    fn the_last_message_of_a_topic_is_kept_and_an_empty_one_clears() {
        let retained = Retained::new([], 10);
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
    fn messages_that_come_late_change_nothing_that_was_set_or_cleared_since() {
        let retained = Retained::awaiting(10);
        retained.set(&message("set", "new"));
        retained.set(&message("cleared", "new"));
        retained.set(&message("cleared", ""));
        retained.restore(["set", "cleared", "old"].map(|topic| Message::new(topic, b"old", 1, true, &[])));
        let found: Vec<_> = retained.matching("#").iter().map(|m| (m.topic.to_string(), m.payload.to_vec())).collect();
        assert_eq!(found, [("old".into(), b"old".to_vec()), ("set".into(), b"new".to_vec())]);
    }

    #[test]
    fn more_topics_than_one_step_looks_at_are_all_found() {
        let all: Vec<_> = (0..3 * STEP).map(|i| Message::new(&format!("d/{i:05}/state"), b"1", 1, true, &[])).collect();
        let retained = Retained::new(all, 0);
        assert_eq!(retained.matching("d/+/state").len(), 3 * STEP);
        assert_eq!(retained.matching("d/#").len(), 3 * STEP);
        assert_eq!(retained.matching("d/00007/+").len(), 1);
        assert_eq!(retained.matching("d/+").len(), 0);
    }

    #[test]
    fn a_full_store_makes_room_by_dropping_what_is_over() {
        // A message expiry of 0 seconds.
        let over = |i| Message::new(&format!("over/{i:02}"), b"1", 1, true, &[0x02, 0, 0, 0, 0]);
        let retained = Retained::new((0..20).map(over).chain([Message::new("lasts", b"1", 1, true, &[])]), 21);
        assert!(retained.has_room("new"));
        while retained.len() > 1 {
            let before = retained.len();
            retained.held.lock().sweep();
            retained.held.lock().sweep();
            assert!(retained.len() < before, "two rounds of the sweep come by everything");
        }
        assert_eq!(retained.matching("#").len(), 1);
    }

    #[test]
    fn a_full_store_takes_topics_that_it_holds_and_no_others() {
        let retained = Retained::new([Message::new("a", b"1", 1, true, &[])], 1);
        assert!(retained.has_room("a") && !retained.has_room("b"));
        retained.set(&message("a", ""));
        assert!(retained.has_room("b"));
    }
}
