//! What each part is made of, from one configuration.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use buffer::Log;
use buffer::embedded::EmbeddedLog;
use flusher::{Claim, Flusher};
use stores::contract::{Retained, RetainedMessage};
use stores::embedded::EmbeddedStore;
use tokio::net::TcpListener;

use super::replay::Replayer;
use super::state::{Metrics, State};
use crate::config::Config;
use crate::data_dir::{Addresses, DataDir};

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
    pub(super) backend: api::Backend,
    pub(super) api: api::Config,
}

impl Parts {
    pub(super) async fn open(config: &Config, data: &DataDir) -> anyhow::Result<Self> {
        let metrics = Metrics::default();
        let routes = routes(config)?;
        let secret = data.secret()?;
        let (log_config, log_metrics) = (log_config(config, data), Arc::clone(&metrics.buffer));
        let opened = tokio::task::spawn_blocking(move || EmbeddedLog::open(log_config, log_metrics)).await;
        let (log, batcher) = opened.context("open the log")??;
        let (store_config, store_metrics) = (store_config(config, data), Arc::clone(&metrics.stores));
        let opened = tokio::task::spawn_blocking(move || EmbeddedStore::open(store_config, store_metrics)).await;
        let store = Arc::new(opened.context("open the store")??);
        let log: Arc<dyn Log> = log;

        let stores = flusher::Stores {
            history: store.clone(),
            latest: store.clone(),
            dead_letters: store.clone(),
            retained: store.clone(),
            points: None,
        };
        let claims = vec![Claim::sole(Arc::clone(&log))];
        let flusher = Flusher::start(flusher_config(config), claims, stores, metrics.flusher.clone()).await?;
        let door = ingest::Door::new(routes, limits(config), batcher.clone(), Arc::clone(&metrics.ingest));
        let handle = flusher.handle();
        let state = State::new(config, metrics, Arc::clone(&log), batcher.clone(), handle.clone(), store.clone());
        let backend = api::Backend {
            history: store.clone(),
            tail: handle.tail(),
            latest: handle.latest(),
            dead_letters: store.clone(),
            logs: vec![log],
            books: handle.books(),
            replay: Arc::new(Replayer::new(door.clone(), batcher.clone())),
            status: Arc::new(state.clone()),
        };
        let retained = retained(&store).await?;
        Ok(Self { state, door, batcher, retained, flusher, backend, api: api_config(config, secret) })
    }
}

/// Retained messages as the broker keeps them.
async fn retained(store: &EmbeddedStore) -> anyhow::Result<Vec<broker::Message>> {
    let stored = Retained::load(store).await.context("load the retained messages")?;
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

fn log_config(config: &Config, data: &DataDir) -> buffer::embedded::Config {
    let c = &config.log;
    buffer::embedded::Config {
        dir: data.log(),
        segment_bytes: c.segment_bytes,
        capacity_bytes: c.capacity_bytes,
        ring_bytes: c.ring_bytes,
        retain_bytes: c.retain_bytes,
        retain_secs: c.retain_secs,
        ..buffer::embedded::Config::default()
    }
}

fn store_config(config: &Config, data: &DataDir) -> stores::embedded::Config {
    let c = &config.history;
    stores::embedded::Config {
        dir: data.store(),
        cache_bytes: c.cache_bytes,
        max_open_partitions: c.max_open_partitions,
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
