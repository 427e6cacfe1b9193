//! Dead letters taken in again.

use std::future::poll_fn;
use std::task::Poll;

use api::{Replay, ReplayError};
use async_trait::async_trait;
use buffer::frame::Staged;
use buffer::{Batcher, SubmitError};
use flusher::Stores;
use ingest::{Door, MapOutcome};
use stores::contract::{Deadletter, StoreError};

/// Reads letters with the routes in force and appends what they hold. Readings that a store refused are given to that store.
pub(crate) struct Replayer {
    door: Door,
    batcher: Batcher,
    stores: Stores,
}

impl Replayer {
    /// Into the log behind this batcher, and these stores.
    pub(crate) fn new(door: Door, batcher: Batcher, stores: Stores) -> Self {
        Self { door, batcher, stores }
    }
}

/// Gives a refused reading to its store; false for a letter that is a message.
///
/// # Errors
/// What the store says.
pub(crate) async fn into_store(stores: &Stores, letter: &Deadletter) -> Result<bool, ReplayError> {
    flusher::store_again(stores, letter).await.map_err(|error| match error {
        StoreError::Refused(reason) | StoreError::TooLarge(reason) => ReplayError::Refused(reason),
        error => ReplayError::Unavailable(error.to_string()),
    })
}

#[async_trait]
impl Replay for Replayer {
    async fn replay(&self, letter: &Deadletter) -> Result<(), ReplayError> {
        if into_store(&self.stores, letter).await? {
            return Ok(());
        }
        let message = ingest::map::Message {
            tenant: &letter.tenant,
            client: &letter.client,
            topic: &letter.topic,
            payload: &letter.payload,
            received: letter.received,
        };
        match ingest::map::replay(&self.door, &message) {
            Ok(staged) if staged.count() == 0 => Ok(()),
            Ok(staged) => append(&self.batcher, staged).await,
            Err(MapOutcome::Refused(reason)) => Err(ReplayError::Refused(reason)),
            Err(MapOutcome::Plain) => Err(ReplayError::Refused("no route takes its topic".to_owned())),
            Err(MapOutcome::Readings(_)) => Ok(()),
        }
    }
}

/// Returns when it is durable.
async fn append(batcher: &Batcher, mut staged: Staged) -> Result<(), ReplayError> {
    let mut ticket = None;
    poll_fn(|context| {
        let failed = |reason: &str| Poll::Ready(Err(ReplayError::Unavailable(reason.to_owned())));
        let waited = match ticket {
            Some(waited) => waited,
            None => match batcher.submit(&mut staged, context.waker()) {
                Ok(submitted) => *ticket.insert(submitted),
                Err(SubmitError::Full) => return Poll::Pending,
                Err(SubmitError::Failed(reason)) => return failed(&reason),
            },
        };
        match batcher.durable() {
            Ok(durable) if durable >= waited => Poll::Ready(Ok(())),
            Ok(_) => Poll::Pending,
            Err(reason) => failed(&reason),
        }
    })
    .await
}
