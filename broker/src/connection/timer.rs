//! The timer of a connection: keep-alive, unfinished packets, the end of its token.

use std::task::Context;
use std::time::{Duration, Instant};

use super::end::End;
use super::{Connection, IDLE, OUT_BYTES, QUIET, RECHECK, Stream};
use crate::link::Link;
use door::Inbox;

impl<I: Inbox, S: Stream> Connection<I, S> {
    /// Closes a connection after one and a half keep-alives of silence; frees the buffers of an
    /// idle one.
    pub(super) fn check_keep_alive(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        while self.timer.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            if now - self.last_heard >= QUIET {
                self.free_buffers();
            }
            let next = match self.patience {
                None => now + IDLE,
                Some(patience) => {
                    let due = self.last_heard + patience;
                    // A client that waits for this side, or whose socket is not read, is not
                    // silent.
                    let ours = self.staged || self.stalled || !self.pending.is_empty();
                    if due <= now && !ours {
                        return Err(End::KeepAlive);
                    }
                    due.max(now + RECHECK)
                }
            };
            let next = self.packet_due(now)?.map_or(next, |due| due.min(next));
            let next = self.turn_due(now, cx).map_or(next, |due| due.min(next));
            if self.deadline.is_some_and(|deadline| deadline <= now) {
                return Err(End::Expired);
            }
            let next = self.deadline.map_or(next, |deadline| deadline.min(next));
            if self.delivers_later {
                // Others may have returned memory meanwhile, or the rest is over.
                self.delivers_later = false;
                self.link.remember(Link::ATTENTION);
                cx.waker().wake_by_ref();
            }
            self.timer.as_mut().reset(next.into());
        }
        Ok(())
    }

    /// Returns when the rest of an unfinished packet is due.
    fn packet_due(&mut self, now: Instant) -> Result<Option<Instant>, End> {
        let Some(since) = &mut self.unfinished_since else { return Ok(None) };
        if self.staged || self.stalled || self.out.len() - self.written > OUT_BYTES {
            // Its socket is not read.
            *since = now;
        }
        let timeout = Duration::from_millis(self.broker.config.packet_timeout_ms);
        // A second for each KiB, as slow as the slowest networks.
        let due = *since + timeout + Duration::from_millis(self.partial.len() as u64);
        if due <= now { Err(End::Unfinished) } else { Ok(Some(due)) }
    }

    /// Sets the timer for at most this time from now.
    pub(super) fn wake_within(&mut self, time: Duration) {
        let due = (Instant::now() + time).into();
        if self.timer.deadline() > due {
            self.timer.as_mut().reset(due);
        }
    }
}
