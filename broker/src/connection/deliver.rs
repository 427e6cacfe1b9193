//! Messages to the subscriber.

use std::sync::Arc;

use super::end::End;
use super::{Connection, OUT_BYTES, Stream};
use crate::codec::encode;
use crate::session::{Queued, State};
use door::Inbox;

impl<I: Inbox, S: Stream> Connection<I, S> {
    /// Sends queued messages as far as the client's window and the socket allow. Messages that an
    /// earlier connection sent without an acknowledgement come first, marked DUP. True when
    /// something was sent.
    pub(super) fn deliver(&mut self) -> Result<bool, End> {
        if self.draining {
            return Ok(false);
        }
        let session = Arc::clone(&self.session);
        let mut state = session.owned_by(&self.link).ok_or(End::TakenOver)?;
        let mut sent = 0;
        while self.out.len() - self.written < OUT_BYTES {
            let sent_one = if state.on_the_wire < state.in_flight.len() {
                self.deliver_again(&mut state)
            } else {
                self.deliver_next(&mut state)
            };
            match sent_one {
                Some(yes) => sent += u64::from(yes),
                None => break,
            }
        }
        self.broker.metrics.delivered.inc_by(sent);
        Ok(sent > 0)
    }

    /// Returns None when nothing may be sent now, and otherwise whether the message was sent.
    fn deliver_again(&mut self, state: &mut State) -> Option<bool> {
        if state.on_the_wire >= self.send_maximum {
            return None;
        }
        let (packet_id, queued) = &state.in_flight[state.on_the_wire];
        let fits = self.send(queued, *packet_id, true);
        if fits {
            state.on_the_wire += 1;
        } else {
            state.in_flight.remove(state.on_the_wire);
        }
        Some(fits)
    }

    /// Returns None when nothing may be sent now, and otherwise whether the message was sent.
    fn deliver_next(&mut self, state: &mut State) -> Option<bool> {
        let next = state.queue.front()?;
        if next.qos > 0 && state.in_flight.len() >= self.send_maximum {
            return None;
        }
        let queued = state.pop()?;
        if queued.message.seconds_left() == Some(0) {
            self.broker.count_dropped("expired");
            return Some(false);
        }
        let packet_id = if queued.qos > 0 { state.next_id() } else { 0 };
        let fits = self.send(&queued, packet_id, false);
        if fits && queued.qos > 0 {
            state.in_flight.push_back((packet_id, queued));
            state.on_the_wire += 1;
        }
        Some(fits)
    }

    /// Returns false when the packet is larger than the client accepts.
    fn send(&mut self, queued: &Queued, packet_id: u16, dup: bool) -> bool {
        let begun = self.out.len();
        let how = encode::Outgoing {
            qos: queued.qos,
            dup,
            retain: queued.retain,
            packet_id,
            properties: &queued.message.properties,
            expiry_secs: queued.message.seconds_left(),
            subscription_ids: &queued.subscription_ids,
        };
        let message = &queued.message;
        let bytes = encode::publish(&mut self.out, self.version, &message.topic, &message.payload, &how);
        let fits = bytes <= self.maximum_packet_bytes;
        if !fits {
            self.out.truncate(begun);
            self.broker.count_dropped("too_large_for_client");
        }
        fits
    }

    /// Handles a PUBACK.
    pub(super) fn acknowledged(&mut self, packet_id: u16) -> Result<(), End> {
        self.state()?.acknowledged(packet_id);
        self.link.remember(crate::session::Link::ATTENTION);
        Ok(())
    }
}
