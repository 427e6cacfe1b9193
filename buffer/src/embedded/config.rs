//! Settings of the embedded log.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::batcher::BatchConfig;

/// Settings of the embedded log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where its files are.
    pub dir: PathBuf,
    /// Size of a segment file; rounded up to 4 KiB.
    pub segment_bytes: u64,
    /// Segments in all: when full of what a sink has not stored, devices wait.
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
