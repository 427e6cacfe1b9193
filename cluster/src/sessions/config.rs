//! Settings.

use std::time::Duration;

pub use broker::QueueFull;

/// Bounds of what is stored, and times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Time after which a node that does not announce itself is dead.
    pub lease: Duration,
    /// Messages stored for one session.
    pub max_queued_messages: usize,
    /// Bytes of all stored messages together.
    pub max_stored_bytes: u64,
    /// Treatment of a session with as many, or when the bytes are used up.
    pub queue_full: QueueFull,
    /// Bytes of changes that wait for the server before callers wait.
    pub max_waiting_bytes: usize,
    /// Bytes of messages for other nodes that wait for the server; beyond them they are dropped.
    pub max_forward_bytes: usize,
    /// Bytes of arrivals that wait in this process; further ones wait at the server.
    pub max_arrived_bytes: usize,
    /// Time for another node to hand a client over.
    pub hand_over: Duration,
    /// Time for a claim.
    pub claim: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(15),
            max_queued_messages: 100_000,
            max_stored_bytes: 1 << 30,
            queue_full: QueueFull::default(),
            max_waiting_bytes: 8 << 20,
            max_forward_bytes: 16 << 20,
            max_arrived_bytes: 16 << 20,
            hand_over: Duration::from_secs(1),
            claim: Duration::from_secs(2),
        }
    }
}

impl Config {
    /// Name of the policy in the scripts.
    pub(crate) fn policy(&self) -> &'static str {
        match self.queue_full {
            QueueFull::EndSession => "end",
            QueueFull::DropOldest => "oldest",
            QueueFull::DropNewest => "newest",
        }
    }
}
