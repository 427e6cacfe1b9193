//! The last of a connection whose client has connected again: what has arrived is handled before
//! the session changes hands.

use std::time::{Duration, Instant};

use super::{Connection, Stream};
use door::Inbox;

/// Bytes that are read at most before the session goes to another connection that waits for it:
/// more than the kernel holds for a socket.
const HAND_OVER_BYTES: usize = 8 << 20;

/// Silence of a socket after which all has arrived that was sent before the client connected again.
/// Bytes that arrive during a read are noticed a moment after it.
const ARRIVED: Duration = Duration::from_millis(2);

/// The last of a connection whose client has connected again.
pub(super) struct HandOver {
    /// Bytes that are read at most.
    bytes_left: usize,
    /// Since when nothing has arrived.
    silent_since: Option<Instant>,
}

impl HandOver {
    pub(super) fn new() -> Self {
        Self { bytes_left: HAND_OVER_BYTES, silent_since: None }
    }
}

impl<I: Inbox, S: Stream> Connection<I, S> {
    /// Lets a connection that waits have the session, when all that has arrived is handled.
    pub(super) fn hand_over(&mut self, has_read: bool) {
        let is_empty = !has_read && !self.stalled;
        let Some(hand_over) = &mut self.handing_over else { return };
        if !is_empty {
            hand_over.silent_since = None;
        }
        let silent = is_empty.then(|| hand_over.silent_since.get_or_insert_with(Instant::now).elapsed());
        if hand_over.bytes_left == 0 || silent.is_some_and(|silent| silent >= ARRIVED) {
            self.handing_over = None;
            self.session.hand_over(&self.link, false);
        } else if silent.is_some() {
            self.wake_within(ARRIVED);
        }
    }

    /// Counts bytes that were read while another connection waits for the session.
    pub(super) fn count_handed_over(&mut self, bytes: usize) {
        if let Some(hand_over) = &mut self.handing_over {
            hand_over.bytes_left = hand_over.bytes_left.saturating_sub(bytes);
        }
    }
}
