//! Servers that carry the log or hold the data. A section whose address is empty is not used.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::ensure;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `[redis]`
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub(crate) struct Redis {
    #[serde(flatten)]
    pub(crate) log: buffer::redis::Config,
    #[serde(flatten)]
    pub(crate) spill: buffer::spill::Config,
    /// Maximum bytes of messages that wait for MQTT clients whose sessions the fleet shares. A
    /// message beyond it is treated as `mqtt.queue_full` says.
    pub(crate) max_session_bytes: u64,
}

impl Default for Redis {
    fn default() -> Self {
        Self { log: Default::default(), spill: Default::default(), max_session_bytes: 1 << 30 }
    }
}

/// `[fleet]`
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub(crate) struct Fleet {
    /// IP address and port where a process that flushes or accepts devices answers the others. Used
    /// when Redis and MongoDB are.
    pub(crate) address: String,
    /// Host and port at which the others reach it, as 10.0.0.7:50052. Empty: `fleet.address`.
    pub(crate) advertise: String,
    /// The same random text in every process, of at least 16 characters: processes accept each
    /// other only with it. Without certificates it is sent unencrypted.
    pub(crate) secret: String,
    /// PEM file with the certificate of this process, which the others see as server and as client
    /// (`weir tls create`). With it, processes call each other over mutual TLS.
    pub(crate) certificate: PathBuf,
    /// PEM file with its private key.
    pub(crate) key: PathBuf,
    /// PEM file with the authority of the certificates of all processes.
    pub(crate) ca: PathBuf,
    /// A log whose flusher died is taken over after this time, in milliseconds. Renewed three times
    /// as often.
    pub(crate) lease_ms: u64,
}

/// `[influxdb]`: the export named `influxdb`.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub(crate) struct Influxdb {
    #[serde(flatten)]
    pub(crate) store: stores::influxdb::Config,
    /// Points are written this long after the first reading, in milliseconds.
    pub(crate) flush_interval_ms: u64,
}

impl Default for Fleet {
    fn default() -> Self {
        Self {
            address: "127.0.0.1:50052".into(),
            advertise: String::new(),
            secret: String::new(),
            certificate: PathBuf::new(),
            key: PathBuf::new(),
            ca: PathBuf::new(),
            lease_ms: 10_000,
        }
    }
}

impl Default for Influxdb {
    fn default() -> Self {
        Self { store: stores::influxdb::Config::default(), flush_interval_ms: 1_000 }
    }
}

impl Fleet {
    /// True when processes call each other over TLS.
    pub(crate) fn is_encrypted(&self) -> bool {
        !self.certificate.as_os_str().is_empty()
    }

    /// The files of mutual TLS, for both sides; `None` when it is not used.
    pub(crate) fn files(&self) -> Option<(tls::ServerFiles, tls::ClientFiles)> {
        let named = |key: &str, path: &Path| tls::Named::new(format!("fleet.{key}"), path);
        let (certificate, key) = (named("certificate", &self.certificate), named("key", &self.key));
        let ca = Some(named("ca", &self.ca));
        let client = tls::ClientFiles { ca: ca.clone(), identity: Some((certificate.clone(), key.clone())) };
        self.is_encrypted().then_some((tls::ServerFiles { certificate, key, client_ca: ca }, client))
    }

    /// Checks that the files are given together.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        let given = [&self.certificate, &self.key, &self.ca].map(|path| !path.as_os_str().is_empty());
        ensure!(
            given.iter().all(|set| *set == given[0]),
            "`fleet.certificate`, `fleet.key` and `fleet.ca` belong together: give all three, or none"
        );
        Ok(())
    }

    /// Where the others reach the listener at `bound`.
    ///
    /// # Errors
    /// When that cannot be known.
    pub(crate) fn advertised(&self, bound: std::net::SocketAddr) -> anyhow::Result<String> {
        let scheme = if self.is_encrypted() { "https" } else { "http" };
        if !self.advertise.is_empty() {
            anyhow::ensure!(
                !self.advertise.contains('/'),
                "`fleet.advertise` is {:?}, which is not host:port: write it without a scheme and a path, as 10.0.0.7:50052",
                self.advertise
            );
            return Ok(format!("{scheme}://{}", self.advertise));
        }
        anyhow::ensure!(
            !bound.ip().is_unspecified(),
            "`fleet.address` is {bound}, which cannot be called: set `fleet.advertise` to the address at which the other \
             processes reach this one, as 10.0.0.7:50052"
        );
        Ok(format!("{scheme}://{bound}"))
    }
}

impl fmt::Debug for Fleet {
    /// Without the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fleet").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Redis {
    /// True when the log is on Redis.
    pub(crate) fn is_used(&self) -> bool {
        self.log.urls.iter().any(|url| !url.is_empty())
    }
}

impl fmt::Debug for Redis {
    /// Without names and passwords, which may also stand in the urls.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis")
            .field("servers", &self.log.urls.len())
            .field("node", &self.log.node)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Influxdb {
    /// Without the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Influxdb")
            .field("url", &self.store.url)
            .field("bucket", &self.store.bucket)
            .finish_non_exhaustive()
    }
}
