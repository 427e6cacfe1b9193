//! The fleets of several pools as one.

use std::collections::HashSet;
use std::fmt;
use std::future::Future;
use std::ops::Bound;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use async_trait::async_trait;
use broker::fleet::{
    Arrival, Bus, Change, Claimed, Client, DueWill, EndedAway, Forwarded, HandOver, Leftover, Node, Numbered, Owned,
    Refusal, Route, SessionStore, StoredSummary, StoredWill, Submitter, Unavailable,
};
use buffer::redis::{AccessError, Redis};
use hashbrown::HashMap;
use parking_lot::Mutex;

use super::config::Config;
use super::fleet::RedisFleet;
use super::inlet::Inlet;
use super::metrics::Metrics;

/// Bit of a ticket with which the number of its pool begins.
const LANE: u32 = 48;

/// Returns the number of the pool of a tenant; None when this process does not have it.
pub type Placement = Box<dyn Fn(&str) -> Option<usize> + Send + Sync>;

/// A pool to open.
#[derive(Debug)]
pub struct Pool {
    /// Its server.
    pub redis: Redis,
    /// Its bounds.
    pub config: Config,
    /// Its metrics.
    pub metrics: Arc<Metrics>,
}

/// One fleet for each pool; the tenant decides. They share nothing that waits: a pool whose Redis
/// is away delays no other. A ticket has the number of its pool in its highest bits.
pub struct Pooled {
    lanes: Vec<RedisFleet>,
    placement: Placement,
    arrivals: Arc<Inlet<Arrival>>,
    /// Where each node is known to be up.
    nodes: Mutex<HashMap<Node, HashSet<usize>>>,
    /// Where subscriptions of tenants were found, for tenants whose place is not known otherwise.
    found: Mutex<HashMap<Arc<str>, usize>>,
}

impl fmt::Debug for Pooled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pooled").field("lanes", &self.lanes).finish_non_exhaustive()
    }
}

impl Pooled {
    /// Registers the node at the Redis of each pool: see [`RedisFleet::open`].
    ///
    /// # Errors
    /// [`AccessError`] when a server does not answer.
    pub async fn open(pools: &[Pool], placement: Placement) -> Result<Self, AccessError> {
        let most = pools.iter().map(|pool| pool.config.max_arrived_bytes).sum();
        let arrivals = Arc::new(Inlet::new(most));
        let mut lanes = Vec::new();
        for Pool { redis, config, metrics } in pools {
            let (config, metrics) = (config.clone(), Arc::clone(metrics));
            lanes.push(RedisFleet::open_in(redis, config, metrics, Arc::clone(&arrivals)).await?);
        }
        let (nodes, found) = (Mutex::default(), Mutex::default());
        Ok(Self { lanes, placement, arrivals, nodes, found })
    }

    /// Ends the node in every pool: see [`RedisFleet::close`].
    ///
    /// # Errors
    /// [`AccessError`] of the last pool that does not answer.
    pub async fn close(&self) -> Result<(), AccessError> {
        let mut outcome = Ok(());
        for lane in &self.lanes {
            outcome = lane.close().await.and(outcome);
        }
        outcome
    }

    fn number(&self, tenant: &str) -> Option<usize> {
        let lane = (self.placement)(tenant).or_else(|| self.found.lock().get(tenant).copied());
        lane.filter(|lane| *lane < self.lanes.len())
    }

    fn lane(&self, tenant: &str) -> Result<&RedisFleet, Unavailable> {
        let lane = self.number(tenant).and_then(|lane| self.lanes.get(lane));
        let reason = || format!("the pool of tenant {tenant} is not known here");
        lane.ok_or_else(|| Unavailable { reason: reason(), is_brief: false })
    }

    /// The pool of a ticket, and the ticket there.
    fn of_ticket(&self, ticket: u64) -> Option<(&RedisFleet, u64)> {
        let lane = self.lanes.get(usize::try_from(ticket >> LANE).ok()?)?;
        Some((lane, ticket & ((1 << LANE) - 1)))
    }

    /// Waits for routes of any pool.
    async fn next_routes(&self) -> (usize, Vec<Route>) {
        let mut waiting: Vec<Pin<Box<dyn Future<Output = Vec<Route>> + Send + '_>>> =
            self.lanes.iter().map(|lane| Box::pin(lane.shared.routes.next()) as _).collect();
        std::future::poll_fn(|cx| {
            for (lane, routes) in waiting.iter_mut().enumerate() {
                if let Poll::Ready(routes) = routes.as_mut().poll(cx) {
                    return Poll::Ready((lane, routes));
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Merges routes of a pool: a node is up while it is up in one.
    fn merge(&self, lane: usize, routes: Vec<Route>) -> Vec<Route> {
        let mut nodes = self.nodes.lock();
        let mut merged = Vec::new();
        // Nodes that were up there before it began anew.
        let mut before: Vec<Node> = Vec::new();
        for route in routes {
            match route {
                Route::Reset(_) => {
                    let was_up = nodes.iter_mut().filter(|(_, lanes)| lanes.contains(&lane));
                    before.extend(was_up.map(|(node, lanes)| {
                        lanes.remove(&lane);
                        Arc::clone(node)
                    }));
                    merged.push(Route::Reset(lane));
                }
                Route::NodeUp(node) => {
                    let lanes = nodes.entry(Arc::clone(&node)).or_default();
                    if lanes.is_empty() && !before.contains(&node) {
                        merged.push(Route::NodeUp(node));
                    }
                    lanes.insert(lane);
                }
                Route::NodeDown(node) => {
                    before.retain(|other| *other != node);
                    let is_left = nodes.get_mut(&node).is_some_and(|lanes| {
                        lanes.remove(&lane);
                        !lanes.is_empty()
                    });
                    // It ends the interests of all pools: what is left of them comes again.
                    merged.push(Route::NodeDown(Arc::clone(&node)));
                    nodes.remove(&node);
                    if is_left {
                        self.others_again(lane);
                    }
                }
                other => {
                    if let Route::Session(Client { tenant, .. }, ..) = &other
                        && self.lanes.len() > 1
                    {
                        self.found.lock().entry(Arc::clone(tenant)).or_insert(lane);
                    }
                    merged.push(other);
                }
            }
        }
        for node in before {
            if nodes.get(&node).is_some_and(HashSet::is_empty) {
                nodes.remove(&node);
                merged.push(Route::NodeDown(node));
            }
        }
        merged
    }

    fn others_again(&self, lane: usize) {
        let others = self.lanes.iter().enumerate().filter(|(other, _)| *other != lane);
        others.for_each(|(_, other)| other.shared.feed.reload());
    }
}

/// The tenant of a change.
fn tenant(change: &Change) -> &str {
    match change {
        Change::Keep(owned, _)
        | Change::Subscribe(owned, ..)
        | Change::Unsubscribe(owned, _)
        | Change::Receipt(owned, _)
        | Change::ReceiptOver(owned, _)
        | Change::Released(owned, ..)
        | Change::Progress(owned, _)
        | Change::Walks(owned, _)
        | Change::Leave(owned)
        | Change::End(owned)
        | Change::WillOver(owned) => &owned.client.tenant,
        Change::Message { tenant, .. } | Change::Interest(tenant, ..) => tenant,
        Change::HandOn { from, .. } => &from.tenant,
    }
}

#[async_trait]
impl SessionStore for Pooled {
    async fn claim(
        &self,
        client: &Client,
        clean: bool,
        new: u64,
        will: Option<&StoredWill>,
    ) -> Result<Claimed, Unavailable> {
        self.lane(&client.tenant)?.claim(client, clean, new, will).await
    }

    fn submit_for(&self, changes: Vec<Change>, submitter: Option<Arc<dyn Submitter>>) -> u64 {
        // The place of a tenant with a session is known: its client was claimed, or its
        // subscriptions were found.
        let number = changes.first().and_then(|change| self.number(tenant(change)));
        let Some(number) = number else {
            if !changes.is_empty() {
                tracing::debug!("changes of a tenant whose pool is not known here have no effect");
                if let Some(submitter) = submitter {
                    submitter.refused(Refusal::Fault);
                }
            }
            return 0;
        };
        (number as u64) << LANE | self.lanes[number].submit_for(changes, submitter)
    }

    fn is_durable(&self, ticket: u64) -> bool {
        self.of_ticket(ticket).is_none_or(|(lane, ticket)| lane.is_durable(ticket))
    }

    fn wake(&self, ticket: u64, waker: &Waker) {
        match self.of_ticket(ticket) {
            Some((lane, ticket)) => lane.wake(ticket, waker),
            None => waker.wake_by_ref(),
        }
    }

    fn poll_room(&self, tenant: &str, cx: &mut Context<'_>) -> Poll<()> {
        self.lane(tenant).map_or(Poll::Ready(()), |lane| lane.poll_room(tenant, cx))
    }

    async fn flush(&self) {
        for lane in &self.lanes {
            lane.flush().await;
        }
    }

    async fn messages(&self, owned: &Owned, after: u64) -> Result<Vec<Numbered>, Unavailable> {
        self.lane(&owned.client.tenant)?.messages(owned, after).await
    }

    async fn clients(&self, tenant: &str, from: Bound<&str>, most: usize) -> Result<Vec<Arc<str>>, Unavailable> {
        self.lane(tenant)?.clients(tenant, from, most).await
    }

    async fn summaries(&self, tenant: &str, clients: &[Arc<str>]) -> Result<Vec<StoredSummary>, Unavailable> {
        self.lane(tenant)?.summaries(tenant, clients).await
    }

    async fn end_away(&self, client: &Client) -> Result<Option<EndedAway>, Unavailable> {
        self.lane(&client.tenant)?.end_away(client).await
    }

    async fn begin_will(&self, owned: &Owned) -> Result<bool, Unavailable> {
        self.lane(&owned.client.tenant)?.begin_will(owned).await
    }

    async fn has_will(&self, owned: &Owned) -> Result<bool, Unavailable> {
        self.lane(&owned.client.tenant)?.has_will(owned).await
    }

    async fn forget(&self, tenant: &str) -> Result<(), Unavailable> {
        // In all of them: the place of a tenant that is gone may not be known.
        for lane in &self.lanes {
            lane.forget(tenant).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl Bus for Pooled {
    fn forward(&self, to: &[Node], message: Forwarded) -> bool {
        self.lane(&message.tenant).is_ok_and(|lane| lane.forward(to, message))
    }

    fn poll_forward(&self, tenant: &str, cx: &mut Context<'_>) -> Poll<()> {
        self.lane(tenant).map_or(Poll::Ready(()), |lane| lane.poll_forward(tenant, cx))
    }

    fn begin(&self, owned: &Owned) {
        if let Ok(lane) = self.lane(&owned.client.tenant) {
            lane.begin(owned);
        }
    }

    fn handed_over(&self, hand_over: &HandOver) {
        // Requests are unique: the node that asks knows its own.
        self.lanes.iter().for_each(|lane| lane.handed_over(hand_over));
    }

    fn renew_routes(&self) {
        self.lanes.iter().for_each(Bus::renew_routes);
    }

    async fn arrivals(&self) -> Vec<Arrival> {
        self.arrivals.next().await
    }

    async fn leftovers(&self, pool: usize) -> Vec<Leftover> {
        match self.lanes.get(pool) {
            Some(lane) => lane.leftovers(0).await,
            None => std::future::pending().await,
        }
    }

    async fn wills(&self, pool: usize) -> Vec<DueWill> {
        match self.lanes.get(pool) {
            Some(lane) => lane.wills(0).await,
            None => std::future::pending().await,
        }
    }

    fn pools(&self) -> usize {
        self.lanes.len()
    }

    fn is_in(&self, pool: usize, tenant: &str) -> bool {
        self.number(tenant) == Some(pool)
    }

    async fn routes(&self) -> Vec<Route> {
        loop {
            let (lane, routes) = self.next_routes().await;
            let merged = self.merge(lane, routes);
            if !merged.is_empty() {
                return merged;
            }
        }
    }
}
