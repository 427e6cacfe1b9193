//! Delayed will messages of sessions that the fleet shares.
//!
//! A client may come back to any node before the delay is over, and then its will message must not
//! be sent (MQTT-3.1.3-9). [`Arrival::Taken`](super::Arrival::Taken) reaches its last node mostly
//! before that. It comes late to a node that was paused or cut off, and does not come to the next
//! start of one that was killed. So a node asks the store before it publishes one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::LeftSession;
use crate::Broker;
use crate::pending_wills::Earlier;
use crate::tenant::Tenant;
use crate::will::LastWill;
use door::Inbox;

/// Wait before a question is repeated: the first, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));
/// Questions at a time: many delays may be over at once.
pub(super) const AT_ONCE: usize = 64;
/// Time after which the session of a will message of an earlier start is asked for again: this
/// start is not told of its end.
const AGAIN: Duration = Duration::from_secs(60);

/// Time that a process which stops waits for an answer.
const STOPPING: Duration = Duration::from_secs(2);

impl<I: Inbox> Broker<I> {
    /// Returns what has become of the session of a delayed will message, and repeats the question
    /// until the store answers. Outside of a fleet, it is as it was left. None when the process
    /// stops meanwhile and the store is away, or the tenant is gone: the will message stays kept
    /// for the next start, if anything of the tenant does.
    pub(crate) async fn left_session(&self, last: &LastWill) -> Option<LeftSession> {
        let (Some(fleet), Some(owned)) = (&self.fleet, &last.owned) else { return Some(LeftSession::Waits(None)) };
        let answered = async {
            let mut backoff = model::Backoff::new(PAUSE.0, PAUSE.1);
            loop {
                let answer = {
                    // It is not closed.
                    let _turn = fleet.questions.acquire().await.ok();
                    fleet.store.left_session(owned).await
                };
                match answer {
                    Ok(left) => return Some(left),
                    Err(_) if self.tenants.find(&owned.client.tenant).is_none() => return None,
                    Err(error) => tracing::debug!(client = %owned.client.id, "a delayed will message waits: {error}"),
                }
                tokio::time::sleep(backoff.draw()).await;
            }
        };
        let stopped = async {
            self.stopping.cancelled().await;
            tokio::time::sleep(STOPPING).await;
        };
        tokio::select! {
            left = answered => left,
            () = stopped => None,
        }
    }

    /// Lets a delayed will message of an earlier start wait for its delay anew, or for the end of
    /// its session. It is not published when the client has connected since, with whichever
    /// session.
    pub(crate) fn await_session(self: &Arc<Self>, last: Earlier, tenant: Arc<Tenant>) {
        let memory = self.memory.sessions.acquire(last.bytes()).ok();
        let broker = Arc::clone(self);
        self.tasks.spawn(async move {
            let mut delay = Duration::from_secs(last.will.delay_secs.into());
            if memory.is_none() {
                // One that cannot wait is due when the store has answered.
                delay = Duration::ZERO;
            }
            let _held = memory;
            let begun = Instant::now();
            loop {
                let rest = match broker.left_session(&last).await {
                    // It is kept for the next start.
                    None => return,
                    Some(LeftSession::Continued | LeftSession::Replaced) => return broker.forget_will(last),
                    Some(LeftSession::Ended) => Duration::ZERO,
                    Some(LeftSession::Waits(ends)) => {
                        delay.saturating_sub(begun.elapsed()).min(ends.unwrap_or(Duration::MAX))
                    }
                };
                if rest.is_zero() {
                    break;
                }
                tokio::select! {
                    () = tokio::time::sleep(rest.min(AGAIN)) => {}
                    () = broker.stopping.cancelled() => return,
                }
            }
            // The store may have been away as the client has connected here.
            if broker.is_connected(&tenant, &last.sender.client) {
                return broker.forget_will(last);
            }
            broker.publish_last(&last, &tenant).await;
        });
    }
}
