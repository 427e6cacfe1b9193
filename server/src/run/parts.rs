//! What a process is made of, by its roles and stores.

use std::sync::Arc;
use std::time::Duration;

use ::stores::contract::{Retained, RetainedMessage, StoreError};
use ::stores::mongodb::MongoStore;
use anyhow::Context;
use buffer::Batcher;
use flusher::fleet::Readers;
use flusher::{Fleet, Flusher};
use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use super::log::Leases;
use super::start::Start;
use super::state::{Metrics, State};
use super::{fleet, sole};
use crate::config::Config;
use crate::data_dir::DataDir;
use crate::traces::Exporter;

/// How long a node waits for MongoDB before it goes on without it.
const SOON: Duration = Duration::from_secs(5);

/// What is opened before anything runs.
pub(super) struct Parts {
    /// Knows the log, and of stores nothing.
    pub(super) state: State,
    pub(super) intake: Option<Intake>,
    /// Of the logs that this process alone flushes.
    pub(super) leases: Option<Leases>,
    /// None when nothing is traced.
    pub(super) exporter: Option<Exporter>,
    /// May have to wait for a store. Devices do not wait with it.
    pub(super) rest: BoxFuture<'static, anyhow::Result<Rest>>,
}

/// What needs the stores.
pub(super) struct Rest {
    /// Knows them too.
    pub(super) state: State,
    pub(super) sinks: Sinks,
    /// Look which logs there are.
    pub(super) readers: Option<Readers>,
    pub(super) api: Option<(api::Backend, api::Config)>,
    /// Retained messages of earlier starts, when the broker began without them.
    pub(super) retained: Option<Vec<broker::Message>>,
}

/// From devices into the log.
pub(super) struct Intake {
    pub(super) door: ingest::Door,
    pub(super) batcher: Batcher,
    /// Those of earlier starts; none when they come with the rest.
    pub(super) retained: Option<Vec<broker::Message>>,
}

/// From logs into the stores.
pub(super) enum Sinks {
    /// This process does not flush.
    None,
    /// The only flusher of its logs.
    Sole(Flusher),
    /// One of several.
    Fleet(Fleet),
}

impl Sinks {
    /// Flushes until `stop`, and once more.
    ///
    /// # Errors
    /// When a sink ends.
    pub(super) async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        match self {
            Self::None => stop.cancelled().await,
            Self::Sole(flusher) => flusher.run(stop).await?,
            Self::Fleet(fleet) => fleet.run(stop).await?,
        }
        Ok(())
    }
}

impl Parts {
    /// Opens what the roles need; `advertised` is where other processes reach this one.
    ///
    /// # Errors
    /// Names the key to change.
    pub(super) async fn open(
        config: &Arc<Config>,
        data: &DataDir,
        metrics: Metrics,
        start: &Start,
        advertised: Option<String>,
    ) -> anyhow::Result<Self> {
        if config.is_fleet() {
            fleet::open(config, data, metrics, start, advertised.unwrap_or_default()).await
        } else {
            sole::open(config, data, metrics, start).await
        }
    }
}

/// Retained messages as the broker keeps them.
///
/// # Errors
/// As [`Retained::load`].
pub(super) async fn retained(store: &dyn Retained) -> Result<Vec<broker::Message>, StoreError> {
    let message = |m: &RetainedMessage| broker::Message::new(&m.topic, &m.payload, m.qos, true, &m.properties);
    Ok(store.load().await?.iter().map(message).collect())
}

/// MongoDB, and the retained messages of earlier starts when they are wanted.
pub(super) type Mongodb = (MongoStore, Option<Vec<broker::Message>>);

/// With the retained messages, if it answers soon: devices are not made to wait for it.
///
/// # Errors
/// When a person has to change something.
pub(super) async fn mongodb_soon(config: &Config, metrics: &Metrics, start: &Start) -> anyhow::Result<Option<Mongodb>> {
    match tokio::time::timeout(SOON, open_mongodb(config, metrics, true)).await {
        Ok(Ok(mongodb)) => return Ok(Some(mongodb)),
        Ok(Err(error)) if !is_passing(&error) => return Err(anyhow::Error::new(error).context("open MongoDB")),
        Ok(Err(error)) => start.waits_for("MongoDB", &error),
        Err(_) => start.waits_for("MongoDB", &format!("no answer within {SOON:?}")),
    }
    tracing::warn!("MongoDB does not answer yet: retained messages of earlier starts come when it does");
    Ok(None)
}

/// Once it answers.
///
/// # Errors
/// When a person has to change something.
pub(super) async fn mongodb(
    config: &Config,
    metrics: &Metrics,
    start: &Start,
    with_retained: bool,
) -> anyhow::Result<Mongodb> {
    let attempt = || open_mongodb(config, metrics, with_retained);
    start.wait_for("MongoDB", is_passing, attempt).await.context("open MongoDB")
}

async fn open_mongodb(config: &Config, metrics: &Metrics, with_retained: bool) -> Result<Mongodb, StoreError> {
    let settings = config.mongodb.store().ok_or_else(|| StoreError::Paused("`mongodb.uri` is empty".to_owned()))?;
    let store = MongoStore::open(settings, Arc::clone(&metrics.mongodb)).await?;
    let messages = if with_retained { Some(retained(&store).await?) } else { None };
    Ok((store, messages))
}

fn is_passing(error: &StoreError) -> bool {
    matches!(error, StoreError::Busy { .. })
}
