//! Replay of dead letters.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use api::{Replay, ReplayError};
use async_trait::async_trait;
use buffer::frame::Staged;
use buffer::redis::Redis;
use buffer::{Batcher, SubmitError};
use flusher::Projections;
use ingest::{MapOutcome, TelemetryInbox};
use stores::contract::{Deadletter, StoreError};
use tokio::sync::OnceCell;

use super::settings;
use super::state::Metrics;
use crate::config::Config;

/// Devices that one client id is read as, besides the one with this id.
const MOST_OWNERS: usize = 8;

/// Replays dead letters: reads messages with the present routes and appends their readings to the
/// log. Readings that a store refused are given to that store again.
pub(crate) struct Replayer {
    inbox: TelemetryInbox,
    batcher: Batcher,
    projections: Projections,
    has_owners: bool,
}

impl Replayer {
    /// Returns a replayer into the log behind `batcher`, and into these stores.
    pub(crate) fn new(inbox: TelemetryInbox, batcher: Batcher, projections: Projections) -> Self {
        Self { inbox, batcher, projections, has_owners: false }
    }

    /// A letter of an authenticated device gives readings of that device only.
    pub(crate) fn with_owners(self, has_owners: bool) -> Self {
        Self { has_owners, ..self }
    }

    fn read(&self, letter: &Deadletter) -> Result<Staged, MapOutcome> {
        let read = |device| {
            let message = ingest::StoredMessage {
                tenant: &letter.tenant,
                client: &letter.client,
                topic: &letter.topic,
                payload: &letter.payload,
                received: letter.received,
                retain: false,
                device,
            };
            ingest::map::replay(&self.inbox, &message)
        };
        if !self.has_owners {
            return read(None);
        }
        if let Some(device) = &letter.device {
            return read(Some(device));
        }
        // Of a sender without a device, or from before authentication.
        let mut outcome = read(Some(&letter.client));
        for device in door::owners(&letter.client).skip(1).take(MOST_OWNERS) {
            if !matches!(outcome, Err(MapOutcome::Refused(_))) {
                break;
            }
            outcome = read(Some(device)).or(outcome);
        }
        outcome
    }
}

/// Gives a refused reading to its store. Returns false for a letter that is a message.
///
/// # Errors
/// The error of the store, converted.
pub(crate) async fn into_store(projections: &Projections, letter: &Deadletter) -> Result<bool, ReplayError> {
    flusher::replay_into_store(projections, letter).await.map_err(|error| match error {
        StoreError::Refused(reason) | StoreError::TooLarge(reason) => ReplayError::Refused(reason),
        error => ReplayError::Unavailable(error.to_string()),
    })
}

#[async_trait]
impl Replay for Replayer {
    async fn replay(&self, letter: &Deadletter) -> Result<(), ReplayError> {
        if into_store(&self.projections, letter).await? {
            return Ok(());
        }
        match self.read(letter) {
            Ok(staged) if staged.count() == 0 => Ok(()),
            Ok(staged) => append(&self.batcher, staged).await,
            Err(MapOutcome::Refused(reason)) => Err(ReplayError::Refused(reason)),
            Err(MapOutcome::Plain) => Err(ReplayError::Refused("no route matches its topic".to_owned())),
            Err(MapOutcome::Readings(_)) => Ok(()),
        }
    }
}

/// Replays dead letters in a process without the role ingest, into a log that is created for the
/// first of them.
pub(super) struct LateReplayer {
    redis: Redis,
    config: Arc<Config>,
    metrics: Metrics,
    projections: Projections,
    opened: OnceCell<Opened>,
}

struct Opened {
    replayer: Replayer,
    /// Its writer lives for as long as this is held.
    _log: Arc<dyn buffer::Log>,
}

impl LateReplayer {
    pub(super) fn new(redis: Redis, config: Arc<Config>, metrics: Metrics, projections: Projections) -> Self {
        Self { redis, config, metrics, projections, opened: OnceCell::new() }
    }

    async fn open(&self) -> anyhow::Result<Opened> {
        let (routes, limits) = (settings::routes(&self.config)?, self.config.ingest.clone());
        let (log, batcher) = self.redis.create(Arc::clone(&self.metrics.buffer)).await?;
        let inbox = TelemetryInbox::new(routes, limits, batcher.clone(), Arc::clone(&self.metrics.ingest));
        let replayer = Replayer::new(inbox, batcher, self.projections.clone());
        Ok(Opened { replayer: replayer.with_owners(self.config.auth.required), _log: log })
    }
}

#[async_trait]
impl Replay for LateReplayer {
    async fn replay(&self, letter: &Deadletter) -> Result<(), ReplayError> {
        if into_store(&self.projections, letter).await? {
            return Ok(());
        }
        let opened = self.opened.get_or_try_init(|| self.open()).await;
        opened.map_err(|error| ReplayError::Unavailable(format!("{error:#}")))?.replayer.replay(letter).await
    }
}

/// Appends records and returns when they are durable.
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
