//! The configuration: one typed tree, documented in [`docs`], read from a file and the environment in [`mod@load`].

pub(crate) mod docs;
mod keys;
mod load;
mod sample;
mod servers;
#[cfg(test)]
mod tests;
mod tracing;

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub(crate) use load::{Loaded, Sources, load};
pub(crate) use sample::sample;
pub(crate) use servers::{Fleet, Influxdb, Mongodb, Redis};
pub(crate) use tracing::Tracing;

/// Everything a person may set. Every key is described in [`docs::KEYS`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) data_dir: PathBuf,
    pub(crate) roles: Vec<Role>,
    pub(crate) insecure: bool,
    pub(crate) shutdown_timeout_secs: u64,
    pub(crate) shutdown_delay_ms: u64,
    pub(crate) mqtt: Mqtt,
    pub(crate) grpc: Grpc,
    pub(crate) http: Http,
    pub(crate) ingest: Ingest,
    pub(crate) log: Log,
    pub(crate) history: History,
    pub(crate) latest: Latest,
    pub(crate) mongodb: Mongodb,
    pub(crate) redis: Redis,
    pub(crate) fleet: Fleet,
    pub(crate) influxdb: Influxdb,
    pub(crate) logging: Logging,
    pub(crate) tracing: Tracing,
    /// In the words of `ingest`; not part of the written tree.
    #[serde(skip_serializing)]
    pub(crate) route: Vec<ingest::Route>,
}

/// What a process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    /// Everything.
    All,
    /// MQTT in, append to the log.
    Ingest,
    /// From the log into the stores.
    Flusher,
    /// gRPC.
    Api,
}

/// `[mqtt]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Mqtt {
    pub(crate) address: String,
    pub(crate) max_connections: usize,
    pub(crate) max_packet_bytes: u32,
    pub(crate) receive_maximum: u16,
    pub(crate) connect_timeout_ms: u64,
    pub(crate) max_keep_alive_secs: u16,
    pub(crate) max_session_expiry_secs: u32,
    pub(crate) topic_alias_maximum: u16,
    pub(crate) max_queued_messages: usize,
    pub(crate) max_retained_messages: usize,
    pub(crate) drain_timeout_ms: u64,
}

/// `[grpc]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Grpc {
    pub(crate) address: String,
    pub(crate) max_concurrent_calls: u32,
    pub(crate) max_streams: usize,
    pub(crate) call_timeout_ms: u64,
    pub(crate) drain_timeout_ms: u64,
}

/// `[http]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Http {
    pub(crate) address: String,
}

/// `[ingest]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Ingest {
    pub(crate) max_clock_ahead_secs: u64,
    pub(crate) max_depth: usize,
    pub(crate) max_values: usize,
    pub(crate) max_readings: usize,
    pub(crate) max_name_bytes: usize,
    pub(crate) max_string_bytes: usize,
}

/// `[log]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Log {
    pub(crate) segment_bytes: u64,
    pub(crate) capacity_bytes: u64,
    pub(crate) ring_bytes: usize,
    pub(crate) retain_bytes: u64,
    pub(crate) retain_secs: u64,
}

/// `[history]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct History {
    pub(crate) flush_interval_ms: u64,
    pub(crate) flush_records: u64,
    pub(crate) flush_bytes: u64,
    pub(crate) max_unflushed_bytes: u64,
    pub(crate) retention_secs: u64,
    pub(crate) cache_bytes: usize,
    pub(crate) max_open_partitions: usize,
}

/// `[latest]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Latest {
    pub(crate) follow_interval_ms: u64,
    pub(crate) flush_interval_ms: u64,
}

/// `[logging]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Logging {
    pub(crate) level: String,
    pub(crate) format: LogFormat,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// Text on a terminal, else JSON.
    Auto,
    /// For people.
    Text,
    /// One object per line.
    Json,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: "./weir-data".into(),
            roles: vec![Role::All],
            insecure: false,
            shutdown_timeout_secs: 20,
            shutdown_delay_ms: 0,
            mqtt: Mqtt::default(),
            grpc: Grpc::default(),
            http: Http::default(),
            ingest: Ingest::default(),
            log: Log::default(),
            history: History::default(),
            latest: Latest::default(),
            mongodb: Mongodb::default(),
            redis: Redis::default(),
            fleet: Fleet::default(),
            influxdb: Influxdb::default(),
            logging: Logging::default(),
            tracing: Tracing::default(),
            route: Vec::new(),
        }
    }
}

impl Default for Mqtt {
    fn default() -> Self {
        let broker = broker::Config::default();
        Self {
            address: "127.0.0.1:1883".into(),
            max_connections: broker.max_connections,
            max_packet_bytes: broker.max_packet_bytes,
            receive_maximum: broker.receive_maximum,
            connect_timeout_ms: broker.connect_timeout_ms,
            max_keep_alive_secs: broker.max_keep_alive_secs,
            max_session_expiry_secs: broker.max_session_expiry_secs,
            topic_alias_maximum: broker.topic_alias_maximum,
            max_queued_messages: broker.max_queued_messages,
            max_retained_messages: broker.max_retained_messages,
            drain_timeout_ms: broker.drain_timeout_ms,
        }
    }
}

impl Default for Grpc {
    fn default() -> Self {
        Self {
            address: "127.0.0.1:50051".into(),
            max_concurrent_calls: 256,
            max_streams: 1024,
            call_timeout_ms: 60_000,
            drain_timeout_ms: 5_000,
        }
    }
}

impl Default for Http {
    fn default() -> Self {
        Self { address: "127.0.0.1:8080".into() }
    }
}

impl Default for Ingest {
    fn default() -> Self {
        let limits = ingest::Limits::default();
        Self {
            max_clock_ahead_secs: limits.max_clock_ahead_secs,
            max_depth: limits.max_depth,
            max_values: limits.max_values,
            max_readings: limits.max_readings,
            max_name_bytes: limits.max_name_bytes,
            max_string_bytes: limits.max_string_bytes,
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        let log = buffer::embedded::Config::default();
        Self {
            segment_bytes: log.segment_bytes,
            capacity_bytes: log.capacity_bytes,
            ring_bytes: log.ring_bytes,
            retain_bytes: log.retain_bytes,
            retain_secs: log.retain_secs,
        }
    }
}

impl Default for History {
    fn default() -> Self {
        let history = flusher::config::History::default();
        let store = stores::embedded::Config::default();
        Self {
            flush_interval_ms: 15_000,
            flush_records: history.flush_records,
            flush_bytes: history.flush_bytes,
            max_unflushed_bytes: history.max_unflushed_bytes,
            retention_secs: 0,
            cache_bytes: store.cache_bytes,
            max_open_partitions: store.max_open_partitions,
        }
    }
}

impl Default for Latest {
    fn default() -> Self {
        Self { follow_interval_ms: 50, flush_interval_ms: 10_000 }
    }
}

impl Default for Logging {
    fn default() -> Self {
        Self { level: "info".into(), format: LogFormat::Auto }
    }
}

impl Config {
    /// True when this process has the role.
    pub(crate) fn has(&self, role: Role) -> bool {
        self.roles.iter().any(|r| *r == Role::All || *r == role)
    }

    /// True when other processes may work on the same logs and the same data.
    pub(crate) fn is_fleet(&self) -> bool {
        self.redis.is_used() && !self.mongodb.uri.is_empty()
    }

    /// Checks what no single key can be checked for.
    ///
    /// # Errors
    /// Says which key and what to do.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        anyhow::ensure!(!self.roles.is_empty(), "`roles` is empty: name at least one of all, ingest, flusher, api");
        anyhow::ensure!(
            self.is_fleet() || (self.has(Role::Ingest) && self.has(Role::Flusher)),
            "`roles` names only a part: processes share their logs on Redis and their data in MongoDB, so set `redis.urls` and \
             `mongodb.uri`, or use roles = [\"all\"]"
        );
        anyhow::ensure!(self.fleet.lease_ms >= 300, "`fleet.lease_ms` is {}: give at least 300", self.fleet.lease_ms);
        parse_address("fleet.address", &self.fleet.address)?;
        for (key, address) in self.addresses() {
            parse_address(key, address)?;
        }
        let least = 1 << 20;
        anyhow::ensure!(self.log.segment_bytes >= least, "`log.segment_bytes` is below {least} (1 MiB)");
        anyhow::ensure!(
            self.log.capacity_bytes >= self.log.segment_bytes.saturating_mul(2),
            "`log.capacity_bytes` is {}: it must hold at least two segments of `log.segment_bytes` = {}",
            self.log.capacity_bytes,
            self.log.segment_bytes
        );
        anyhow::ensure!(
            (1024..=32 << 20).contains(&self.mqtt.max_packet_bytes),
            "`mqtt.max_packet_bytes` is {}: give 1024 to 33554432, which one record of the log can hold",
            self.mqtt.max_packet_bytes
        );
        anyhow::ensure!(self.influxdb.flush_interval_ms > 0, "`influxdb.flush_interval_ms` is 0: give at least 1");
        self.influxdb.store()?;
        self.tracing.check()?;
        anyhow::ensure!(self.history.flush_interval_ms > 0, "`history.flush_interval_ms` is 0: give at least 1");
        anyhow::ensure!(self.latest.flush_interval_ms > 0, "`latest.flush_interval_ms` is 0: give at least 1");
        Ok(())
    }

    /// Refuses to listen where others can reach it, unless told so.
    ///
    /// # Errors
    /// Names the key and what to do.
    pub(crate) fn check_exposure(&self) -> anyhow::Result<()> {
        for (key, address) in self.addresses() {
            anyhow::ensure!(
                parse_address(key, address)?.ip().is_loopback() || self.insecure,
                "`{key}` is {address}, which others can reach, and there is no authentication yet: use a loopback \
                 address, or add --insecure (`insecure = true`) if the network around it is trusted"
            );
        }
        let fleet = &self.fleet;
        anyhow::ensure!(
            !self.is_fleet()
                || !self.has(Role::Flusher)
                || !fleet.secret.is_empty()
                || parse_address("fleet.address", &fleet.address)?.ip().is_loopback(),
            "`fleet.address` is {}, which others can reach: set `fleet.secret` to the same long random text in every process of the \
             fleet",
            fleet.address
        );
        Ok(())
    }

    /// Addresses to listen on, with their keys.
    pub(crate) fn addresses(&self) -> [(&'static str, &str); 3] {
        [
            ("mqtt.address", self.mqtt.address.as_str()),
            ("grpc.address", self.grpc.address.as_str()),
            ("http.address", self.http.address.as_str()),
        ]
    }
}

fn parse_address(key: &str, address: &str) -> anyhow::Result<SocketAddr> {
    address.parse().map_err(|_| {
        anyhow::anyhow!("`{key}` is {address:?}: give an IP address and a port, as 127.0.0.1:1883 or [::]:1883")
    })
}

impl Role {
    /// The single roles.
    pub(crate) const PARTS: [Self; 3] = [Self::Ingest, Self::Flusher, Self::Api];

    /// As written in the configuration.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Ingest => "ingest",
            Self::Flusher => "flusher",
            Self::Api => "api",
        }
    }
}
