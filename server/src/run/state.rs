//! What the process knows of itself: readiness, status, metrics.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use api::StatusSource;
use async_trait::async_trait;
use buffer::{Batcher, Log};
use flusher::{Handle, SinkState, SinkStatus};
use prometheus_client::registry::Registry;
use proto::v1;
use proto::v1::sink_status::State as ProtoState;
use stores::contract::{DeadLetters, Deadletter};
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
    log: Arc<dyn Log>,
    batcher: Batcher,
    flusher: Handle,
    dead_letters: Arc<dyn DeadLetters>,
    stopping: AtomicBool,
    started: (Instant, SystemTime),
}

/// Why something is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Reason {
    /// Which part.
    pub(crate) part: String,
    /// Why, for a person.
    pub(crate) reason: String,
}

/// The answer of `/health/ready`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Readiness {
    /// Messages can be appended.
    pub(crate) ready: bool,
    /// What is wrong, also what does not stop messages.
    pub(crate) reasons: Vec<Reason>,
}

impl State {
    pub(crate) fn new(
        config: &Config,
        metrics: Metrics,
        log: Arc<dyn Log>,
        batcher: Batcher,
        flusher: Handle,
        dead_letters: Arc<dyn DeadLetters>,
    ) -> Self {
        let roles = Role::PARTS.iter().filter(|role| config.has(**role)).map(|role| role.name().to_owned()).collect();
        Self {
            metrics,
            shared: Arc::new(Shared {
                roles,
                log,
                batcher,
                flusher,
                dead_letters,
                stopping: AtomicBool::new(false),
                started: (Instant::now(), SystemTime::now()),
            }),
        }
    }

    /// From now on the process is not ready.
    pub(crate) fn stop(&self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
    }

    /// Whether messages can be appended, and everything that is wrong.
    pub(crate) fn readiness(&self) -> Readiness {
        let mut reasons = Vec::new();
        if self.shared.stopping.load(Ordering::Relaxed) {
            reasons.push(Reason { part: "weir".into(), reason: "it is stopping".into() });
        }
        if let Err(reason) = self.shared.batcher.durable() {
            reasons.push(Reason { part: "log".into(), reason: reason.to_string() });
        } else if let Some(reason) = self.shared.log.state().blocked {
            reasons.push(Reason { part: "log".into(), reason });
        }
        let ready = reasons.is_empty();
        for sink in self.shared.flusher.status() {
            if let Some(reason) = trouble(&sink) {
                reasons.push(Reason { part: format!("sink {}", sink.sink), reason });
            }
        }
        Readiness { ready, reasons }
    }

    /// The status with its logs.
    pub(crate) fn whole_status(&self) -> v1::Status {
        let log = &self.shared.log;
        let state = log.state();
        let mut status = self.status_without_logs();
        status.logs.push(v1::LogStatus {
            log: log.id().to_owned(),
            start_offset: signed(log.start()),
            end_offset: signed(log.end()),
            used_bytes: signed(state.used_bytes),
            capacity_bytes: signed(state.capacity_bytes),
            blocked_reason: state.blocked.unwrap_or_default(),
        });
        status
    }

    fn status_without_logs(&self) -> v1::Status {
        let readiness = self.readiness();
        let (started, at) = self.shared.started;
        v1::Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            start_time: Some(at.into()),
            uptime: prost_types::Duration::try_from(started.elapsed()).ok(),
            roles: self.shared.roles.clone(),
            ready: readiness.reasons.is_empty(),
            reasons: readiness.reasons.iter().map(|r| format!("{}: {}", r.part, r.reason)).collect(),
            connection_count: self.metrics.broker.connections.get(),
            logs: Vec::new(),
            sinks: self.shared.flusher.status().iter().map(sink).collect(),
        }
    }

    /// The books of everyone.
    pub(crate) async fn books(&self) -> Result<Vec<stores::contract::BookLine>, stores::StoreError> {
        self.shared.flusher.books().books(false).await
    }

    /// Up to `most` of the newest dead letters.
    pub(crate) async fn newest_dead_letters(&self, most: usize) -> Result<Vec<Deadletter>, stores::StoreError> {
        const RECORDS: u64 = 100_000;
        const LETTERS: usize = 1000;
        let log = &self.shared.log;
        let after = (log.id(), log.end().saturating_sub(RECORDS), "");
        let mut letters = self.shared.dead_letters.list(model::DEFAULT_TENANT, Some(after), LETTERS).await?;
        letters.drain(..letters.len().saturating_sub(most));
        letters.reverse();
        Ok(letters)
    }

    /// How long the process runs.
    pub(crate) fn uptime(&self) -> Duration {
        self.shared.started.0.elapsed()
    }
}

#[async_trait]
impl StatusSource for State {
    async fn status(&self) -> v1::Status {
        self.status_without_logs()
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
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            _ = ticks.tick() => {}
        }
        if let Err(reason) = state.shared.batcher.durable() {
            anyhow::bail!("{reason}");
        }
        let now = state.shared.log.state().blocked;
        match (&blocked, &now) {
            (None, Some(reason)) => tracing::error!(reason, "the log takes nothing now; devices wait"),
            (Some(_), None) => tracing::info!("the log takes messages again"),
            _ => {}
        }
        blocked = now;
    }
}
