//! Topic aliases of messages to the client (MQTT 5.0, section 3.3.2.3.4): a topic that comes again
//! and again is sent once.
//!
//! The least recently used topic loses its alias, but only to one that has come since: a subscriber
//! to very many topics keeps the aliases of some, rather than sending every topic with a new one.

use std::hash::BuildHasher;

use foldhash::fast::FixedState;

/// Longest topic with an alias: it is kept in memory.
const MAX_TOPIC_BYTES: usize = 1 << 10;
/// Shortest topic with an alias, which takes three bytes itself.
const MIN_TOPIC_BYTES: usize = 4;
/// Topics without an alias whose last message is remembered.
const SEEN: usize = 256;
/// Bytes of a place for a topic.
const SLOT_BYTES: usize = size_of::<Slot>();

/// The aliases of one connection.
#[derive(Debug)]
pub(super) struct Aliases {
    most: usize,
    slots: Vec<Slot>,
    /// Number of messages.
    clock: u64,
    /// Hashes and times of topics without an alias, by a part of the hash.
    seen: Vec<(u64, u64)>,
    topic_bytes: usize,
}

#[derive(Debug)]
struct Slot {
    hash: u64,
    topic: Box<str>,
    used: u64,
}

/// The alias of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Alias {
    /// The topic is sent without one.
    None,
    /// It is sent with the topic.
    New(u16),
    /// It stands for the topic.
    Known(u16),
}

impl Aliases {
    /// No aliases, and at most `most`.
    pub(super) fn new(most: u16) -> Self {
        Self { most: most.into(), slots: Vec::new(), clock: 0, seen: Vec::new(), topic_bytes: 0 }
    }

    /// Bytes that they take.
    pub(super) fn bytes(&self) -> usize {
        self.topic_bytes + self.slots.capacity() * SLOT_BYTES + self.seen.capacity() * size_of::<(u64, u64)>()
    }

    /// Returns the alias of a topic, which is a new one if the topic comes often enough.
    pub(super) fn choose(&mut self, topic: &str) -> Alias {
        if !(MIN_TOPIC_BYTES..=MAX_TOPIC_BYTES).contains(&topic.len()) || self.most == 0 {
            return Alias::None;
        }
        self.clock += 1;
        let hash = FixedState::default().hash_one(topic);
        if let Some(at) = self.slots.iter().position(|slot| slot.hash == hash && *slot.topic == *topic) {
            self.slots[at].used = self.clock;
            return Alias::Known(number(at));
        }
        let slot = Slot { hash, topic: topic.into(), used: self.clock };
        if self.slots.len() < self.most {
            self.topic_bytes += topic.len();
            self.slots.push(slot);
            return Alias::New(number(self.slots.len() - 1));
        }
        self.seen.resize(SEEN, (0, 0));
        let (seen, last) = std::mem::replace(&mut self.seen[hash as usize % SEEN], (hash, self.clock));
        let oldest = self.slots.iter().enumerate().min_by_key(|(_, slot)| slot.used);
        match oldest {
            Some((at, oldest)) if seen == hash && oldest.used < last => {
                self.topic_bytes += topic.len();
                self.topic_bytes -= oldest.topic.len();
                self.slots[at] = slot;
                Alias::New(number(at))
            }
            _ => Alias::None,
        }
    }

    /// Takes back an alias whose message was not sent.
    pub(super) fn take_back(&mut self, alias: Alias) {
        if let Alias::New(number) = alias
            && let Some(slot) = self.slots.get_mut(usize::from(number) - 1)
        {
            self.topic_bytes -= slot.topic.len();
            // An empty topic is that of no message; this is the first one to be replaced.
            *slot = Slot { hash: 0, topic: "".into(), used: 0 };
        }
    }
}

fn number(at: usize) -> u16 {
    u16::try_from(at + 1).expect("there are at most as many as a client accepts")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_is_sent_once_and_then_its_alias() {
        let mut aliases = Aliases::new(2);
        assert_eq!(aliases.choose("long/a"), Alias::New(1));
        assert_eq!(aliases.choose("long/b"), Alias::New(2));
        assert_eq!((aliases.choose("long/a"), aliases.choose("long/b")), (Alias::Known(1), Alias::Known(2)));
        assert_eq!(aliases.choose("abc"), Alias::None, "an alias is longer");
        assert_eq!(aliases.choose(&"x".repeat(MAX_TOPIC_BYTES + 1)), Alias::None);
        assert_eq!(Aliases::new(0).choose("long/a"), Alias::None);
    }

    #[test]
    fn the_least_recently_used_topic_loses_its_alias_to_one_that_comes_more_often() {
        let mut aliases = Aliases::new(2);
        for topic in ["long/a", "long/b", "long/a", "long/c"] {
            aliases.choose(topic);
        }
        assert_eq!(aliases.choose("long/c"), Alias::New(2), "b has not come since");
        assert_eq!((aliases.choose("long/a"), aliases.choose("long/c")), (Alias::Known(1), Alias::Known(2)));
        assert_eq!(aliases.choose("long/b"), Alias::None);
    }

    #[test]
    fn of_very_many_topics_in_turn_some_keep_their_aliases() {
        let mut aliases = Aliases::new(16);
        let mut known = 0;
        for round in 0..10 {
            for n in 0..100 {
                let alias = aliases.choose(&format!("devices/{n}/telemetry"));
                assert!(round == 0 || !matches!(alias, Alias::New(_)), "no alias is wasted");
                known += usize::from(matches!(alias, Alias::Known(_)));
            }
        }
        assert_eq!(known, 9 * 16);
    }

    #[test]
    fn an_alias_that_was_not_sent_is_taken_back() {
        let mut aliases = Aliases::new(1);
        let alias = aliases.choose("long/a");
        let with_one = aliases.bytes();
        aliases.take_back(alias);
        assert_eq!(aliases.bytes(), with_one - 6);
        aliases.choose("long/b");
        assert_eq!(aliases.choose("long/b"), Alias::New(1));
    }
}
