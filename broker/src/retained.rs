//! Retained messages: the last one of each topic that was published to be kept.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::message::Message;

/// The retained messages, in memory; what survives a restart is given at the start and told to the inbox.
#[derive(Debug)]
pub struct Retained {
    by_topic: Mutex<BTreeMap<Box<str>, Arc<Message>>>,
    capacity: usize,
}

impl Retained {
    /// With these messages; at most `capacity` are held.
    pub fn new(messages: impl IntoIterator<Item = Message>, capacity: usize) -> Self {
        let by_topic = messages.into_iter().map(|m| (m.topic.clone(), Arc::new(m))).collect();
        Self { by_topic: Mutex::new(by_topic), capacity }
    }

    /// Messages held.
    pub fn len(&self) -> usize {
        self.by_topic.lock().len()
    }

    /// True when none is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// True when a message for this topic can be taken.
    pub fn has_room(&self, topic: &str) -> bool {
        let held = self.by_topic.lock();
        held.len() < self.capacity || held.contains_key(topic)
    }

    /// Keeps a message in place of the one before; an empty payload clears the topic.
    pub fn set(&self, message: &Arc<Message>) {
        let mut held = self.by_topic.lock();
        if message.payload.is_empty() {
            held.remove(&message.topic);
        } else {
            held.insert(message.topic.clone(), Arc::clone(message));
        }
    }

    /// The messages that a filter takes and that are not over. Looks only at topics that begin as the filter does.
    pub fn matching(&self, filter: &str) -> Vec<Arc<Message>> {
        let fixed = filter.find(['+', '#']).map_or(filter, |at| &filter[..at]);
        // `a/#` takes `a` as well.
        let fixed = fixed.strip_suffix('/').unwrap_or(fixed);
        let held = self.by_topic.lock();
        let from = held.range::<str, _>((std::ops::Bound::Included(fixed), std::ops::Bound::Unbounded));
        from.take_while(|(topic, _)| topic.starts_with(fixed))
            .filter(|(topic, message)| model::topic::matches(filter, topic) && message.seconds_left() != Some(0))
            .map(|(_, message)| Arc::clone(message))
            .collect()
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
}
