//! From a message to its subscribers.

use std::sync::Arc;

use crate::Broker;
use crate::codec::subscribe::Options;
use crate::message::Message;
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
    /// reached, is counted.
    pub(crate) fn keeps(&self, tenant: &Tenant, topic: &str, retain: bool) -> bool {
        let keeps = retain && tenant.retained.has_room(topic);
        if retain && !keeps {
            self.count_dropped("retained_full");
        }
        keeps
    }

    /// Sends the retained messages that match a filter to a new subscription. The queue takes all
    /// of them: each is held once, in however many queues it waits.
    pub(crate) fn send_retained(
        &self,
        tenant: &Tenant,
        session: &Session,
        filter: &str,
        options: Options,
        id: Option<u32>,
    ) {
        let capacity = self.config.max_queued_messages + self.config.max_retained_messages;
        for message in tenant.retained.matching(filter) {
            let qos = message.qos.min(options.qos);
            let queued = Queued { message, qos, retain: true, subscription_ids: id.into_iter().collect() };
            self.push(session, queued, capacity);
        }
    }

    fn push(&self, session: &Session, queued: Queued, capacity: usize) {
        match session.push(queued, capacity) {
            Push::Queued | Push::Over => {}
            Push::Full => self.count_dropped("queue_full"),
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
