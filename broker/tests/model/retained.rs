//! The model of retained messages: which one a new subscription gets.
//!
//! Each topic has one publisher, so that its messages have an order.

use std::collections::BTreeMap;

use crate::Checked;
use crate::model::{Message, Number};
use crate::topics::{RETAINED, matches};

#[derive(Debug, Default)]
pub(crate) struct Retained {
    /// For each topic the messages that may be kept, in their order.
    possible: BTreeMap<&'static str, Vec<Kept>>,
    owed: Vec<Copy>,
    /// Nodes know of messages at others a moment later.
    in_fleet: bool,
    /// Acknowledged messages that other nodes may not know.
    unknown: Vec<(String, Number)>,
}

#[derive(Debug, Clone, Copy)]
struct Kept {
    number: Number,
    is_clear: bool,
    is_acknowledged: bool,
    /// It was sent again before this message. One of QoS 2 behind it may have been there already,
    /// and is not there once more: then this one is the last.
    again_before: Option<Number>,
}

/// A copy for a new subscription.
#[derive(Debug, Clone)]
struct Copy {
    client: usize,
    filter: &'static str,
    topic: &'static str,
    qos: u8,
    /// At which the client has subscribed again since.
    later: Vec<u8>,
    must: bool,
    /// The oldest message that it may be of.
    oldest: Number,
    got: Option<Delivered>,
}

/// A retained message that has come to a client.
#[derive(Debug, Clone, Copy)]
struct Delivered {
    client: usize,
    topic: &'static str,
    number: Number,
    /// At which it was published, and at which it came.
    published: u8,
    qos: u8,
}

impl Copy {
    fn fits(&self, of: &Delivered) -> bool {
        let is_its = self.client == of.client && self.topic == of.topic && self.oldest <= of.number;
        is_its && [self.qos].iter().chain(&self.later).any(|qos| *qos.min(&of.published) == of.qos)
    }
}

impl Retained {
    pub(crate) fn new(in_fleet: bool) -> Self {
        Self { in_fleet, ..Self::default() }
    }

    /// All nodes of the fleet know what was acknowledged so far.
    pub(crate) fn synced(&mut self) {
        for (topic, number) in std::mem::take(&mut self.unknown) {
            self.known(&topic, number);
        }
    }

    /// A message is sent, or one that clears its topic.
    pub(crate) fn sent(&mut self, topic: &'static str, number: Number, is_clear: bool) {
        self.possible.entry(topic).or_default().push(Kept {
            number,
            is_clear,
            is_acknowledged: false,
            again_before: None,
        });
        if is_clear {
            self.owed.iter_mut().filter(|copy| copy.topic == topic).for_each(|copy| copy.must = false);
        }
    }

    /// A message of QoS 1 is sent again, and `next` is the number of the next one.
    pub(crate) fn sent_again(&mut self, topic: &str, number: Number, next: Number) {
        let kept = self.possible.get_mut(topic).into_iter().flatten();
        kept.filter(|kept| kept.number == number).for_each(|kept| kept.again_before = Some(next));
    }

    pub(crate) fn acknowledged(&mut self, topic: &str, number: Number) {
        if self.in_fleet {
            self.unknown.push((topic.to_owned(), number));
        } else {
            self.known(topic, number);
        }
    }

    fn known(&mut self, topic: &str, number: Number) {
        if let Some(kept) = self.possible.get_mut(topic) {
            kept.retain(|kept| kept.number >= number || kept.again_before.is_some_and(|next| number < next));
            kept.iter_mut().filter(|kept| kept.number == number).for_each(|kept| kept.is_acknowledged = true);
        }
    }

    /// True when a message is kept for this topic for certain.
    fn is_certain(&self, topic: &str) -> bool {
        let Some(kept) = self.possible.get(topic) else { return false };
        // Before the first acknowledgement there may be none.
        kept.iter().all(|kept| !kept.is_clear) && kept.first().is_some_and(|first| first.is_acknowledged)
    }

    /// A SUBSCRIBE was sent that asks for retained messages, for `certain` or perhaps.
    pub(crate) fn subscribed(&mut self, (client, filter, qos): (usize, &'static str, u8), certain: bool) {
        // A walk that has not ended begins anew.
        self.unsubscribed(client, filter);
        for topic in RETAINED.into_iter().filter(|topic| matches(filter, topic)) {
            let must = certain && self.is_certain(topic);
            let oldest = self.possible.get(topic).and_then(|kept| kept.first()).map_or(0, |kept| kept.number);
            self.owed.push(Copy { client, filter, topic, qos, later: Vec::new(), must, oldest, got: None });
        }
    }

    /// A SUBSCRIBE was sent. Another node goes on with the copies of the one before as the
    /// subscription is by then.
    pub(crate) fn resubscribed(&mut self, client: usize, filter: &str, qos: u8) {
        let of = self.owed.iter_mut().filter(|copy| copy.client == client && copy.filter == filter);
        of.filter(|copy| self.in_fleet && copy.got.is_none()).for_each(|copy| copy.later.push(qos));
    }

    pub(crate) fn unsubscribed(&mut self, client: usize, filter: &str) {
        let of = self.owed.iter_mut().filter(|copy| copy.client == client && copy.filter == filter);
        of.for_each(|copy| copy.must = false);
    }

    pub(crate) fn connection_ended(&mut self, client: usize) {
        // Retained messages of this test have QoS 1 or 2.
        self.owed.iter_mut().filter(|copy| copy.client == client).for_each(|copy| copy.must &= copy.qos > 0);
    }

    pub(crate) fn session_ended(&mut self, client: usize) {
        self.owed.retain(|copy| copy.client != client);
    }

    pub(crate) fn killed(&mut self) {
        // One whose acknowledgement was not stored may come again, as it was when it was staged:
        // the topic may have had a newer message when it was sent.
        self.owed.iter_mut().for_each(|copy| (copy.must, copy.got) = (false, None));
    }

    pub(crate) fn delivered(&mut self, client: usize, message: &Message, number: Number, qos: u8) -> Checked {
        let topic = RETAINED.into_iter().find(|topic| **topic == *message.topic);
        let of = topic.map(|topic| Delivered { client, topic, number, published: message.qos, qos });
        if of.is_some_and(|of| self.place(of, &mut vec![false; self.owed.len()])) {
            return Ok(());
        }
        Err(format!("message {number} came as a retained one to client {client}, at QoS {qos}: {message:?}"))
    }

    /// Finds a copy that is this one, if need be by another copy for what was taken for it before.
    fn place(&mut self, of: Delivered, tried: &mut [bool]) -> bool {
        let mut fit: Vec<usize> = (0..self.owed.len()).filter(|at| self.owed[*at].fits(&of)).collect();
        fit.sort_by_key(|at| (self.owed[*at].got.is_some(), !self.owed[*at].must));
        for at in fit {
            if std::mem::replace(&mut tried[at], true) {
                continue;
            }
            if self.owed[at].got.is_none_or(|before| self.place(before, tried)) {
                self.owed[at].got = Some(of);
                return true;
            }
        }
        false
    }

    /// Finds what was taken for another copy, which can do without, to be this one that must come.
    fn fill(&mut self, copy: usize, tried: &mut [bool]) -> bool {
        for at in 0..self.owed.len() {
            let Some(of) = self.owed[at].got.filter(|of| self.owed[copy].fits(of)) else { continue };
            if std::mem::replace(&mut tried[at], true) {
                continue;
            }
            if !self.owed[at].must || self.fill(at, tried) {
                (self.owed[at].got, self.owed[copy].got) = (self.owed[at].got.filter(|_| self.owed[at].must), Some(of));
                return true;
            }
        }
        false
    }

    pub(crate) fn missing(&self) -> Vec<String> {
        let missing = |copy: &Copy| copy.must && copy.got.is_none();
        let mut filled = Self { owed: self.owed.clone(), ..Self::default() };
        for copy in 0..filled.owed.len() {
            if missing(&filled.owed[copy]) {
                filled.fill(copy, &mut vec![false; self.owed.len()]);
            }
        }
        filled.owed.iter().filter(|copy| missing(copy)).map(|copy| format!("retained: {copy:?}")).collect()
    }
}
