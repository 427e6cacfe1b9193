//! How large a message may be once it is read.

use serde::{Deserialize, Serialize};

/// Limits on what a message holds; beyond one it becomes a dead letter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Objects and arrays inside one another.
    pub max_depth: usize,
    /// Values of one reading.
    pub max_values: usize,
    /// Readings in one message.
    pub max_readings: usize,
    /// Length of a value's whole name.
    pub max_name_bytes: usize,
    /// Length of a text value.
    pub max_string_bytes: usize,
    /// A device time further ahead than this is not used to order the reading; it is kept beside.
    pub max_clock_ahead_secs: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_depth: 16,
            max_values: 256,
            max_readings: 1000,
            max_name_bytes: 128,
            max_string_bytes: 4096,
            max_clock_ahead_secs: 600,
        }
    }
}
