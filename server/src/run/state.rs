//! State of the process: readiness, status, metrics.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use api::StatusSource;
use async_trait::async_trait;
use buffer::{Batcher, Log};
use flusher::fleet::Readers;
use flusher::{FleetHandle, SinkState, SinkStatus};
use futures::future::try_join_all;
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use proto::v1;
use proto::v1::sink_status::State as ProtoState;
use stores::contract::Deadletter;
use tokio_util::sync::CancellationToken;

use super::lane::of_pool;
use super::parts::KnownParts;
use crate::config::{Config, Pool, Role, SHARED};
use crate::{client, exports, traces};

/// How often the log is looked at: a log that has failed ends the process within this.
const LOOK: Duration = Duration::from_millis(200);

/// Metrics of all parts.
#[derive(Debug, Default, Clone)]
pub(crate) struct Metrics {
    /// Metrics of the broker.
    pub(crate) broker: Arc<broker::Metrics>,
    /// Metrics of bridges.
    pub(crate) bridges: bridge::Metrics,
    /// Metrics of ingestion.
    pub(crate) ingest: Arc<ingest::Metrics>,
    /// Metrics of the log.
    pub(crate) buffer: Arc<buffer::Metrics>,
    /// Metrics of calls to the other processes.
    pub(crate) members: Arc<cluster::members::Metrics>,
    /// Metrics of the sessions that a fleet shares.
    pub(crate) sessions: Arc<cluster::sessions::Metrics>,
    /// Metrics of the sinks.
    pub(crate) flusher: Arc<flusher::Metrics>,
    /// The store's.
    pub(crate) stores: Arc<stores::Metrics>,
    /// MongoDB's.
    pub(crate) mongodb: Arc<stores::mongodb::Metrics>,
    /// The exports'.
    pub(crate) exports: Arc<exports::Metrics>,
    /// The services'.
    pub(crate) api: api::Metrics,
    /// Metrics of checkpoints of the audit.
    pub(crate) checkpoints: Arc<super::checkpoints::Metrics>,
    /// Metrics of limits of tenants in a fleet.
    pub(crate) limits: Arc<super::shares::Metrics>,
    /// Metrics of TLS.
    pub(crate) tls: tls::Metrics,
    /// The spans'.
    pub(crate) traces: Arc<traces::Metrics>,
    /// Metrics of each pool besides the shared one, with the same metrics of the parts that all
    /// pools share.
    pub(crate) pools: Arc<[(Arc<str>, Metrics)]>,
}

impl Metrics {
    /// Metrics of a process with the pools of the configuration.
    pub(crate) fn of(config: &Config) -> Self {
        let shared = Self::default();
        let pool = |pool: &Pool| {
            let Self { broker, ingest, api, checkpoints, limits, tls, traces, .. } = shared.clone();
            let of_pool = Self { broker, ingest, api, checkpoints, limits, tls, traces, ..Self::default() };
            (Arc::from(pool.name.as_str()), of_pool)
        };
        let pools = config.pool.iter().map(pool).collect();
        Self { pools, ..shared }
    }

    /// Registers all metrics.
    pub(crate) fn register(&self, registry: &mut Registry) {
        self.broker.register(registry);
        self.bridges.register(registry);
        self.ingest.register(registry);
        self.register_lane(registry);
        for (pool, metrics) in self.pools.iter() {
            metrics.register_lane(registry.sub_registry_with_label(("pool".into(), pool.to_string().into())));
        }
        self.api.register(registry);
        self.checkpoints.register(registry);
        self.limits.register(registry);
        self.tls.register(registry);
        self.traces.register(registry);
    }

    /// Dead letters of all pools that were deleted.
    fn letters_deleted(&self) -> u64 {
        let of_pools = self.pools.iter().map(|(_, metrics)| metrics.flusher.letters_deleted());
        self.flusher.letters_deleted() + of_pools.sum::<u64>()
    }

    /// Registers the metrics that each pool has of its own.
    fn register_lane(&self, registry: &mut Registry) {
        self.buffer.register(registry);
        self.sessions.register(registry);
        self.flusher.register(registry);
        self.members.register(registry);
        self.stores.register(registry);
        self.mongodb.register(registry);
        self.exports.register(registry);
    }
}

/// The parts of a pool whose state is reported; each depends on the roles of the process.
pub(crate) struct LaneState {
    /// `None` for the shared pool.
    pub(crate) pool: Option<Arc<str>>,
    /// The log that this process writes.
    pub(crate) log: Option<(Arc<dyn Log>, Batcher)>,
    /// The logs that this process flushes.
    pub(crate) local: Option<FleetHandle>,
    /// Readers of all logs; `None` in a process that only takes devices.
    pub(crate) readers: Option<Readers>,
}

impl LaneState {
    fn sinks(&self) -> Vec<SinkStatus> {
        self.local.as_ref().map(FleetHandle::status).unwrap_or_default()
    }

    /// The name of a part in reports.
    fn part(&self, part: &str) -> String {
        of_pool(part, self.pool.as_deref())
    }

    /// The reason why its log accepts no records.
    fn refuses(&self) -> Option<String> {
        let (log, batcher) = self.log.as_ref()?;
        batcher.durable().err().map(|reason| reason.to_string()).or_else(|| log.state().blocked)
    }
}

/// State of the process. Cheap to clone.
#[derive(Clone)]
pub(crate) struct State {
    /// Metrics of all parts.
    pub(crate) metrics: Metrics,
    shared: Arc<Shared>,
}

struct Shared {
    roles: Vec<String>,
    /// The shared one first.
    lanes: Vec<LaneState>,
    /// Servers that cannot be used yet.
    waiting: Waiting,
    stopping: AtomicBool,
    started: (Instant, SystemTime),
}

/// A problem of a part.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Reason {
    /// Name of the part.
    pub(crate) part: String,
    /// Reason, for operators.
    pub(crate) reason: String,
}

impl Reason {
    pub(super) fn new(part: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { part: part.into(), reason: reason.into() }
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.part, self.reason)
    }
}

/// Response of `/health/ready`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Readiness {
    /// True when messages can be appended.
    pub(crate) ready: bool,
    /// All problems, including those that stop no messages.
    pub(crate) reasons: Vec<Reason>,
}

/// Servers that cannot be used yet, with the reasons, and the parts that servers lost. Cheap to
/// clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Waiting {
    reasons: Arc<Mutex<Vec<Reason>>>,
    parts: Arc<Mutex<Vec<KnownParts>>>,
}

impl Waiting {
    /// Sets the reason why `server` cannot be used, `None` when it can. True when that is news.
    pub(super) fn set(&self, server: &str, reason: Option<String>) -> bool {
        let mut held = self.reasons.lock();
        let before = held.iter().position(|held| held.part == server).map(|at| held.remove(at).reason);
        let is_new = before != reason;
        held.extend(reason.map(|reason| Reason::new(server, reason)));
        is_new
    }

    pub(super) fn reasons(&self) -> Vec<Reason> {
        let mut reasons = self.reasons.lock().clone();
        reasons.extend(self.parts.lock().iter().flat_map(KnownParts::concerns));
        reasons
    }

    /// From now on, reports the parts that servers lost.
    pub(super) fn report(&self, parts: KnownParts) {
        self.parts.lock().push(parts);
    }
}

impl Readiness {
    /// The state in one word.
    pub(crate) fn word(&self) -> &'static str {
        client::status::word(self.ready, !self.reasons.is_empty())
    }
}

impl State {
    /// State of a process with these pools, the shared one first.
    pub(crate) fn new(config: &Config, metrics: Metrics, waiting: Waiting, lanes: Vec<LaneState>) -> Self {
        let roles = Role::PARTS.iter().filter(|role| config.has(**role)).map(|role| role.name().to_owned()).collect();
        let (stopping, started) = (AtomicBool::new(false), (Instant::now(), SystemTime::now()));
        Self { metrics, shared: Arc::new(Shared { roles, lanes, waiting, stopping, started }) }
    }

    /// The parts that the process waits for.
    pub(super) fn waiting(&self) -> &Waiting {
        &self.shared.waiting
    }

    /// State of each sink of each log that this process flushes, by pool.
    fn sinks(&self) -> Vec<Vec<SinkStatus>> {
        self.shared.lanes.iter().map(LaneState::sinks).collect()
    }

    /// Marks the process as not ready.
    pub(crate) fn stop(&self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
    }

    /// Returns whether messages can be appended, with all problems. One pool whose log is full
    /// keeps its own devices waiting: the process is ready for those of others.
    pub(crate) fn readiness(&self) -> Readiness {
        self.readiness_with(&self.sinks())
    }

    fn readiness_with(&self, sinks: &[Vec<SinkStatus>]) -> Readiness {
        let lanes = &self.shared.lanes;
        let mut reasons = Vec::new();
        let stopping = self.shared.stopping.load(Ordering::Relaxed);
        let draining = self.metrics.broker.draining.get() > 0;
        if stopping {
            reasons.push(Reason::new("weir", "it is stopping"));
        } else if draining {
            let open = self.metrics.broker.connections.get();
            reasons.push(Reason::new("weir", format!("it is draining: {open} connections are open (`weir drain`)")));
        }
        let refusing = lanes.iter().filter_map(|lane| Some(Reason::new(lane.part("log"), lane.refuses()?)));
        reasons.extend(refusing);
        let ready = !stopping && !draining && reasons.len() < lanes.len().max(1);
        for (log, lane) in lanes.iter().filter_map(|lane| Some((&lane.log.as_ref()?.0, lane))) {
            reasons.extend(log.concerns().into_iter().map(|concern| Reason::new(lane.part("log"), concern)));
        }
        let listeners = self.metrics.broker.listeners.list().into_iter();
        reasons.extend(listeners.filter_map(|listener| {
            let fault = listener.fault?;
            let (part, reason) = (format!("listener {}", listener.name), format!("cannot accept connections: {fault}"));
            Some(Reason::new(part, reason))
        }));
        reasons.extend(self.shared.waiting.reasons());
        for (fleet, lane) in lanes.iter().filter_map(|lane| Some((lane.local.as_ref()?, lane))) {
            let failures = fleet.failures().into_iter();
            reasons.extend(failures.map(|(log, reason)| Reason::new(lane.part(&format!("log {log}")), reason)));
        }
        for (lane, sinks) in lanes.iter().zip(sinks) {
            let troubled = sinks.iter().filter_map(|sink| Some((sink, trouble(sink)?)));
            reasons.extend(troubled.map(|(sink, why)| Reason::new(lane.part(&format!("sink {}", sink.sink)), why)));
        }
        Readiness { ready, reasons }
    }

    /// Status including the log of this process.
    pub(crate) fn whole_status(&self) -> v1::Status {
        let mut status = self.status_of(&self.sinks());
        for (log, _) in self.shared.lanes.iter().filter_map(|lane| lane.log.as_ref()) {
            let state = log.state();
            status.logs.push(v1::LogStatus {
                log: log.id().to_owned(),
                start_offset: signed(log.start()),
                end_offset: signed(log.end()),
                used_bytes: signed(state.used_bytes),
                capacity_bytes: signed(state.capacity_bytes),
                blocked_reason: state.blocked.unwrap_or_default(),
            });
        }
        status
    }

    fn status_of(&self, sinks: &[Vec<SinkStatus>]) -> v1::Status {
        let readiness = self.readiness_with(sinks);
        let (started, at) = self.shared.started;
        let (unrouted, others) = self.metrics.ingest.unrouted.list();
        let takeovers = self.metrics.broker.takeovers.list(model::clock::now());
        v1::Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            start_time: Some(at.into()),
            uptime: prost_types::Duration::try_from(started.elapsed()).ok(),
            roles: self.shared.roles.clone(),
            ready: readiness.ready,
            reasons: readiness.reasons.iter().map(ToString::to_string).collect(),
            connection_count: self.metrics.broker.connections.get(),
            logs: Vec::new(),
            sinks: sinks.iter().flatten().map(sink).collect(),
            unrouted_topics: unrouted.into_iter().map(unrouted_topic).collect(),
            other_unrouted_count: signed(others),
            deleted_dead_letter_count: signed(self.metrics.letters_deleted()),
            listeners: self.metrics.broker.listeners.list().into_iter().map(listener).collect(),
            repeated_takeovers: takeovers.into_iter().map(repeated_takeover).collect(),
        }
    }

    /// Books of all tenants.
    pub(crate) async fn books(&self) -> Result<Vec<stores::contract::BookLine>, stores::StoreError> {
        let readers = self.shared.lanes.iter().filter_map(|lane| lane.readers.as_ref());
        let lines = try_join_all(readers.map(async |readers| readers.books().books(false).await)).await?;
        Ok(lines.into_iter().flatten().collect())
    }

    /// At most `most` of the newest dead letters.
    pub(crate) async fn newest_dead_letters(&self, most: usize) -> Result<Vec<Deadletter>, stores::StoreError> {
        let mut found = Vec::new();
        for (readers, lane) in self.shared.lanes.iter().filter_map(|lane| Some((lane.readers.as_ref()?, lane))) {
            let log = lane.log.as_ref().map(|(log, _)| log.id());
            found.extend(super::letters::newest(&*readers.dead_letters(), log, most).await?);
        }
        found.sort_by_key(|letter| std::cmp::Reverse(letter.received));
        found.truncate(most);
        Ok(found)
    }

    /// Status of the logs of this process, each with its pool.
    pub(crate) fn log_states(&self) -> Vec<(Option<Arc<str>>, buffer::log::State)> {
        let lanes = self.shared.lanes.iter();
        lanes.filter_map(|lane| Some((lane.pool.clone(), lane.log.as_ref()?.0.state()))).collect()
    }
}

#[async_trait]
impl StatusSource for State {
    async fn status(&self) -> v1::Status {
        let status = async |lane: &LaneState| match &lane.readers {
            Some(readers) => readers.status().await,
            None => Vec::new(),
        };
        let mut sinks = Vec::new();
        for lane in &self.shared.lanes {
            sinks.push(status(lane).await);
        }
        self.status_of(&sinks)
    }
}

fn sink(status: &SinkStatus) -> v1::SinkStatus {
    let (state, lasting) = match &status.state {
        SinkState::Running => (ProtoState::Running, None),
        SinkState::Retrying { lasting, .. } => (ProtoState::Retrying, Some(*lasting)),
        SinkState::Paused { lasting, .. } => (ProtoState::Paused, Some(*lasting)),
        SinkState::Ended { .. } => (ProtoState::Unspecified, None),
    };
    v1::SinkStatus {
        log: status.log.clone(),
        sink: status.sink.to_string(),
        state: state.into(),
        reason: trouble(status).unwrap_or_default(),
        state_time: lasting.and_then(|lasting| SystemTime::now().checked_sub(lasting)).map(Into::into),
        done_offset: signed(status.done_to),
        lag_records: signed(status.lag_records),
        lag: Duration::try_from_secs_f64(status.lag_seconds).ok().and_then(|d| d.try_into().ok()),
    }
}

fn unrouted_topic(topic: ingest::UnroutedTopic) -> v1::UnroutedTopic {
    v1::UnroutedTopic {
        tenant: topic.tenant.to_string(),
        topic: topic.topic.to_string(),
        client: topic.client.to_string(),
        message_count: signed(topic.messages),
        first_time: Some(client::time::to_proto(topic.first)),
        last_time: Some(client::time::to_proto(topic.last)),
    }
}

fn listener(listener: broker::ListenerReport) -> v1::ListenerStatus {
    v1::ListenerStatus {
        listener: listener.name.to_string(),
        address: listener.address,
        protocol: listener.protocol.to_owned(),
        connection_count: listener.connections,
        blocked_reason: listener.fault.unwrap_or_default(),
    }
}

fn repeated_takeover(takeover: broker::Takeover) -> v1::RepeatedTakeover {
    v1::RepeatedTakeover {
        tenant: takeover.tenant.to_string(),
        client: takeover.client.to_string(),
        takeover_count: signed(takeover.count),
        first_time: Some(client::time::to_proto(takeover.first)),
        last_time: Some(client::time::to_proto(takeover.last)),
        addresses: takeover.addresses.iter().map(ToString::to_string).collect(),
    }
}

/// Problems of a sink.
fn trouble(status: &SinkStatus) -> Option<String> {
    match &status.state {
        SinkState::Running => None,
        SinkState::Retrying { reason, .. } => Some(format!("retrying: {reason}")),
        SinkState::Paused { reason, .. } => Some(format!("paused: {reason}")),
        SinkState::Ended { reason } => Some(format!("ended: {reason}")),
    }
}

fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// Ends when a log fails, and logs when one becomes blocked and unblocked.
///
/// # Errors
/// The reason of the failure.
pub(crate) async fn watch_log(state: State, stop: CancellationToken) -> anyhow::Result<()> {
    let mut ticks = tokio::time::interval(LOOK);
    let lanes = &state.shared.lanes;
    let mut blocked: Vec<Option<String>> = vec![None; lanes.len()];
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            _ = ticks.tick() => {}
        }
        for (lane, blocked) in lanes.iter().zip(&mut blocked) {
            let Some((log, batcher)) = &lane.log else { continue };
            let pool = lane.pool.as_deref().unwrap_or(SHARED);
            if let Err(reason) = batcher.durable() {
                anyhow::bail!("{}: {reason}", lane.part("log"));
            }
            let now = log.state().blocked;
            match (&blocked, &now) {
                (None, Some(reason)) => tracing::error!(pool, reason, "the log accepts no records now; devices wait"),
                (Some(_), None) => tracing::info!(pool, "the log accepts records again"),
                _ => {}
            }
            *blocked = now;
        }
    }
}
