//! Servers that carry the log or hold the data, when there are any. A section whose address is empty is not used.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use stores::influxdb::{FieldType, OnConflict, Tags};

/// `[redis]`
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Redis {
    pub(crate) urls: Vec<String>,
    pub(crate) cluster: bool,
    pub(crate) sentinel_master: String,
    pub(crate) username: String,
    pub(crate) password: String,
    pub(crate) sentinel_username: String,
    pub(crate) sentinel_password: String,
    pub(crate) tls_ca_file: PathBuf,
    pub(crate) durability: buffer::redis::Durability,
    pub(crate) replicas: u32,
    pub(crate) replica_timeout_ms: u64,
    pub(crate) connect_timeout_ms: u64,
    pub(crate) response_timeout_ms: u64,
    pub(crate) max_bytes: u64,
    pub(crate) node: String,
    pub(crate) prefix: String,
    pub(crate) spill_patience_ms: u64,
}

/// `[fleet]`
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Fleet {
    pub(crate) address: String,
    pub(crate) advertise: String,
    pub(crate) secret: String,
    pub(crate) lease_ms: u64,
}

impl Default for Fleet {
    fn default() -> Self {
        Self { address: "127.0.0.1:50052".into(), advertise: String::new(), secret: String::new(), lease_ms: 10_000 }
    }
}

impl Fleet {
    /// Where the others reach the listener at `bound`.
    ///
    /// # Errors
    /// When that cannot be known.
    pub(crate) fn advertised(&self, bound: std::net::SocketAddr) -> anyhow::Result<String> {
        if !self.advertise.is_empty() {
            return Ok(format!("http://{}", self.advertise));
        }
        anyhow::ensure!(
            !bound.ip().is_unspecified(),
            "`fleet.address` is {bound}, which is no place to call: set `fleet.advertise` to the address at which the other \
             processes reach this one, as 10.0.0.7:50052"
        );
        Ok(format!("http://{bound}"))
    }
}

impl fmt::Debug for Fleet {
    /// Without the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fleet").field("address", &self.address).finish_non_exhaustive()
    }
}

/// `[mongodb]`
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Mongodb {
    pub(crate) uri: String,
    pub(crate) database: String,
    pub(crate) collection_prefix: String,
    pub(crate) connect_timeout_ms: u64,
    pub(crate) server_selection_timeout_ms: u64,
    pub(crate) request_timeout_ms: u64,
    pub(crate) max_pool_size: u32,
}

impl Default for Redis {
    fn default() -> Self {
        let log = buffer::redis::Config::default();
        Self {
            urls: Vec::new(),
            cluster: log.cluster,
            sentinel_master: String::new(),
            username: String::new(),
            password: String::new(),
            sentinel_username: String::new(),
            sentinel_password: String::new(),
            tls_ca_file: PathBuf::new(),
            durability: log.durability,
            replicas: log.replicas,
            replica_timeout_ms: log.replica_timeout_ms,
            connect_timeout_ms: log.connect_timeout_ms,
            response_timeout_ms: log.response_timeout_ms,
            max_bytes: log.max_bytes,
            node: log.node,
            prefix: log.prefix,
            spill_patience_ms: buffer::spill::Config::default().patience_ms,
        }
    }
}

impl Redis {
    /// True when the log is on Redis.
    pub(crate) fn is_used(&self) -> bool {
        self.urls.iter().any(|url| !url.is_empty())
    }

    /// Settings of the log; what it keeps is said in `[log]`.
    pub(crate) fn log(&self, log: &super::Log) -> buffer::redis::Config {
        let text = |text: &String| (!text.is_empty()).then(|| text.clone());
        let secret = |secret: &String| text(secret).map(buffer::redis::Secret);
        buffer::redis::Config {
            urls: self.urls.clone(),
            cluster: self.cluster,
            sentinel_master: text(&self.sentinel_master),
            username: text(&self.username),
            password: secret(&self.password),
            sentinel_username: text(&self.sentinel_username),
            sentinel_password: secret(&self.sentinel_password),
            tls_ca_file: (!self.tls_ca_file.as_os_str().is_empty()).then(|| self.tls_ca_file.clone()),
            durability: self.durability,
            replicas: self.replicas,
            replica_timeout_ms: self.replica_timeout_ms,
            connect_timeout_ms: self.connect_timeout_ms,
            response_timeout_ms: self.response_timeout_ms,
            max_bytes: self.max_bytes,
            retain_bytes: log.retain_bytes,
            retain_secs: log.retain_secs,
            ring_bytes: log.ring_bytes,
            node: self.node.clone(),
            prefix: self.prefix.clone(),
            ..buffer::redis::Config::default()
        }
    }
}

impl fmt::Debug for Redis {
    /// Without names and passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis").field("servers", &self.urls.len()).field("node", &self.node).finish_non_exhaustive()
    }
}

impl Default for Mongodb {
    fn default() -> Self {
        let store = stores::mongodb::Config::default();
        Self {
            uri: String::new(),
            database: store.database,
            collection_prefix: store.collection_prefix,
            connect_timeout_ms: store.connect_timeout_ms,
            server_selection_timeout_ms: store.server_selection_timeout_ms,
            request_timeout_ms: store.request_timeout_ms,
            max_pool_size: store.max_pool_size,
        }
    }
}

impl Mongodb {
    /// Settings of the store; none when it is not used.
    pub(crate) fn store(&self) -> Option<stores::mongodb::Config> {
        (!self.uri.is_empty()).then(|| stores::mongodb::Config {
            uri: self.uri.clone(),
            database: self.database.clone(),
            collection_prefix: self.collection_prefix.clone(),
            connect_timeout_ms: self.connect_timeout_ms,
            server_selection_timeout_ms: self.server_selection_timeout_ms,
            request_timeout_ms: self.request_timeout_ms,
            max_pool_size: self.max_pool_size,
            ..stores::mongodb::Config::default()
        })
    }
}

impl fmt::Debug for Mongodb {
    /// Without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.store().fmt(f)
    }
}

/// `[influxdb]`
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Influxdb {
    pub(crate) url: String,
    pub(crate) token: String,
    pub(crate) org: String,
    pub(crate) bucket: String,
    pub(crate) measurement: String,
    pub(crate) tenant_tag: String,
    pub(crate) device_tag: String,
    pub(crate) types: Vec<String>,
    pub(crate) on_conflict: OnConflict,
    pub(crate) flush_interval_ms: u64,
    pub(crate) batch_lines: usize,
    pub(crate) in_flight: usize,
    pub(crate) request_timeout_ms: u64,
    pub(crate) ca_file: PathBuf,
}

impl Default for Influxdb {
    fn default() -> Self {
        let store = stores::influxdb::Config::default();
        Self {
            url: String::new(),
            token: store.token,
            org: store.org,
            bucket: store.bucket,
            measurement: store.measurement,
            tenant_tag: store.tags.tenant,
            device_tag: store.tags.device,
            types: Vec::new(),
            on_conflict: store.on_conflict,
            flush_interval_ms: 1_000,
            batch_lines: store.batch_lines,
            in_flight: store.in_flight,
            request_timeout_ms: 30_000,
            ca_file: PathBuf::new(),
        }
    }
}

impl Influxdb {
    /// Settings of the store; none when it is not used.
    ///
    /// # Errors
    /// When a type cannot be read.
    pub(crate) fn store(&self) -> anyhow::Result<Option<stores::influxdb::Config>> {
        let types = self.types.iter().filter(|text| !text.is_empty()).map(|text| declared(text));
        let types = types.collect::<anyhow::Result<BTreeMap<_, _>>>()?;
        Ok((!self.url.is_empty()).then(|| stores::influxdb::Config {
            url: self.url.clone(),
            token: self.token.clone(),
            org: self.org.clone(),
            bucket: self.bucket.clone(),
            measurement: self.measurement.clone(),
            tags: Tags { tenant: self.tenant_tag.clone(), device: self.device_tag.clone() },
            batch_lines: self.batch_lines,
            in_flight: self.in_flight,
            #[expect(clippy::cast_precision_loss, reason = "a time-out")]
            timeout_secs: self.request_timeout_ms as f64 / 1e3,
            types,
            on_conflict: self.on_conflict,
            ca_file: (!self.ca_file.as_os_str().is_empty()).then(|| self.ca_file.clone()),
        }))
    }
}

/// `name=integer`
fn declared(text: &str) -> anyhow::Result<(String, FieldType)> {
    let wrong = || {
        format!(
            "`influxdb.types` has {text:?}: give a name and float, integer, boolean or string, as \"count=integer\""
        )
    };
    let (name, kind) = text.rsplit_once('=').with_context(wrong)?;
    let kind = serde_json::from_value(kind.into()).with_context(wrong)?;
    Ok((name.to_owned(), kind))
}

impl fmt::Debug for Influxdb {
    /// Without the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Influxdb").field("url", &self.url).field("bucket", &self.bucket).finish_non_exhaustive()
    }
}
