//! Retained messages of earlier starts, from the store and the logs to the broker.

use broker::RetainedMessage;
use flusher::fleet::Readers;
use model::Backoff;
use stores::contract::{self, StoreError};

use super::server_watch::DEADLINE;
use super::startup::WAIT;

/// Loads the messages, as the broker keeps them.
///
/// # Errors
/// Like [`Readers::retained`].
pub(super) async fn load(readers: &Readers) -> Result<Vec<RetainedMessage>, StoreError> {
    let convert = |stored: contract::RetainedMessage| {
        let contract::RetainedMessage { tenant, topic, qos, payload, properties, received } = stored;
        RetainedMessage { tenant, topic, payload, qos, properties, published: received }
    };
    Ok(readers.retained().await?.into_iter().map(convert).collect())
}

/// Loads the messages at a start; `None` when the store cannot answer now, but may later.
///
/// # Errors
/// Like [`Readers::retained`], when waiting is of no use.
pub(super) async fn load_in_time(readers: &Readers) -> Result<Option<Vec<RetainedMessage>>, StoreError> {
    match tokio::time::timeout(DEADLINE, load(readers)).await {
        Ok(Ok(messages)) => Ok(Some(messages)),
        Ok(Err(StoreError::Busy { .. } | StoreError::NeedsOperator(_))) | Err(_) => Ok(None),
        Ok(Err(error)) => Err(error),
    }
}

/// Loads the messages once the store responds, without a time-out.
pub(super) async fn load_when_ready(readers: &Readers) -> Vec<RetainedMessage> {
    let mut backoff = Backoff::new(WAIT.0, WAIT.1);
    let mut last = String::new();
    loop {
        match load(readers).await {
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
