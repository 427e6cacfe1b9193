//! Memory of clients that are not admitted yet: their TLS sessions, and CONNECT packets.
//!
//! They share one budget. When it is used up, a client of the source with the most gives way to one
//! of a source with fewer.

use std::net::IpAddr;
use std::time::Duration;

use model::{Full, Held};
use tls::Guest;

use super::DISPLACED;
use crate::Broker;
use crate::memory::FREE_BYTES;
use door::Inbox;

/// Memory of a TLS session after its handshake, with the buffers of the handshake. Sources share
/// the memory in parts of this size.
const TLS_BYTES: usize = 22 << 10;
/// Of it, the buffers of the handshake.
const HANDSHAKE_BYTES: usize = 8 << 10;
/// Clients that give way to one, at most.
const MOST: usize = 64;
/// Time for the task of a client that gives way to return its memory.
const RETURN: Duration = Duration::from_millis(2);

/// The memory of one client until it is admitted.
pub(crate) struct Waiting<'a, I: Inbox> {
    broker: &'a Broker<I>,
    from: IpAddr,
    held: Held,
    /// Bytes besides those of the CONNECT packet.
    base: usize,
    /// One for each part of the memory that is held.
    guests: Vec<Guest<()>>,
}

impl<'a, I: Inbox> Waiting<'a, I> {
    pub(crate) fn new(broker: &'a Broker<I>, from: IpAddr) -> Self {
        Self { broker, from, held: broker.memory.connects.hold(), base: 0, guests: Vec::new() }
    }

    /// Holds the memory of an encrypted stream.
    ///
    /// # Errors
    /// [`Full`], when no other client gives way.
    pub(crate) async fn begin(&mut self, stream_bytes: usize) -> Result<(), Full> {
        self.base = if stream_bytes > 0 { stream_bytes + HANDSHAKE_BYTES } else { 0 };
        self.hold(0).await
    }

    /// Holds this many bytes of a CONNECT packet.
    ///
    /// # Errors
    /// [`Full`], when no other client gives way.
    pub(super) async fn hold(&mut self, bytes: usize) -> Result<(), Full> {
        let bytes = self.base + bytes.saturating_sub(FREE_BYTES);
        let mut displaced = 0;
        loop {
            let Err(full) = self.held.resize(bytes) else {
                while self.guests.len() < bytes.div_ceil(TLS_BYTES) {
                    self.guests.push(self.broker.waiting.enter(self.from, ()));
                }
                return Ok(());
            };
            let may_fit = bytes <= full.capacity && displaced < MOST;
            if !may_fit || self.broker.waiting.displace(self.from).is_none() {
                return Err(full);
            }
            displaced += 1;
            tokio::time::sleep(RETURN).await;
        }
    }

    /// Notes that the client is admitted: it no longer gives way, and its memory stays counted.
    ///
    /// # Errors
    /// The reason, when it had to give way before.
    pub(super) fn admit(&mut self) -> Result<(), &'static str> {
        let stays = self.guests.drain(..).all(|guest| guest.leave().is_some());
        if stays { Ok(()) } else { Err(DISPLACED) }
    }

    /// Returns the outcome, unless the client has to give way before.
    pub(crate) async fn unless_displaced<T>(&self, outcome: impl Future<Output = T>) -> Result<T, &'static str> {
        // The first one is the oldest.
        let Some(guest) = self.guests.first() else { return Ok(outcome.await) };
        tokio::select! {
            outcome = outcome => Ok(outcome),
            () = guest.displaced() => Err(DISPLACED),
        }
    }
}
