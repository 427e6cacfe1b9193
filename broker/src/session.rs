//! Sessions, which outlive connections: subscriptions, queued messages, packet ids of QoS 2.
//!
//! Locks are taken in this order: a tenant's sessions, one session's state, the trie. With the trie
//! held, no state is taken.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Included, Unbounded};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use door::Intake;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::config::QueueFull;
use crate::durable::Ledger;
use crate::fleet::{Interest, Node, Owned};
use crate::in_flight::InFlight;
use crate::link::Link;
use crate::queue::{Bounds, Dropped, Queue, Queued, Refused};
use crate::retained::Walk;
use crate::takeovers::TakeoverPace;
use crate::trie::Subscriber;
use crate::view::ConnectionReport;
use crate::will::{LastWill, Settled};

/// The state of a QoS 2 message whose PUBREL has not arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Receipt {
    /// On its way into the log; the connection of this number waits for it.
    Staged(u64),
    /// Durable.
    Stored,
}

#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) client: Arc<str>,
    state: Mutex<State>,
    /// Messages in the queue, for a look without the lock.
    waiting: AtomicU32,
    /// How it lasts, for a look without the lock.
    lasts: AtomicU8,
    /// Its id, once it lasts.
    shared: AtomicU64,
    /// In a fleet, it may be known by its subscriptions only.
    place: Place,
}

/// The way in which a session lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lasting {
    /// It ends with its connection, or with the process.
    No,
    /// Its records are in the log.
    Log,
    /// The nodes of a fleet share it.
    Fleet,
}

/// The place of a subscriber.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// A session of this node.
    Here,
    /// A session that lasts, of another node: its id.
    Elsewhere(u64),
    /// Other subscribers of another node, and the messages that it asks for.
    Node(Node, Interest),
}

/// The reason why a session has lost messages. It ends: its client learns of the loss that way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lost {
    /// Its queue was full. It gets the messages that wait first.
    Queue,
    /// Its queue held most of the memory of all queues, and that was used up.
    Memory,
}

impl Lost {
    /// For the client and the log.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Queue => {
                "messages after the last one were lost: more waited than mqtt.max_queued_messages or \
                 mqtt.max_queued_bytes (mqtt.max_bridge_bytes for a bridge); the session has ended"
            }
            Self::Memory => {
                "messages that waited were lost: they held most of the memory of all queues (a share of \
                 memory.max_bytes); the session has ended"
            }
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct State {
    /// The connection that owns it.
    pub(crate) link: Option<Arc<Link>>,
    /// That connection, or the last one, for reports.
    pub(crate) connection: Option<Arc<ConnectionReport>>,
    /// That connection has read all that it will, and stores the rest.
    pub(crate) is_leaving: bool,
    /// Another connection waits until that one has handled what has arrived; dropped then.
    pub(crate) handing_over: Option<watch::Sender<()>>,
    /// Until then another node may take the client, and goes on with what the store has: a message
    /// that is sent meanwhile would come from there once more, and not marked as DUP.
    pub(crate) rests_until: Option<Instant>,
    /// The session has ended and accepts no more messages.
    over: bool,
    pub(crate) queue: Queue,
    pub(crate) lost: Option<Lost>,
    /// QoS 1 and 2 messages that the client has not acknowledged. They come before the queue.
    pub(crate) in_flight: InFlight,
    /// QoS 2 messages from the client that it has not released.
    pub(crate) unreleased: BTreeMap<u16, Receipt>,
    /// Of these, the ones that are known after a restart.
    pub(crate) receipts: BTreeSet<u16>,
    /// Numbers of its messages. Present in a session that outlasts the process.
    pub(crate) ledger: Option<Arc<Ledger>>,
    pub(crate) subscriptions: BTreeSet<String>,
    /// In a fleet, under which the client belongs to this node.
    pub(crate) owned: Option<Box<Owned>>,
    /// In a fleet, the session is in the store alone; its delayed will message is here.
    pub(crate) is_departed: bool,
    /// Claims of its client by this node that have not ended. The session stays here meanwhile.
    pub(crate) claims: u32,
    /// Subscriptions whose retained messages have not all been queued, by filter.
    pub(crate) walks: BTreeMap<Box<str>, Walk>,
    pub(crate) expiry_secs: u32,
    /// End of a session that no connection owns.
    pub(crate) expires: Option<Instant>,
    /// Cancelled when the credential of its last connection is revoked or expires.
    pub(crate) ended: Option<CancellationToken>,
    /// Takeovers of the session.
    pub(crate) takeovers: TakeoverPace,
    /// Will message of the connection that owns the session. DISCONNECT removes it.
    pub(crate) last_will: Option<Box<LastWill>>,
    /// Publication of the will message before.
    pub(crate) publishing: Option<Settled>,
    /// Pending delayed will. Sending on the channel cancels it; dropping the sender publishes it
    /// now.
    pub(crate) will: Option<oneshot::Sender<()>>,
}

impl State {
    /// True when nothing of the session is left for the next connection.
    pub(crate) fn is_over(&self, now: Instant) -> bool {
        let is_revoked = self.ended.as_ref().is_some_and(CancellationToken::is_cancelled);
        is_revoked || self.is_at_the_gap().is_some() || self.expires.is_some_and(|at| at <= now)
    }

    /// Stages that a message of QoS 2 from the client is known, in a session in the log: the client
    /// may send it again after a restart.
    pub(crate) fn stage_receipt(&mut self, intake: &mut impl Intake, packet_id: u16) {
        if let Some(ledger) = self.ledger.as_ref().filter(|ledger| ledger.is_in_log()) {
            ledger.keep_receipt(intake, packet_id);
            self.receipts.insert(packet_id);
        }
    }

    /// Lists the queue of a session in the log: its messages are put away from now on. Returns the
    /// tenant; None when it is listed.
    pub(crate) fn list(&mut self) -> Option<Arc<str>> {
        let ledger = self.ledger.as_ref().filter(|ledger| ledger.is_in_log())?;
        self.queue.list().then(|| Arc::clone(&ledger.tenant))
    }

    /// Removes QoS 1 messages of shared subscriptions that the client has not acknowledged, in
    /// their order, for which `take` is true. QoS 2 messages that were sent stay: the standard
    /// gives them to no other client (MQTT-4.8.2-5).
    pub(crate) fn take_shared(&mut self, mut take: impl FnMut(&Arc<str>) -> bool) -> Vec<Queued> {
        let mut taken = self.in_flight.take_shared(&mut take);
        taken.append(&mut self.queue.take_shared(take));
        taken
    }

    /// Removes what others get of a session that has ended, but for what the store of a fleet has.
    pub(crate) fn take_left_over(&mut self) -> Vec<Queued> {
        let mut left = self.take_shared(|_| true);
        if self.owned.is_some() {
            left.retain(|queued| queued.duty.is_none());
        }
        left
    }

    /// True when a message of a shared subscription waits, or is not acknowledged.
    pub(crate) fn holds_shared(&self, share: &str) -> bool {
        let is_of = |queued: &Queued| queued.share.as_ref().is_some_and(|held| **held == *share);
        self.in_flight.any(is_of) || self.queue.any(is_of)
    }

    /// Filters of its shared subscriptions.
    pub(crate) fn shares(&self) -> impl Iterator<Item = &String> {
        // Together, as the filters are in order.
        self.subscriptions
            .range::<str, _>((Included("$share/"), Unbounded))
            .take_while(|filter| filter.starts_with("$share/"))
    }

    /// True when the client has all messages before those that were lost.
    pub(crate) fn is_at_the_gap(&self) -> Option<Lost> {
        let lost = self.lost?;
        let has_rest = lost == Lost::Queue && !(self.queue.is_empty() && self.in_flight.is_empty());
        (!has_rest).then_some(lost)
    }

    /// True when the session has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.over
    }

    /// Ends the session and returns it as it was.
    pub(crate) fn end(&mut self) -> Self {
        let before = std::mem::take(self);
        self.over = true;
        before
    }
}

/// The outcome of queueing a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Push {
    Queued,
    /// Queued; messages of this tenant's session are put away from now on.
    Long(Arc<str>),
    /// The queue is full, or has lost a message before this one.
    Full,
    /// The memory for sessions is used up.
    NoMemory,
    Offline,
    /// The session has ended.
    Over,
}

impl Subscriber for Arc<Session> {
    fn waiting(&self) -> u32 {
        self.waiting.load(Ordering::Relaxed)
    }
}

impl Session {
    /// A new session.
    pub(crate) fn new(client: Arc<str>, link: Arc<Link>, expiry_secs: u32, queue: Queue) -> Self {
        Self::with(client, State { link: Some(link), expiry_secs, queue, ..State::default() })
    }

    /// A session of an earlier start, which no connection owns, and the time that it lasts from now
    /// on.
    pub(crate) fn restored(
        client: Arc<str>,
        (expiry_secs, lasts): (u32, Duration),
        queue: Queue,
        ledger: Arc<Ledger>,
    ) -> Self {
        let expires = Instant::now().checked_add(lasts);
        let session = Self::with(client, State { expiry_secs, expires, queue, ..State::default() });
        session.keep(&mut session.state(), ledger);
        session
    }

    fn with(client: Arc<str>, state: State) -> Self {
        let (waiting, lasts, shared) = (AtomicU32::new(0), AtomicU8::new(Lasting::No as u8), AtomicU64::new(0));
        Self { client, state: Mutex::new(state), waiting, lasts, shared, place: Place::Here }
    }

    /// A subscriber of another node.
    pub(crate) fn elsewhere(client: Arc<str>, place: Place) -> Self {
        Self { place, ..Self::with(client, State::default()) }
    }

    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    /// Lets the session outlast the process.
    pub(crate) fn keep(&self, state: &mut State, ledger: Arc<Ledger>) {
        let lasting = if ledger.owned().is_some() { Lasting::Fleet } else { Lasting::Log };
        self.shared.store(ledger.session, Ordering::Release);
        state.ledger = Some(ledger);
        self.lasts.store(lasting as u8, Ordering::Release);
    }

    /// Returns how it lasts.
    pub(crate) fn lasting(&self) -> Lasting {
        match self.lasts.load(Ordering::Acquire) {
            lasts if lasts == Lasting::Fleet as u8 => Lasting::Fleet,
            lasts if lasts == Lasting::Log as u8 => Lasting::Log,
            _ => Lasting::No,
        }
    }

    /// Returns the id under which messages of QoS 1 and 2 are appended to it, in a fleet.
    pub(crate) fn shared_id(&self) -> Option<u64> {
        match (&self.place, self.lasting()) {
            (Place::Elsewhere(id), _) => Some(*id),
            // Also when another node owns it by now: the message was on its way.
            (Place::Here, Lasting::Fleet) => Some(self.shared.load(Ordering::Acquire)),
            _ => None,
        }
    }

    /// True when it takes messages of this QoS, as its subscription gets them and as they are
    /// published. Those of QoS 1 and 2 come to a session that lasts by itself, and other ones to
    /// the node that it is at.
    pub(crate) fn wants(&self, qos: u8, published: u8) -> bool {
        match &self.place {
            Place::Here | Place::Node(_, Interest::All) => true,
            Place::Elsewhere(_) => qos > 0,
            Place::Node(_, Interest::Qos0) => published == 0,
        }
    }

    /// Gives the next message a number, in a session that outlasts the process.
    pub(crate) fn number(&self) -> Option<(Arc<Ledger>, u64)> {
        let state = self.state.lock();
        let ledger = state.ledger.as_ref()?;
        Some((Arc::clone(ledger), ledger.next()))
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Returns the state, if the connection behind `link` owns the session.
    pub(crate) fn owned_by(&self, link: &Arc<Link>) -> Option<MutexGuard<'_, State>> {
        let state = self.state.lock();
        let own = state.link.as_ref().is_some_and(|owner| Arc::ptr_eq(owner, link));
        own.then_some(state)
    }

    /// Queues a message without waiting: a slow subscriber slows no publisher. Returns the messages
    /// that were dropped for it, too. With more than `long` messages in memory, some need not be.
    pub(crate) fn push(self: &Arc<Self>, queued: Queued, bounds: &Bounds, long: usize) -> (Push, Dropped) {
        self.push_in(self.state.lock(), queued, bounds, long)
    }

    /// Queues a message as long as a connection has the session, and returns it otherwise. One that
    /// the store of a fleet has is handed on as the session departs, when it has not departed.
    pub(crate) fn push_connected(
        self: &Arc<Self>,
        queued: Queued,
        bounds: &Bounds,
        long: usize,
    ) -> Result<(Push, Dropped), Queued> {
        let state = self.state.lock();
        let is_stored = queued.is_in_fleet();
        if state.link.is_none() && !state.is_departed && !is_stored {
            return Err(queued);
        }
        Ok(self.push_in(state, queued, bounds, long))
    }

    fn push_in(
        self: &Arc<Self>,
        mut state: MutexGuard<'_, State>,
        queued: Queued,
        bounds: &Bounds,
        long: usize,
    ) -> (Push, Dropped) {
        // What arrives for one that is in the store alone is there already.
        if state.over || state.is_departed {
            return (Push::Over, Dropped::default());
        }
        if state.link.is_none() && queued.qos == 0 {
            return (Push::Offline, Dropped::default());
        }
        if state.lost.is_some() {
            return (Push::Full, Dropped::default());
        }
        let (dropped, refused) = state.queue.push(queued, bounds);
        self.note(&mut state);
        let push = match refused {
            None if long < usize::MAX && state.queue.is_long(long) => state.list().map_or(Push::Queued, Push::Long),
            None => Push::Queued,
            Some(Refused::Full) => return (Push::Full, dropped),
            Some(Refused::Memory) => return (Push::NoMemory, dropped),
            Some(Refused::Overflow) => {
                state.lost = Some(Lost::Queue);
                Push::Full
            }
        };
        let link = state.link.clone();
        drop(state);
        if let Some(link) = link {
            link.signal(Link::ATTENTION);
        }
        (push, dropped)
    }

    /// Notes that a message for the session was lost: it gets the ones before, and ends.
    pub(crate) fn lose(self: &Arc<Self>) {
        let link = {
            let mut state = self.state.lock();
            if state.over || state.is_departed || state.lost.is_some() {
                return;
            }
            state.lost = Some(Lost::Queue);
            state.link.clone()
        };
        if let Some(link) = link {
            link.signal(Link::ATTENTION);
        }
    }

    /// Drops messages because memory is short. A session that ends for it is signalled.
    pub(crate) fn give_way(self: &Arc<Self>, when_full: QueueFull) -> Dropped {
        let (dropped, link) = {
            let mut state = self.state.lock();
            self.note(&mut state);
            if state.over || !state.queue.is_noted() {
                return Dropped::default();
            }
            let dropped = state.queue.give_way(when_full);
            // Without messages that wait, its memory is that of messages in flight, which cannot be
            // dropped from a session that goes on.
            let ends = dropped.others > 0 && when_full == QueueFull::EndSession || !dropped.any();
            if ends {
                state.lost = Some(Lost::Memory);
                drop(std::mem::take(&mut state.in_flight));
            }
            self.note(&mut state);
            (dropped, state.link.clone().filter(|_| ends))
        };
        if let Some(link) = link {
            link.signal(Link::ATTENTION);
        }
        dropped
    }

    /// Notes the size of the queue, for the choice of members of shared subscriptions and of
    /// the session that gives way.
    pub(crate) fn note(self: &Arc<Self>, state: &mut State) {
        self.waiting.store(u32::try_from(state.queue.len()).unwrap_or(u32::MAX), Ordering::Relaxed);
        let away = state.link.is_none();
        state.queue.note(self, away);
    }

    /// Notes that the connection behind `link` has handled what has arrived; with `is_leaving`,
    /// that it will read no more.
    pub(crate) fn hand_over(&self, link: &Arc<Link>, is_leaving: bool) {
        if let Some(mut state) = self.owned_by(link) {
            state.is_leaving |= is_leaving;
            state.handing_over = None;
        }
    }

    /// Signals the connection that owns the session, if there is one.
    pub(crate) fn signal(&self, signal: u8) {
        let link = self.state.lock().link.clone();
        if let Some(link) = link {
            link.signal(signal);
        }
    }

    /// Ends the wait of connection `number` for a QoS 2 message: its packet id is kept when the
    /// message is durable, and released otherwise. If another connection owns the session by now,
    /// that one is woken: the client may have sent the message again.
    pub(crate) fn end_receipt(&self, packet_id: u16, number: u64, keep: bool, link: &Arc<Link>) {
        let owner = {
            let mut state = self.state.lock();
            if state.unreleased.get(&packet_id) != Some(&Receipt::Staged(number)) {
                return;
            }
            if keep {
                state.unreleased.insert(packet_id, Receipt::Stored);
            } else {
                state.unreleased.remove(&packet_id);
                if state.receipts.remove(&packet_id)
                    && let Some(ledger) = &state.ledger
                {
                    ledger.clear_receipt(packet_id);
                }
            }
            state.link.clone()
        };
        if let Some(owner) = owner.filter(|owner| !Arc::ptr_eq(owner, link)) {
            owner.signal(Link::ATTENTION);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Message;

    #[test]
    fn a_message_for_a_client_that_must_be_connected_comes_back_when_it_has_left() {
        let session = Arc::new(Session::elsewhere("s".into(), Place::Here));
        let message = Arc::new(Message::new("a", b"1", 1, false, &[]));
        let push = || session.push_connected(Queued::new(Arc::clone(&message), 1), &Bounds::NONE, usize::MAX);
        assert!(push().is_err(), "it is away");
        session.state().end();
        assert!(push().is_err(), "the session has ended");
        session.state().is_departed = true;
        assert!(push().is_ok(), "the store has it");
    }

    #[test]
    fn a_message_that_the_store_of_a_fleet_has_waits_until_the_session_departs() {
        let session = Arc::new(Session::elsewhere("s".into(), Place::Here));
        let client = crate::fleet::Client { tenant: "t".into(), id: "s".into() };
        let owned = Owned { client, session: 1, epoch: 1 };
        let journal = crate::durable::Journal::new("n", None);
        let ledger = Ledger::shared(owned, journal, &Default::default(), &Default::default(), 0);
        session.keep(&mut session.state(), Arc::clone(&ledger));
        session.state().queue = Queue::new(model::Budget::new("sessions", 1 << 20), Arc::default());
        let message = Arc::new(Message::new("a", b"1", 1, false, &[]));
        let duty = Some(crate::durable::Duty { ledger: Arc::clone(&ledger), number: 1, message: None });
        let queued = Queued { duty, share: Some("$share/g/a".into()), ..Queued::new(message, 1) };
        let pushed = session.push_connected(queued, &Bounds::NONE, usize::MAX);
        assert!(matches!(pushed, Ok((Push::Queued, _))), "given to another member here, it would come twice");
        let has = |number| ledger.progress().has(number);
        assert!(!has(1), "the store has it until another member has");
        assert_eq!(session.state().take_shared(|_| true).len(), 1, "it is there to be handed on");
    }

    #[test]
    fn a_session_that_is_in_the_store_alone_loses_nothing_that_arrives_late() {
        let session = Arc::new(Session::elsewhere("s".into(), Place::Here));
        session.state().is_departed = true;
        let message = Arc::new(Message::new("a", b"1", 1, false, &[]));
        let (push, dropped) = session.push(Queued::new(message, 1), &Bounds::NONE, usize::MAX);
        assert_eq!((push, dropped), (Push::Over, Dropped::default()));
        session.lose();
        assert!(session.state().lost.is_none(), "its next connection would find no session");
    }
}
