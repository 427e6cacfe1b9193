//! One of several processes over logs on Redis and one store in MongoDB, with any of the roles.

use std::sync::Arc;
use std::time::Duration;

use ::stores::contract::{Deadletter, StoreError};
use ::stores::mongodb::MongoStore;
use anyhow::Context;
use api::{Replay, ReplayError};
use async_trait::async_trait;
use buffer::Holder;
use buffer::redis::{OpenError, Redis};
use flusher::Fleet;
use flusher::fleet::{ReaderSource, Readers};
use sha2::{Digest, Sha256};
use tokio::sync::OnceCell;

use super::parts::{self, Intake, Messages, Parts, Sinks};
use super::replay::{Replayer, into_store};
use super::start::Start;
use super::state::{Metrics, SinkView, State};
use super::stores::Stores;
use super::{log, wire};
use crate::config::{Config, Role};
use crate::data_dir::DataDir;
use crate::traces;

/// How long an ingest node waits for the retained messages of earlier starts before it goes on without them.
const RETAINED: Duration = Duration::from_secs(5);

/// Opens what the roles need. `advertised` is where the other processes reach this one.
///
/// # Errors
/// Names the key to change.
pub(super) async fn open(
    config: &Config,
    data: &DataDir,
    metrics: Metrics,
    start: &Start,
    advertised: String,
) -> anyhow::Result<Parts> {
    let routes = wire::routes(config)?;
    let redis = redis(config, start).await?;
    let (tracer, exporter) = traces::open(&config.tracing, Arc::clone(&metrics.traces))?.unzip();
    // The log first: devices are let in as soon as it is there.
    let log = match config.has(Role::Ingest) {
        true => Some(log::append_to(&redis, config, data, Arc::clone(&metrics.buffer)).await?),
        false => None,
    };
    let intake = match &log {
        Some((log, batcher)) => {
            if let Some(tracer) = &tracer {
                batcher.trace(tracer.clone(), log.id());
            }
            let door = ingest::Door::new(routes, wire::limits(config), batcher.clone(), Arc::clone(&metrics.ingest));
            let door = door.traced(tracer.clone());
            let retained = retained(config, &metrics).await?;
            Some(Intake { door, batcher: batcher.clone(), retained })
        }
        None => None,
    };
    if !config.has(Role::Flusher) && !config.has(Role::Api) {
        let state = State::intake_only(config, metrics, log.context("a process without a role")?);
        return Ok(Parts { state, intake, sinks: Sinks::None, readers: None, api: None, exporter });
    }

    let (stores, mongodb) = stores(config, &metrics, start).await?;
    let settings = wire::flusher_config(config);
    let fleet = config.has(Role::Flusher).then(|| {
        let name = format!("{}@{}", config.redis.node, advertised);
        let (holder, lease) = (Holder { name, address: advertised }, Duration::from_millis(config.fleet.lease_ms));
        let (sinks, counts) = (stores.sinks(), metrics.flusher.clone());
        Fleet::new(settings.clone(), Arc::new(redis.clone()), holder, lease, sinks, counts)
    });
    if let (Some(fleet), Some(tracer)) = (&fleet, &tracer) {
        fleet.trace(super::stores::tracing(config, tracer));
    }
    let local = fleet.as_ref().map(Fleet::handle);
    let source = ReaderSource {
        catalogue: Arc::new(redis.clone()),
        stores: stores.sinks(),
        latest: Arc::new(mongodb),
        local: local.clone(),
        secret: config.fleet.secret.clone(),
    };
    let readers = Readers::new(&settings, source).map_err(anyhow::Error::msg)?;
    let view = SinkView::Fleet(local, readers.clone());
    let state = State::new(config, metrics.clone(), log, view, readers.dead_letters(), readers.books());
    let api = if config.has(Role::Api) {
        let replay: Arc<dyn Replay> = match &intake {
            Some(intake) => Arc::new(Replayer::new(intake.door.clone(), intake.batcher.clone(), stores.sinks())),
            None => {
                let (config, stores, opened) = (config.clone(), stores.sinks(), OnceCell::new());
                Arc::new(LateReplayer { redis, config, metrics, stores, opened })
            }
        };
        let backend = api::Backend {
            history: Arc::clone(&stores.history),
            tail: readers.tail(),
            latest: readers.latest(),
            dead_letters: readers.dead_letters(),
            logs: Arc::new(Logs(readers.clone())),
            books: readers.books(),
            replay,
            status: Arc::new(state.clone()),
        };
        Some((backend, api::Config { tracer, ..wire::api_config(config, token_secret(config, data)?) }))
    } else {
        None
    };
    let sinks = fleet.map_or(Sinks::None, Sinks::Fleet);
    Ok(Parts { state, intake, sinks, readers: Some(readers), api, exporter })
}

/// Tokens of one process are taken by every other that knows the fleet's secret.
fn token_secret(config: &Config, data: &DataDir) -> anyhow::Result<[u8; 32]> {
    if config.fleet.secret.is_empty() {
        return data.secret();
    }
    Ok(Sha256::new_with_prefix(b"weir tokens ").chain_update(&config.fleet.secret).finalize().into())
}

async fn redis(config: &Config, start: &Start) -> Result<Redis, OpenError> {
    let passing = |error: &OpenError| matches!(error, OpenError::Unreachable(_));
    start.wait_for("Redis", passing, || Redis::connect(config.redis.log(&config.log))).await
}

/// The stores; waits for MongoDB.
async fn stores(config: &Config, metrics: &Metrics, start: &Start) -> anyhow::Result<(Stores, MongoStore)> {
    let settings = config.mongodb.store().context("`mongodb.uri` is empty")?;
    let passing = |error: &StoreError| matches!(error, StoreError::Busy { .. });
    let attempt = || MongoStore::open(settings.clone(), Arc::clone(&metrics.mongodb));
    let mongodb = start.wait_for("MongoDB", passing, attempt).await.context("open MongoDB")?;
    Ok((Stores::of(config, mongodb.clone(), metrics).await?, mongodb))
}

/// Retained messages, or the way to them when MongoDB does not answer: devices are not made to wait for it.
async fn retained(config: &Config, metrics: &Metrics) -> anyhow::Result<Messages> {
    let settings = config.mongodb.store().context("`mongodb.uri` is empty")?;
    let attempt = async {
        let store = MongoStore::open(settings.clone(), Arc::clone(&metrics.mongodb)).await?;
        parts::retained(&store).await
    };
    match tokio::time::timeout(RETAINED, attempt).await {
        Ok(Ok(messages)) => Ok(Messages::Here(messages)),
        Ok(Err(error)) if !matches!(error, StoreError::Busy { .. }) => {
            Err(anyhow::Error::new(error).context("load the retained messages"))
        }
        _ => {
            tracing::warn!("MongoDB does not answer yet: retained messages of earlier starts come when it does");
            Ok(Messages::Later(settings, Arc::clone(&metrics.mongodb)))
        }
    }
}

/// Brings the retained messages when MongoDB answers.
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
        async move { parts::retained(&MongoStore::open(settings, metrics).await?).await }
    };
    let messages = start.wait_for("MongoDB", passing, attempt).await.context("load the retained messages")?;
    tracing::info!(messages = messages.len(), "retained messages of earlier starts");
    broker.restore(messages);
    Ok(())
}

/// The logs of the fleet, for live subscribers.
struct Logs(Readers);

#[async_trait]
impl api::Logs for Logs {
    async fn open(&self) -> Result<Vec<Arc<dyn buffer::Log>>, StoreError> {
        self.0.logs().await
    }

    fn names(&self) -> tokio::sync::watch::Receiver<Arc<[String]>> {
        self.0.names()
    }
}

/// Takes dead letters in again where no device is taken: with a log that is made for the first of them.
struct LateReplayer {
    redis: Redis,
    config: Config,
    metrics: Metrics,
    stores: flusher::Stores,
    opened: OnceCell<Opened>,
}

struct Opened {
    replayer: Replayer,
    /// Written as long as it is held.
    _log: Arc<dyn buffer::Log>,
}

#[async_trait]
impl Replay for LateReplayer {
    async fn replay(&self, letter: &Deadletter) -> Result<(), ReplayError> {
        if into_store(&self.stores, letter).await? {
            return Ok(());
        }
        let opened = self.opened.get_or_try_init(|| self.open()).await;
        opened.map_err(|error| ReplayError::Unavailable(format!("{error:#}")))?.replayer.replay(letter).await
    }
}

impl LateReplayer {
    async fn open(&self) -> anyhow::Result<Opened> {
        let routes = wire::routes(&self.config)?;
        let (log, batcher) = self.redis.create(Arc::clone(&self.metrics.buffer)).await?;
        let limits = wire::limits(&self.config);
        let door = ingest::Door::new(routes, limits, batcher.clone(), Arc::clone(&self.metrics.ingest));
        Ok(Opened { replayer: Replayer::new(door, batcher, self.stores.clone()), _log: log })
    }
}
