//! The pacing of a client's messages: a limit slows a connection down, and drops nothing.
//!
//! A message takes its room from the meters before it is handled. When there is none, it stays in
//! the buffer of the connection until its turn comes, and a few KiB behind it; the client is slowed
//! down by TCP. Acknowledgements and messages to the client go on meanwhile, and so do PINGREQ,
//! PUBACK, PUBREC, PUBCOMP and AUTH packets within these few KiB. Connections of a tenant take
//! turns, and each waits for one message at a time.

use std::task::Context;
use std::time::{Duration, Instant};

use super::end::End;
use super::{Connection, Stream};
use crate::Broker;
use crate::codec::{self, packet_type};
use crate::tenant::Tenant;
use door::Inbox;
use door::quota::{DeviceMeter, Kept, Moment, Wait};

/// The longest sleep before the limits are looked at again, which may have been raised meanwhile.
const LOOK: Duration = Duration::from_secs(1);
/// Bytes in memory of a client whose message waits, if its last read has not brought more.
const AHEAD_BYTES: usize = 8 << 10;

/// Packets that do not wait behind a message.
const AHEAD: [u8; 5] =
    [packet_type::PINGREQ, packet_type::PUBACK, packet_type::PUBREC, packet_type::PUBCOMP, packet_type::AUTH];

/// The pace of one connection. Room that was not used is given back when it is dropped.
#[derive(Debug)]
pub(super) struct Pace {
    meter: DeviceMeter,
    /// The wait for the message at the front of the buffer.
    wait: Option<Wait>,
    /// A message has waited since the buffer was empty the last time.
    has_waited: bool,
    /// As long as no buffer passes without a wait.
    is_slow: bool,
    /// Bytes of the buffer in which there is no packet to be handled ahead.
    ahead: usize,
    /// The client has closed its side, or the socket broke.
    is_closed: bool,
}

impl Pace {
    pub(super) fn new(meter: DeviceMeter) -> Self {
        Self { meter, wait: None, has_waited: false, is_slow: false, ahead: 0, is_closed: false }
    }

    pub(super) fn meter(&self) -> &DeviceMeter {
        &self.meter
    }

    /// True when a message may be handled now. Otherwise it has its turn after a wait, which is
    /// returned with the limit when it begins.
    pub(super) fn admit(&mut self, bytes: usize) -> Result<(), Option<Wait>> {
        if self.wait.is_none() && !self.meter.paces() {
            return Ok(());
        }
        let now = Moment::now();
        if self.wait.is_some_and(|wait| !self.meter.is_outdated(&wait)) {
            if self.is_waiting(now) {
                return Err(None);
            }
            self.wait = None;
            return Ok(());
        }
        if let Some(outdated) = self.wait.take() {
            self.meter.cancel(outdated);
        }
        // The buffer has another front.
        self.ahead = 0;
        self.wait = self.meter.reserve(bytes, now);
        match self.wait {
            None => Ok(()),
            Some(wait) => {
                self.has_waited = true;
                self.is_slow = true;
                Err(Some(wait))
            }
        }
    }

    /// True while the message at the front of the buffer waits.
    fn is_waiting(&self, now: Moment) -> bool {
        self.wait.is_some_and(|wait| now < wait.until && !self.meter.is_outdated(&wait))
    }

    /// Returns the time to sleep before a message that waits is looked at again; zero when it has
    /// its turn.
    pub(super) fn sleep(&self) -> Option<Duration> {
        let wait = self.wait?;
        let now = Moment::now();
        Some(if self.is_waiting(now) { now.until(wait.until).min(LOOK) } else { Duration::ZERO })
    }

    /// True when less is read at one time, as most of it would wait in memory.
    pub(super) fn is_slow(&self) -> bool {
        self.is_slow
    }

    /// Notes that all messages of the buffer were handled.
    pub(super) fn emptied(&mut self) {
        self.is_slow = std::mem::take(&mut self.has_waited);
    }

    /// Counts messages that were handled.
    pub(super) fn count(&self, messages: u64, bytes: u64) {
        if messages > 0 {
            self.meter.count(messages, bytes);
        }
    }
}

impl<I: Inbox, S: Stream> Connection<I, S> {
    /// True when the tenant may have one more of what the broker keeps.
    pub(super) fn may_keep(&self, kept: Kept, held: impl FnOnce() -> usize) -> bool {
        self.broker.may_keep(self.meter(), kept, held)
    }

    pub(super) fn meter(&self) -> Option<&DeviceMeter> {
        self.pace.as_ref().map(Pace::meter)
    }

    /// True while a message waits for a limit.
    pub(super) fn is_waiting(&self) -> bool {
        self.pace.as_ref().and_then(Pace::sleep).is_some_and(|sleep| !sleep.is_zero())
    }

    /// True when a message may be handled now; otherwise the timer is set for its turn.
    pub(super) fn has_turn(&mut self, bytes: usize) -> bool {
        let Some(pace) = &mut self.pace else { return true };
        let Err(begun) = pace.admit(bytes) else { return true };
        if let Some(wait) = begun {
            self.broker.metrics.limited(wait.quota.name()).inc();
        }
        if let Some(sleep) = pace.sleep() {
            self.wake_within(sleep);
        }
        false
    }

    /// Returns the number of bytes that may be read behind a message that waits.
    pub(super) fn room_ahead(&self) -> Option<usize> {
        let open = self.pace.as_ref().is_some_and(|pace| !pace.is_closed);
        AHEAD_BYTES.checked_sub(self.partial.len()).filter(|room| open && *room > 0)
    }

    /// Reads no more behind the message that waits.
    pub(super) fn stop_ahead(&mut self) {
        if let Some(pace) = &mut self.pace {
            pace.is_closed = true;
        }
    }

    /// Handles the packets behind the message that waits which need not wait with it. True when
    /// there was one.
    pub(super) fn handle_ahead(&mut self) -> Result<bool, End> {
        let Some(ahead) = self.pace.as_ref().map(|pace| pace.ahead) else { return Ok(false) };
        let most = self.broker.config.max_packet_bytes as usize;
        let mut bytes = std::mem::take(&mut self.partial);
        // Packets up to `at` were looked at; those that wait were moved together, up to `kept`.
        let (mut at, mut kept) = (ahead, ahead);
        let mut handled = Ok(());
        // A malformed packet is answered in its turn.
        while let Ok(Some(found)) = codec::framing(&bytes[at..], most) {
            let end = at + found.total_bytes;
            if end > bytes.len() {
                break;
            }
            if AHEAD.contains(&found.packet_type()) {
                handled = self.packet(&found, &bytes[at + found.header_bytes..end]);
                if handled.is_err() {
                    break;
                }
            } else {
                if kept < at {
                    bytes.copy_within(at..end, kept);
                }
                kept += found.total_bytes;
            }
            at = end;
        }
        if kept < at {
            bytes.copy_within(at.., kept);
            bytes.truncate(bytes.len() - (at - kept));
        }
        self.partial = bytes;
        if let Some(pace) = &mut self.pace {
            pace.ahead = kept;
        }
        handled.map(|()| kept < at)
    }

    /// Returns when to look at a message that waits. One that has its turn wakes the connection.
    pub(super) fn turn_due(&self, now: Instant, cx: &Context<'_>) -> Option<Instant> {
        let sleep = self.pace.as_ref().and_then(Pace::sleep)?;
        if sleep.is_zero() {
            cx.waker().wake_by_ref();
            return None;
        }
        Some(now + sleep)
    }
}

impl<I: Inbox> Broker<I> {
    /// True when the tenant of a meter may have one more of what the broker keeps.
    fn may_keep(&self, meter: Option<&DeviceMeter>, kept: Kept, held: impl FnOnce() -> usize) -> bool {
        let has_room = meter.is_none_or(|meter| meter.has_room(kept, held()));
        if !has_room {
            self.metrics.limited(kept.quota().name()).inc();
        }
        has_room
    }

    /// True when the tenant may keep this retained message: it clears or replaces one, or there is
    /// room for one more.
    pub(crate) fn may_retain(&self, tenant: &Tenant, meter: Option<&DeviceMeter>, topic: &str, payload: &[u8]) -> bool {
        payload.is_empty()
            || tenant.retained.holds(topic)
            || self.may_keep(meter, Kept::RetainedMessages, || tenant.retained.len())
    }
}

impl Drop for Pace {
    fn drop(&mut self) {
        if let Some(wait) = self.wait.take() {
            self.meter.cancel(wait);
        }
    }
}
