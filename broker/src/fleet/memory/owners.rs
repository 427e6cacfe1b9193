//! The owners of clients, and the sessions that last.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::state::{Start, State};
use crate::fleet::{
    Arrival, Claimed, Client, EndedAway, HandOver, Node, Numbered, Owned, Progress, Route, StoredSession,
    StoredSummary, StoredWill, Subscription, Taking, Unavailable,
};

/// A client that has an owner.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) owner: Start,
    pub(super) owned: Owned,
    /// The epoch since which the client was connected to its owner alone.
    pub(super) since: u64,
    pub(super) is_connected: bool,
    /// End of a session without a connection.
    pub(super) expires: Option<Instant>,
    /// Present in a session that lasts.
    pub(super) kept: Option<Kept>,
}

impl Held {
    /// True when its session lasts.
    fn lasts(&self) -> bool {
        self.kept.as_ref().is_some_and(|kept| kept.expiry_secs > 0)
    }
}

/// A session that lasts.
#[derive(Debug, Default)]
pub(super) struct Kept {
    pub(super) expiry_secs: u32,
    pub(super) subscriptions: BTreeMap<String, Subscription>,
    pub(super) progress: Progress,
    pub(super) released: Vec<u64>,
    pub(super) receipts: BTreeSet<u16>,
    pub(super) last: u64,
    pub(super) messages: BTreeMap<u64, Numbered>,
    pub(super) is_lost: bool,
    pub(super) walks: Vec<(String, Option<String>)>,
}

impl Kept {
    pub(super) fn has_shares(&self) -> bool {
        self.subscriptions.keys().any(|filter| filter.starts_with("$share/"))
    }

    fn stored(&self) -> StoredSession {
        StoredSession {
            expiry_secs: self.expiry_secs,
            subscriptions: self.subscriptions.iter().map(|(filter, options)| (filter.clone(), *options)).collect(),
            progress: self.progress.clone(),
            released: self.released.clone(),
            receipts: self.receipts.iter().copied().collect(),
            last: self.last,
            messages: self.messages.values().cloned().collect(),
            is_lost: self.is_lost,
            walks: self.walks.clone(),
        }
    }
}

impl State {
    /// Asks the owner of a client that is connected elsewhere to hand it over.
    pub(super) fn ask(
        &mut self,
        start: Start,
        name: &Node,
        client: &Client,
    ) -> Result<Option<oneshot::Receiver<()>>, Unavailable> {
        self.reaching(start)?;
        let Some(held) = self.held.get(client).filter(|held| held.is_connected && held.owner != start) else {
            return Ok(None);
        };
        let owner = held.owner;
        self.last_request += 1;
        let request = self.last_request;
        let (answer, waiting) = oneshot::channel();
        self.requests.insert(request, (owner, answer));
        let hand_over = HandOver { node: Arc::clone(name), request };
        self.at(owner, |node| node.arrive(Arrival::HandOver(client.clone(), hand_over)));
        Ok(Some(waiting))
    }

    pub(super) fn claim(
        &mut self,
        start: Start,
        client: &Client,
        clean: bool,
        new: u64,
        will: Option<&StoredWill>,
    ) -> Result<Claimed, Unavailable> {
        self.reaching(start)?;
        self.requests.retain(|_, (_, waiting)| !waiting.is_closed());
        self.last_epoch += 1;
        let epoch = self.last_epoch;
        let mut taken_over = false;
        let mut session = None;
        let continues = !clean && self.held.get(client).is_some_and(Held::lasts);
        let (due_will, pending_will) = self.succeed_will(start, client, continues);
        if let Some((owner, owned, is_connected)) =
            self.held.get(client).map(|held| (held.owner, held.owned.clone(), held.is_connected))
        {
            taken_over = is_connected && owner != start;
            self.take_away(owner, start, owned, if continues { Taking::Continues } else { Taking::Anew });
            if continues {
                session = self.take_up(start, client, epoch);
            } else {
                self.end_at(client, None, is_connected);
            }
        }
        let held = self.held.entry(client.clone()).or_insert_with(|| {
            let owned = Owned { client: client.clone(), session: new, epoch };
            Held { owner: start, owned, since: epoch, is_connected: true, expires: None, kept: None }
        });
        let (owned, since) = (held.owned.clone(), held.since);
        self.at(start, |node| {
            node.beginning.insert(epoch, Vec::new());
        });
        if let Some(will) = will {
            self.keep_will(start, &owned, will);
        }
        Ok(Claimed { owned, since, taken_over, keeps_will: will.is_some(), due_will, pending_will, session })
    }

    /// Ends an ownership: another node gets [`Arrival::Taken`].
    fn take_away(&mut self, owner: Start, by: Start, owned: Owned, taking: Taking) {
        let epoch = owned.epoch;
        self.at(owner, |node| {
            // Its messages are those of the next owner.
            if owner == by {
                node.beginning.remove(&epoch);
            } else {
                node.beginning.entry(epoch).and_modify(Vec::clear);
                node.arrive_at(epoch, Arrival::Taken(owned, taking));
            }
        });
    }

    /// Lets a session continue at a node.
    fn take_up(&mut self, start: Start, client: &Client, epoch: u64) -> Option<StoredSession> {
        let held = self.held.get_mut(client)?;
        let was_connected = std::mem::replace(&mut held.is_connected, true);
        if held.owner != start || !was_connected {
            held.since = epoch;
        }
        (held.owner, held.owned.epoch) = (start, epoch);
        if let Some(at) = held.expires.take() {
            self.expiring.remove(&(at, client.clone()));
        }
        let stored = held.kept.as_ref().map(Kept::stored);
        if !was_connected && held.kept.as_ref().is_some_and(Kept::has_shares) {
            self.announce(None, &Route::Presence(client.clone(), true));
        }
        stored
    }

    /// Ends the connection of a client.
    pub(super) fn leave(&mut self, client: &Client) {
        let Some(held) = self.held.get_mut(client).filter(|held| held.is_connected) else { return };
        held.is_connected = false;
        let owned = held.owned.clone();
        self.await_will(&owned);
        let Some(held) = self.held.get(client) else { return };
        let Some(kept) = held.kept.as_ref().filter(|kept| kept.expiry_secs > 0) else {
            return self.end(client, None);
        };
        let has_shares = kept.has_shares();
        let (owner, epoch) = (held.owner, held.owned.epoch);
        self.at(owner, |node| {
            node.beginning.entry(epoch).and_modify(Vec::clear);
        });
        self.await_expiry(client);
        if has_shares {
            self.announce(None, &Route::Presence(client.clone(), false));
        }
    }

    /// Notes the end of a session whose client is not connected, from now on.
    pub(super) fn await_expiry(&mut self, client: &Client) {
        let now = self.now();
        let Some(held) = self.held.get_mut(client) else { return };
        let Some(kept) = &held.kept else { return };
        let at = now + Duration::from_secs(u64::from(kept.expiry_secs));
        if let Some(before) = held.expires.replace(at) {
            self.expiring.remove(&(before, client.clone()));
        }
        self.expiring.insert((at, client.clone()));
        self.notify_all();
    }

    /// Ends a session. Its owner gets [`Arrival::Taken`] when it does not know.
    pub(super) fn end(&mut self, client: &Client, taking: Option<Taking>) {
        self.end_at(client, taking, false);
    }

    /// Its owner may be sending its messages at this moment, if it `is_sending`.
    fn end_at(&mut self, client: &Client, taking: Option<Taking>, is_sending: bool) {
        let Some(Held { owner, owned, expires, kept, .. }) = self.held.remove(client) else { return };
        self.end_will(&owned);
        if let Some(at) = expires {
            self.expiring.remove(&(at, client.clone()));
        }
        if let Some(kept) = kept {
            self.announce(None, &Route::Ended(client.clone(), owned.session));
            self.leave_over(client.clone(), owned.session, kept, is_sending);
        }
        if let Some(taking) = taking {
            self.arrive(owner, owned.epoch, Arrival::Taken(owned, taking));
        }
    }

    pub(super) fn forget(&mut self, start: Start, tenant: &str) -> Result<(), Unavailable> {
        self.reaching(start)?;
        self.forget_wills(tenant);
        for client in self.clients(tenant) {
            self.end(&client, Some(Taking::Ended));
        }
        self.forget_leftovers(tenant);
        let starts: Vec<Start> = self.nodes.keys().copied().collect();
        for start in starts {
            let Some(node) = self.nodes.get_mut(&start) else { continue };
            let name = Arc::clone(&node.name);
            let (ended, rest) =
                std::mem::take(&mut node.interests).into_iter().partition(|((of, _), _)| **of == *tenant);
            node.interests = rest;
            let ended: BTreeMap<_, _> = ended;
            for ((tenant, filter), _) in ended {
                self.announce(Some(start), &Route::Interest(Arc::clone(&name), tenant, filter, None));
            }
        }
        Ok(())
    }

    pub(super) fn clients(&self, tenant: &str) -> Vec<Client> {
        let from = Client { tenant: tenant.into(), id: "".into() };
        self.held
            .range(from..)
            .map(|(client, _)| client)
            .take_while(|client| *client.tenant == *tenant)
            .cloned()
            .collect()
    }

    pub(super) fn client_ids(
        &mut self,
        start: Start,
        tenant: &str,
        from: Bound<&str>,
        most: usize,
    ) -> Result<Vec<Arc<str>>, Unavailable> {
        self.reaching(start)?;
        let client = |id: &str| Client { tenant: tenant.into(), id: id.into() };
        let from = match from {
            Bound::Unbounded => Bound::Included(client("")),
            from => from.map(client),
        };
        let clients = self.held.range((from, Bound::Unbounded)).map(|(client, _)| client);
        let of_tenant = clients.take_while(|client| *client.tenant == *tenant);
        Ok(of_tenant.take(most).map(|client| Arc::clone(&client.id)).collect())
    }

    pub(super) fn summaries(
        &mut self,
        start: Start,
        tenant: &str,
        clients: &[Arc<str>],
    ) -> Result<Vec<StoredSummary>, Unavailable> {
        self.reaching(start)?;
        let now = self.now();
        let summary = |id: &Arc<str>| {
            let held = self.held.get(&Client { tenant: tenant.into(), id: Arc::clone(id) })?;
            let kept = held.kept.as_ref().filter(|kept| kept.expiry_secs > 0)?;
            Some(StoredSummary {
                client: Arc::clone(id),
                node: self.nodes.get(&held.owner).map(|node| Arc::clone(&node.name)),
                is_connected: held.is_connected,
                expiry_secs: kept.expiry_secs,
                expires_in: held.expires.map(|at| at.saturating_duration_since(now)),
                messages: kept.messages.len(),
                receipts: kept.receipts.len(),
                subscriptions: kept.subscriptions.len(),
            })
        };
        Ok(clients.iter().filter_map(summary).collect())
    }

    pub(super) fn end_away(&mut self, start: Start, client: &Client) -> Result<Option<EndedAway>, Unavailable> {
        self.reaching(start)?;
        let ended = self.held.get(client).filter(|held| !held.is_connected).and_then(|held| {
            let node = self.nodes.get(&held.owner).map(|node| Arc::clone(&node.name));
            held.kept.as_ref().map(|kept| EndedAway { node, messages: kept.messages.len() })
        });
        if ended.is_some() {
            self.end(client, Some(Taking::Ended));
        }
        Ok(ended)
    }

    pub(super) fn owner(&self, client: &Client) -> Option<(Node, bool)> {
        let held = self.held.get(client)?;
        Some((Arc::clone(&self.nodes.get(&held.owner)?.name), held.is_connected))
    }

    pub(super) fn session(&self, client: &Client) -> Option<(Owned, Option<StoredSession>)> {
        self.held.get(client).map(|held| (held.owned.clone(), held.kept.as_ref().map(Kept::stored)))
    }
}
