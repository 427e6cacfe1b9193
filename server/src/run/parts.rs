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

/// How long a node waits for the retained messages of earlier starts before it goes on without them.
const RETAINED: Duration = Duration::from_secs(5);

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
}

/// From devices into the log.
pub(super) struct Intake {
    pub(super) door: ingest::Door,
    pub(super) batcher: Batcher,
    pub(super) retained: Messages,
}

/// Retained messages of earlier starts.
pub(super) enum Messages {
    /// At hand.
    Here(Vec<broker::Message>),
    /// In MongoDB, which does not answer yet; the broker runs meanwhile.
    Later(stores::mongodb::Config, Arc<stores::mongodb::Metrics>),
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

impl Messages {
    /// Those of a store that answers.
    ///
    /// # Errors
    /// When they cannot be loaded.
    pub(super) async fn load(store: &dyn Retained) -> anyhow::Result<Self> {
        Ok(Self::Here(retained(store).await.context("load the retained messages")?))
    }

    /// Those in MongoDB, or the way to them when it does not answer: devices are not made to wait for it.
    ///
    /// # Errors
    /// When a person has to change something.
    pub(super) async fn of_mongodb(config: &Config, metrics: &Metrics, start: &Start) -> anyhow::Result<Self> {
        let settings = config.mongodb.store().context("`mongodb.uri` is empty")?;
        let attempt = async {
            let store = MongoStore::open(settings.clone(), Arc::clone(&metrics.mongodb)).await?;
            retained(&store).await
        };
        match tokio::time::timeout(RETAINED, attempt).await {
            Ok(Ok(messages)) => return Ok(Self::Here(messages)),
            Ok(Err(error)) if !matches!(error, StoreError::Busy { .. }) => {
                return Err(anyhow::Error::new(error).context("load the retained messages"));
            }
            Ok(Err(error)) => start.waits_for("MongoDB", &error),
            Err(_) => start.waits_for("MongoDB", &format!("no answer within {RETAINED:?}")),
        }
        tracing::warn!("MongoDB does not answer yet: retained messages of earlier starts come when it does");
        Ok(Self::Later(settings, Arc::clone(&metrics.mongodb)))
    }
}

/// Brings retained messages when MongoDB answers.
///
/// # Errors
/// When a person has to change something.
pub(super) async fn restore<I: broker::inbox::Inbox>(
    broker: Arc<broker::Broker<I>>,
    settings: stores::mongodb::Config,
    metrics: Arc<stores::mongodb::Metrics>,
    start: Start,
) -> anyhow::Result<()> {
    let passing = |error: &StoreError| matches!(error, StoreError::Busy { .. });
    let attempt = || {
        let (settings, metrics) = (settings.clone(), Arc::clone(&metrics));
        async move { retained(&MongoStore::open(settings, metrics).await?).await }
    };
    let messages = start.wait_for("MongoDB", passing, attempt).await.context("load the retained messages")?;
    tracing::info!(messages = messages.len(), "retained messages of earlier starts");
    broker.restore(messages);
    Ok(())
}

/// MongoDB, once it answers.
///
/// # Errors
/// When a person has to change something.
pub(super) async fn mongodb(config: &Config, metrics: &Metrics, start: &Start) -> anyhow::Result<MongoStore> {
    let settings = config.mongodb.store().context("`mongodb.uri` is empty")?;
    let passing = |error: &StoreError| matches!(error, StoreError::Busy { .. });
    let attempt = || MongoStore::open(settings.clone(), Arc::clone(&metrics.mongodb));
    start.wait_for("MongoDB", passing, attempt).await.context("open MongoDB")
}
