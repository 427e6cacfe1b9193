//! Listeners and the settings of each part, from one configuration.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use tokio::net::TcpListener;

use crate::config::{Config, Role};
use crate::data_dir::Addresses;

/// Open listeners; those of roles that the process does not have are not there.
pub(super) struct Listeners {
    pub(super) mqtt: Option<TcpListener>,
    pub(super) grpc: Option<TcpListener>,
    pub(super) http: TcpListener,
    /// For the other processes of the fleet.
    pub(super) fleet: Option<TcpListener>,
}

impl Listeners {
    /// Binds all of them before anything else is opened: a port that is taken is said at once.
    pub(super) async fn bind(config: &Config) -> anyhow::Result<Self> {
        let mqtt = match config.has(Role::Ingest) {
            true => {
                let mqtt = address(&config.mqtt.address)?;
                Some(broker::bind(mqtt).with_context(|| taken("mqtt", &config.mqtt.address))?)
            }
            false => None,
        };
        let grpc = match config.has(Role::Api) {
            true => Some(listen(&config.grpc.address, || taken("grpc", &config.grpc.address)).await?),
            false => None,
        };
        let http = listen(&config.http.address, || taken("http", &config.http.address)).await?;
        let fleet = match config.is_fleet() && config.has(Role::Flusher) {
            true => {
                let key = || {
                    format!("cannot listen on {} (stop what has it, or change `fleet.address`)", config.fleet.address)
                };
                Some(listen(&config.fleet.address, key).await?)
            }
            false => None,
        };
        Ok(Self { mqtt, grpc, http, fleet })
    }

    /// Where they are, with the ports that the system chose.
    pub(super) fn addresses(&self) -> anyhow::Result<Addresses> {
        let of = |listener: &TcpListener| listener.local_addr().context("ask for a listener's address");
        let maybe = |listener: &Option<TcpListener>| listener.as_ref().map(of).transpose();
        Ok(Addresses {
            mqtt: maybe(&self.mqtt)?,
            grpc: maybe(&self.grpc)?,
            http: of(&self.http)?,
            fleet: maybe(&self.fleet)?,
        })
    }
}

async fn listen(text: &str, taken: impl FnOnce() -> String) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address(text)?).await.with_context(taken)
}

fn address(text: &str) -> anyhow::Result<SocketAddr> {
    text.parse().with_context(|| format!("{text:?} is no address"))
}

fn taken(name: &str, address: &str) -> String {
    format!("cannot listen on {address} (stop what has it, or give another address with --{name})")
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

pub(super) fn flusher_config(config: &Config) -> flusher::Config {
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

pub(super) fn api_config(config: &Config, secret: [u8; 32]) -> api::Config {
    let c = &config.grpc;
    api::Config {
        max_concurrent_calls: c.max_concurrent_calls,
        max_streams: c.max_streams,
        call_timeout: Duration::from_millis(c.call_timeout_ms),
        drain_timeout: Duration::from_millis(c.drain_timeout_ms),
        ..api::Config::new(secret)
    }
}
