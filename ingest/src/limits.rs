//! Limits on the contents of a message.

use model::Nanos;
use model::time::SECOND;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Maximum depth in any configuration, so that no document exhausts a stack.
const DEEPEST: usize = 128;

/// Limits on the contents of a message; a message beyond one becomes a dead letter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Limits {
    /// A device time further ahead than this, in seconds, is kept but does not order the reading.
    pub max_clock_ahead_secs: u64,
    /// Nesting of a JSON payload; 128 at most.
    pub max_depth: usize,
    /// Maximum number of values of one reading.
    pub max_values: usize,
    /// Maximum number of readings of one message; a device may send all it has buffered in one.
    pub max_readings: usize,
    /// Length of a value's name, in bytes.
    pub max_name_bytes: usize,
    /// Length of a text value, in bytes.
    pub max_string_bytes: usize,
    /// Devices of one tenant since the start; 0 is no limit.
    pub max_devices: usize,
    /// Memory for the topics and devices that connections remember, in bytes; not a key.
    #[serde(skip)]
    pub remembered_bytes: usize,
}

impl Limits {
    /// Returns the depth in force.
    pub(crate) fn depth(&self) -> usize {
        self.max_depth.min(DEEPEST)
    }

    /// Returns the latest device time that can be used for a message.
    pub(crate) fn latest(&self, received: Nanos) -> Nanos {
        let ahead = i64::try_from(self.max_clock_ahead_secs).unwrap_or(i64::MAX);
        received.saturating_add(ahead.saturating_mul(SECOND))
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_depth: 16,
            max_values: 256,
            max_readings: 10_000,
            max_name_bytes: 128,
            max_string_bytes: 4096,
            max_devices: 1_000_000,
            remembered_bytes: 64 << 20,
            max_clock_ahead_secs: 600,
        }
    }
}
