//! Retained messages of earlier starts, from the store to the broker.

use broker::RetainedMessage;
use model::Backoff;
use stores::contract::{self, Retained, StoreError};

use super::server_watch::DEADLINE;
use super::startup::WAIT;

/// Loads the messages, as the broker keeps them.
///
/// # Errors
/// Like [`Retained::load`].
pub(super) async fn load<S: Retained + ?Sized>(store: &S) -> Result<Vec<RetainedMessage>, StoreError> {
    let convert = |stored: contract::RetainedMessage| {
        let contract::RetainedMessage { tenant, topic, qos, payload, properties, received: _ } = stored;
        RetainedMessage { tenant, topic, payload, qos, properties }
    };
    Ok(Retained::load(store).await?.into_iter().map(convert).collect())
}

/// Loads the messages at a start; `None` when the store cannot answer now, but may later.
///
/// # Errors
/// Like [`Retained::load`], when waiting is of no use.
pub(super) async fn load_in_time<S: Retained + ?Sized>(store: &S) -> Result<Option<Vec<RetainedMessage>>, StoreError> {
    match tokio::time::timeout(DEADLINE, load(store)).await {
        Ok(Ok(messages)) => Ok(Some(messages)),
        Ok(Err(StoreError::Busy { .. } | StoreError::NeedsOperator(_))) | Err(_) => Ok(None),
        Ok(Err(error)) => Err(error),
    }
}

/// Loads the messages once the store responds, without a time-out.
pub(super) async fn load_when_ready<S: Retained + ?Sized>(store: &S) -> Vec<RetainedMessage> {
    let mut backoff = Backoff::new(WAIT.0, WAIT.1);
    let mut last = String::new();
    loop {
        match load(store).await {
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
