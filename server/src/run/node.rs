//! The parts of a process, opened by its roles. Nothing here waits for a store.

use std::sync::Arc;
use std::time::Duration;

use api::Replay;
use async_trait::async_trait;
use buffer::{Batcher, CatalogueError, Holder};
use flusher::fleet::{ReaderSource, Readers};
use flusher::{Fleet, FleetHandle};
use identity::Gate;
use ingest::TelemetryInbox;
use model::trace::Tracer;
use stores::contract::{BookLine, Books, StoreError};

use super::exports::Exports;
use super::known::KnownSettings;
use super::log::Logs;
use super::parts::KnownParts;
use super::replay::{LateReplayer, Replayer};
use super::settings;
use super::startup::Startup;
use super::state::{Metrics, State};
use super::stores::Stores;
use crate::access::Access;
use crate::backup;
use crate::config::{Config, Role};
use crate::data_dir::DataDir;
use crate::traces::{self, Exporter};

/// A process, ready to run.
pub(super) struct Node {
    pub(super) state: State,
    pub(super) stores: Stores,
    /// `None` in a process without the role ingest.
    pub(super) intake: Option<Intake>,
    /// `None` in a process without the role flusher.
    pub(super) fleet: Option<Fleet>,
    pub(super) readers: Readers,
    /// `None` in a process without the role api.
    pub(super) api: Option<(api::Backend, api::Config)>,
    /// `None` when nothing is traced.
    pub(super) exporter: Option<Exporter>,
    /// The open files of the data folder.
    pub(super) open: backup::Open,
}

/// The way of the devices into the log.
#[derive(Clone)]
pub(super) struct Intake {
    pub(super) inbox: TelemetryInbox,
    pub(super) batcher: Batcher,
}

impl Node {
    /// Opens the parts that the roles need. Waits only for Redis. `advertised` is the address of
    /// this process for other processes.
    ///
    /// # Errors
    /// Names the key to change.
    pub(super) async fn open(
        config: &Arc<Config>,
        data: &DataDir,
        metrics: Metrics,
        startup: &Startup,
        (known, parts): (&KnownSettings, &KnownParts),
        ((advertised, fleet_tls), access, gate): ((String, Option<tls::Client>), Option<&Access>, Option<Gate>),
    ) -> anyhow::Result<Self> {
        let routes = settings::routes(config)?;
        let logs = Logs::open(config, data, Arc::clone(&metrics.buffer), startup, known).await?;
        let secret = token_secret(config, data, &logs, startup).await?;
        let (tracer, exporter) = traces::open(&config.tracing, Arc::clone(&metrics.traces))?.unzip();
        let intake = logs.own.as_ref().map(|(log, batcher)| {
            if let Some(tracer) = &tracer {
                batcher.trace(tracer.clone(), log.id());
            }
            let limits = config.ingest.clone();
            let inbox = TelemetryInbox::new(routes, limits, batcher.clone(), Arc::clone(&metrics.ingest));
            Intake { inbox: inbox.traced(tracer.clone()), batcher: batcher.clone() }
        });
        let stores = Stores::open(config, data, &metrics).await?;
        let open = backup::Open {
            log: logs.embedded.clone(),
            spill: logs.spill.clone(),
            store: stores.embedded.clone(),
            registry: access.and_then(Access::embedded),
        };
        let fleet = config.has(Role::Flusher).then(|| flusher(config, &logs, &stores, &metrics, &tracer, advertised));
        let local = fleet.as_ref().map(Fleet::handle);
        let has_readers = local.is_some() || config.has(Role::Api);
        let readers = readers(config, &logs, &stores, local.clone(), fleet_tls)?;
        let asked = has_readers.then(|| readers.clone());
        let state = State::new(config, metrics.clone(), startup.waiting.clone(), logs.own.clone(), local, asked);
        let api = config.has(Role::Api).then(|| {
            let replay = replay(config, &logs, &stores, &metrics, intake.clone());
            let backend = api::Backend {
                history: Arc::clone(&stores.standard.history),
                tail: readers.tail(),
                latest: readers.latest(),
                dead_letters: readers.dead_letters(),
                logs: Arc::new(OpenLogs(readers.clone())),
                books: Arc::new(WatchedBooks { books: readers.books(), parts: parts.clone() }),
                replay,
                exports: Arc::new(Exports::new(stores.projections.clone(), readers.clone())),
                status: Arc::new(state.clone()),
            };
            let admin = access.zip(gate.clone()).map(|(access, gate)| access.admin().with_gate(gate));
            let authenticator = gate.map(|gate| Arc::new(gate) as Arc<dyn identity::Authenticator>);
            (backend, api::Config { tracer, authenticator, admin, ..settings::api(config, secret) })
        });
        Ok(Self { state, stores, intake, fleet, readers, api, exporter, open })
    }
}

/// The flusher of the logs that this process claims.
fn flusher(
    config: &Config,
    logs: &Logs,
    stores: &Stores,
    metrics: &Metrics,
    tracer: &Option<Tracer>,
    advertised: String,
) -> Fleet {
    let node = &config.redis.log.node;
    let name = if advertised.is_empty() { node.clone() } else { format!("{node}@{advertised}") };
    let fleet = Fleet::new(
        settings::flusher(config),
        Arc::clone(&logs.catalogue),
        (Holder { name, address: advertised }, Duration::from_millis(config.fleet.lease_ms)),
        stores.projections.clone(),
        stores.standard.clone(),
        Arc::clone(&metrics.flusher),
    );
    if let Some(tracer) = tracer {
        fleet.trace(tracer.clone());
    }
    if config.is_fleet() { fleet } else { fleet.alone() }
}

/// Readers of all logs, wherever each is flushed.
fn readers(
    config: &Config,
    logs: &Logs,
    stores: &Stores,
    local: Option<FleetHandle>,
    tls: Option<tls::Client>,
) -> anyhow::Result<Readers> {
    let source = ReaderSource {
        catalogue: Arc::clone(&logs.catalogue),
        projections: stores.projections.clone(),
        stores: stores.standard.clone(),
        is_store_shared: config.is_fleet(),
        local,
        secret: config.fleet.secret.clone(),
        tls,
    };
    Readers::new(&settings::flusher(config), source).map_err(anyhow::Error::msg)
}

/// Replays dead letters into the log of this process, or into a separate log in a process without
/// the role ingest.
fn replay(
    config: &Arc<Config>,
    logs: &Logs,
    stores: &Stores,
    metrics: &Metrics,
    intake: Option<Intake>,
) -> Arc<dyn Replay> {
    let projections = stores.projections.clone();
    match (intake, &logs.redis) {
        (Some(Intake { inbox, batcher }), _) => {
            Arc::new(Replayer::new(inbox, batcher, projections).with_owners(config.auth.required))
        }
        (None, Some(redis)) => {
            Arc::new(LateReplayer::new(redis.clone(), Arc::clone(config), metrics.clone(), projections))
        }
        (None, None) => unreachable!("`Config::check` lets no process without devices run without Redis"),
    }
}

/// Secret of the API's tokens: random bytes that all processes with the same logs share.
async fn token_secret(config: &Config, data: &DataDir, logs: &Logs, startup: &Startup) -> anyhow::Result<[u8; 32]> {
    let own = data.secret()?;
    let Some(redis) = logs.redis.as_ref().filter(|_| config.has(Role::Api)) else { return Ok(own) };
    let passing = |error: &CatalogueError| matches!(error, CatalogueError::Unavailable(_));
    Ok(startup.wait_for("Redis", passing, || redis.secret(own)).await?)
}

/// The books. A check ends the warnings about lost parts of servers whose books balance again.
struct WatchedBooks {
    books: Arc<dyn Books>,
    parts: KnownParts,
}

#[async_trait]
impl Books for WatchedBooks {
    async fn books(&self, check: bool) -> Result<Vec<BookLine>, StoreError> {
        let lines = self.books.books(check).await?;
        if check {
            self.parts.checked(&lines);
        }
        Ok(lines)
    }
}

/// All logs, for live subscribers.
struct OpenLogs(Readers);

#[async_trait]
impl api::Logs for OpenLogs {
    async fn open(&self) -> Result<Vec<Arc<dyn buffer::Log>>, StoreError> {
        self.0.logs().await
    }

    fn names(&self) -> tokio::sync::watch::Receiver<Arc<[String]>> {
        self.0.names()
    }
}
