//! One of several processes over logs on Redis and one store in MongoDB, with any of the roles.

use std::sync::Arc;
use std::time::Duration;

use ::stores::contract::{Deadletter, StoreError};
use ::stores::mongodb::MongoStore;
use api::{Replay, ReplayError};
use async_trait::async_trait;
use buffer::redis::Redis;
use buffer::{Batcher, Holder};
use flusher::Fleet;
use flusher::fleet::{ReaderSource, Readers};
use model::trace::Tracer;
use sha2::{Digest, Sha256};
use tokio::sync::OnceCell;

use super::parts::{self, Intake, Parts, Rest, Sinks};
use super::replay::{Replayer, into_store};
use super::start::Start;
use super::state::{Metrics, SinkView, State};
use super::stores::Stores;
use super::{log, wire};
use crate::config::{Config, Role};
use crate::data_dir::DataDir;
use crate::traces;

/// Opens what the roles need; waits for Redis. `advertised` is where the other processes reach this one.
///
/// # Errors
/// Names the key to change.
pub(super) async fn open(
    config: &Arc<Config>,
    data: &DataDir,
    metrics: Metrics,
    start: &Start,
    advertised: String,
) -> anyhow::Result<Parts> {
    let routes = wire::routes(config)?;
    let secret = token_secret(config, data)?;
    let redis = log::redis(config, start).await?;
    let (tracer, exporter) = traces::open(&config.tracing, Arc::clone(&metrics.traces))?.unzip();
    let (mut log, mut intake, mut mongodb) = (None, None, None);
    if config.has(Role::Ingest) {
        let (own, batcher) = log::append_to(&redis, config, data, Arc::clone(&metrics.buffer)).await?;
        if let Some(tracer) = &tracer {
            batcher.trace(tracer.clone(), own.id());
        }
        let door = ingest::Door::new(routes, wire::limits(config), batcher.clone(), Arc::clone(&metrics.ingest));
        let door = door.traced(tracer.clone());
        let (store, retained) = parts::mongodb_soon(config, &metrics, start).await?.unzip();
        mongodb = store;
        let retained = retained.flatten();
        log = Some((own, batcher.clone()));
        intake = Some(Intake { door, batcher, retained });
    }
    let state = State::new(config, metrics.clone(), log);
    let with_stores = WithStores {
        config: Arc::clone(config),
        metrics,
        state: state.clone(),
        start: start.clone(),
        redis,
        awaits_retained: intake.as_ref().is_some_and(|intake| intake.retained.is_none()),
        mongodb,
        tracer,
        replay: intake.as_ref().map(|intake| (intake.door.clone(), intake.batcher.clone())),
        advertised,
        secret,
    };
    Ok(Parts { state, intake, leases: None, exporter, rest: Box::pin(with_stores.open()) })
}

/// What the part that needs the stores is made of.
struct WithStores {
    config: Arc<Config>,
    metrics: Metrics,
    state: State,
    start: Start,
    redis: Redis,
    /// If it answered already.
    mongodb: Option<MongoStore>,
    /// The broker begins without the retained messages.
    awaits_retained: bool,
    tracer: Option<Tracer>,
    /// Where dead letters are taken in again, in a process that takes devices.
    replay: Option<(ingest::Door, Batcher)>,
    advertised: String,
    /// Of the API's tokens.
    secret: [u8; 32],
}

impl WithStores {
    /// Waits for MongoDB, in a process that needs it.
    async fn open(self) -> anyhow::Result<Rest> {
        let Self { config, metrics, state, start, redis, mongodb, tracer, replay, advertised, secret, .. } = self;
        let takes_only = !config.has(Role::Flusher) && !config.has(Role::Api);
        if takes_only && !self.awaits_retained {
            return Ok(Rest { state, sinks: Sinks::None, readers: None, api: None, retained: None });
        }
        let (mongodb, retained) = match mongodb {
            Some(mongodb) => (mongodb, None),
            None => parts::mongodb(&config, &metrics, &start, self.awaits_retained).await?,
        };
        if takes_only {
            return Ok(Rest { state, sinks: Sinks::None, readers: None, api: None, retained });
        }
        let stores = Stores::of(&config, mongodb.clone(), &metrics).await?;
        let settings = wire::flusher_config(&config);
        let fleet = config.has(Role::Flusher).then(|| {
            let name = format!("{}@{}", config.redis.node, advertised);
            let holder = Holder { name, address: advertised };
            let lease = Duration::from_millis(config.fleet.lease_ms);
            let (sinks, counts) = (stores.sinks(), metrics.flusher.clone());
            Fleet::new(settings.clone(), Arc::new(redis.clone()), holder, lease, sinks, counts)
        });
        if let (Some(fleet), Some(tracer)) = (&fleet, &tracer) {
            fleet.trace(super::stores::tracing(&config, tracer));
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
        let state = state.with_stores(view, readers.dead_letters(), readers.books());
        let api = config.has(Role::Api).then(|| {
            let api_config = api::Config { tracer, ..wire::api_config(&config, secret) };
            let replay: Arc<dyn Replay> = match replay {
                Some((door, batcher)) => Arc::new(Replayer::new(door, batcher, stores.sinks())),
                None => {
                    let (stores, opened) = (stores.sinks(), OnceCell::new());
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
            (backend, api_config)
        });
        let sinks = fleet.map_or(Sinks::None, Sinks::Fleet);
        Ok(Rest { state, sinks, readers: Some(readers), api, retained })
    }
}

/// Tokens of one process are taken by every other that knows the fleet's secret.
fn token_secret(config: &Config, data: &DataDir) -> anyhow::Result<[u8; 32]> {
    if config.fleet.secret.is_empty() {
        return data.secret();
    }
    Ok(Sha256::new_with_prefix(b"weir tokens ").chain_update(&config.fleet.secret).finalize().into())
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
    config: Arc<Config>,
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
