//! Retained MQTT messages.

use std::sync::Arc;

use async_trait::async_trait;
use model::Nanos;

use super::Result;

/// Bytes of a part when all messages are loaded.
const PAGE_BYTES: usize = 4 << 20;

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

/// A part of the messages of a store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RetainedPage {
    /// In the order of the store, which is that of topics within a tenant.
    pub messages: Vec<RetainedMessage>,
    /// Tenant and topic behind which the next part begins; None at the end.
    pub next: Option<(Arc<str>, String)>,
}

/// A store of retained messages.
#[async_trait]
pub trait Retained: Send + Sync + 'static {
    /// Loads a part of the messages of all tenants, those behind a tenant and a topic: about
    /// `most_bytes`, and one at least.
    async fn page(&self, after: Option<(&str, &str)>, most_bytes: usize) -> Result<RetainedPage>;

    /// Returns for each of these topics whether there is a message, which is durable then.
    async fn holds(&self, tenant: &str, topics: &[String]) -> Result<Vec<bool>>;

    /// Reads the messages of the first of these topics: about `most_bytes`, and one at least. None
    /// for a topic without a message. The answer is as long as the topics that it is about.
    async fn read(&self, tenant: &str, topics: &[String], most_bytes: usize) -> Result<Vec<Option<RetainedMessage>>>;

    /// Applies changes in order, durably when it returns. Where several processes write, a message
    /// received before the stored one changes nothing.
    async fn apply(&self, changes: Vec<RetainedMessage>) -> Result<()>;

    /// Loads the messages of all tenants.
    async fn load(&self) -> Result<Vec<RetainedMessage>> {
        let (mut all, mut after) = (Vec::new(), None::<(Arc<str>, String)>);
        loop {
            let behind = after.as_ref().map(|(tenant, topic)| (&**tenant, &**topic));
            let RetainedPage { mut messages, next } = self.page(behind, PAGE_BYTES).await?;
            all.append(&mut messages);
            let Some(next) = next else { return Ok(all) };
            after = Some(next);
        }
    }
}

impl RetainedMessage {
    /// Bytes of its contents, for the size of an answer.
    pub fn bytes(&self) -> usize {
        self.topic.len() + self.payload.len() + self.properties.len()
    }
}
