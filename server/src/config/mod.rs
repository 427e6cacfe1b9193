//! The configuration: one typed tree. Sections are made of the crates' own settings, and the text
//! of `weir config` of their doc comments ([`mod@keys`]); [`mod@load`] reads a file and the
//! environment.

mod audit;
mod auth;
mod bridges;
mod export;
#[cfg(test)]
mod export_tests;
mod exposure;
mod keys;
mod limits;
mod listener;
mod load;
mod lowered;
mod memory;
mod pool;
mod sample;
mod servers;
#[cfg(test)]
mod tests;
mod tracing;
mod unknown;

use std::net::SocketAddr;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub(crate) use audit::Audit;
pub(crate) use auth::{Auth, Place};
pub(crate) use export::{Export, Start, kind_of};
pub(crate) use keys::{Key, of as keys_of_table};
pub(crate) use listener::{ENCRYPTED, Listener, PLAIN, Site};
pub(crate) use load::{Loaded, Sources, load};
pub(crate) use lowered::Lowered;
pub(crate) use memory::Memory;
pub(crate) use pool::{Pool, SHARED};
pub(crate) use sample::sample;
pub(crate) use servers::{Fleet, Influxdb, Redis};
pub(crate) use tracing::Tracing;

/// The whole configuration. The first paragraph of a field's comment is its text in `weir config`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    /// Folder that holds everything. Created when it is missing; one process at a time.
    pub(crate) data_dir: PathBuf,
    /// Roles of this process: `["all"]`, or some of ingest, flusher and api, when Redis carries the
    /// logs and MongoDB holds the data.
    pub(crate) roles: Vec<Role>,
    /// Listen on addresses that others can reach without encryption (`[tls]`) or authentication
    /// (`auth.required`).
    pub(crate) insecure: bool,
    /// Seconds that an ordered stop may take for each of its parts.
    pub(crate) shutdown_timeout_secs: u64,
    /// Time between the signal, when /health/ready begins to fail, and the first part that stops,
    /// in milliseconds: as long as a load balancer needs to notice.
    pub(crate) shutdown_delay_ms: u64,
    /// Devices and callers have to authenticate.
    pub(crate) auth: Auth,
    /// Signed checkpoints of the audit, for a place outside of this machine.
    pub(crate) audit: Audit,
    /// Encryption of the ports.
    pub(crate) tls: tls::Config,
    /// Encryption at rest: of the log, the store and backups in the data folder.
    pub(crate) encryption: envelope::Config,
    /// Memory of the process.
    pub(crate) memory: Memory,
    /// Devices: MQTT 3.1, 3.1.1 and 5.
    pub(crate) mqtt: Mqtt,
    /// Third parties: gRPC and gRPC-Web.
    pub(crate) grpc: Grpc,
    /// Health, metrics and the status page.
    pub(crate) http: Http,
    /// Limits of a payload. A message that exceeds them becomes a dead letter.
    pub(crate) ingest: ingest::Limits,
    /// The log on disk: acknowledged records that are not yet in every store.
    pub(crate) log: buffer::embedded::Config,
    /// The history: columns of each device's readings.
    pub(crate) history: History,
    /// The newest value of each name of each device.
    pub(crate) latest: flusher::config::Latest,
    /// Messages that could not be read, and readings that a store refused.
    pub(crate) dead_letters: flusher::config::DeadLetters,
    /// Readings, latest states, dead letters and retained messages in MongoDB instead of in the
    /// data folder.
    pub(crate) mongodb: stores::mongodb::Config,
    /// The log on Redis or Valkey instead of in the data folder, which takes over while Redis is
    /// unavailable or full.
    pub(crate) redis: Redis,
    /// Several processes over one Redis and one MongoDB: communication between them.
    pub(crate) fleet: Fleet,
    /// Readings as points in InfluxDB 2, besides the history: the export named `influxdb`.
    pub(crate) influxdb: Influxdb,
    /// Log lines of Weir, on standard error.
    pub(crate) logging: Logging,
    /// The path of a reading and how long each step took: spans to an OpenTelemetry collector, for
    /// example Jaeger.
    pub(crate) tracing: Tracing,
    /// Tables of `ingest`; not part of the written tree.
    #[serde(skip_serializing)]
    #[schemars(skip)]
    pub(crate) route: Vec<ingest::Route>,
    /// Exports besides `[influxdb]`; not part of the written tree.
    #[serde(skip_serializing)]
    #[schemars(skip)]
    pub(crate) export: Vec<Export>,
    /// Logs and stores of some tenants; not part of the written tree.
    #[serde(skip_serializing)]
    #[schemars(skip)]
    pub(crate) pool: Vec<Pool>,
    /// Bridges to other brokers; not part of the written tree.
    #[serde(skip_serializing)]
    #[schemars(skip)]
    pub(crate) bridge: Vec<bridge::Config>,
}

/// Part of the work of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, clap::ValueEnum)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub(crate) struct Mqtt {
    /// IP address and port. Port 0 takes a free one (see addresses.json in the data folder).
    pub(crate) address: String,
    /// IP address and port for connections over TLS, as 0.0.0.0:8883; needs `tls.certificate`.
    /// Empty: none.
    pub(crate) tls_address: String,
    #[serde(flatten)]
    pub(crate) broker: broker::Config,
    /// Further listeners; not part of the written tree.
    #[serde(skip_serializing)]
    #[schemars(skip)]
    pub(crate) listener: Vec<Listener>,
}

/// `[grpc]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub(crate) struct Grpc {
    /// IP address and port.
    pub(crate) address: String,
    #[serde(flatten)]
    pub(crate) limits: api::Limits,
}

/// `[http]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub(crate) struct Http {
    /// IP address and port.
    pub(crate) address: String,
    /// Maximum number of connections; further ones are answered with 503.
    pub(crate) max_connections: usize,
    /// Names under which browsers and load balancers reach it, as weir.example.com. Addresses,
    /// `localhost` and names without a dot need no entry; `"*"` allows every name.
    pub(crate) hosts: Vec<String>,
}

/// `[history]`
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub(crate) struct History {
    #[serde(flatten)]
    pub(crate) sink: flusher::config::History,
    #[serde(flatten)]
    pub(crate) store: stores::embedded::Config,
}

/// `[logging]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub(crate) struct Logging {
    /// error, warn, info, debug or trace; also by part, as `"info,weir_broker=debug"`. WEIR_LOG
    /// does the same.
    pub(crate) level: String,
    /// `"text"`, `"json"` (one object a line, names of the Elastic Common Schema), or `"auto"`:
    /// text on a terminal, else JSON.
    pub(crate) format: LogFormat,
}

/// Format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// Text on a terminal, else JSON.
    Auto,
    /// Text.
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
            auth: Auth::default(),
            audit: Audit::default(),
            tls: tls::Config::default(),
            encryption: envelope::Config::default(),
            memory: Memory::default(),
            mqtt: Mqtt::default(),
            grpc: Grpc::default(),
            http: Http::default(),
            ingest: ingest::Limits::default(),
            log: buffer::embedded::Config::default(),
            history: History::default(),
            latest: flusher::config::Latest::default(),
            dead_letters: flusher::config::DeadLetters::default(),
            mongodb: stores::mongodb::Config::default(),
            redis: Redis::default(),
            fleet: Fleet::default(),
            influxdb: Influxdb::default(),
            logging: Logging::default(),
            tracing: Tracing::default(),
            route: Vec::new(),
            export: Vec::new(),
            pool: Vec::new(),
            bridge: Vec::new(),
        }
    }
}

impl Default for Mqtt {
    fn default() -> Self {
        Self {
            address: "127.0.0.1:1883".into(),
            tls_address: String::new(),
            broker: broker::Config::default(),
            listener: Vec::new(),
        }
    }
}

impl Default for Grpc {
    fn default() -> Self {
        Self { address: "127.0.0.1:50051".into(), limits: api::Limits::default() }
    }
}

impl Default for Http {
    fn default() -> Self {
        Self { address: "127.0.0.1:8080".into(), max_connections: 128, hosts: Vec::new() }
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

    /// Checks the values, also against each other.
    ///
    /// # Errors
    /// Names the key and what to do.
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
        check_log(&self.log)?;
        limits::check(self)?;
        anyhow::ensure!(self.influxdb.flush_interval_ms > 0, "`influxdb.flush_interval_ms` is 0: give at least 1");
        export::check(self)?;
        pool::check(self)?;
        bridges::check(self)?;
        self.auth.check(self)?;
        self.audit.check(self.auth.required)?;
        self.fleet.check()?;
        self.tls.check().map_err(anyhow::Error::msg)?;
        anyhow::ensure!(
            self.mqtt.tls_address.is_empty() || self.tls.is_used(),
            "`mqtt.tls_address` needs a certificate: set `tls.certificate` and `tls.key` (`weir tls create` makes them)"
        );
        listener::check(self)?;
        self.encryption.check().map_err(anyhow::Error::msg)?;
        anyhow::ensure!(
            !self.encryption.is_on() || !self.redis.is_used(),
            "encryption at rest does not cover the log on Redis: remove `redis.urls`, or remove `[encryption]` and \
             encrypt the disks of Redis"
        );
        self.tracing.check()?;
        anyhow::ensure!(self.history.sink.flush_secs > 0.0, "`history.flush_interval_ms` is 0: give at least 1");
        let letters = &self.dead_letters;
        anyhow::ensure!(
            letters.max_count >= 1_000 && letters.max_bytes >= 1 << 20,
            "`dead_letters.max_count` is {} and `dead_letters.max_bytes` is {}: give at least 1000 and 1048576",
            letters.max_count,
            letters.max_bytes
        );
        anyhow::ensure!(self.latest.flush_secs > 0.0, "`latest.flush_interval_ms` is 0: give at least 1");
        Ok(())
    }

    /// Addresses to listen on, with their keys.
    pub(crate) fn addresses(&self) -> Vec<(&'static str, &str)> {
        let tls = ("mqtt.tls_address", self.mqtt.tls_address.as_str());
        [
            Some(("mqtt.address", self.mqtt.address.as_str())),
            Some(tls).filter(|(_, address)| !address.is_empty()),
            Some(("grpc.address", self.grpc.address.as_str())),
            Some(("http.address", self.http.address.as_str())),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

fn check_log(log: &buffer::embedded::Config) -> anyhow::Result<()> {
    let least = 1 << 20;
    anyhow::ensure!(log.segment_bytes >= least, "`log.segment_bytes` is below {least} (1 MiB)");
    anyhow::ensure!(
        log.capacity_bytes >= log.segment_bytes.saturating_mul(2),
        "`log.capacity_bytes` is {}: it must hold at least two segments of `log.segment_bytes` = {}",
        log.capacity_bytes,
        log.segment_bytes
    );
    let percent = log.tenant_share_percent;
    anyhow::ensure!(
        (1..=100).contains(&percent),
        "`log.tenant_share_percent` is {percent}: give 1 to 100; 100 is no limit"
    );
    Ok(())
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
