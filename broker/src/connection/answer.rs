//! Acknowledgements: in receipt order, each after its message is durable.

use std::sync::Arc;
use std::time::Instant;

use model::trace::Span;

use super::end::End;
use super::{Connection, Stream};
use crate::codec::{Version, encode, packet_type, reason};
use crate::message::Message;
use crate::route::{Dispatch, Routed};
use crate::session::{Lasting, Receipt};
use door::quota::Quota;
use door::{Inbox, Intake, Ticket};

/// The reason of a message that was denied.
pub(super) const DENIED: &str = "the topic is not granted to this client, or a reading is of another device";

/// The reason of a message that is beyond a limit of its tenant.
pub(super) fn over(quota: Quota) -> &'static str {
    match quota {
        Quota::Devices => "not stored: the limit devices of the tenant is reached, and this device is new",
        Quota::Series => "not stored: the limit series of the tenant is reached, and a value name is new",
        Quota::Storage => "not stored: the limit storage_bytes of the tenant is reached",
        _ => "not stored: a limit of the tenant is reached",
    }
}

/// The condition under which a message is acknowledged and routed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    /// Its submission to the log.
    Submit,
    /// The durability of its ticket.
    Ticket(Ticket),
    /// The connection that received it first and has ended: the client has sent this QoS 2 message
    /// again.
    Elsewhere,
}

/// A message to be acknowledged, or routed, when it is durable.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) wait: Wait,
    pub(super) packet_id: u16,
    pub(super) answer: Answer,
    /// It is marked as resent.
    pub(super) resent: bool,
    /// In a fleet: a ticket of the store of its sessions, to wait for as well; 0 for none.
    pub(super) shared: u64,
    /// The subscribers that it went to, once it is durable in the log.
    pub(super) routed: Routed,
    /// For subscribers, once it is durable.
    pub(super) dispatch: Option<Box<Dispatch>>,
    /// Ends when the message is acknowledged.
    pub(super) traced: Option<Box<Span>>,
    /// The limit that it is beyond.
    pub(super) quota: Option<Quota>,
    /// The explanation of its code.
    pub(super) text: Option<&'static str>,
}

/// The explanation of a message that no subscriber got.
const QUEUES_FULL: &str = "not delivered: the queue of every subscriber is full (mqtt.max_queued_messages)";
/// The explanation of a message for which there was no memory.
pub(super) const NO_MEMORY: &str =
    "not delivered: the memory for messages to subscribers is used up (memory.max_bytes)";

impl Pending {
    /// An acknowledgement alone.
    pub(super) fn answer(wait: Wait, packet_id: u16, answer: Answer) -> Self {
        let (resent, shared, routed, dispatch, traced, quota, text) = Default::default();
        Self { wait, packet_id, answer, resent, shared, routed, dispatch, traced, quota, text }
    }
}

/// The answer that the client is owed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// To a message of QoS 0.
    Nothing,
    /// To a message of QoS 1.
    Puback(u8),
    /// To a message of QoS 2.
    Pubrec(u8),
    /// To a PUBREC of the client.
    Pubrel,
    /// To a PUBREL of the client.
    Pubcomp,
    /// SUBACK or UNSUBACK.
    Packet(Box<[u8]>),
}

impl Answer {
    /// The answer to a message of this QoS, with the reason code.
    pub(super) fn after(qos: u8, code: u8) -> Self {
        match qos {
            0 => Self::Nothing,
            1 => Self::Puback(code),
            _ => Self::Pubrec(code),
        }
    }

    /// True when it acknowledges a message of the client.
    pub(super) fn is_acknowledgement(&self) -> bool {
        matches!(self, Self::Puback(_) | Self::Pubrec(_))
    }
}

impl<I: Inbox, S: Stream> Connection<I, S> {
    /// Acknowledges every message that is durable. True when there was one.
    pub(super) fn answer(&mut self) -> Result<bool, End> {
        if self.pending.is_empty() {
            return Ok(false);
        }
        let durable = self.intake.durable().map_err(End::Failed)?;
        let mut any = false;
        let mut count = 0;
        loop {
            let moved = self.route_next(durable)?;
            any |= moved;
            if !self.is_front_due()? {
                if moved {
                    continue;
                }
                break;
            }
            let mut due = self.pending.pop_front().expect("it was there");
            self.routed -= 1;
            let traced = due.traced.take();
            let too_late = self.gone && due.answer.is_acknowledgement();
            any = true;
            count += u64::from(self.answer_one(due));
            if let Some(mut span) = traced {
                if too_late {
                    span.error = Some("the client had left before it was acknowledged".to_owned());
                }
                self.intake.answered(span);
            }
        }
        self.broker.metrics.acknowledgements.inc_by(count);
        if let Some((ticket, since)) = self.timed
            && ticket <= durable
        {
            self.broker.metrics.acknowledgement_time.observe(Instant::now().duration_since(since).as_secs_f64());
            self.timed = None;
        }
        Ok(any)
    }

    /// Routes the next message, if it is durable in the log. True when there was one.
    fn route_next(&mut self, durable: Ticket) -> Result<bool, End> {
        let Some(next) = self.pending.get(self.routed) else { return Ok(false) };
        let due = match next.wait {
            Wait::Submit => false,
            Wait::Ticket(ticket) => ticket <= durable,
            Wait::Elsewhere => self.is_stored_elsewhere(next.packet_id)?,
        };
        if !due || next.dispatch.is_some() && (self.has_earlier() || self.stage_later()) {
            return Ok(false);
        }
        let next = &mut self.pending[self.routed];
        next.wait = Wait::Ticket(Ticket::default());
        self.routed += 1;
        if let Some(mut dispatch) = next.dispatch.take() {
            dispatch.submitter = self.broker.fleet.as_ref().map(|_| Arc::clone(&self.link) as _);
            let is_known = next.resent && !dispatch.message.retain && self.broker.fleet.is_none();
            if is_known && self.intake.was_routed(next.packet_id.into()) {
                // Sessions that last have it since before the start.
                dispatch.takers.retain(|taker| taker.session.lasting() != Lasting::Log);
            }
            let has_receipt = dispatch.source.is_some();
            next.routed = self.broker.route(&self.tenant, *dispatch);
            let ticket = next.routed.ticket;
            if has_receipt && ticket > 0 {
                // Stored with the message, and so is its end. Another connection may have the
                // session by now.
                self.session.state().receipts.insert(next.packet_id);
            }
            self.is_forwarding = next.routed.is_forwarded;
            if let Some(fleet) = self.broker.fleet.as_ref().filter(|_| ticket > 0) {
                next.shared = next.shared.max(ticket);
                fleet.store.wake(ticket, &self.arrival);
            }
        }
        Ok(true)
    }

    /// Keeps the next message to be routed, if it is a retained one. True when sessions that
    /// outlast the process have subscribed since it arrived; or when another one has replaced it,
    /// which goes to the new subscriber: it waits until it is durable for them, too.
    fn stage_later(&mut self) -> bool {
        let Some(next) = self.pending.get_mut(self.routed) else { return false };
        let Some(dispatch) = &mut next.dispatch else { return false };
        dispatch.is_late = dispatch.message.retain && self.session.state().has_ended();
        let mut before = self.broker.keep(&self.tenant, dispatch);
        if let Some(granted) = dispatch.walk
            && let Some(now) = self.tenant.retained.get(&dispatch.message.topic)
            && !Arc::ptr_eq(&now, &dispatch.message)
        {
            // It may have been set before the subscription.
            dispatch.takers.iter_mut().for_each(|taker| taker.qos = now.qos.min(granted));
            (dispatch.message, before) = (now, 0);
        }
        let Message { topic, payload, properties, .. } = &*dispatch.message;
        let (contents, later) = ((&**topic, &**payload), &mut dispatch.takers[before..]);
        if !self.broker.store_for_sessions(&mut self.intake, &self.tenant.id, contents, properties, later) {
            return false;
        }
        next.wait = Wait::Submit;
        self.staged = true;
        if let Answer::Pubrec(_) = next.answer {
            self.session.state().stage_receipt(&mut self.intake, next.packet_id);
        }
        true
    }

    /// True when the first message is routed, and the sessions of the fleet have it. An error when
    /// they do not get it.
    fn is_front_due(&self) -> Result<bool, End> {
        let Some(front) = self.pending.front().filter(|_| self.routed > 0) else { return Ok(false) };
        if let Some(fleet) = self.broker.fleet.as_ref().filter(|_| front.shared > 0)
            && !fleet.store.is_durable(front.shared)
        {
            return Ok(false);
        }
        // It is noted before the ticket is durable.
        self.link.refusal().map_or(Ok(true), |refusal| Err(refusal.into()))
    }

    /// Acknowledges a message that is durable. True when an acknowledgement was written.
    fn answer_one(&mut self, due: Pending) -> bool {
        let Routed { takers, full, .. } = due.routed;
        let mut text = due.text;
        // The answer for a message that is neither telemetry nor kept.
        let mut settle = |code| match code {
            reason::NO_MATCHING_SUBSCRIBERS if takers > 0 && takers == full => {
                text = Some(QUEUES_FULL);
                reason::QUOTA_EXCEEDED
            }
            reason::NO_MATCHING_SUBSCRIBERS if takers > 0 => reason::SUCCESS,
            code => code,
        };
        let (first, code) = match due.answer {
            Answer::Nothing => return false,
            Answer::Pubrel | Answer::Pubcomp | Answer::Packet(_) => {
                self.answer_packet(&due.answer, due.packet_id);
                return false;
            }
            Answer::Puback(code) => (packet_type::PUBACK << 4, settle(code)),
            Answer::Pubrec(code) => {
                let code = settle(code);
                // In MQTT 5 a failed PUBREC ends the exchange: no PUBREL follows. In 3.1.1 no
                // PUBREC fails.
                let keep = code < 0x80 || self.version == Version::V4;
                self.session.end_receipt(due.packet_id, self.number, keep, &self.link);
                (packet_type::PUBREC << 4, code)
            }
        };
        self.owed -= 1;
        if self.gone {
            return false;
        }
        let text = match code {
            reason::QUOTA_EXCEEDED => text.or(due.quota.map(over)).unwrap_or("a limit is reached"),
            reason::NOT_AUTHORIZED => DENIED,
            _ => "the payload cannot be read; it is kept in the dead letters",
        };
        let text = (code >= 0x80 && self.problem_information).then_some(text);
        let version = self.version;
        self.reply(text, |out, text| encode::answer(out, version, first, due.packet_id, code, text)).is_ok()
    }

    /// Writes an answer that is no acknowledgement of a message.
    fn answer_packet(&mut self, answer: &Answer, packet_id: u16) {
        if *answer == Answer::Pubrel
            && let Some(mut state) = self.session.owned_by(&self.link)
        {
            state.in_flight.note_stored(packet_id);
        }
        if self.gone {
            return;
        }
        let first = match answer {
            Answer::Pubrel => packet_type::PUBREL << 4 | 2,
            Answer::Pubcomp => packet_type::PUBCOMP << 4,
            Answer::Packet(packet) => {
                self.out.extend_from_slice(packet);
                // Retained messages for new subscriptions follow it.
                self.walking = true;
                return;
            }
            Answer::Nothing | Answer::Puback(_) | Answer::Pubrec(_) => return,
        };
        self.continue_exchange(first, packet_id, reason::SUCCESS);
    }

    /// Writes a PUBREL or PUBCOMP.
    pub(super) fn continue_exchange(&mut self, first: u8, packet_id: u16, code: u8) {
        encode::answer(&mut self.out, self.version, first, packet_id, code, None);
        self.broker.metrics.replies.inc();
    }

    fn is_stored_elsewhere(&self, packet_id: u16) -> Result<bool, End> {
        match self.state()?.unreleased.get(&packet_id) {
            Some(Receipt::Stored) => Ok(true),
            Some(Receipt::Staged(_)) => Ok(false),
            // It was not stored, and there is no copy: the client has to send it once more.
            None => Err(End::Unstored),
        }
    }
}
