//! Acknowledgements: in receipt order, each when its message is durable.

use std::sync::Arc;

use super::Connection;
use super::end::End;
use crate::codec::{encode, packet_type, reason};
use crate::inbox::{Inbox, Intake, Ticket};
use crate::message::Message;

/// A message whose sender waits, or that has to be routed when it is durable.
#[derive(Debug)]
pub(super) struct Pending {
    /// None until it was handed to the log.
    pub(super) ticket: Option<Ticket>,
    pub(super) packet_id: u16,
    pub(super) answer: Answer,
    /// Goes to subscribers once it is durable.
    pub(super) message: Option<Arc<Message>>,
}

/// What the sender is owed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// Nothing: QoS 0.
    Nothing,
    /// QoS 1.
    Puback(u8),
    /// QoS 2.
    Pubrec(u8),
}

impl<I: Inbox> Connection<I> {
    /// Answers everything that is durable. True when there was something.
    pub(super) fn answer(&mut self) -> Result<bool, End> {
        if self.pending.is_empty() {
            return Ok(false);
        }
        let durable = self.intake.durable().map_err(End::Failed)?;
        let mut count = 0;
        while let Some(front) = self.pending.front() {
            if front.ticket.is_none_or(|ticket| ticket > durable) {
                break;
            }
            let due = self.pending.pop_front().expect("it was there");
            let no_taker = match due.message {
                Some(message) => self.broker.route(&message, &self.client.id) == 0,
                None => false,
            };
            let (first, code) = match due.answer {
                Answer::Nothing => continue,
                Answer::Puback(code) => (packet_type::PUBACK << 4, code),
                Answer::Pubrec(code) => (packet_type::PUBREC << 4, code),
            };
            let text = (code >= 0x80 && self.problem_information)
                .then_some("the payload cannot be read; it is kept in the dead letters");
            let code = if code == reason::NO_MATCHING_SUBSCRIBERS && !no_taker { reason::SUCCESS } else { code };
            encode::answer(&mut self.out, self.version, first, due.packet_id, code, text);
            count += 1;
        }
        self.broker.metrics.acknowledgements.inc_by(count);
        Ok(count > 0)
    }
}
