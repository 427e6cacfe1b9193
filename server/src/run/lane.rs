//! The lanes of a process: that of the shared pool, and one for each `[[pool]]`. A lane is a log
//! with its projections, its store and its readers. Lanes share nothing that one of them could
//! fill or block.

use std::sync::Arc;
use std::time::Duration;

use api::Replay;
use async_trait::async_trait;
use broker::Earlier;
use buffer::Batcher;
use cluster::members::{Member, Peers};
use flusher::fleet::{ReaderSource, Readers};
use flusher::{Fleet, FleetHandle};
use ingest::TelemetryInbox;
use model::trace::Tracer;
use stores::contract::{BookLine, Books, StoreError};

use super::known::KnownSettings;
use super::log::Logs;
use super::parts::KnownParts;
use super::replay::{LateReplayer, Replayer};
use super::server_watch::Servers;
use super::startup::Startup;
use super::state::{LaneState, Metrics};
use super::stores::Stores;
use super::{retained, sessions, settings};
use crate::backup;
use crate::config::{Config, Role};
use crate::data_dir::DataDir;

/// The log, the store and the readers of a pool.
pub(super) struct Lane {
    /// `None` for the shared pool.
    pub(super) pool: Option<Arc<str>>,
    /// The configuration of the pool.
    pub(super) config: Arc<Config>,
    pub(super) logs: Logs,
    pub(super) stores: Stores,
    /// `None` in a process without the role ingest.
    pub(super) intake: Option<Intake>,
    /// `None` in a process without the role flusher.
    pub(super) fleet: Option<Fleet>,
    pub(super) readers: Readers,
    /// Settings and parts that its servers had.
    pub(super) known: (KnownSettings, KnownParts),
    metrics: Metrics,
}

/// The way of the devices into the log.
#[derive(Clone)]
pub(super) struct Intake {
    pub(super) inbox: TelemetryInbox,
    pub(super) batcher: Batcher,
}

impl Lane {
    /// Opens the parts that the roles need. Waits only for Redis. `own` is this process, `peers`
    /// are the others.
    ///
    /// # Errors
    /// Names the key to change.
    pub(super) async fn open(
        pool: Option<Arc<str>>,
        config: Arc<Config>,
        data: &DataDir,
        metrics: Metrics,
        startup: &Startup,
        tracer: Option<&Tracer>,
        (own, peers): (&Member, &Peers),
    ) -> anyhow::Result<Self> {
        let known = (KnownSettings::open(data)?, KnownParts::open(data));
        let routes = settings::routes(&config)?;
        let logs = Logs::open(&config, data, Arc::clone(&metrics.buffer), startup, &known.0).await?;
        let intake = logs.own.as_ref().map(|(log, batcher)| {
            if let Some(tracer) = tracer {
                batcher.trace(tracer.clone(), log.id());
            }
            let limits = config.ingest.clone();
            let inbox = TelemetryInbox::new(routes, limits, batcher.clone(), Arc::clone(&metrics.ingest));
            Intake { inbox: inbox.traced(tracer.cloned()), batcher: batcher.clone() }
        });
        let stores = Stores::open(&config, data, &metrics).await?;
        let fleet = config.has(Role::Flusher).then(|| flusher(&config, &logs, &stores, &metrics, tracer, own));
        let local = fleet.as_ref().map(Fleet::handle);
        let peers = peers.of_pool(pool.as_deref(), Arc::clone(&metrics.members)).map_err(anyhow::Error::msg)?;
        let readers = readers(&config, &logs, &stores, local, peers);
        Ok(Self { pool, config, logs, stores, intake, fleet, readers, known, metrics })
    }

    /// The place of the sessions that this process shares with the others; None when it does not
    /// accept devices, or is alone.
    pub(super) fn shared_sessions(&self) -> Option<cluster::sessions::Pool> {
        let redis = self.logs.redis.clone().filter(|_| self.config.is_fleet() && self.intake.is_some())?;
        let metrics = Arc::clone(&self.metrics.sessions);
        Some(cluster::sessions::Pool { redis, config: sessions::settings(&self.config), metrics })
    }

    /// The open files of its folder.
    pub(super) fn open_files(&self) -> backup::Open {
        backup::Open {
            log: self.logs.embedded.clone(),
            spill: self.logs.spill.clone(),
            store: self.stores.embedded.clone(),
            registry: None,
        }
    }

    /// Loads the retained messages of earlier starts; `None` when the store cannot answer yet.
    ///
    /// # Errors
    /// When waiting is of no use.
    pub(super) async fn retained(&self, servers: &Servers) -> Result<Option<Earlier>, StoreError> {
        match self.intake.is_some() && servers.store_waits_for().is_none() {
            true => retained::load_in_time(&self.readers, &settings::broker(&self.config).node).await,
            false => Ok(None),
        }
    }

    /// Name of its retained messages as a part that waits.
    pub(super) fn retained_part(&self) -> String {
        of_pool("retained messages", self.pool.as_deref())
    }

    /// The parts whose state is reported.
    pub(super) fn state(&self) -> LaneState {
        let local = self.fleet.as_ref().map(Fleet::handle);
        let has_readers = local.is_some() || self.config.has(Role::Api);
        LaneState {
            pool: self.pool.clone(),
            log: self.logs.own.clone(),
            local,
            readers: has_readers.then(|| self.readers.clone()),
        }
    }

    pub(super) fn books(&self) -> Arc<dyn Books> {
        Arc::new(WatchedBooks { books: self.readers.books(), parts: self.known.1.clone() })
    }

    /// Replays dead letters into the log of this process, or into a separate log in a process
    /// without the role ingest.
    pub(super) fn replay(&self) -> Arc<dyn Replay> {
        let (config, projections) = (&self.config, self.stores.projections.clone());
        match (self.intake.clone(), &self.logs.redis) {
            (Some(Intake { inbox, batcher }), _) => {
                Arc::new(Replayer::new(inbox, batcher, projections).with_owners(config.auth.required))
            }
            (None, Some(redis)) => {
                Arc::new(LateReplayer::new(redis.clone(), Arc::clone(config), self.metrics.clone(), projections))
            }
            (None, None) => unreachable!("`Config::check` lets no process without devices run without Redis"),
        }
    }
}

/// The name of a part of a pool in reports; of the shared one without it.
pub(crate) fn of_pool(part: &str, pool: Option<&str>) -> String {
    match pool {
        None => part.to_owned(),
        Some(pool) => format!("{part} of pool {pool}"),
    }
}

/// The flusher of the logs that this process claims.
fn flusher(
    config: &Config,
    logs: &Logs,
    stores: &Stores,
    metrics: &Metrics,
    tracer: Option<&Tracer>,
    own: &Member,
) -> Fleet {
    let fleet = Fleet::new(
        settings::flusher(config),
        Arc::clone(&logs.catalogue),
        (own.holder(), Duration::from_millis(config.fleet.lease_ms)),
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
fn readers(config: &Config, logs: &Logs, stores: &Stores, local: Option<FleetHandle>, peers: Peers) -> Readers {
    let source = ReaderSource {
        catalogue: Arc::clone(&logs.catalogue),
        projections: stores.projections.clone(),
        stores: stores.standard.clone(),
        is_store_shared: config.is_fleet(),
        local,
        peers,
    };
    Readers::new(&settings::flusher(config), source)
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
