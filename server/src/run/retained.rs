//! Retained messages of earlier starts, from the store to the broker.

use broker::RetainedMessage;
use model::Backoff;
use stores::contract::{self, Retained, StoreError};

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

/// Loads the messages once the store responds, without a time-out.
pub(super) async fn load_when_ready<S: Retained + ?Sized>(store: &S) -> Vec<RetainedMessage> {
    let mut backoff = Backoff::new(WAIT.0, WAIT.1);
    loop {
        match load(store).await {
            Ok(messages) => return messages,
            Err(error) => tracing::debug!(%error, "cannot load the retained messages; trying again"),
        }
        tokio::time::sleep(backoff.draw()).await;
    }
}
