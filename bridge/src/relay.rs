//! Passes packets from one broker to the other.

use std::collections::BTreeSet;

use mqtt_client::{Ack, Packet, PropertyList, Publish, RetainHandling, Subscription, Value, Version, id, iterate};

use crate::bridge::Limits;
use crate::end::{End, Reason};
use crate::metrics::{BridgeMetrics, WayMetrics};
use crate::release::Release;
use crate::rules::{NoTopic, Rules, Way};
use crate::side::Accepted;

/// SUBACK: the packet id is in use.
const ID_IN_USE: u8 = 0x91;
/// Reason codes from here on are failures.
const FAILURE: u8 = 0x80;

/// Passes packets on as long as the two brokers are connected. It writes for both: `here` are bytes
/// for this broker, `there` for the other one.
pub(crate) struct Relay<'a> {
    pub(crate) name: &'a str,
    pub(crate) rules: &'a Rules,
    pub(crate) metrics: &'a BridgeMetrics,
    pub(crate) limits: Limits,
    /// Version that the other broker speaks.
    pub(crate) version: Version,
    /// The other broker's own limits.
    pub(crate) accepted: Accepted,
    /// Subscription here, and there.
    pub(crate) stages: (Stage, Stage),
    /// The session there has its subscriptions, and another SUBSCRIBE would bring retained messages
    /// again, as a broker of 3.1.1 sends them at each.
    pub(crate) has_subscribed_there: bool,
    /// Release of packet ids here, which the subscription there waits for.
    pub(crate) release_here: Option<Release>,
    /// Release of packet ids there, which the subscription here waits for.
    pub(crate) release_there: Option<Release>,
    /// QoS 2 messages that were published at QoS 1, as the other broker has no more.
    pub(crate) lowered: BTreeSet<u16>,
    /// Directions and reasons of messages not passed on that were logged.
    pub(crate) logged: BTreeSet<(&'static str, &'static str)>,
    /// Subscriptions that were refused.
    pub(crate) concern: Option<String>,
    pub(crate) topic: String,
}

/// The stage of a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// It waits for a release.
    Waits,
    /// SUBSCRIBE was sent with this packet id.
    Sent(u16),
    /// There is nothing to wait for.
    Done,
}

/// Reason codes of PUBACK and PUBREC (MQTT 5.0, section 3.4.2.1).
const OF_MESSAGES: [u8; 9] = [0, 0x10, FAILURE, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99];
/// PUBREL and PUBCOMP: the packet id is not known.
const ID_NOT_FOUND: u8 = 0x92;

/// The outcome of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// It was handled.
    Done,
    /// Its packet id is that of a SUBSCRIBE: it waits for the SUBACK.
    Waits,
}

/// The reason why a message is not passed on: metric label, reason code, words.
type Refusal = (&'static str, u8, &'static str);

const UNMAPPED: Refusal = (
    "unmapped",
    0x83,
    "no [[bridge.topic]] matches its topic any longer: give the bridge another `name` to begin anew",
);
const INVALID_TOPIC: Refusal = ("invalid_topic", 0x90, "with the prefix of the other side, its topic is not valid");
const TOO_LARGE: Refusal = ("too_large", 0x83, "it is larger than the largest packet that the receiver accepts");

impl Relay<'_> {
    /// Subscribes at both sides, or begins with the releases before.
    pub(crate) fn begin(&mut self, here: &mut Vec<u8>, there: &mut Vec<u8>) {
        match &mut self.release_there {
            Some(release) => release.fill(self.version, there),
            None => self.subscribe_here(u16::MAX, here),
        }
        match &mut self.release_here {
            Some(release) => release.fill(Version::V5, here),
            None => self.subscribe_there(u16::MAX, there),
        }
    }

    fn subscribe_here(&mut self, packet_id: u16, here: &mut Vec<u8>) {
        self.stages.0 = subscribe(&self.rules.out, self.accepted.most_qos, Version::V5, packet_id, here);
    }

    fn subscribe_there(&mut self, packet_id: u16, there: &mut Vec<u8>) {
        self.stages.1 = match self.has_subscribed_there {
            true => Stage::Done,
            false => subscribe(&self.rules.back, 2, self.version, packet_id, there),
        };
    }

    /// True while an answer of the other broker is awaited.
    pub(crate) fn awaits_there(&self) -> bool {
        matches!(self.stages.1, Stage::Sent(_)) || self.release_there.is_some()
    }

    /// Handles a packet of this broker.
    pub(crate) fn take_here(
        &mut self,
        packet: &Packet<'_>,
        here: &mut Vec<u8>,
        there: &mut Vec<u8>,
    ) -> Result<Step, End> {
        match *packet {
            Packet::Publish(publish) => return Ok(self.pass_out(&publish, here, there)),
            Packet::Ack { ack: Ack::Pubcomp, .. } if self.release_here.is_some() => self.released_here(here, there),
            // The other broker has no QoS 2: it got the message at QoS 1.
            Packet::Ack { ack: Ack::Pubrel, packet_id, .. } if self.accepted.most_qos < 2 => {
                mqtt_client::ack(here, Version::V5, Ack::Pubcomp, packet_id, 0);
            }
            Packet::Ack { ack, packet_id, reason, properties } => {
                self.note_refusal(&self.metrics.back, "in", (ack, reason, properties));
                mqtt_client::ack(there, self.version, ack, packet_id, code(ack, reason));
            }
            Packet::Suback { packet_id, reasons } if self.stages.0 == Stage::Sent(packet_id) => {
                match next_id(packet_id, reasons) {
                    Some(next) => self.subscribe_here(next, here),
                    None => {
                        self.stages.0 = Stage::Done;
                        self.note_refused(&self.rules.out, "this broker", reasons);
                    }
                }
            }
            Packet::Disconnect { reason, properties } => {
                return Err(End::LeftHere(Reason::new(reason, properties).to_string()));
            }
            Packet::Pingresp | Packet::Suback { .. } | Packet::Unsuback { .. } => {}
            Packet::Connack { .. } | Packet::Auth { .. } => {
                return Err(End::LeftHere("it sent a packet out of turn".into()));
            }
        }
        Ok(Step::Done)
    }

    /// Handles a packet of the other broker.
    pub(crate) fn take_there(
        &mut self,
        packet: &Packet<'_>,
        here: &mut Vec<u8>,
        there: &mut Vec<u8>,
    ) -> Result<Step, End> {
        match *packet {
            Packet::Publish(publish) => return Ok(self.pass_in(&publish, here, there)),
            Packet::Ack { ack: Ack::Pubcomp, .. } if self.release_there.is_some() => self.released_there(here, there),
            Packet::Ack { ack, packet_id, reason, properties } => {
                self.note_refusal(&self.metrics.out, "out", (ack, reason, properties));
                // Only QoS 2 messages are lowered, which are not acknowledged by PUBACK here.
                let is_lowered = ack == Ack::Puback && self.lowered.remove(&packet_id);
                mqtt_client::ack(
                    here,
                    Version::V5,
                    if is_lowered { Ack::Pubrec } else { ack },
                    packet_id,
                    code(ack, reason),
                );
            }
            Packet::Suback { packet_id, reasons } if self.stages.1 == Stage::Sent(packet_id) => {
                match next_id(packet_id, reasons) {
                    Some(next) => self.subscribe_there(next, there),
                    None => {
                        self.stages.1 = Stage::Done;
                        self.note_refused(&self.rules.back, "the other broker", reasons);
                    }
                }
            }
            Packet::Disconnect { reason, properties } => {
                return Err(End::Disconnected(Reason::new(reason, properties)));
            }
            Packet::Pingresp | Packet::Suback { .. } | Packet::Unsuback { .. } => {}
            Packet::Connack { .. } => return Err(End::Protocol("CONNACK was sent twice")),
            Packet::Auth { .. } => return Err(End::Protocol("AUTH without an authentication method")),
        }
        Ok(Step::Done)
    }

    fn released_here(&mut self, here: &mut Vec<u8>, there: &mut Vec<u8>) {
        let Some(release) = &mut self.release_here else { return };
        if release.completed() {
            self.release_here = None;
            self.subscribe_there(u16::MAX, there);
        } else {
            release.fill(Version::V5, here);
        }
    }

    fn released_there(&mut self, here: &mut Vec<u8>, there: &mut Vec<u8>) {
        let Some(release) = &mut self.release_there else { return };
        if release.completed() {
            self.release_there = None;
            self.subscribe_here(u16::MAX, here);
        } else {
            release.fill(self.version, there);
        }
    }

    /// Passes a message on to the other broker.
    fn pass_out(&mut self, publish: &Publish<'_>, here: &mut Vec<u8>, there: &mut Vec<u8>) -> Step {
        if publish.qos > 0 && self.stages.1 == Stage::Sent(publish.packet_id) {
            return Step::Waits;
        }
        let qos = publish.qos.min(self.accepted.most_qos);
        let lowered = Publish { qos, retain: publish.retain && self.accepted.retains, ..*publish };
        let passed = pass(&self.rules.out, &lowered, (self.version, self.accepted.most_bytes), &mut self.topic, there);
        match passed {
            Err(refusal) => self.refuse("out", publish.qos, publish.packet_id, refusal, here),
            Ok(bytes) => {
                self.metrics.out.passed(bytes, publish.dup);
                if qos == 0 {
                    acknowledge(here, Version::V5, publish.qos, publish.packet_id, 0);
                } else if qos < publish.qos {
                    self.lowered.insert(publish.packet_id);
                }
            }
        }
        Step::Done
    }

    /// Passes a message on to this broker.
    fn pass_in(&mut self, publish: &Publish<'_>, here: &mut Vec<u8>, there: &mut Vec<u8>) -> Step {
        if publish.qos > 0 && self.stages.0 == Stage::Sent(publish.packet_id) {
            return Step::Waits;
        }
        let most_bytes = self.limits.max_packet_bytes as usize;
        match pass(&self.rules.back, publish, (Version::V5, most_bytes), &mut self.topic, here) {
            Ok(bytes) => self.metrics.back.passed(bytes, publish.dup),
            Err(refusal) => self.refuse("in", publish.qos, publish.packet_id, refusal, there),
        }
        Step::Done
    }

    /// Refuses a message that the other broker sent and that is too large to be read.
    pub(crate) fn refuse_oversized(&mut self, qos: u8, packet_id: u16, there: &mut Vec<u8>) {
        self.refuse("in", qos, packet_id, TOO_LARGE, there);
    }

    /// Acknowledges a message that the receiver can never get, so that it does not keep others from
    /// being passed on; `out` is for its sender.
    fn refuse(&mut self, direction: &'static str, qos: u8, packet_id: u16, refusal: Refusal, out: &mut Vec<u8>) {
        let (reason, code, words) = refusal;
        let (way, version) = match direction {
            "out" => (&self.metrics.out, Version::V5),
            _ => (&self.metrics.back, self.version),
        };
        way.drop_one(reason);
        acknowledge(out, version, qos, packet_id, code);
        if self.logged.insert((direction, reason)) {
            let bridge = self.name;
            tracing::warn!(
                bridge,
                direction,
                topic = self.topic,
                "a message is not passed on: {words}; further ones of this connection are counted only"
            );
        }
    }

    /// Counts a message that its receiver has refused.
    fn note_refusal(&self, way: &WayMetrics, direction: &'static str, (ack, reason, properties): (Ack, u8, &[u8])) {
        if reason >= FAILURE && matches!(ack, Ack::Puback | Ack::Pubrec) {
            way.drop_one("refused");
            let (bridge, why) = (self.name, Reason::new(reason, properties));
            tracing::debug!(bridge, direction, "the receiver refuses a message: {why}");
        }
    }

    /// Notes subscriptions that were refused.
    fn note_refused(&mut self, way: &Way, side: &str, reasons: &[u8]) {
        let refused = way.subscriptions().zip(reasons).find(|(_, reason)| **reason >= FAILURE);
        if let Some(((filter, _), reason)) = refused {
            let bridge = self.name;
            tracing::warn!(bridge, filter, "{side} refuses the subscription (reason code {reason:#04x})");
            self.concern = Some(format!("{side} refuses the subscription to {filter} (reason code {reason:#04x})"));
        }
    }
}

/// Writes a message for the other side. Returns the length of the packet.
fn pass(
    way: &Way,
    publish: &Publish<'_>,
    (version, most_bytes): (Version, usize),
    topic: &mut String,
    out: &mut Vec<u8>,
) -> Result<usize, Refusal> {
    way.translate(publish.topic, topic).map_err(|error| {
        topic.clear();
        topic.push_str(publish.topic);
        match error {
            NoTopic::Unmapped => UNMAPPED,
            NoTopic::Invalid => INVALID_TOPIC,
        }
    })?;
    let own = if version == Version::V5 { forwarded(publish.properties) } else { PropertyList::new() };
    let packet_id = if publish.qos > 0 { publish.packet_id } else { 0 };
    let dup = publish.dup && publish.qos > 0;
    let begun = out.len();
    mqtt_client::publish(out, version, &Publish { topic, packet_id, dup, properties: own.as_bytes(), ..*publish });
    let bytes = out.len() - begun;
    if bytes > most_bytes {
        out.truncate(begun);
        return Err(TOO_LARGE);
    }
    Ok(bytes)
}

/// The properties that belong to a message, rather than to its delivery.
fn forwarded(properties: &[u8]) -> PropertyList {
    iterate(properties).fold(PropertyList::new(), |list, property| match (property.id, property.value) {
        (id::PAYLOAD_FORMAT | id::MESSAGE_EXPIRY, Value::Number(number)) => list.number(property.id, number),
        (id::CONTENT_TYPE | id::RESPONSE_TOPIC, Value::Text(text)) => list.bytes(property.id, text),
        (id::CORRELATION_DATA, Value::Binary(bytes)) => list.bytes(property.id, bytes),
        (id::USER, Value::Pair(name, value)) => list.user(name, value),
        _ => list,
    })
}

/// The reason code of an acknowledgement; of one that does not exist, the next of its kind.
fn code(ack: Ack, reason: u8) -> u8 {
    let is_message = matches!(ack, Ack::Puback | Ack::Pubrec);
    match reason {
        _ if is_message && OF_MESSAGES.contains(&reason) => reason,
        FAILURE.. if is_message => FAILURE,
        FAILURE.. => ID_NOT_FOUND,
        _ => 0,
    }
}

/// Answers a message: with a failure, this is the end of its exchange.
fn acknowledge(out: &mut Vec<u8>, version: Version, qos: u8, packet_id: u16, code: u8) {
    match qos {
        0 => {}
        1 => mqtt_client::ack(out, version, Ack::Puback, packet_id, code),
        _ => mqtt_client::ack(out, version, Ack::Pubrec, packet_id, code),
    }
}

/// Subscribes to all topics of a direction, at most at this QoS. Retained messages come with a new
/// subscription alone, own messages not at all.
fn subscribe(way: &Way, most_qos: u8, version: Version, packet_id: u16, out: &mut Vec<u8>) -> Stage {
    if way.is_empty() {
        return Stage::Done;
    }
    let subscription = |(filter, qos): (_, u8)| Subscription {
        filter,
        qos: qos.min(most_qos),
        no_local: true,
        retain_as_published: true,
        retain_handling: RetainHandling::IfNew,
    };
    let subscriptions: Vec<_> = way.subscriptions().map(subscription).collect();
    mqtt_client::subscribe(out, version, packet_id, &[], &subscriptions);
    Stage::Sent(packet_id)
}

/// Returns the packet id for another SUBSCRIBE, when this one is that of a message in flight.
fn next_id(packet_id: u16, reasons: &[u8]) -> Option<u16> {
    let in_use = reasons.first() == Some(&ID_IN_USE);
    (in_use && packet_id > 1).then(|| packet_id - 1)
}
