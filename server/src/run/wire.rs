//! What each part is made of, from one configuration.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ::stores::contract::{Retained, RetainedMessage};
use anyhow::Context;
use flusher::Flusher;
use tokio::net::TcpListener;

use super::log;
use super::replay::Replayer;
use super::state::{Metrics, State};
use super::stores::{self, Stores};
use crate::config::Config;
use crate::data_dir::{Addresses, DataDir};
use crate::traces::{self, Exporter};

/// Open listeners.
pub(super) struct Listeners {
    pub(super) mqtt: TcpListener,
    pub(super) grpc: TcpListener,
    pub(super) http: TcpListener,
}

impl Listeners {
    /// Binds all of them before anything else is opened: a port that is taken is said at once.
    pub(super) async fn bind(config: &Config) -> anyhow::Result<Self> {
        let mqtt = address(&config.mqtt.address)?;
        let mqtt = broker::bind(mqtt).with_context(|| taken("mqtt", &config.mqtt.address))?;
        let grpc = address(&config.grpc.address)?;
        let grpc = TcpListener::bind(grpc).await.with_context(|| taken("grpc", &config.grpc.address))?;
        let http = address(&config.http.address)?;
        let http = TcpListener::bind(http).await.with_context(|| taken("http", &config.http.address))?;
        Ok(Self { mqtt, grpc, http })
    }

    /// Where they are, with the ports that the system chose.
    pub(super) fn addresses(&self) -> anyhow::Result<Addresses> {
        let of = |listener: &TcpListener| listener.local_addr().context("ask for a listener's address");
        Ok(Addresses { mqtt: of(&self.mqtt)?, grpc: of(&self.grpc)?, http: of(&self.http)? })
    }
}

fn address(text: &str) -> anyhow::Result<SocketAddr> {
    text.parse().with_context(|| format!("{text:?} is no address"))
}

fn taken(name: &str, address: &str) -> String {
    format!("cannot listen on {address} (stop what has it, or give another address with --{name})")
}

/// Everything that is opened before anything runs.
pub(super) struct Parts {
    pub(super) state: State,
    pub(super) door: ingest::Door,
    pub(super) batcher: buffer::Batcher,
    pub(super) retained: Vec<broker::Message>,
    pub(super) flusher: Flusher,
    pub(super) leases: log::Leases,
    pub(super) backend: api::Backend,
    pub(super) api: api::Config,
    /// None when nothing is traced.
    pub(super) exporter: Option<Exporter>,
}

impl Parts {
    pub(super) async fn open(config: &Config, data: &DataDir) -> anyhow::Result<Self> {
        let metrics = Metrics::default();
        let routes = routes(config)?;
        let secret = data.secret()?;
        let log::Opened { log, batcher, claims, leases } = log::open(config, data, Arc::clone(&metrics.buffer)).await?;
        let stores = Stores::open(config, data, &metrics).await?;
        let logs = claims.iter().map(|claim| Arc::clone(&claim.log)).collect();
        let flusher = Flusher::start(flusher_config(config), claims, stores.sinks(), metrics.flusher.clone()).await?;
        let (tracer, exporter) = traces::open(&config.tracing, Arc::clone(&metrics.traces))?.unzip();
        if let Some(tracer) = &tracer {
            batcher.trace(tracer.clone(), log.id());
            flusher.trace(stores::tracing(config, tracer));
        }
        let door = ingest::Door::new(routes, limits(config), batcher.clone(), Arc::clone(&metrics.ingest));
        let door = door.traced(tracer.clone());
        let handle = flusher.handle();
        let letters = handle.dead_letters();
        let state = State::new(config, metrics, Arc::clone(&log), batcher.clone(), handle.clone(), letters);
        let backend = api::Backend {
            history: Arc::clone(&stores.history),
            tail: handle.tail(),
            latest: handle.latest(),
            dead_letters: handle.dead_letters(),
            logs,
            books: handle.books(),
            replay: Arc::new(Replayer::new(door.clone(), batcher.clone())),
            status: Arc::new(state.clone()),
        };
        let retained = retained(&*stores.retained).await?;
        let api = api::Config { tracer, ..api_config(config, secret) };
        Ok(Self { state, door, batcher, retained, flusher, leases, backend, api, exporter })
    }
}

/// Retained messages as the broker keeps them.
async fn retained(store: &dyn Retained) -> anyhow::Result<Vec<broker::Message>> {
    let stored = store.load().await.context("load the retained messages")?;
    let message = |m: &RetainedMessage| broker::Message::new(&m.topic, &m.payload, m.qos, true, &m.properties);
    Ok(stored.iter().map(message).collect())
}

/// The routes of the configuration, checked.
///
/// # Errors
/// Names the route and the key.
pub(crate) fn routes(config: &Config) -> anyhow::Result<ingest::Routes> {
    Ok(ingest::Routes::new(&config.route)?)
}

/// Limits of what a message holds.
pub(crate) fn limits(config: &Config) -> ingest::Limits {
    let c = &config.ingest;
    ingest::Limits {
        max_depth: c.max_depth,
        max_values: c.max_values,
        max_readings: c.max_readings,
        max_name_bytes: c.max_name_bytes,
        max_string_bytes: c.max_string_bytes,
        max_clock_ahead_secs: c.max_clock_ahead_secs,
    }
}

pub(super) fn broker_config(config: &Config) -> broker::Config {
    let c = &config.mqtt;
    broker::Config {
        max_connections: c.max_connections,
        max_packet_bytes: c.max_packet_bytes,
        receive_maximum: c.receive_maximum,
        connect_timeout_ms: c.connect_timeout_ms,
        max_keep_alive_secs: c.max_keep_alive_secs,
        max_session_expiry_secs: c.max_session_expiry_secs,
        topic_alias_maximum: c.topic_alias_maximum,
        max_queued_messages: c.max_queued_messages,
        max_retained_messages: c.max_retained_messages,
        drain_timeout_ms: c.drain_timeout_ms,
    }
}

fn flusher_config(config: &Config) -> flusher::Config {
    let (h, l) = (&config.history, &config.latest);
    let mut out = flusher::Config::default();
    out.history.flush_secs = Duration::from_millis(h.flush_interval_ms).as_secs_f64();
    out.history.flush_records = h.flush_records;
    out.history.flush_bytes = h.flush_bytes;
    out.history.max_unflushed_bytes = h.max_unflushed_bytes;
    out.history.retention_secs = (h.retention_secs > 0).then_some(h.retention_secs);
    out.points.flush_secs = Duration::from_millis(config.influxdb.flush_interval_ms).as_secs_f64();
    out.latest.follow_ms = l.follow_interval_ms;
    out.latest.flush_secs = Duration::from_millis(l.flush_interval_ms).as_secs_f64();
    out.stop_secs = config.shutdown_timeout_secs.saturating_sub(1).max(1);
    out
}

fn api_config(config: &Config, secret: [u8; 32]) -> api::Config {
    let c = &config.grpc;
    api::Config {
        max_concurrent_calls: c.max_concurrent_calls,
        max_streams: c.max_streams,
        call_timeout: Duration::from_millis(c.call_timeout_ms),
        drain_timeout: Duration::from_millis(c.drain_timeout_ms),
        ..api::Config::new(secret)
    }
}
