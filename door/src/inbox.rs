//! The way of messages from a door to the log.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

use model::Ticket;
use model::trace::Span;

use crate::quota::Quota;
use crate::{Message, Retained, Sender};

/// The outcome of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Telemetry, staged for the log.
    Staged,
    /// Telemetry that cannot be read, staged as a dead letter. It is acknowledged like any other,
    /// with a reason where the protocol has one (MQTT 5: 0x99).
    Unreadable,
    /// Telemetry of a device in quarantine, staged as a dead letter until the device is adopted. It
    /// is acknowledged; the message is not retained and reaches no subscriber.
    Held,
    /// Not telemetry: a plain message for subscribers. Nothing was staged.
    Plain,
    /// A reading of a device other than the sender's. Nothing was staged; the message is not
    /// retained and reaches no subscriber. The sender is answered as for a topic that it may not
    /// publish to (MQTT 5: 0x87).
    Denied,
    /// A reading of a new device, or with a new value name, beyond a limit of the tenant. Nothing
    /// was staged; the message is not retained and reaches no subscriber, and it is not
    /// acknowledged as stored (MQTT 5: 0x97 with the limit as the reason).
    OverQuota(Quota),
}

/// The log has failed and accepts no more records: close without acknowledging.
#[derive(Debug, Clone, thiserror::Error)]
#[error("messages cannot be stored: {0}")]
pub struct Failed(pub Arc<str>);

/// Opens an [`Intake`] for each sender.
pub trait Inbox: Send + Sync + 'static {
    /// One sender's way into the log.
    type Intake: Intake;

    /// Opens the way for a sender that was let in.
    fn open(&self, sender: &Sender) -> Self::Intake;
}

/// One sender's way into the log, used by one task.
pub trait Intake: Send + 'static {
    /// Reads a message and stages its contents. Allocates nothing for a message of the shape of the
    /// one before.
    fn take(&mut self, message: &Message<'_>) -> Verdict;

    /// True when [`Delivery::trace`](crate::Delivery::trace) is of use. Constant for an intake.
    fn is_traced(&self) -> bool {
        false
    }

    /// Returns the span of the last message, if it is traced. The door adds the attributes of its
    /// protocol and gives the span to [`Intake::answered`] in the end.
    fn take_span(&mut self) -> Option<Box<Span>> {
        None
    }

    /// Ends the span of a message that was acknowledged or, without an acknowledgement, became
    /// durable.
    fn answered(&mut self, span: Box<Span>) {
        drop(span);
    }

    /// Stages a retained message, so that it survives a restart.
    fn retain(&mut self, message: &Retained<'_>);

    /// Stages the orderly end of the sender's session: it sends none of its messages again. False
    /// when there is nothing to stage.
    fn end_session(&mut self) -> bool {
        false
    }

    /// Notes that the sender does not send the message with this id again, although the id may come
    /// for another one.
    fn released(&mut self, id: u64) {
        let _ = id;
    }

    /// Frees what only a sender of messages needs, unless some of it is in use: called when none
    /// has come for a while. The next message allocates it again.
    fn rest(&mut self) {}

    /// True, once, for a message that was marked as resent and is durable, when it was in the log
    /// at the start of the process, together with a record for subscribers that [`Intake::retain`]
    /// took after it: they have it from there. Its id names it.
    fn was_routed(&mut self, id: u64) -> bool {
        let _ = id;
        false
    }

    /// Hands everything staged to the log in one step. `Ready` with the ticket to wait for;
    /// `Pending` when the log is full: the task is woken when there may be room, and takes nothing
    /// from its sender until then.
    ///
    /// # Errors
    /// [`Failed`].
    fn poll_submit(&mut self, cx: &mut Context<'_>) -> Poll<Result<Ticket, Failed>>;

    /// Returns the highest ticket that is durable. The task that submitted is woken when its last
    /// ticket is.
    ///
    /// # Errors
    /// [`Failed`].
    fn durable(&self) -> Result<Ticket, Failed>;
}

/// Hands everything staged to the log and returns when it is durable.
///
/// # Errors
/// [`Failed`].
pub async fn store(intake: &mut impl Intake) -> Result<(), Failed> {
    let ticket = poll_fn(|cx| intake.poll_submit(cx)).await?;
    // The submit left this task's waker with the log.
    poll_fn(move |_| match intake.durable() {
        Ok(durable) if durable >= ticket => Poll::Ready(Ok(())),
        Ok(_) => Poll::Pending,
        Err(error) => Poll::Ready(Err(error)),
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    use std::task::Waker;

    use super::*;

    struct Log {
        full: AtomicBool,
        failed: AtomicBool,
        durable: AtomicU64,
    }

    struct Fixed(&'static Log);

    impl Intake for Fixed {
        fn take(&mut self, _message: &Message<'_>) -> Verdict {
            Verdict::Staged
        }

        fn retain(&mut self, _message: &Retained<'_>) {}

        fn poll_submit(&mut self, _cx: &mut Context<'_>) -> Poll<Result<Ticket, Failed>> {
            if self.0.full.load(Ordering::Relaxed) { Poll::Pending } else { Poll::Ready(Ok(Ticket(2))) }
        }

        fn durable(&self) -> Result<Ticket, Failed> {
            if self.0.failed.load(Ordering::Relaxed) {
                return Err(Failed("no disk".into()));
            }
            Ok(Ticket(self.0.durable.load(Ordering::Relaxed)))
        }
    }

    #[test]
    fn store_waits_for_room_and_then_for_its_ticket() {
        static LOG: Log =
            Log { full: AtomicBool::new(true), failed: AtomicBool::new(false), durable: AtomicU64::new(0) };
        let mut intake = Fixed(&LOG);
        let mut stored = pin!(store(&mut intake));
        let mut poll = || stored.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready();
        assert!(!poll(), "the log is full");
        LOG.full.store(false, Ordering::Relaxed);
        LOG.durable.store(1, Ordering::Relaxed);
        assert!(!poll(), "only an earlier ticket is durable");
        LOG.durable.store(2, Ordering::Relaxed);
        assert!(poll());
    }

    #[test]
    fn store_fails_with_the_log() {
        static LOG: Log =
            Log { full: AtomicBool::new(false), failed: AtomicBool::new(true), durable: AtomicU64::new(0) };
        let mut intake = Fixed(&LOG);
        let polled = pin!(store(&mut intake)).poll(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(polled, Poll::Ready(Err(Failed(reason))) if *reason == *"no disk"));
    }
}
