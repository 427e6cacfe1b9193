//! Unacknowledged and upcoming messages of a device.

use std::collections::VecDeque;
use std::iter::Peekable;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::stats::{Stats, add, subtract};
use crate::ledger::{Outcome, Record, Recorder};
use crate::plan::{Device, Fate, Message};

/// A message that was sent but not acknowledged.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) id: u16,
    pub(super) message: Message,
    pub(super) first_sent: Instant,
    /// QoS 2: PUBREC was received.
    pub(super) received: bool,
    /// A deliberate duplicate of another message with the same number.
    pub(super) copy: bool,
}

/// Upcoming messages of a device in the order of sending.
pub(crate) type Outbox = Box<dyn Iterator<Item = Message> + Send + Sync>;

/// All messages of a device, across its connections.
pub(super) struct Queue {
    pub(super) device: Device,
    pub(super) flights: VecDeque<Flight>,
    pub(super) stats: Arc<Stats>,
    messages: Peekable<Outbox>,
    recorder: Recorder,
    start: Instant,
    next_id: u16,
}

impl Queue {
    pub(super) fn new(device: Device, messages: Outbox, stats: Arc<Stats>, recorder: Recorder, start: Instant) -> Self {
        let messages = messages.peekable();
        Self { device, flights: VecDeque::new(), stats, messages, recorder, start, next_id: 1 }
    }

    /// True when all messages are sent and acknowledged.
    pub(super) fn is_done(&mut self) -> bool {
        self.flights.is_empty() && self.messages.peek().is_none()
    }

    /// The time of the next message; `None` after the last.
    pub(super) fn due(&mut self) -> Option<Instant> {
        self.messages.peek().map(|message| self.start + message.due)
    }

    /// The next message, if it is due.
    pub(super) fn next(&mut self, now: Instant) -> Option<Message> {
        let due = self.due()?;
        if now < due { None } else { self.messages.next() }
    }

    /// A packet id that is not in use.
    pub(super) fn packet_id(&mut self) -> u16 {
        loop {
            let id = self.next_id;
            // 65535 is reserved for the subscription.
            self.next_id = if id >= 65_534 { 1 } else { id + 1 };
            if self.flights.iter().all(|flight| flight.id != id) {
                return id;
            }
        }
    }

    /// Counts a message as sent and adds it to the messages in flight.
    pub(super) fn launch(&mut self, id: u16, message: Message, copy: bool) {
        add(if copy { &self.stats.again } else { &self.stats.sent }, 1);
        add(&self.stats.in_flight, 1);
        self.flights.push_back(Flight { id, message, first_sent: Instant::now(), received: false, copy });
    }

    /// Counts a message as sent that is never acknowledged (QoS 0).
    pub(super) async fn sent(&self, message: &Message) {
        add(&self.stats.sent, 1);
        let sent = self.start.elapsed();
        self.recorder.record(self.line(message.number, sent, Duration::ZERO, Outcome::Sent)).await;
    }

    /// Removes the acknowledged flight at `place`.
    pub(super) async fn land(&mut self, place: usize, outcome: Outcome) -> Option<Message> {
        let flight = self.flights.remove(place)?;
        subtract(&self.stats.in_flight, 1);
        if !flight.copy {
            let counter = match outcome {
                Outcome::Acknowledged => &self.stats.acknowledged,
                Outcome::Quarantined => &self.stats.quarantined,
                Outcome::Refused | Outcome::Sent | Outcome::End => &self.stats.refused,
            };
            add(counter, 1);
            let latency = flight.first_sent.elapsed();
            self.stats.latency(self.device.index, latency);
            self.write(&flight, latency, outcome).await;
        }
        Some(flight.message)
    }

    /// Gives up messages that cannot be acknowledged: copies, and messages that are too large.
    pub(super) async fn forget_hopeless(&mut self) {
        let mut place = 0;
        while let Some(flight) = self.flights.get(place) {
            if flight.copy || flight.message.fate == Fate::Oversize {
                self.give_up(place).await;
            } else {
                place += 1;
            }
        }
    }

    /// Gives up all messages.
    pub(super) async fn forget(&mut self) {
        while !self.flights.is_empty() {
            self.give_up(0).await;
        }
    }

    async fn give_up(&mut self, place: usize) {
        if let Some(flight) = self.flights.remove(place) {
            subtract(&self.stats.in_flight, 1);
            if !flight.copy {
                self.write(&flight, Duration::ZERO, Outcome::Sent).await;
            }
        }
    }

    async fn write(&self, flight: &Flight, latency: Duration, outcome: Outcome) {
        let sent = flight.first_sent.saturating_duration_since(self.start);
        self.recorder.record(self.line(flight.message.number, sent, latency, outcome)).await;
    }

    fn line(&self, number: u64, sent: Duration, latency: Duration, outcome: Outcome) -> Record {
        let micros = |d: Duration| u64::try_from(d.as_micros()).unwrap_or(u64::MAX);
        Record {
            device: self.device.index,
            number,
            sent_micros: micros(sent),
            latency_micros: micros(latency),
            outcome,
        }
    }
}
