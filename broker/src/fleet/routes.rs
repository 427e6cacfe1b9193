//! Subscribers of other nodes: what this node knows of them, in the tree of subscriptions.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use foldhash::fast::RandomState;
use hashbrown::{HashMap, HashSet};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::{Client, Fleet, Interest, Node, Route, Subscription};
use crate::Broker;
use crate::codec::subscribe::{self, Options, RetainHandling};
use crate::session::{Place, Session};
use crate::tenant::Tenant;
use crate::trie::{Entry, MAX_LEVELS};
use door::Inbox;

/// Subscribers of other nodes, in the order of the client ids of their entries, so that a list
/// continues behind one.
#[derive(Debug, Default)]
pub(crate) struct Strangers {
    held: Mutex<BTreeMap<Arc<str>, Stranger>>,
    /// Their subscriptions.
    count: AtomicUsize,
}

impl Strangers {
    /// Returns the number of their subscriptions.
    pub(crate) fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Calls `visit` for clients with sessions that last, from a client id on, each with its
    /// subscriptions, until it returns false. None is added or removed meanwhile.
    pub(crate) fn walk(&self, from: Bound<&str>, mut visit: impl FnMut(&Arc<str>, &BTreeMap<String, How>) -> bool) {
        for (id, held) in self.held.lock().range::<str, _>((from, Bound::Unbounded)) {
            if matches!(held.session.place(), Place::Elsewhere(_)) && !visit(id, &held.filters) {
                break;
            }
        }
    }

    fn add(&self, subscriptions: usize) {
        self.count.fetch_add(subscriptions, Ordering::Relaxed);
    }

    fn take(&self, subscriptions: usize) {
        self.count.fetch_sub(subscriptions, Ordering::Relaxed);
    }
}

/// A subscriber of another node.
#[derive(Debug)]
struct Stranger {
    session: Arc<Session>,
    filters: BTreeMap<String, How>,
    /// Its client was connected when that was announced last.
    is_connected: bool,
}

/// Subscriptions by the client id of their entries and their filter.
type Announced<'a> = HashSet<(Arc<str>, &'a str), RandomState>;

/// Options and id of a subscription.
pub(crate) type How = (Options, Option<u32>);

impl Stranger {
    fn entry(&self, (options, id): How) -> Entry<Arc<Session>> {
        Entry { client: Arc::clone(&self.session.client), subscriber: Arc::clone(&self.session), options, id }
    }
}

/// The client id of the entries of a node, which no client has.
fn entry_of(node: &Node, interest: Interest) -> Arc<str> {
    let kind = if interest == Interest::All { "all" } else { "qos0" };
    format!("$weir/nodes/{kind}/{node}").into()
}

impl Tenant {
    /// Adds a subscription of another node's subscriber, whose place no session here has. False
    /// when there is no memory for it.
    fn add_stranger(&self, id: &Arc<str>, place: Place, filter: &str, how: How) -> bool {
        let mut strangers = self.strangers.held.lock();
        if strangers.get(id).is_some_and(|held| *held.session.place() != place) {
            self.drop_entries(strangers.remove(id), false);
        }
        let held = strangers.entry(Arc::clone(id)).or_insert_with(|| Stranger {
            session: Arc::new(Session::elsewhere(Arc::clone(id), place)),
            filters: BTreeMap::new(),
            is_connected: false,
        });
        let added = self.trie.insert(filter, held.entry(how)).is_ok();
        if added {
            let is_new = held.filters.insert(filter.to_owned(), how).is_none();
            self.strangers.add(is_new.into());
        } else if held.filters.is_empty() {
            strangers.remove(id);
        }
        added
    }

    fn remove_stranger(&self, id: &Arc<str>, filter: &str, is_held: bool) {
        let mut strangers = self.strangers.held.lock();
        let Some(held) = strangers.get_mut(id) else { return };
        if held.filters.remove(filter).is_some() {
            self.strangers.take(1);
            if !is_held {
                self.trie.remove(filter, id);
            }
        }
        if held.filters.is_empty() {
            strangers.remove(id);
        }
    }

    fn drop_entries(&self, stranger: Option<Stranger>, is_held: bool) {
        let Some(Stranger { session, filters, .. }) = stranger else { return };
        self.strangers.take(filters.len());
        for filter in filters.keys().filter(|_| !is_held) {
            self.trie.remove(filter, &session.client);
        }
    }

    /// Forgets a subscriber of another node, whose session is here now: with these subscriptions.
    pub(crate) fn replace_stranger(&self, id: &Arc<str>, by: &BTreeSet<String>) {
        let Some(Stranger { filters, .. }) = self.strangers.held.lock().remove(id) else { return };
        self.strangers.take(filters.len());
        for filter in filters.keys().filter(|filter| !by.contains(*filter)) {
            self.trie.remove(filter, id);
        }
    }

    /// Puts back the subscriptions of a subscriber of another node: a session here had their place,
    /// and has ended.
    pub(crate) fn return_entries(&self, id: &str) {
        let strangers = self.strangers.held.lock();
        let Some(held) = strangers.get(id) else { return };
        for (filter, how) in &held.filters {
            // The memory of the ones before was just returned.
            self.trie.insert(filter, held.entry(*how)).ok();
            self.trie.set_connected(filter, id, held.is_connected);
        }
    }

    fn drop_strangers(&self, wanted: impl Fn(&Place) -> bool) {
        let gone: Vec<_> = {
            let mut strangers = self.strangers.held.lock();
            let ids: Vec<_> = strangers.iter().filter(|(_, held)| wanted(held.session.place())).collect();
            let ids: Vec<_> = ids.into_iter().map(|(id, _)| Arc::clone(id)).collect();
            ids.into_iter().filter_map(|id| strangers.remove_entry(&id)).collect()
        };
        for (id, stranger) in gone {
            self.sessions.while_held(&id, |is_held| self.drop_entries(Some(stranger), is_held));
        }
    }

    /// Forgets subscriptions of other nodes' subscribers that are not among the `announced` ones:
    /// client id of the entry and filter.
    fn keep_announced(&self, announced: &Announced<'_>) {
        let mut gone = Vec::new();
        for (id, held) in &*self.strangers.held.lock() {
            let is_gone = |filter: &&String| !announced.contains(&(Arc::clone(id), &***filter));
            gone.extend(held.filters.keys().filter(is_gone).map(|filter| (Arc::clone(id), filter.clone())));
        }
        for (id, filter) in gone {
            self.sessions.while_held(&id, |is_held| self.remove_stranger(&id, &filter, is_held));
        }
    }

    /// True when a client is connected to another node, as far as this one knows.
    pub(crate) fn is_connected_elsewhere(&self, id: &str) -> bool {
        self.strangers.held.lock().get(id).is_some_and(|held| held.is_connected)
    }

    /// Returns the shared subscriptions with a member that has connected.
    fn set_presence(&self, id: &Arc<str>, connected: bool) -> Vec<String> {
        let mut strangers = self.strangers.held.lock();
        let Some(held) = strangers.get_mut(id) else { return Vec::new() };
        held.is_connected = connected;
        let shares: Vec<String> = held.filters.keys().filter(|filter| filter.starts_with("$share/")).cloned().collect();
        shares.iter().for_each(|filter| self.trie.set_connected(filter, id, connected));
        if connected { shares } else { Vec::new() }
    }
}

/// Keeps the subscriptions of a session that was here, as those of another node's subscriber. Call
/// it with the tenant's sessions held.
pub(crate) fn keep_routes(tenant: &Tenant, client: &Arc<str>, session: u64, filters: &[String]) {
    for filter in filters {
        let Some(how) = tenant.trie.options(filter, client) else { continue };
        tenant.add_stranger(client, Place::Elsewhere(session), filter, how);
        tenant.trie.set_connected(filter, client, false);
    }
}

/// The options of a node's interest: it decides for each of its subscribers.
const ANY: Options =
    Options { qos: 2, no_local: false, retain_as_published: true, retain_handling: RetainHandling::Never };

impl<I: Inbox> Broker<I> {
    /// Follows the subscriptions of the fleet until `stop`. Drops `first` when it knows all there
    /// were at the start.
    pub(crate) async fn follow_routes(
        self: Arc<Self>,
        fleet: Arc<Fleet>,
        first: oneshot::Sender<()>,
        stop: CancellationToken,
    ) {
        let mut first = Some(first);
        let mut missing_pools: BTreeSet<usize> = (0..fleet.bus.pools()).collect();
        loop {
            let routes = tokio::select! {
                routes = fleet.bus.routes() => routes,
                () = stop.cancelled() => return,
            };
            let mut missing = 0_usize;
            let mut routes = routes.as_slice();
            while let Some((route, rest)) = routes.split_first() {
                match route {
                    Route::Reset(pool) => {
                        self.forget_others(&fleet, *pool, rest);
                        missing_pools.remove(pool);
                    }
                    route => missing += usize::from(!self.follow_route(&fleet, route.clone())),
                }
                routes = rest;
            }
            if missing_pools.is_empty() && first.take().is_some() {
                for pool in 0..fleet.bus.pools() {
                    tokio::spawn(Arc::clone(&self).hand_on_leftovers(Arc::clone(&fleet), pool, stop.clone()));
                    tokio::spawn(Arc::clone(&self).publish_due_wills(Arc::clone(&fleet), pool, stop.clone()));
                }
            }
            if missing > 0 {
                self.metrics.dropped("fleet_routes").inc_by(missing as u64);
                tracing::warn!(
                    "no memory for {missing} subscriptions of other nodes: their messages from here are lost; raise \
                     `memory.max_bytes`"
                );
            }
        }
    }

    /// Forgets subscribers and nodes that are not among `all` routes of a pool. The others stay
    /// where they are: messages are published meanwhile.
    fn forget_others(&self, fleet: &Fleet, pool: usize, all: &[Route]) {
        let mut announced: HashMap<&str, Announced<'_>, RandomState> = HashMap::default();
        let mut nodes = BTreeSet::new();
        // Those of another pool come behind them.
        let of_another = all.iter().position(|route| matches!(route, Route::Reset(_)));
        for route in &all[..of_another.unwrap_or(all.len())] {
            let (tenant, entry) = match route {
                Route::Session(client, _, filter, Some(_)) => (&client.tenant, (Arc::clone(&client.id), &**filter)),
                Route::Interest(node, tenant, filter, Some(interest)) => {
                    (tenant, (entry_of(node, *interest), &**filter))
                }
                Route::NodeUp(node) => {
                    nodes.insert(node);
                    continue;
                }
                _ => continue,
            };
            announced.entry(tenant).or_default().insert(entry);
        }
        for tenant in self.tenants.all().iter().filter(|tenant| fleet.bus.is_in(pool, &tenant.id)) {
            tenant.keep_announced(announced.get(&*tenant.id).unwrap_or(&HashSet::default()));
        }
        if fleet.bus.pools() == 1 {
            // Of several, the bus knows where each node is.
            fleet.keep_nodes(|node| nodes.contains(node));
        }
    }

    /// False when there is no memory for it.
    fn follow_route(&self, fleet: &Fleet, route: Route) -> bool {
        match route {
            // Followed with all that come behind it.
            Route::Reset(_) => {}
            Route::Session(Client { tenant, .. }, _, filter, Some(_)) | Route::Interest(_, tenant, filter, Some(_))
                if !subscribe::is_accepted(&filter) =>
            {
                tracing::warn!(
                    %tenant,
                    "a subscription of another node is left out: its filter is malformed or has more than \
                     {MAX_LEVELS} levels"
                );
            }
            Route::Session(client, session, filter, Some((subscription, connected))) => {
                return self.add_session(&client, session, &filter, subscription, connected);
            }
            Route::Session(Client { tenant, id }, _, filter, None) => {
                let tenant = self.tenants.get(&tenant);
                tenant.sessions.while_held(&id, |is_held| tenant.remove_stranger(&id, &filter, is_held));
            }
            Route::Presence(Client { tenant, id }, connected) => {
                let tenant = self.tenants.get(&tenant);
                let shares = tenant.set_presence(&id, connected);
                self.collect_shared(&tenant, &shares);
            }
            Route::Ended(Client { tenant, id }, session) => {
                let tenant = self.tenants.get(&tenant);
                tenant.sessions.while_held(&id, |is_held| {
                    let mut strangers = tenant.strangers.held.lock();
                    if strangers.get(&id).is_some_and(|held| *held.session.place() == Place::Elsewhere(session)) {
                        tenant.drop_entries(strangers.remove(&id), is_held);
                    }
                });
            }
            Route::Interest(node, tenant, filter, interest) => {
                let tenant = self.tenants.get(&tenant);
                // The new one first: no message is between.
                let mut added = true;
                if let Some(interest) = interest {
                    let (id, place) = (entry_of(&node, interest), Place::Node(Arc::clone(&node), interest));
                    added = tenant.add_stranger(&id, place, &filter, (ANY, None));
                }
                for other in [Interest::All, Interest::Qos0].into_iter().filter(|other| Some(*other) != interest) {
                    tenant.remove_stranger(&entry_of(&node, other), &filter, false);
                }
                if interest.is_some() {
                    self.collect_for(&tenant, &filter);
                }
                return added;
            }
            Route::NodeUp(node) => {
                fleet.note_node(&node, true);
                fleet.send_cleared();
            }
            Route::NodeDown(node) => {
                fleet.note_node(&node, false);
                let is_of = |place: &Place| matches!(place, Place::Node(of, _) if *of == node);
                self.tenants.all().iter().for_each(|tenant| tenant.drop_strangers(is_of));
            }
        }
        true
    }

    fn add_session(&self, client: &Client, session: u64, filter: &str, how: Subscription, connected: bool) -> bool {
        let tenant = self.tenants.get(&client.tenant);
        // No connection takes the session up meanwhile.
        let (place, how) = (Place::Elsewhere(session), how.read());
        let (added, is_held) = tenant.sessions.while_held(&client.id, |is_held| {
            // One that is here has its entries, and is announced when it has left.
            (is_held || tenant.add_stranger(&client.id, place, filter, how), is_held)
        });
        if let Some(held) = tenant.strangers.held.lock().get_mut(&client.id) {
            held.is_connected = connected;
        }
        if !connected && !is_held {
            tenant.trie.set_connected(filter, &client.id, false);
        } else if connected && !is_held {
            self.collect_for(&tenant, filter);
        }
        added
    }

    /// Gives messages that members who are away hold here to the one that has come.
    fn collect_for(&self, tenant: &Tenant, filter: &str) {
        if filter.starts_with("$share/") {
            self.collect_shared(tenant, &[filter.to_owned()]);
        }
    }
}

#[cfg(any(test, feature = "testing"))]
impl<I: Inbox> Broker<I> {
    /// Returns the number of subscriptions of other nodes that are known here, for a tenant.
    pub fn routes(&self, tenant: &str) -> usize {
        self.tenants.find(tenant).map_or(0, |tenant| tenant.strangers.len())
    }

    /// Returns the number of other nodes of the fleet that run, as known here.
    pub fn other_nodes(&self) -> usize {
        self.fleet.as_ref().map_or(0, |fleet| fleet.other_nodes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Memory;
    use crate::tenant::Tenants;

    const SHARE: &str = "$share/g/n";

    #[test]
    fn a_member_whose_session_here_has_ended_is_connected_as_it_was_announced() {
        let tenants = Tenants::awaiting(0, &Memory::divide(64 << 20));
        let tenant = tenants.get(&"t".into());
        let id = "far".into();
        tenant.add_stranger(&id, Place::Elsewhere(1), SHARE, (ANY, None));
        for connected in [true, false] {
            tenant.set_presence(&id, connected);
            // A session here has its entries, and ends.
            tenant.trie.remove(SHARE, &id);
            tenant.return_entries(&id);
            assert_eq!(tenant.trie.has_connected(SHARE, "near"), connected);
        }
    }
}
