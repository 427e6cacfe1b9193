//! Settings.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Treatment of a subscriber whose queue is full of QoS 1 and 2 messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum QueueFull {
    /// The subscriber gets the messages that wait, without a gap, and then the reason
    /// (DISCONNECT 0x97); its session ends, so that its next connection finds none.
    #[default]
    EndSession,
    /// The oldest message is dropped.
    DropOldest,
    /// The new message is dropped.
    DropNewest,
}

/// Settings of the broker: keys of `[mqtt]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Config {
    /// Maximum number of connections; further ones are refused with a reason.
    pub max_connections: usize,
    /// Largest packet, in bytes.
    pub max_packet_bytes: u32,
    /// Unacknowledged QoS 1 and 2 messages of one connection.
    pub receive_maximum: u16,
    /// Time for a packet to arrive whole, in milliseconds, and one second more for each KiB of it.
    pub packet_timeout_ms: u64,
    /// Time for a new connection to send its CONNECT, in milliseconds.
    pub connect_timeout_ms: u64,
    /// Connections that one address (IPv6: a /64) may open in a second; more of them wait for their
    /// turn, as long as `connect_timeout_ms`, and are then refused. 0 is no limit: devices may
    /// share an address.
    pub address_connects_per_second: u32,
    /// Connections that all addresses together may open in a second; more of them wait for their
    /// turn, unread, as long as `connect_timeout_ms`, and are then refused. As many may come at
    /// once. 0 is no limit.
    pub connects_per_second: u32,
    /// Longest keep-alive, in seconds; 0 leaves it to the client.
    pub max_keep_alive_secs: u16,
    /// Longest time that a session is kept after its connection ends, in seconds.
    pub max_session_expiry_secs: u32,
    /// Time that the session of a 3.1.1 client without a clean session is kept after its connection
    /// ends, in seconds. An MQTT 5 client asks for a time itself.
    pub v3_session_expiry_secs: u32,
    /// Maximum number of sessions, connected or not. Beyond it, a new session ends with its
    /// connection.
    pub max_sessions: usize,
    /// Maximum number of subscriptions of one client.
    pub max_subscriptions: usize,
    /// Topic aliases that a client may set.
    pub topic_alias_maximum: u16,
    /// Topic aliases that are used in messages to a client that accepts them; 0 is none.
    pub sent_topic_aliases: u16,
    /// Interval at which figures of the broker are published under `$SYS/broker/`, in seconds; 0
    /// turns them off.
    pub sys_interval_secs: u32,
    /// Messages queued for one subscriber that is disconnected or slow.
    pub max_queued_messages: usize,
    /// Bytes of topics, payloads and properties queued for one subscriber.
    pub max_queued_bytes: usize,
    /// Bytes of topics, payloads and properties queued for one bridge of this process. They are on
    /// the disk, which needs about four times as many, and not in memory.
    pub max_bridge_bytes: usize,
    /// Treatment of a subscriber whose queue is full of QoS 1 and 2 messages, or holds most of the
    /// memory of all queues when that is used up. The oldest QoS 0 messages are dropped first.
    pub queue_full: QueueFull,
    /// Maximum number of retained messages.
    pub max_retained_messages: usize,
    /// Time over which the connections are closed at a stop of a process of a fleet, in seconds:
    /// their clients find other processes meanwhile. 0 closes all at once, as the stop of a process
    /// alone does.
    pub drain_secs: u32,
    /// Connections that a draining process closes in a second, as many as the others can take. A
    /// stop closes more when `drain_secs` would not be enough.
    pub drain_connections_per_second: u32,
    /// Where MQTT 5 clients are referred to when their connection is closed for a stop or by `weir
    /// drain`, as "mqtt2.example.com:8883", several separated by blanks. Empty: they connect again
    /// where they did, which is right behind a load balancer.
    pub server_reference: String,
    /// Time for connections to receive their last acknowledgements at a stop, in milliseconds.
    pub drain_timeout_ms: u64,
    /// Memory for packets that arrive, retained messages, sessions and their messages, in bytes;
    /// not a key.
    #[serde(skip)]
    pub memory_bytes: usize,
    /// Messages at the front of a session's queue that stay in memory; not a key.
    #[serde(skip)]
    pub queue_head: usize,
    /// Time between two looks at the queues that grow, in milliseconds: the store has their
    /// messages in groups; not a key.
    #[serde(skip)]
    pub put_away_ms: u64,
    /// Name of the node among those that share a store; not a key.
    #[serde(skip)]
    pub node: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_connections: 100_000,
            max_packet_bytes: 1 << 20,
            receive_maximum: 1024,
            packet_timeout_ms: 30_000,
            connect_timeout_ms: 10_000,
            address_connects_per_second: 0,
            connects_per_second: 5_000,
            max_keep_alive_secs: 0,
            max_session_expiry_secs: 7 * 24 * 3600,
            v3_session_expiry_secs: 24 * 3600,
            max_sessions: 200_000,
            max_subscriptions: 10_000,
            topic_alias_maximum: 64,
            sent_topic_aliases: 32,
            sys_interval_secs: 10,
            max_queued_messages: 100_000,
            max_queued_bytes: 64 << 20,
            max_bridge_bytes: 4 << 30,
            queue_full: QueueFull::default(),
            max_retained_messages: 100_000,
            drain_secs: 30,
            drain_connections_per_second: 500,
            server_reference: String::new(),
            drain_timeout_ms: 10_000,
            memory_bytes: 2 << 30,
            queue_head: 64,
            put_away_ms: 500,
            node: String::new(),
        }
    }
}
