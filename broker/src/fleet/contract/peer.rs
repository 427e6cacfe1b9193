//! A node of a test, with all that has arrived at it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::task::AbortHandle;

use super::{Fixture, PATIENCE, client, until};
use crate::fleet::{
    Arrival, Bus, Change, Claimed, Client, HandOver, Interest, Node, Numbered, Owned, Route, SessionStore,
    StoredSession, StoredWill, Subscription, Taking,
};

/// The fleet as a node knows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) sessions: BTreeMap<(Client, String), (u64, Subscription, bool)>,
    pub(super) interests: BTreeMap<(Node, Arc<str>, String), Interest>,
    pub(super) nodes: BTreeSet<Node>,
    pub(super) resets: usize,
}

impl Table {
    fn apply(&mut self, route: Route) {
        assert!(self.resets > 0 || route == Route::Reset(0), "{route:?} comes before a reset");
        match route {
            Route::Reset(_) => *self = Self { resets: self.resets + 1, ..Self::default() },
            Route::Session(client, session, filter, Some((options, connected))) => {
                self.sessions.insert((client, filter), (session, options, connected));
            }
            Route::Session(client, session, filter, None) => {
                let key = (client, filter);
                if self.sessions.get(&key).is_some_and(|held| held.0 == session) {
                    self.sessions.remove(&key);
                }
            }
            Route::Presence(client, connected) => {
                for ((of, _), held) in &mut self.sessions {
                    if *of == client {
                        held.2 = connected;
                    }
                }
            }
            Route::Ended(client, session) => self.sessions.retain(|(of, _), held| *of != client || held.0 != session),
            Route::Interest(node, tenant, filter, Some(interest)) => {
                self.interests.insert((node, tenant, filter), interest);
            }
            Route::Interest(node, tenant, filter, None) => {
                self.interests.remove(&(node, tenant, filter));
            }
            Route::NodeUp(node) => {
                self.nodes.insert(node);
            }
            Route::NodeDown(node) => {
                self.nodes.remove(&node);
                self.interests.retain(|(of, _, _), _| *of != node);
            }
        }
    }

    /// The session's id and whether its client is connected, by client id and filter.
    pub(super) fn of(&self) -> Vec<(&str, &str, u64, bool)> {
        self.sessions.iter().map(|((client, filter), (id, _, on))| (&*client.id, &**filter, *id, *on)).collect()
    }
}

/// A node, whose arrivals are collected until it is dropped.
pub(super) struct Peer {
    pub(super) store: Arc<dyn SessionStore>,
    pub(super) bus: Arc<dyn Bus>,
    arrivals: Arc<Mutex<Vec<Arrival>>>,
    table: Arc<Mutex<Table>>,
    tasks: [AbortHandle; 2],
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl Peer {
    /// Starts a node that hands over its clients when it is asked.
    pub(super) async fn start(fixture: &dyn Fixture, name: &str) -> Self {
        Self::with(fixture, name, true).await
    }

    /// Starts a node that does not.
    pub(super) async fn stubborn(fixture: &dyn Fixture, name: &str) -> Self {
        Self::with(fixture, name, false).await
    }

    async fn with(fixture: &dyn Fixture, name: &str, answers: bool) -> Self {
        let (store, bus) = fixture.node(name).await;
        let arrivals = Arc::<Mutex<Vec<Arrival>>>::default();
        let table = Arc::<Mutex<Table>>::default();
        let arriving = tokio::spawn({
            let (bus, arrivals) = (Arc::clone(&bus), Arc::clone(&arrivals));
            async move {
                loop {
                    for arrival in bus.arrivals().await {
                        if let Arrival::HandOver(_, hand_over) = &arrival
                            && answers
                        {
                            bus.handed_over(hand_over);
                        }
                        arrivals.lock().push(arrival);
                    }
                }
            }
        });
        let routing = tokio::spawn({
            let (bus, table) = (Arc::clone(&bus), Arc::clone(&table));
            async move {
                loop {
                    let routes = bus.routes().await;
                    let mut table = table.lock();
                    routes.into_iter().for_each(|route| table.apply(route));
                }
            }
        });
        Self { store, bus, arrivals, table, tasks: [arriving.abort_handle(), routing.abort_handle()] }
    }

    /// Claims a client, and lets its messages arrive.
    pub(super) async fn claim(&self, id: &str, clean: bool, new: u64) -> Claimed {
        let claimed = self.claim_only(id, clean, new).await;
        self.bus.begin(&claimed.owned);
        claimed
    }

    /// Claims a client.
    pub(super) async fn claim_only(&self, id: &str, clean: bool, new: u64) -> Claimed {
        self.claim_with(id, clean, new, None).await
    }

    /// Claims a client for a connection that has a will message.
    pub(super) async fn claim_with(&self, id: &str, clean: bool, new: u64, will: Option<&StoredWill>) -> Claimed {
        let client = client(id);
        let claim = self.store.claim(&client, clean, new, will);
        tokio::time::timeout(PATIENCE, claim).await.expect("a claim ends").expect("the store answers")
    }

    /// Claims a client whose session lasts from now on.
    pub(super) async fn lasting(&self, id: &str, new: u64) -> Owned {
        let Claimed { owned, .. } = self.claim(id, true, new).await;
        self.apply(vec![Change::Keep(owned.clone(), 3600)]).await;
        owned
    }

    /// Claims a client, and returns what continues.
    pub(super) async fn continued(&self, id: &str) -> (Owned, StoredSession) {
        let Claimed { owned, session, .. } = self.claim(id, false, u64::MAX).await;
        (owned, session.expect("the session continues"))
    }

    /// Waits until changes are durable.
    pub(super) async fn apply(&self, changes: Vec<Change>) -> u64 {
        let ticket = self.store.submit(changes);
        self.durable(ticket).await;
        ticket
    }

    pub(super) async fn durable(&self, ticket: u64) {
        let durable = std::future::poll_fn(|cx| {
            // In this order: it may become durable in between.
            self.store.wake(ticket, cx.waker());
            if self.store.is_durable(ticket) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
        });
        tokio::time::timeout(PATIENCE, durable).await.expect("changes become durable");
    }

    pub(super) fn arrivals(&self) -> Vec<Arrival> {
        self.arrivals.lock().clone()
    }

    /// Messages of an ownership that have arrived.
    pub(super) fn messages(&self, owned: &Owned) -> Vec<Numbered> {
        let arrivals = self.arrivals.lock();
        let of = |arrival: &Arrival| match arrival {
            Arrival::Message(of, numbered) if of == owned => Some(numbered.clone()),
            _ => None,
        };
        arrivals.iter().filter_map(of).collect()
    }

    /// Ownerships that this node has lost.
    pub(super) fn taken(&self) -> Vec<(Owned, Taking)> {
        let arrivals = self.arrivals.lock();
        let of = |arrival: &Arrival| match arrival {
            Arrival::Taken(owned, taking) => Some((owned.clone(), *taking)),
            _ => None,
        };
        let mut taken: Vec<_> = arrivals.iter().filter_map(of).collect();
        // One may come twice.
        let mut seen = std::collections::HashSet::new();
        taken.retain(|(owned, _)| seen.insert(owned.epoch));
        taken
    }

    /// Requests to hand over a client.
    pub(super) fn asked(&self) -> Vec<(Client, HandOver)> {
        let arrivals = self.arrivals.lock();
        let of = |arrival: &Arrival| match arrival {
            Arrival::HandOver(client, hand_over) => Some((client.clone(), hand_over.clone())),
            _ => None,
        };
        arrivals.iter().filter_map(of).collect()
    }

    /// Waits until so many messages of an ownership have arrived, and returns the numbers.
    pub(super) async fn numbers(&self, owned: &Owned, count: usize) -> Vec<u64> {
        until(count, || self.messages(owned).len()).await;
        numbers(&self.messages(owned))
    }

    pub(super) fn table(&self) -> Table {
        self.table.lock().clone()
    }
}

pub(super) fn numbers(messages: &[Numbered]) -> Vec<u64> {
    messages.iter().map(|message| message.number).collect()
}

pub(super) fn payloads(messages: &[Numbered]) -> Vec<String> {
    messages.iter().map(|numbered| String::from_utf8_lossy(&numbered.message.payload).into_owned()).collect()
}
