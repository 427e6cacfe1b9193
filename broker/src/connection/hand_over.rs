//! The last of a connection whose client has connected again, or is to connect to another process:
//! what has arrived is handled before.

use std::sync::Weak;
use std::task::Context;
use std::time::{Duration, Instant};

use super::{Connection, Stream};
use door::Inbox;

/// Bytes that are read at most before the session goes to another connection that waits for it:
/// more than the kernel holds for a socket.
const HAND_OVER_BYTES: usize = 8 << 20;

/// Silence of a socket after which all has arrived that was sent before the client connected again.
/// Bytes that arrive during a read are noticed a moment after it.
const ARRIVED: Duration = Duration::from_millis(2);

/// Time after which a client that is to leave is no longer read. All that it had sent before has
/// been read by then, unless its messages wait for the log or a limit.
const LEAVES_WITHIN: Duration = Duration::from_millis(500);

/// The last of a connection.
pub(super) struct HandOver {
    /// Bytes that are read at most.
    bytes_left: usize,
    /// Since when nothing has arrived.
    silent_since: Option<Instant>,
    /// The time up to which a client that is to leave is read.
    leaves_at: Option<Instant>,
}

impl HandOver {
    pub(super) fn new() -> Self {
        Self { bytes_left: HAND_OVER_BYTES, silent_since: None, leaves_at: None }
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
            self.end_hand_over();
        } else if silent.is_some() {
            self.wake_within(ARRIVED);
        }
    }

    fn end_hand_over(&mut self) {
        let leaves = self.handing_over.take().is_some_and(|ended| ended.leaves_at.is_some());
        self.draining |= leaves;
        self.is_moved |= leaves;
        // One that leaves also lets a connection that waits have the session.
        self.session.hand_over(&self.link, false);
    }

    /// Lets the client connect to another process, when all that has arrived is handled.
    pub(super) fn begin_to_leave(&mut self) {
        if self.draining {
            return;
        }
        let hand_over = self.handing_over.get_or_insert_with(|| Box::new(HandOver::new()));
        if hand_over.leaves_at.is_none() {
            hand_over.leaves_at = Some(Instant::now() + LEAVES_WITHIN);
            self.wake_within(LEAVES_WITHIN);
        }
    }

    /// True while a client that is to leave is still read.
    pub(super) fn is_leaving(&self) -> bool {
        self.handing_over.as_ref().is_some_and(|hand_over| hand_over.leaves_at.is_some())
    }

    /// Reads a client that is to leave no longer, when it has had its time: it never stops sending,
    /// or its messages wait for the log.
    pub(super) fn leave_in_time(&mut self) {
        let Some(at) = self.handing_over.as_ref().and_then(|hand_over| hand_over.leaves_at) else { return };
        if at <= Instant::now() {
            self.end_hand_over();
        }
    }

    /// True while messages of the client's connection before have not gone to their subscribers:
    /// they come first. That connection gives up in time, also when the log is full.
    pub(super) fn has_earlier(&self) -> bool {
        self.earlier.as_ref().and_then(Weak::upgrade).is_some_and(|earlier| !earlier.is_settled())
    }

    /// Lets this task be woken when [`Self::has_earlier`] ends. True when it has.
    pub(super) fn await_earlier(&mut self, cx: &Context<'_>) -> bool {
        if let Some(earlier) = self.earlier.as_ref().and_then(Weak::upgrade)
            && earlier.poll_settled(cx).is_pending()
        {
            return false;
        }
        self.earlier = None;
        true
    }

    /// Counts bytes that were read while another connection waits for the session.
    pub(super) fn count_handed_over(&mut self, bytes: usize) {
        if let Some(hand_over) = &mut self.handing_over {
            hand_over.bytes_left = hand_over.bytes_left.saturating_sub(bytes);
        }
    }
}
