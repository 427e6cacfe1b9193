//! MQTT in, PUBACK out.
//!
//! Receives: connections of MQTT 3.1, 3.1.1 and 5 clients over TCP, TLS, WebSocket and Unix
//! sockets; a [`door::Inbox`] for the messages that they publish; an [`Archive`] of what it has
//! stored by it.
//! Promises: PUBACKs leave a connection in receipt order, each only after its message is durable.
//! Hands on: every PUBLISH to the inbox; messages to the subscribers of the same tenant; pages of
//! what it holds to an operator.
//! Never: knows a reading, or the log behind the inbox; acknowledges telemetry from memory.

mod archive;
mod arrivals;
#[cfg_attr(not(feature = "fuzzing"), expect(unreachable_pub, reason = "the fuzz targets reach it"))]
mod codec;
mod config;
mod connection;
mod drain;
mod durable;
pub mod fleet;
mod heavy;
mod in_flight;
mod internal;
mod link;
mod listener;
mod memory;
mod message;
mod metrics;
mod pending_wills;
mod queue;
mod retained;
mod route;
mod session;
mod sessions;
mod share;
mod sys;
mod takeovers;
mod tenant;
#[cfg_attr(not(feature = "fuzzing"), expect(unreachable_pub, reason = "the fuzz targets reach it"))]
mod trie;
mod unread;
mod view;
mod websocket;
mod will;

/// Internals for the fuzz targets.
#[cfg(feature = "fuzzing")]
pub mod fuzzing {
    pub use crate::codec::{
        DecodeError, Framing, Version, acks, auth, check_flags, connect, encode, framing, packet_type, properties,
        publish, reason, subscribe,
    };
    pub use crate::listener::proxy;
    pub use crate::trie::{Chosen, Entry, MAX_LEVELS, Subscriber, Trie};
    pub use crate::websocket::{answer_request, frame};
}

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::time::Duration;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use archive::{Archive, Unreachable};
pub use config::{Config, QueueFull};
pub use drain::{DrainError, DrainReport};
pub use durable::Earlier;
pub use listener::{Listener, ListenerReport, Listeners, Ports, Settings, Socket, beyond, bind, bind_unix};
pub use message::RetainedMessage;
pub use metrics::Metrics;
pub use takeovers::{Takeover, Takeovers};
pub use view::{
    Cleared, ConnectionReport, Disconnected, Page, RetainedPayload, RetainedReport, SessionQuery, SessionReport,
    StoredSubscription, SubscriptionQuery, SubscriptionReport,
};
pub use websocket::Origins;

use door::{Gatekeeper, Inbox, OneTenant};
use drain::Drain;
use listener::{PATIENCE, Pace, Room};
use memory::Memory;
use sys::Sys;
use tenant::Tenants;
use tls::Strangers;
use unread::Unread;

/// The broker: the state that all connections share.
pub struct Broker<I: Inbox> {
    config: Config,
    inbox: I,
    metrics: Arc<Metrics>,
    gatekeeper: Box<dyn Gatekeeper>,
    memory: Memory,
    tenants: Tenants,
    arrivals: Arc<arrivals::Arrivals>,
    /// Places for connections.
    room: Room,
    /// The rate at which addresses connect.
    connect_pace: Pace,
    /// The rate at which all addresses together connect.
    all_connects: Pace,
    drain: Drain,
    /// Connections of clients inside of this process.
    attached: AtomicUsize,
    /// Clients that are not admitted yet and hold memory of `memory.connects`.
    waiting: Strangers<()>,
    last_number: AtomicU64,
    /// The nodes that share their sessions with this one.
    fleet: Option<Arc<fleet::Fleet>>,
    /// Changes of sessions that outlast the process.
    journal: Arc<durable::Journal>,
    /// Messages for them that are not in memory.
    pager: archive::Pager,
    /// Id of the last such session.
    last_session: AtomicU64,
    /// Id of the last message for such sessions.
    last_message: AtomicU64,
    /// The sessions of earlier starts are known.
    unread: Unread,
    /// Time of the start, in nanoseconds: no two starts of a node have the same.
    started: u64,
    /// Will messages of earlier starts.
    earlier: Mutex<Vec<pending_wills::Earlier>>,
    sys: Sys,
    tasks: TaskTracker,
    /// The process is stopping: connections drain, pending will messages are published.
    stopping: CancellationToken,
    /// Connections that have not drained in time are dropped.
    abandon: CancellationToken,
}

impl<I: Inbox> Broker<I> {
    /// Returns a broker for one tenant that hands everything to `inbox`, with the retained messages
    /// of earlier starts; with None, [`Broker::restore`] brings them.
    pub fn new(config: Config, inbox: I, metrics: Arc<Metrics>, retained: Option<Vec<RetainedMessage>>) -> Arc<Self> {
        Self::with_gatekeeper(config, inbox, Box::new(OneTenant::default()), metrics, retained)
    }

    /// As [`Broker::new`], with a `gatekeeper` that decides the tenant of each client.
    pub fn with_gatekeeper(
        config: Config,
        inbox: I,
        gatekeeper: Box<dyn Gatekeeper>,
        metrics: Arc<Metrics>,
        retained: Option<Vec<RetainedMessage>>,
    ) -> Arc<Self> {
        Self::build(config, inbox, gatekeeper, (metrics, None), retained)
    }

    /// As [`Broker::with_gatekeeper`], one of several nodes, which share their sessions and give
    /// each other messages.
    pub fn in_fleet(
        config: Config,
        inbox: I,
        gatekeeper: Box<dyn Gatekeeper>,
        metrics: Arc<Metrics>,
        retained: Option<Vec<RetainedMessage>>,
        (store, bus): (Arc<dyn fleet::SessionStore>, Arc<dyn fleet::Bus>),
    ) -> Arc<Self> {
        let fleet = fleet::Fleet::new(store, bus, Arc::clone(&metrics));
        Self::build(config, inbox, gatekeeper, (metrics, Some(fleet)), retained)
    }

    fn build(
        config: Config,
        inbox: I,
        gatekeeper: Box<dyn Gatekeeper>,
        (metrics, fleet): (Arc<Metrics>, Option<Arc<fleet::Fleet>>),
        retained: Option<Vec<RetainedMessage>>,
    ) -> Arc<Self> {
        let memory = Memory::divide(config.memory_bytes);
        let tenants = Tenants::awaiting(config.max_retained_messages, &memory);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let started = now.map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX));
        let journal = durable::Journal::new(&config.node, fleet.clone());
        let room = Room::new(config.max_connections);
        let connect_pace = Pace::new(config.address_connects_per_second);
        let all_connects = Pace::new(config.connects_per_second);
        let broker = Self {
            started,
            earlier: Mutex::default(),
            fleet,
            journal,
            pager: archive::Pager::default(),
            last_session: AtomicU64::new(started),
            last_message: AtomicU64::new(started),
            unread: Unread::default(),
            config,
            inbox,
            metrics,
            gatekeeper,
            memory,
            tenants,
            arrivals: Arc::default(),
            room,
            connect_pace,
            all_connects,
            drain: Drain::default(),
            attached: AtomicUsize::new(0),
            waiting: Strangers::new(PATIENCE),
            last_number: AtomicU64::new(0),
            sys: Sys::new(),
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
            abandon: CancellationToken::new(),
        };
        if let Some(messages) = retained {
            broker.begin_with(broker.whole(messages));
        }
        Arc::new(broker)
    }

    /// Begins with the state of earlier starts: as [`Broker::new`] with all messages, and before
    /// [`Broker::run`].
    pub fn begin_with(&self, earlier: Earlier) {
        let (wills, _) = self.restore_state(earlier, true);
        // No client has come before.
        *self.earlier.lock() = wills;
    }

    /// Adds the retained messages of earlier starts that were not available at this one. Topics
    /// that were set or cleared since stay as they are. Publishes will messages of earlier starts,
    /// unless their clients are connected.
    pub async fn restore(self: &Arc<Self>, messages: Vec<RetainedMessage>) {
        self.restore_these(self.whole(messages), true).await;
    }

    /// As [`Broker::restore`], with all messages of some tenants; those of others follow.
    pub async fn restore_part(self: &Arc<Self>, earlier: Earlier) {
        self.restore_these(earlier, false).await;
    }

    fn whole(&self, messages: Vec<RetainedMessage>) -> Earlier {
        let mut earlier = Earlier::of(&self.config.node);
        earlier.messages = messages;
        earlier
    }

    async fn restore_these(self: &Arc<Self>, earlier: Earlier, is_last: bool) {
        let (wills, successors) = self.restore_state(earlier, is_last);
        successors.into_iter().for_each(|successor| self.follow(successor));
        self.settle_earlier(wills).await;
    }

    /// Restores retained messages and sessions. Returns the will messages of earlier starts, and
    /// sessions of clients that have come before.
    fn restore_state(&self, earlier: Earlier, is_last: bool) -> (Vec<pending_wills::Earlier>, Vec<durable::Successor>) {
        let Earlier { messages, waiting, .. } = earlier;
        let (messages, sessions) = durable::sort(messages, &self.journal.keys);
        let (messages, wills) = pending_wills::split(messages, &self.config.node, self.started);
        self.tenants.restore(messages, is_last);
        let successors = self.restore_sessions(sessions, waiting);
        if is_last {
            self.unread.end();
        }
        (wills, successors)
    }

    /// Forgets a tenant whose credentials are no longer valid: its retained messages, its sessions
    /// and their subscriptions. A connection that is still closing leaves by itself.
    pub fn forget_tenant(&self, id: &str) {
        if let Some(tenant) = self.tenants.remove(id) {
            tenant.retained.clear();
            self.forget_sessions(&tenant);
        }
        if let Some(fleet) = self.fleet.clone() {
            let (id, stopping) = (id.to_owned(), self.stopping.clone());
            self.tasks.spawn(async move {
                tokio::select! {
                    () = fleet.forget(&id) => {}
                    () = stopping.cancelled() => {}
                }
            });
        }
    }

    /// Returns the numbers of sessions and of subscriptions that a tenant has.
    pub fn kept(&self, tenant: &str) -> (usize, usize) {
        self.tenants.find(tenant).map_or((0, 0), |tenant| (tenant.sessions.len(), tenant.subscriptions()))
    }

    /// Returns the number of open connections.
    pub fn connections(&self) -> usize {
        self.room.open()
    }

    fn connect_timeout(&self) -> Duration {
        Duration::from_millis(self.config.connect_timeout_ms)
    }
}

impl<I: Inbox> std::fmt::Debug for Broker<I> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Broker").field("connections", &self.connections()).finish_non_exhaustive()
    }
}
