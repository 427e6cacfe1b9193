//! Retained MQTT messages.

use std::sync::Arc;

use async_trait::async_trait;
use model::Nanos;

use super::Result;

/// A retained MQTT message: the last of its topic, for clients that subscribe later. Tenant and
/// topic are its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetainedMessage {
    /// Tenant of the sender: topics of two tenants never meet.
    pub tenant: Arc<str>,
    /// Topic name.
    pub topic: String,
    /// Quality of service.
    pub qos: u8,
    /// Payload; empty when the message was cleared.
    pub payload: Vec<u8>,
    /// MQTT 5 properties, encoded.
    pub properties: Vec<u8>,
    /// Receive time.
    pub received: Nanos,
}

/// Tenant and topic of a message.
pub type RetainedKey = (Arc<str>, String);

/// A part of the messages of a store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RetainedPage {
    /// In the order of the store, which is that of topics within a tenant.
    pub messages: Vec<RetainedMessage>,
    /// The message behind which the next part begins; None at the end.
    pub next: Option<RetainedKey>,
}

/// A store of retained messages.
#[async_trait]
pub trait Retained: Send + Sync + 'static {
    /// Loads a part of the messages of all tenants, those behind one: about `most_bytes`, and one
    /// at least.
    async fn page(&self, after: Option<&RetainedKey>, most_bytes: usize) -> Result<RetainedPage>;

    /// Returns for each of these topics whether there is a message, which is durable then.
    async fn holds(&self, tenant: &str, topics: &[String]) -> Result<Vec<bool>>;

    /// Reads the messages of the first of these topics: about `most_bytes`, and one at least. None
    /// for a topic without a message. The answer is as long as the topics that it is about.
    async fn read(&self, tenant: &str, topics: &[String], most_bytes: usize) -> Result<Vec<Option<RetainedMessage>>>;

    /// Applies changes in order, durably when it returns. Where several processes write, a message
    /// received before the stored one changes nothing.
    async fn apply(&self, changes: Vec<RetainedMessage>) -> Result<()>;
}

impl RetainedMessage {
    /// Bytes of its contents, for the size of an answer.
    pub fn bytes(&self) -> usize {
        self.topic.len() + self.payload.len() + self.properties.len()
    }
}
