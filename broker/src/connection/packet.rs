//! What each packet does.

use std::sync::Arc;

use super::Connection;
use super::answer::{Answer, Pending};
use super::end::End;
use crate::codec::subscribe::RetainHandling;
use crate::codec::{
    DecodeError, Framing, Version, acks, check_flags, encode, packet_type as kind, publish, reason, subscribe,
};
use crate::inbox::{Inbox, Intake, Publish, Verdict};
use crate::message::Message;
use crate::trie::Entry;

impl<I: Inbox> Connection<I> {
    /// Handles one packet; `body` is what stands behind its fixed header.
    pub(super) fn packet(&mut self, framing: &Framing, body: &[u8]) -> Result<(), End> {
        check_flags(framing)?;
        match framing.packet_type() {
            kind::PUBLISH => self.publish(framing, body),
            kind::PUBACK => {
                let answer = acks::decode(body, self.version)?;
                self.acknowledged(answer.packet_id);
                Ok(())
            }
            kind::PUBREL => self.release(body),
            kind::SUBSCRIBE => self.subscribe(body),
            kind::UNSUBSCRIBE => self.unsubscribe(body),
            kind::PINGREQ => {
                encode::pingresp(&mut self.out);
                Ok(())
            }
            kind::DISCONNECT => Err(self.disconnect(body)?),
            // Nothing is sent at QoS 2, so nothing is answered to it.
            kind::PUBREC | kind::PUBCOMP => Err(DecodeError::protocol("answer to a message that was not sent").into()),
            kind::CONNECT => Err(DecodeError::protocol("CONNECT stands twice").into()),
            kind::AUTH => Err(DecodeError::protocol("AUTH without an authentication method").into()),
            _ => Err(DecodeError::protocol("a packet that only servers send").into()),
        }
    }

    fn publish(&mut self, framing: &Framing, body: &[u8]) -> Result<(), End> {
        let packet = publish::decode(framing, body, self.version)?;
        self.broker.metrics.publishes.inc();
        match packet.alias {
            None => self.take(&packet, packet.topic),
            Some(alias) => {
                let topic = self.resolve(alias, packet.topic)?;
                self.take(&packet, &topic)
            }
        }
    }

    /// The topic that an alias stands for; a topic that comes with it replaces it.
    fn resolve(&mut self, alias: u16, topic: &str) -> Result<Box<str>, DecodeError> {
        let invalid = |what| DecodeError { reason: reason::TOPIC_ALIAS_INVALID, what };
        if alias > self.broker.config.topic_alias_maximum {
            return Err(invalid("topic alias is larger than allowed"));
        }
        let at = usize::from(alias) - 1;
        if self.aliases.len() <= at {
            self.aliases.resize(at + 1, None);
        }
        if !topic.is_empty() {
            self.aliases[at] = Some(topic.into());
        }
        self.aliases[at].clone().ok_or(invalid("topic alias was not set"))
    }

    fn take(&mut self, packet: &publish::Publish<'_>, topic: &str) -> Result<(), End> {
        if packet.qos > 0 && self.version == Version::V5 {
            let waiting = self.pending.iter().filter(|p| p.answer != Answer::Nothing);
            let limit = usize::from(self.broker.config.receive_maximum);
            if self.pending.len() >= limit && waiting.count() >= limit {
                let what = "more messages in flight than the receive maximum";
                return Err(DecodeError { reason: reason::RECEIVE_MAXIMUM_EXCEEDED, what }.into());
            }
        }
        if packet.qos == 2 && !self.session.state.lock().unreleased.insert(packet.packet_id) {
            // Sent again: it is stored or on its way, and answered in its turn.
            if !self.pending.iter().any(|p| p.packet_id == packet.packet_id) {
                self.owe(packet.packet_id, Answer::Pubrec(reason::SUCCESS), None, false);
            }
            return Ok(());
        }
        let message = Publish {
            topic,
            payload: packet.payload,
            qos: packet.qos,
            dup: packet.dup,
            retain: packet.retain,
            packet_id: packet.packet_id,
            properties: packet.properties,
        };
        let verdict = self.intake.publish(&message);
        let keep = packet.retain && self.broker.retained.has_room(topic);
        if keep {
            self.intake.retain(&message);
        }
        let staged = verdict != Verdict::Plain || keep;
        let code = match verdict {
            Verdict::Staged => reason::SUCCESS,
            Verdict::Quarantined => {
                self.broker.metrics.quarantined.inc();
                reason::PAYLOAD_FORMAT_INVALID
            }
            Verdict::Plain => {
                self.broker.metrics.plain.inc();
                if packet.retain { reason::SUCCESS } else { reason::NO_MATCHING_SUBSCRIBERS }
            }
        };
        let answer = match (packet.qos, code) {
            (0, _) => Answer::Nothing,
            (1, code) => Answer::Puback(code),
            (_, reason::PAYLOAD_FORMAT_INVALID) => {
                // A failed PUBREC ends the exchange: no PUBREL follows.
                self.session.state.lock().unreleased.remove(&packet.packet_id);
                Answer::Pubrec(code)
            }
            (_, code) => Answer::Pubrec(code),
        };
        // A copy only when somebody wants one.
        let wanted = keep || (!self.broker.trie.is_empty() && self.broker.has_takers(topic));
        let copy = wanted.then(|| Arc::new(Message::new(topic, packet.payload, packet.qos, keep, packet.properties)));
        if answer != Answer::Nothing || copy.is_some() {
            self.owe(packet.packet_id, answer, copy, staged);
        }
        self.staged |= staged;
        Ok(())
    }

    fn owe(&mut self, packet_id: u16, answer: Answer, message: Option<Arc<Message>>, staged: bool) {
        // What is not staged waits for what came before it only: order is kept by the ring.
        let ticket = if staged || self.unsubmitted > 0 { None } else { Some(self.last_ticket) };
        self.unsubmitted += usize::from(ticket.is_none());
        self.pending.push_back(Pending { ticket, packet_id, answer, message });
        self.answer_now |= ticket.is_some();
    }

    fn release(&mut self, body: &[u8]) -> Result<(), End> {
        let answer = acks::decode(body, self.version)?;
        let known = self.session.state.lock().unreleased.remove(&answer.packet_id);
        let code = if known { reason::SUCCESS } else { reason::PACKET_ID_NOT_FOUND };
        encode::answer(&mut self.out, self.version, kind::PUBCOMP << 4, answer.packet_id, code, None);
        Ok(())
    }

    fn subscribe(&mut self, body: &[u8]) -> Result<(), End> {
        let packet = subscribe::decode(body, self.version)?;
        let mut reasons = Vec::with_capacity(packet.filters.len());
        let mut retained = Vec::new();
        for (filter, mut options) in packet.filters {
            if model::topic::check_filter(&filter).is_err() {
                reasons.push(reason::TOPIC_FILTER_INVALID);
                continue;
            }
            // Messages are sent at QoS 1 at most, and the client is told so.
            options.qos = options.qos.min(1);
            reasons.push(options.qos);
            let entry = Entry {
                client: Arc::clone(&self.client.id),
                subscriber: Arc::clone(&self.session),
                options,
                id: packet.subscription_id,
            };
            let new = self.broker.trie.insert(&filter, entry);
            self.session.state.lock().subscriptions.insert(filter.clone(), ());
            let wanted = match options.retain_handling {
                RetainHandling::Always => true,
                RetainHandling::IfNew => new,
                RetainHandling::Never => false,
            };
            if wanted && !filter.starts_with("$share/") {
                retained.push((filter, options));
            }
        }
        encode::suback(&mut self.out, self.version, packet.packet_id, &reasons);
        for (filter, options) in retained {
            self.broker.send_retained(&self.session, &filter, options, packet.subscription_id);
        }
        Ok(())
    }

    fn unsubscribe(&mut self, body: &[u8]) -> Result<(), End> {
        let packet = subscribe::decode_unsubscribe(body, self.version)?;
        let mut reasons = Vec::with_capacity(packet.filters.len());
        for filter in packet.filters {
            let was = self.session.state.lock().subscriptions.remove(&filter).is_some();
            if was {
                self.broker.trie.remove(&filter, &self.client.id);
            }
            reasons.push(if was { reason::SUCCESS } else { reason::NO_SUBSCRIPTION });
        }
        encode::unsuback(&mut self.out, self.version, packet.packet_id, &reasons);
        Ok(())
    }

    fn disconnect(&mut self, body: &[u8]) -> Result<End, DecodeError> {
        let packet = acks::decode_disconnect(body, self.version)?;
        if let Some(secs) = packet.session_expiry_secs {
            let mut state = self.session.state.lock();
            if state.expiry_secs == 0 && secs > 0 {
                return Err(DecodeError::protocol("a session that ends with its connection cannot be prolonged"));
            }
            state.expiry_secs = secs.min(self.broker.config.max_session_expiry_secs);
        }
        Ok(End::Client { with_will: packet.reason == reason::DISCONNECT_WITH_WILL })
    }
}
