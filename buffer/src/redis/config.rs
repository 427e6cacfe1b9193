//! Settings of the log on Redis.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::error::OpenError;
use crate::batcher::BatchConfig;

/// Settings of the log on Redis.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `redis://host:port` or `rediss://host:port` for TLS. Several only with `cluster` (some of its nodes) or with
    /// `sentinel_master` (the sentinels). User and password may stand here or below.
    pub urls: Vec<String>,
    /// The urls name nodes of a Redis Cluster.
    pub cluster: bool,
    /// The urls name sentinels, and this the master they watch.
    pub sentinel_master: Option<String>,
    /// User of the servers' ACL; none for the default user.
    pub username: Option<String>,
    /// Password of the servers.
    pub password: Option<Secret>,
    /// User of the sentinels, when they ask for one.
    pub sentinel_username: Option<String>,
    /// Password of the sentinels, when they ask for one.
    pub sentinel_password: Option<Secret>,
    /// PEM file with the certificate authority of `rediss://`; none for the system's.
    pub tls_ca_file: Option<PathBuf>,
    /// What a durable append is.
    pub durability: Durability,
    /// Replicas that must hold an append before it is durable.
    pub replicas: u32,
    /// Time they get, after which the append is tried again.
    pub replica_timeout_ms: u64,
    /// Time for a connection.
    pub connect_timeout_ms: u64,
    /// Time for an answer. An append without an answer is tried again and recognised.
    pub response_timeout_ms: u64,
    /// Bytes that a log may take of the server's memory: beyond, devices wait.
    pub max_bytes: u64,
    /// Records that every sink has stored are kept up to so much, to recognise messages that are sent again ...
    pub retain_bytes: u64,
    /// ... and so long. A log that ended is kept as long, too.
    pub retain_secs: u64,
    /// Newest frames kept in memory, for sinks that keep up.
    pub ring_bytes: usize,
    /// First part of the names of the logs: who writes them.
    pub node: String,
    /// First part of every key.
    pub prefix: String,
    /// How batches are formed.
    pub batch: BatchConfig,
}

/// What a durable append is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// On the server's disk: settings of a server that promise less are refused.
    #[default]
    Always,
    /// Whatever the server's settings promise.
    Relaxed,
}

/// A password: not shown when printed for people.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            urls: vec!["redis://127.0.0.1:6379".into()],
            cluster: false,
            sentinel_master: None,
            username: None,
            password: None,
            sentinel_username: None,
            sentinel_password: None,
            tls_ca_file: None,
            durability: Durability::Always,
            replicas: 0,
            replica_timeout_ms: 2_000,
            connect_timeout_ms: 2_000,
            response_timeout_ms: 5_000,
            max_bytes: 2 << 30,
            retain_bytes: 64 << 20,
            retain_secs: 300,
            ring_bytes: 64 << 20,
            node: "ingest".into(),
            prefix: "weir".into(),
            batch: BatchConfig::default(),
        }
    }
}

impl Config {
    /// Looks for what can be told without a server.
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
            (self.max_bytes == 0, "redis.max_bytes leaves no room for a log"),
            (
                self.connect_timeout_ms == 0 || self.response_timeout_ms == 0,
                "redis.connect_timeout_ms and redis.response_timeout_ms must not be 0",
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

    pub(super) fn connect_timeout(&self) -> Duration {
        Duration::from_millis(self.connect_timeout_ms)
    }

    /// With the time that replicas get.
    pub(super) fn response_timeout(&self) -> Duration {
        let replicas = if self.replicas > 0 { self.replica_timeout_ms } else { 0 };
        Duration::from_millis(self.response_timeout_ms.saturating_add(replicas))
    }

    pub(super) fn retain_ms(&self) -> u64 {
        self.retain_secs.saturating_mul(1000)
    }
}

/// Fit to stand in a key: no braces, they decide about the slot.
fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || ".-_".contains(c))
}
