//! Retained messages of a fleet: every node comes to the same ones, also after messages between
//! nodes were dropped.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use model::Nanos;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::Fleet;
use crate::message::{Message, RetainedMessage};
use crate::tenant::Tenant;
use crate::{Broker, durable, pending_wills};
use door::Inbox;

/// Topics whose messages are to be sent again. Beyond them, other nodes keep the ones before.
const MOST_UNSENT: usize = 200_000;
/// Topics that were cleared lately, and are known.
const MOST_CLEARED: usize = 10_000;
/// Wait before a retry.
const PAUSE: Duration = Duration::from_millis(100);

/// A topic of a tenant.
type Topic = (Arc<str>, Box<str>);

/// Topics whose last retained message other nodes do not have: too much was waiting.
#[derive(Debug, Default)]
pub(crate) struct Unsent {
    topics: Mutex<BTreeSet<Topic>>,
    added: Notify,
}

impl Unsent {
    pub(super) fn add(&self, tenant: Arc<str>, topic: Box<str>) {
        let mut topics = self.topics.lock();
        if topics.len() < MOST_UNSENT {
            topics.insert((tenant, topic));
        } else if !topics.contains(&(tenant, topic)) {
            tracing::warn!(
                "a retained message does not reach the other nodes: too many wait for the store of sessions"
            );
        }
        self.added.notify_one();
    }

    fn take(&self) -> Option<Topic> {
        self.topics.lock().pop_first()
    }
}

/// Times at which topics were cleared: an older message may still be on its way.
#[derive(Debug, Default)]
pub(crate) struct Cleared(Mutex<Times>);

#[derive(Debug, Default)]
struct Times {
    by_topic: HashMap<Topic, Nanos>,
    /// Topics in the order in which they were cleared first.
    order: VecDeque<Topic>,
}

impl Cleared {
    /// Notes that a topic was cleared.
    pub(crate) fn note(&self, tenant: &Arc<str>, topic: &str, at: Nanos) {
        let mut times = self.0.lock();
        let key: Topic = (Arc::clone(tenant), topic.into());
        if times.by_topic.insert(key.clone(), at).is_none() {
            times.order.push_back(key);
        }
        if times.order.len() > MOST_CLEARED
            && let Some(oldest) = times.order.pop_front()
        {
            times.by_topic.remove(&oldest);
        }
    }

    fn topics(&self) -> Vec<Topic> {
        self.0.lock().by_topic.keys().cloned().collect()
    }

    /// Returns when a topic was cleared.
    fn at(&self, topic: &Topic) -> Option<Nanos> {
        self.0.lock().by_topic.get(topic).copied()
    }

    /// True when the topic of a message was cleared after the message.
    pub(super) fn is_newer(&self, tenant: &Arc<str>, message: &Message) -> bool {
        self.at(&(Arc::clone(tenant), message.topic.clone())).is_some_and(|at| at > message.at)
    }
}

impl Fleet {
    /// Keeps a message, unless its topic has been set or cleared since.
    pub(crate) fn keep_newer(&self, tenant: &Tenant, message: &Arc<Message>) {
        if !self.cleared.is_newer(&tenant.id, message)
            && tenant.retained.set_newer(message)
            && message.payload.is_empty()
        {
            self.cleared.note(&tenant.id, &message.topic, message.at);
        }
    }

    /// Sends what was cleared lately again: a node that has joined may have missed it, and reads
    /// what is set from the store.
    pub(super) fn send_cleared(&self) {
        self.cleared.topics().into_iter().for_each(|(tenant, topic)| self.unsent.add(tenant, topic));
    }
}

impl<I: Inbox> Broker<I> {
    /// Waits until retained messages of other nodes may have been missed. The caller reads all of
    /// them again, for [`Broker::renew`].
    pub async fn retained_missed(&self) {
        match &self.fleet {
            Some(fleet) => fleet.missed.notified().await,
            None => std::future::pending().await,
        }
    }

    /// Takes retained messages that were read again, where they are newer than what is known.
    pub fn renew(&self, messages: Vec<RetainedMessage>) {
        let (messages, _) = durable::sort(messages, &self.journal.keys);
        let (messages, _) = pending_wills::split(messages, &self.config.node, self.started);
        for RetainedMessage { tenant, topic, payload, qos, properties, published } in messages {
            let tenant = self.tenants.get(&tenant);
            self.take_retained(&tenant, &topic, &payload, qos, &properties, published);
        }
    }

    /// Keeps a retained message of another node, unless a newer one of its topic is known: of
    /// several nodes, all come to the same.
    pub(super) fn take_retained(
        &self,
        tenant: &Tenant,
        topic: &str,
        payload: &[u8],
        qos: u8,
        properties: &[u8],
        published: Nanos,
    ) {
        let Some(fleet) = &self.fleet else { return };
        // One that clears its topic makes room.
        if !payload.is_empty() && tenant.retained.refusal(topic).is_some() {
            self.count_dropped("retained_full");
            return;
        }
        // It has no other owner yet.
        let message = self.copy(topic, payload, qos, true, properties).and_then(Arc::into_inner);
        let Some(message) = message else { return };
        fleet.keep_newer(tenant, &Arc::new(message.published(published, model::clock::now())));
    }

    /// Sends retained messages again that were not sent to the other nodes, as they are by then,
    /// until `stop`.
    pub(crate) async fn send_unsent(self: Arc<Self>, fleet: Arc<Fleet>, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = fleet.unsent.added.notified() => {}
                () = stop.cancelled() => return,
            }
            while let Some(topic) = fleet.unsent.take() {
                if self.send_retained_again(&fleet, &topic) {
                    continue;
                }
                fleet.unsent.add(topic.0, topic.1);
                tokio::select! {
                    () = tokio::time::sleep(PAUSE) => {}
                    () = stop.cancelled() => return,
                }
            }
        }
    }

    /// False when there is no room for it.
    fn send_retained_again(&self, fleet: &Fleet, topic: &Topic) -> bool {
        let Some(tenant) = self.tenants.find(&topic.0) else { return true };
        let message = tenant.retained.get(&topic.1).unwrap_or_else(|| {
            let at = fleet.cleared.at(topic).unwrap_or_else(model::clock::now);
            Arc::new(Message::new(&topic.1, b"", 0, true, &[]).published(at, at))
        });
        fleet.send_retained(&topic.0, &message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_topics_that_were_cleared_last_are_known() {
        let (cleared, tenant) = (Cleared::default(), Arc::<str>::from("t"));
        for n in 0..=MOST_CLEARED {
            cleared.note(&tenant, &n.to_string(), 5);
        }
        cleared.note(&tenant, "1", 9);
        let at = |topic: &str| cleared.at(&(Arc::clone(&tenant), topic.into()));
        assert_eq!((at("0"), at("1"), at("2"), at("never")), (None, Some(9), Some(5), None));
        let message = |at| Message::new("1", b"x", 0, true, &[]).published(at, at);
        assert!(cleared.is_newer(&tenant, &message(8)) && !cleared.is_newer(&tenant, &message(9)));
        assert_eq!(cleared.0.lock().by_topic.len(), MOST_CLEARED);
    }

    #[test]
    fn a_topic_that_waits_is_sent_once() {
        let unsent = Unsent::default();
        for topic in ["b", "a", "b"] {
            unsent.add("t".into(), topic.into());
        }
        let taken: Vec<_> = std::iter::from_fn(|| unsent.take()).map(|(_, topic)| topic).collect();
        assert_eq!(taken, ["a".into(), "b".into()]);
    }
}
