//! Will messages: published for a client whose connection broke.

use std::future::poll_fn;
use std::sync::{Arc, Weak};
use std::time::Duration;

use model::Held;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::Broker;
use crate::codec::connect::Will;
use crate::durable::Ledger;
use crate::fleet::{Owned, Source};
use crate::link::Link;
use crate::pending_wills;
use crate::route::{Dispatch, Routed};
use crate::session::{Session, State};
use crate::tenant::Tenant;
use door::quota::DeviceMeter;
use door::{Delivery, Failed, Inbox, Intake, Retained, Sender, Verdict};

/// Bytes of a will message that waits, besides its contents: a task.
const WILL_BYTES: usize = 1 << 10;

/// Time that a new connection waits for the will message before it. A log that is full for longer
/// does not keep clients out.
pub(crate) const SETTLE: Duration = Duration::from_secs(5);

/// A will message with its sender, as the session holds it while the connection is open.
#[derive(Debug)]
pub(crate) struct LastWill {
    pub(crate) will: Will,
    pub(crate) sender: Sender,
    /// The ownership that the connection has, if the store of a fleet keeps it.
    pub(crate) owned: Option<Owned>,
    /// Topic under which it is kept for the next start, if it is kept in the log.
    pub(crate) kept_as: Option<Box<str>>,
    /// Cancelled when the credential of the sender is revoked or expires: then it is not published.
    pub(crate) ended: Option<CancellationToken>,
    /// Limits of the tenant. A will message of an earlier start has none.
    pub(crate) meter: Option<DeviceMeter>,
}

impl LastWill {
    /// Bytes of one that waits.
    pub(crate) fn bytes(&self) -> usize {
        let Will { topic, payload, properties, .. } = &self.will;
        WILL_BYTES + topic.len() + payload.len() + properties.len()
    }
}

/// Closed when a will message is published, or is not due.
pub(crate) type Settled = watch::Receiver<()>;

/// The will message of the connections before: a new connection of the client waits until it is
/// published, so that it comes before everything that the client sends now. And the session before.
#[derive(Debug, Default)]
pub(crate) struct Before {
    /// Of a connection that was taken over.
    pub(crate) last: Option<Box<LastWill>>,
    /// It is due now; otherwise the client is back in time.
    pub(crate) is_due: bool,
    /// Of a connection that has ended.
    pub(crate) publishing: Option<Settled>,
    /// The connection that had the session, whose last messages may not have gone to subscribers.
    pub(crate) earlier: Option<Weak<Link>>,
    /// Of a connection of another node, which has ended.
    pub(crate) of_another: Option<Box<LastWill>>,
    /// Ownership of a connection whose will message another node publishes.
    pub(crate) elsewhere: Option<Owned>,
    /// The session before, which has ended and lasted until then.
    pub(crate) ended: Option<Arc<Ledger>>,
}

impl Before {
    /// True when there is something to do.
    pub(crate) fn is_any(&self) -> bool {
        let Self { last, publishing, of_another, elsewhere, ended, .. } = self;
        last.is_some() || publishing.is_some() || of_another.is_some() || elsewhere.is_some() || ended.is_some()
    }
}

impl<I: Inbox> Broker<I> {
    /// Publishes a will message after its delay, or when the session ends before, unless the client
    /// has reconnected by then. Called while the connection behind `link` owns the session, or has
    /// lost it: the new owner then has the will message. Returns what to wait for before the
    /// session is left, if the will message is due at once.
    pub(crate) fn leave_will(
        self: &Arc<Self>,
        tenant: &Arc<Tenant>,
        session: &Session,
        link: &Arc<Link>,
    ) -> Option<Settled> {
        let mut state = session.owned_by(link)?;
        let last = state.last_will.take()?;
        self.publish_after_delay(&mut state, last, tenant)
    }

    /// Publishes a will message of a session without a connection after its delay. Returns what to
    /// wait for, if it is due at once.
    pub(crate) fn publish_after_delay(
        self: &Arc<Self>,
        state: &mut State,
        last: Box<LastWill>,
        tenant: &Arc<Tenant>,
    ) -> Option<Settled> {
        let mut delay = Duration::from_secs(u64::from(last.will.delay_secs.min(state.expiry_secs)));
        let memory = self.memory.sessions.acquire(last.bytes()).ok();
        if memory.is_none() {
            // A will message that cannot wait is published now.
            delay = Duration::ZERO;
        }
        let mut pending = None;
        if !delay.is_zero() {
            let (cancel, cancelled) = oneshot::channel();
            state.will = Some(cancel);
            pending = Some((delay, cancelled));
        }
        let settled = self.publish_later(last, Arc::clone(tenant), pending, memory, None);
        state.publishing = Some(settled.clone());
        delay.is_zero().then_some(settled)
    }

    /// Returns when the will messages of the connections before are published: the one of
    /// a connection after all its messages.
    pub(crate) async fn settle(self: &Arc<Self>, before: Before, tenant: &Arc<Tenant>) {
        let (due, over) = if before.is_due { (before.last, None) } else { (None, before.last) };
        let due = due.map(|last| self.publish_later(last, Arc::clone(tenant), None, None, before.earlier));
        if let Some(last) = over {
            self.forget_will(last);
        }
        let of_another = before.of_another.map(|last| self.publish_later(last, Arc::clone(tenant), None, None, None));
        let all = async {
            for mut settled in before.publishing.into_iter().chain(due).chain(of_another) {
                // An error is the end of its publication.
                while settled.changed().await.is_ok() {}
            }
            if let Some(owned) = &before.elsewhere {
                self.await_will(owned).await;
            }
        };
        if tokio::time::timeout(SETTLE, all).await.is_err() {
            tracing::debug!("a client connects although the will message before is not stored yet");
        }
    }

    /// Publishes a will message in a task of its own, after the messages of the `earlier`
    /// connection, unless it is cancelled during a delay, or the credential of its sender has
    /// ended.
    fn publish_later(
        self: &Arc<Self>,
        last: Box<LastWill>,
        tenant: Arc<Tenant>,
        pending: Option<(Duration, oneshot::Receiver<()>)>,
        memory: Option<Held>,
        earlier: Option<Weak<Link>>,
    ) -> Settled {
        let (done, settled) = watch::channel(());
        let broker = Arc::clone(self);
        self.tasks.spawn(async move {
            let _held = memory;
            let is_delayed = pending.is_some();
            // Sent when the client is back.
            let mut is_back = None;
            if let Some((delay, mut cancelled)) = pending {
                tokio::select! {
                    () = tokio::time::sleep(delay) => is_back = Some(cancelled),
                    // Without a sign, the session has ended.
                    cancelled = &mut cancelled => if cancelled.is_ok() {
                        return broker.forget_will(last);
                    },
                    // One without a fleet does not know whether it starts again.
                    () = broker.stopping.cancelled() => {}
                }
                if last.owned.is_some() && broker.stopping.is_cancelled() {
                    // Another node publishes it when it is due.
                    return;
                }
            }
            if let Some(earlier) = earlier.as_ref().and_then(Weak::upgrade) {
                tokio::select! {
                    // It gives up in time, also when the log is full.
                    () = poll_fn(|cx| earlier.poll_settled(cx)) => {}
                    () = broker.abandon.cancelled() => {}
                }
            }
            if last.ended.as_ref().is_some_and(CancellationToken::is_cancelled) {
                return broker.forget_will(last);
            }
            let back_here = async {
                match is_back {
                    Some(is_back) => is_back.await.is_ok(),
                    None => false,
                }
            };
            let is_own = tokio::select! {
                is_own = broker.begin_will(&last, is_delayed) => is_own,
                // While the store is away.
                true = back_here => return broker.forget_will(last),
            };
            match is_own {
                Some(true) => {}
                Some(false) => return,
                None => {
                    let client = &last.sender.client;
                    return tracing::debug!(%client, "left a delayed will message to other nodes");
                }
            }
            broker.publish_last(&last, &tenant).await;
            drop(done);
        });
        settled
    }

    /// Publishes a will message, which is over then, and reports one that is not stored.
    pub(crate) async fn publish_last(&self, last: &LastWill, tenant: &Tenant) {
        let published = tokio::select! {
            published = self.publish_will(last, tenant) => published.map_err(|error| error.to_string()),
            () = self.abandon.cancelled() => Err("the process is stopping".to_owned()),
        };
        match published {
            Ok(()) => self.end_stored_will(last),
            Err(error) => {
                self.count_dropped("will_not_stored");
                let LastWill { will, sender, .. } = last;
                tracing::warn!(
                    "cannot publish the will message of client {} to {}: {error}",
                    sender.client,
                    will.topic
                );
            }
        }
    }

    /// No longer keeps a will message that is not due.
    pub(crate) fn forget_will(self: &Arc<Self>, last: Box<LastWill>) {
        self.end_stored_will(&last);
        if last.kept_as.is_none() {
            return;
        }
        let broker = Arc::clone(self);
        self.tasks.spawn(async move {
            let mut intake = broker.inbox.open(&last.sender);
            if pending_wills::clear(&mut intake, &last) {
                tokio::select! {
                    // A log that has failed has said so.
                    _ = door::store(&mut intake) => {}
                    () = broker.abandon.cancelled() => {}
                }
            }
        });
    }

    /// A will message may be telemetry, or retained: then it is durable before subscribers get it.
    pub(crate) async fn publish_will(&self, last: &LastWill, tenant: &Tenant) -> Result<(), Failed> {
        let LastWill { will, sender, .. } = last;
        let (topic, payload, properties) = (&*will.topic, &*will.payload, &*will.properties);
        let delivery = Delivery { retain: will.retain, ..Delivery::default() };
        let mut intake = self.inbox.open(sender);
        let verdict = intake.take(&door::Message { topic, payload, delivery });
        let denied = matches!(verdict, Verdict::Denied | Verdict::OverQuota(_) | Verdict::Held);
        let keeps = self.keeps(tenant, last.meter.as_ref(), (topic, payload), will.retain && !denied);
        if let Err(limit) = keeps {
            tracing::info!(
                tenant = %sender.tenant, client = %sender.client, topic,
                "a will message is delivered and {limit}"
            );
        }
        let keep = keeps == Ok(true);
        let copy = |keep| if denied { None } else { self.copy(topic, payload, will.qos, keep, properties) };
        let copy = copy(keep).or_else(|| if keep { copy(false) } else { None });
        let keep = copy.as_ref().is_some_and(|message| message.retain);
        if keep {
            intake.retain(&Retained { topic, payload, qos: will.qos, properties });
        }
        let clears = pending_wills::clear(&mut intake, last);
        if denied && verdict != Verdict::Held {
            self.metrics.denied("publish", "device").inc();
        }
        let mut takers = self.takers(tenant, topic, (will.qos, will.retain), &sender.client);
        let for_sessions = copy.is_some()
            && self.store_for_sessions(&mut intake, &tenant.id, (topic, payload), properties, &mut takers);
        if matches!(verdict, Verdict::Staged | Verdict::Unreadable | Verdict::Held) || keep || clears || for_sessions {
            door::store(&mut intake).await?;
        }
        match copy {
            Some(message) => {
                let source = last.owned.clone().map(Source::Will);
                let dispatch = Dispatch { source, ..Dispatch::new(message, takers, &sender.client) };
                let Routed { ticket, .. } = self.route(tenant, dispatch);
                self.wait_for_fleet(ticket).await;
            }
            None if denied => {}
            None => self.lose(tenant, topic, will.qos),
        }
        Ok(())
    }
}
