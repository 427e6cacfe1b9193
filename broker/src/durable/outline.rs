//! The state of earlier starts, as it is found part by part. Of messages that wait and that the
//! archive has, only their ids are kept.

use std::mem;
use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use super::journal::Journal;
use super::ledger::{Duty, Ledger, StoredMessage};
use super::numbers::Numbers;
use super::record::{Keys, MESSAGES, MessageRecord, Progress};
use crate::RetainedMessage;
use crate::archive::{Entry, Packed, Run};

type Map<K, V> = HashMap<K, V, RandomState>;

/// Data of earlier starts: retained messages, sessions, messages that wait for them.
#[derive(Debug)]
pub struct Earlier {
    keys: Keys,
    pub(crate) messages: Vec<RetainedMessage>,
    pub(crate) waiting: Waiting,
}

impl Earlier {
    /// Nothing yet, of the node of this name.
    pub fn of(node: &str) -> Self {
        Self { keys: Keys::new(node), messages: Vec::new(), waiting: Waiting::default() }
    }

    /// Adds a message. With `is_archived`, [`crate::Archive`] has it: one that waits for a session
    /// is read from there in its turn. Those come in the order of their topics.
    pub fn add(&mut self, message: RetainedMessage, is_archived: bool) {
        let is_away = is_archived && self.waiting.add(&self.keys, &message).is_some();
        if !is_away {
            self.messages.push(message);
        }
    }

    /// Tenants with messages.
    pub fn tenants(&self) -> impl Iterator<Item = &Arc<str>> {
        self.messages.iter().map(|message| &message.tenant).chain(self.waiting.0.values().map(|of| &of.tenant))
    }

    /// Adds what was found in another place.
    pub fn append(&mut self, other: Self) {
        self.messages.extend(other.messages);
        // No two places have messages of the same session.
        self.waiting.0.extend(other.waiting.0);
    }

    /// Returns the messages, without those that wait for sessions.
    pub fn into_messages(self) -> Vec<RetainedMessage> {
        self.messages
    }

    /// Returns the number of messages; one that waits for several sessions counts for each.
    pub fn len(&self) -> usize {
        self.messages.len() + self.waiting.0.values().map(|of| of.messages.len()).sum::<usize>()
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Messages of one session.
#[derive(Debug)]
pub(crate) struct OfSession {
    tenant: Arc<str>,
    messages: Packed,
    bytes: usize,
}

/// Messages that wait for sessions and are not in memory, by the id of the session.
#[derive(Debug, Default)]
pub(crate) struct Waiting(Map<u64, OfSession>);

/// Records that several sessions need.
pub(crate) type Shared = Map<u64, Arc<StoredMessage>>;

impl Waiting {
    /// Adds a message that the archive has. None for another one, or one that has to be whole.
    fn add(&mut self, keys: &Keys, message: &RetainedMessage) -> Option<()> {
        let (id, _) = keys.read(MESSAGES, &message.topic)?;
        let (MessageRecord { topic, takers }, payload) = MessageRecord::decode(&message.payload)?;
        if takers.is_empty() || takers.iter().any(|taker| taker.share.is_some()) {
            return None;
        }
        let (is_shared, bytes) = (takers.len() > 1, topic.len() + payload.len() + message.properties.len());
        for taker in takers {
            let of = self.0.entry(taker.session).or_insert_with(|| {
                let (messages, bytes) = Default::default();
                OfSession { tenant: Arc::clone(&message.tenant), messages, bytes }
            });
            of.messages.push(Entry { id, number: taker.number, is_shared });
            of.bytes += bytes;
        }
        Some(())
    }

    /// The highest id of a message.
    pub(crate) fn last(&self) -> Option<u64> {
        self.0.values().filter_map(|of| of.messages.last_id()).max()
    }

    /// Adds the numbers of a session's messages for which `is_open`.
    pub(crate) fn numbers(&self, session: u64, is_open: impl Fn(u64) -> bool, numbers: &mut Numbers) {
        let of = self.0.get(&session).into_iter().flat_map(|of| of.messages.iter());
        of.filter(|entry| is_open(entry.number)).for_each(|entry| numbers.insert(entry.number));
    }

    /// Takes the messages of a session out.
    pub(crate) fn take(&mut self, session: u64) -> Option<OfSession> {
        self.0.remove(&session)
    }

    /// Clears the messages that no session waits for.
    pub(crate) fn clear(self, journal: &Arc<Journal>, shared: &mut Shared) {
        for OfSession { tenant, messages, .. } in self.0.into_values() {
            for entry in messages.iter().filter(|entry| entry.is_shared) {
                shared.entry(entry.id).or_insert_with(|| journal.stored(&tenant, entry.id));
            }
            journal.clear_messages(&tenant, messages);
        }
    }
}

/// A session whose messages are queued.
pub(crate) struct Open<'a> {
    pub(crate) ledger: &'a Arc<Ledger>,
    pub(crate) progress: &'a Progress,
    /// Numbers of messages that the client has and has not completed.
    pub(crate) released: &'a [u64],
}

impl OfSession {
    /// Moves the messages with ids below `to` to a run. Returns those whose exchange goes on, and
    /// the bytes of the run.
    pub(crate) fn queue(&mut self, of: &Open<'_>, to: u64, run: &mut Run, shared: &mut Shared) -> (Vec<Duty>, usize) {
        let mut released = Vec::new();
        while self.messages.first_id().is_some_and(|id| id < to) {
            let Some(Entry { id, number, is_shared }) = self.messages.pop() else { break };
            let journal = &of.ledger.journal;
            let mut record = || match is_shared {
                true => Arc::clone(shared.entry(id).or_insert_with(|| journal.stored(&self.tenant, id))),
                false => journal.stored(&self.tenant, id),
            };
            if of.progress.has(number) {
                // The client has it: the record is cleared when no other needs it.
                drop(record());
            } else if of.released.contains(&number) {
                released.push(Duty { ledger: Arc::clone(of.ledger), number, message: Some(record()) });
            } else if is_shared {
                run.push(number, record());
            } else {
                run.push_own(id, number);
            }
        }
        let bytes = if self.messages.is_empty() { mem::take(&mut self.bytes) } else { 0 };
        (released, bytes)
    }
}
