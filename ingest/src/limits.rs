//! How much is taken.

use serde::{Deserialize, Serialize};

/// The deepest that any configuration allows, so that no document exhausts a stack.
const DEEPEST: usize = 128;

/// Limits on what a message holds; beyond one it becomes a dead letter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Objects and arrays inside one another; 128 at most.
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

impl Limits {
    /// The depth in force.
    pub(crate) fn depth(&self) -> usize {
        self.max_depth.min(DEEPEST)
    }
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
