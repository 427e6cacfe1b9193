//! Messages on their way to subscribers, and retained messages of earlier starts.

use std::sync::Arc;
use std::time::{Duration, Instant};

use model::{Budget, Full, Held, Nanos};

use crate::codec::properties::{self, id};

/// Bytes of a message besides its topic, payload and properties.
const MESSAGE_BYTES: usize = 128;

/// A retained message of an earlier start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetainedMessage {
    /// Tenant of the client that published it.
    pub tenant: Arc<str>,
    /// Topic name.
    pub topic: String,
    /// Payload.
    pub payload: Vec<u8>,
    /// QoS it was published with.
    pub qos: u8,
    /// MQTT 5 properties, encoded.
    pub properties: Vec<u8>,
    /// Time of its publication: its expiry counts from then.
    pub published: Nanos,
}

/// A message, shared by all subscribers that it goes to.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) topic: Box<str>,
    pub(crate) payload: Box<[u8]>,
    /// QoS it was published with.
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    /// Time of its publication, for one that is retained; 0 otherwise.
    pub(crate) at: Nanos,
    /// MQTT 5 properties as sent.
    pub(crate) properties: Box<[u8]>,
    /// Not sent after this.
    pub(crate) expires: Option<Instant>,
    /// Its memory, however many queues it waits in; None when it is not counted.
    _memory: Option<Held>,
}

impl Message {
    /// Copies a message into the memory of `budget`.
    pub(crate) fn within(
        budget: &Budget,
        topic: &str,
        payload: &[u8],
        qos: u8,
        retain: bool,
        own: &[u8],
    ) -> Result<Self, Full> {
        let memory = budget.acquire(MESSAGE_BYTES + 2 * topic.len() + payload.len() + own.len())?;
        Ok(Self { _memory: Some(memory), ..Self::new(topic, payload, qos, retain, own) })
    }

    /// Copies a message; its expiry counts from now.
    pub(crate) fn new(topic: &str, payload: &[u8], qos: u8, retain: bool, own: &[u8]) -> Self {
        let expires = properties::number(own, id::MESSAGE_EXPIRY)
            .and_then(|secs| Instant::now().checked_add(Duration::from_secs(u64::from(secs))));
        Self {
            topic: topic.into(),
            payload: payload.into(),
            qos,
            retain,
            at: if retain { model::clock::now() } else { 0 },
            properties: own.into(),
            expires,
            _memory: None,
        }
    }

    /// Counts the expiry of a message that was published before this start from its publication.
    pub(crate) fn published(mut self, at: Nanos, now: Nanos) -> Self {
        self.at = at;
        // A clock that went back makes no message last longer than it may.
        let age = Duration::from_nanos(u64::try_from(now.saturating_sub(at)).unwrap_or(0));
        // One that expired before the machine started has no time that can be named: it expires
        // now.
        self.expires = self.expires.map(|at| at.checked_sub(age).unwrap_or_else(Instant::now));
        self
    }

    /// Seconds until it expires: None when it never does, 0 when it has.
    pub(crate) fn seconds_left(&self) -> Option<u32> {
        let left = self.expires?.saturating_duration_since(Instant::now());
        Some(u32::try_from(left.as_secs() + u64::from(left.subsec_nanos() > 0)).unwrap_or(u32::MAX))
    }

    /// Bytes that it takes in a queue.
    pub(crate) fn bytes(&self) -> usize {
        self.topic.len() + self.payload.len() + self.properties.len()
    }
}
