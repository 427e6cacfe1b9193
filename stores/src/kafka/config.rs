//! Settings of a Kafka export.

use std::fmt;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::topic::Template;
use crate::settings::SettingsError;

/// Settings of an export of `type = "kafka"`: one record a reading, keyed by the device.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Config {
    /// Addresses of some of the brokers, `host:port`; the others are learnt from them.
    pub brokers: Vec<String>,
    /// Topic of a reading; `{tenant}` stands for its tenant. Without `{tenant}` the key of a record
    /// is `tenant/device` in place of the device.
    pub topic: String,
    /// Form of a record's value: `json` (with a schema version) or `protobuf` (`weir.v1.Reading`).
    pub format: Format,
    /// Compression of batches: `none`, `lz4`, `zstd`, `gzip` or `snappy`.
    pub compression: Compression,
    /// Write each delivery and the cursor in one transaction, so that consumers that read committed
    /// records see every reading exactly once.
    pub transactional: bool,
    /// Topic of the cursors when `transactional`; `{export}` stands for the name of the export.
    /// Created, compacted, with one partition, when it is missing.
    pub cursor_topic: String,
    /// Answer that Kafka is unavailable when a write is not acknowledged within this many
    /// milliseconds; it is then tried again.
    pub delivery_timeout_ms: u64,
    /// Wait up to this many milliseconds for more readings of a partition before a batch is sent.
    pub linger_ms: u64,
    /// Send at most this many bytes of records in one batch. Keep it below `max.message.bytes` of
    /// the topics.
    pub batch_bytes: u32,
    /// Refuse a reading whose record is larger than this; it becomes a dead letter. Keep it at or
    /// below `max.message.bytes` of the topics.
    pub message_max_bytes: u32,
    /// Hold at most this many records for each log before Kafka acknowledges them.
    pub queue_records: u32,
    /// Hold at most this many bytes of records for each log before Kafka acknowledges them.
    pub queue_bytes: u32,
    /// Let Kafka abort a transaction that takes longer than this many milliseconds.
    pub transaction_timeout_ms: u32,
    /// Name that brokers log and count this client under.
    pub client_id: String,
    /// Connect with TLS. Needs a program built with the feature `kafka-tls`.
    pub tls: bool,
    /// Certificates (PEM) that are trusted in place of the system's, with `tls`.
    pub ca_file: PathBuf,
    /// Certificate (PEM) of this client, with `tls`.
    pub cert_file: PathBuf,
    /// Private key (PEM) of `cert_file`.
    pub key_file: PathBuf,
    /// Password of `key_file`.
    pub key_password: String,
    /// Authentication: `none`, `plain`, `scram_sha_256` or `scram_sha_512`. SCRAM needs a program
    /// built with the feature `kafka-tls`.
    pub sasl: Sasl,
    /// User name, with `sasl`.
    pub username: String,
    /// Password, with `sasl`.
    pub password: String,
}

/// Form of a record's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// A JSON object.
    #[default]
    Json,
    /// `weir.v1.Reading`.
    Protobuf,
}

/// Compression of batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    /// As they are.
    None,
    /// LZ4.
    Lz4,
    /// Zstandard.
    #[default]
    Zstd,
    /// gzip.
    Gzip,
    /// Snappy.
    Snappy,
}

/// Authentication.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Sasl {
    /// None, or the certificate of the client.
    #[default]
    None,
    /// User name and password as they are.
    Plain,
    /// SCRAM with SHA-256.
    #[serde(rename = "scram_sha_256")]
    ScramSha256,
    /// SCRAM with SHA-512.
    #[serde(rename = "scram_sha_512")]
    ScramSha512,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            brokers: vec!["127.0.0.1:9092".to_owned()],
            topic: "weir.{tenant}.telemetry".to_owned(),
            format: Format::default(),
            compression: Compression::default(),
            transactional: false,
            cursor_topic: "weir-cursors-{export}".to_owned(),
            delivery_timeout_ms: 30_000,
            linger_ms: 5,
            batch_bytes: 256 << 10,
            message_max_bytes: 1_000_000,
            queue_records: 50_000,
            queue_bytes: 32 << 20,
            transaction_timeout_ms: 60_000,
            client_id: "weir".to_owned(),
            tls: false,
            ca_file: PathBuf::new(),
            cert_file: PathBuf::new(),
            key_file: PathBuf::new(),
            key_password: String::new(),
            sasl: Sasl::default(),
            username: String::new(),
            password: String::new(),
        }
    }
}

impl fmt::Debug for Config {
    /// Without the secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("brokers", &self.brokers)
            .field("topic", &self.topic)
            .field("format", &self.format)
            .field("compression", &self.compression)
            .field("transactional", &self.transactional)
            .field("tls", &self.tls)
            .field("sasl", &self.sasl)
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

impl Config {
    /// Checks the settings of the export `name`, as far as that is possible without a broker.
    ///
    /// # Errors
    /// [`SettingsError`] naming the key.
    pub fn check(&self, name: &str) -> Result<(), SettingsError> {
        self.fault(name).map_or(Ok(()), |fault| Err(SettingsError::new(name, fault)))
    }

    fn fault(&self, name: &str) -> Option<String> {
        if self.brokers.is_empty() || self.brokers.iter().any(|broker| broker.trim().is_empty()) {
            return Some("set `brokers` to the addresses of Kafka, as [\"host:9092\"]".to_owned());
        }
        if let Some(broker) = self.brokers.iter().find(|broker| broker.contains(['/', '@'])) {
            return Some(format!(
                "`brokers` has {broker:?}, which is not host:port: write it without a scheme and a path"
            ));
        }
        if let Err(fault) = Template::new(&self.topic) {
            return Some(format!("cannot use `topic` = {:?}: {fault}", self.topic));
        }
        if let Err(fault) = super::topic::cursor_topic(&self.cursor_topic, name) {
            return Some(format!("cannot use `cursor_topic` = {:?}: {fault}", self.cursor_topic));
        }
        let positive = [
            ("delivery_timeout_ms", self.delivery_timeout_ms),
            ("queue_records", self.queue_records.into()),
            ("batch_bytes", self.batch_bytes.into()),
        ];
        if let Some((key, _)) = positive.into_iter().find(|(_, value)| *value == 0) {
            return Some(format!("`{key}` must be at least 1"));
        }
        if !(1_000..=1_000_000_000).contains(&self.message_max_bytes) {
            return Some("`message_max_bytes` must be between 1000 and 1000000000".to_owned());
        }
        if self.queue_bytes < self.message_max_bytes || self.queue_bytes < 1 << 20 {
            return Some("`queue_bytes` must be at least 1048576 and at least `message_max_bytes`".to_owned());
        }
        if !(1_000..=900_000).contains(&self.transaction_timeout_ms) {
            return Some("`transaction_timeout_ms` must be between 1000 and 900000".to_owned());
        }
        if self.linger_ms > 1_000 || self.linger_ms >= self.delivery_timeout_ms {
            return Some("`linger_ms` must be at most 1000 and below `delivery_timeout_ms`".to_owned());
        }
        self.security_fault()
    }

    fn security_fault(&self) -> Option<String> {
        let has_tls = cfg!(feature = "kafka-tls");
        if self.tls && !has_tls {
            return Some("`tls` needs a program built with the feature `kafka-tls`".to_owned());
        }
        let scram = matches!(self.sasl, Sasl::ScramSha256 | Sasl::ScramSha512);
        if scram && !has_tls {
            return Some("`sasl` with SCRAM needs a program built with the feature `kafka-tls`".to_owned());
        }
        if self.sasl != Sasl::None && (self.username.is_empty() || self.password.is_empty()) {
            return Some("`sasl` needs `username` and `password`".to_owned());
        }
        let certificates = [("ca_file", &self.ca_file), ("cert_file", &self.cert_file), ("key_file", &self.key_file)];
        if let Some((key, _)) = certificates.into_iter().find(|(_, file)| is_set(file) && !self.tls) {
            return Some(format!("`{key}` is of no use without `tls` = true"));
        }
        if is_set(&self.cert_file) != is_set(&self.key_file) {
            return Some("set both `cert_file` and `key_file`, or neither".to_owned());
        }
        None
    }
}

/// An empty path stands for none.
pub(super) fn is_set(file: &Path) -> bool {
    !file.as_os_str().is_empty()
}
