//! Messages of QoS 1 and 2 on their way to a client, from the PUBLISH to the last acknowledgement.
//!
//! A message at QoS 2 goes through two lists. It is in `messages` until PUBREC: the client may not
//! have it, and the next connection sends it again. After PUBREC only its packet id is kept, in
//! `releases`, until PUBCOMP: the client has the message, and the next connection sends PUBREL
//! again. Each list is sent again in its order, PUBRELs first (MQTT 5.0, sections 4.4 and 4.6).
//!
//! Both lists belong to the session and outlast its connections. `sent` and `released` belong to
//! the present connection alone.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::durable::Duty;
use crate::queue::Queued;

/// Maximum number of messages that are in flight to a client.
pub(crate) const MAX_IN_FLIGHT: usize = 1024;

/// Messages of QoS 1 and 2 in flight to one client.
#[derive(Debug, Default)]
pub(crate) struct InFlight {
    /// Messages that the client has not acknowledged, in the order of their first PUBLISH.
    messages: VecDeque<(u16, Queued)>,
    /// Messages that the client has, in the order of its PUBRECs.
    releases: VecDeque<Release>,
    last_id: u16,
    /// Messages at the front that the present connection has sent.
    sent: usize,
    /// Packet ids at the front that the present connection has released.
    released: usize,
}

/// A message that the client has, until PUBCOMP.
#[derive(Debug)]
pub(crate) struct Release {
    packet_id: u16,
    duty: Option<Duty>,
    /// That the client has it is durable.
    is_stored: bool,
}

/// The answer to a PUBREC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Recorded {
    /// PUBREL.
    Release,
    /// PUBREL with the reason that there is no such packet id.
    Unknown,
    /// None: the client has refused the message.
    Refused,
}

impl InFlight {
    /// True when nothing is in flight.
    pub(crate) fn is_empty(&self) -> bool {
        self.messages.is_empty() && self.releases.is_empty()
    }

    /// Number of messages whose delivery is not over.
    pub(crate) fn len(&self) -> usize {
        self.messages.len() + self.releases.len()
    }

    /// True when the client may not have a message for which `is` is true.
    pub(crate) fn any(&self, is: impl Fn(&Queued) -> bool) -> bool {
        self.messages.iter().any(|(_, queued)| is(queued))
    }

    /// Removes the QoS 1 messages of shared subscriptions for which `take` is true, in their order.
    pub(crate) fn take_shared(&mut self, mut take: impl FnMut(&Arc<str>) -> bool) -> Vec<Queued> {
        let mut taken = Vec::new();
        let mut at = 0;
        while let Some((_, queued)) = self.messages.get(at) {
            if queued.qos == 1 && queued.share.as_ref().is_some_and(&mut take) {
                taken.extend(self.messages.remove(at).map(|(_, queued)| queued));
                self.sent -= usize::from(at < self.sent);
            } else {
                at += 1;
            }
        }
        taken
    }

    /// Numbers of messages of shared subscriptions that were sent at QoS 2, and of those that the
    /// client has, in a session that lasts.
    pub(crate) fn shared_once(&self) -> impl Iterator<Item = u64> {
        let of_share = self.messages.iter().map(|(_, queued)| queued).filter(|queued| queued.share.is_some());
        let sent = of_share.filter(|queued| queued.qos == 2).filter_map(|queued| queued.duty.as_ref());
        let released = self.releases.iter().filter_map(|release| release.duty.as_ref());
        sent.chain(released).map(|duty| duty.number)
    }

    /// Begins again for another connection: what is in flight is sent once more.
    pub(crate) fn reconnect(&mut self) {
        (self.sent, self.released) = (0, 0);
    }

    /// True when a message may be sent to a client that accepts `most` in flight. Those of earlier
    /// connections count when they were sent again.
    pub(crate) fn has_room(&self, most: usize) -> bool {
        self.sent + self.releases.len() < most
    }

    /// Returns the next packet id that the present connection has to release again, and whether it
    /// is durable that the client has the message.
    pub(crate) fn next_release(&mut self) -> Option<(u16, bool)> {
        let release = self.releases.get(self.released)?;
        self.released += 1;
        Some((release.packet_id, release.is_stored))
    }

    /// Notes that it is durable that the client has a message.
    pub(crate) fn note_stored(&mut self, packet_id: u16) {
        if let Some(at) = self.release_of(packet_id) {
            self.releases[at].is_stored = true;
        }
    }

    /// Returns the next message that the present connection has to send again.
    pub(crate) fn next_again(&self) -> Option<(u16, &Queued)> {
        self.messages.get(self.sent).map(|(id, queued)| (*id, queued))
    }

    /// Notes that this message was sent.
    pub(crate) fn sent_again(&mut self) {
        self.sent += 1;
    }

    /// Removes this message, which the client can or may not get.
    pub(crate) fn drop_again(&mut self) {
        self.messages.remove(self.sent);
    }

    /// Returns the next free packet id.
    pub(crate) fn next_id(&mut self) -> u16 {
        loop {
            self.last_id = self.last_id.checked_add(1).unwrap_or(1);
            if !self.uses(self.last_id) {
                return self.last_id;
            }
        }
    }

    /// True while an exchange under this packet id has not ended.
    pub(crate) fn uses(&self, packet_id: u16) -> bool {
        self.position(packet_id).is_some() || self.release_of(packet_id).is_some()
    }

    /// The numbers of the messages that the client has, in a session that outlasts the process.
    pub(crate) fn released_numbers(&self) -> Vec<u64> {
        self.releases.iter().filter_map(|release| Some(release.duty.as_ref()?.number)).collect()
    }

    /// Adds a message of an earlier start that the client has.
    pub(crate) fn restore_release(&mut self, duty: Duty) {
        let packet_id = duty.packet_id();
        self.releases.push_back(Release { packet_id, duty: Some(duty), is_stored: true });
    }

    /// Adds a message that was sent in an earlier start.
    pub(crate) fn restore(&mut self, packet_id: u16, queued: Queued) {
        self.messages.push_back((packet_id, queued));
    }

    /// Adds a message that was sent for the first time, after all others were sent again.
    pub(crate) fn begin(&mut self, packet_id: u16, queued: Queued) {
        self.messages.push_back((packet_id, queued));
        self.sent += 1;
    }

    /// Handles PUBACK, which ends a message at QoS 1.
    pub(crate) fn acknowledge(&mut self, packet_id: u16) {
        if let Some(at) = self.position(packet_id).filter(|at| self.messages[*at].1.qos == 1) {
            self.remove(at);
        }
    }

    /// Handles PUBREC, which refuses a message at QoS 2 when it has `failed`.
    pub(crate) fn record(&mut self, packet_id: u16, failed: bool) -> Recorded {
        if let Some(at) = self.position(packet_id).filter(|at| self.messages[*at].1.qos == 2) {
            let duty = self.remove(at).and_then(|queued| queued.duty);
            if failed {
                return Recorded::Refused;
            }
            // Behind those that the present connection has released.
            self.releases.insert(self.released, Release { packet_id, duty, is_stored: false });
            self.released += 1;
            return Recorded::Release;
        }
        match (self.release_of(packet_id).is_some(), failed) {
            (_, true) => {
                self.complete(packet_id);
                Recorded::Refused
            }
            (true, false) => Recorded::Release,
            (false, false) => Recorded::Unknown,
        }
    }

    /// Handles PUBCOMP, which ends a message at QoS 2.
    pub(crate) fn complete(&mut self, packet_id: u16) {
        if let Some(at) = self.release_of(packet_id) {
            self.releases.remove(at);
            self.released -= usize::from(at < self.released);
        }
    }

    /// Messages of which the client may have some: also those that the present connection has not
    /// sent again.
    fn position(&self, packet_id: u16) -> Option<usize> {
        self.messages.iter().position(|(id, _)| *id == packet_id)
    }

    fn release_of(&self, packet_id: u16) -> Option<usize> {
        self.releases.iter().position(|release| release.packet_id == packet_id)
    }

    fn remove(&mut self, at: usize) -> Option<Queued> {
        self.sent -= usize::from(at < self.sent);
        self.messages.remove(at).map(|(_, queued)| queued)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Message;

    fn queued(qos: u8) -> Queued {
        let message = Arc::new(Message::new("n", b"x", qos, false, &[]));
        Queued::new(message, qos)
    }

    fn begin(in_flight: &mut InFlight, qos: u8) -> u16 {
        let id = in_flight.next_id();
        in_flight.begin(id, queued(qos));
        id
    }

    #[test]
    fn no_packet_id_is_used_twice_at_a_time() {
        let mut in_flight = InFlight::default();
        let (one, two) = (begin(&mut in_flight, 1), begin(&mut in_flight, 2));
        assert_eq!(in_flight.record(two, false), Recorded::Release);
        assert_eq!((one, two), (1, 2));
        for _ in 3..=u16::MAX {
            let id = begin(&mut in_flight, 1);
            assert!(id > 2);
            in_flight.acknowledge(id);
        }
        assert_eq!(begin(&mut in_flight, 1), 3, "1 waits for PUBACK, 2 for PUBCOMP");
        in_flight.complete(two);
        in_flight.acknowledge(one);
        assert!(in_flight.has_room(2) && !in_flight.has_room(1));
    }

    #[test]
    fn acknowledgements_before_all_is_sent_again_keep_the_order_of_the_rest() {
        let mut in_flight = InFlight::default();
        let ids: Vec<u16> = [2, 1, 2, 1].into_iter().map(|qos| begin(&mut in_flight, qos)).collect();
        in_flight.reconnect();
        assert_eq!(in_flight.next_again().map(|(id, _)| id), Some(ids[0]));
        in_flight.sent_again();
        // Of a message that has its turn later.
        assert_eq!(in_flight.record(ids[2], false), Recorded::Release);
        in_flight.acknowledge(ids[0]);
        assert_eq!(in_flight.record(ids[0], true), Recorded::Refused, "PUBACK ends nothing at QoS 2");
        assert_eq!(in_flight.next_release(), None, "PUBREL was the answer to PUBREC");
        let mut rest = Vec::new();
        while let Some((id, _)) = in_flight.next_again() {
            rest.push(id);
            in_flight.sent_again();
        }
        assert_eq!(rest, [ids[1], ids[3]]);
        in_flight.reconnect();
        assert_eq!((in_flight.next_release(), in_flight.next_release()), (Some((ids[2], false)), None));
    }
}
