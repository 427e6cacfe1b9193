//! Settings of the broker.

use serde::{Deserialize, Serialize};

/// Settings of the broker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Connections at one time; more are refused with a reason.
    pub max_connections: usize,
    /// Largest packet taken.
    pub max_packet_bytes: u32,
    /// QoS 1 and 2 messages of one connection that may wait for their acknowledgement.
    pub receive_maximum: u16,
    /// Time in which a new connection has to send CONNECT.
    pub connect_timeout_ms: u64,
    /// Longest keep-alive; 0 leaves it to the client.
    pub max_keep_alive_secs: u16,
    /// Longest time that a session outlives its connection.
    pub max_session_expiry_secs: u32,
    /// Topic aliases a client may set.
    pub topic_alias_maximum: u16,
    /// Messages that may wait for one subscriber, connected or not.
    pub max_queued_messages: usize,
    /// Retained messages held.
    pub max_retained_messages: usize,
    /// Time for connections to be answered and closed when stopping.
    pub drain_timeout_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_connections: 100_000,
            max_packet_bytes: 1 << 20,
            receive_maximum: 1024,
            connect_timeout_ms: 10_000,
            max_keep_alive_secs: 0,
            max_session_expiry_secs: 7 * 24 * 3600,
            topic_alias_maximum: 64,
            max_queued_messages: 10_000,
            max_retained_messages: 100_000,
            drain_timeout_ms: 10_000,
        }
    }
}
