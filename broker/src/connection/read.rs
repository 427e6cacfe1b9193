//! From the socket to packets.

use std::cell::RefCell;
use std::io;
use std::task::{Context, Poll};
use std::time::Instant;

use super::Connection;
use super::end::End;
use crate::codec::{self, Framing};
use crate::inbox::Inbox;

const READ_BYTES: usize = 64 << 10;

thread_local! {
    /// One for all connections that the thread serves: it is used between two awaits only.
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES]);
}

impl<I: Inbox> Connection<I> {
    /// Reads once and handles every whole packet. True when there was something to handle.
    pub(super) fn read(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        if !self.partial.is_empty() && (self.stalled || self.is_early()) {
            if self.is_full() {
                return Ok(false);
            }
            self.resume(&[])?;
            return Ok(true);
        }
        match self.stream.poll_read_ready(cx) {
            Poll::Pending => return Ok(false),
            Poll::Ready(ready) => ready.map_err(End::Io)?,
        }
        BUFFER.with_borrow_mut(|buffer| {
            let read = match self.stream.try_read(buffer) {
                Ok(0) => return Err(End::Closed),
                Ok(n) => n,
                // Readiness was stale and is cleared now: the next look registers the waker.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) => return Err(End::Io(error)),
            };
            self.last_read = Instant::now();
            self.broker.metrics.received.inc_by(read as u64);
            if self.partial.is_empty() {
                let used = self.packets(&buffer[..read])?;
                self.partial.extend_from_slice(&buffer[used..read]);
            } else {
                self.resume(&buffer[..read])?;
            }
            Ok(true)
        })
    }

    /// Bytes that came together with CONNECT have not been looked at.
    fn is_early(&mut self) -> bool {
        std::mem::take(&mut self.early)
    }

    /// Goes on with what was kept.
    fn resume(&mut self, more: &[u8]) -> Result<(), End> {
        let mut kept = std::mem::take(&mut self.partial);
        kept.extend_from_slice(more);
        let used = self.packets(&kept)?;
        if used < kept.len() {
            kept.drain(..used);
            self.partial = kept;
        }
        Ok(())
    }

    /// Handles the whole packets at the start of `bytes`; returns how many bytes they took. Stops early, `stalled`, when as many
    /// messages wait for their acknowledgement as may.
    fn packets(&mut self, bytes: &[u8]) -> Result<usize, End> {
        self.stalled = false;
        let mut at = 0;
        let most = self.broker.config.max_packet_bytes as usize;
        while let Some(found) = codec::framing(&bytes[at..], most)? {
            if bytes.len() - at < found.total_bytes {
                break;
            }
            if self.is_full() {
                self.stalled = true;
                break;
            }
            let Framing { header_bytes, total_bytes, .. } = found;
            self.packet(&found, &bytes[at + header_bytes..at + total_bytes])?;
            at += total_bytes;
        }
        Ok(at)
    }

    /// True when no further message may come in.
    fn is_full(&self) -> bool {
        self.pending.len() >= 2 * usize::from(self.broker.config.receive_maximum)
    }
}
