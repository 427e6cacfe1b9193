//! Settings of the sinks.

use std::time::Duration;

use model::Backoff;
use model::setting::{secs_as_ms, zero_is_none};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use stores::contract::LetterBound;

use crate::sinks::latest::Bounds;

/// Largest state of a device: MongoDB stores documents of up to 16 MiB.
const MAX_DEVICE_BYTES: u64 = 8 << 20;

/// Settings of all sinks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The history sink.
    pub history: History,
    /// The latest-state sink.
    pub latest: Latest,
    /// The dead letters.
    pub dead_letters: DeadLetters,
    /// How writes that a store does not accept are tried again.
    pub retry: Retry,
    /// How long the last flush of an ordered stop may take. Records that are not flushed by then
    /// stay in the log.
    pub stop_secs: u64,
}

/// Settings of the history sink.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct History {
    /// A range is written this long after its first reading, in milliseconds. Queries see readings
    /// before that.
    ///
    /// Longer makes fewer and larger blocks.
    #[serde(rename = "flush_interval_ms", with = "secs_as_ms")]
    #[schemars(with = "u64")]
    pub flush_secs: f64,
    /// A range is written earlier when it has this many readings.
    pub flush_records: u64,
    /// A range is written earlier when it takes this much memory, in bytes.
    pub flush_bytes: u64,
    /// Memory for readings that are not written yet, in bytes; the rest waits in the log.
    ///
    /// Queries read the log more slowly.
    pub max_unflushed_bytes: u64,
    /// Readings older than this many seconds are deleted; 0 keeps everything.
    #[serde(with = "zero_is_none")]
    #[schemars(with = "u64")]
    pub retention_secs: Option<u64>,
    /// How long a query may wait for the sink to take in what became durable just before the query;
    /// not a key.
    #[serde(skip)]
    pub query_wait_ms: u64,
}

/// Settings of the latest-state sink.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Latest {
    /// New readings are taken in this often while no query waits, in milliseconds; a query takes
    /// them in at once.
    #[serde(rename = "follow_interval_ms")]
    pub follow_ms: u64,
    /// Changed states are written this often, in milliseconds.
    ///
    /// A restart reads again what came in since.
    #[serde(rename = "flush_interval_ms", with = "secs_as_ms")]
    #[schemars(with = "u64")]
    pub flush_secs: f64,
    /// Value names that the latest state of one device holds: of more, those with the newest
    /// values.
    ///
    /// The history keeps all of them. A device that puts a time or a counter into its names would
    /// otherwise fill the memory.
    pub max_names: usize,
    /// Memory for states, in bytes: those that were stored leave it when it is full; not a key.
    #[serde(skip)]
    pub memory_bytes: u64,
    /// How long a query may wait for the sink to take in what became durable just before the query;
    /// not a key.
    #[serde(skip)]
    pub query_wait_ms: u64,
}

/// How many dead letters the store holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct DeadLetters {
    /// Dead letters that the store holds, of all tenants together; beyond it the oldest are
    /// deleted, of the tenant with the most, and counted.
    pub max_count: u64,
    /// Bytes of the dead letters that the store holds; beyond it the oldest are deleted.
    pub max_bytes: u64,
}

/// How a write is tried again. Each wait is drawn at random from its upper half.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retry {
    /// First wait; it doubles with each attempt.
    pub first_ms: u64,
    /// Longest wait.
    pub max_ms: u64,
    /// A paused sink tries again this often, in case an operator has removed the cause.
    pub paused_secs: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            history: History::default(),
            latest: Latest::default(),
            dead_letters: DeadLetters::default(),
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
        Self { follow_ms: 50, flush_secs: 10.0, max_names: 10_000, memory_bytes: 1 << 30, query_wait_ms: 5_000 }
    }
}

impl Default for DeadLetters {
    fn default() -> Self {
        Self { max_count: 100_000, max_bytes: 1 << 30 }
    }
}

impl DeadLetters {
    pub(crate) fn bound(&self) -> LetterBound {
        LetterBound { count: self.max_count, bytes: self.max_bytes }
    }
}

impl Retry {
    pub(crate) fn backoff(&self) -> Backoff {
        Backoff::new(Duration::from_millis(self.first_ms), Duration::from_millis(self.max_ms))
    }
}

impl Default for Retry {
    fn default() -> Self {
        Self { first_ms: 100, max_ms: 30_000, paused_secs: 30 }
    }
}

/// When a sink follows its log and when it delivers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pace {
    /// Least time between two reads of the log when no query waits.
    pub follow: Duration,
    /// Delivered this long after the first record that has to be.
    pub deliver: Duration,
    /// The cursor moves over records that the sink does not keep this long after the first.
    pub skip: Duration,
    /// Delivered earlier with this many records.
    pub records: u64,
    /// Delivered earlier with this much memory.
    pub bytes: u64,
    /// Nothing more is taken in while this much memory waits.
    pub max_bytes: u64,
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
            // States that are not stored cannot leave: room for as many stored ones is left.
            bytes: self.memory_bytes / 4,
            max_bytes: self.memory_bytes / 2,
        }
    }

    pub(crate) fn bounds(&self) -> Bounds {
        let device_bytes = (self.memory_bytes / 8).min(MAX_DEVICE_BYTES);
        Bounds { names: self.max_names, device_bytes, bytes: self.memory_bytes }
    }
}

impl Default for Pace {
    /// Of an export.
    fn default() -> Self {
        Self::export(Duration::from_secs(1), 100_000, 128 << 20)
    }
}

impl Pace {
    /// For an export: a batch is delivered `flush` after its first reading, earlier with `records`;
    /// beyond `max_bytes` of memory, readings wait in the log.
    pub fn export(flush: Duration, records: u64, max_bytes: u64) -> Self {
        let flush = flush.max(Duration::from_millis(1));
        Self {
            follow: Duration::from_millis(100).min(flush),
            deliver: flush,
            skip: flush,
            records: records.max(1),
            bytes: max_bytes.max(2) / 2,
            max_bytes: max_bytes.max(1),
        }
    }

    /// For a sink whose records are rare and needed soon.
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
