//! Sessions of earlier starts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hashbrown::HashMap;
use model::Nanos;

use super::ledger::{Duty, Ledger, StoredMessage};
use super::numbers::Numbers;
use super::outline::{OfSession, Open as OpenSession, Shared, Waiting};
use super::record::{
    self, Keys, MESSAGES, MessageRecord, PROGRESS, Progress, RECEIPTS, RELEASED, ReleasedRecord, SESSIONS,
    SUBSCRIPTIONS, SessionRecord, Subscription, TakerRecord,
};
use crate::Broker;
use crate::RetainedMessage;
use crate::archive::Run;
use crate::codec::subscribe;
use crate::config::QueueFull;
use crate::message::Message;
use crate::queue::{Bounds, Queue, Queued};
use crate::route::Taker;
use crate::session::{Receipt, Session, State};
use crate::tenant::Tenant;
use crate::trie::{Entry, MAX_LEVELS};
use door::Inbox;

type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// The records of sessions of earlier starts.
#[derive(Debug, Default)]
pub(crate) struct Records {
    sessions: BTreeMap<u64, Found>,
    /// In the order of their publication.
    messages: BTreeMap<u64, RetainedMessage>,
}

/// The records of one session.
#[derive(Debug)]
struct Found {
    tenant: Arc<str>,
    /// None when the session has ended.
    record: Option<SessionRecord>,
    subscriptions: Vec<(String, Subscription)>,
    progress: Progress,
    /// There is a record of its progress.
    has_progress: bool,
    released: Vec<u64>,
    receipts: Vec<u16>,
    /// Topics of its records.
    topics: Vec<String>,
}

impl Found {
    fn new(tenant: &Arc<str>) -> Self {
        let (record, subscriptions, progress, has_progress, released, receipts, topics) = Default::default();
        Self { tenant: Arc::clone(tenant), record, subscriptions, progress, has_progress, released, receipts, topics }
    }

    fn client(&self) -> Option<Arc<str>> {
        Some(self.record.as_ref()?.client.as_str().into())
    }

    /// True when its time has passed while the process did not run.
    fn is_over(&self, now: Nanos) -> bool {
        self.record.as_ref().is_none_or(|record| record.lasts(now).is_zero())
    }

    /// Adds a record; `rest` follows the id in its topic. None when it cannot be read.
    fn add(&mut self, kind: &str, rest: &str, payload: &[u8]) -> Option<()> {
        match kind {
            SESSIONS => self.record = Some(record::decode(payload)?),
            SUBSCRIPTIONS => self.subscriptions.push((rest.to_owned(), record::decode(payload)?)),
            PROGRESS => {
                self.progress.merge(record::decode(payload)?);
                self.has_progress = true;
            }
            RELEASED => {
                let ReleasedRecord { numbers, progress } = record::decode(payload)?;
                self.released = numbers;
                self.progress.merge(progress);
            }
            _ => self.receipts.push(rest.parse().ok()?),
        }
        Some(())
    }
}

/// Separates the records of this node's sessions from the others.
pub(crate) fn sort(messages: Vec<RetainedMessage>, keys: &Keys) -> (Vec<RetainedMessage>, Records) {
    const OF_SESSIONS: [&str; 5] = [SESSIONS, SUBSCRIPTIONS, PROGRESS, RELEASED, RECEIPTS];
    let mut earlier = Records::default();
    let mut rest = Vec::new();
    for message in messages {
        if let Some((id, _)) = keys.read(MESSAGES, &message.topic) {
            earlier.messages.insert(id, message);
            continue;
        }
        let read = |kind: &&'static str| keys.read(kind, &message.topic).map(|(id, rest)| (*kind, id, rest));
        let Some((kind, id, behind)) = OF_SESSIONS.iter().find_map(read) else {
            rest.push(message);
            continue;
        };
        let found = earlier.sessions.entry(id).or_insert_with(|| Found::new(&message.tenant));
        if found.add(kind, behind, &message.payload).is_none() {
            tracing::warn!(topic = %message.topic, "cannot read a record of a session of an earlier start");
        }
        found.topics.push(message.topic);
    }
    (rest, earlier)
}

/// A message of an earlier start with the sessions that do not have it.
struct Open {
    tenant: Arc<str>,
    id: u64,
    /// None when there is no memory for it.
    message: Option<Arc<Message>>,
    takers: Vec<TakerRecord>,
}

/// Sessions that clients have by now in place of earlier ones, by the id of the earlier one.
type Successors = Map<u64, (Arc<Session>, Found)>;

/// Sessions that ended right before the process did, or meanwhile, and the messages that their
/// clients have.
type Ended = Map<u64, Progress>;

/// True for a message of a shared subscription that goes to another member, as its session has
/// ended. One of QoS 2 that was sent goes to no other (MQTT-4.8.2-5).
fn is_left_behind(taker: &TakerRecord, ended: &Ended) -> bool {
    let is_open =
        |progress: &Progress| !progress.has(taker.number) && (taker.qos < 2 || taker.number > progress.sent_to);
    taker.share.is_some() && ended.get(&taker.session).is_some_and(is_open)
}

/// A message of a shared subscription whose session has ended, and its record, which is cleared
/// when another member has it.
struct LeftBehind {
    tenant: Arc<str>,
    share: Arc<str>,
    message: Arc<Message>,
    qos: u8,
    _stored: Arc<StoredMessage>,
}

/// A session that is being restored.
struct Restoring {
    tenant: Arc<Tenant>,
    session: Arc<Session>,
    ledger: Arc<Ledger>,
    found: Found,
    /// Messages that the client has, by number.
    released: Map<u64, Duty>,
    /// Messages that are not in memory.
    waiting: Option<OfSession>,
}

/// A session that a client has by now, and the messages of an earlier one that the archive has.
#[derive(Debug)]
pub(crate) struct Successor {
    pub(crate) session: Arc<Session>,
    pub(crate) messages: Run,
}

impl<I: Inbox> Broker<I> {
    /// Restores the sessions of earlier starts, and clears what is left of those that have ended. A
    /// client that has connected since keeps the session that it has, and gets the messages that
    /// wait in the other.
    pub(crate) fn restore_sessions(&self, earlier: Records, mut waiting: Waiting) -> Vec<Successor> {
        let Records { sessions, messages } = earlier;
        let last = [sessions.last_key_value().map(|(id, _)| *id), messages.last_key_value().map(|(id, _)| *id)];
        let last = last.into_iter().chain([waiting.last()]);
        if let Some(last) = last.flatten().max() {
            self.last_session.fetch_max(last, Ordering::Relaxed);
            self.last_message.fetch_max(last, Ordering::Relaxed);
        }
        let (mut successors, mut ended) = (Successors::default(), Ended::default());
        let sessions = self.newest(sessions, &mut successors, &mut ended);
        let waits = |taker: &TakerRecord| {
            let is_open = |found: &Found| !found.progress.has(taker.number);
            // The client has forgotten the exchange of one that it has.
            let is_left = |(_, found): &(_, Found)| is_open(found) && !found.released.contains(&taker.number);
            let of_session = sessions.get(&taker.session).is_some_and(is_open);
            of_session || successors.get(&taker.session).is_some_and(is_left) || is_left_behind(taker, &ended)
        };
        let messages: Vec<Open> =
            messages.into_iter().filter_map(|(id, record)| self.open(id, record, &waits)).collect();
        let mut numbers: Map<u64, Numbers> = Map::default();
        for taker in messages.iter().flat_map(|open| &open.takers) {
            numbers.entry(taker.session).or_default().insert(taker.number);
        }
        let mut shared = Shared::default();
        let restore = |(id, found): (u64, Found)| {
            let mut numbers = numbers.remove(&id).unwrap_or_default();
            waiting.numbers(id, |number| !found.progress.has(number), &mut numbers);
            (id, Restoring { waiting: waiting.take(id), ..self.restore_session(id, found, &numbers) })
        };
        let mut restored: Map<u64, Restoring> = sessions.into_iter().map(restore).collect();
        let mut left_behind = Vec::new();
        for open in messages {
            self.restore_message(open, &mut restored, &successors, &mut shared, &mut left_behind);
        }
        restored.values_mut().for_each(|restoring| restoring.queue_archived(u64::MAX, &mut shared));
        let follow = |(id, (session, found)): (u64, (Arc<Session>, Found))| {
            let mut of_session = waiting.take(id)?;
            let mut messages = Run::new(self.ended_ledger(id, &found), &self.memory.sessions, Arc::default());
            let Found { progress, released, .. } = &found;
            let of = OpenSession { ledger: &Arc::clone(messages.ledger()), progress, released };
            of_session.queue(&of, u64::MAX, &mut messages, &mut shared);
            (messages.len() > 0).then_some(Successor { session, messages })
        };
        let followed = successors.into_iter().filter_map(follow).collect();
        waiting.clear(&self.journal, &mut shared);
        if !restored.is_empty() {
            tracing::info!("restored {} sessions of earlier starts", restored.len());
        }
        for session in restored.into_values() {
            self.finish_restore(session);
        }
        // To members, which there are now.
        for LeftBehind { tenant, share, message, qos, _stored } in left_behind {
            let queued = Queued { share: Some(share), ..Queued::new(message, qos) };
            self.hand_on(&self.tenants.get(&tenant), &"".into(), vec![queued]);
        }
        followed
    }

    /// The newest session of each client that has none by now. Records of others are cleared; those
    /// of clients that have continued without knowing are among the `successors`, and the `ended`
    /// ones may have messages of shared subscriptions.
    fn newest(
        &self,
        sessions: BTreeMap<u64, Found>,
        successors: &mut Successors,
        ended: &mut Ended,
    ) -> BTreeMap<u64, Found> {
        let mut newest: Map<(Arc<str>, Arc<str>), u64> = Map::default();
        for (id, found) in &sessions {
            if let Some(client) = found.client() {
                newest.insert((Arc::clone(&found.tenant), client), *id);
            }
        }
        let (mut kept, now) = (BTreeMap::new(), model::clock::now());
        for (id, mut found) in sessions {
            let client = found.client().filter(|_| !found.is_over(now));
            let client = client.filter(|client| !self.unread.has_begun(&found.tenant, client));
            let client =
                client.filter(|client| newest.get(&(Arc::clone(&found.tenant), Arc::clone(client))) == Some(&id));
            let live = client.as_ref().and_then(|client| self.tenants.get(&found.tenant).sessions.get(client));
            if client.is_some() && live.is_none() {
                kept.insert(id, found);
                continue;
            }
            found.topics.drain(..).for_each(|topic| self.journal.clear(&found.tenant, topic));
            if let Some(live) = live {
                successors.insert(id, (live, found));
            } else if found.record.is_some() || found.has_progress {
                ended.insert(id, found.progress);
            }
        }
        kept
    }

    /// Reads a message. None when no session waits for it: then its record is cleared.
    fn open(&self, id: u64, stored: RetainedMessage, waits: &impl Fn(&TakerRecord) -> bool) -> Option<Open> {
        let RetainedMessage { tenant, topic: key, payload, properties, published, .. } = stored;
        let Some((MessageRecord { topic, mut takers }, payload)) = MessageRecord::decode(&payload) else {
            tracing::warn!(topic = %key, "cannot read a message of an earlier start");
            return None;
        };
        takers.retain(waits);
        let qos = takers.iter().map(|taker| taker.qos).max();
        let message = Message::within(&self.memory.sessions, &topic, payload, qos.unwrap_or(0), false, &properties);
        let message = message.map(|message| message.published(published, model::clock::now()));
        let is_expired = message.as_ref().is_ok_and(|message| message.seconds_left() == Some(0));
        if takers.is_empty() || is_expired {
            self.journal.clear(&tenant, key);
            return None;
        }
        Some(Open { tenant, id, message: message.ok().map(Arc::new), takers })
    }

    /// The ledger of a session of an earlier start whose messages go to another one.
    fn ended_ledger(&self, id: u64, found: &Found) -> Arc<Ledger> {
        let (tenant, journal) = (Arc::clone(&found.tenant), Arc::clone(&self.journal));
        let ledger = Ledger::restored(id, tenant, journal, &found.progress, &Numbers::default());
        ledger.abandon();
        ledger
    }

    fn restore_session(&self, id: u64, found: Found, open: &Numbers) -> Restoring {
        let tenant = self.tenants.get(&found.tenant);
        let ledger = Ledger::restored(id, Arc::clone(&tenant.id), Arc::clone(&self.journal), &found.progress, open);
        let queue = Queue::new(self.memory.sessions.clone(), Arc::clone(&self.memory.heavy));
        let (mut client, mut lasts, mut expiry_secs) = ("".into(), Duration::ZERO, 0);
        // A session without a record is not restored.
        if let Some(record) = &found.record {
            ledger.resume(record);
            client = record.client.as_str().into();
            (lasts, expiry_secs) = (record.lasts(model::clock::now()), record.expiry_secs);
        }
        let session = Arc::new(Session::restored(client, (expiry_secs, lasts), queue, Arc::clone(&ledger)));
        Restoring { tenant, session, ledger, found, released: Map::default(), waiting: None }
    }

    /// Queues a message, or notes that the client has it.
    fn restore_message(
        &self,
        open: Open,
        sessions: &mut Map<u64, Restoring>,
        successors: &Successors,
        shared: &mut Shared,
        left_behind: &mut Vec<LeftBehind>,
    ) {
        let stored = self.journal.stored(&open.tenant, open.id);
        let count = u32::try_from(open.takers.len()).unwrap_or(u32::MAX);
        for TakerRecord { session, number, qos, retain, ids, share } in open.takers {
            if let Some((live, _)) = successors.get(&session)
                && let Some(message) = &open.message
            {
                self.give_to(&open.tenant, message, Taker::alone(live, qos, retain, ids), None);
                continue;
            }
            let Some(restoring) = sessions.get_mut(&session) else {
                if let (Some(share), Some(message)) = (share, &open.message) {
                    let (tenant, message) = (Arc::clone(&open.tenant), Arc::clone(message));
                    left_behind.push(LeftBehind {
                        tenant,
                        share: share.into(),
                        message,
                        qos,
                        _stored: Arc::clone(&stored),
                    });
                }
                continue;
            };
            restoring.queue_archived(open.id, shared);
            let duty = Duty { ledger: Arc::clone(&restoring.ledger), number, message: Some(Arc::clone(&stored)) };
            if restoring.found.released.contains(&number) {
                restoring.released.insert(number, duty);
                continue;
            }
            let Some(message) = &open.message else {
                self.count_dropped("memory");
                if self.config.queue_full == QueueFull::EndSession {
                    restoring.session.lose();
                }
                continue;
            };
            let duty = Some(duty);
            let share = share.as_deref().map(Into::into);
            let queued = Queued {
                retain,
                subscription_ids: ids,
                share,
                takers: count,
                duty,
                ..Queued::new(Arc::clone(message), qos)
            };
            self.push(&restoring.session, queued, &Bounds::NONE);
        }
    }

    /// Adds a session with its messages to those of its tenant.
    fn finish_restore(&self, restoring: Restoring) {
        let Restoring { tenant, session, found, mut released, .. } = restoring;
        {
            let mut state = session.state();
            let released = found.released.iter().filter_map(|number| released.remove(number));
            restore_exchanges(&mut state, released, &found.progress, found.receipts);
            self.restore_subscriptions(&tenant, &session, &mut state, found.subscriptions);
            for filter in state.shares() {
                tenant.trie.set_connected(filter, &session.client, false);
                if state.holds_shared(filter) {
                    tenant.trie.note_holder(filter, &session.client);
                }
            }
            session.note(&mut state);
        }
        tenant.sessions.add(session);
        self.metrics.sessions.inc();
    }

    /// Adds the subscriptions of a session that continues, as far as there is memory for them. They
    /// come from a store: one that this server would refuse is left out.
    pub(crate) fn restore_subscriptions(
        &self,
        tenant: &Tenant,
        session: &Arc<Session>,
        state: &mut State,
        subscriptions: Vec<(String, Subscription)>,
    ) {
        for (filter, subscription) in subscriptions {
            if !subscribe::is_accepted(&filter) {
                tracing::warn!(
                    client = %session.client,
                    "a stored subscription is left out: its filter is malformed or has more than {MAX_LEVELS} levels"
                );
                continue;
            }
            let (options, id) = subscription.read();
            let (client, subscriber) = (Arc::clone(&session.client), Arc::clone(session));
            if tenant.trie.insert(&filter, Entry { client, subscriber, options, id }).is_err() {
                self.count_dropped("memory");
                tracing::warn!(
                    client = %session.client, %filter,
                    "no memory for a subscription of a session that continues: raise `memory.max_bytes`"
                );
                continue;
            }
            state.subscriptions.insert(filter);
        }
    }
}

impl Restoring {
    /// Queues messages that the archive has, with ids below `to`, or notes that the client has
    /// them.
    fn queue_archived(&mut self, to: u64, shared: &mut Shared) {
        let Self { session, ledger, found, released, waiting, .. } = self;
        let Some(waiting) = waiting else { return };
        let mut state = session.state();
        let Some(mut run) = state.queue.new_run(ledger) else { return };
        let of = OpenSession { ledger, progress: &found.progress, released: &found.released };
        let (duties, bytes) = waiting.queue(&of, to, &mut run, shared);
        released.extend(duties.into_iter().map(|duty| (duty.number, duty)));
        state.queue.push_away(run, bytes);
    }
}

/// Continues the exchanges of a session whose messages are queued: messages that the client has and
/// has not completed, those that may have been sent, and those of the client that it may send
/// again.
pub(crate) fn restore_exchanges(
    state: &mut State,
    released: impl Iterator<Item = Duty>,
    progress: &Progress,
    receipts: Vec<u16>,
) {
    released.for_each(|duty| state.in_flight.restore_release(duty));
    restore_sent(state, progress.sent_at_most());
    for packet_id in receipts {
        state.unreleased.insert(packet_id, Receipt::Stored);
        state.receipts.insert(packet_id);
    }
}

/// Marks the messages up to this number, which may have been sent before: they are sent again as
/// such, and first.
fn restore_sent(state: &mut State, sent_to: u64) {
    while let Some(duty) = state.queue.front().and_then(|queued| queued.duty.as_ref())
        && duty.number <= sent_to
    {
        let packet_id = duty.packet_id();
        if let Some(queued) = state.queue.pop() {
            state.in_flight.restore(packet_id, queued);
        }
    }
    // Behind one that is not in memory, those stay in the queue. Others have not come yet.
    let given = state.ledger.as_ref().map_or(0, |ledger| ledger.last());
    state.queue.note_sent(sent_to.min(given));
}
