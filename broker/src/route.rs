//! From a message to its subscribers.

use std::sync::Arc;

use crate::Broker;
use crate::codec::subscribe::Options;
use crate::inbox::Inbox;
use crate::message::Message;
use crate::metrics::Reason;
use crate::session::{Push, Queued, Session};

impl<I: Inbox> Broker<I> {
    /// Puts a message into the queue of everyone who subscribes to it, once for each, and keeps it when it is to be kept.
    /// Returns how many take it.
    pub(crate) fn route(&self, message: &Arc<Message>, from: &str) -> usize {
        if message.retain {
            self.retained.set(message);
            if message.payload.is_empty() && self.trie.is_empty() {
                return 0;
            }
        }
        let mut takers: Vec<(Arc<Session>, Queued)> = Vec::new();
        self.trie.matches(&message.topic, |entry| {
            if entry.options.no_local && *entry.client == *from {
                return;
            }
            let retain = message.retain && entry.options.retain_as_published;
            let qos = message.qos.min(entry.options.qos);
            // Overlapping subscriptions of one client become one message, with the highest QoS and all ids.
            let shared = takers.iter_mut().find(|(session, _)| Arc::ptr_eq(session, &entry.subscriber));
            if let Some((_, queued)) = shared {
                queued.qos = queued.qos.max(qos);
                queued.retain |= retain;
                queued.subscription_ids.extend(entry.id);
            } else {
                let subscription_ids = entry.id.into_iter().collect();
                let queued = Queued { message: Arc::clone(message), qos, retain, subscription_ids };
                takers.push((Arc::clone(&entry.subscriber), queued));
            }
        });
        let count = takers.len();
        for (session, queued) in takers {
            self.push(&session, queued);
        }
        count
    }

    /// True when somebody subscribes to a topic.
    pub(crate) fn has_takers(&self, topic: &str) -> bool {
        let mut some = false;
        self.trie.matches(topic, |_| some = true);
        some
    }

    /// Sends what is retained for a filter to a new subscription.
    pub(crate) fn send_retained(&self, session: &Session, filter: &str, options: Options, id: Option<u32>) {
        for message in self.retained.matching(filter) {
            let qos = message.qos.min(options.qos);
            self.push(session, Queued { message, qos, retain: true, subscription_ids: id.into_iter().collect() });
        }
    }

    fn push(&self, session: &Session, queued: Queued) {
        let reason = match session.push(queued, self.config.max_queued_messages) {
            Push::Queued => return,
            Push::Full => "queue_full",
            Push::Offline => "offline_qos0",
        };
        self.metrics.dropped.get_or_create(&Reason { reason }).inc();
    }
}
