//! Settings of the log on Redis.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use model::setting::empty_is_none;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::error::OpenError;
use crate::batcher::BatchConfig;

/// Settings of the log on Redis: keys of `[redis]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Config {
    /// Servers, as `["redis://host:6379"]`, or `rediss://` for TLS; several only with `cluster`
    /// (some of its nodes) or `sentinel_master` (the sentinels). Empty: Redis is not used.
    ///
    /// User and password may stand here or in their own keys.
    pub urls: Vec<String>,
    /// True when the urls are nodes of a Redis Cluster.
    pub cluster: bool,
    /// Name of the master that the sentinels watch; the urls then name the sentinels.
    #[serde(with = "empty_is_none")]
    #[schemars(with = "String")]
    pub sentinel_master: Option<String>,
    /// User of the servers; empty is the default user.
    #[serde(with = "empty_is_none")]
    #[schemars(with = "String")]
    pub username: Option<String>,
    /// Password of the servers.
    #[serde(with = "empty_is_none")]
    #[schemars(with = "String")]
    pub password: Option<Secret>,
    /// User of the sentinels, if they require one.
    #[serde(with = "empty_is_none")]
    #[schemars(with = "String")]
    pub sentinel_username: Option<String>,
    /// Password of the sentinels, if they require one.
    #[serde(with = "empty_is_none")]
    #[schemars(with = "String")]
    pub sentinel_password: Option<Secret>,
    /// PEM file with the certificate authority of `rediss://` servers; empty is the system's.
    #[serde(with = "empty_is_none")]
    #[schemars(with = "String")]
    pub tls_ca_file: Option<PathBuf>,
    /// PEM file with the certificate of this client, for servers that ask for one.
    #[serde(with = "empty_is_none")]
    #[schemars(with = "String")]
    pub tls_cert_file: Option<PathBuf>,
    /// PEM file with its private key.
    #[serde(with = "empty_is_none")]
    #[schemars(with = "String")]
    pub tls_key_file: Option<PathBuf>,
    /// `"always"`: servers whose settings can lose what they have acknowledged are refused.
    /// `"relaxed"`: an append is as durable as the settings of the servers make it.
    pub durability: Durability,
    /// Replicas that must have an append before it is acknowledged.
    pub replicas: u32,
    /// Time to wait for the replicas, in milliseconds; the append is then retried.
    pub replica_timeout_ms: u64,
    /// Longest time to make a connection, in milliseconds.
    pub connect_timeout_ms: u64,
    /// Longest time to wait for an answer, in milliseconds.
    ///
    /// An append without an answer is retried and recognised.
    pub response_timeout_ms: u64,
    /// Memory of the server that the log of this node may use, in bytes; beyond it devices wait.
    pub max_bytes: u64,
    /// Flushed records are kept up to this many bytes, to recognise messages that are sent again.
    /// Key of `[log]`.
    #[serde(skip)]
    pub retain_bytes: u64,
    /// Flushed records are kept for at most this many seconds, and so is a log that ended. Key of
    /// `[log]`.
    #[serde(skip)]
    pub retain_secs: u64,
    /// Bytes of the newest frames kept in memory, for sinks that keep up. Key of `[log]`.
    #[serde(skip)]
    pub ring_bytes: usize,
    /// Percentage of `max_bytes` that one tenant alone may fill with records that are not yet in
    /// every store. Key of `[log]`.
    #[serde(skip)]
    pub tenant_share_percent: u32,
    /// Prefix of the names of the logs of this node; different for each node.
    pub node: String,
    /// Prefix of every key in Redis, so that two installations can share a server.
    pub prefix: String,
    /// Pool of the installation whose logs these are; `None` for the shared one. Not a key.
    #[serde(skip)]
    pub pool: Option<String>,
    /// Forming of batches; not a key.
    #[serde(skip)]
    pub batch: BatchConfig,
}

/// Condition for an append to be durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// On the server's disk: a server with weaker settings is refused.
    #[default]
    Always,
    /// As durable as the settings of the servers make it.
    Relaxed,
}

/// Password, hidden in `Debug`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            urls: Vec::new(),
            cluster: false,
            sentinel_master: None,
            username: None,
            password: None,
            sentinel_username: None,
            sentinel_password: None,
            tls_ca_file: None,
            tls_cert_file: None,
            tls_key_file: None,
            durability: Durability::Always,
            replicas: 0,
            replica_timeout_ms: 2_000,
            connect_timeout_ms: 2_000,
            response_timeout_ms: 5_000,
            max_bytes: 2 << 30,
            retain_bytes: 64 << 20,
            retain_secs: 300,
            ring_bytes: 64 << 20,
            tenant_share_percent: 50,
            node: "ingest".into(),
            prefix: "weir".into(),
            pool: None,
            batch: BatchConfig::default(),
        }
    }
}

impl Config {
    /// Checks the settings without a server.
    pub(super) fn check(&self) -> Result<(), OpenError> {
        let several = self.urls.len() > 1 && !self.cluster && self.sentinel_master.is_none();
        let faults = [
            (self.urls.is_empty(), "redis.urls names no server"),
            (several, "redis.urls names several servers: set redis.cluster or redis.sentinel_master"),
            (
                self.cluster && self.sentinel_master.is_some(),
                "redis.cluster and redis.sentinel_master exclude each other: take one out",
            ),
            (!is_name(&self.node), "redis.node must be letters, digits, dots, - and _"),
            (!is_name(&self.prefix), "redis.prefix must be letters, digits, dots, - and _"),
            (!self.pool.as_deref().is_none_or(is_name), "the name of a pool must be letters, digits, dots, - and _"),
            (self.max_bytes == 0, "redis.max_bytes leaves no room for a log"),
            (
                self.connect_timeout_ms == 0 || self.response_timeout_ms == 0,
                "redis.connect_timeout_ms and redis.response_timeout_ms must not be 0",
            ),
            (
                self.tls_cert_file.is_some() != self.tls_key_file.is_some(),
                "redis.tls_cert_file and redis.tls_key_file belong together: give both",
            ),
            (self.replicas > 0 && self.replica_timeout_ms == 0, "redis.replica_timeout_ms must not be 0"),
        ];
        match faults.into_iter().find(|(wrong, _)| *wrong) {
            Some((_, what)) => Err(OpenError::Config(what.into())),
            None => Ok(()),
        }
    }

    /// The addresses without users and passwords.
    pub(super) fn urls_for_people(&self) -> String {
        let hosts = self.urls.iter().map(|url| {
            let rest = url.split_once("://").map_or(url.as_str(), |(_, rest)| rest);
            rest.rsplit_once('@').map_or(rest, |(_, host)| host)
        });
        hosts.collect::<Vec<_>>().join(", ")
    }

    /// Prefix of the keys of the pool. No `prefix` has a colon, so that none is that of a pool.
    pub(super) fn key_prefix(&self) -> String {
        match &self.pool {
            None => self.prefix.clone(),
            Some(pool) => format!("{}:pool:{pool}", self.prefix),
        }
    }

    /// Id of the log of a start. No `node` has a tilde: the logs of all pools have different ids.
    pub(super) fn log_id(&self, epoch: &str) -> String {
        match &self.pool {
            None => format!("{}.{epoch}", self.node),
            Some(pool) => format!("{}~{pool}.{epoch}", self.node),
        }
    }

    pub(super) fn connect_timeout(&self) -> Duration {
        Duration::from_millis(self.connect_timeout_ms)
    }

    /// Time-out including that of the replicas.
    pub(super) fn response_timeout(&self) -> Duration {
        let replicas = if self.replicas > 0 { self.replica_timeout_ms } else { 0 };
        Duration::from_millis(self.response_timeout_ms.saturating_add(replicas))
    }

    pub(super) fn retain_ms(&self) -> u64 {
        self.retain_secs.saturating_mul(1000)
    }
}

/// True for a valid part of a key: without braces, which determine the slot.
fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || ".-_".contains(c))
}

#[cfg(test)]
mod tests {
    use super::Config;

    #[test]
    fn pools_have_keys_and_logs_of_their_own() {
        let shared = Config { node: "a".into(), ..Config::default() };
        let gold = Config { pool: Some("gold".into()), ..shared.clone() };
        assert_eq!((shared.key_prefix(), shared.log_id("7")), ("weir".into(), "a.7".into()));
        assert_eq!((gold.key_prefix(), gold.log_id("7")), ("weir:pool:gold".into(), "a~gold.7".into()));
        for config in [
            Config { node: "a~gold".into(), ..shared.clone() },
            Config { prefix: "weir:pool:gold".into(), ..shared },
            Config { pool: Some("a:b".into()), ..gold },
        ] {
            let config = Config { urls: vec!["redis://r".into()], ..config };
            assert!(config.check().is_err(), "{config:?}");
        }
    }
}
