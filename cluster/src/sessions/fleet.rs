//! The sessions of a fleet over one Redis.

use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

use async_trait::async_trait;
use broker::fleet::{
    Arrival, Bus, Change, Claimed, Client, DueWill, EndedAway, Forwarded, HandOver, Interest, Leftover, Node, Numbered,
    Owned, Route, SessionStore, StoredSummary, StoredWill, Submitter, Unavailable,
};
use buffer::redis::{Access, AccessError, Redis};
use hashbrown::HashMap;
use parking_lot::Mutex;
use tokio::task::JoinHandle;

use super::changes::Item;
use super::claims::{self, Answers};
use super::config::Config;
use super::feed::{self, Feed};
use super::identity::Identity;
use super::inlet::Inlet;
use super::keeper::{self, Health};
use super::leftovers::{self, Leftovers};
use super::letters;
use super::local::Locals;
use super::metrics::Metrics;
use super::scripts::FORGET;
use super::summaries;
use super::tickets::Tickets;
use super::wills::{self, Wills};
use super::writer::{self, Outbox};
use crate::reply;

/// Hash tag of all keys.
const TAG: &str = "sessions";
/// Clients of one step of a deletion.
const FORGOTTEN: &str = "64";

/// Sessions and messages that the nodes of a fleet share, over the Redis of one pool.
#[derive(Debug)]
pub struct RedisFleet {
    pub(crate) shared: Arc<Shared>,
    tasks: Vec<JoinHandle<()>>,
}

/// State that the tasks share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) access: Access,
    pub(crate) config: Config,
    pub(crate) identity: Identity,
    pub(crate) outbox: Outbox,
    pub(crate) tickets: Tickets,
    pub(crate) arrivals: Arc<Inlet<Arrival>>,
    pub(crate) routes: Inlet<Route>,
    pub(crate) locals: Locals,
    pub(crate) answers: Answers,
    pub(crate) feed: Feed,
    /// Interests of this node, to be announced again after it was lost.
    pub(crate) interests: Mutex<HashMap<(Arc<str>, String), Interest>>,
    pub(crate) health: Health,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) leftovers: Leftovers,
    pub(crate) wills: Wills,
    /// Letters were missing: ownerships are to be verified.
    doubt: AtomicBool,
    /// Changes under these ownerships were refused: they are to be verified.
    doubted: Mutex<Vec<Owned>>,
}

impl Shared {
    /// Letters for this node are missing.
    pub(crate) fn gap(&self) {
        self.metrics.gaps.inc();
        self.arrivals.push([Arrival::Gap], 0);
        self.doubt.store(true, Ordering::Release);
    }

    /// Returns the ownerships to verify.
    pub(crate) fn take_doubted(&self) -> Vec<Owned> {
        let doubted = std::mem::take(&mut *self.doubted.lock());
        if self.doubt.swap(false, Ordering::AcqRel) { self.locals.all() } else { doubted }
    }

    /// All ownerships are to be verified.
    pub(crate) fn doubt(&self) {
        self.doubt.store(true, Ordering::Release);
    }

    /// An ownership is to be verified, if this node has it still.
    pub(crate) fn doubt_one(&self, owned: &Owned) {
        if self.locals.owns(owned) {
            self.doubted.lock().push(owned.clone());
        }
    }

    /// The error of a server that does not answer. It is brief until the time of a lease has
    /// passed.
    pub(crate) fn unavailable(&self, reason: String) -> Unavailable {
        Unavailable { reason, is_brief: self.health.silence() < self.config.lease }
    }

    fn submit(&self, changes: Vec<Change>, submitter: Option<Arc<dyn Submitter>>) -> u64 {
        for change in &changes {
            match change {
                Change::Leave(owned) | Change::End(owned) => self.locals.left(owned),
                Change::Interest(tenant, filter, interest) => {
                    let mut interests = self.interests.lock();
                    let name = (Arc::clone(tenant), filter.clone());
                    match interest {
                        Some(interest) => drop(interests.insert(name, *interest)),
                        None => drop(interests.remove(&name)),
                    }
                }
                _ => {}
            }
        }
        let ticket = self.tickets.issue();
        self.outbox.push(Item::Changes(changes, ticket, submitter));
        ticket
    }
}

impl Drop for RedisFleet {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl RedisFleet {
    /// Registers the node of the configuration of `redis`, in place of an earlier start of it, and
    /// starts to read what is for it.
    ///
    /// # Errors
    /// [`AccessError`] when the server does not answer.
    pub async fn open(redis: &Redis, config: Config, metrics: Arc<Metrics>) -> Result<Self, AccessError> {
        let arrivals = Arc::new(Inlet::new(config.max_arrived_bytes));
        Self::open_in(redis, config, metrics, arrivals).await
    }

    pub(crate) async fn open_in(
        redis: &Redis,
        config: Config,
        metrics: Arc<Metrics>,
        arrivals: Arc<Inlet<Arrival>>,
    ) -> Result<Self, AccessError> {
        let access = redis.access(TAG);
        let identity = Identity::new(access.node());
        let shared = Arc::new(Shared {
            access,
            identity,
            outbox: Outbox::new(&config),
            tickets: Tickets::default(),
            routes: Inlet::new(config.max_arrived_bytes),
            locals: Locals::new(Arc::clone(&arrivals)),
            arrivals,
            answers: Answers::default(),
            feed: Feed::default(),
            interests: Mutex::default(),
            health: Health::default(),
            metrics,
            leftovers: Leftovers::default(),
            wills: Wills::default(),
            doubt: AtomicBool::new(false),
            doubted: Mutex::default(),
            config,
        });
        keeper::join(&shared).await?;
        let tasks = vec![
            tokio::spawn(writer::run(Arc::clone(&shared))),
            tokio::spawn(letters::run(Arc::clone(&shared))),
            tokio::spawn(feed::run(Arc::clone(&shared))),
            tokio::spawn(keeper::run(Arc::clone(&shared))),
        ];
        Ok(Self { shared, tasks })
    }

    /// Ends the work of this node at once, as the end of its process would. For tests.
    pub fn kill(&self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }

    /// Ends the node in order: what it still owns is left. Call it when its connections have ended
    /// and what was submitted is durable.
    ///
    /// # Errors
    /// [`AccessError`]: the others find the node dead after its lease.
    pub async fn close(&self) -> Result<(), AccessError> {
        self.tasks.iter().for_each(JoinHandle::abort);
        keeper::quit(&self.shared).await
    }

    fn unavailable(&self, error: AccessError) -> Unavailable {
        self.shared.unavailable(error.reason)
    }
}

#[async_trait]
impl SessionStore for RedisFleet {
    async fn claim(
        &self,
        client: &Client,
        clean: bool,
        new: u64,
        will: Option<&StoredWill>,
    ) -> Result<Claimed, Unavailable> {
        claims::claim(&self.shared, client, clean, new, will).await
    }

    fn submit_for(&self, changes: Vec<Change>, submitter: Option<Arc<dyn Submitter>>) -> u64 {
        self.shared.submit(changes, submitter)
    }

    fn is_durable(&self, ticket: u64) -> bool {
        self.shared.tickets.durable() >= ticket
    }

    fn wake(&self, ticket: u64, waker: &Waker) {
        self.shared.tickets.wake(ticket, waker);
    }

    fn poll_room(&self, _: &str, cx: &mut Context<'_>) -> Poll<()> {
        self.shared.outbox.poll_room(cx)
    }

    async fn flush(&self) {
        self.shared.outbox.flushed().await;
    }

    async fn messages(&self, owned: &Owned, after: u64) -> Result<Vec<Numbered>, Unavailable> {
        claims::messages(&self.shared, owned, after).await.map_err(|error| self.unavailable(error))
    }

    async fn clients(&self, tenant: &str, from: Bound<&str>, most: usize) -> Result<Vec<Arc<str>>, Unavailable> {
        summaries::clients(&self.shared, tenant, from, most).await.map_err(|error| self.unavailable(error))
    }

    async fn summaries(&self, tenant: &str, clients: &[Arc<str>]) -> Result<Vec<StoredSummary>, Unavailable> {
        summaries::summaries(&self.shared, tenant, clients).await.map_err(|error| self.unavailable(error))
    }

    async fn end_away(&self, client: &Client) -> Result<Option<EndedAway>, Unavailable> {
        let ended = summaries::end_away(&self.shared, client).await;
        self.shared.leftovers.left.notify_one();
        ended.map_err(|error| self.unavailable(error))
    }

    async fn begin_will(&self, owned: &Owned) -> Result<bool, Unavailable> {
        if let Some(reason) = self.shared.health.reason() {
            return Err(self.shared.unavailable(reason));
        }
        wills::begin(&self.shared, owned).await.map_err(|error| self.unavailable(error))
    }

    async fn has_will(&self, owned: &Owned) -> Result<bool, Unavailable> {
        wills::has(&self.shared, owned).await.map_err(|error| self.unavailable(error))
    }

    async fn forget(&self, tenant: &str) -> Result<(), Unavailable> {
        let unavailable = |error| self.unavailable(error);
        loop {
            let call = FORGET.call(self.shared.access.prefix()).arg(tenant).arg(FORGOTTEN);
            let reply = self.shared.access.run_script(&FORGET, &call).await.map_err(unavailable)?;
            if reply::number(reply).map_err(unavailable)? == 0 {
                break;
            }
        }
        feed::forget(&self.shared, tenant).await.map_err(unavailable)
    }
}

#[async_trait]
impl Bus for RedisFleet {
    fn forward(&self, to: &[Node], message: Forwarded) -> bool {
        let is_taken = self.shared.outbox.forward(to, message);
        if !is_taken {
            self.shared.metrics.not_forwarded.inc();
        }
        is_taken
    }

    fn poll_forward(&self, _: &str, cx: &mut Context<'_>) -> Poll<()> {
        let room = self.shared.outbox.poll_forward(cx);
        // In this order: the writer wakes those that wait when it finds the server away.
        if room.is_pending() && self.shared.health.is_away() { Poll::Ready(()) } else { room }
    }

    fn begin(&self, owned: &Owned) {
        self.shared.locals.begin(owned);
    }

    fn handed_over(&self, hand_over: &HandOver) {
        self.shared.outbox.push(Item::HandedOver(hand_over.clone()));
    }

    fn renew_routes(&self) {
        self.shared.feed.reload();
    }

    async fn arrivals(&self) -> Vec<Arrival> {
        self.shared.arrivals.next().await
    }

    async fn leftovers(&self, _: usize) -> Vec<Leftover> {
        leftovers::next(&self.shared).await
    }

    async fn wills(&self, _: usize) -> Vec<DueWill> {
        wills::next(&self.shared).await
    }

    async fn routes(&self) -> Vec<Route> {
        self.shared.routes.next().await
    }
}
