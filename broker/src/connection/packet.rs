//! Handling of each packet type.

use model::trace::Span;

use super::answer::{self, Answer, Pending, Wait};
use super::end::End;
use super::{Connection, Stream};
use crate::codec::{
    DecodeError, Framing, Version, acks, check_flags, encode, packet_type as kind, properties, publish, reason,
};
use crate::fleet::Source;
use crate::retained;
use crate::route::{Dispatch, Taker};
use crate::session::Receipt;
use door::quota::Quota;
use door::{Delivery, Inbox, Intake, Message as Received, Retained, Sender, Verdict};

impl<I: Inbox, S: Stream> Connection<I, S> {
    /// Handles one packet; `body` follows its fixed header.
    pub(super) fn packet(&mut self, framing: &Framing, body: &[u8]) -> Result<(), End> {
        let again = matches!(framing.first, 0x6A | 0x8A | 0xAA);
        if !(self.is_3_1 && again) {
            // 3.1 has DUP in PUBREL, SUBSCRIBE and UNSUBSCRIBE, too.
            check_flags(framing)?;
        }
        self.broker.metrics.packets.inc();
        match framing.packet_type() {
            kind::PUBLISH => self.publish(framing, body),
            kind::PUBACK => self.acknowledged(body),
            kind::PUBREC => self.recorded(body),
            kind::PUBREL => self.release(body),
            kind::PUBCOMP => self.completed(body),
            kind::SUBSCRIBE => self.subscribe(body),
            kind::UNSUBSCRIBE => self.unsubscribe(body),
            kind::PINGREQ => {
                encode::pingresp(&mut self.out);
                self.broker.metrics.replies.inc();
                Ok(())
            }
            kind::DISCONNECT => Err(self.disconnect(body)?),
            kind::CONNECT => Err(DecodeError::protocol("CONNECT was sent twice").into()),
            kind::AUTH => self.authenticate(body),
            _ => Err(DecodeError::protocol("a packet that only servers send").into()),
        }
    }

    fn publish(&mut self, framing: &Framing, body: &[u8]) -> Result<(), End> {
        let packet = publish::decode(framing, body, self.version)?;
        self.broker.metrics.publishes.inc();
        match packet.alias {
            None => self.take(&packet, packet.topic),
            Some(alias) => {
                let at = self.resolve(alias, packet.topic)?;
                let topic = self.aliases[at].take().expect("it was resolved");
                let taken = self.take(&packet, &topic);
                self.aliases[at] = Some(topic);
                taken
            }
        }
    }

    /// Returns the index of the topic behind an alias. A topic that comes with the alias replaces
    /// it.
    fn resolve(&mut self, alias: u16, topic: &str) -> Result<usize, DecodeError> {
        let invalid = |what| DecodeError { reason: reason::TOPIC_ALIAS_INVALID, what };
        if alias > self.broker.config.topic_alias_maximum {
            return Err(invalid("topic alias is larger than allowed"));
        }
        let at = usize::from(alias) - 1;
        if self.aliases.len() <= at {
            self.aliases.resize(at + 1, None);
        }
        let held = &mut self.aliases[at];
        if !topic.is_empty() && held.as_deref() != Some(topic) {
            self.alias_bytes += topic.len();
            self.alias_bytes -= held.as_ref().map_or(0, |before| before.len());
            *held = Some(topic.into());
        }
        // One that is in range and stands for nothing is no invalid alias (MQTT 5.0, section
        // 3.3.2.3.4).
        if held.is_some() { Ok(at) } else { Err(DecodeError::protocol("topic alias was not set")) }
    }

    fn take(&mut self, packet: &publish::Publish<'_>, topic: &str) -> Result<(), End> {
        if packet.qos > 0 {
            self.check_window(self.owed)?;
        }
        if packet.qos == 2 && !self.is_new(packet.packet_id)? {
            return Ok(());
        }
        let delivery = Delivery {
            id: (packet.qos > 0).then_some(packet.packet_id.into()),
            resent: packet.dup,
            in_flight: packet.dup && self.owes(packet.packet_id),
            retain: packet.retain,
            trace: if self.is_traced { properties::trace(packet.properties) } else { None },
        };
        let granted = self.grants.may_publish(topic);
        let verdict = if granted {
            self.intake.take(&Received { topic, payload: packet.payload, delivery })
        } else {
            Verdict::Denied
        };
        match verdict {
            Verdict::Denied => return self.deny(packet.qos, packet.packet_id, topic, granted),
            Verdict::OverQuota(quota) => return self.refuse(packet.qos, packet.packet_id, topic, quota),
            Verdict::Held => {
                self.hold(packet.qos, packet.packet_id);
                return Ok(());
            }
            Verdict::Staged | Verdict::Unreadable | Verdict::Plain => {}
        }
        let traced = self.intake.take_span().map(|span| self.describe(*span, packet.qos));
        self.broker.metrics.count_message(packet.qos, verdict);
        let keeps = self.broker.keeps(&self.tenant, self.meter(), (topic, packet.payload), packet.retain);
        let mut text = keeps.err();
        let copy = |keep| self.broker.copy(topic, packet.payload, packet.qos, keep, packet.properties);
        let mut copied = if keeps == Ok(true) { copy(true) } else { None };
        let keep = copied.is_some();
        if keeps == Ok(true) && !keep {
            text = Some(retained::NO_MEMORY);
        }
        let from = &self.sender.client;
        let mut takers = self.broker.takers(&self.tenant, topic, (packet.qos, packet.retain), from);
        let mut is_lost = false;
        // A copy only when there is a subscriber.
        if !keep && !takers.is_empty() {
            copied = copy(false);
            is_lost = copied.is_none();
        }
        if let Some(limit) = text {
            self.log_denial(topic, limit);
        }
        if is_lost {
            text = Some(answer::NO_MEMORY);
            let is_told = verdict == Verdict::Plain && self.version == Version::V5;
            if !is_told {
                self.broker.lose(&self.tenant, topic, packet.qos);
            }
        }
        if keep {
            let (qos, payload, properties) = (packet.qos, packet.payload, packet.properties);
            self.intake.retain(&Retained { topic, payload, qos, properties });
        }
        let code = match verdict {
            Verdict::Staged => reason::SUCCESS,
            Verdict::Unreadable => reason::PAYLOAD_FORMAT_INVALID,
            Verdict::Plain if keep => reason::SUCCESS,
            Verdict::Plain if packet.retain || is_lost => reason::QUOTA_EXCEEDED,
            Verdict::Plain => reason::NO_MATCHING_SUBSCRIBERS,
            Verdict::Denied | Verdict::OverQuota(_) | Verdict::Held => unreachable!("it was answered above"),
        };
        let answer = Answer::after(packet.qos, code);
        self.staged |= verdict != Verdict::Plain || keep;
        if copied.is_some() {
            self.stage_for_sessions(packet, topic, &mut takers, keep);
        }
        if answer != Answer::Nothing || copied.is_some() || traced.is_some() {
            let (wait, packet_id) = (self.turn(), packet.packet_id);
            let source = if copied.is_some() { self.shared_source(packet)? } else { None };
            let dispatch = copied
                .map(|message| Box::new(Dispatch { source, ..Dispatch::new(message, takers, &self.sender.client) }));
            let resent = packet.dup;
            self.owe(Pending { resent, dispatch, traced, text, ..Pending::answer(wait, packet_id, answer) });
        }
        Ok(())
    }

    /// Answers a message that is held until its device is adopted: no subscriber gets it.
    fn hold(&mut self, qos: u8, packet_id: u16) {
        let traced = self.intake.take_span().map(|span| self.describe(*span, qos));
        self.broker.metrics.count_message(qos, Verdict::Held);
        self.staged = true;
        let answer = Answer::after(qos, reason::SUCCESS);
        if answer != Answer::Nothing || traced.is_some() {
            let wait = self.turn();
            self.owe(Pending { traced, ..Pending::answer(wait, packet_id, answer) });
        }
    }

    /// Stages a message for sessions that outlast the process. With it, one of QoS 2 from such a
    /// session is known after a restart, so that the client can send it again. So is one that is
    /// kept for none: sent again, it would replace a later one of its topic.
    fn stage_for_sessions(
        &mut self,
        packet: &publish::Publish<'_>,
        topic: &str,
        takers: &mut [Taker],
        is_retained: bool,
    ) {
        let (intake, tenant) = (&mut self.intake, &self.tenant.id);
        let message = (topic, packet.payload);
        let is_stored = self.broker.store_for_sessions(intake, tenant, message, packet.properties, takers);
        if !is_stored && !is_retained {
            return;
        }
        self.staged = true;
        if packet.qos == 2 {
            // Another connection that has the session by now waits for this message.
            self.session.state().stage_receipt(&mut self.intake, packet.packet_id);
        }
    }

    /// Returns the source of a message of QoS 2 from a session of the fleet: its receipt is stored
    /// with it, if that goes to such sessions or is retained.
    fn shared_source(&self, packet: &publish::Publish<'_>) -> Result<Option<Source>, End> {
        if packet.qos < 2 || self.broker.fleet.is_none() {
            return Ok(None);
        }
        // Another connection of this node may have the session by now: it waits for this message.
        let state = self.session.state();
        if state.has_ended() {
            return Err(End::TakenOver);
        }
        let owned = state.ledger.as_ref().and_then(|ledger| ledger.owned());
        Ok(owned.map(|owned| Source::Publish(owned, packet.packet_id)))
    }

    /// Answers a message that the client may not send: nothing of it was staged, and nothing is
    /// retained or routed.
    fn deny(&mut self, qos: u8, packet_id: u16, topic: &str, granted: bool) -> Result<(), End> {
        self.broker.metrics.count_message(qos, Verdict::Denied);
        let reason = match granted {
            true => "device",
            false if topic.starts_with('$') => "server_topic",
            false => "topic",
        };
        self.broker.metrics.denied("publish", reason).inc();
        if qos > 0 && self.version == Version::V4 {
            // The client may send another message under this packet id.
            self.session.end_receipt(packet_id, self.number, false, &self.link);
            return Err(End::Denied(topic.into()));
        }
        self.log_denial(topic, answer::DENIED);
        if qos > 0 {
            let answer = Answer::after(qos, reason::NOT_AUTHORIZED);
            self.owe(Pending::answer(self.turn(), packet_id, answer));
        }
        Ok(())
    }

    /// Answers a message beyond a limit of the tenant that no wait cures: nothing of it was staged,
    /// and nothing is retained or routed. A client of MQTT 3.1.1 has to learn that it is not
    /// stored, and can by the end of the connection only.
    fn refuse(&mut self, qos: u8, packet_id: u16, topic: &str, quota: Quota) -> Result<(), End> {
        self.broker.metrics.count_message(qos, Verdict::OverQuota(quota));
        self.broker.metrics.limited(quota.name()).inc();
        if qos > 0 && self.version == Version::V4 {
            // The client may send another message under this packet id.
            self.session.end_receipt(packet_id, self.number, false, &self.link);
            return Err(End::OverQuota(topic.into(), quota));
        }
        self.log_denial(topic, answer::over(quota));
        if qos > 0 {
            let answer = Answer::after(qos, reason::QUOTA_EXCEEDED);
            self.owe(Pending { quota: Some(quota), ..Pending::answer(self.turn(), packet_id, answer) });
        }
        Ok(())
    }

    /// Logs the first denial of a connection.
    pub(super) fn log_denial(&mut self, topic: &str, why: &str) {
        if !std::mem::replace(&mut self.was_denied, true) {
            let Sender { client, peer, .. } = &self.sender;
            tracing::info!(
                %client, %peer, topic,
                "denied a message or a subscription: {why}; further ones of this connection are counted only"
            );
        }
    }

    /// The wait of a message that is not staged itself: for the messages before it.
    pub(super) fn turn(&self) -> Wait {
        if self.staged { Wait::Submit } else { Wait::Ticket(self.last_ticket) }
    }

    /// True when a message under this packet id has not been acknowledged.
    fn owes(&self, packet_id: u16) -> bool {
        self.pending.iter().any(|p| p.packet_id == packet_id && p.answer.is_acknowledgement())
    }

    /// Adds to a span what only the broker knows.
    fn describe(&self, span: Span, qos: u8) -> Box<Span> {
        let version = if self.version == Version::V5 { 5 } else { 4 };
        Box::new(span.number("mqtt.version", version).number("mqtt.qos", qos.into()))
    }

    /// MQTT 5 clients may not exceed the receive maximum; 3.1.1 clients do not know it, and wait.
    /// So does the bridge of this process: it passes on messages of a server that may not know it.
    fn check_window(&self, in_flight: usize) -> Result<(), DecodeError> {
        if self.version == Version::V5
            && !self.is_bridge
            && in_flight >= usize::from(self.broker.config.receive_maximum)
        {
            let what = "more messages in flight than the receive maximum";
            return Err(DecodeError { reason: reason::RECEIVE_MAXIMUM_EXCEEDED, what });
        }
        Ok(())
    }

    /// False for a QoS 2 message that was sent again: it is stored or on its way, and is
    /// acknowledged in its turn.
    fn is_new(&mut self, packet_id: u16) -> Result<bool, End> {
        let mut state = self.state()?;
        let wait = match state.unreleased.get(&packet_id) {
            None => {
                self.check_window(state.unreleased.len())?;
                state.unreleased.insert(packet_id, Receipt::Staged(self.number));
                return Ok(true);
            }
            Some(Receipt::Staged(number)) if *number == self.number => return Ok(false),
            Some(Receipt::Staged(_)) => Wait::Elsewhere,
            Some(Receipt::Stored) => self.turn(),
        };
        drop(state);
        let owed_already = |p: &Pending| p.packet_id == packet_id && matches!(p.answer, Answer::Pubrec(_));
        if !self.pending.iter().any(owed_already) {
            let answer = Answer::Pubrec(reason::SUCCESS);
            self.owe(Pending::answer(wait, packet_id, answer));
        }
        Ok(false)
    }

    pub(super) fn owe(&mut self, pending: Pending) {
        self.owed += usize::from(pending.answer.is_acknowledgement());
        self.pending.push_back(pending);
    }

    fn release(&mut self, body: &[u8]) -> Result<(), End> {
        let answer = acks::decode(body, self.version)?.of(kind::PUBREL)?;
        let (known, ledger) = {
            let mut state = self.state()?;
            let stored = state.unreleased.get(&answer.packet_id) == Some(&Receipt::Stored);
            let known = stored && state.unreleased.remove(&answer.packet_id).is_some();
            (known, if state.receipts.remove(&answer.packet_id) { state.ledger.clone() } else { None })
        };
        if known {
            self.intake.released(answer.packet_id.into());
        }
        if let Some(ledger) = ledger {
            // A client that has PUBCOMP may use the packet id for another message.
            ledger.drop_receipt(&mut self.intake, answer.packet_id);
            self.staged = true;
            self.owe(Pending::answer(Wait::Submit, answer.packet_id, Answer::Pubcomp));
            return Ok(());
        }
        let code = if known { reason::SUCCESS } else { reason::PACKET_ID_NOT_FOUND };
        self.continue_exchange(kind::PUBCOMP << 4, answer.packet_id, code);
        Ok(())
    }

    fn disconnect(&mut self, body: &[u8]) -> Result<End, End> {
        let packet = acks::decode_disconnect(body, self.version)?;
        if let Some(secs) = packet.session_expiry_secs {
            let mut state = self.session.owned_by(&self.link).ok_or(End::TakenOver)?;
            if state.expiry_secs == 0 && secs > 0 {
                return Err(DecodeError::protocol(
                    "the expiry of a session that ends with its connection cannot be changed",
                )
                .into());
            }
            state.expiry_secs = secs.min(self.broker.config.max_session_expiry_secs);
            // One that ends is dropped from the log with its connection.
            let lasts = state.expiry_secs > 0;
            if let Some(ledger) = state.ledger.as_ref().filter(|ledger| lasts || !ledger.is_in_log()) {
                ledger.keep(&mut self.intake, &self.sender.client, state.expiry_secs);
                self.staged = true;
            }
        }
        if packet.reason == reason::SUCCESS {
            self.drop_will()?;
        }
        Ok(End::Client)
    }
}
