//! From a message to its subscribers.

use std::sync::Arc;

use crate::Broker;
use crate::message::Message;
use crate::pending_wills;
use crate::retained::Walk;
use crate::session::{Push, Queued, Session};
use crate::tenant::Tenant;
use door::Inbox;

impl<I: Inbox> Broker<I> {
    /// Puts a message into the queue of each of the tenant's subscribers, once for each, and keeps
    /// a retained one. Returns the number of subscribers.
    pub(crate) fn route(&self, tenant: &Tenant, message: &Arc<Message>, from: &str) -> usize {
        if message.retain {
            tenant.retained.set(message);
        }
        let mut takers: Vec<(Arc<Session>, Queued)> = Vec::new();
        tenant.trie.matches(&message.topic, |entry| {
            if entry.options.no_local && *entry.client == *from {
                return;
            }
            let queued = Queued {
                message: Arc::clone(message),
                qos: message.qos.min(entry.options.qos),
                retain: message.retain && entry.options.retain_as_published,
                subscription_ids: entry.id.into_iter().collect(),
            };
            takers.push((Arc::clone(&entry.subscriber), queued));
        });
        merge(&mut takers);
        let count = takers.len();
        for (session, queued) in takers {
            self.push(&session, queued, self.config.max_queued_messages);
        }
        count
    }

    /// True when a message with the retain flag is kept. One that is not, because the limit is
    /// reached or the topic is of Weir's own, is counted.
    pub(crate) fn keeps(&self, tenant: &Tenant, topic: &str, retain: bool) -> bool {
        let keeps = retain && !topic.starts_with(pending_wills::OWN) && tenant.retained.has_room(topic);
        if retain && !keeps {
            self.count_dropped("retained_full");
        }
        keeps
    }

    /// Copies a message for subscribers, into the retained messages when `keep`. None when there is
    /// no memory for it, which is counted.
    pub(crate) fn copy(
        &self,
        topic: &str,
        payload: &[u8],
        qos: u8,
        keep: bool,
        properties: &[u8],
    ) -> Option<Arc<Message>> {
        let budget = if keep { &self.memory.retained } else { &self.memory.sessions };
        let copy = match payload {
            // It makes room.
            [] if keep => Ok(Message::new(topic, payload, qos, keep, properties)),
            _ => Message::within(budget, topic, payload, qos, keep, properties),
        };
        match copy {
            Ok(message) => Some(Arc::new(message)),
            Err(_) => {
                self.count_dropped(if keep { "retained_full" } else { "memory" });
                None
            }
        }
    }

    /// Queues a retained message for a new subscription.
    pub(crate) fn send_retained(&self, session: &Session, message: Arc<Message>, walk: &Walk) {
        let qos = message.qos.min(walk.options.qos);
        let queued = Queued { message, qos, retain: true, subscription_ids: walk.id.into_iter().collect() };
        // The walk waits while the queue is longer than it makes it.
        self.push(session, queued, usize::MAX);
    }

    fn push(&self, session: &Session, queued: Queued, capacity: usize) {
        match session.push(queued, capacity) {
            Push::Queued | Push::Over => {}
            Push::Full => self.count_dropped("queue_full"),
            Push::NoMemory => self.count_dropped("memory"),
            Push::Offline => self.count_dropped("offline_qos0"),
        }
    }

    pub(crate) fn count_dropped(&self, reason: &'static str) {
        self.metrics.dropped(reason).inc();
    }
}

/// Merges the messages of overlapping subscriptions of one client into one, with the highest QoS
/// and all subscription ids.
fn merge(takers: &mut Vec<(Arc<Session>, Queued)>) {
    if takers.len() < 2 {
        return;
    }
    takers.sort_by_key(|(session, _)| Arc::as_ptr(session).addr());
    takers.dedup_by(|(session, later), (kept_session, kept)| {
        let same = Arc::ptr_eq(session, kept_session);
        if same {
            kept.qos = kept.qos.max(later.qos);
            kept.retain |= later.retain;
            kept.subscription_ids.append(&mut later.subscription_ids);
        }
        same
    });
}
