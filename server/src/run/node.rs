//! The parts of a process, opened by its roles. Nothing here waits for a store.

use std::sync::Arc;

use anyhow::Context;
use cluster::members::{Member, Members, Peers, SecretError};
use identity::Gate;
use stores::contract::{DeadLetters, History, LatestView, Tail};

use super::brokers::{Brokers, Fellows, LocalNode, Nodes};
use super::exports::Exports;
use super::lane::Lane;
use super::log::Logs;
use super::placement::{Placement, PooledInbox};
use super::pooled::{Pooled, PooledExports, PooledLogs};
use super::settings;
use super::startup::Startup;
use super::state::{Metrics, State};
use crate::access::Access;
use crate::backup;
use crate::config::{Config, Role};
use crate::data_dir::{DataDir, pool_folders};
use crate::traces::{self, Exporter};

/// A process, ready to run.
pub(super) struct Node {
    pub(super) state: State,
    /// The shared lane first.
    pub(super) lanes: Vec<Lane>,
    /// `None` with the shared pool alone.
    pub(super) placement: Option<Arc<Placement>>,
    /// `None` in a process without the role api.
    pub(super) api: Option<(api::Backend, api::Config)>,
    /// `None` when nothing is traced.
    pub(super) exporter: Option<Exporter>,
    /// The broker, without itself yet; `None` in a process without the role ingest.
    pub(super) broker: Option<LocalNode>,
    /// The open files of the data folder, then those of its pools by name.
    pub(super) open: (backup::Open, Vec<(String, backup::Open)>),
}

impl Node {
    /// Opens the parts that the roles need. Waits only for Redis. `own` is this process, `peers`
    /// are the others.
    ///
    /// # Errors
    /// Names the key to change.
    pub(super) async fn open(
        config: &Arc<Config>,
        data: &DataDir,
        metrics: Metrics,
        startup: &Startup,
        ((own, peers), access, gate): ((Member, Peers), Option<&Access>, Option<Gate>),
    ) -> anyhow::Result<Self> {
        let (tracer, exporter) = traces::open(&config.tracing, Arc::clone(&metrics.traces))?.unzip();
        let shared = Arc::new(config.of_shared());
        let (tracer, fleet) = (tracer.as_ref(), (&own, &peers));
        let broker = config.has(Role::Ingest).then(|| LocalNode::new(own.node()));
        let mut lanes = vec![Lane::open(None, shared, data, metrics.clone(), startup, tracer, fleet).await?];
        for (pool, own) in config.pool.iter().zip(metrics.pools.iter()) {
            let (of_pool, data) = (Arc::new(config.of_pool(pool)?), data.pool(&pool.name)?);
            let (name, own) = (Some(Arc::clone(&own.0)), own.1.clone());
            let opened = Lane::open(name, of_pool, &data, own, startup, tracer, fleet).await;
            lanes.push(opened.with_context(|| format!("pool `{}`", pool.name))?);
        }
        warn_of_others(config, data);
        let secret = token_secret(config, data, &lanes[0].logs, startup).await?;
        let pools: Vec<Arc<str>> = lanes.iter().filter_map(|lane| lane.pool.clone()).collect();
        let placement = gate.clone().filter(|_| !pools.is_empty()).map(|gate| Arc::new(Placement::new(gate, pools)));
        let registry = access.and_then(Access::embedded);
        let of_pools = lanes.iter().filter_map(|lane| Some((lane.pool.as_ref()?.to_string(), lane.open_files())));
        let open = (backup::Open { registry, ..lanes[0].open_files() }, of_pools.collect());
        let state = State::new(config, metrics, startup.waiting.clone(), lanes.iter().map(Lane::state).collect());
        let api = config.has(Role::Api).then(|| {
            let redis = lanes[0].logs.redis.as_ref().filter(|_| config.is_fleet());
            let fleet = redis.map(|redis| Fellows { members: Members::of(redis), peers, own });
            let brokers = Brokers::new(Nodes { local: broker.clone(), fleet });
            let backend = backend(&lanes, placement.as_ref(), &state, Arc::new(brokers));
            let admin = access.zip(gate.clone()).map(|(access, gate)| access.admin().with_gate(gate));
            let authenticator = gate.map(|gate| Arc::new(gate) as Arc<dyn identity::Authenticator>);
            let config = api::Config { tracer: tracer.cloned(), authenticator, admin, ..settings::api(config, secret) };
            (backend, config)
        });
        Ok(Self { state, lanes, placement, api, exporter, open, broker })
    }

    /// The inboxes of all lanes; `None` in a process without the role ingest.
    pub(super) fn inbox(&self) -> Option<PooledInbox> {
        let inboxes = self.lanes.iter().map(|lane| Some(lane.intake.as_ref()?.inbox.clone()));
        Some(PooledInbox::new(inboxes.collect::<Option<_>>()?, self.placement.clone()))
    }
}

/// The ports of the api: those of the only lane, or of the lane of each tenant.
fn backend(
    lanes: &[Lane],
    placement: Option<&Arc<Placement>>,
    state: &State,
    brokers: Arc<dyn api::Brokers>,
) -> api::Backend {
    let readers = lanes.iter().map(|lane| lane.readers.clone()).collect();
    let logs = Arc::new(PooledLogs::new(placement.cloned(), readers));
    let exports = |lane: &Lane| Exports::new(lane.stores.projections.clone(), lane.readers.clone());
    let status = Arc::new(state.clone());
    let Some(placement) = placement else {
        let lane = &lanes[0];
        return api::Backend {
            history: Arc::clone(&lane.stores.standard.history),
            tail: lane.readers.tail(),
            latest: lane.readers.latest(),
            dead_letters: lane.readers.dead_letters(),
            logs,
            books: lane.books(),
            replay: lane.replay(),
            exports: Arc::new(exports(lane)),
            brokers,
            status,
        };
    };
    let lanes = || lanes.iter();
    let history: Vec<Arc<dyn History>> = lanes().map(|lane| Arc::clone(&lane.stores.standard.history)).collect();
    let tail: Vec<Arc<dyn Tail>> = lanes().map(|lane| lane.readers.tail()).collect();
    let latest: Vec<Arc<dyn LatestView>> = lanes().map(|lane| lane.readers.latest()).collect();
    let dead_letters: Vec<Arc<dyn DeadLetters>> = lanes().map(|lane| lane.readers.dead_letters()).collect();
    let exports = lanes().map(|lane| (lane.stores.projections.clone(), exports(lane))).collect();
    let placement = || Arc::clone(placement);
    api::Backend {
        history: Arc::new(Pooled::new(placement(), history)),
        tail: Arc::new(Pooled::new(placement(), tail)),
        latest: Arc::new(Pooled::new(placement(), latest)),
        dead_letters: Arc::new(Pooled::new(placement(), dead_letters)),
        logs,
        books: Arc::new(Pooled::new(placement(), lanes().map(Lane::books).collect())),
        replay: Arc::new(Pooled::new(placement(), lanes().map(Lane::replay).collect())),
        exports: Arc::new(PooledExports::new(exports)),
        brokers,
        status,
    }
}

/// Reports folders of pools that are not configured: their logs are not flushed, and their tenants
/// are refused.
fn warn_of_others(config: &Config, data: &DataDir) {
    for (name, folder) in pool_folders(data.path()) {
        if !config.pool.iter().any(|pool| pool.name == name) {
            tracing::error!(
                pool = name, folder = %folder.display(),
                "the folder of a pool without a [[pool]] table: its readings are neither stored nor found, and devices \
                 of its tenants are refused; put the table back"
            );
        }
    }
}

/// Secret of the API's tokens: random bytes that all processes with the same logs share.
async fn token_secret(config: &Config, data: &DataDir, logs: &Logs, startup: &Startup) -> anyhow::Result<[u8; 32]> {
    let own = data.secret()?;
    let Some(redis) = logs.redis.as_ref().filter(|_| config.has(Role::Api)) else { return Ok(own) };
    let passing = |error: &SecretError| matches!(error, SecretError::Unavailable(_));
    let members = Members::of(redis);
    Ok(startup.wait_for("Redis", passing, || members.token_secret(own)).await?)
}
