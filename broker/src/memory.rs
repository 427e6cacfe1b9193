//! The memory of the broker, divided among its parts.

use std::sync::Arc;

use model::Budget;

use crate::heavy::Heavy;

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
    /// The sessions whose queues hold most of it.
    pub(crate) heavy: Arc<Heavy>,
}

impl Memory {
    pub(crate) fn divide(bytes: usize) -> Self {
        let eighth = bytes / 8;
        Self {
            connects: Budget::new("clients that are not admitted yet", eighth),
            connections: Budget::new("unfinished packets", 3 * eighth),
            retained: Budget::new("retained messages", 2 * eighth),
            sessions: Budget::new("sessions", 2 * eighth),
            heavy: Arc::default(),
        }
    }

    /// True when queues have to give way: the last of the memory is for subscriptions and will
    /// messages.
    pub(crate) fn is_short(&self, bytes: usize) -> bool {
        let capacity = self.sessions.capacity();
        self.sessions.held().saturating_add(bytes) > capacity - capacity / 8
    }
}
