//! Messages to the subscriber.

use std::sync::Arc;
use std::time::Instant;

use super::aliases::{Alias, Aliases};
use super::answer::{Answer, Pending, Wait};
use super::end::End;
use super::{Connection, OUT_BYTES, RECHECK, Stream};
use crate::codec::{acks, encode, packet_type, reason};
use crate::in_flight::Recorded;
use crate::link::Link;
use crate::message::Message;
use crate::queue::Queued;
use crate::retained::Walk;
use crate::route::{Dispatch, Taker};
use crate::session::{Lasting, State};
use crate::sys;
use door::Inbox;
use model::Nanos;

/// Retained messages wait for a place while the queue is longer than this.
const WALK_AHEAD: usize = 64;

impl<I: Inbox, S: Stream> Connection<I, S> {
    /// Sends queued messages as far as the client's window and the socket allow. Messages that an
    /// earlier connection sent without an acknowledgement come first, marked DUP, and before them
    /// the PUBRELs. True when something was sent.
    pub(super) fn deliver(&mut self) -> Result<bool, End> {
        if self.draining {
            return Ok(false);
        }
        let session = Arc::clone(&self.session);
        let mut state = session.owned_by(&self.link).ok_or(End::TakenOver)?;
        if let Some(left) = state.rests_until.map(|at| at.saturating_duration_since(Instant::now())) {
            if !left.is_zero() {
                self.delivers_later = true;
                self.wake_within(left);
                return Ok(false);
            }
            state.rests_until = None;
        }
        let begun = self.out.len();
        while self.out.len() - self.written < OUT_BYTES {
            if let Some((id, is_stored)) = state.in_flight.next_release() {
                self.release_message(id, state.ledger.is_some() && !is_stored);
                continue;
            }
            let sent_one = match self.deliver_again(&mut state) {
                Again::Nothing => self.deliver_next(&mut state),
                Again::Waits => None,
                Again::Sent(yes) => Some(yes),
            };
            if sent_one.is_none() {
                break;
            }
        }
        session.note(&mut state);
        if state.queue.begin_read(self.broker.config.queue_head) {
            self.broker.read_back(&session);
        }
        match state.is_at_the_gap() {
            Some(lost) => Err(End::Lost(lost)),
            None => Ok(self.out.len() > begun),
        }
    }

    /// Sends the next message that an earlier connection sent.
    fn deliver_again(&mut self, state: &mut State) -> Again {
        let Some((packet_id, queued)) = state.in_flight.next_again() else { return Again::Nothing };
        if !state.in_flight.has_room(self.send_maximum) || !self.has_memory_for(queued) {
            return Again::Waits;
        }
        let fits = self.may_receive(queued) && self.send(queued, packet_id, true);
        if fits {
            state.in_flight.sent_again();
        } else {
            state.in_flight.drop_again();
        }
        Again::Sent(fits)
    }

    /// Returns None when nothing may be sent now, and otherwise whether the message was sent.
    fn deliver_next(&mut self, state: &mut State) -> Option<bool> {
        let next = state.queue.front()?;
        if next.qos > 0 && !state.in_flight.has_room(self.send_maximum) {
            return None;
        }
        // One that the client has not acknowledged for 65,535 messages: the number has come round.
        if next.duty.as_ref().is_some_and(|duty| state.in_flight.uses(duty.packet_id())) {
            return None;
        }
        if !self.has_memory_for(next) {
            return None;
        }
        let may_have_been_sent = state.queue.may_have_sent(next.duty.as_ref());
        let queued = state.queue.pop()?;
        if queued.message.seconds_left() == Some(0) {
            self.broker.count_dropped("expired");
            return Some(false);
        }
        if !self.may_receive(&queued) {
            return Some(false);
        }
        let packet_id = match &queued.duty {
            _ if queued.qos == 0 => 0,
            Some(duty) => duty.packet_id(),
            None => state.in_flight.next_id(),
        };
        let fits = self.send(&queued, packet_id, may_have_been_sent);
        if fits && let Some(since) = queued.timed() {
            self.time_delivery(since, state);
        }
        if fits && queued.qos > 0 {
            if let Some(duty) = &queued.duty {
                duty.ledger.sent(duty.number);
            }
            state.in_flight.begin(packet_id, queued);
        }
        Some(fits)
    }

    /// False for a message that was queued for an earlier identity of the client, which had other
    /// grants; it is dropped.
    fn may_receive(&self, queued: &Queued) -> bool {
        let granted = self.grants.may_receive(&queued.message.topic);
        if !granted {
            self.broker.count_dropped("not_granted");
        }
        granted
    }

    /// Acquires the memory of a large message in `out`; without it, the message waits in its queue.
    fn has_memory_for(&mut self, queued: &Queued) -> bool {
        let bytes = queued.message.bytes();
        if bytes <= OUT_BYTES {
            return true;
        }
        let before = std::mem::replace(&mut self.out_bytes, self.out.len() + bytes);
        let held = self.count_memory().is_ok();
        if !held {
            self.out_bytes = before;
            self.delivers_later = true;
            self.wake_within(RECHECK);
        }
        held
    }

    /// Queues retained messages for new subscriptions, a few at a time, as fast as the client takes
    /// them. True when the walk went on.
    pub(super) fn walk_retained(&mut self) -> Result<bool, End> {
        if self.draining {
            return Ok(false);
        }
        let (walk, most) = {
            let state = self.state()?;
            let Some((_, walk)) = state.walks.first_key_value() else {
                drop(state);
                self.walking = false;
                return Ok(false);
            };
            match WALK_AHEAD.checked_sub(state.queue.len()) {
                None | Some(0) => return Ok(false),
                Some(most) => (walk.clone(), most),
            }
        };
        if self.has_unrouted() {
            return Ok(false);
        }
        if walk.filter.starts_with(sys::LEVEL) {
            self.broker.send_figures(&self.tenant, &self.session, walk.id, &walk.filter);
            self.state()?.walks.remove(&walk.filter);
            return Ok(true);
        }
        let mut found = Vec::new();
        let after = self.tenant.retained.step(&walk, most, &mut found);
        for message in found {
            self.send_retained(message, &walk);
        }
        let mut state = self.state()?;
        match after {
            Some(topic) => {
                if let Some(walk) = state.walks.get_mut(&walk.filter) {
                    walk.after = Some(topic);
                }
            }
            None => {
                state.walks.remove(&walk.filter);
            }
        }
        Ok(true)
    }

    /// Sends a retained message to a new subscription; in a session that outlasts the process, when
    /// it is durable.
    fn send_retained(&mut self, message: Arc<Message>, walk: &Walk) {
        let mut taker = Taker::walking(&self.session, &message, walk);
        let (tenant, own) = (&self.tenant.id, &message.properties);
        let contents = (&*message.topic, &*message.payload);
        let is_shared = taker.qos > 0 && taker.session.lasting() == Lasting::Fleet;
        if is_shared
            || self.broker.store_for_sessions(&mut self.intake, tenant, contents, own, std::slice::from_mut(&mut taker))
        {
            self.staged = true;
            let (takers, from) = (vec![taker], Arc::clone(&self.sender.client));
            let dispatch =
                Some(Box::new(Dispatch { walk: Some(walk.options.qos), ..Dispatch::new(message, takers, &from) }));
            self.owe(Pending { dispatch, ..Pending::answer(Wait::Submit, 0, Answer::Nothing) });
        } else {
            self.broker.send_retained(&message, taker);
        }
    }

    /// Sends a PUBREL; in a session that outlasts the process, when it is durable that the client
    /// has the message. Otherwise it would get the message once more after a restart.
    fn release_message(&mut self, packet_id: u16, waits: bool) {
        if waits {
            self.has_released = true;
            self.staged = true;
            self.owe(Pending::answer(Wait::Submit, packet_id, Answer::Pubrel));
        } else {
            self.continue_exchange(packet_type::PUBREL << 4 | 2, packet_id, reason::SUCCESS);
        }
    }

    /// Stages the messages of QoS 2 that the client has, when there are more than before.
    pub(super) fn stage_released(&mut self) {
        if std::mem::take(&mut self.has_released)
            && let Some(state) = self.session.owned_by(&self.link)
            && let Some(ledger) = &state.ledger
        {
            ledger.keep_released(&mut self.intake, state.in_flight.released_numbers());
        }
    }

    /// Returns false when the packet is larger than the client accepts.
    fn send(&mut self, queued: &Queued, packet_id: u16, dup: bool) -> bool {
        let alias = self.choose_alias(&queued.message.topic);
        let mut fits = self.send_as(queued, packet_id, dup, alias);
        if !fits && let Some(aliases) = &mut self.sent_aliases {
            aliases.take_back(alias);
            // A new alias takes three bytes.
            fits = matches!(alias, Alias::New(_)) && self.send_as(queued, packet_id, dup, Alias::None);
        }
        if !fits {
            self.broker.count_dropped("too_large_for_client");
            return false;
        }
        self.broker.metrics.count_delivered(queued.qos);
        if let Alias::Known(_) = alias {
            self.broker.metrics.alias_saved.inc_by(queued.message.topic.len() as u64);
        }
        fits
    }

    /// Observes the time since a message was queued, unless the client was away meanwhile.
    fn time_delivery(&self, since: Nanos, state: &State) {
        if state.connection.as_ref().is_some_and(|connection| connection.since <= since) {
            let passed = model::clock::now().saturating_sub(since).max(0);
            self.broker.metrics.delivery_time.observe(passed as f64 / model::time::SECOND as f64);
        }
    }

    fn choose_alias(&mut self, topic: &str) -> Alias {
        if self.sent_aliases_most == 0 {
            return Alias::None;
        }
        let most = self.sent_aliases_most;
        let aliases = self.sent_aliases.get_or_insert_with(|| Box::new(Aliases::new(most)));
        let alias = aliases.choose(topic);
        if matches!(alias, Alias::New(_)) && self.count_memory().is_err() {
            // There is no memory for more of them.
            if let Some(aliases) = &mut self.sent_aliases {
                aliases.take_back(alias);
            }
            self.count_memory().ok();
            return Alias::None;
        }
        alias
    }

    fn send_as(&mut self, queued: &Queued, packet_id: u16, dup: bool, alias: Alias) -> bool {
        let begun = self.out.len();
        let (alias, topic) = match alias {
            Alias::None => (None, &*queued.message.topic),
            Alias::New(alias) => (Some(alias), &*queued.message.topic),
            Alias::Known(alias) => (Some(alias), ""),
        };
        let how = encode::Outgoing {
            qos: queued.qos,
            dup,
            retain: queued.retain,
            packet_id,
            properties: &queued.message.properties,
            alias,
            expiry_secs: queued.message.seconds_left(),
            subscription_ids: &queued.subscription_ids,
        };
        let message = &queued.message;
        let bytes = encode::publish(&mut self.out, self.version, topic, &message.payload, &how);
        let fits = bytes <= self.maximum_packet_bytes;
        if !fits {
            self.out.truncate(begun);
        }
        fits
    }

    /// Handles a PUBACK.
    pub(super) fn acknowledged(&mut self, body: &[u8]) -> Result<(), End> {
        let answer = acks::decode(body, self.version)?.of(packet_type::PUBACK)?;
        self.note_refusal(answer.reason);
        self.state()?.in_flight.acknowledge(answer.packet_id);
        self.link.remember(Link::ATTENTION);
        Ok(())
    }

    /// Counts a message that the client has refused. It goes to no other client (MQTT-4.8.2-6).
    fn note_refusal(&self, reason: u8) {
        if reason >= 0x80 {
            self.broker.count_dropped("refused_by_client");
        }
    }

    /// Handles a PUBREC. One for a packet id without a message is answered too: a client that has
    /// such an exchange from an earlier session, or from another broker, can end it.
    pub(super) fn recorded(&mut self, body: &[u8]) -> Result<(), End> {
        let acks::Answer { packet_id, reason } = acks::decode(body, self.version)?.of(packet_type::PUBREC)?;
        self.note_refusal(reason);
        let (recorded, lasts) = {
            let mut state = self.state()?;
            (state.in_flight.record(packet_id, reason >= 0x80), state.ledger.is_some())
        };
        match recorded {
            Recorded::Release => self.release_message(packet_id, lasts),
            Recorded::Unknown => {
                let (first, code) = (packet_type::PUBREL << 4 | 2, reason::PACKET_ID_NOT_FOUND);
                self.continue_exchange(first, packet_id, code);
            }
            Recorded::Refused => self.link.remember(Link::ATTENTION),
        }
        Ok(())
    }

    /// Handles a PUBCOMP.
    pub(super) fn completed(&mut self, body: &[u8]) -> Result<(), End> {
        let answer = acks::decode(body, self.version)?.of(packet_type::PUBCOMP)?;
        self.state()?.in_flight.complete(answer.packet_id);
        self.link.remember(Link::ATTENTION);
        Ok(())
    }
}

/// The outcome of sending a message again.
enum Again {
    /// All were sent again.
    Nothing,
    /// There is no room now.
    Waits,
    /// True when it was sent, false when it was dropped.
    Sent(bool),
}
