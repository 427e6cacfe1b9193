//! What a person may set.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Settings of all sinks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The history sink.
    pub history: History,
    /// The latest-state sink.
    pub latest: Latest,
    /// The sink of points, when a store of points is configured.
    pub points: Points,
    /// What happens when a store does not take a write.
    pub retry: Retry,
    /// How long the last flush of an ordered stop may take. What is not flushed by then stays in the log.
    pub stop_secs: u64,
}

/// Settings of the history sink.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct History {
    /// A range is sealed and written this long after its first record. Longer makes fewer and larger blocks.
    pub flush_secs: f64,
    /// A range is sealed earlier when it holds this many records.
    pub flush_records: u64,
    /// A range is sealed earlier when it takes this much memory.
    pub flush_bytes: u64,
    /// Memory for what is not written yet. Beyond it the rest waits in the log, where queries read it more slowly.
    pub max_unflushed_bytes: u64,
    /// Readings older than this are deleted; nothing is when unset.
    pub retention_secs: Option<u64>,
    /// How long a query may wait for the sink to take in what became durable just before the query.
    pub query_wait_ms: u64,
}

/// Settings of the latest-state sink.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Latest {
    /// New readings are taken in this often when nobody asks; a query takes them in at once.
    pub follow_ms: u64,
    /// Changed states are written this often. A restart reads again what came in since.
    pub flush_secs: f64,
    /// How long a query may wait for the sink to take in what became durable just before the query.
    pub query_wait_ms: u64,
}

/// Settings of the sink of points.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Points {
    /// Points are written this long after the first reading of a batch.
    pub flush_secs: f64,
    /// A batch is written earlier when it holds this many readings.
    pub flush_records: u64,
    /// Memory for what is not written yet. Beyond it the rest waits in the log.
    pub max_unflushed_bytes: u64,
    /// Readings without a sequence whose device time is in whole milliseconds get a place within their millisecond, made
    /// from what was sent, so that two of one device and time both become points. When false they keep their time to the
    /// nanosecond, and such readings become one point.
    pub separate_equal_times: bool,
}

/// How a write is tried again. Each wait is drawn at random from its upper half.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retry {
    /// First wait; it doubles with each attempt.
    pub first_ms: u64,
    /// Longest wait.
    pub max_ms: u64,
    /// How often a paused sink looks whether a person has repaired the cause.
    pub paused_secs: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            history: History::default(),
            latest: Latest::default(),
            points: Points::default(),
            retry: Retry::default(),
            stop_secs: 10,
        }
    }
}

impl Default for History {
    fn default() -> Self {
        Self {
            flush_secs: 15.0,
            flush_records: 2_000_000,
            flush_bytes: 128 << 20,
            max_unflushed_bytes: 256 << 20,
            retention_secs: None,
            query_wait_ms: 5_000,
        }
    }
}

impl Default for Latest {
    fn default() -> Self {
        Self { follow_ms: 50, flush_secs: 10.0, query_wait_ms: 5_000 }
    }
}

impl Default for Points {
    fn default() -> Self {
        Self { flush_secs: 1.0, flush_records: 100_000, max_unflushed_bytes: 128 << 20, separate_equal_times: true }
    }
}

impl Default for Retry {
    fn default() -> Self {
        Self { first_ms: 100, max_ms: 30_000, paused_secs: 30 }
    }
}

/// When a sink follows and when it delivers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// Least time between two looks at the log when nobody asks.
    pub(crate) follow: Duration,
    /// Delivered this long after the first record that has to be.
    pub(crate) deliver: Duration,
    /// The cursor moves over records that the sink does not keep this long after the first.
    pub(crate) skip: Duration,
    /// Delivered earlier with this many records.
    pub(crate) records: u64,
    /// Delivered earlier with this much memory.
    pub(crate) bytes: u64,
    /// Nothing more is taken in while this much memory waits.
    pub(crate) max_bytes: u64,
}

impl History {
    pub(crate) fn pace(&self) -> Pace {
        let flush = Duration::from_secs_f64(self.flush_secs.max(0.001));
        Pace {
            follow: Duration::from_millis(100),
            deliver: flush,
            skip: flush,
            records: self.flush_records.max(1),
            bytes: self.flush_bytes.max(1),
            max_bytes: self.max_unflushed_bytes.max(1),
        }
    }
}

impl Latest {
    pub(crate) fn pace(&self) -> Pace {
        let flush = Duration::from_secs_f64(self.flush_secs.max(0.001));
        Pace {
            follow: Duration::from_millis(self.follow_ms.max(1)),
            deliver: flush,
            skip: flush,
            records: u64::MAX,
            bytes: u64::MAX,
            max_bytes: u64::MAX,
        }
    }
}

impl Points {
    pub(crate) fn pace(&self) -> Pace {
        let flush = Duration::from_secs_f64(self.flush_secs.max(0.001));
        Pace {
            follow: Duration::from_millis(100).min(flush),
            deliver: flush,
            skip: flush,
            records: self.flush_records.max(1),
            bytes: self.max_unflushed_bytes.max(2) / 2,
            max_bytes: self.max_unflushed_bytes.max(1),
        }
    }
}

impl Pace {
    /// For a sink whose records are rare and wanted soon.
    pub(crate) fn rare(deliver: Duration) -> Self {
        Self {
            follow: deliver / 2,
            deliver,
            skip: Duration::from_secs(10),
            records: 10_000,
            bytes: 16 << 20,
            max_bytes: 64 << 20,
        }
    }
}
