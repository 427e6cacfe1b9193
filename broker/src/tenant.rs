//! The state that the clients of one tenant share. A connection holds its own tenant's and no
//! other, so that nothing of two tenants meets: neither a client id nor a topic, a subscription, a
//! retained message or a will message.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use hashbrown::HashMap;
use model::Budget;
use parking_lot::Mutex;

use crate::RetainedMessage;
use crate::fleet::{Interests, Strangers};
use crate::memory::Memory;
use crate::message::Message;
use crate::retained::{Retained, Room};
use crate::session::Session;
use crate::sessions::Sessions;
use crate::sys::Figure;
use crate::trie::Trie;

/// One tenant's sessions, subscriptions and retained messages.
#[derive(Debug)]
pub(crate) struct Tenant {
    pub(crate) id: Arc<str>,
    pub(crate) sessions: Sessions,
    pub(crate) trie: Trie<Arc<Session>>,
    pub(crate) retained: Retained,
    /// In a fleet: subscribers of other nodes.
    pub(crate) strangers: Strangers,
    /// And the interests of this node's, for the others.
    pub(crate) interests: Interests,
    /// The figures that were published last.
    pub(crate) figures: Mutex<Vec<Figure>>,
    /// Clients that were connected a second ago.
    connected: AtomicUsize,
    /// Sessions that have expired since the start.
    expired: AtomicU64,
}

impl Tenant {
    /// Returns the number of subscriptions of this node's sessions.
    pub(crate) fn subscriptions(&self) -> usize {
        self.trie.len().saturating_sub(self.strangers.len())
    }

    /// Returns the number of clients that were connected a second ago.
    pub(crate) fn connected(&self) -> usize {
        self.connected.load(Ordering::Relaxed)
    }

    /// Returns the number of sessions that have expired since the start.
    pub(crate) fn expired(&self) -> u64 {
        self.expired.load(Ordering::Relaxed)
    }

    pub(crate) fn count_expired(&self, sessions: u64) {
        self.expired.fetch_add(sessions, Ordering::Relaxed);
    }

    pub(crate) fn set_connected(&self, clients: usize) {
        self.connected.store(clients, Ordering::Relaxed);
    }
}

/// All tenants. Each is made when its first client connects, and kept.
#[derive(Debug)]
pub(crate) struct Tenants {
    held: Mutex<Held>,
    room: Arc<Room>,
    subscriptions: Budget,
}

#[derive(Debug)]
struct Held {
    by_id: HashMap<Arc<str>, Arc<Tenant>, foldhash::fast::RandomState>,
    /// The retained messages of earlier starts have not been restored.
    awaiting: bool,
}

impl Held {
    fn get(&mut self, id: &Arc<str>, room: &Arc<Room>, subscriptions: &Budget) -> &Arc<Tenant> {
        self.by_id.entry(Arc::clone(id)).or_insert_with(|| {
            let retained = Retained::new(Arc::clone(room), self.awaiting);
            let (sessions, trie) = (Sessions::default(), Trie::new(subscriptions));
            let (figures, connected, expired) = Default::default();
            let (id, strangers, interests) = (Arc::clone(id), Strangers::default(), Interests::default());
            Arc::new(Tenant { id, sessions, trie, retained, strangers, interests, figures, connected, expired })
        })
    }
}

impl Tenants {
    /// No tenants, awaiting the retained messages of earlier starts.
    pub(crate) fn awaiting(max_retained_messages: usize, memory: &Memory) -> Self {
        let held = Held { by_id: HashMap::default(), awaiting: true };
        let room = Arc::new(Room::new(max_retained_messages, memory.retained.clone()));
        Self { held: Mutex::new(held), room, subscriptions: memory.sessions.clone() }
    }

    pub(crate) fn get(&self, id: &Arc<str>) -> Arc<Tenant> {
        Arc::clone(self.held.lock().get(id, &self.room, &self.subscriptions))
    }

    pub(crate) fn find(&self, id: &str) -> Option<Arc<Tenant>> {
        self.held.lock().by_id.get(id).cloned()
    }

    pub(crate) fn remove(&self, id: &str) -> Option<Arc<Tenant>> {
        self.held.lock().by_id.remove(id)
    }

    pub(crate) fn all(&self) -> Vec<Arc<Tenant>> {
        self.held.lock().by_id.values().cloned().collect()
    }

    /// Adds the retained messages of earlier starts; unless `is_last`, only of some tenants, which
    /// are all those with messages. Changes made since this start take precedence.
    pub(crate) fn restore(&self, messages: Vec<RetainedMessage>, is_last: bool) {
        let now = model::clock::now();
        let mut left_out = 0_usize;
        let mut by_tenant: HashMap<Arc<str>, Vec<Message>, foldhash::fast::RandomState> = HashMap::default();
        for message in messages {
            let RetainedMessage { tenant, topic, payload, qos, properties, published } = message;
            match Message::within(self.room.memory(), &topic, &payload, qos, true, &properties) {
                Ok(message) => by_tenant.entry(tenant).or_default().push(message.published(published, now)),
                Err(_) => left_out += 1,
            }
        }
        if left_out > 0 {
            let bytes = self.room.memory().capacity();
            tracing::warn!(
                "{left_out} retained messages of earlier starts do not fit into {bytes} bytes and are not sent to \
                 subscribers: raise `memory.max_bytes`"
            );
        }
        // At last every tenant that awaits its messages is restored, and those made from then on
        // await none.
        let tenants: Vec<_> = {
            let mut held = self.held.lock();
            for id in by_tenant.keys() {
                held.get(id, &self.room, &self.subscriptions);
            }
            held.awaiting &= !is_last;
            let restored = held.by_id.iter().filter(|(id, _)| is_last || by_tenant.contains_key(*id));
            restored.map(|(id, tenant)| (Arc::clone(id), Arc::clone(tenant))).collect()
        };
        for (id, tenant) in tenants {
            tenant.retained.restore(by_tenant.remove(&id).unwrap_or_default());
        }
    }

    /// Retained messages of all tenants.
    pub(crate) fn retained(&self) -> usize {
        self.room.held()
    }

    /// Removes expired retained messages, a few of each tenant, when no more would be accepted.
    pub(crate) fn make_room(&self) {
        if self.room.is_full() {
            for tenant in self.all() {
                tenant.retained.sweep();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(tenant: &str, topic: &str) -> RetainedMessage {
        RetainedMessage {
            tenant: tenant.into(),
            topic: topic.into(),
            payload: b"old".to_vec(),
            qos: 1,
            properties: vec![],
            published: model::clock::now(),
        }
    }

    #[test]
    fn tenants_whose_messages_come_later_keep_what_was_cleared_since_the_start() {
        let tenants = Tenants::awaiting(100, &Memory::divide(64 << 20));
        let late = tenants.get(&"late".into());
        late.retained.set(&Arc::new(Message::new("cleared", b"", 1, true, &[])));
        tenants.restore(vec![message("early", "a"), message("early", "b")], false);
        assert_eq!(tenants.retained(), 2);
        // Made after the first part, and before its own.
        let new = tenants.get(&"new".into());
        new.retained.set(&Arc::new(Message::new("cleared", b"", 1, true, &[])));
        tenants.restore(vec![message("late", "cleared"), message("late", "c"), message("new", "cleared")], true);
        assert_eq!(tenants.retained(), 3, "of `early` two, of `late` one");
    }
}
