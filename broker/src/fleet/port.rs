//! Ports to what the nodes of a fleet share.
//!
//! A session that lasts is kept by the [`SessionStore`], under its tenant and client id. One node
//! owns it: the one that its client was connected to last. Changes by a node that no longer owns it
//! have no effect, as each carries the epoch of its ownership. A message of QoS 1 or 2 for such a
//! session is appended to it by any node; the store gives it the next number of the session. Over
//! the [`Bus`], the owner receives what is appended, in the order of the numbers; and nodes send
//! each other messages for all other subscribers.

use std::fmt::Debug;
use std::ops::Bound;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use async_trait::async_trait;
use model::Nanos;

use super::{Leftover, NextTaker};
pub use crate::durable::{Progress, Subscription};

/// Name of a node.
pub type Node = Arc<str>;

/// The store does not answer, or not in time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot reach the sessions of the fleet: {reason}")]
pub struct Unavailable {
    /// The reason.
    pub reason: String,
    /// The store has answered a moment ago: it may do so again soon.
    pub is_brief: bool,
}

/// A client of a tenant.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Client {
    /// Tenant.
    pub tenant: Arc<str>,
    /// Client id.
    pub id: Arc<str>,
}

/// A node's ownership of a client and its session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owned {
    /// The client.
    pub client: Client,
    /// Id of the session, which no other session of the fleet has.
    pub session: u64,
    /// Increases with each claim of the client.
    pub epoch: u64,
}

/// The outcome of a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    /// The ownership.
    pub owned: Owned,
    /// The epoch since which the client was connected to this node alone.
    pub since: u64,
    /// The client was connected to another node, which has been told.
    pub taken_over: bool,
    /// The will message of the connection is kept.
    pub keeps_will: bool,
    /// The will message of the connection before. It is due, and this node publishes it: the client
    /// was connected to another node, or its node has ended.
    pub due_will: Option<DueWill>,
    /// The ownership of the connection before, whose will message is due, and is being published by
    /// another node, or by this one in place of another.
    pub pending_will: Option<Owned>,
    /// The session that continues; None for a new one.
    pub session: Option<StoredSession>,
}

/// A session that lasts, as the store has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoredSession {
    /// Seconds that it lasts without a connection.
    pub expiry_secs: u32,
    /// Subscriptions by filter.
    pub subscriptions: Vec<(String, Subscription)>,
    /// Messages that the client has.
    pub progress: Progress,
    /// Numbers of messages of QoS 2 that the client has, and whose exchange is not over.
    pub released: Vec<u64>,
    /// Packet ids of messages of QoS 2 from the client that it has not released.
    pub receipts: Vec<u16>,
    /// The highest number that was given.
    pub last: u64,
    /// Messages that the client does not have, and those of `released`, by number.
    pub messages: Vec<Numbered>,
    /// Messages after these were lost: there were more than the store keeps for a session.
    pub is_lost: bool,
    /// As in [`Change::Walks`].
    pub walks: Vec<(String, Option<String>)>,
}

/// A session that lasts, as an operator sees it in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredSummary {
    /// Client id.
    pub client: Arc<str>,
    /// The node that its client was connected to last.
    pub node: Option<Node>,
    /// Its client is connected to that node, which has not ended.
    pub is_connected: bool,
    /// Seconds that it lasts without a connection.
    pub expiry_secs: u32,
    /// Time until it ends; None while its client is connected, and when it does not end.
    pub expires_in: Option<Duration>,
    /// Messages that its client does not have.
    pub messages: usize,
    /// Messages of QoS 2 from the client that it has not released.
    pub receipts: usize,
    /// Number of its subscriptions.
    pub subscriptions: usize,
}

/// The end of a session whose client was away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndedAway {
    /// The node that its client was connected to last.
    pub node: Option<Node>,
    /// Messages that were discarded with it.
    pub messages: usize,
}

/// The will message of a connection, for the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredWill {
    /// Seconds between the end of the connection and its publication, unless the session ends
    /// before.
    pub delay_secs: u32,
    /// The will message, and its sender.
    pub body: Box<[u8]>,
}

/// A will message that is due, of a connection whose node does not publish it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueWill {
    /// The ownership that the connection had.
    pub owned: Owned,
    /// As in [`StoredWill`].
    pub body: Box<[u8]>,
}

/// A message on its way between nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedMessage {
    /// Topic name.
    pub topic: Box<str>,
    /// Payload.
    pub payload: Box<[u8]>,
    /// MQTT 5 properties as sent.
    pub properties: Box<[u8]>,
    /// QoS it was published with.
    pub qos: u8,
    /// It was published to be retained.
    pub retain: bool,
    /// Time of its publication: its expiry counts from then.
    pub published: Nanos,
}

/// How a session gets a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// 1 or 2.
    pub qos: u8,
    /// It is sent with the retain flag.
    pub retain: bool,
    /// Subscription ids.
    pub ids: Vec<u32>,
    /// Filter of the shared subscription that it was chosen for.
    pub share: Option<Arc<str>>,
    /// It was chosen as its client was connected. When that has left by then, or when the session
    /// has ended, the message is left over, for another member.
    pub is_for_connected: bool,
}

/// A message of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Numbered {
    /// Its number in the session: 1, 2, 3, …
    pub number: u64,
    /// How the session gets it.
    pub placed: Placed,
    /// The message.
    pub message: Arc<SharedMessage>,
}

/// A change of what the store has. Changes of one `submit` and of successive ones take effect in
/// their order. One with an [`Owned`] that is no longer the present one has no effect, and is
/// refused.
#[derive(Debug, Clone)]
pub enum Change {
    /// The session lasts this long without a connection. Before the first such change it does not
    /// last: the store knows the owner of its client only.
    Keep(Owned, u32),
    /// A subscription of a session that lasts, or its replacement; announced to all nodes.
    Subscribe(Owned, String, Subscription),
    /// The end of a subscription; announced to all nodes.
    Unsubscribe(Owned, String),
    /// A message of QoS 2 from the client that it may send again.
    Receipt(Owned, u16),
    /// The client has released that message.
    ReceiptOver(Owned, u16),
    /// Numbers of messages of QoS 2 that the client has, in place of those before; and the
    /// messages that it has.
    Released(Owned, Vec<u64>, Progress),
    /// Messages that the client has. The store may forget them.
    Progress(Owned, Progress),
    /// Filters of new subscriptions whose retained messages the client does not have yet, each with
    /// the last topic that was visited, in place of those before.
    Walks(Owned, Vec<(String, Option<String>)>),
    /// The connection has ended. A session that lasts waits: messages are appended to it and arrive
    /// nowhere until the next claim, and changes by this node still have effect. It is the node
    /// that gets [`Arrival::Taken`] all the same. Of another session nothing is left.
    Leave(Owned),
    /// The session has ended; nothing of it is left but what [`Bus::leftovers`] returns.
    End(Owned),
    /// The will message of the connection that has, or had, this ownership is published, or not
    /// due. It has no effect on one that another node is to publish.
    WillOver(Owned),
    /// A message for sessions that last. Each gets it under its next number, and its owner receives
    /// it as [`Arrival::Message`]; a session that has ended gets nothing, without a refusal. For a
    /// member of a shared subscription that has ended, the message is left over.
    Message {
        /// Tenant of all of them.
        tenant: Arc<str>,
        /// The message.
        message: Arc<SharedMessage>,
        /// Client id and session id of each, and how it gets the message.
        takers: Vec<(Arc<str>, u64, Placed)>,
        /// With it, in one step. When that has no effect, no session gets the message.
        source: Option<Source>,
    },
    /// A message that a session has left over, or has while its client is not connected, goes to
    /// its next taker, in one step. Refused when it went to one before, unless it is to be dropped;
    /// and when the taker has ended, or is not connected as it has to be: then it stays where it
    /// is.
    HandOn {
        /// The client that had it.
        from: Client,
        /// The id of its session.
        session: u64,
        /// The number of the message in it.
        number: u64,
        /// The next taker.
        to: Box<NextTaker>,
    },
    /// This node's interest in a filter, of a tenant; None ends it. Announced to all nodes.
    Interest(Arc<str>, String, Option<Interest>),
}

/// Origin of a message that is noted with it, so that sessions get it once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A message of QoS 2 from a session that lasts, with its packet id: its receipt is noted. It
    /// may be of an earlier ownership, if the client was connected to this node alone since.
    Publish(Owned, u16),
    /// The will message of the connection that had this ownership, which is over. It has an effect
    /// while this node is to publish it.
    Will(Owned),
}

/// The messages of a filter that a node asks for, besides those of sessions that last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    /// Messages of QoS 0: it has subscribers at QoS 1 or 2 whose sessions last.
    Qos0,
    /// All.
    All,
}

/// The reason why a change had no effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Its [`Owned`] was no longer the present one; or what it is about is gone.
    NotOwned,
    /// The store has failed to make it, and would again. It may have had a part of its effect.
    Fault,
}

/// The submitter of changes, whose client waits for them.
pub trait Submitter: Debug + Send + Sync {
    /// A change was refused: the client must not learn that it was made. Called before the ticket
    /// is durable.
    fn refused(&self, refusal: Refusal);
}

/// Sessions of the whole fleet. Cheap to call: `submit` does no work itself.
#[async_trait]
pub trait SessionStore: Send + Sync + 'static {
    /// Makes this node the owner of a client. If the client is connected to another node, that one
    /// gets [`Arrival::HandOver`] first and has a moment to answer; then it gets
    /// [`Arrival::Taken`]. With `clean`, a session that lasts ends; otherwise it continues. A new
    /// session has the id `new`.
    ///
    /// The store keeps `will`, if it has room, until [`Change::WillOver`]. The will message of the
    /// connection before is not kept when the client is back in time: when its session continues
    /// before the delay is over.
    ///
    /// Messages that are appended to the session from now on arrive after this has returned, or
    /// wait until [`Bus::begin`].
    ///
    /// # Errors
    /// [`Unavailable`], within a few seconds: the owner is the one before, or this node.
    async fn claim(
        &self,
        client: &Client,
        clean: bool,
        new: u64,
        will: Option<&StoredWill>,
    ) -> Result<Claimed, Unavailable>;

    /// Hands changes of one tenant to the store. Returns the ticket to wait for, which is higher
    /// than the tenant's before; those of other tenants say nothing about it. Waits for nothing:
    /// the caller asks [`SessionStore::poll_room`] before it takes more from its clients. If a
    /// change is refused, the `submitter` is called.
    fn submit_for(&self, changes: Vec<Change>, submitter: Option<Arc<dyn Submitter>>) -> u64;

    /// As [`SessionStore::submit_for`], for changes that no client waits for.
    fn submit(&self, changes: Vec<Change>) -> u64 {
        self.submit_for(changes, None)
    }

    /// True when the changes of a ticket, and all of its tenant before, are durable, or refused. No
    /// further ones become so while the store is away.
    fn is_durable(&self, ticket: u64) -> bool;

    /// Wakes `waker` when the ticket is durable; at once when it is.
    fn wake(&self, ticket: u64, waker: &Waker);

    /// Ready while few changes wait where those of a tenant go.
    fn poll_room(&self, tenant: &str, cx: &mut Context<'_>) -> Poll<()>;

    /// Waits until everything that was submitted before is durable, of all tenants.
    async fn flush(&self);

    /// Returns the messages of a session behind a number, in their order.
    ///
    /// # Errors
    /// [`Unavailable`].
    async fn messages(&self, owned: &Owned, after: u64) -> Result<Vec<Numbered>, Unavailable>;

    /// Returns at most `most` client ids of a tenant that the store knows, in their order, from a
    /// position on. The session of a client may not last.
    ///
    /// # Errors
    /// [`Unavailable`].
    async fn clients(&self, tenant: &str, from: Bound<&str>, most: usize) -> Result<Vec<Arc<str>>, Unavailable>;

    /// Returns what the store has of the sessions of these clients, of those that last and have not
    /// expired, in the order of `clients`.
    ///
    /// # Errors
    /// [`Unavailable`].
    async fn summaries(&self, tenant: &str, clients: &[Arc<str>]) -> Result<Vec<StoredSummary>, Unavailable>;

    /// Ends the session of a client that lasts, unless its client is connected to a node that has
    /// not ended. The node that it was connected to last gets [`Arrival::Taken`]. None when there
    /// is no such session.
    ///
    /// # Errors
    /// [`Unavailable`]: it may have ended.
    async fn end_away(&self, client: &Client) -> Result<Option<EndedAway>, Unavailable>;

    /// Notes that this node publishes the will message of this ownership now: no other one does
    /// while this one lives. Returns whether it is to do so.
    ///
    /// # Errors
    /// [`Unavailable`]: it may be noted.
    async fn begin_will(&self, owned: &Owned) -> Result<bool, Unavailable>;

    /// Returns whether the will message of this ownership is kept, for any node to publish.
    ///
    /// # Errors
    /// [`Unavailable`].
    async fn has_will(&self, owned: &Owned) -> Result<bool, Unavailable>;

    /// Deletes everything of a tenant.
    ///
    /// # Errors
    /// [`Unavailable`].
    async fn forget(&self, tenant: &str) -> Result<(), Unavailable>;
}

/// A message from another node for subscribers of this one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forwarded {
    /// Tenant.
    pub tenant: Arc<str>,
    /// Client id of the sender.
    pub from: Arc<str>,
    /// The message.
    pub message: Arc<SharedMessage>,
    /// It is for a member of this shared subscription only.
    pub share: Option<Arc<str>>,
    /// It goes to subscribers; otherwise it is retained only.
    pub is_routed: bool,
}

impl Forwarded {
    /// True when subscribers must not miss it without a sign.
    pub fn is_owed(&self) -> bool {
        self.is_routed && self.message.qos > 0
    }
}

/// Something for this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Arrival {
    /// A message was appended to a session that this node owns.
    Message(Owned, Numbered),
    /// Messages for a session that this node owns were lost: it has more than the store keeps.
    Lost(Owned),
    /// A client that is connected here connects to another node: what has arrived from it comes
    /// first. To be answered by [`Bus::handed_over`].
    HandOver(Client, HandOver),
    /// This node owns the client no longer, whether it is connected here or has left: a connection
    /// is closed, and what is known of the session forgotten, without a change in the store. It may
    /// come twice.
    Taken(Owned, Taking),
    /// A message from another node.
    Forwarded(Forwarded),
    /// Arrivals may have been lost: [`SessionStore::messages`] has those of sessions.
    Gap,
    /// Messages of QoS 1 or 2 from another node, for subscribers of this tenant here, were dropped
    /// there.
    Missed(Arc<str>),
}

/// The reason why a node owns a client no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taking {
    /// The client has connected to another node, where its session continues.
    Continues,
    /// The client has connected to another node with a new session.
    Anew,
    /// The session has ended: it has expired, or its tenant is gone.
    Ended,
}

/// The right to answer that a client was handed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandOver {
    /// The node that waits for it.
    pub node: Node,
    /// Its request.
    pub request: u64,
}

/// A change of the routes between nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// All routes of a pool follow, in place of those before; [`Bus::routes`] returns them
    /// together.
    Reset(usize),
    /// A subscription of a session that lasts: its client, the session's id, the filter, and
    /// whether its client is connected. None ends it.
    Session(Client, u64, String, Option<(Subscription, bool)>),
    /// A client with a shared subscription in a session that lasts has connected, or left.
    Presence(Client, bool),
    /// A session has ended, with all its subscriptions.
    Ended(Client, u64),
    /// The interest of another node in a filter, of a tenant; None ends it.
    Interest(Node, Arc<str>, String, Option<Interest>),
    /// Another node has started: it gets retained messages.
    NodeUp(Node),
    /// A node has ended, with its interests.
    NodeDown(Node),
}

/// Messages between nodes.
#[async_trait]
pub trait Bus: Send + Sync + 'static {
    /// Sends a message to nodes, behind what was submitted before. False when too much waits: then
    /// it is dropped, and the nodes get [`Arrival::Missed`] in the place of a message of QoS 1 or 2
    /// for their subscribers.
    fn forward(&self, to: &[Node], message: Forwarded) -> bool;

    /// Ready while few messages to other nodes wait where those of a tenant go, and also while the
    /// store is away: what is published then is not held up by them.
    fn poll_forward(&self, tenant: &str, cx: &mut Context<'_>) -> Poll<()>;

    /// Lets the messages of a session arrive, after its claim.
    fn begin(&self, owned: &Owned);

    /// Answers [`Arrival::HandOver`].
    fn handed_over(&self, hand_over: &HandOver);

    /// Waits for arrivals, and returns them in their order. One task calls it, again and again.
    async fn arrivals(&self) -> Vec<Arrival>;

    /// Waits for changes of routes, and returns them in their order; at first, for each pool,
    /// [`Route::Reset`] and all there are. One task calls it, again and again.
    async fn routes(&self) -> Vec<Route>;

    /// Waits for messages that sessions of a pool have left over at their end, and returns some of
    /// those of one session, in their order: the messages of its shared subscriptions that its
    /// client does not have, but for those of QoS 2 that it may have been sent (MQTT-4.8.2-5). They
    /// are returned again, also to other nodes, until [`Change::HandOn`] has handed them on; those
    /// that no node can hand on are dropped in the end. Of a client that was connected to a node as
    /// its session ended by a claim, they come a moment later: that node drops what it has sent
    /// meanwhile. One task calls it for each pool, again and again.
    async fn leftovers(&self, pool: usize) -> Vec<Leftover>;

    /// Waits for will messages that are due, of nodes of a pool that have ended, and returns some:
    /// this node publishes them. After [`Change::WillOver`] they are not returned again. Before it,
    /// they are when this node has ended, and may be after some time. One task calls it for each
    /// pool, again and again.
    async fn wills(&self, pool: usize) -> Vec<DueWill>;

    /// Lets [`Bus::routes`] return all routes again: this node may have other subscriptions of a
    /// client than the store has.
    fn renew_routes(&self);

    /// The number of pools, which are counted from 0.
    fn pools(&self) -> usize {
        1
    }

    /// True when a tenant is in a pool.
    fn is_in(&self, pool: usize, _tenant: &str) -> bool {
        pool == 0
    }
}
