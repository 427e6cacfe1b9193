//! Messages of shared subscriptions that a session of the fleet has left over at its end: another
//! member gets them (MQTT 5.0, section 4.8.2), as those of a session of one node do.
//!
//! The store keeps them. A node reads some of them at a time, chooses a member for each, and lets
//! the store hand it on in one step: a node that dies meanwhile loses none and doubles none.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Change, Client, Fleet, Forwarded, Node, Numbered, Owned, Placed, Refusal, SharedMessage, Submitter};
use crate::Broker;
use crate::queue::Queued;
use crate::session::{Place, Session, State};
use crate::tenant::Tenant;
use crate::trie::Entry;
use door::Inbox;

/// Wait after a message that could not be handed on: the first, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(2));

/// A message of a shared subscription that a session has left over at its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftover {
    /// The client of that session.
    pub client: Client,
    /// The id of that session.
    pub session: u64,
    /// The message, as that session had it.
    pub message: Numbered,
}

impl Leftover {
    /// The change by which it goes to its next taker.
    fn handed_to(self, to: NextTaker) -> Change {
        let Self { client: from, session, message: Numbered { number, .. } } = self;
        Change::HandOn { from, session, number, to: Box::new(to) }
    }
}

/// The next taker of such a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NextTaker {
    /// A session that lasts: its client id, its id, and how it gets the message.
    Session(Arc<str>, u64, Placed),
    /// A node, or this one: the message arrives there as [`Arrival::Forwarded`].
    ///
    /// [`Arrival::Forwarded`]: super::Arrival::Forwarded
    Node(Option<Node>, Forwarded),
    /// None: the message is dropped.
    Dropped,
}

impl NextTaker {
    /// Returns it as one that gets the message also when it is not connected.
    fn in_any_case(self) -> Self {
        match self {
            Self::Session(id, session, placed) => {
                Self::Session(id, session, Placed { is_for_connected: false, ..placed })
            }
            to => to,
        }
    }
}

/// Notes whether a change was refused.
#[derive(Debug, Default)]
struct Refused(AtomicBool);

impl Submitter for Refused {
    fn refused(&self, _: Refusal) {
        self.0.store(true, Ordering::Release);
    }
}

impl Fleet {
    /// Lets messages of QoS 2 that a session has sent be left over to no other client
    /// (MQTT-4.8.2-5). It has ended in the store, which may know of fewer.
    pub(crate) fn drop_sent(&self, Owned { client, session, .. }: &Owned, state: &State) {
        let drop = |number| {
            let to = Box::new(NextTaker::Dropped);
            Change::HandOn { from: client.clone(), session: *session, number, to }
        };
        let changes: Vec<_> = state.in_flight.shared_once().map(drop).collect();
        if !changes.is_empty() {
            self.store.submit(changes);
        }
    }
}

impl<I: Inbox> Broker<I> {
    /// Hands on the messages that sessions of a pool leave over, until `stop`. The subscribers of
    /// the other nodes are known by then.
    pub(super) async fn hand_on_leftovers(self: Arc<Self>, fleet: Arc<Fleet>, pool: usize, stop: CancellationToken) {
        let mut backoff = model::Backoff::new(PAUSE.0, PAUSE.1);
        // After a refusal, also a member that is not connected, although it seems to be, gets one.
        let mut insists = true;
        loop {
            let work = async {
                let leftovers = fleet.bus.leftovers(pool).await;
                let refused = Arc::<Refused>::default();
                let changes = leftovers.into_iter().map(|leftover| self.hand_leftover_on(leftover, insists)).collect();
                let ticket = fleet.store.submit_for(changes, Some(Arc::clone(&refused) as _));
                fleet.durable(ticket).await;
                refused.0.load(Ordering::Acquire)
            };
            let is_refused = tokio::select! {
                is_refused = work => is_refused,
                () = stop.cancelled() => return,
            };
            insists = !is_refused;
            if is_refused {
                // Its taker has ended, which is known here in a moment.
                tokio::select! {
                    () = tokio::time::sleep(backoff.draw()) => {}
                    () = stop.cancelled() => return,
                }
            } else {
                backoff = model::Backoff::new(PAUSE.0, PAUSE.1);
            }
        }
    }

    fn hand_leftover_on(&self, leftover: Leftover, insists: bool) -> Change {
        let tenant = self.tenants.find(&leftover.client.tenant);
        let to = tenant.and_then(|tenant| self.next_taker(&tenant, &leftover)).map_or_else(
            || {
                self.count_dropped("no_member");
                NextTaker::Dropped
            },
            |(to, _)| if insists { to } else { to.in_any_case() },
        );
        leftover.handed_to(to)
    }

    /// Hands a message on that has arrived for a client that has left, if another member is
    /// connected. Otherwise the session keeps it in the store.
    pub(super) fn hand_late_on(&self, fleet: &Fleet, owned: &Owned, message: Numbered) {
        if message.placed.share.is_none() {
            return;
        }
        let Some(tenant) = self.tenants.find(&owned.client.tenant) else { return };
        let has_left = tenant.sessions.get(&owned.client.id).is_some_and(|session| {
            let state = session.state();
            state.is_departed && state.owned.as_deref() == Some(owned)
        });
        if !has_left {
            return;
        }
        let leftover = Leftover { client: owned.client.clone(), session: owned.session, message };
        if let Some((to, true)) = self.next_taker(&tenant, &leftover) {
            fleet.store.submit(vec![leftover.handed_to(to)]);
        }
    }

    /// The change by which a message goes to another member, as the client of its session leaves.
    /// None when no other one is connected: the session keeps it in the store.
    pub(crate) fn hand_over_to_member(&self, tenant: &Tenant, owned: &Owned, queued: Queued) -> Option<Change> {
        let Queued { message, qos, retain, subscription_ids: ids, share, duty, .. } = queued;
        let placed = Placed { qos, retain, ids, share, is_for_connected: true };
        let message = Numbered { number: duty?.number, placed, message: super::send::share(&message) };
        let leftover = Leftover { client: owned.client.clone(), session: owned.session, message };
        let (to, is_connected) = self.next_taker(tenant, &leftover)?;
        is_connected.then(|| leftover.handed_to(to))
    }

    /// Chooses the member that gets a message, and returns whether it is connected. None when there
    /// is no other one.
    fn next_taker(&self, tenant: &Tenant, leftover: &Leftover) -> Option<(NextTaker, bool)> {
        let Leftover { client, session, message: Numbered { placed, message, .. } } = leftover;
        let share = placed.share.as_ref()?;
        let wanted = |entry: &Entry<Arc<Session>>| {
            // A bridge has messages of its own node only.
            let is_bridge = *entry.subscriber.place() == Place::Here && entry.client.starts_with(Self::INTERNAL);
            !is_bridge
                && entry.subscriber.wants(message.qos.min(entry.options.qos), message.qos)
                && entry.subscriber.shared_id() != Some(*session)
        };
        let (entry, is_for_connected) = tenant.trie.choose(share, wanted)?;
        let qos = message.qos.min(entry.options.qos);
        if let Some(id) = entry.subscriber.shared_id().filter(|_| qos > 0) {
            let ids = entry.id.into_iter().collect();
            let placed = Placed { qos, retain: false, ids, share: Some(Arc::clone(share)), is_for_connected };
            return Some((NextTaker::Session(entry.client, id, placed), is_for_connected));
        }
        let node = match entry.subscriber.place() {
            Place::Node(node, _) => Some(Arc::clone(node)),
            Place::Here => None,
            Place::Elsewhere(_) => return None,
        };
        let message = match message.retain {
            true => Arc::new(SharedMessage { retain: false, ..SharedMessage::clone(message) }),
            false => Arc::clone(message),
        };
        let (tenant, from) = (Arc::clone(&client.tenant), Arc::clone(&client.id));
        let forwarded = Forwarded { tenant, from, message, share: Some(Arc::clone(share)), is_routed: true };
        Some((NextTaker::Node(node, forwarded), is_for_connected))
    }
}
