//! A message on its way to subscribers.

use std::time::{Duration, Instant};

use crate::codec::properties::{self, id};

/// A message, shared by everyone it goes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Topic name.
    pub topic: Box<str>,
    /// Payload.
    pub payload: Box<[u8]>,
    /// QoS it was published with.
    pub qos: u8,
    /// It was published to be kept.
    pub retain: bool,
    /// MQTT 5 properties as sent.
    pub properties: Box<[u8]>,
    /// Not sent after this.
    pub expires: Option<Instant>,
}

impl Message {
    /// A copy of a message, with its life counted from now.
    pub fn new(topic: &str, payload: &[u8], qos: u8, retain: bool, own: &[u8]) -> Self {
        let expires = properties::number(own, id::MESSAGE_EXPIRY)
            .and_then(|secs| Instant::now().checked_add(Duration::from_secs(u64::from(secs))));
        Self { topic: topic.into(), payload: payload.into(), qos, retain, properties: own.into(), expires }
    }

    /// Seconds left to live: none when it lives for ever, 0 when it is over.
    pub fn seconds_left(&self) -> Option<u32> {
        let left = self.expires?.saturating_duration_since(Instant::now());
        Some(u32::try_from(left.as_secs() + u64::from(left.subsec_nanos() > 0)).unwrap_or(u32::MAX))
    }

    /// Bytes that it takes in a queue.
    pub fn bytes(&self) -> usize {
        self.topic.len() + self.payload.len() + self.properties.len()
    }
}
