//! The records of sessions: their topics and contents.

use std::time::Duration;

use model::Nanos;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::codec::subscribe::{Options, RetainHandling};
use crate::in_flight::MAX_IN_FLIGHT;
pub(super) use model::topic::MESSAGES;

pub(super) const SESSIONS: &str = "$weir/sessions/";
pub(super) const SUBSCRIPTIONS: &str = "$weir/subscriptions/";
pub(super) const RELEASED: &str = "$weir/released/";
pub(super) const RECEIPTS: &str = "$weir/receipts/";
pub(super) const PROGRESS: &str = "$weir/progress/";

/// A client's session.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SessionRecord {
    pub(crate) client: String,
    /// Seconds that it lasts without a connection.
    pub(crate) expiry_secs: u32,
    /// Time when its last connection left it. None while it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) left: Option<Nanos>,
}

impl SessionRecord {
    /// The time that it lasts from now on. Without the time when it was left, that begins now.
    pub(super) fn lasts(&self, now: Nanos) -> Duration {
        let away = now.saturating_sub(self.left.unwrap_or(now));
        Duration::from_secs(u64::from(self.expiry_secs))
            .saturating_sub(Duration::from_nanos(u64::try_from(away).unwrap_or(0)))
    }
}

/// The options of a subscription to a filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscription {
    /// Maximum QoS.
    pub qos: u8,
    /// Messages of the client itself are not sent.
    #[serde(default, skip_serializing_if = "is_false")]
    pub no_local: bool,
    /// Forwarded messages keep their retain flag.
    #[serde(default, skip_serializing_if = "is_false")]
    pub retain_as_published: bool,
    /// Subscription id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u32>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

impl Subscription {
    pub(crate) fn new(options: Options, id: Option<u32>) -> Self {
        let Options { qos, no_local, retain_as_published, .. } = options;
        Self { qos, no_local, retain_as_published, id }
    }

    /// The options with the subscription id. Retained messages were sent before.
    pub(crate) fn read(&self) -> (Options, Option<u32>) {
        let &Self { qos, no_local, retain_as_published, id } = self;
        (Options { qos, no_local, retain_as_published, retain_handling: RetainHandling::Never }, id)
    }
}

/// The messages of its session that a client has.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// It has all up to this number.
    pub done_to: u64,
    /// And these ranges beyond it, each with its last number.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub done: Vec<(u64, u64)>,
    /// All up to this number were sent.
    pub sent_to: u64,
    /// And none beyond it: the session was left in order.
    #[serde(default, skip_serializing_if = "is_false")]
    pub exact: bool,
}

impl Progress {
    /// True when the client has the message of this number.
    pub fn has(&self, number: u64) -> bool {
        number <= self.done_to || self.done.iter().any(|(from, to)| (*from..=*to).contains(&number))
    }

    /// The progress of a session of which messages up to `given` have numbers, with all that may
    /// have been sent as sent.
    pub(crate) fn with_unnoted(self, given: u64) -> Self {
        let sent_to = self.sent_at_most().min(given.max(self.sent_to));
        Self { sent_to, exact: true, ..self }
    }

    /// The number up to which messages may have been sent. More than are in flight at most were not
    /// sent since it was stored; none, if the session was left in order.
    pub(crate) fn sent_at_most(&self) -> u64 {
        let beyond = if self.exact { 0 } else { MAX_IN_FLIGHT as u64 };
        self.sent_to.saturating_add(beyond)
    }

    /// Adds what another record of the same session says.
    pub(super) fn merge(&mut self, other: Self) {
        self.done_to = self.done_to.max(other.done_to);
        self.sent_to = self.sent_to.max(other.sent_to);
        self.done.extend(other.done);
        self.done.sort_unstable();
    }
}

/// Messages of QoS 2 that the client has.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ReleasedRecord {
    /// Their exchange is not over.
    pub(crate) numbers: Vec<u64>,
    /// The ones whose exchange is over: the record before had them among its numbers, and the
    /// record of the progress is stored a moment later.
    pub(crate) progress: Progress,
}

/// A message with the sessions that get it. The payload follows.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct MessageRecord<'a> {
    #[serde(borrow)]
    pub(crate) topic: std::borrow::Cow<'a, str>,
    pub(crate) takers: Vec<TakerRecord>,
}

/// A session that gets a message.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct TakerRecord {
    pub(crate) session: u64,
    /// Number of the message in the session.
    pub(crate) number: u64,
    pub(crate) qos: u8,
    #[serde(default, skip_serializing_if = "is_false")]
    pub(crate) retain: bool,
    /// Subscription ids.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) ids: Vec<u32>,
    /// Filter of the shared subscription.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) share: Option<String>,
}

impl MessageRecord<'_> {
    /// The record with the payload: its own length (u32, big endian), itself, the payload.
    pub(crate) fn encode(&self, payload: &[u8]) -> Vec<u8> {
        let mut out = vec![0; 4];
        out.reserve(payload.len() + self.topic.len() + 64 * self.takers.len() + 64);
        serde_json::to_writer(&mut out, self).expect("it has no map, and writing to memory does not fail");
        // A topic has at most 65,535 bytes, and there are at most MOST_TAKERS takers.
        let length = u32::try_from(out.len() - 4).unwrap_or(u32::MAX);
        out[..4].copy_from_slice(&length.to_be_bytes());
        out.extend_from_slice(payload);
        out
    }

    /// Reads a record and the payload behind it.
    pub(crate) fn decode(bytes: &[u8]) -> Option<(MessageRecord<'_>, &[u8])> {
        let (length, rest) = bytes.split_first_chunk()?;
        let (record, payload) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        Some((serde_json::from_slice(record).ok()?, payload))
    }
}

/// The contents of a record.
pub(crate) fn encode(record: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(record).expect("it has no map, and writing to memory does not fail")
}

pub(super) fn decode<R: DeserializeOwned>(bytes: &[u8]) -> Option<R> {
    serde_json::from_slice(bytes).ok()
}

/// The topics of a node's records.
#[derive(Debug)]
pub(crate) struct Keys {
    node: String,
}

impl Keys {
    pub(crate) fn new(node: &str) -> Self {
        Self { node: node.to_owned() }
    }

    fn topic(&self, kind: &str, id: u64) -> String {
        format!("{kind}{}/{id:016x}", self.node)
    }

    pub(crate) fn session(&self, session: u64) -> String {
        self.topic(SESSIONS, session)
    }

    pub(crate) fn subscription(&self, session: u64, filter: &str) -> String {
        format!("{}/{filter}", self.topic(SUBSCRIPTIONS, session))
    }

    pub(crate) fn message(&self, message: u64) -> String {
        self.topic(MESSAGES, message)
    }

    pub(crate) fn messages(&self, messages: &[u64]) -> Vec<String> {
        messages.iter().map(|message| self.message(*message)).collect()
    }

    pub(crate) fn released(&self, session: u64) -> String {
        self.topic(RELEASED, session)
    }

    pub(crate) fn receipt(&self, session: u64, packet_id: u16) -> String {
        format!("{}/{packet_id}", self.topic(RECEIPTS, session))
    }

    pub(crate) fn progress(&self, session: u64) -> String {
        self.topic(PROGRESS, session)
    }

    /// Reads a topic of this kind: the id, and what follows it.
    pub(super) fn read<'a>(&self, kind: &str, topic: &'a str) -> Option<(u64, &'a str)> {
        let rest = topic.strip_prefix(kind)?.strip_prefix(&*self.node)?.strip_prefix('/')?;
        let (id, rest) = rest.split_at_checked(16)?;
        let rest = if rest.is_empty() { rest } else { rest.strip_prefix('/')? };
        Some((u64::from_str_radix(id, 16).ok()?, rest))
    }
}

#[cfg(test)]
mod tests {
    use model::time::SECOND;

    use super::*;

    #[test]
    fn topics_are_read_as_they_were_made_and_none_of_another_node() {
        let keys = Keys::new("n/1");
        let own = keys.subscription(255, "a/+//#");
        assert_eq!(own, "$weir/subscriptions/n/1/00000000000000ff/a/+//#");
        assert_eq!(keys.read(SUBSCRIPTIONS, &own), Some((255, "a/+//#")));
        assert_eq!(keys.read(MESSAGES, &keys.message(u64::MAX)), Some((u64::MAX, "")));
        assert_eq!(keys.read(RECEIPTS, &keys.receipt(1, 65_535)), Some((1, "65535")));
        for other in [Keys::new("n").session(1), Keys::new("n/10").session(1), "$weir/sessions/n/1/xyz".to_owned()] {
            assert_eq!(keys.read(SESSIONS, &other), None, "{other}");
        }
    }

    #[test]
    fn a_session_lasts_from_the_time_when_it_was_left() {
        let lasts = |left| SessionRecord { client: String::new(), expiry_secs: 60, left }.lasts(100 * SECOND);
        let after = [None, Some(100), Some(70), Some(40), Some(-900), Some(110)];
        let secs = after.map(|left: Option<i64>| lasts(left.map(|secs| secs * SECOND)).as_secs());
        assert_eq!(secs, [60, 60, 30, 0, 0, 60]);
    }

    #[test]
    fn a_message_is_read_with_its_payload() {
        let taker = TakerRecord {
            session: u64::MAX,
            number: 7,
            qos: 2,
            retain: true,
            ids: vec![1, 268_435_455],
            share: Some("$share/g/\"".into()),
        };
        let record = MessageRecord { topic: "a/\"\u{e9}".into(), takers: vec![taker] };
        for payload in [&b""[..], b"\0\xff"] {
            let bytes = record.encode(payload);
            let (read, rest) = MessageRecord::decode(&bytes).unwrap();
            assert_eq!((encode(&read), rest), (encode(&record), payload));
            for end in 0..bytes.len() - payload.len() {
                assert!(MessageRecord::decode(&bytes[..end]).is_none(), "{end} bytes");
            }
        }
    }
}
