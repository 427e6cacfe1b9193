//! Messages for subscribers of the whole fleet.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::RwLock;
use tokio::sync::{Notify, Semaphore};

use super::retained::{Cleared, Unsent};
use super::{Bus, Change, Forwarded, Node, Owned, Progress, SessionStore, SharedMessage, Source, Submitter, wills};
use crate::Broker;
use crate::message::Message;
use crate::metrics::Metrics;
use crate::route::Taker;
use crate::session::{Place, Receipt, State};
use crate::takeovers::TakeoverPaces;
use door::Inbox;

/// Time that a stopping process, or a will message, waits for the store.
const PATIENCE: Duration = Duration::from_secs(5);

/// The other nodes, as this one reaches them.
pub(crate) struct Fleet {
    pub(crate) store: Arc<dyn SessionStore>,
    pub(crate) bus: Arc<dyn Bus>,
    metrics: Arc<Metrics>,
    /// Nodes that run, but for this one.
    nodes: RwLock<Vec<Node>>,
    pub(super) unsent: Unsent,
    /// Notified when messages of other nodes were missed.
    pub(super) missed: Notify,
    pub(crate) cleared: Cleared,
    /// Takeovers of clients between this node and others.
    pub(crate) paces: TakeoverPaces,
    /// Turns of questions for will messages.
    pub(super) questions: Semaphore,
}

impl std::fmt::Debug for Fleet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fleet").field("nodes", &self.nodes).finish_non_exhaustive()
    }
}

/// A message that is durable, on its way to subscribers.
#[derive(Debug)]
pub(crate) struct Outgoing<'a> {
    pub(crate) message: &'a Arc<Message>,
    /// Client that sent it.
    pub(crate) from: &'a Arc<str>,
    pub(crate) source: Option<Source>,
    /// It goes to the given subscribers only, and is no new message of its topic.
    pub(crate) is_walk: bool,
    /// The connection that waits until sessions have it.
    pub(crate) submitter: Option<Arc<dyn Submitter>>,
}

/// The way that a message took.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sent {
    /// The ticket under which sessions that last have it; 0 without any.
    pub(crate) ticket: u64,
    /// Of QoS 1 or 2, it is on its way to other subscribers at other nodes.
    pub(crate) is_forwarded: bool,
}

impl Fleet {
    pub(crate) fn new(store: Arc<dyn SessionStore>, bus: Arc<dyn Bus>, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            store,
            bus,
            metrics,
            nodes: RwLock::default(),
            unsent: Unsent::default(),
            missed: Notify::new(),
            cleared: Cleared::default(),
            paces: TakeoverPaces::default(),
            questions: Semaphore::new(wills::AT_ONCE),
        })
    }

    /// Notes that a node runs, or does not.
    pub(super) fn note_node(&self, node: &Node, runs: bool) {
        let mut nodes = self.nodes.write();
        nodes.retain(|other| other != node);
        if runs {
            nodes.push(Arc::clone(node));
        }
    }

    #[cfg(any(test, feature = "testing"))]
    pub(super) fn other_nodes(&self) -> usize {
        self.nodes.read().len()
    }

    pub(super) fn keep_nodes(&self, runs: impl Fn(&Node) -> bool) {
        self.nodes.write().retain(runs);
    }

    /// Sends a message to those of its subscribers that are sessions of the fleet, or at other
    /// nodes, and takes them from `takers`. A retained one goes to every node.
    pub(crate) fn send(&self, tenant: &Arc<str>, sent: Outgoing<'_>, takers: &mut Vec<Taker>) -> Sent {
        let Outgoing { message, from, source, is_walk, submitter } = sent;
        let mut sessions = Vec::new();
        let mut nodes: Vec<Node> = Vec::new();
        let mut members = Vec::new();
        for taker in std::mem::take(takers) {
            let id = if taker.qos > 0 { taker.session.shared_id() } else { None };
            match (id, taker.session.place()) {
                (Some(id), _) => sessions.push((Arc::clone(&taker.session.client), id, taker.placed())),
                (None, Place::Here) => takers.push(taker),
                // Messages of QoS 0 go to its node.
                (None, Place::Elsewhere(_)) => {}
                (None, Place::Node(node, _)) => match &taker.share {
                    Some(share) => members.push((Arc::clone(node), Arc::clone(share))),
                    None if nodes.contains(node) => {}
                    None => nodes.push(Arc::clone(node)),
                },
            }
        }
        let is_set = message.retain && !is_walk;
        let is_retained = is_set && !self.nodes.read().is_empty();
        // Sent again to another node, it would replace a later one of its topic.
        let is_stored = !sessions.is_empty() || is_set && matches!(source, Some(Source::Publish(..)));
        if !is_stored && nodes.is_empty() && members.is_empty() && !is_retained {
            return Sent::default();
        }
        let message = share(message);
        let is_forwarded = message.qos > 0 && !(nodes.is_empty() && members.is_empty());
        if is_retained {
            let others = self.nodes.read().iter().filter(|node| !nodes.contains(node)).cloned().collect::<Vec<_>>();
            self.forward(&others, tenant, from, &message, None, false);
        }
        self.forward(&nodes, tenant, from, &message, None, true);
        for (node, share) in members {
            self.forward(&[node], tenant, from, &message, Some(share), true);
        }
        if !is_stored {
            return Sent { ticket: 0, is_forwarded };
        }
        let (tenant, takers) = (Arc::clone(tenant), sessions);
        let change = Change::Message { tenant, message, takers, source };
        Sent { ticket: self.store.submit_for(vec![change], submitter), is_forwarded }
    }

    /// Sends a retained message to every node. False when there is no room for it.
    pub(super) fn send_retained(&self, tenant: &Arc<str>, message: &Message) -> bool {
        let others = self.nodes.read().clone();
        let (tenant, from, message) = (Arc::clone(tenant), Arc::from(""), share(message));
        others.is_empty()
            || self.bus.forward(&others, Forwarded { tenant, from, message, share: None, is_routed: false })
    }

    fn forward(
        &self,
        to: &[Node],
        tenant: &Arc<str>,
        from: &Arc<str>,
        message: &Arc<SharedMessage>,
        share: Option<Arc<str>>,
        is_routed: bool,
    ) {
        if to.is_empty() {
            return;
        }
        let of = (Arc::clone(tenant), Arc::clone(from), Arc::clone(message));
        let forwarded = Forwarded { tenant: of.0, from: of.1, message: of.2, share, is_routed };
        if !self.bus.forward(to, forwarded) {
            self.metrics.dropped("fleet").inc();
            if message.retain {
                self.unsent.add(Arc::clone(tenant), message.topic.clone());
            }
        }
    }

    /// Ready when a ticket is durable; registers `waker` otherwise.
    fn poll_durable(&self, ticket: u64, waker: &Waker) -> Poll<()> {
        if self.store.is_durable(ticket) {
            return Poll::Ready(());
        }
        self.store.wake(ticket, waker);
        if self.store.is_durable(ticket) { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Waits until a ticket is durable.
    pub(super) async fn durable(&self, ticket: u64) {
        std::future::poll_fn(|cx: &mut Context<'_>| self.poll_durable(ticket, cx.waker())).await;
    }

    /// Waits until a ticket is durable, for a bounded time.
    pub(crate) async fn wait(&self, ticket: u64) -> bool {
        tokio::time::timeout(PATIENCE, self.durable(ticket)).await.is_ok()
    }

    /// Deletes what the store has of a tenant, when it answers.
    pub(crate) async fn forget(&self, tenant: &str) {
        let mut backoff = model::Backoff::new(Duration::from_millis(100), Duration::from_secs(30));
        while let Err(error) = self.store.forget(tenant).await {
            tracing::debug!(tenant, "{error}");
            tokio::time::sleep(backoff.draw()).await;
        }
    }

    /// Waits until everything that was submitted is durable, for a bounded time.
    pub(crate) async fn flush(&self) -> bool {
        tokio::time::timeout(PATIENCE, self.store.flush()).await.is_ok()
    }
}

/// Returns the changes that have to be stored before another node takes a session up: messages of
/// QoS 2 from the client, which may send them again, messages that the client has, and those of its
/// new subscriptions whose retained messages it does not have.
pub(crate) fn present_state(state: &State, owned: &Owned, progress: Progress) -> Vec<Change> {
    let stored =
        state.unreleased.iter().filter(|(id, receipt)| **receipt == Receipt::Stored && !state.receipts.contains(id));
    let mut changes: Vec<_> = stored.map(|(id, _)| Change::Receipt(owned.clone(), *id)).collect();
    if !state.walks.is_empty() {
        let walks =
            state.walks.values().map(|walk| (walk.filter.to_string(), walk.after.as_deref().map(str::to_owned)));
        changes.push(Change::Walks(owned.clone(), walks.collect()));
    }
    changes.push(Change::Progress(owned.clone(), Progress { exact: true, ..progress }));
    changes
}

/// The message as nodes give it to each other.
pub(super) fn share(message: &Message) -> Arc<SharedMessage> {
    let Message { topic, payload, properties, qos, retain, at, .. } = message;
    // Its expiry counts from its publication, also at a node whose clock differs a little.
    let published = if *at == 0 { model::clock::now() } else { *at };
    let (topic, payload, properties) = (topic.clone(), payload.clone(), properties.clone());
    Arc::new(SharedMessage { topic, payload, properties, qos: *qos, retain: *retain, published })
}

impl<I: Inbox> Broker<I> {
    /// Waits until sessions of the fleet have a message.
    pub(crate) async fn wait_for_fleet(&self, ticket: u64) {
        if let Some(fleet) = self.fleet.as_ref().filter(|_| ticket > 0)
            && !fleet.wait(ticket).await
        {
            tracing::warn!("a message is not stored for sessions of the fleet yet: the store of sessions is away");
        }
    }
}
