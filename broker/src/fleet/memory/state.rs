//! The state that the nodes share: their queues, and who owns which client.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use tokio::sync::{Notify, oneshot, watch};
use tokio::time::Instant;

use super::leftovers::Ended;
use super::owners::{Held, Kept};
use super::queues::{NodeState, Waits};
use super::wills::Will;
use crate::fleet::{
    Arrival, Change, Client, Forwarded, Node, Numbered, Owned, Refusal, Route, Submitter, Taking, Unavailable,
};

/// Arrivals that a node has not taken, from which on nothing is forwarded to it.
const MOST_ARRIVALS: usize = 65_536;

/// A start of a node: no two have the same.
pub(super) type Start = u64;

/// All of a fleet.
#[derive(Debug)]
pub(super) struct State {
    pub(super) is_away: bool,
    /// It has been away for a moment only.
    pub(super) is_brief: bool,
    /// Claims get no answer.
    pub(super) claims_held: watch::Sender<bool>,
    /// Claims wait once the node before has handed over.
    pub(super) handed_over_held: watch::Sender<bool>,
    /// Changes of sessions of this client fail.
    pub(super) faulty: Option<Client>,
    /// Wakers to call when the state is no longer locked.
    pub(super) due: Vec<Waker>,
    pub(super) most_messages: usize,
    pub(super) held: BTreeMap<Client, Held>,
    /// Sessions with messages left over.
    pub(super) ended: Vec<Ended>,
    /// Will messages, by the epochs of their connections.
    pub(super) wills: BTreeMap<u64, Will>,
    pub(super) nodes: BTreeMap<Start, NodeState>,
    /// Clients that are not connected, by the end of their sessions.
    pub(super) expiring: BTreeSet<(Instant, Client)>,
    /// Time that has passed beside that of the clock.
    ahead: Duration,
    last_start: Start,
    pub(super) last_epoch: u64,
    pub(super) last_request: u64,
    /// Claims that wait for an answer, with the node that gives it.
    pub(super) requests: BTreeMap<u64, (Start, oneshot::Sender<()>)>,
}

impl State {
    pub(super) fn new(most_messages: usize) -> Self {
        Self {
            is_away: false,
            is_brief: false,
            claims_held: watch::Sender::new(false),
            handed_over_held: watch::Sender::new(false),
            faulty: None,
            due: Vec::new(),
            most_messages,
            held: BTreeMap::new(),
            ended: Vec::new(),
            wills: BTreeMap::new(),
            nodes: BTreeMap::new(),
            expiring: BTreeSet::new(),
            ahead: Duration::ZERO,
            last_start: 0,
            last_epoch: 0,
            last_request: 0,
            requests: BTreeMap::new(),
        }
    }

    // Nodes.

    pub(super) fn start(&mut self, name: &str) -> (Start, [Arc<Notify>; 4]) {
        self.last_start += 1;
        let node = NodeState::new(name, self.is_away);
        let notified = [&node.arrived, &node.routed, &node.left, &node.willed].map(Arc::clone);
        self.announce(None, &Route::NodeUp(Arc::clone(&node.name)));
        self.nodes.insert(self.last_start, node);
        self.reset_routes(name);
        (self.last_start, notified)
    }

    pub(super) fn kill(&mut self, name: &str) {
        let Some(start) = self.find(name) else { return };
        let Some(node) = self.nodes.remove(&start) else { return };
        self.requests.retain(|_, (owner, _)| *owner != start);
        self.announce(None, &Route::NodeDown(node.name));
        let connected =
            |(client, held): (&Client, &Held)| (held.owner == start && held.is_connected).then(|| client.clone());
        let left: Vec<Client> = self.held.iter().filter_map(connected).collect();
        left.iter().for_each(|client| self.leave(client));
        self.leave_wills(start);
        // What it has read is for others.
        self.notify_readers();
    }

    pub(super) fn find(&self, name: &str) -> Option<Start> {
        self.nodes.iter().find(|(_, node)| *node.name == *name).map(|(start, _)| *start)
    }

    pub(super) fn each(&mut self, change: impl FnMut(&mut NodeState)) {
        self.nodes.values_mut().for_each(change);
    }

    pub(super) fn at(&mut self, start: Start, change: impl FnOnce(&mut NodeState)) {
        if let Some(node) = self.nodes.get_mut(&start) {
            change(node);
        }
    }

    /// The node, if it has not ended and reaches the store.
    pub(super) fn reaching(&mut self, start: Start) -> Result<&mut NodeState, Unavailable> {
        let (reason, is_brief) = ("it is away, as a test wants it".to_owned(), self.is_brief);
        let node = self.nodes.get_mut(&start).filter(|node| !node.is_away);
        node.ok_or(Unavailable { reason, is_brief })
    }

    /// Sends a route to all nodes but one.
    pub(super) fn announce(&mut self, but: Option<Start>, route: &Route) {
        for node in self.nodes.iter_mut().filter(|(start, _)| Some(**start) != but).map(|(_, node)| node) {
            node.routes.push(route.clone());
            node.routed.notify_one();
        }
    }

    pub(super) fn reset_routes(&mut self, name: &str) {
        let Some(start) = self.find(name) else { return };
        let mut routes = vec![Route::Reset(0)];
        let others = || self.nodes.iter().filter(|(other, _)| **other != start).map(|(_, node)| node);
        routes.extend(others().map(|node| Route::NodeUp(Arc::clone(&node.name))));
        for node in others() {
            routes.extend(node.interests.iter().map(|((tenant, filter), interest)| {
                Route::Interest(Arc::clone(&node.name), Arc::clone(tenant), filter.clone(), Some(*interest))
            }));
        }
        for (client, held) in &self.held {
            let subscriptions = held.kept.iter().flat_map(|kept| &kept.subscriptions);
            routes.extend(subscriptions.map(|(filter, options)| {
                let route = Some((*options, held.is_connected));
                Route::Session(client.clone(), held.owned.session, filter.clone(), route)
            }));
        }
        self.at(start, |node| {
            node.routes = routes;
            node.routed.notify_one();
        });
    }

    pub(super) fn take_routes(&mut self, start: Start) -> Vec<Route> {
        self.reaching(start).map(|node| std::mem::take(&mut node.routes)).unwrap_or_default()
    }

    // Changes and tickets.

    pub(super) fn submit(&mut self, start: Start, changes: Vec<Change>, submitter: Option<Arc<dyn Submitter>>) -> u64 {
        let Some(node) = self.nodes.get_mut(&start) else { return u64::MAX };
        node.last_ticket += 1;
        node.tickets.push_back((node.last_ticket, changes.len()));
        node.changes += changes.len();
        node.waits.push_back(Waits::Changes(node.last_ticket, changes, submitter));
        node.last_ticket
    }

    pub(super) fn put(&mut self, start: Start, waits: Waits) {
        self.at(start, |node| node.waits.push_back(waits));
    }

    /// Lets all that waits take effect, where the store is not away.
    pub(super) fn settle(&mut self) {
        let starts: Vec<Start> = self.nodes.keys().copied().collect();
        for start in starts {
            while let Ok(Some(waits)) = self.reaching(start).map(|node| node.waits.pop_front()) {
                self.take_effect(start, waits);
            }
            if let Some(node) = self.nodes.get_mut(&start) {
                node.harden(&mut self.due);
                if !node.is_away && !node.is_deaf && !node.arrivals.is_empty() {
                    node.arrived.notify_one();
                }
                if !node.is_away && !node.routes.is_empty() {
                    node.routed.notify_one();
                }
            }
        }
    }

    fn is_faulty(&self, change: &Change) -> bool {
        let Some(faulty) = &self.faulty else { return false };
        match change {
            Change::Subscribe(owned, ..) => owned.client == *faulty,
            Change::Message { tenant, takers, .. } => {
                *tenant == faulty.tenant && takers.iter().any(|(id, ..)| *id == faulty.id)
            }
            _ => false,
        }
    }

    fn take_effect(&mut self, start: Start, waits: Waits) {
        match waits {
            Waits::Changes(ticket, changes, submitter) => {
                for change in changes {
                    let outcome =
                        if self.is_faulty(&change) { Err(Refusal::Fault) } else { self.change(start, change) };
                    if let (Err(refusal), Some(submitter)) = (outcome, &submitter) {
                        submitter.refused(refusal);
                    }
                }
                self.at(start, |node| node.effective = ticket);
            }
            Waits::Forward(to, message) => {
                for node in self.nodes.values_mut().filter(|node| to.contains(&node.name)) {
                    node.arrive(Arrival::Forwarded(message.clone()));
                }
            }
            Waits::Missed(to, tenant) => {
                for node in self.nodes.values_mut().filter(|node| node.name == to) {
                    node.arrive(Arrival::Missed(Arc::clone(&tenant)));
                }
            }
            Waits::HandedOver(request) => {
                if let Some((_, waiting)) = self.requests.remove(&request) {
                    // It has waited long enough.
                    waiting.send(()).ok();
                }
            }
        }
    }

    pub(super) fn durable(&self, start: Start) -> u64 {
        self.nodes.get(&start).map_or(0, |node| node.durable)
    }

    pub(super) fn wake(&mut self, start: Start, ticket: u64, waker: &Waker) {
        self.at(start, |node| node.wakers.push((ticket, waker.clone())));
    }

    pub(super) fn poll_room(&mut self, start: Start, waker: &Waker) -> Poll<()> {
        let Some(node) = self.nodes.get_mut(&start) else { return Poll::Pending };
        if node.has_room() {
            return Poll::Ready(());
        }
        if !node.room.iter().any(|waiting| waiting.will_wake(waker)) {
            node.room.push(waker.clone());
        }
        Poll::Pending
    }

    // Arrivals.

    pub(super) fn forward(&mut self, start: Start, to: &[Node], message: Forwarded) -> bool {
        let full = self.nodes.values().any(|node| to.contains(&node.name) && node.arrivals.len() >= MOST_ARRIVALS);
        let Some(node) = self.nodes.get_mut(&start) else { return false };
        let has_room = !full && node.waits.len() < MOST_ARRIVALS;
        if has_room {
            node.waits.push_back(Waits::Forward(to.to_vec(), message));
        } else if message.is_owed() {
            for to in to {
                // One that waits is enough.
                let is_same =
                    |waits: &Waits| matches!(waits, Waits::Missed(node, of) if node == to && *of == message.tenant);
                if !node.waits.iter().any(is_same) {
                    node.waits.push_back(Waits::Missed(Arc::clone(to), Arc::clone(&message.tenant)));
                }
            }
        }
        has_room
    }

    /// An arrival for the owner of a session of this epoch.
    pub(super) fn arrive(&mut self, start: Start, epoch: u64, arrival: Arrival) {
        self.at(start, |node| node.arrive_at(epoch, arrival));
    }

    pub(super) fn begin(&mut self, start: Start, epoch: u64) {
        self.at(start, |node| {
            let held_back = node.beginning.remove(&epoch).unwrap_or_default();
            held_back.into_iter().for_each(|arrival| node.arrive(arrival));
        });
    }

    pub(super) fn take_arrivals(&mut self, start: Start) -> Vec<Arrival> {
        let node = self.reaching(start).ok().filter(|node| !node.is_deaf);
        node.map(|node| std::mem::take(&mut node.arrivals).into()).unwrap_or_default()
    }

    pub(super) fn drop_arrivals(&mut self, name: &str) {
        let Some(start) = self.find(name) else { return };
        // A change of hands is known to the store: a node does not miss it.
        let stays = |arrival: &Arrival| matches!(arrival, Arrival::HandOver(..) | Arrival::Taken(..));
        self.at(start, |node| {
            node.arrivals.retain(stays);
            node.beginning.values_mut().for_each(|held_back| held_back.retain(stays));
            node.arrive(Arrival::Gap);
        });
    }

    pub(super) fn miss(&mut self, name: &str, tenant: &str) {
        let Some(start) = self.find(name) else { return };
        self.at(start, |node| node.arrive(Arrival::Missed(tenant.into())));
    }

    pub(super) fn fill(&mut self, name: &str) {
        let Some(start) = self.find(name) else { return };
        self.at(start, |node| {
            // Answers that no claim waits for.
            let answers = std::iter::repeat_with(|| Waits::HandedOver(u64::MAX));
            node.waits.extend(answers.take(MOST_ARRIVALS.saturating_sub(node.waits.len())));
        });
    }

    pub(super) fn messages(&mut self, start: Start, owned: &Owned, after: u64) -> Result<Vec<Numbered>, Unavailable> {
        self.reaching(start)?;
        let kept = self.held.get(&owned.client).filter(|held| held.owned == *owned).and_then(|held| held.kept.as_ref());
        let behind =
            |kept: &Kept| kept.messages.range(after.saturating_add(1)..).map(|(_, message)| message.clone()).collect();
        Ok(kept.map(behind).unwrap_or_default())
    }

    // Time.

    pub(super) fn now(&self) -> Instant {
        Instant::now() + self.ahead
    }

    pub(super) fn advance(&mut self, by: Duration) {
        self.ahead += by;
        self.expire();
    }

    /// Ends the sessions that have expired.
    pub(super) fn expire(&mut self) {
        let now = self.now();
        while !self.is_away
            && let Some((at, client)) = self.expiring.first()
            && *at <= now
        {
            let client = client.clone();
            self.end(&client, Some(Taking::Ended));
        }
    }

    /// The time, on the clock, at which the next session expires, something is left over, or a
    /// will message is due.
    pub(super) fn next_time(&self) -> Option<Instant> {
        let expiry = self.expiring.first().filter(|_| !self.is_away).map(|(at, _)| self.real(*at));
        [expiry, self.next_leftover(), self.next_will()].into_iter().flatten().min()
    }

    /// A time on the clock.
    pub(super) fn real(&self, at: Instant) -> Instant {
        at - self.ahead
    }

    pub(super) fn notify_all(&self) {
        for node in self.nodes.values() {
            node.arrived.notify_one();
            node.routed.notify_one();
            node.willed.notify_one();
        }
    }
}
