//! Will messages that the store of the fleet keeps.
//!
//! It gets the will message of a connection in the step that makes a node the owner of the client,
//! and has it until it is published or not due. The node of the connection publishes it. A client
//! may come back to any node before its delay is over, and then it must not be sent
//! (MQTT-3.1.3-9); or the store may have given this node up. So a node asks before it publishes
//! one.
//!
//! The will message of a node that has ended goes to another one: with the next claim of its
//! client, or to any node when it is due. It may be published twice when that one ends at this
//! moment. Wherever it is published, the next connection of the client waits for it, so that it
//! comes before everything that the client sends then.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Change, DueWill, Fleet, Owned};
use crate::Broker;
use crate::pending_wills;
use crate::will::LastWill;
use door::Inbox;

/// Wait before a question is repeated: the first, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));
/// Questions at a time: many delays may be over at once.
pub(super) const AT_ONCE: usize = 64;
/// Time that a process which stops waits for an answer.
const STOPPING: Duration = Duration::from_secs(2);

impl<I: Inbox> Broker<I> {
    /// Returns whether a will message is this node's to publish, which it does then, and repeats
    /// the question until the store answers. One without a delay does not wait for a store that is
    /// away. Outside of a fleet, it always is. None when the process stops meanwhile and the store
    /// is away, or the tenant is gone: another node publishes it, if anything of the tenant is
    /// left.
    pub(crate) async fn begin_will(&self, last: &LastWill, is_delayed: bool) -> Option<bool> {
        let (Some(fleet), Some(owned)) = (&self.fleet, &last.owned) else { return Some(true) };
        let answered = async {
            let mut backoff = model::Backoff::new(PAUSE.0, PAUSE.1);
            loop {
                let answer = {
                    // It is not closed.
                    let _turn = fleet.questions.acquire().await.ok();
                    fleet.store.begin_will(owned).await
                };
                match answer {
                    Ok(is_own) => return Some(is_own),
                    Err(_) if !is_delayed => return Some(true),
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
            is_own = answered => is_own,
            () = stopped => if is_delayed { None } else { Some(true) },
        }
    }

    /// Waits until a will message that another task or node publishes is published.
    pub(crate) async fn await_will(&self, owned: &Owned) {
        let Some(fleet) = &self.fleet else { return };
        let mut backoff = model::Backoff::new(PAUSE.0 / 10, PAUSE.0);
        // One that cannot be asked for is not waited for.
        while fleet.store.has_will(owned).await.is_ok_and(|has| has) {
            tokio::time::sleep(backoff.draw()).await;
        }
    }

    /// Lets the store forget a will message that is published, or not due.
    pub(crate) fn end_stored_will(&self, last: &LastWill) {
        if let (Some(fleet), Some(owned)) = (&self.fleet, &last.owned) {
            fleet.store.submit(vec![Change::WillOver(owned.clone())]);
        }
    }

    /// Publishes the will messages of nodes of a pool that have ended, until `stop`. The
    /// subscribers of the other nodes are known by then.
    pub(super) async fn publish_due_wills(self: Arc<Self>, fleet: Arc<Fleet>, pool: usize, stop: CancellationToken) {
        loop {
            let due = tokio::select! {
                due = fleet.bus.wills(pool) => due,
                () = stop.cancelled() => return,
            };
            let mut tasks = JoinSet::new();
            for due in due {
                let broker = Arc::clone(&self);
                tasks.spawn(async move { broker.publish_due_will(due).await });
            }
            tokio::select! {
                _ = tasks.join_all() => {}
                // Other nodes publish the rest.
                () = stop.cancelled() => return,
            }
        }
    }

    /// Publishes a will message of a node that has ended.
    pub(super) async fn publish_due_will(&self, due: DueWill) {
        let Some(last) = self.read_due_will(due) else { return };
        let tenant = self.tenants.get(&last.sender.tenant);
        // The store was away as the client has connected here.
        let is_back = tenant.sessions.get(&last.sender.client).is_some_and(|session| {
            let state = session.state();
            state.link.is_some() && state.owned.is_none()
        });
        if is_back {
            self.end_stored_will(&last);
        } else {
            self.publish_last(&last, &tenant).await;
        }
    }

    /// Returns the will message that another node has left. None, and it is no longer kept, when it
    /// cannot be read.
    pub(crate) fn read_due_will(&self, DueWill { owned, body }: DueWill) -> Option<Box<LastWill>> {
        let last = pending_wills::decode_stored(&owned, &body);
        if last.is_none() {
            tracing::warn!(client = %owned.client.id, "cannot read a will message of another node, which is dropped");
            if let Some(fleet) = &self.fleet {
                fleet.store.submit(vec![Change::WillOver(owned)]);
            }
        }
        last
    }
}
