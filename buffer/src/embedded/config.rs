//! Settings of the embedded log.

use std::path::PathBuf;

use envelope::Keyring;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::recover::OpenError;
use crate::batcher::BatchConfig;

/// Settings of the embedded log: keys of `[log]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Config {
    /// Folder of its files; not a key.
    #[serde(skip)]
    pub dir: PathBuf,
    /// Size of one file of the log, in bytes. Filled with zeros before it is used.
    ///
    /// Rounded up to 4 KiB. A frame that is larger gets a segment of its own size.
    pub segment_bytes: u64,
    /// Size of the whole log, in bytes, at least two files. When it is full of records that are not
    /// yet in every store, devices wait.
    pub capacity_bytes: u64,
    /// Size of the newest part of the log that is also kept in memory, in bytes.
    ///
    /// For sinks that keep up and to recognise resent messages.
    pub ring_bytes: usize,
    /// Keep at most this many bytes of flushed records for subscribers that come back.
    pub retain_bytes: u64,
    /// Keep flushed records for at most this many seconds; 0 means that only `retain_bytes` limits
    /// them.
    ///
    /// Space that new records need is freed in any case.
    pub retain_secs: u64,
    /// Percentage of the log that one tenant alone may fill with records that are not yet in every
    /// store; its devices wait then. With several such tenants each has less. 100 is no limit. With
    /// `redis.urls`: of `redis.max_bytes`, and of the files while Redis is away. Needs
    /// `auth.required`.
    pub tenant_share_percent: u32,
    /// Forming of batches; not a key.
    #[serde(skip)]
    pub batch: BatchConfig,
    /// Keys that records are sealed with; not a key of the configuration.
    #[serde(skip)]
    pub keys: Option<Keyring>,
}

impl Config {
    pub(super) fn check(&self) -> Result<(), OpenError> {
        let least = 2 * self.segment_for(0);
        if self.capacity_bytes < least {
            return Err(OpenError::Capacity { capacity: self.capacity_bytes, least });
        }
        Ok(())
    }

    /// Bytes that tenants share: without the file that is written to and the next one.
    pub(crate) fn divided_bytes(&self) -> u64 {
        self.capacity_bytes.saturating_sub(2 * self.segment_for(0)).max(self.capacity_bytes / 2)
    }

    /// Size of a segment for a frame of `bytes`.
    pub(super) fn segment_for(&self, bytes: u64) -> u64 {
        self.segment_bytes.max(bytes).max(1).next_multiple_of(4096)
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            dir: PathBuf::from("log"),
            segment_bytes: 64 << 20,
            capacity_bytes: 8 << 30,
            ring_bytes: 64 << 20,
            retain_bytes: 1 << 30,
            retain_secs: 3600,
            tenant_share_percent: 50,
            batch: BatchConfig::default(),
            keys: None,
        }
    }
}
