//! The model: for each client and message, whether it must be delivered, may be, or must not.
//!
//! The driver acts in one thread, so that its steps have an order; the broker handles them later,
//! at a time that is not known. What a step changes is therefore uncertain until the broker has
//! answered it, and a message is routed at some time between its PUBLISH and its acknowledgement. A
//! message *must* reach a session whose subscription was certain during all of that time, and *may*
//! reach one whose subscription was possible at any moment of it.
//!
//! How often: a message that a session gets at QoS 2 comes once; at QoS 1 as often as its publisher
//! has sent it, and again, marked DUP, after a connection that ended without its acknowledgement;
//! at QoS 0 once at most, and surely while the connection lasts. Messages of one publisher to one
//! topic come in their order.

use std::collections::BTreeMap;

use crate::Checked;
use crate::connection::Delivery;
use crate::owed::{Expected, Owed, merge};
use crate::retained::Retained;
use crate::topics::{SHARES, is_shared, is_shared_topic, matches};

/// Number of a message, which its payload begins with.
pub(crate) type Number = u32;

/// A message of a client.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub(crate) topic: &'static str,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    /// It clears the retained message of its topic. Subscribers may get it, with an empty payload.
    pub(crate) is_clear: bool,
    pub(crate) publisher: usize,
    /// It expires within the run: it must not be delivered, and may be.
    pub(crate) is_brief: bool,
    /// Times that it was sent.
    pub(crate) sends: u32,
    /// The node that it was sent to last.
    pub(crate) node: usize,
    /// The broker has acknowledged it.
    pub(crate) is_settled: bool,
    /// It was on its way when its connection ended. When it waits for the log, a message of the
    /// next connection may overtake it.
    pub(crate) is_adrift: bool,
    /// A subscriber was possible at some moment.
    pub(crate) has_takers: bool,
}

/// A topic filter of a session. Several states are possible while an answer is missing.
#[derive(Debug, Clone, Default)]
pub(crate) struct Filter {
    /// QoS; None without a subscription.
    pub(crate) possible: Vec<Option<u8>>,
    /// Packet ids of requests without an answer.
    outstanding: Vec<(u16, Option<u8>)>,
    /// The state that the last answer names, until all nodes of the fleet know it.
    agreed: Option<Option<u8>>,
}

impl Filter {
    pub(crate) fn is_certain(&self) -> bool {
        self.possible.iter().all(Option::is_some)
    }
}

/// A message in flight to a client, as the client knows it.
#[derive(Debug, Clone, Copy)]
struct InFlight {
    number: Option<Number>,
    qos: u8,
    /// Connection of its last PUBLISH.
    sent_on: u32,
    /// The broker was killed since: it may not know that the message was sent.
    was_killed: bool,
    /// Connection of the PUBACK or PUBREC.
    answered_on: Option<u32>,
    /// It was sent before a packet that the client waits for.
    settles: bool,
}

/// A session of a client.
#[derive(Debug, Default)]
pub(crate) struct Session {
    pub(crate) exists: bool,
    pub(crate) is_connected: bool,
    /// In a fleet, all nodes know the node of its connection, where messages of QoS 0 go.
    is_known: bool,
    /// Its node was killed, and its client has not come back: it is in the store only. What it has
    /// of a shared subscription goes to no other member when it ends there.
    pub(crate) is_orphan: bool,
    /// It goes on without its connection.
    pub(crate) lasts: bool,
    pub(crate) filters: BTreeMap<&'static str, Filter>,
    owed: BTreeMap<Number, Owed>,
    in_flight: BTreeMap<u16, InFlight>,
    /// The last message of each publisher and topic. In a fleet, messages at QoS 1 and 2 have an
    /// order of their own: they come from the store.
    last: BTreeMap<(usize, &'static str, bool), Number>,
}

impl Session {
    /// Its shared subscriptions, at one time or another.
    pub(crate) fn shares(&self) -> Vec<&'static str> {
        self.filters.keys().copied().filter(|filter| is_shared(filter)).collect()
    }
}

#[derive(Debug, Default)]
pub(crate) struct Model {
    /// Nodes know of changes at others a moment later.
    pub(crate) in_fleet: bool,
    pub(crate) messages: Vec<Message>,
    pub(crate) sessions: Vec<Session>,
    /// Messages of shared subscriptions.
    pub(crate) shares: BTreeMap<&'static str, BTreeMap<Number, Owed>>,
    /// Shared subscriptions of sessions that ended with their connections, each with the number of
    /// messages by then: a kill may come before another member has what such a session left.
    left_lately: BTreeMap<&'static str, Number>,
    pub(crate) retained: Retained,
}

impl Model {
    pub(crate) fn new(clients: usize, in_fleet: bool) -> Self {
        let sessions = (0..clients).map(|_| Session::default()).collect();
        Self { in_fleet, sessions, retained: Retained::new(in_fleet), ..Self::default() }
    }

    /// All nodes of the fleet know what was answered so far.
    pub(crate) fn synced(&mut self) {
        self.sessions.iter_mut().for_each(|session| session.is_known = session.is_connected);
        for held in self.sessions.iter_mut().flat_map(|session| session.filters.values_mut()) {
            if let Some(agreed) = held.agreed.take() {
                held.possible = vec![agreed];
            }
        }
        self.retained.synced();
    }

    pub(crate) fn message(&mut self, message: Message) -> Number {
        self.messages.push(message);
        self.messages.len() as Number - 1
    }

    fn expected(&self, client: usize, message: &Message) -> Option<Expected> {
        let session = &self.sessions[client];
        let hits = || {
            let of = session.filters.iter();
            of.filter(|(filter, _)| !is_shared(filter) && matches(filter, message.topic)).map(|(_, held)| held)
        };
        let high = hits().flat_map(|held| &held.possible).filter_map(|qos| *qos).max()?;
        let certain = hits().filter(|held| held.is_certain());
        let low = certain.filter_map(|held| held.possible.iter().filter_map(|qos| *qos).min()).max();
        let lowest = low.or_else(|| hits().flat_map(|held| &held.possible).filter_map(|qos| *qos).min())?;
        let low_qos = message.qos.min(lowest);
        let must = low.is_some() && !message.is_brief && (low_qos > 0 || session.is_connected && session.is_known);
        Some(Expected { must, low: low_qos, high: message.qos.min(high) })
    }

    /// The broker has let a client in.
    pub(crate) fn connected(&mut self, client: usize) {
        let session = &mut self.sessions[client];
        (session.exists, session.is_connected, session.is_orphan) = (true, true, false);
        session.is_known = !self.in_fleet;
    }

    /// A message is sent to a node. With `again`, it was sent before.
    pub(crate) fn sent(&mut self, number: Number, node: usize, again: bool) {
        let at = number as usize;
        self.messages[at].sends += 1;
        self.messages[at].node = node;
        let message = self.messages[at].clone();
        // A QoS 2 message that the broker knows is not routed once more.
        let begins_anew = !again || message.qos < 2;
        if message.retain && !again {
            self.retained.sent(message.topic, number, message.is_clear);
        } else if message.retain && message.qos == 1 {
            self.retained.sent_again(message.topic, number, self.messages.len() as Number);
        }
        if message.is_clear {
            return;
        }
        self.merge(number, !again, begins_anew);
    }

    /// Joins what was expected of a message with what is expected now.
    fn merge(&mut self, number: Number, first: bool, anew: bool) {
        let message = self.messages[number as usize].clone();
        let mut has_takers = message.has_takers;
        for client in 0..self.sessions.len() {
            let expected = self.expected(client, &message);
            has_takers |= expected.is_some();
            merge(&mut self.sessions[client].owed, number, expected, first, anew);
        }
        for share in SHARES {
            let expected = self.expected_of_share(share, &message);
            has_takers |= expected.is_some();
            merge(self.shares.entry(share).or_default(), number, expected, first, anew);
        }
        self.messages[number as usize].has_takers = has_takers;
    }

    /// Subscriptions have changed: messages on their way may meet the state before or after it.
    fn widen(&mut self) {
        for number in 0..self.messages.len() {
            let message = &self.messages[number];
            if !message.is_settled && message.sends > 0 && !message.is_clear {
                self.merge(number as Number, false, false);
            }
        }
    }

    /// The broker has acknowledged a message, with a reason code when its protocol has one.
    pub(crate) fn acknowledged(&mut self, number: Number, code: Option<u8>) -> Checked {
        let message = &mut self.messages[number as usize];
        message.is_settled = true;
        let has_takers = message.has_takers;
        let is_plain = !message.topic.starts_with(crate::log::TELEMETRY) && !message.retain && message.sends == 1;
        let owed: Vec<Owed> = self.owed_of(number).collect();
        match code {
            Some(code) if code >= 0x80 => Err(format!("message {number} was refused with {code:#04x}")),
            Some(0x10) if owed.iter().any(|owed| owed.must) => Err(format!("message {number}: no subscriber")),
            Some(0) if is_plain && !has_takers => Err(format!("message {number}: a subscriber, and none is known")),
            _ => {
                let message = &self.messages[number as usize];
                if message.retain {
                    self.retained.acknowledged(message.topic, number);
                }
                Ok(())
            }
        }
    }

    /// A message may or may not have arrived, and is not sent again.
    pub(crate) fn given_up(&mut self, number: Number) {
        // It may be on its way still, until the end of the run.
        self.all_owed(number, |owed| owed.must = false);
    }

    fn owed_of(&self, number: Number) -> impl Iterator<Item = Owed> {
        let of_sessions = self.sessions.iter().map(|session| &session.owed);
        of_sessions.chain(self.shares.values()).filter_map(move |owed| owed.get(&number).copied())
    }

    fn all_owed(&mut self, number: Number, change: impl Fn(&mut Owed)) {
        let of_sessions = self.sessions.iter_mut().map(|session| &mut session.owed);
        of_sessions.chain(self.shares.values_mut()).filter_map(|owed| owed.get_mut(&number)).for_each(change);
    }

    /// SUBSCRIBE or UNSUBSCRIBE (`qos` None) was sent. True when the subscription is new for
    /// certain, false when it is not, None when that is not known.
    pub(crate) fn requested(&mut self, client: usize, filter: &'static str, id: u16, qos: Option<u8>) -> Option<bool> {
        let held = self.sessions[client].filters.entry(filter).or_default();
        if held.possible.is_empty() {
            held.possible.push(None);
        }
        let is_new = match (held.is_certain(), held.possible.iter().all(Option::is_none)) {
            (true, _) => Some(false),
            (_, true) => Some(true),
            _ => None,
        };
        held.agreed = None;
        held.possible.push(qos);
        held.outstanding.push((id, qos));
        match qos {
            Some(qos) => self.retained.resubscribed(client, filter, qos),
            None => {
                self.retained.unsubscribed(client, filter);
                self.member_leaves(client, filter);
            }
        }
        self.widen();
        self.meet_on_the_way(client);
        is_new
    }

    /// A subscription changes: messages on their way from another node, acknowledged or not, and
    /// further copies of those that have come, meet the state before or after it. Those that the
    /// store has come all the same.
    fn meet_on_the_way(&mut self, client: usize) {
        if !self.in_fleet {
            return;
        }
        let owed = self.sessions[client].owed.iter();
        for (number, before) in owed.map(|(number, owed)| (*number, *owed)).collect::<Vec<_>>() {
            let expected = self.expected(client, &self.messages[number as usize]);
            let session = &mut self.sessions[client];
            merge(&mut session.owed, number, expected, false, false);
            if let Some(owed) = session.owed.get_mut(&number).filter(|_| session.lasts) {
                owed.must = before.must;
            }
        }
    }

    /// The broker has answered a SUBSCRIBE with a code, or an UNSUBSCRIBE.
    pub(crate) fn granted(&mut self, client: usize, id: u16, code: Option<u8>) -> Checked {
        let filters = &mut self.sessions[client].filters;
        let is_it = |held: &&mut Filter| held.outstanding.first().is_some_and(|first| *first == (id, code));
        let held =
            filters.values_mut().find(is_it).ok_or(format!("{code:?} to request {id}, which is not the next"))?;
        held.outstanding.remove(0);
        match held.outstanding.is_empty() {
            true if self.in_fleet => held.agreed = Some(code),
            true => held.possible = vec![code],
            false => {}
        }
        Ok(())
    }

    /// True when a SUBSCRIBE or UNSUBSCRIBE is not answered.
    pub(crate) fn awaits(&self, client: usize, id: u16) -> bool {
        self.sessions[client].filters.values().any(|held| held.outstanding.iter().any(|(request, _)| *request == id))
    }

    /// A PUBLISH has arrived at a client over its connection of this number, from a node.
    pub(crate) fn delivered(&mut self, client: usize, connection: u32, node: usize, delivery: &Delivery) -> Checked {
        let number = self.identify(delivery)?;
        if delivery.qos > 0 && !self.arrive(client, connection, delivery, number)? {
            return Ok(());
        }
        let Some(number) = number else { return Ok(()) };
        if delivery.retain {
            let message = &self.messages[number as usize];
            return self.retained.delivered(client, message, number, delivery.qos);
        }
        let message = self.messages[number as usize].clone();
        let session = &mut self.sessions[client];
        let list = if message.topic.starts_with("s/") {
            let share = crate::topics::share_for(client, message.topic);
            share.and_then(|share| self.shares.get_mut(share)).and_then(|owed| owed.get_mut(&number))
        } else {
            session.owed.get_mut(&number)
        };
        let Some(owed) = list else {
            // On its way to the other node, it met a subscription that is newer.
            let is_late = self.in_fleet && self.expected(client, &message).is_some();
            return if is_late {
                Ok(())
            } else {
                Err(format!("message {number} is not for client {client}: {message:?}"))
            };
        };
        if !(owed.low..=owed.high).contains(&delivery.qos) {
            return Err(format!("message {number} at QoS {}: {owed:?}", delivery.qos));
        }
        owed.got += 1;
        // Each node that it was sent to gives it to others than sessions that last: the store,
        // which knows that it was sent before, hears of it later.
        let is_stored = session.lasts && owed.low > 0 && !is_shared_topic(message.topic);
        let is_for_each = message.qos == 1 || self.in_fleet && message.qos == 2 && !is_stored;
        let copies = if is_for_each { message.sends } else { 1 };
        // Between nodes, the state of a subscription before and after its QoS has changed may be
        // met: one copy comes from the store, the other one from the node of the publisher. At QoS
        // 0, a client may be at one node and then at the other when the message is.
        let copies = copies + u32::from(self.in_fleet && owed.low == 0);
        if owed.got > copies + owed.extra {
            return Err(format!("message {number} came {} times: {message:?} {owed:?}", owed.got));
        }
        let key = (message.publisher, message.topic, self.in_fleet && delivery.qos > 0);
        let last = session.last.get(&key).copied();
        let is_ordered = message.sends == 1 && !message.is_adrift && !is_shared_topic(message.topic);
        if owed.got == 1 && is_ordered {
            if let Some(last) = last.filter(|last| *last > number) {
                // On its way between nodes, and not in the store, it may come behind one that its
                // publisher has sent since to the node of this client.
                let is_stored = session.lasts && delivery.qos > 0;
                let has_moved = message.node != node && self.messages[last as usize].node == node;
                if self.in_fleet && !is_stored && has_moved {
                    return Ok(());
                }
                return Err(format!("message {number} came after {last}: {message:?}"));
            }
            session.last.insert(key, number);
        }
        Ok(())
    }

    /// Reads the number of a message. None for an empty payload, which clears a topic.
    fn identify(&self, delivery: &Delivery) -> Checked<Option<Number>> {
        if delivery.payload.is_empty() {
            return Ok(None);
        }
        let text = String::from_utf8_lossy(&delivery.payload);
        let number: Number = text.split(' ').next().and_then(|n| n.parse().ok()).ok_or("an unknown payload")?;
        let message = self.messages.get(number as usize).ok_or("an unknown message")?;
        if message.topic != delivery.topic || delivery.payload != payload(number) {
            return Err(format!("message {number} has changed: {delivery:?}"));
        }
        Ok(Some(number))
    }

    /// Checks the packet id of a message at QoS 1 or 2. False when the client has the message.
    fn arrive(&mut self, client: usize, connection: u32, new: &Delivery, number: Option<Number>) -> Checked<bool> {
        let in_flight = &mut self.sessions[client].in_flight;
        let same = |held: &InFlight| held.number == number && held.qos == new.qos;
        let fresh = InFlight {
            number,
            qos: new.qos,
            sent_on: connection,
            was_killed: false,
            answered_on: None,
            settles: false,
        };
        let id = new.packet_id;
        match in_flight.get_mut(&id) {
            Some(held) if same(held) && (new.dup || held.was_killed) && held.sent_on < connection => {
                if held.answered_on == Some(connection) {
                    return Err(format!("packet id {id} was sent again after its acknowledgement: {held:?}"));
                }
                *held = fresh;
                Ok(false)
            }
            Some(held) if held.qos == 2 || held.answered_on.is_none() => {
                Err(format!("packet id {id} is in use by {held:?}, and came with {new:?} over connection {connection}"))
            }
            _ => {
                in_flight.insert(id, fresh);
                Ok(true)
            }
        }
    }

    /// A client has sent PUBACK or PUBREC.
    pub(crate) fn answered(&mut self, client: usize, connection: u32, packet_id: u16) {
        if let Some(held) = self.sessions[client].in_flight.get_mut(&packet_id) {
            held.answered_on = Some(connection);
        }
    }

    /// PUBREL has arrived: the exchange is over for the client.
    pub(crate) fn released(&mut self, client: usize, packet_id: u16, code: u8) -> Checked {
        let held = self.sessions[client].in_flight.get(&packet_id);
        if held.is_some_and(|held| held.qos != 2 || held.answered_on.is_none()) {
            return Err(format!("PUBREL for {held:?}"));
        }
        if held.is_some() && code != 0 {
            return Err(format!("PUBREL {packet_id} with {code:#04x} for {held:?}"));
        }
        self.sessions[client].in_flight.remove(&packet_id);
        Ok(())
    }

    /// A client sends a packet whose answer it waits for, over this connection.
    pub(crate) fn settling(&mut self, client: usize, connection: u32) {
        let in_flight = self.sessions[client].in_flight.values_mut();
        in_flight.for_each(|held| held.settles = held.qos == 1 && held.answered_on == Some(connection));
    }

    /// The broker has handled everything that was sent before that packet: messages that the client
    /// has acknowledged do not come again.
    pub(crate) fn settled(&mut self, client: usize) {
        self.sessions[client].in_flight.retain(|_, held| !held.settles);
    }

    /// A connection has ended. Its session goes on.
    pub(crate) fn connection_ended(&mut self, client: usize) {
        let session = &mut self.sessions[client];
        session.is_connected = false;
        // Their requests are not answered: what holds is not known until the next.
        for (filter, held) in session.filters.iter_mut().filter(|(_, held)| !held.outstanding.is_empty()) {
            held.outstanding.clear();
            self.retained.unsubscribed(client, filter);
        }
        session.owed.values_mut().filter(|owed| owed.low == 0).for_each(|owed| owed.must = false);
        self.retained.connection_ended(client);
        // What a member has not acknowledged goes to another.
        let is_shared = |held: &InFlight| {
            held.qos == 1 && held.number.is_some_and(|n| is_shared_topic(self.messages[n as usize].topic))
        };
        let (released, kept) =
            std::mem::take(&mut session.in_flight).into_iter().partition(|(_, held)| is_shared(held));
        let released: BTreeMap<u16, InFlight> = released;
        session.in_flight = kept;
        for number in released.into_values().filter_map(|held| held.number) {
            for owed in self.shares.values_mut().filter_map(|owed| owed.get_mut(&number)) {
                owed.extra += 1;
            }
        }
        if self.in_fleet {
            // So does what was on its way to it, and it may come back before the store knows.
            self.shares.values_mut().flat_map(BTreeMap::values_mut).filter(|owed| owed.low < 2).for_each(|owed| {
                owed.extra += 1;
            });
        }
        self.widen();
    }

    /// A CONNECT was sent that ends the session.
    pub(crate) fn session_ends(&mut self, client: usize) {
        let session = &mut self.sessions[client];
        session.filters.values_mut().for_each(|held| held.possible.push(None));
        // It may end at once.
        let (shares, is_orphan) = (session.shares(), session.is_orphan);
        self.left_over(client, &shares, is_orphan);
        self.widen();
    }

    /// A session has ended.
    pub(crate) fn session_ended(&mut self, client: usize) {
        self.connection_ended(client);
        let before = std::mem::take(&mut self.sessions[client]);
        if !before.lasts {
            let published = self.messages.len() as Number;
            self.left_lately.extend(before.shares().into_iter().map(|share| (share, published)));
        }
        self.retained.session_ended(client);
        self.left_over(client, &before.shares(), before.is_orphan);
        self.widen();
    }

    /// The broker was killed. Acknowledgements of QoS 1 may be lost with it.
    pub(crate) fn killed(&mut self) {
        let of_sessions = self.sessions.iter_mut().map(|session| (session.lasts, &mut session.owed));
        let of_shares = self.shares.values_mut().map(|owed| (true, owed));
        for (lasts, owed) in of_sessions.chain(of_shares) {
            for (number, owed) in owed {
                let message = &self.messages[*number as usize];
                // A node that dies right after it has published a will message leaves it to another
                // one. Only sessions that last have it in the step in which it is over.
                let may_be_left = self.in_fleet && !lasts && message.topic.starts_with("w/");
                if owed.low < 2 || may_be_left {
                    // Each copy of a message that was sent several times.
                    owed.extra += if message.qos == 1 { message.sends } else { 1 };
                }
            }
        }
        for session in &mut self.sessions {
            session.in_flight.values_mut().for_each(|held| held.was_killed = true);
        }
        for (share, published) in std::mem::take(&mut self.left_lately) {
            let owed = self.shares.entry(share).or_default();
            owed.range_mut(..published).for_each(|(_, owed)| owed.must = false);
        }
        for share in SHARES {
            // What was on its way from one member to another has none at the next start.
            let has_member = self.has_member(share, None);
            let owed = self.shares.entry(share).or_default().values_mut();
            owed.for_each(|owed| owed.must &= has_member);
        }
        self.retained.killed();
    }

    /// Messages that must be delivered and were not.
    pub(crate) fn missing(&self) -> Vec<String> {
        // At QoS 0, a message between nodes is lost when a subscription changes on its way.
        let lacks = |owed: &Owed| owed.must && owed.got == 0 && !(self.in_fleet && owed.low == 0);
        let mut missing = Vec::new();
        for (client, session) in self.sessions.iter().enumerate() {
            let lacking = session.owed.iter().filter(|(_, owed)| lacks(owed));
            missing.extend(
                lacking.map(|(n, owed)| {
                    format!("message {n} to client {client}: {owed:?} {:?}", self.messages[*n as usize])
                }),
            );
        }
        for (share, owed) in &self.shares {
            let lacking = owed.iter().filter(|(_, owed)| lacks(owed));
            missing.extend(
                lacking.map(|(n, owed)| format!("message {n} to {share}: {owed:?} {:?}", self.messages[*n as usize])),
            );
        }
        missing.extend(self.retained.missing());
        missing
    }
}

/// The payload of a message: its number, and bytes that depend on it.
pub(crate) fn payload(number: Number) -> Vec<u8> {
    let length = match number % 16 {
        7 => 3_000,
        n => n as usize * 5,
    };
    format!("{number} {}", "x".repeat(length)).into_bytes()
}
