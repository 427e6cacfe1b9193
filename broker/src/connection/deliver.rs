//! Messages to the subscriber.

use super::{Connection, OUT_BYTES};
use crate::codec::encode;
use crate::inbox::Inbox;
use crate::metrics::Reason;
use crate::session::Queued;

impl<I: Inbox> Connection<I> {
    /// Sends what waits, as far as the client's window and the socket allow. True when something was sent.
    pub(super) fn deliver(&mut self) -> bool {
        if self.draining {
            return false;
        }
        let session = std::sync::Arc::clone(&self.session);
        let mut state = session.state.lock();
        if state.owner != self.number {
            return false;
        }
        let mut sent = 0;
        while self.out.len() - self.written < OUT_BYTES {
            let window_is_full = state.in_flight.len() >= self.send_maximum;
            match state.queue.front() {
                Some(next) if next.qos == 0 || !window_is_full => {}
                _ => break,
            }
            let queued = state.queue.pop_front().expect("it was there");
            if queued.message.seconds_left() == Some(0) {
                self.broker.metrics.dropped.get_or_create(&Reason { reason: "expired" }).inc();
                continue;
            }
            let packet_id = if queued.qos > 0 { state.next_id() } else { 0 };
            if self.send(&queued, packet_id, false) {
                sent += 1;
                if queued.qos > 0 {
                    state.in_flight.push_back((packet_id, queued));
                }
            }
        }
        self.broker.metrics.delivered.inc_by(sent);
        sent > 0
    }

    /// Sends again what an earlier connection did not get acknowledged.
    pub(super) fn deliver_again(&mut self) {
        let again: Vec<_> = self.session.state.lock().in_flight.iter().cloned().collect();
        for (packet_id, queued) in again {
            self.send(&queued, packet_id, true);
        }
    }

    /// False when the client does not take packets that large.
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
            self.broker.metrics.dropped.get_or_create(&Reason { reason: "too_large_for_client" }).inc();
        }
        fits
    }

    /// The client has a message at QoS 1.
    pub(super) fn acknowledged(&mut self, packet_id: u16) {
        let mut state = self.session.state.lock();
        if let Some(at) = state.in_flight.iter().position(|(id, _)| *id == packet_id) {
            state.in_flight.remove(at);
        }
        drop(state);
        self.session.attend();
    }
}
