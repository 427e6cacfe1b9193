//! MQTT in, PUBACK out.
//!
//! Receives: TCP connections of MQTT 3.1.1 and 5 clients; an [`inbox::Inbox`] for what they publish.
//! Promises: PUBACKs leave a connection in receipt order, each only after the inbox called its message durable.
//! Hands on: every PUBLISH to the inbox; messages to subscribers.
//! Never: knows what a reading is, or what stands behind the inbox; acknowledges from memory what is telemetry.

pub mod codec;
mod config;
mod connection;
pub mod inbox;
mod listener;
pub mod message;
pub mod metrics;
pub mod retained;
mod route;
mod session;
mod sessions;
pub mod trie;
mod will;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use config::Config;
pub use listener::bind;
pub use message::Message;
pub use metrics::Metrics;

use inbox::Inbox;
use retained::Retained;
use session::Session;
use sessions::Sessions;
use trie::Trie;

/// The broker: what all connections share.
pub struct Broker<I: Inbox> {
    config: Config,
    inbox: I,
    metrics: Arc<Metrics>,
    trie: Trie<Arc<Session>>,
    retained: Retained,
    sessions: Sessions,
    connections: AtomicUsize,
    last_number: AtomicU64,
    tasks: TaskTracker,
    /// The process stops: connections drain, wills that wait are published.
    stopping: CancellationToken,
    /// What has not drained in time is given up.
    abandon: CancellationToken,
}

impl<I: Inbox> Broker<I> {
    /// A broker that hands everything to `inbox`, with the retained messages of earlier starts; without them, [`Broker::restore`]
    /// brings them.
    pub fn new(config: Config, inbox: I, metrics: Arc<Metrics>, retained: Option<Vec<Message>>) -> Arc<Self> {
        let retained = match retained {
            Some(messages) => Retained::new(messages, config.max_retained_messages),
            None => Retained::awaiting(config.max_retained_messages),
        };
        Arc::new(Self {
            config,
            inbox,
            metrics,
            trie: Trie::default(),
            retained,
            sessions: Sessions::default(),
            connections: AtomicUsize::new(0),
            last_number: AtomicU64::new(0),
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
            abandon: CancellationToken::new(),
        })
    }

    /// Takes the retained messages of earlier starts that were not at hand at this one.
    pub fn restore(&self, messages: Vec<Message>) {
        self.retained.restore(messages);
    }

    /// Connections now.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

impl<I: Inbox> std::fmt::Debug for Broker<I> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Broker").field("connections", &self.connections()).finish_non_exhaustive()
    }
}
