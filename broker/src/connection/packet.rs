//! What each packet does.

use std::sync::Arc;

use super::answer::{Answer, Pending, Wait};
use super::end::End;
use super::{Connection, Stream};
use crate::codec::subscribe::RetainHandling;
use crate::codec::{
    DecodeError, Framing, Version, acks, check_flags, encode, packet_type as kind, publish, reason, subscribe,
};
use crate::inbox::{Inbox, Intake, Publish, Verdict};
use crate::message::Message;
use crate::session::Receipt;
use crate::trie::Entry;

impl<I: Inbox, S: Stream> Connection<I, S> {
    /// Handles one packet; `body` is what stands behind its fixed header.
    pub(super) fn packet(&mut self, framing: &Framing, body: &[u8]) -> Result<(), End> {
        check_flags(framing)?;
        match framing.packet_type() {
            kind::PUBLISH => self.publish(framing, body),
            kind::PUBACK => {
                let answer = acks::decode(body, self.version)?;
                self.acknowledged(answer.packet_id)
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
                let at = self.resolve(alias, packet.topic)?;
                let topic = self.aliases[at].take().expect("it was resolved");
                let taken = self.take(&packet, &topic);
                self.aliases[at] = Some(topic);
                taken
            }
        }
    }

    /// Where the topic is that an alias stands for; a topic that comes with it replaces it.
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
        let traced = self.intake.traced();
        self.broker.metrics.count_message(packet.qos, verdict);
        let keep = self.broker.keeps(topic, packet.retain);
        if keep {
            self.intake.retain(&message);
        }
        let code = match verdict {
            Verdict::Staged => reason::SUCCESS,
            Verdict::Quarantined => reason::PAYLOAD_FORMAT_INVALID,
            Verdict::Plain if keep => reason::SUCCESS,
            Verdict::Plain => reason::NO_MATCHING_SUBSCRIBERS,
        };
        let answer = match packet.qos {
            0 => Answer::Nothing,
            1 => Answer::Puback(code),
            _ => Answer::Pubrec(code),
        };
        self.staged |= verdict != Verdict::Plain || keep;
        // A copy only when somebody wants one.
        let wanted = keep || self.broker.trie.any(topic);
        let copy = wanted.then(|| Arc::new(Message::new(topic, packet.payload, packet.qos, keep, packet.properties)));
        if answer != Answer::Nothing || copy.is_some() || traced.is_some() {
            // What is not staged waits for what came before it only.
            let wait = if self.staged { Wait::Submit } else { Wait::Ticket(self.last_ticket) };
            self.owe(Pending { wait, packet_id: packet.packet_id, answer, message: copy, traced });
        }
        Ok(())
    }

    /// MQTT 5 clients may not have more messages in flight than they were told; others wait.
    fn check_window(&self, in_flight: usize) -> Result<(), DecodeError> {
        if self.version == Version::V5 && in_flight >= usize::from(self.broker.config.receive_maximum) {
            let what = "more messages in flight than the receive maximum";
            return Err(DecodeError { reason: reason::RECEIVE_MAXIMUM_EXCEEDED, what });
        }
        Ok(())
    }

    /// False for a QoS 2 message that was sent again: it is stored or on its way, and answered in its turn.
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
            Some(Receipt::Stored) if self.staged => Wait::Submit,
            Some(Receipt::Stored) => Wait::Ticket(self.last_ticket),
        };
        drop(state);
        let owed_already = |p: &Pending| p.packet_id == packet_id && matches!(p.answer, Answer::Pubrec(_));
        if !self.pending.iter().any(owed_already) {
            let answer = Answer::Pubrec(reason::SUCCESS);
            self.owe(Pending { wait, packet_id, answer, message: None, traced: None });
        }
        Ok(false)
    }

    fn owe(&mut self, pending: Pending) {
        self.owed += usize::from(pending.answer != Answer::Nothing);
        self.pending.push_back(pending);
    }

    fn release(&mut self, body: &[u8]) -> Result<(), End> {
        let answer = acks::decode(body, self.version)?;
        let known = {
            let mut state = self.state()?;
            let stored = state.unreleased.get(&answer.packet_id) == Some(&Receipt::Stored);
            stored && state.unreleased.remove(&answer.packet_id).is_some()
        };
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
            let new = {
                // With the state held: who takes the session over finds the filter in both places or in none.
                let mut state = self.state()?;
                state.subscriptions.insert(filter.clone());
                self.broker.trie.insert(&filter, entry)
            };
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
            let was = {
                let mut state = self.state()?;
                state.subscriptions.remove(&filter) && self.broker.trie.remove(&filter, &self.client.id)
            };
            reasons.push(if was { reason::SUCCESS } else { reason::NO_SUBSCRIPTION });
        }
        encode::unsuback(&mut self.out, self.version, packet.packet_id, &reasons);
        Ok(())
    }

    fn disconnect(&mut self, body: &[u8]) -> Result<End, End> {
        let packet = acks::decode_disconnect(body, self.version)?;
        if let Some(secs) = packet.session_expiry_secs {
            let mut state = self.state()?;
            if state.expiry_secs == 0 && secs > 0 {
                return Err(DecodeError::protocol("a session that ends with its connection cannot be prolonged").into());
            }
            state.expiry_secs = secs.min(self.broker.config.max_session_expiry_secs);
        }
        Ok(End::Client { with_will: packet.reason == reason::DISCONNECT_WITH_WILL })
    }
}
