//! From a message to its subscribers.

use std::sync::Arc;

use crate::Broker;
use crate::config::QueueFull;
use crate::message::Message;
use crate::pending_wills;
use crate::queue::{Bounds, Dropped, Queued};
use crate::retained::Walk;
use crate::session::{Push, Session};
use crate::tenant::Tenant;
use crate::trie::Entry;
use door::Inbox;
use door::quota::DeviceMeter;

/// Queues that give way for one message.
const GIVE_WAY: usize = 32;

/// A subscriber of a message.
struct Taker {
    session: Arc<Session>,
    queued: Queued,
    /// It is the member of a shared subscription without one that is connected.
    is_holder: bool,
}

/// The subscribers of a message.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Routed {
    /// All of them.
    pub(crate) takers: usize,
    /// The ones whose queues were full.
    pub(crate) full: usize,
}

impl<I: Inbox> Broker<I> {
    /// Puts a message into the queue of each of the tenant's subscribers, once for each, and keeps
    /// a retained one.
    pub(crate) fn route(&self, tenant: &Tenant, message: &Arc<Message>, from: &str) -> Routed {
        if message.retain {
            tenant.retained.set(message);
        }
        let mut takers: Vec<Taker> = Vec::new();
        tenant.trie.matches(&message.topic, |entry, chosen| {
            if entry.options.no_local && *entry.client == *from {
                return;
            }
            let mut queued = queued(message, entry);
            queued.share = chosen.map(|chosen| Arc::clone(chosen.filter));
            let is_holder = chosen.is_some_and(|chosen| !chosen.is_connected);
            takers.push(Taker { session: Arc::clone(&entry.subscriber), queued, is_holder });
        });
        merge(&mut takers);
        let count = u32::try_from(takers.len()).unwrap_or(u32::MAX);
        let mut routed = Routed { takers: takers.len(), full: 0 };
        if takers.is_empty() {
            return routed;
        }
        // The memory of retained messages is not that of queues.
        let shared = match message.retain {
            true => self.copy(&message.topic, &message.payload, message.qos, false, &message.properties),
            false => Some(Arc::clone(message)),
        };
        let Some(shared) = shared else {
            self.lose(tenant, &message.topic, message.qos);
            return Routed { full: routed.takers, ..routed };
        };
        let bounds = self.bounds();
        for Taker { session, mut queued, is_holder } in takers {
            queued.message = Arc::clone(&shared);
            queued.takers = count;
            let share = queued.share.clone();
            let pushed = self.push(&session, queued, &bounds);
            routed.full += usize::from(matches!(pushed, Push::Full | Push::NoMemory));
            if is_holder && let Some(share) = share {
                self.note_holder(tenant, &share, &session.client);
            }
        }
        routed
    }

    /// The bounds of each queue.
    pub(crate) fn bounds(&self) -> Bounds {
        let config = &self.config;
        Bounds { messages: config.max_queued_messages, bytes: config.max_queued_bytes, when_full: config.queue_full }
    }

    /// True when a message is to be kept, false when that was not asked for.
    ///
    /// # Errors
    /// The limit that is reached, which is counted.
    pub(crate) fn keeps(
        &self,
        tenant: &Tenant,
        meter: Option<&DeviceMeter>,
        (topic, payload): (&str, &[u8]),
        retain: bool,
    ) -> Result<bool, &'static str> {
        if !retain {
            return Ok(false);
        }
        let is_own = topic.starts_with(pending_wills::OWN);
        let refusal = if is_own { Some("not retained: the topic is reserved") } else { tenant.retained.refusal(topic) };
        if let Some(limit) = refusal {
            self.count_dropped("retained_full");
            return Err(limit);
        }
        if !self.may_retain(tenant, meter, topic, payload) {
            return Err("not retained: the limit retained_messages of the tenant is reached");
        }
        Ok(true)
    }

    /// Copies a message for subscribers, into the retained messages when `keep`. None when there is
    /// no memory for it, which is counted. Queues give way before that.
    pub(crate) fn copy(
        &self,
        topic: &str,
        payload: &[u8],
        qos: u8,
        keep: bool,
        properties: &[u8],
    ) -> Option<Arc<Message>> {
        let bytes = topic.len() + payload.len() + properties.len();
        let copy = match payload {
            // It makes room.
            [] if keep => Ok(Message::new(topic, payload, qos, keep, properties)),
            _ if keep => Message::within(&self.memory.retained, topic, payload, qos, keep, properties),
            _ => {
                self.make_way(bytes);
                Message::within(&self.memory.sessions, topic, payload, qos, keep, properties)
            }
        };
        match copy {
            Ok(message) => Some(Arc::new(message)),
            Err(_) => {
                self.count_dropped(if keep { "retained_full" } else { "memory" });
                None
            }
        }
    }

    /// Ends the sessions that would have got a message of QoS 1 or 2 for which there is no memory,
    /// unless messages are dropped by choice.
    pub(crate) fn lose(&self, tenant: &Tenant, topic: &str, qos: u8) {
        if qos == 0 || self.config.queue_full != QueueFull::EndSession {
            return;
        }
        let mut losers = Vec::new();
        tenant.trie.matches(topic, |entry, _| {
            if entry.options.qos > 0 {
                losers.push(Arc::clone(&entry.subscriber));
            }
        });
        losers.iter().for_each(Session::lose);
    }

    /// Lets the queues that hold most give way, while there is no memory for `bytes` more.
    fn make_way(&self, bytes: usize) {
        for _ in 0..GIVE_WAY {
            if !self.memory.is_short(bytes) {
                return;
            }
            let Some(heaviest) = self.memory.heavy.heaviest() else { return };
            let dropped = heaviest.give_way(self.config.queue_full);
            self.metrics.dropped("memory").inc_by(dropped.others);
            self.metrics.dropped("memory_qos0").inc_by(dropped.qos0);
            if dropped.others > 0 {
                tracing::warn!(
                    client = %heaviest.client,
                    "dropped {} messages that waited for a client: it held most of the memory of all queues, and that \
                     is used up (a share of `memory.max_bytes`)", dropped.others
                );
            }
        }
    }

    /// Queues a retained message for a new subscription.
    pub(crate) fn send_retained(&self, session: &Arc<Session>, message: Arc<Message>, walk: &Walk) {
        let qos = message.qos.min(walk.options.qos);
        let subscription_ids = walk.id.into_iter().collect();
        let queued = Queued { message, qos, retain: true, subscription_ids, share: None, takers: 1, charge: None };
        // The walk waits while the queue is longer than it makes it.
        self.push(session, queued, &Bounds::NONE);
    }

    pub(crate) fn push(&self, session: &Arc<Session>, queued: Queued, bounds: &Bounds) -> Push {
        self.make_way(0);
        let is_qos0 = queued.qos == 0;
        let (push, Dropped { qos0, others }) = session.push(queued, bounds);
        match push {
            Push::Queued | Push::Over => {}
            Push::Full if is_qos0 => self.count_dropped("queue_full_qos0"),
            Push::Full => self.count_dropped("queue_full"),
            Push::NoMemory => {
                self.count_dropped(if is_qos0 { "memory_qos0" } else { "memory" });
                if !is_qos0 && self.config.queue_full == QueueFull::EndSession {
                    session.lose();
                }
            }
            Push::Offline => self.count_dropped("offline_qos0"),
        }
        if qos0 > 0 {
            self.metrics.dropped("queue_full_qos0").inc_by(qos0);
        }
        if others > 0 {
            self.metrics.dropped("queue_full").inc_by(others);
        }
        push
    }

    pub(crate) fn count_dropped(&self, reason: &'static str) {
        self.metrics.dropped(reason).inc();
    }
}

/// A message for a subscription.
pub(crate) fn queued(message: &Arc<Message>, entry: &Entry<Arc<Session>>) -> Queued {
    Queued {
        message: Arc::clone(message),
        qos: message.qos.min(entry.options.qos),
        retain: message.retain && entry.options.retain_as_published,
        subscription_ids: entry.id.into_iter().collect(),
        share: None,
        takers: 1,
        charge: None,
    }
}

/// Merges the messages of overlapping subscriptions of one client into one, with the highest QoS
/// and all subscription ids. The message of a shared subscription stays one of its own: it is the
/// group's, and may go to another member.
fn merge(takers: &mut Vec<Taker>) {
    if takers.len() < 2 {
        return;
    }
    takers.sort_by_key(|taker| (taker.queued.share.is_some(), Arc::as_ptr(&taker.session).addr()));
    takers.dedup_by(|later, kept| {
        let same =
            Arc::ptr_eq(&later.session, &kept.session) && later.queued.share.is_none() && kept.queued.share.is_none();
        if same {
            let (kept, later) = (&mut kept.queued, &mut later.queued);
            kept.qos = kept.qos.max(later.qos);
            kept.retain |= later.retain;
            kept.subscription_ids.append(&mut later.subscription_ids);
        }
        same
    });
}
