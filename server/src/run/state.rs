//! State of the process: readiness, status, metrics.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use api::StatusSource;
use async_trait::async_trait;
use buffer::{Batcher, Log};
use flusher::fleet::Readers;
use flusher::{FleetHandle, SinkState, SinkStatus};
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use proto::v1;
use proto::v1::sink_status::State as ProtoState;
use stores::contract::Deadletter;
use tokio_util::sync::CancellationToken;

use super::parts::KnownParts;
use crate::config::{Config, Role};
use crate::{client, exports, traces};

/// How often the log is looked at: a log that has failed ends the process within this.
const LOOK: Duration = Duration::from_millis(200);

/// Metrics of all parts.
#[derive(Debug, Default, Clone)]
pub(crate) struct Metrics {
    /// Metrics of the broker.
    pub(crate) broker: Arc<broker::Metrics>,
    /// Metrics of ingestion.
    pub(crate) ingest: Arc<ingest::Metrics>,
    /// Metrics of the log.
    pub(crate) buffer: Arc<buffer::Metrics>,
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
    /// Metrics of TLS.
    pub(crate) tls: tls::Metrics,
    /// The spans'.
    pub(crate) traces: Arc<traces::Metrics>,
}

impl Metrics {
    /// Registers all metrics.
    pub(crate) fn register(&self, registry: &mut Registry) {
        self.broker.register(registry);
        self.ingest.register(registry);
        self.buffer.register(registry);
        self.flusher.register(registry);
        self.stores.register(registry);
        self.mongodb.register(registry);
        self.exports.register(registry);
        self.api.register(registry);
        self.tls.register(registry);
        self.traces.register(registry);
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
    /// The log that this process writes.
    log: Option<(Arc<dyn Log>, Batcher)>,
    /// The logs that this process flushes.
    local: Option<FleetHandle>,
    /// Readers of all logs; `None` in a process that only takes devices.
    readers: Option<Readers>,
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
    parts: Arc<OnceLock<KnownParts>>,
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
        reasons.extend(self.parts.get().map(KnownParts::concerns).unwrap_or_default());
        reasons
    }

    /// From now on, reports the parts that servers lost.
    pub(super) fn report(&self, parts: KnownParts) {
        self.parts.get_or_init(|| parts);
    }
}

impl Readiness {
    /// The state in one word.
    pub(crate) fn word(&self) -> &'static str {
        client::status::word(self.ready, !self.reasons.is_empty())
    }
}

impl State {
    /// State of a process that writes `log`, flushes the logs of `local` and reads through
    /// `readers`; each depends on its roles.
    pub(crate) fn new(
        config: &Config,
        metrics: Metrics,
        waiting: Waiting,
        log: Option<(Arc<dyn Log>, Batcher)>,
        local: Option<FleetHandle>,
        readers: Option<Readers>,
    ) -> Self {
        let roles = Role::PARTS.iter().filter(|role| config.has(**role)).map(|role| role.name().to_owned()).collect();
        let (stopping, started) = (AtomicBool::new(false), (Instant::now(), SystemTime::now()));
        Self { metrics, shared: Arc::new(Shared { roles, log, local, readers, waiting, stopping, started }) }
    }

    /// The parts that the process waits for.
    pub(super) fn waiting(&self) -> &Waiting {
        &self.shared.waiting
    }

    /// State of each sink of each log that this process flushes.
    fn sinks(&self) -> Vec<SinkStatus> {
        self.shared.local.as_ref().map(FleetHandle::status).unwrap_or_default()
    }

    /// Marks the process as not ready.
    pub(crate) fn stop(&self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
    }

    /// Returns whether messages can be appended, with all problems.
    pub(crate) fn readiness(&self) -> Readiness {
        self.readiness_with(&self.sinks())
    }

    fn readiness_with(&self, sinks: &[SinkStatus]) -> Readiness {
        let mut reasons = Vec::new();
        if self.shared.stopping.load(Ordering::Relaxed) {
            reasons.push(Reason::new("weir", "it is stopping"));
        }
        if let Some((log, batcher)) = &self.shared.log {
            if let Err(reason) = batcher.durable() {
                reasons.push(Reason::new("log", reason.to_string()));
            } else if let Some(reason) = log.state().blocked {
                reasons.push(Reason::new("log", reason));
            }
        }
        let ready = reasons.is_empty();
        if let Some((log, _)) = &self.shared.log {
            reasons.extend(log.concerns().into_iter().map(|concern| Reason::new("log", concern)));
        }
        reasons.extend(self.shared.waiting.reasons());
        if let Some(fleet) = &self.shared.local {
            let failures = fleet.failures().into_iter();
            reasons.extend(failures.map(|(log, reason)| Reason::new(format!("log {log}"), reason)));
        }
        for sink in sinks {
            if let Some(reason) = trouble(sink) {
                reasons.push(Reason::new(format!("sink {}", sink.sink), reason));
            }
        }
        Readiness { ready, reasons }
    }

    /// Status including the log of this process.
    pub(crate) fn whole_status(&self) -> v1::Status {
        let mut status = self.status_of(&self.sinks());
        if let Some((log, _)) = &self.shared.log {
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

    fn status_of(&self, sinks: &[SinkStatus]) -> v1::Status {
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
            sinks: sinks.iter().map(sink).collect(),
            unrouted_topics: unrouted.into_iter().map(unrouted_topic).collect(),
            other_unrouted_count: signed(others),
            deleted_dead_letter_count: signed(self.metrics.flusher.letters_deleted()),
            repeated_takeovers: takeovers.into_iter().map(repeated_takeover).collect(),
        }
    }

    /// Books of all tenants.
    pub(crate) async fn books(&self) -> Result<Vec<stores::contract::BookLine>, stores::StoreError> {
        match &self.shared.readers {
            Some(readers) => readers.books().books(false).await,
            None => Ok(Vec::new()),
        }
    }

    /// At most `most` of the newest dead letters.
    pub(crate) async fn newest_dead_letters(&self, most: usize) -> Result<Vec<Deadletter>, stores::StoreError> {
        let Some(readers) = &self.shared.readers else { return Ok(Vec::new()) };
        super::letters::newest(&*readers.dead_letters(), self.shared.log.as_ref().map(|(log, _)| log.id()), most).await
    }

    /// Status of the log of this process.
    pub(crate) fn log_state(&self) -> Option<buffer::log::State> {
        self.shared.log.as_ref().map(|(log, _)| log.state())
    }
}

#[async_trait]
impl StatusSource for State {
    async fn status(&self) -> v1::Status {
        match &self.shared.readers {
            Some(readers) => self.status_of(&readers.status().await),
            None => self.status_of(&[]),
        }
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

/// Ends when the log fails, and logs when it becomes blocked and unblocked.
///
/// # Errors
/// The reason of the failure.
pub(crate) async fn watch_log(state: State, stop: CancellationToken) -> anyhow::Result<()> {
    let mut ticks = tokio::time::interval(LOOK);
    let mut blocked: Option<String> = None;
    let Some((log, batcher)) = &state.shared.log else {
        stop.cancelled().await;
        return Ok(());
    };
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            _ = ticks.tick() => {}
        }
        if let Err(reason) = batcher.durable() {
            anyhow::bail!("{reason}");
        }
        let now = log.state().blocked;
        match (&blocked, &now) {
            (None, Some(reason)) => tracing::error!(reason, "the log accepts no records now; devices wait"),
            (Some(_), None) => tracing::info!("the log accepts records again"),
            _ => {}
        }
        blocked = now;
    }
}
