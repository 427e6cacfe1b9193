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

/// A store of retained messages.
#[async_trait]
pub trait Retained: Send + Sync + 'static {
    /// Loads the messages of all tenants.
    async fn load(&self) -> Result<Vec<RetainedMessage>>;

    /// Applies changes in order, durably when it returns. Where several processes write, a message
    /// received before the stored one changes nothing.
    async fn apply(&self, changes: Vec<RetainedMessage>) -> Result<()>;
}
