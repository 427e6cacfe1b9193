//! From the socket to packets.

use std::cell::RefCell;
use std::io::ErrorKind;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::ReadBuf;

use super::answer::Pending;
use super::end::End;
use super::pace::Pace;
use super::{Connection, KEEP_BYTES, Stream};
use crate::codec::{self, Framing, packet_type};
use door::Inbox;

const READ_BYTES: usize = 64 << 10;
/// Read at one time from a client that is paced: most of it waits in memory.
const SLOW_BYTES: usize = 4 << 10;

thread_local! {
    /// One for all connections of the thread: it is used between two awaits only.
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES]);
}

impl<I: Inbox, S: Stream> Connection<I, S> {
    /// Reads once and handles every whole packet. True when there were bytes.
    pub(super) fn read(&mut self) -> Result<bool, End> {
        if self.stalled {
            if self.is_waiting() {
                return self.read_ahead();
            }
            if self.is_full() || self.waits_for_routing() {
                return Ok(false);
            }
            // It was not silent: its socket was not read.
            self.last_heard = Instant::now();
            self.resume()?;
            self.note_partial()?;
            return Ok(true);
        }
        BUFFER.with_borrow_mut(|buffer| {
            let room = if self.pace.as_ref().is_some_and(Pace::is_slow) { SLOW_BYTES } else { READ_BYTES };
            let mut buffer = ReadBuf::new(&mut buffer[..room]);
            // Woken in the order of the packets.
            let mut arrival = Context::from_waker(&self.arrival);
            match Pin::new(&mut self.stream).poll_read(&mut arrival, &mut buffer) {
                Poll::Pending => return Ok(false),
                // TLS that ends without its last message.
                Poll::Ready(Err(error)) if error.kind() == ErrorKind::UnexpectedEof => return Err(End::Closed),
                Poll::Ready(Err(error)) => return Err(End::of_read(error)),
                Poll::Ready(Ok(())) if buffer.filled().is_empty() => return Err(End::Closed),
                Poll::Ready(Ok(())) => {}
            }
            self.last_heard = Instant::now();
            self.broker.metrics.received.inc_by(buffer.filled().len() as u64);
            self.count_handed_over(buffer.filled().len());
            self.bytes(buffer.filled())?;
            self.note_partial()?;
            Ok(true)
        })
    }

    /// Reads on while a message waits for a limit, and handles the packets that need not wait with
    /// it. True when there were bytes.
    fn read_ahead(&mut self) -> Result<bool, End> {
        let room = self.room_ahead();
        let read = room.map_or(0, |room| self.read_behind(room));
        if read > 0 {
            self.last_heard = Instant::now();
            self.broker.metrics.received.inc_by(read as u64);
            self.count_handed_over(read);
        }
        // Without room, too: a read before the wait may have brought them.
        let handled = self.handle_ahead()?;
        self.note_partial()?;
        Ok(read > 0 || handled)
    }

    /// Reads once behind the message that waits; returns the number of bytes.
    fn read_behind(&mut self, room: usize) -> usize {
        BUFFER.with_borrow_mut(|buffer| {
            let mut buffer = ReadBuf::new(&mut buffer[..room]);
            let mut arrival = Context::from_waker(&self.arrival);
            let Poll::Ready(read) = Pin::new(&mut self.stream).poll_read(&mut arrival, &mut buffer) else { return 0 };
            if read.is_err() || buffer.filled().is_empty() {
                // The messages before its end come first.
                self.stop_ahead();
            }
            self.partial.extend_from_slice(buffer.filled());
            buffer.filled().len()
        })
    }

    /// Counts the memory of an unfinished packet, and begins or ends the wait for its rest.
    fn note_partial(&mut self) -> Result<(), End> {
        self.count_memory().map_err(End::Memory)?;
        if self.partial.is_empty() || self.stalled {
            self.unfinished_since = None;
        } else if self.unfinished_since.is_none() {
            self.unfinished_since = Some(self.last_heard);
            self.wake_within(Duration::from_millis(self.broker.config.packet_timeout_ms));
        }
        Ok(())
    }

    /// Handles the packets that were kept for lack of room.
    fn resume(&mut self) -> Result<(), End> {
        let mut kept = std::mem::take(&mut self.partial);
        let used = self.packets(&kept)?;
        kept.drain(..used);
        self.keep(kept);
        Ok(())
    }

    /// Handles received bytes. Only an unfinished packet is copied.
    fn bytes(&mut self, bytes: &[u8]) -> Result<(), End> {
        let mut at = 0;
        if !self.partial.is_empty() {
            at = self.complete(bytes)?;
            let mut kept = std::mem::take(&mut self.partial);
            if self.packets(&kept)? == 0 {
                kept.extend_from_slice(&bytes[at..]);
                self.partial = kept;
                return Ok(());
            }
            kept.clear();
            self.keep(kept);
        }
        at += self.packets(&bytes[at..])?;
        self.partial.extend_from_slice(&bytes[at..]);
        Ok(())
    }

    /// Completes the unfinished packet; returns the number of `bytes` that it took.
    fn complete(&mut self, bytes: &[u8]) -> Result<usize, End> {
        let most = self.broker.config.max_packet_bytes as usize;
        let mut at = 0;
        while at < bytes.len() {
            let missing = match codec::framing(&self.partial, most)? {
                // Even its length is unfinished.
                None => 1,
                Some(found) => found.total_bytes - self.partial.len(),
            };
            if missing == 0 {
                break;
            }
            let to = bytes.len().min(at + missing);
            self.partial.extend_from_slice(&bytes[at..to]);
            at = to;
        }
        Ok(at)
    }

    fn keep(&mut self, mut kept: Vec<u8>) {
        kept.shrink_to(KEEP_BYTES);
        self.partial = kept;
    }

    /// Handles the whole packets at the start of `bytes`; returns the number of bytes that they
    /// took. Stops early, `stalled`, when the maximum number of messages is pending, or the next
    /// packet has to wait: for a limit, or for the messages before it.
    fn packets(&mut self, bytes: &[u8]) -> Result<usize, End> {
        self.stalled = false;
        let mut at = 0;
        let (mut messages, mut message_bytes) = (0, 0);
        let most = self.broker.config.max_packet_bytes as usize;
        while let Some(found) = codec::framing(&bytes[at..], most)? {
            if bytes.len() - at < found.total_bytes {
                break;
            }
            if self.is_full() {
                self.stalled = true;
                break;
            }
            if matches!(found.packet_type(), packet_type::SUBSCRIBE | packet_type::UNSUBSCRIBE) && self.has_unrouted() {
                self.stalled = true;
                self.awaits_routing = true;
                break;
            }
            let Framing { header_bytes, total_bytes, .. } = found;
            if self.pace.is_some() && found.packet_type() == packet_type::PUBLISH {
                if !self.has_turn(total_bytes) {
                    self.stalled = true;
                    break;
                }
                messages += 1;
                message_bytes += total_bytes as u64;
            }
            self.packet(&found, &bytes[at + header_bytes..at + total_bytes])?;
            at += total_bytes;
            self.unfinished_since = None;
        }
        if let Some(pace) = &mut self.pace {
            pace.count(messages, message_bytes);
            if !self.stalled {
                pace.emptied();
            }
        }
        Ok(at)
    }

    /// True while the front of the buffer waits until the messages before it are routed.
    fn waits_for_routing(&mut self) -> bool {
        self.awaits_routing = self.awaits_routing && self.has_unrouted();
        self.awaits_routing
    }

    /// True when there are messages for subscribers that are not durable yet, also of the client's
    /// connection before. A subscription that comes after them has its effect after them, also on
    /// retained messages.
    pub(super) fn has_unrouted(&self) -> bool {
        let is_unrouted = |pending: &Pending| pending.dispatch.is_some() || pending.routed.ticket > 0;
        self.has_earlier() || self.pending.iter().any(is_unrouted)
    }

    /// True when no further message is accepted.
    fn is_full(&self) -> bool {
        self.pending.len() >= 2 * usize::from(self.broker.config.receive_maximum)
    }
}
