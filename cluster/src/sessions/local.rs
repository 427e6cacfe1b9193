//! Clients that this node owns, and the gate for what arrives for them.
//!
//! What arrives for a client between its claim and [`broker::fleet::Bus::begin`] is held back. It
//! is bounded by the messages that are stored for a session.

use std::sync::Arc;

use broker::fleet::{Arrival, Client, Owned, Taking};
use hashbrown::HashMap;
use parking_lot::Mutex;

use super::inlet::Inlet;

/// Clients of this node.
#[derive(Debug)]
pub(crate) struct Locals {
    clients: Mutex<HashMap<Client, Local>>,
    arrivals: Arc<Inlet<Arrival>>,
}

#[derive(Debug, Default)]
struct Local {
    /// The ownership of the last claim.
    owned: Option<Owned>,
    /// Its arrivals are wanted.
    has_begun: bool,
    /// Claims that have no outcome yet.
    claims: usize,
    held: Vec<(Arrival, usize)>,
}

impl Local {
    fn is_empty(&self) -> bool {
        self.claims == 0 && self.owned.is_none() && self.held.is_empty()
    }

    fn epoch(&self) -> Option<u64> {
        self.owned.as_ref().map(|owned| owned.epoch)
    }

    /// Where an arrival of an ownership goes now.
    fn way(&self, epoch: u64, arrival: &Arrival) -> Way {
        let is_present = self.epoch() == Some(epoch);
        match is_present && self.has_begun {
            true => Way::Through,
            false if is_present || self.claims > 0 => Way::Held,
            // A node that has left a client is told as well that it has lost it.
            false if matches!(arrival, Arrival::Taken(..)) => Way::Through,
            // It hands messages of shared subscriptions on.
            false if matches!(arrival, Arrival::Message(_, message) if message.placed.share.is_some()) => Way::Through,
            false => Way::Nowhere,
        }
    }
}

enum Way {
    Through,
    Held,
    Nowhere,
}

fn epoch(arrival: &Arrival) -> Option<u64> {
    match arrival {
        Arrival::Message(owned, _) | Arrival::Lost(owned) | Arrival::Taken(owned, _) => Some(owned.epoch),
        _ => None,
    }
}

impl Locals {
    pub(crate) fn new(arrivals: Arc<Inlet<Arrival>>) -> Self {
        Self { clients: Mutex::default(), arrivals }
    }

    /// A claim begins: what arrives for the client is held back.
    pub(crate) fn claiming(&self, client: &Client) {
        self.clients.lock().entry_ref(client).or_default().claims += 1;
    }

    /// A claim has ended. Without an ownership, the one before stays.
    pub(crate) fn claimed(&self, client: &Client, owned: Option<&Owned>) {
        let mut clients = self.clients.lock();
        let Some(local) = clients.get_mut(client) else { return };
        local.claims = local.claims.saturating_sub(1);
        if let Some(owned) = owned
            && local.epoch().is_none_or(|epoch| epoch < owned.epoch)
        {
            local.owned = Some(owned.clone());
            local.has_begun = false;
        }
        self.release(&mut clients, client);
    }

    /// Lets the arrivals of an ownership through.
    pub(crate) fn begin(&self, owned: &Owned) {
        let mut clients = self.clients.lock();
        let Some(local) = clients.get_mut(&owned.client) else { return };
        if local.owned.as_ref() == Some(owned) {
            local.has_begun = true;
        }
        self.release(&mut clients, &owned.client);
    }

    /// Lets through what is no longer to be held back.
    fn release(&self, clients: &mut HashMap<Client, Local>, client: &Client) {
        let Some(local) = clients.get_mut(client) else { return };
        for (arrival, bytes) in std::mem::take(&mut local.held) {
            self.pass(local, arrival, bytes);
        }
        if local.is_empty() {
            clients.remove(client);
        }
    }

    fn pass(&self, local: &mut Local, arrival: Arrival, bytes: usize) {
        let Some(epoch) = epoch(&arrival) else { return };
        match local.way(epoch, &arrival) {
            Way::Through => {
                if matches!(arrival, Arrival::Taken(..)) && local.epoch() == Some(epoch) {
                    (local.owned, local.has_begun) = (None, false);
                }
                self.arrivals.push([arrival], bytes);
            }
            Way::Held => local.held.push((arrival, bytes)),
            Way::Nowhere => {}
        }
    }

    /// The node gives an ownership up.
    pub(crate) fn left(&self, owned: &Owned) {
        let mut clients = self.clients.lock();
        let Some(local) = clients.get_mut(&owned.client) else { return };
        if local.epoch().is_some_and(|present| present <= owned.epoch) {
            (local.owned, local.has_begun) = (None, false);
        }
        self.release(&mut clients, &owned.client);
    }

    /// Passes an arrival on, or holds it back, or drops it when the node no longer owns the client.
    pub(crate) fn arrive(&self, owned: &Owned, arrival: Arrival, bytes: usize) {
        let mut clients = self.clients.lock();
        match clients.get_mut(&owned.client) {
            Some(local) => {
                self.pass(local, arrival, bytes);
                if local.is_empty() {
                    clients.remove(&owned.client);
                }
            }
            None => self.pass(&mut Local::default(), arrival, bytes),
        }
    }

    /// True when arrivals of a client go through, so that there may be something to hand over.
    pub(crate) fn has_begun(&self, client: &Client) -> bool {
        self.clients.lock().get(client).is_some_and(|local| local.has_begun)
    }

    /// True when this is the ownership of the last claim, and was not given up.
    pub(crate) fn owns(&self, owned: &Owned) -> bool {
        self.clients.lock().get(&owned.client).is_some_and(|local| local.owned.as_ref() == Some(owned))
    }

    /// Returns all ownerships.
    pub(crate) fn all(&self) -> Vec<Owned> {
        self.clients.lock().values().filter_map(|local| local.owned.clone()).collect()
    }

    /// The node no longer owns anything: its clients are taken, and their sessions continue.
    pub(crate) fn lose_all(&self) {
        for owned in self.all() {
            let arrival = Arrival::Taken(owned.clone(), Taking::Continues);
            self.arrive(&owned, arrival, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(epoch: u64) -> Owned {
        let client = Client { tenant: "t".into(), id: "c".into() };
        Owned { client, session: 1, epoch }
    }

    async fn arrived(locals: &Locals) -> Vec<Arrival> {
        // A mark behind all.
        locals.arrivals.push([Arrival::Gap], 0);
        let mut all = locals.arrivals.next().await;
        assert_eq!(all.pop(), Some(Arrival::Gap));
        all
    }

    #[tokio::test]
    async fn what_arrives_before_begin_comes_after_it_and_only_that_of_the_last_claim() {
        let locals = Locals::new(Arc::new(Inlet::new(1 << 20)));
        let (first, second) = (owned(5), owned(7));
        locals.claiming(&first.client);
        locals.arrive(&first, Arrival::Lost(first.clone()), 10);
        locals.claimed(&first.client, Some(&first));
        assert_eq!(arrived(&locals).await, []);
        locals.begin(&first);
        assert_eq!(arrived(&locals).await, [Arrival::Lost(first.clone())]);

        // The first connection keeps its arrivals until the second claim has succeeded.
        locals.claiming(&first.client);
        locals.arrive(&first, Arrival::Lost(first.clone()), 10);
        assert_eq!(arrived(&locals).await, [Arrival::Lost(first.clone())]);
        locals.claimed(&first.client, None);
        locals.claiming(&first.client);
        locals.arrive(&second, Arrival::Lost(second.clone()), 10);
        locals.claimed(&first.client, None);
        assert_eq!(arrived(&locals).await, [], "the outcome of a claim that is not this node's");
        locals.claiming(&first.client);
        locals.claimed(&first.client, Some(&second));
        locals.arrive(&first, Arrival::Lost(first.clone()), 10);
        locals.begin(&first);
        locals.arrive(&second, Arrival::Taken(second.clone(), Taking::Anew), 0);
        assert_eq!(arrived(&locals).await, []);
        locals.left(&first);
        locals.begin(&second);
        assert_eq!(arrived(&locals).await, [Arrival::Taken(second.clone(), Taking::Anew)]);
        assert!(locals.clients.lock().is_empty(), "a taken client is forgotten");
    }

    #[tokio::test]
    async fn only_its_loss_arrives_for_a_client_that_has_left() {
        let locals = Locals::new(Arc::new(Inlet::new(1 << 20)));
        let first = owned(5);
        locals.claiming(&first.client);
        locals.claimed(&first.client, Some(&first));
        locals.begin(&first);
        locals.left(&first);
        locals.arrive(&first, Arrival::Lost(first.clone()), 10);
        let taken = Arrival::Taken(first.clone(), Taking::Ended);
        locals.arrive(&first, taken.clone(), 10);
        assert_eq!(arrived(&locals).await, [taken]);
        assert!(locals.clients.lock().is_empty());
    }
}
