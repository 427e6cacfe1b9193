//! What the process knows of itself: readiness, status, metrics.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use api::StatusSource;
use async_trait::async_trait;
use buffer::{Batcher, Log};
use flusher::fleet::Readers;
use flusher::{FleetHandle, Handle, SinkState, SinkStatus};
use prometheus_client::registry::Registry;
use proto::v1;
use proto::v1::sink_status::State as ProtoState;
use stores::contract::{Books, DeadLetters, Deadletter};
use tokio_util::sync::CancellationToken;

use crate::config::{Config, Role};
use crate::traces;

/// How often the log is looked at: a log that has failed ends the process within this.
const LOOK: Duration = Duration::from_millis(200);

/// Everything that is counted.
#[derive(Debug, Default, Clone)]
pub(crate) struct Metrics {
    /// The broker's.
    pub(crate) broker: Arc<broker::Metrics>,
    /// The intake's.
    pub(crate) ingest: Arc<ingest::Metrics>,
    /// The log's.
    pub(crate) buffer: Arc<buffer::Metrics>,
    /// The sinks'.
    pub(crate) flusher: Arc<flusher::Metrics>,
    /// The store's.
    pub(crate) stores: Arc<stores::Metrics>,
    /// MongoDB's.
    pub(crate) mongodb: Arc<stores::mongodb::Metrics>,
    /// InfluxDB's.
    pub(crate) influxdb: Arc<stores::influxdb::Metrics>,
    /// The services'.
    pub(crate) api: api::Metrics,
    /// The spans'.
    pub(crate) traces: Arc<traces::Metrics>,
}

impl Metrics {
    /// Shows all of them.
    pub(crate) fn register(&self, registry: &mut Registry) {
        self.broker.register(registry);
        self.ingest.register(registry);
        self.buffer.register(registry);
        self.flusher.register(registry);
        self.stores.register(registry);
        self.mongodb.register(registry);
        self.influxdb.register(registry);
        self.api.register(registry);
        self.traces.register(registry);
    }
}

/// Shared by everyone who asks. Cheap to clone.
#[derive(Clone)]
pub(crate) struct State {
    /// Everything that is counted.
    pub(crate) metrics: Metrics,
    shared: Arc<Shared>,
}

struct Shared {
    roles: Vec<String>,
    /// The log that this process writes.
    log: Option<(Arc<dyn Log>, Batcher)>,
    sinks: SinkView,
    dead_letters: Option<Arc<dyn DeadLetters>>,
    books: Option<Arc<dyn Books>>,
    stopping: Arc<AtomicBool>,
    started: (Instant, SystemTime),
}

/// Where to ask for the sinks.
pub(crate) enum SinkView {
    /// This process has to do with none.
    None,
    /// All are in this process.
    Sole(Handle),
    /// Those of this process, if it flushes, and the way to the others.
    Fleet(Option<FleetHandle>, Readers),
}

impl SinkView {
    /// Those of this process.
    fn here(&self) -> Vec<SinkStatus> {
        match self {
            Self::Sole(handle) => handle.status(),
            Self::Fleet(Some(handle), _) => handle.status(),
            Self::None | Self::Fleet(None, _) => Vec::new(),
        }
    }

    async fn everywhere(&self) -> Vec<SinkStatus> {
        match self {
            Self::Fleet(_, readers) => readers.status().await,
            _ => self.here(),
        }
    }
}

/// Why something is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Reason {
    /// Which part.
    pub(crate) part: String,
    /// Why, for a person.
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

/// The answer of `/health/ready`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Readiness {
    /// Messages can be appended.
    pub(crate) ready: bool,
    /// What is wrong, also what does not stop messages.
    pub(crate) reasons: Vec<Reason>,
}

impl State {
    /// Of a process that may write a log, and has to do with no store yet.
    pub(crate) fn new(config: &Config, metrics: Metrics, log: Option<(Arc<dyn Log>, Batcher)>) -> Self {
        let roles = Role::PARTS.iter().filter(|role| config.has(**role)).map(|role| role.name().to_owned()).collect();
        let (stopping, started) = (Arc::default(), (Instant::now(), SystemTime::now()));
        let (sinks, dead_letters, books) = (SinkView::None, None, None);
        Self { metrics, shared: Arc::new(Shared { roles, log, sinks, dead_letters, books, stopping, started }) }
    }

    /// With what the stores are asked through.
    pub(crate) fn with_stores(
        &self,
        sinks: SinkView,
        dead_letters: Arc<dyn DeadLetters>,
        books: Arc<dyn Books>,
    ) -> Self {
        let shared = Shared {
            roles: self.shared.roles.clone(),
            log: self.shared.log.clone(),
            sinks,
            dead_letters: Some(dead_letters),
            books: Some(books),
            stopping: Arc::clone(&self.shared.stopping),
            started: self.shared.started,
        };
        Self { metrics: self.metrics.clone(), shared: Arc::new(shared) }
    }

    /// From now on the process is not ready.
    pub(crate) fn stop(&self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
    }

    /// Whether messages can be appended, and everything that is wrong.
    pub(crate) fn readiness(&self) -> Readiness {
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
        if let SinkView::Fleet(Some(fleet), _) = &self.shared.sinks {
            let failures = fleet.failures().into_iter();
            reasons.extend(failures.map(|(log, reason)| Reason::new(format!("log {log}"), reason)));
        }
        for sink in self.shared.sinks.here() {
            if let Some(reason) = trouble(&sink) {
                reasons.push(Reason::new(format!("sink {}", sink.sink), reason));
            }
        }
        Readiness { ready, reasons }
    }

    /// The status with the log of this process.
    pub(crate) fn whole_status(&self) -> v1::Status {
        let mut status = self.status_of(&self.shared.sinks.here());
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
        let readiness = self.readiness();
        let (started, at) = self.shared.started;
        v1::Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            start_time: Some(at.into()),
            uptime: prost_types::Duration::try_from(started.elapsed()).ok(),
            roles: self.shared.roles.clone(),
            ready: readiness.reasons.is_empty(),
            reasons: readiness.reasons.iter().map(ToString::to_string).collect(),
            connection_count: self.metrics.broker.connections.get(),
            logs: Vec::new(),
            sinks: sinks.iter().map(sink).collect(),
        }
    }

    /// The books of everyone.
    pub(crate) async fn books(&self) -> Result<Vec<stores::contract::BookLine>, stores::StoreError> {
        match &self.shared.books {
            Some(books) => books.books(false).await,
            None => Ok(Vec::new()),
        }
    }

    /// Up to `most` of the newest dead letters.
    pub(crate) async fn newest_dead_letters(&self, most: usize) -> Result<Vec<Deadletter>, stores::StoreError> {
        const RECORDS: u64 = 100_000;
        const LETTERS: usize = 1000;
        let (Some((log, _)), Some(letters)) = (&self.shared.log, &self.shared.dead_letters) else {
            return Ok(Vec::new());
        };
        let after = (log.id(), log.end().saturating_sub(RECORDS), "");
        let mut letters = letters.list(model::DEFAULT_TENANT, Some(after), LETTERS).await?;
        letters.drain(..letters.len().saturating_sub(most));
        letters.reverse();
        Ok(letters)
    }

    /// How the log of this process is.
    pub(crate) fn log_state(&self) -> Option<buffer::log::State> {
        self.shared.log.as_ref().map(|(log, _)| log.state())
    }
}

#[async_trait]
impl StatusSource for State {
    async fn status(&self) -> v1::Status {
        self.status_of(&self.shared.sinks.everywhere().await)
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
        sink: status.sink.to_owned(),
        state: state.into(),
        reason: trouble(status).unwrap_or_default(),
        state_time: lasting.and_then(|lasting| SystemTime::now().checked_sub(lasting)).map(Into::into),
        done_offset: signed(status.done_to),
        lag_records: signed(status.lag_records),
        lag: Duration::try_from_secs_f64(status.lag_seconds).ok().and_then(|d| d.try_into().ok()),
    }
}

/// What is wrong with a sink.
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

/// Ends when the log takes nothing any more, and says when it waits and when it goes on.
///
/// # Errors
/// The log's reason.
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
            (None, Some(reason)) => tracing::error!(reason, "the log takes nothing now; devices wait"),
            (Some(_), None) => tracing::info!("the log takes messages again"),
            _ => {}
        }
        blocked = now;
    }
}
