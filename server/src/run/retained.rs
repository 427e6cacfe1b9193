//! Retained messages of earlier starts, from the store and the logs to the broker; and the store as
//! the archive of messages that wait for sessions.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use broker::{Archive, Broker, Earlier, RetainedMessage, Unreachable};
use flusher::fleet::Readers;
use model::Backoff;
use stores::contract::{self, Retained, StoreError};
use tokio_util::sync::CancellationToken;

use super::placement::{Placement, PooledInbox, lane_of};
use super::server_watch::DEADLINE;
use super::startup::WAIT;

/// Loads the messages of a node, as the broker keeps them, and counts them in `read`.
///
/// # Errors
/// Like [`Readers::retained`].
async fn load(readers: &Readers, node: &str, read: &AtomicUsize) -> Result<Earlier, StoreError> {
    let mut earlier = Earlier::of(node);
    let take = |stored, is_in_store| {
        read.fetch_add(1, Ordering::Relaxed);
        earlier.add(convert(stored), is_in_store);
    };
    readers.retained(take).await?;
    Ok(earlier)
}

fn convert(stored: contract::RetainedMessage) -> RetainedMessage {
    let contract::RetainedMessage { tenant, topic, qos, payload, properties, received } = stored;
    RetainedMessage { tenant, topic, payload, qos, properties, published: received }
}

/// Loads the messages at a start; `None` when the store cannot answer now, but may later. As long
/// as some come, it waits for the others.
///
/// # Errors
/// Like [`Readers::retained`], when waiting is of no use.
pub(super) async fn load_in_time(readers: &Readers, node: &str) -> Result<Option<Earlier>, StoreError> {
    let (read, mut before) = (AtomicUsize::new(0), 0);
    let mut loading = std::pin::pin!(load(readers, node, &read));
    loop {
        match tokio::time::timeout(DEADLINE, &mut loading).await {
            Ok(Ok(earlier)) => return Ok(Some(earlier)),
            Ok(Err(StoreError::Busy { .. } | StoreError::NeedsOperator(_))) => return Ok(None),
            Ok(Err(error)) => return Err(error),
            Err(_) => {
                let now = read.load(Ordering::Relaxed);
                if std::mem::replace(&mut before, now) == now {
                    return Ok(None);
                }
            }
        }
    }
}

/// Loads the messages once the store responds, without a time-out.
pub(super) async fn load_when_ready(readers: &Readers, node: &str) -> Earlier {
    let mut backoff = Backoff::new(WAIT.0, WAIT.1);
    let mut last = String::new();
    loop {
        match load(readers, node, &AtomicUsize::new(0)).await {
            Ok(messages) => return messages,
            Err(error) if error.to_string() != last => {
                last = error.to_string();
                tracing::warn!(%error, "cannot load the retained messages of earlier starts; trying again");
            }
            Err(_) => {}
        }
        tokio::time::sleep(backoff.draw()).await;
    }
}

/// Reads all retained messages again whenever those of other processes may have been missed, until
/// `stop`.
pub(super) async fn renew(
    broker: Arc<Broker<PooledInbox>>,
    readers: Vec<Readers>,
    node: String,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let renewing = async {
        loop {
            broker.retained_missed().await;
            for readers in &readers {
                let messages = load_when_ready(readers, &node).await.into_messages();
                tracing::info!(messages = messages.len(), "retained messages were read again");
                broker.renew(messages);
            }
        }
    };
    tokio::select! {
        () = renewing => {}
        () = stop.cancelled() => {}
    }
    Ok(())
}

/// The stores of all lanes.
pub(super) struct StoredMessages {
    /// In the order of the lanes.
    stores: Vec<Arc<dyn Retained>>,
    /// `None` with the shared pool alone.
    placement: Option<Arc<Placement>>,
}

impl StoredMessages {
    pub(super) fn new(stores: Vec<Arc<dyn Retained>>, placement: Option<Arc<Placement>>) -> Self {
        Self { stores, placement }
    }

    fn of(&self, tenant: &str) -> Result<&Arc<dyn Retained>, Unreachable> {
        let unknown = || Unreachable(format!("the pool of tenant {tenant} is not known here"));
        lane_of(self.placement.as_deref(), tenant).and_then(|lane| self.stores.get(lane)).ok_or_else(unknown)
    }
}

#[async_trait]
impl Archive for StoredMessages {
    async fn holds(&self, tenant: &Arc<str>, topics: &[String]) -> Result<Vec<bool>, Unreachable> {
        self.of(tenant)?.holds(tenant, topics).await.map_err(|error| Unreachable(error.to_string()))
    }

    async fn read(
        &self,
        tenant: &Arc<str>,
        topics: &[String],
        most_bytes: usize,
    ) -> Result<Vec<Option<RetainedMessage>>, Unreachable> {
        let read = self.of(tenant)?.read(tenant, topics, most_bytes).await;
        let read = read.map_err(|error| Unreachable(error.to_string()))?;
        Ok(read.into_iter().map(|found| found.map(convert)).collect())
    }
}
