//! From a message to its subscribers.

mod merge;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use foldhash::fast::RandomState;
use hashbrown::HashSet;

use crate::Broker;
use crate::config::QueueFull;
use crate::durable::{Duty, Handed, MessageRecord, Put, TakerRecord};
use crate::fleet::{self, Placed, Source, Submitter};
use crate::message::Message;
use crate::pending_wills;
use crate::queue::{Bounds, Dropped, Queued};
use crate::retained::Walk;
use crate::session::{Lasting, Place, Push, Session};
use crate::tenant::Tenant;
use crate::trie::Entry;
use door::quota::DeviceMeter;
use door::{Inbox, Intake, Retained};
use merge::merge;

/// Queues that give way for one message.
const GIVE_WAY: usize = 32;
/// Sessions in one record of a message.
const MOST_TAKERS: usize = 1000;

/// A subscriber of a message.
#[derive(Debug)]
pub(crate) struct Taker {
    pub(crate) session: Arc<Session>,
    pub(crate) qos: u8,
    retain: bool,
    subscription_ids: Vec<u32>,
    /// Filter of the shared subscription that it was chosen for.
    pub(crate) share: Option<Arc<str>>,
    /// It is the member of a shared subscription without one that is connected.
    is_holder: bool,
    duty: Option<Duty>,
}

impl Taker {
    /// A subscriber of one subscription.
    fn of(entry: &Entry<Arc<Session>>, qos: u8, retain: bool) -> Self {
        Self {
            session: Arc::clone(&entry.subscriber),
            qos: qos.min(entry.options.qos),
            retain: retain && entry.options.retain_as_published,
            subscription_ids: entry.id.into_iter().collect(),
            share: None,
            is_holder: false,
            duty: None,
        }
    }

    /// The subscriber of a retained message, for a new subscription.
    pub(crate) fn walking(session: &Arc<Session>, message: &Message, walk: &Walk) -> Self {
        let subscription_ids = walk.id.into_iter().collect();
        Self::alone(session, message.qos.min(walk.options.qos), true, subscription_ids)
    }

    /// Returns the session with the message for its queue, one of `takers`.
    fn queue(self, message: &Arc<Message>, takers: u32) -> (Arc<Session>, Queued) {
        let Self { session, qos, retain, subscription_ids, share, duty, .. } = self;
        let message = Arc::clone(message);
        (session, Queued { message, qos, retain, subscription_ids, share, takers, duty, charge: None })
    }

    /// How the session gets the message, for the store of a fleet.
    pub(crate) fn placed(self) -> Placed {
        let is_for_connected = self.share.is_some() && !self.is_holder;
        let (qos, retain, ids, share) = (self.qos, self.retain, self.subscription_ids, self.share);
        Placed { qos, retain, ids, share, is_for_connected }
    }

    /// A session that gets a message without regard to its subscriptions.
    pub(crate) fn alone(session: &Arc<Session>, qos: u8, retain: bool, subscription_ids: Vec<u32>) -> Self {
        let (share, duty) = (None, None);
        Self { session: Arc::clone(session), qos, retain, subscription_ids, share, is_holder: false, duty }
    }
}

/// A message on its way to subscribers, until it is durable.
#[derive(Debug)]
pub(crate) struct Dispatch {
    pub(crate) message: Arc<Message>,
    pub(crate) takers: Vec<Taker>,
    /// It is retained already, and goes to a new subscription of this QoS.
    pub(crate) walk: Option<u8>,
    /// Client that sent it.
    pub(crate) from: Arc<str>,
    /// In a fleet, what is noted with it in the store.
    pub(crate) source: Option<Source>,
    /// It is among the retained messages, and sessions that have subscribed since are subscribers.
    pub(crate) is_kept: bool,
    /// Its client has left this node, and may have sent newer ones to another.
    pub(crate) is_late: bool,
    /// In a fleet, the connection that waits until sessions have it.
    pub(crate) submitter: Option<Arc<dyn Submitter>>,
}

impl Dispatch {
    /// A message from a client.
    pub(crate) fn new(message: Arc<Message>, takers: Vec<Taker>, from: &Arc<str>) -> Self {
        let (walk, source, submitter, is_kept, is_late) = Default::default();
        Self { message, takers, walk, from: Arc::clone(from), source, is_kept, is_late, submitter }
    }
}

/// The subscribers of a message.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Routed {
    /// All of them.
    pub(crate) takers: usize,
    /// The ones whose queues were full.
    pub(crate) full: usize,
    /// In a fleet, the ticket under which sessions that last have it; 0 when there is none.
    pub(crate) ticket: u64,
    /// In a fleet, and of QoS 1 or 2, it is on its way to subscribers at other nodes.
    pub(crate) is_forwarded: bool,
}

impl<I: Inbox> Broker<I> {
    /// Returns the subscribers of a message from client `from`, each of them once.
    pub(crate) fn takers(&self, tenant: &Tenant, topic: &str, (qos, retain): (u8, bool), from: &str) -> Vec<Taker> {
        let mut takers: Vec<Taker> = Vec::new();
        let wanted = |entry: &Entry<Arc<Session>>| entry.subscriber.wants(qos.min(entry.options.qos), qos);
        tenant.trie.matches_of(topic, wanted, |entry, chosen| {
            if entry.options.no_local && *entry.client == *from {
                return;
            }
            let mut taker = Taker::of(entry, qos, retain);
            taker.share = chosen.map(|chosen| Arc::clone(chosen.filter));
            taker.is_holder = chosen.is_some_and(|chosen| !chosen.is_connected);
            takers.push(taker);
        });
        merge(&mut takers);
        takers
    }

    /// Stages a message of QoS 1 or 2 for the sessions that outlast the process, together with the
    /// message itself. True when there is one. Those of a fleet get it when it is durable.
    pub(crate) fn store_for_sessions(
        &self,
        intake: &mut impl Intake,
        tenant: &Arc<str>,
        (topic, payload): (&str, &[u8]),
        properties: &[u8],
        takers: &mut [Taker],
    ) -> bool {
        let mut lasting: Vec<&mut Taker> =
            takers.iter_mut().filter(|taker| taker.qos > 0 && taker.session.lasting() == Lasting::Log).collect();
        for part in lasting.chunks_mut(MOST_TAKERS) {
            let Put { topic, payload, qos, properties, .. } = self.put(tenant, (topic, payload), properties, part);
            intake.retain(&Retained { topic: &topic, payload: &payload, qos, properties: &properties });
        }
        !lasting.is_empty()
    }

    /// Makes the record of a message, and numbers the message in each session. In place of another
    /// message that is stored for its taker, it has the record and the number of that one.
    fn put(
        &self,
        tenant: &Arc<str>,
        (topic, payload): (&str, &[u8]),
        properties: &[u8],
        takers: &mut [&mut Taker],
    ) -> Put {
        let before = match &mut *takers {
            [taker] => taker.duty.take_if(|duty| duty.message.is_some()).map(Duty::leave),
            _ => None,
        };
        let (mut numbered, stored) = match before {
            Some((ledger, number, Some(stored))) => (Some((ledger, number)), stored),
            _ => (None, self.journal.stored(tenant, self.last_message.fetch_add(1, Ordering::Relaxed) + 1)),
        };
        let key = self.journal.keys.message(stored.id());
        let mut record = MessageRecord { topic: topic.into(), takers: Vec::with_capacity(takers.len()) };
        for taker in takers {
            // A session that has ended meanwhile gets nothing.
            let Some((ledger, number)) = numbered.take().or_else(|| taker.session.number()) else { continue };
            record.takers.push(TakerRecord {
                session: ledger.session,
                number,
                qos: taker.qos,
                retain: taker.retain,
                ids: taker.subscription_ids.clone(),
                share: taker.share.as_deref().map(str::to_owned),
            });
            taker.duty = Some(Duty { ledger, number, message: Some(Arc::clone(&stored)) });
        }
        Put { topic: key, payload: record.encode(payload), qos: 0, properties: properties.to_vec(), is_bound: false }
    }

    /// Puts a message that is durable into the queue of each of its subscribers, and keeps a
    /// retained one.
    pub(crate) fn route(&self, tenant: &Tenant, mut dispatch: Dispatch) -> Routed {
        let before = self.keep(tenant, &mut dispatch);
        let Dispatch { message, mut takers, walk, from, source, submitter, .. } = dispatch;
        // Those of a message that no connection has staged once more.
        let lasts = |taker: &mut Taker| taker.qos > 0 && taker.session.lasting() == Lasting::Log;
        for taker in takers.extract_if(before.., lasts) {
            self.give_to(&tenant.id, &message, taker, None);
        }
        let is_walk = walk.is_some();
        if is_walk && tenant.retained.get(&message.topic).is_none() {
            // It was cleared meanwhile.
            return Routed::default();
        }
        let all = takers.len();
        let sent = fleet::Outgoing { message: &message, from: &from, source, is_walk, submitter };
        let fleet::Sent { ticket, is_forwarded } =
            self.fleet.as_ref().map(|fleet| fleet.send(&tenant.id, sent, &mut takers)).unwrap_or_default();
        let here = self.route_here(tenant, &message, takers, is_walk);
        Routed { takers: all, ticket, is_forwarded, ..here }
    }

    /// Puts a message that is durable into the queue of each of these subscribers of this node.
    pub(crate) fn route_here(
        &self,
        tenant: &Tenant,
        message: &Arc<Message>,
        takers: Vec<Taker>,
        is_walk: bool,
    ) -> Routed {
        let count = u32::try_from(takers.len()).unwrap_or(u32::MAX);
        let mut routed = Routed { takers: takers.len(), ..Routed::default() };
        if takers.is_empty() {
            return routed;
        }
        // The memory of retained messages is not that of queues.
        let shared = match message.retain && !is_walk {
            true => self.copy(&message.topic, &message.payload, message.qos, false, &message.properties),
            false => Some(Arc::clone(message)),
        };
        let Some(shared) = shared else {
            self.lose(tenant, &message.topic, message.qos);
            return Routed { full: routed.takers, ..routed };
        };
        for taker in takers {
            let is_holder = taker.is_holder;
            let (session, queued) = taker.queue(&shared, count);
            let bounds = if is_walk { Bounds::NONE } else { self.bounds(&session) };
            let pushed = self.put_into(tenant, &session, queued, is_holder, &bounds);
            routed.full += usize::from(matches!(pushed, Push::Full | Push::NoMemory));
        }
        routed
    }

    /// Puts a message into the queue of a session of this node. One of a shared subscription may go
    /// to another member.
    pub(crate) fn put_into(
        &self,
        tenant: &Tenant,
        session: &Arc<Session>,
        queued: Queued,
        mut is_holder: bool,
        bounds: &Bounds,
    ) -> Push {
        let (share, mut queued) = (queued.share.clone(), queued);
        if share.is_some() && !is_holder {
            let left = match self.push_connected(session, queued, bounds) {
                Ok(pushed) => return pushed,
                Err(queued) => queued,
            };
            // It has left since it was chosen: another member gets the message, or it does when it
            // is back and there is no other.
            let Some(back) = self.hand_one_on(tenant, &session.client, left) else { return Push::Queued };
            (queued, is_holder) = (back, true);
        }
        let pushed = self.push(session, queued, bounds);
        if is_holder && let Some(share) = share {
            self.note_holder(tenant, &share, &session.client);
        }
        pushed
    }

    /// Keeps a retained message that is durable, and adds the sessions that have subscribed since
    /// it arrived: they looked for a retained message before it was there. Returns how many
    /// subscribers it had before.
    pub(crate) fn keep(&self, tenant: &Tenant, dispatch: &mut Dispatch) -> usize {
        let Dispatch { message, takers, walk, from, is_kept, is_late, .. } = dispatch;
        let before = takers.len();
        if !message.retain || walk.is_some() || std::mem::replace(is_kept, true) {
            return before;
        }
        match &self.fleet {
            Some(fleet) if *is_late => fleet.keep_newer(tenant, message),
            fleet => {
                tenant.retained.set_next(message);
                if let Some(fleet) = fleet.as_ref().filter(|_| message.payload.is_empty()) {
                    fleet.cleared.note(&tenant.id, &message.topic, message.at);
                }
            }
        }
        // A session of a fleet may be at this node by now, and was at another one.
        let key = |taker: &Taker| match taker.session.shared_id() {
            Some(id) => (id, 0),
            None => (0, Arc::as_ptr(&taker.session).addr()),
        };
        let known: HashSet<(u64, usize), RandomState> = takers.iter().map(key).collect();
        let later = self.takers(tenant, &message.topic, (message.qos, message.retain), from);
        takers.extend(later.into_iter().filter(|taker| taker.share.is_none() && !known.contains(&key(taker))));
        before
    }

    /// Gives a message of a shared subscription to another member. Returns it when that one has
    /// been chosen as it was connected, and has left meanwhile.
    pub(crate) fn give(
        &self,
        tenant: &Tenant,
        mut before: Queued,
        (entry, is_connected): (&Entry<Arc<Session>>, bool),
    ) -> Option<Queued> {
        let (share, is_holder) = (before.share.clone(), !is_connected);
        let taker = Taker { share, is_holder, ..Taker::of(entry, before.message.qos, false) };
        let from = before.duty.take();
        let (session, queued, from) = self.give_elsewhere(&tenant.id, &before.message, taker, from)?;
        let bounds = self.bounds(&session);
        if !is_connected {
            self.push(&session, queued, &bounds);
        } else if self.push_connected(&session, queued, &bounds).is_err() {
            return Some(Queued { duty: from, ..before });
        }
        None
    }

    /// The subscribers of a message of another node: those of this one, but for sessions that have
    /// it from the store. Of a shared subscription, one member.
    pub(crate) fn takers_here(&self, tenant: &Tenant, of: &fleet::Forwarded) -> Vec<Taker> {
        let fleet::SharedMessage { topic, qos, retain, .. } = &*of.message;
        let is_stored = |session: &Session, qos: u8| qos > 0 && session.lasting() == Lasting::Fleet;
        let wanted = |entry: &Entry<Arc<Session>>| {
            let is_own = entry.client.starts_with(Self::INTERNAL) || entry.options.no_local && entry.client == of.from;
            *entry.subscriber.place() == Place::Here && !is_own
        };
        let mut takers = Vec::new();
        match &of.share {
            Some(share) => {
                let wanted = |entry: &Entry<Arc<Session>>| {
                    wanted(entry) && !is_stored(&entry.subscriber, (*qos).min(entry.options.qos))
                };
                if let Some((entry, is_connected)) = tenant.trie.choose(share, wanted) {
                    let taker = Taker::of(&entry, *qos, *retain);
                    takers.push(Taker { share: Some(Arc::clone(share)), is_holder: !is_connected, ..taker });
                }
            }
            None => {
                tenant.trie.matches_of(topic, wanted, |entry, chosen| {
                    if chosen.is_none() {
                        takers.push(Taker::of(entry, *qos, *retain));
                    }
                });
                merge(&mut takers);
                // By the highest QoS of a session's subscriptions: it gets one copy.
                takers.retain(|taker| !is_stored(&taker.session, taker.qos));
            }
        }
        takers
    }

    /// Gives a message that another session had to this one; to a session in the log a moment
    /// later, when that is durable: until then it keeps the place that it came `from`.
    pub(crate) fn give_to(&self, tenant: &Arc<str>, message: &Arc<Message>, taker: Taker, from: Option<Duty>) {
        if let Some((session, queued, _from)) = self.give_elsewhere(tenant, message, taker, from) {
            self.push(&session, queued, &self.bounds(&session));
        }
    }

    /// The same, but for a session of this process: what is left to be queued, and the place that
    /// it is to keep until then.
    fn give_elsewhere(
        &self,
        tenant: &Arc<str>,
        message: &Arc<Message>,
        mut taker: Taker,
        from: Option<Duty>,
    ) -> Option<(Arc<Session>, Queued, Option<Duty>)> {
        if let Some(fleet) = &self.fleet {
            let from = Arc::clone(&taker.session.client);
            let sent = fleet::Outgoing { message, from: &from, source: None, is_walk: true, submitter: None };
            let mut takers = vec![taker];
            fleet.send(tenant, sent, &mut takers);
            taker = takers.pop()?;
        }
        if taker.qos > 0 && taker.session.lasting() == Lasting::Log {
            let Message { topic, payload, properties, .. } = &**message;
            let put = self.put(tenant, (topic, payload), properties, &mut [&mut taker]);
            let (session, queued) = taker.queue(message, 1);
            self.journal.hand(tenant, Handed { put, session, queued, from });
            return None;
        }
        let (session, queued) = taker.queue(message, 1);
        Some((session, queued, from))
    }

    /// The bounds of a session's queue. That of a bridge has bytes only: the other broker may be
    /// away for long.
    pub(crate) fn bounds(&self, session: &Session) -> Bounds {
        let config = &self.config;
        if session.client.starts_with(Self::INTERNAL) {
            let bytes = config.max_bridge_bytes;
            return Bounds { messages: usize::MAX, bytes, when_full: config.queue_full };
        }
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
    pub(crate) fn make_way(&self, bytes: usize) {
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
    pub(crate) fn send_retained(&self, message: &Arc<Message>, taker: Taker) {
        let (session, queued) = taker.queue(message, 1);
        // The walk waits while the queue is longer than it makes it.
        self.push(&session, queued, &Bounds::NONE);
    }

    pub(crate) fn push(&self, session: &Arc<Session>, queued: Queued, bounds: &Bounds) -> Push {
        self.make_way(0);
        let is_qos0 = queued.qos == 0;
        let pushed = session.push(queued, bounds, self.long_queue());
        self.note_pushed(session, is_qos0, pushed)
    }

    /// The same, as long as a connection has the session. Returns the message otherwise.
    fn push_connected(&self, session: &Arc<Session>, queued: Queued, bounds: &Bounds) -> Result<Push, Queued> {
        self.make_way(0);
        let is_qos0 = queued.qos == 0;
        let pushed = session.push_connected(queued, bounds, self.long_queue())?;
        Ok(self.note_pushed(session, is_qos0, pushed))
    }

    fn note_pushed(&self, session: &Arc<Session>, is_qos0: bool, (push, dropped): (Push, Dropped)) -> Push {
        let Dropped { qos0, others } = dropped;
        match push {
            Push::Queued | Push::Over => {}
            Push::Long(ref tenant) => self.pager.list(tenant, Arc::clone(session)),
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
