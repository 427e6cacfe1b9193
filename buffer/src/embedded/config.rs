//! Settings of the embedded log.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::recover::OpenError;
use crate::batcher::BatchConfig;

/// Settings of the embedded log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where its files are.
    pub dir: PathBuf,
    /// Size of a segment file; rounded up to 4 KiB. A frame that is larger gets a segment of its own size.
    pub segment_bytes: u64,
    /// Segments in all, at least two of them: when full of what a sink has not stored, devices wait.
    pub capacity_bytes: u64,
    /// Newest frames kept in memory, for sinks that keep up and to recognise resent messages.
    pub ring_bytes: usize,
    /// Records that every sink has stored are kept for subscribers that come back, up to so much ...
    pub retain_bytes: u64,
    /// ... and so long. Space that new records need goes first.
    pub retain_secs: u64,
    /// How batches are formed.
    pub batch: BatchConfig,
}

impl Config {
    pub(super) fn check(&self) -> Result<(), OpenError> {
        let least = 2 * self.segment_for(0);
        if self.capacity_bytes < least {
            return Err(OpenError::Capacity { capacity: self.capacity_bytes, least });
        }
        Ok(())
    }

    /// Size of a segment that has to hold `bytes`.
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
            batch: BatchConfig::default(),
        }
    }
}
