//! Clients inside of this process: its bridges to other brokers.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::io::{DuplexStream, duplex};

use crate::{Broker, connection, listener};
use door::{Identity, Inbox};

/// Bytes on their way to either end.
const STREAM_BYTES: usize = 64 << 10;

impl<I: Inbox> Broker<I> {
    /// Opens a connection for a client inside of this process, which presents no credential: its
    /// identity is given. Returns the client's end of the connection, on which it speaks MQTT 5.
    ///
    /// Its client id has to begin with [`Self::INTERNAL`]: no client from outside gets such an id,
    /// so that none takes over its session. The session lasts as long as the client asks for, and
    /// neither the maximum number of connections nor that of sessions keeps it out. Its
    /// subscriptions never get back its own messages, and get retained ones as such. When the
    /// broker stops, the connection ends as any other.
    pub fn attach(self: &Arc<Self>, identity: Identity) -> DuplexStream {
        self.attach_as(Some(identity))
    }

    /// Opens a connection for a client from outside over a stream in memory, which is admitted by
    /// its CONNECT. For the fuzz targets.
    #[cfg(feature = "fuzzing")]
    pub fn attach_stranger(self: &Arc<Self>) -> DuplexStream {
        self.attach_as(None)
    }

    fn attach_as(self: &Arc<Self>, identity: Option<Identity>) -> DuplexStream {
        let (own, stream) = duplex(STREAM_BYTES);
        let guests = self.room.take_for_own(listener::THIS_MACHINE.ip());
        self.metrics.connections.inc();
        self.metrics.connects.inc();
        self.attached.fetch_add(1, Ordering::Relaxed);
        let broker = Arc::clone(self);
        let opening = Box::pin(connection::open_in_memory(Arc::clone(self), stream, identity, guests));
        self.tasks.spawn(async move {
            if let Some(admitted) = opening.await {
                admitted.serve().await;
            }
            broker.attached.fetch_sub(1, Ordering::Relaxed);
            broker.room.leave();
            broker.metrics.connections.dec();
        });
        own
    }

    /// First part of the client ids of clients inside of this process.
    pub const INTERNAL: &'static str = connection::INTERNAL;
}
