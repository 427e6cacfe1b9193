//! Verifies deliveries: generates every message of a run again, and compares them with what each
//! subscriber has recorded.
//!
//! QoS is the lower one of the message and the subscription. At QoS 2 each acknowledged message
//! comes exactly once, at QoS 1 at least once. The messages of a topic come in their order. A
//! QoS 1 message may come again: marked DUP, as a delivery that was not acknowledged, or without
//! the mark when its device has sent it again, which is counted apart. A message of QoS 2 to a
//! subscription of QoS 1 comes again over another connection only, without the mark when the broker
//! was killed right after it.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::Path;

use serde::Serialize;

use crate::ledger::deliveries::{self, Delivery, Event};
use crate::ledger::{Ledger, Outcome};
use crate::plan::{self, Fate, Messages};
use crate::scenario::{Scenario, Subscribers, matches};

/// Number of faults of a subscriber that are listed.
const NAMED: usize = 10;

/// A message that was sent.
#[derive(Debug, Clone)]
struct Sent {
    topic: u32,
    device: String,
    number: u64,
    /// Place among the messages of its topic.
    place: u64,
    qos: u8,
    is_acknowledged: bool,
    /// Messages of its topic with the same payload.
    equal: u32,
}

/// All messages of a run that subscribers may get.
#[derive(Debug)]
pub(crate) struct Expected {
    scenario: Scenario,
    topics: Vec<String>,
    messages: HashMap<u64, Sent>,
}

/// Deliveries of a message to a subscriber.
#[derive(Debug, Clone, Copy, Default)]
struct Copies {
    count: u32,
    /// Connection of the last one.
    connection: u32,
}

/// Report about a subscriber.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SubscriberReport {
    /// Client id.
    pub subscriber: String,
    /// QoS of its subscription.
    pub qos: u8,
    /// Acknowledged messages of its topics.
    pub acknowledged: u64,
    /// Different messages that it has got.
    pub delivered: u64,
    /// Deliveries of a message that it had, marked DUP or after a kill.
    pub again: u64,
    /// Deliveries of a QoS 1 message that it had, without the mark: its device has sent it again.
    pub sent_again: u64,
    /// Connections.
    pub connections: u32,
    /// Number of faults by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// Some of them.
    pub named: Vec<String>,
}

impl SubscriberReport {
    fn new(subscriber: String, qos: u8) -> Self {
        let (acknowledged, delivered, again, sent_again, connections) = (0, 0, 0, 0, 0);
        let (faults, named) = (BTreeMap::new(), Vec::new());
        Self { subscriber, qos, acknowledged, delivered, again, sent_again, connections, faults, named }
    }

    /// True without a fault.
    pub fn is_clean(&self) -> bool {
        self.faults.is_empty()
    }

    fn fault(&mut self, kind: &'static str, detail: impl FnOnce() -> String) {
        *self.faults.entry(kind).or_default() += 1;
        if self.named.len() < NAMED {
            self.named.push(format!("{kind}: {}", detail()));
        }
    }
}

impl fmt::Display for SubscriberReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} at QoS {}: {} acknowledged messages, {} delivered over {} connections, {} again, {} sent again",
            self.subscriber, self.qos, self.acknowledged, self.delivered, self.connections, self.again, self.sent_again
        )?;
        self.faults.iter().try_for_each(|(kind, count)| writeln!(f, "  {kind}: {count}"))?;
        self.named.iter().try_for_each(|fault| writeln!(f, "    {fault}"))
    }
}

impl Expected {
    /// Generates the messages of a ledger again.
    ///
    /// # Errors
    /// When the ledger is damaged.
    pub(crate) fn read(ledger: &Path) -> anyhow::Result<Self> {
        Self::of(&Ledger::read(ledger)?)
    }

    fn of(ledger: &Ledger) -> anyhow::Result<Self> {
        let header = &ledger.header;
        let mut expected = Self { scenario: header.scenario.clone(), topics: Vec::new(), messages: HashMap::new() };
        let mut places = HashMap::new();
        for device in plan::devices(&header.scenario, &header.folder, header.start)? {
            for message in Messages::new(&device).filter(|message| message.fate != Fate::Oversize) {
                let Some(outcome) = ledger.outcome(device.index, message.number) else { continue };
                let (topic, place) = places.entry(message.topic.to_string()).or_insert_with(|| {
                    expected.topics.push(message.topic.to_string());
                    (expected.topics.len() as u32 - 1, 0)
                });
                *place += 1;
                let is_acknowledged = matches!(outcome, Outcome::Acknowledged | Outcome::Quarantined);
                let sent = Sent {
                    topic: *topic,
                    device: device.id.to_string(),
                    number: message.number,
                    place: *place,
                    qos: device.kind.group.qos,
                    is_acknowledged,
                    equal: 0,
                };
                let key = deliveries::key(&message.topic, &message.payload);
                let held = expected.messages.entry(key).or_insert(sent);
                held.equal += 1;
                held.is_acknowledged |= is_acknowledged;
            }
        }
        Ok(expected)
    }

    fn of_group<'a>(&'a self, group: &'a Subscribers) -> impl Iterator<Item = (&'a u64, &'a Sent)> {
        let fits: Vec<bool> = self.topics.iter().map(|topic| matches(&group.filter, topic)).collect();
        self.messages.iter().filter(move |(_, sent)| fits[sent.topic as usize])
    }

    /// The messages that each subscriber of a group must get.
    pub(crate) fn must_reach(&self, group: &Subscribers) -> Vec<u64> {
        let must = self.of_group(group).filter(|(_, sent)| sent.is_acknowledged && sent.qos > 0);
        must.map(|(key, _)| *key).collect()
    }

    fn check(&self, events: &[Event]) -> Vec<SubscriberReport> {
        let mut reports = Vec::new();
        for group in &self.scenario.subscribers {
            for number in 0..group.count {
                let client = group.client(number);
                let own = events.iter().filter(|event| match event {
                    Event::Delivery(delivery) => delivery.subscriber == client,
                    Event::SessionLost { subscriber, .. } => *subscriber == client,
                });
                reports.push(self.check_one(group, client.clone(), own));
            }
        }
        reports
    }

    fn check_one<'a>(
        &self,
        group: &Subscribers,
        client: String,
        events: impl Iterator<Item = &'a Event>,
    ) -> SubscriberReport {
        let mut report = SubscriberReport::new(client, group.qos);
        let mut copies: HashMap<u64, Copies> = HashMap::new();
        let mut last: HashMap<u32, u64> = HashMap::new();
        for event in events {
            match event {
                Event::SessionLost { connection, .. } => {
                    report.connections = report.connections.max(*connection);
                    report.fault("session lost", || format!("connection {connection}"));
                }
                Event::Delivery(delivery) => self.take(delivery, &mut report, &mut copies, &mut last),
            }
        }
        let must = self.must_reach(group);
        report.acknowledged = must.len() as u64;
        report.delivered = copies.len() as u64;
        for key in must.into_iter().filter(|key| !copies.contains_key(key)) {
            report.fault("lost", || self.name(key));
        }
        report
    }

    fn take(
        &self,
        delivery: &Delivery,
        report: &mut SubscriberReport,
        copies: &mut HashMap<u64, Copies>,
        last: &mut HashMap<u32, u64>,
    ) {
        let Delivery { connection, key, qos, dup, is_known, .. } = *delivery;
        report.connections = report.connections.max(connection);
        let Some(sent) = self.messages.get(&key) else {
            return report.fault("unexpected", || format!("{delivery:?}"));
        };
        if qos != sent.qos.min(report.qos) {
            report.fault("wrong QoS", || format!("{qos}: {}", self.name(key)));
        }
        if is_known {
            report.again += 1;
            if !dup {
                report.fault("packet id used twice", || format!("{delivery:?}"));
            }
            return;
        }
        let held = copies.entry(key).or_default();
        held.count += 1;
        let before = std::mem::replace(&mut held.connection, connection);
        if held.count > sent.equal {
            match (qos, dup) {
                (1, true) => report.again += 1,
                (1, false) if sent.qos == 1 => report.sent_again += 1,
                // A broker that was killed may not know that it has sent it.
                (1, false) if before < connection => report.again += 1,
                _ => report.fault("doubled", || format!("{} {delivery:?}", self.name(key))),
            }
            return;
        }
        // Equal messages have no order among each other.
        if sent.equal > 1 {
            return;
        }
        let before = last.insert(sent.topic, sent.place).filter(|before| *before > sent.place);
        if let Some(before) = before {
            last.insert(sent.topic, before);
            report.fault("out of order", || format!("{} came after place {before}", self.name(key)));
        }
    }

    fn name(&self, key: u64) -> String {
        self.messages.get(&key).map_or_else(String::new, |sent| {
            let Sent { topic, device, number, place, .. } = sent;
            format!("message {number} of {device} on {}, place {place}", self.topics[*topic as usize])
        })
    }
}

/// Compares the deliveries of a ledger with its messages. Empty for a scenario without subscribers.
///
/// # Errors
/// When a ledger is damaged. Differences are faults of a report, not errors.
pub fn verify_deliveries(ledger: &Path) -> anyhow::Result<Vec<SubscriberReport>> {
    let expected = Expected::read(ledger)?;
    if expected.scenario.subscribers.is_empty() {
        return Ok(Vec::new());
    }
    Ok(expected.check(&deliveries::read(&deliveries::path(ledger))?))
}

#[cfg(test)]
mod tests;
