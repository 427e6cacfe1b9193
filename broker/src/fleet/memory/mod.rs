//! A fleet in memory, for tests: several brokers of one process share their sessions through it.
//!
//! It keeps the contract of the ports exactly, and stalls, fails and dies where a test wants it.
//! Available with the feature `testing` only.
//!
//! Changes of a node take effect when they are submitted, and are durable at once. While the node
//! is held, they take effect and are not durable; while the store is away, they wait.

mod change;
mod leftovers;
mod node;
mod owners;
mod queues;
mod state;
#[cfg(test)]
mod tests;
mod wills;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::{Client, Node, Owned, StoredSession};
pub use node::MemoryNode;
use queues::NodeState;
use state::State;

/// Messages that a session has at most, unless a test wants fewer.
const MOST_MESSAGES: usize = 100_000;

/// The sessions and messages that nodes share. Clones share them, too.
#[derive(Debug, Clone)]
pub struct MemoryFleet(Arc<Mutex<State>>);

impl Default for MemoryFleet {
    fn default() -> Self {
        Self::with_most(MOST_MESSAGES)
    }
}

impl MemoryFleet {
    /// A fleet without sessions and nodes.
    pub fn new() -> Self {
        Self::default()
    }

    /// A fleet whose sessions have at most this many messages.
    pub fn with_most(messages: usize) -> Self {
        Self(Arc::new(Mutex::new(State::new(messages))))
    }

    /// Starts a node. One with this name that has not ended is killed first.
    pub fn node(&self, name: &str) -> Arc<MemoryNode> {
        let start = self.with(|state| {
            state.kill(name);
            state.start(name)
        });
        Arc::new(MemoryNode::new(self.clone(), name.into(), start))
    }

    /// Ends a node that has no time to say so. What it has submitted while the store was away is
    /// lost; its node does nothing from now on.
    pub fn kill(&self, name: &str) {
        self.with(|state| state.kill(name));
    }

    /// Lets no change of any node become durable. Changes take effect all the same.
    pub fn hold(&self) {
        self.with(|state| state.each(|node| node.is_held = true));
    }

    /// Lets changes become durable again.
    pub fn release(&self) {
        self.with(|state| state.each(|node| node.is_held = false));
    }

    /// Holds claims back once the node before has handed the client over.
    pub fn hold_handed_over(&self, are_held: bool) {
        self.with(|state| state.handed_over_held.send_replace(are_held));
    }

    /// Returns the number of claims that are held so.
    pub fn handed_over(&self) -> usize {
        self.with(|state| state.handed_over_held.receiver_count())
    }

    /// Lets claims have effect and no answer, or lets them be answered.
    pub fn hold_claims(&self, are_held: bool) {
        self.with(|state| {
            state.claims_held.send_replace(are_held);
        });
    }

    /// Lets the store be away for all nodes, or back: claims fail, changes wait, nothing arrives
    /// and no session expires.
    pub fn away(&self, is_away: bool) {
        self.set_away(is_away, false);
    }

    /// Lets the store be away since a moment ago, or back.
    pub fn falter(&self, falters: bool) {
        self.set_away(falters, true);
    }

    /// Cuts a node off from the store, or ends that: see [`MemoryNode::away`].
    pub fn cut_off(&self, name: &str, is_away: bool) {
        self.at(name, |node| node.set_away(is_away));
    }

    /// Lets nothing arrive at a node, or all that has waited.
    pub fn deafen(&self, name: &str, is_deaf: bool) {
        self.at(name, |node| {
            node.is_deaf = is_deaf;
            node.arrived.notify_one();
        });
    }

    fn at(&self, name: &str, change: impl FnOnce(&mut NodeState)) {
        self.with(|state| {
            if let Some(start) = state.find(name) {
                state.at(start, change);
            }
        });
    }

    /// Lets subscriptions of a client, and messages for it, fail.
    pub fn corrupt(&self, client: Option<Client>) {
        self.with(|state| state.faulty = client);
    }

    fn set_away(&self, is_away: bool, is_brief: bool) {
        self.with(|state| {
            (state.is_away, state.is_brief) = (is_away, is_brief);
            state.each(|node| node.set_away(is_away));
        });
    }

    /// Drops the messages that are on their way to a node. It gets [`Arrival::Gap`] in their place.
    ///
    /// [`Arrival::Gap`]: super::Arrival::Gap
    pub fn drop_arrivals(&self, name: &str) {
        self.with(|state| state.drop_arrivals(name));
    }

    /// Lets a node get [`Arrival::Missed`](super::Arrival::Missed).
    pub fn miss(&self, name: &str, tenant: &str) {
        self.with(|state| state.miss(name, tenant));
    }

    /// Lets so many messages of a node wait for other nodes that there is no room for another one,
    /// while the store is away.
    pub fn fill(&self, name: &str) {
        self.with(|state| state.fill(name));
    }

    /// Lets a node begin anew with all routes.
    pub fn reset_routes(&self, name: &str) {
        self.with(|state| state.reset_routes(name));
    }

    /// Lets time pass for sessions that expire.
    pub fn advance(&self, by: Duration) {
        self.with(|state| state.advance(by));
    }

    /// Returns the node that owns a client, unless that has ended, and whether the client is
    /// connected.
    pub fn owner(&self, client: &Client) -> Option<(Node, bool)> {
        self.with(|state| state.owner(client))
    }

    /// Returns the ownership of a client, and its session when that lasts.
    pub fn session(&self, client: &Client) -> Option<(Owned, Option<StoredSession>)> {
        self.with(|state| state.session(client))
    }

    /// Returns the number of clients of a tenant that have an owner.
    pub fn clients(&self, tenant: &str) -> usize {
        self.with(|state| state.clients(tenant).len())
    }

    /// Returns the number of will messages that are kept.
    pub fn wills(&self) -> usize {
        self.with(|state| state.wills.len())
    }

    /// Looks at or changes the state; then all that can take effect does.
    fn with<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let (result, wakers) = {
            let mut state = self.0.lock();
            state.expire();
            let result = change(&mut state);
            state.settle();
            (result, std::mem::take(&mut state.due))
        };
        wakers.into_iter().for_each(std::task::Waker::wake);
        result
    }
}
