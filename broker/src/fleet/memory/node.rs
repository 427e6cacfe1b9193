//! A node of the fleet in memory: both ports.

use std::ops::Bound;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::MemoryFleet;
use super::queues::Waits;
use super::state::{Start, State};
use crate::fleet::{
    Arrival, Bus, Change, Claimed, Client, DueWill, EndedAway, Forwarded, HandOver, Leftover, Node, Numbered, Owned,
    Route, SessionStore, StoredSummary, StoredWill, Submitter, Unavailable,
};

/// Time that the owner of a client has to read what has arrived from it.
const HAND_OVER: Duration = Duration::from_secs(1);

/// A node. It does nothing after it was killed.
#[derive(Debug)]
pub struct MemoryNode {
    fleet: MemoryFleet,
    name: Node,
    start: Start,
    arrived: Arc<Notify>,
    routed: Arc<Notify>,
    left: Arc<Notify>,
    willed: Arc<Notify>,
}

impl MemoryNode {
    pub(super) fn new(
        fleet: MemoryFleet,
        name: Node,
        (start, [arrived, routed, left, willed]): (Start, [Arc<Notify>; 4]),
    ) -> Self {
        Self { fleet, name, start, arrived, routed, left, willed }
    }

    /// Lets no change of this node become durable. Changes take effect all the same.
    pub fn hold(&self) {
        self.fleet.with(|state| state.at(self.start, |node| node.is_held = true));
    }

    /// Lets changes become durable again.
    pub fn release(&self) {
        self.fleet.with(|state| state.at(self.start, |node| node.is_held = false));
    }

    /// Cuts this node off from the store, or ends that: claims fail, changes wait, nothing arrives.
    pub fn away(&self, is_away: bool) {
        self.fleet.with(|state| state.at(self.start, |node| node.set_away(is_away)));
    }

    /// Waits until `take` has something, looking again when there is news or a session expires.
    async fn wait<T>(&self, news: &Notify, mut take: impl FnMut(&mut State, Start) -> Vec<T>) -> Vec<T> {
        loop {
            let (taken, expires) = self.fleet.with(|state| (take(state, self.start), state.next_time()));
            if !taken.is_empty() {
                return taken;
            }
            let expired = async {
                match expires {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = news.notified() => {}
                () = expired => {}
            }
        }
    }
}

#[async_trait]
impl SessionStore for MemoryNode {
    async fn claim(
        &self,
        client: &Client,
        clean: bool,
        new: u64,
        will: Option<&StoredWill>,
    ) -> Result<Claimed, Unavailable> {
        let answer = self.fleet.with(|state| state.ask(self.start, &self.name, client))?;
        if let Some(answer) = answer {
            // An error is the end of the owner.
            tokio::time::timeout_at(Instant::now() + HAND_OVER, answer).await.ok();
            let mut held = self.fleet.with(|state| state.handed_over_held.subscribe());
            held.wait_for(|are_held| !are_held).await.ok();
        }
        let (claimed, mut held) =
            self.fleet.with(|state| (state.claim(self.start, client, clean, new, will), state.claims_held.subscribe()));
        // An error is the end of the fleet.
        held.wait_for(|are_held| !are_held).await.ok();
        claimed
    }

    fn submit_for(&self, changes: Vec<Change>, submitter: Option<Arc<dyn Submitter>>) -> u64 {
        self.fleet.with(|state| state.submit(self.start, changes, submitter))
    }

    fn is_durable(&self, ticket: u64) -> bool {
        self.fleet.with(|state| state.durable(self.start)) >= ticket
    }

    fn wake(&self, ticket: u64, waker: &Waker) {
        self.fleet.with(|state| state.wake(self.start, ticket, waker));
    }

    fn poll_room(&self, _: &str, cx: &mut Context<'_>) -> Poll<()> {
        self.fleet.with(|state| state.poll_room(self.start, cx.waker()))
    }

    async fn flush(&self) {
        let ticket = self.submit(Vec::new());
        std::future::poll_fn(|cx| {
            self.wake(ticket, cx.waker());
            if self.is_durable(ticket) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    async fn messages(&self, owned: &Owned, after: u64) -> Result<Vec<Numbered>, Unavailable> {
        self.fleet.with(|state| state.messages(self.start, owned, after))
    }

    async fn clients(&self, tenant: &str, from: Bound<&str>, most: usize) -> Result<Vec<Arc<str>>, Unavailable> {
        self.fleet.with(|state| state.client_ids(self.start, tenant, from, most))
    }

    async fn summaries(&self, tenant: &str, clients: &[Arc<str>]) -> Result<Vec<StoredSummary>, Unavailable> {
        self.fleet.with(|state| state.summaries(self.start, tenant, clients))
    }

    async fn end_away(&self, client: &Client) -> Result<Option<EndedAway>, Unavailable> {
        self.fleet.with(|state| state.end_away(self.start, client))
    }

    async fn begin_will(&self, owned: &Owned) -> Result<bool, Unavailable> {
        self.fleet.with(|state| state.begin_will(self.start, owned))
    }

    async fn has_will(&self, owned: &Owned) -> Result<bool, Unavailable> {
        self.fleet.with(|state| state.has_will(self.start, owned))
    }

    async fn forget(&self, tenant: &str) -> Result<(), Unavailable> {
        self.fleet.with(|state| state.forget(self.start, tenant))
    }
}

#[async_trait]
impl Bus for MemoryNode {
    fn forward(&self, to: &[Node], message: Forwarded) -> bool {
        self.fleet.with(|state| state.forward(self.start, to, message))
    }

    fn poll_forward(&self, _: &str, _: &mut Context<'_>) -> Poll<()> {
        // Nothing waits unless the store is away.
        Poll::Ready(())
    }

    fn begin(&self, owned: &Owned) {
        self.fleet.with(|state| state.begin(self.start, owned.epoch));
    }

    fn handed_over(&self, hand_over: &HandOver) {
        self.fleet.with(|state| state.put(self.start, Waits::HandedOver(hand_over.request)));
    }

    fn renew_routes(&self) {
        self.fleet.reset_routes(&self.name);
    }

    async fn arrivals(&self) -> Vec<Arrival> {
        self.wait(&self.arrived, State::take_arrivals).await
    }

    async fn leftovers(&self, _: usize) -> Vec<Leftover> {
        self.wait(&self.left, State::take_leftovers).await
    }

    async fn wills(&self, _: usize) -> Vec<DueWill> {
        self.wait(&self.willed, State::take_wills).await
    }

    async fn routes(&self) -> Vec<Route> {
        self.wait(&self.routed, State::take_routes).await
    }
}
