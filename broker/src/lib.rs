//! MQTT in, PUBACK out.
//!
//! Receives: TCP and TLS connections of MQTT 3.1.1 and 5 clients; a [`door::Inbox`] for the
//! messages that they publish.
//! Promises: PUBACKs leave a connection in receipt order, each only after its message is durable.
//! Hands on: every PUBLISH to the inbox; messages to the subscribers of the same tenant.
//! Never: knows a reading, or the log behind the inbox; acknowledges telemetry from memory.

#[cfg_attr(not(feature = "fuzzing"), expect(unreachable_pub, reason = "the fuzz targets reach it"))]
mod codec;
mod config;
mod connection;
mod listener;
mod memory;
mod message;
mod metrics;
mod pending_wills;
mod retained;
mod route;
mod session;
mod sessions;
mod takeovers;
mod tenant;
#[cfg_attr(not(feature = "fuzzing"), expect(unreachable_pub, reason = "the fuzz targets reach it"))]
mod trie;
mod will;

/// Internals for the fuzz targets.
#[cfg(feature = "fuzzing")]
pub mod fuzzing {
    pub use crate::codec::{
        DecodeError, Framing, Version, acks, auth, check_flags, connect, encode, framing, packet_type, properties,
        publish, reason, subscribe,
    };
    pub use crate::trie::{Entry, MAX_LEVELS, Trie};
}

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use config::Config;
pub use listener::{Ports, beyond, bind};
pub use message::RetainedMessage;
pub use metrics::Metrics;
pub use takeovers::{Takeover, Takeovers};

use door::{Gatekeeper, Inbox, OneTenant};
use memory::Memory;
use tenant::Tenants;
use tls::Strangers;

/// Time after which a client that is not admitted yet gives way to any other one, when connections
/// or memory are used up.
const PATIENCE: Duration = Duration::from_secs(5);

/// The broker: the state that all connections share.
pub struct Broker<I: Inbox> {
    config: Config,
    inbox: I,
    metrics: Arc<Metrics>,
    gatekeeper: Box<dyn Gatekeeper>,
    memory: Memory,
    tenants: Tenants,
    connections: AtomicUsize,
    /// Connections whose client is not admitted yet.
    strangers: Strangers<bool>,
    /// The ones of them that hold memory of `memory.connects`.
    waiting: Strangers<()>,
    last_number: AtomicU64,
    /// Time of the start, in nanoseconds: no two starts of a node have the same.
    started: u64,
    /// Will messages of earlier starts.
    earlier: Mutex<Vec<pending_wills::Earlier>>,
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
        let memory = Memory::divide(config.memory_bytes);
        let tenants = Tenants::awaiting(config.max_retained_messages, &memory);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let started = now.map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX));
        let mut earlier = Vec::new();
        if let Some(messages) = retained {
            let (messages, wills) = pending_wills::split(messages, &config.node, started);
            tenants.restore(messages, true);
            earlier = wills;
        }
        Arc::new(Self {
            started,
            earlier: Mutex::new(earlier),
            config,
            inbox,
            metrics,
            gatekeeper,
            memory,
            tenants,
            connections: AtomicUsize::new(0),
            strangers: Strangers::new(PATIENCE),
            waiting: Strangers::new(PATIENCE),
            last_number: AtomicU64::new(0),
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
            abandon: CancellationToken::new(),
        })
    }

    /// Adds the retained messages of earlier starts that were not available at this one. Topics
    /// that were set or cleared since stay as they are. Publishes will messages of earlier starts,
    /// unless their clients are connected.
    pub async fn restore(self: &Arc<Self>, messages: Vec<RetainedMessage>) {
        self.restore_these(messages, true).await;
    }

    /// As [`Broker::restore`], with all messages of some tenants; those of others follow.
    pub async fn restore_part(self: &Arc<Self>, messages: Vec<RetainedMessage>) {
        self.restore_these(messages, false).await;
    }

    async fn restore_these(self: &Arc<Self>, messages: Vec<RetainedMessage>, is_last: bool) {
        let (messages, wills) = pending_wills::split(messages, &self.config.node, self.started);
        self.tenants.restore(messages, is_last);
        self.settle_earlier(wills).await;
    }

    /// Forgets a tenant whose credentials are no longer valid: its retained messages, its sessions
    /// and their subscriptions. A connection that is still closing leaves by itself.
    pub fn forget_tenant(&self, id: &str) {
        if let Some(tenant) = self.tenants.remove(id) {
            tenant.retained.clear();
            self.forget_sessions(&tenant);
        }
    }

    /// Returns the number of open connections.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

impl<I: Inbox> std::fmt::Debug for Broker<I> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Broker").field("connections", &self.connections()).finish_non_exhaustive()
    }
}
