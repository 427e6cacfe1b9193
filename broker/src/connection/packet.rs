//! Handling of each packet type.

use std::sync::Arc;

use model::trace::Span;

use super::answer::{self, Answer, Pending, Wait};
use super::end::End;
use super::{Connection, Stream};
use crate::codec::subscribe::RetainHandling;
use crate::codec::{
    DecodeError, Framing, Version, acks, check_flags, encode, packet_type as kind, properties, publish, reason,
    subscribe,
};
use crate::retained::{self, Walk};
use crate::session::Receipt;
use crate::sys;
use crate::trie::Entry;
use door::quota::{Kept, Quota};
use door::{Delivery, Inbox, Intake, Message as Received, Retained, Sender, Verdict};

impl<I: Inbox, S: Stream> Connection<I, S> {
    /// Handles one packet; `body` follows its fixed header.
    pub(super) fn packet(&mut self, framing: &Framing, body: &[u8]) -> Result<(), End> {
        check_flags(framing)?;
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
        if held.is_some() { Ok(at) } else { Err(invalid("topic alias was not set")) }
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
            Verdict::Staged | Verdict::Quarantined | Verdict::Plain => {}
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
        let mut is_lost = false;
        // A copy only when there is a subscriber.
        if !keep && self.tenant.trie.any(topic) {
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
            Verdict::Quarantined => reason::PAYLOAD_FORMAT_INVALID,
            Verdict::Plain if keep => reason::SUCCESS,
            Verdict::Plain if packet.retain || is_lost => reason::QUOTA_EXCEEDED,
            Verdict::Plain => reason::NO_MATCHING_SUBSCRIBERS,
            Verdict::Denied | Verdict::OverQuota(_) => reason::NOT_AUTHORIZED,
        };
        let answer = Answer::after(packet.qos, code);
        self.staged |= verdict != Verdict::Plain || keep;
        if answer != Answer::Nothing || copied.is_some() || traced.is_some() {
            let (wait, packet_id) = (self.turn(), packet.packet_id);
            self.owe(Pending { wait, packet_id, answer, message: copied, traced, quota: None, text });
        }
        Ok(())
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
    fn log_denial(&mut self, topic: &str, why: &str) {
        if !std::mem::replace(&mut self.was_denied, true) {
            let Sender { client, peer, .. } = &self.sender;
            tracing::info!(
                %client, %peer, topic,
                "denied a message or a subscription: {why}; further ones of this connection are counted only"
            );
        }
    }

    /// The wait of a message that is not staged itself: for the messages before it.
    fn turn(&self) -> Wait {
        if self.staged { Wait::Submit } else { Wait::Ticket(self.last_ticket) }
    }

    /// True when a message under this packet id has not been acknowledged.
    fn owes(&self, packet_id: u16) -> bool {
        self.pending.iter().any(|p| p.packet_id == packet_id && p.answer != Answer::Nothing)
    }

    /// Adds to a span what only the broker knows.
    fn describe(&self, span: Span, qos: u8) -> Box<Span> {
        let version = if self.version == Version::V5 { 5 } else { 4 };
        Box::new(span.number("mqtt.version", version).number("mqtt.qos", qos.into()))
    }

    /// MQTT 5 clients may not exceed the receive maximum; 3.1.1 clients do not know it, and wait.
    fn check_window(&self, in_flight: usize) -> Result<(), DecodeError> {
        if self.version == Version::V5 && in_flight >= usize::from(self.broker.config.receive_maximum) {
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

    fn owe(&mut self, pending: Pending) {
        self.owed += usize::from(pending.answer != Answer::Nothing);
        self.pending.push_back(pending);
    }

    fn release(&mut self, body: &[u8]) -> Result<(), End> {
        let answer = acks::decode(body, self.version)?.of(kind::PUBREL)?;
        let known = {
            let mut state = self.state()?;
            let stored = state.unreleased.get(&answer.packet_id) == Some(&Receipt::Stored);
            stored && state.unreleased.remove(&answer.packet_id).is_some()
        };
        if known {
            self.intake.released(answer.packet_id.into());
        }
        let code = if known { reason::SUCCESS } else { reason::PACKET_ID_NOT_FOUND };
        encode::answer(&mut self.out, self.version, kind::PUBCOMP << 4, answer.packet_id, code, None);
        Ok(())
    }

    fn subscribe(&mut self, body: &[u8]) -> Result<(), End> {
        let packet = subscribe::decode(body, self.version)?;
        let mut reasons = Vec::with_capacity(packet.filters.len());
        let mut figures = None;
        let mut limit = None;
        for (filter, mut options) in packet.filters {
            if !subscribe::fits(filter) {
                reasons.push(reason::TOPIC_FILTER_INVALID);
                continue;
            }
            if !self.grants.may_subscribe(filter) {
                self.broker.metrics.denied("subscribe", "filter").inc();
                self.log_denial(filter, "the topic filter is not granted to this client");
                reasons.push(reason::NOT_AUTHORIZED);
                continue;
            }
            // 3.1.1 has no options: a bridge gets its own messages not back, and retained ones as
            // such.
            options.no_local |= self.is_bridge && !filter.starts_with("$share/");
            options.retain_as_published |= self.is_bridge;
            let entry = Entry {
                client: Arc::clone(&self.sender.client),
                subscriber: Arc::clone(&self.session),
                options,
                id: packet.subscription_id,
            };
            let new = {
                // With the state held: a connection that takes over the session finds the filter in
                // both places or in neither.
                let mut state = self.state()?;
                let held = state.subscriptions.contains(filter);
                let inserted = if !held && state.subscriptions.len() >= self.broker.config.max_subscriptions {
                    limit.get_or_insert("refused: the client has mqtt.max_subscriptions subscriptions");
                    None
                } else if !held && !self.may_keep(Kept::Subscriptions, || self.tenant.trie.len()) {
                    limit.get_or_insert("refused: the limit subscriptions of the tenant is reached");
                    None
                } else {
                    let inserted = self.tenant.trie.insert(filter, entry).ok();
                    if inserted.is_none() {
                        limit.get_or_insert("refused: the memory for sessions is used up (memory.max_bytes)");
                    }
                    inserted
                };
                if inserted.is_some() && !held {
                    state.subscriptions.insert(filter.to_owned());
                }
                inserted
            };
            let Some(new) = new else {
                reasons.push(reason::QUOTA_EXCEEDED);
                continue;
            };
            if filter.starts_with("$share/") {
                self.broker.collect_shared(&self.tenant, &[filter.to_owned()]);
            }
            reasons.push(options.qos);
            let wanted = match options.retain_handling {
                RetainHandling::Always => true,
                RetainHandling::IfNew => new,
                RetainHandling::Never => false,
            };
            if wanted && filter.starts_with(sys::LEVEL) {
                let figures = figures.get_or_insert_with(|| self.broker.first_figures(&self.tenant));
                self.broker.send_figures(&self.session, packet.subscription_id, filter, figures);
            } else if wanted && !filter.starts_with("$share/") {
                let walk = Walk { filter: filter.into(), options, id: packet.subscription_id, after: None };
                self.state()?.walks.insert(filter.into(), walk);
                self.walking = true;
            }
        }
        let version = self.version;
        let limit = limit.filter(|_| self.problem_information);
        self.reply(limit, |out, limit| encode::suback(out, version, packet.packet_id, &reasons, limit))
    }

    fn unsubscribe(&mut self, body: &[u8]) -> Result<(), End> {
        let packet = subscribe::decode_unsubscribe(body, self.version)?;
        let mut reasons = Vec::with_capacity(packet.filters.len());
        for filter in packet.filters {
            let was = {
                let mut state = self.state()?;
                state.walks.remove(filter);
                state.subscriptions.remove(filter) && self.tenant.trie.remove(filter, &self.sender.client)
            };
            reasons.push(if was { reason::SUCCESS } else { reason::NO_SUBSCRIPTION });
        }
        let version = self.version;
        self.reply(None, |out, _| encode::unsuback(out, version, packet.packet_id, &reasons))
    }

    fn disconnect(&mut self, body: &[u8]) -> Result<End, End> {
        let packet = acks::decode_disconnect(body, self.version)?;
        if let Some(secs) = packet.session_expiry_secs {
            let mut state = self.state()?;
            if state.expiry_secs == 0 && secs > 0 {
                return Err(DecodeError::protocol(
                    "the expiry of a session that ends with its connection cannot be changed",
                )
                .into());
            }
            state.expiry_secs = secs.min(self.broker.config.max_session_expiry_secs);
        }
        if packet.reason != reason::DISCONNECT_WITH_WILL {
            self.drop_will()?;
        }
        Ok(End::Client)
    }
}
