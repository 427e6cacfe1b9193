//! Messages to the subscriber.

use std::sync::Arc;

use super::end::End;
use super::{Connection, OUT_BYTES, RECHECK, Stream};
use crate::codec::encode;
use crate::session::{Queued, State};
use door::Inbox;

/// Retained messages wait for a place while the queue is longer than this.
const WALK_AHEAD: usize = 64;

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
        if !self.has_memory_for(&state.in_flight[state.on_the_wire].1) {
            return None;
        }
        let (packet_id, queued) = &state.in_flight[state.on_the_wire];
        let fits = self.may_receive(queued) && self.send(queued, *packet_id, true);
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
        if !self.has_memory_for(next) {
            return None;
        }
        let queued = state.pop()?;
        if queued.message.seconds_left() == Some(0) {
            self.broker.count_dropped("expired");
            return Some(false);
        }
        if !self.may_receive(&queued) {
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
            self.starved = true;
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
        let mut found = Vec::new();
        let after = self.tenant.retained.step(&walk, most, &mut found);
        for message in found {
            self.broker.send_retained(&self.session, message, &walk);
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
