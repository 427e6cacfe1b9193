//! The MQTT brokers of the installation, as the api sees them.

use async_trait::async_trait;
use proto::v1;

/// Sessions, subscriptions and retained messages on all nodes that accept devices.
#[async_trait]
pub trait Brokers: Send + Sync + 'static {
    /// Sessions of a tenant in the order of client id and node, the position of the last one that
    /// was looked at while there may be more.
    ///
    /// # Errors
    /// [`BrokersError`].
    async fn sessions(&self, query: SessionsQuery) -> Result<Listed<v1::Session, (String, String)>, BrokersError>;

    /// The session of a client; the one that is connected when several nodes have one.
    ///
    /// # Errors
    /// [`BrokersError`].
    async fn session(&self, tenant: &str, client: &str) -> Result<Found<v1::Session>, BrokersError>;

    /// Closes the connection of a client, or ends its session. Returns when that is done.
    ///
    /// # Errors
    /// [`BrokersError`].
    async fn disconnect(&self, tenant: &str, client: &str, end_session: bool) -> Result<Disconnected, BrokersError>;

    /// Subscriptions of a tenant in the order of client id, filter and node, as
    /// [`Brokers::sessions`].
    ///
    /// # Errors
    /// [`BrokersError`].
    async fn subscriptions(
        &self,
        query: SubscriptionsQuery,
    ) -> Result<Listed<v1::Subscription, (String, String, String)>, BrokersError>;

    /// At most `limit` retained messages of a tenant that match a topic filter, in the order of
    /// their topics, those behind `after`.
    ///
    /// # Errors
    /// [`BrokersError`].
    async fn retained(
        &self,
        tenant: &str,
        filter: &str,
        after: Option<String>,
        limit: usize,
    ) -> Result<Listed<v1::RetainedMessage, String>, BrokersError>;

    /// The retained message of a topic, with its payload; the newest when several nodes have one.
    ///
    /// # Errors
    /// [`BrokersError`].
    async fn retained_message(&self, tenant: &str, topic: &str) -> Result<Found<v1::RetainedMessage>, BrokersError>;

    /// Clears retained messages that match a topic filter, those behind `after`. Returns when that
    /// is durable.
    ///
    /// # Errors
    /// [`BrokersError`].
    async fn clear_retained(
        &self,
        tenant: &str,
        filter: &str,
        after: Option<String>,
    ) -> Result<ClearedRetained, BrokersError>;
}

/// The sessions that are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionsQuery {
    /// Tenant.
    pub tenant: String,
    /// Pattern of client ids; `*` matches any characters.
    pub clients: String,
    /// Only those that are connected, or only those that are away.
    pub connected: Option<bool>,
    /// The list begins behind this client id and node.
    pub after: Option<(String, String)>,
    /// Maximum number of sessions.
    pub limit: usize,
}

/// The subscriptions that are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscriptionsQuery {
    /// Tenant.
    pub tenant: String,
    /// Pattern of client ids; `*` matches any characters.
    pub clients: String,
    /// Pattern of topic filters; `*` matches any characters.
    pub filters: String,
    /// Only those that a message to this topic goes to.
    pub topic: Option<String>,
    /// The list begins behind this client id, filter and node.
    pub after: Option<(String, String, String)>,
    /// Maximum number of subscriptions.
    pub limit: usize,
}

/// A page of a list.
#[derive(Debug, Clone, PartialEq)]
pub struct Listed<T, P> {
    /// The items.
    pub items: Vec<T>,
    /// Position behind which the next page begins; `None` on the last page.
    pub next: Option<P>,
    /// Nodes that did not answer.
    pub unreachable: Vec<v1::UnreachableNode>,
}

/// An item that was asked for by its name.
#[derive(Debug, Clone, PartialEq)]
pub struct Found<T> {
    /// The item; `None` when no node that answered has it.
    pub item: Option<T>,
    /// Nodes that did not answer.
    pub unreachable: Vec<v1::UnreachableNode>,
}

/// The outcome of a disconnect.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Disconnected {
    /// Nodes that held the session; none when there was nothing to do.
    pub nodes: Vec<String>,
    /// A connection was closed.
    pub was_connected: bool,
    /// Messages that were discarded with the session.
    pub discarded: i64,
    /// Nodes that did not answer.
    pub unreachable: Vec<v1::UnreachableNode>,
}

/// The outcome of clearing retained messages.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ClearedRetained {
    /// Topics that were cleared, once for each node that held them.
    pub cleared: u64,
    /// Topics behind this one may be left; `None` when all are cleared.
    pub next: Option<String>,
    /// Nodes that did not answer, or could not store it.
    pub unreachable: Vec<v1::UnreachableNode>,
}

/// Why the brokers cannot be asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BrokersError {
    /// The nodes are not known now.
    #[error("cannot list the processes that accept devices: {0}")]
    Unavailable(String),
}
