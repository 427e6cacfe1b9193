//! The memory of the broker, divided among its parts.

use model::Budget;

/// Bytes of a connection that are not counted: a small packet that arrives in two pieces needs
/// no memory of others. Times the maximum number of connections, this is bounded too.
pub(crate) const FREE_BYTES: usize = 1 << 10;

/// The ceilings of the broker.
#[derive(Debug)]
pub(crate) struct Memory {
    /// Clients that are not admitted yet: TLS sessions, CONNECT packets.
    pub(crate) connects: Budget,
    /// Unfinished packets, topic aliases, will messages and names of connections.
    pub(crate) connections: Budget,
    /// Retained messages.
    pub(crate) retained: Budget,
    /// Messages that wait for subscribers, subscriptions, delayed will messages.
    pub(crate) sessions: Budget,
}

impl Memory {
    pub(crate) fn divide(bytes: usize) -> Self {
        let eighth = bytes / 8;
        Self {
            connects: Budget::new("clients that are not admitted yet", eighth),
            connections: Budget::new("unfinished packets", 3 * eighth),
            retained: Budget::new("retained messages", 2 * eighth),
            sessions: Budget::new("sessions", 2 * eighth),
        }
    }
}
