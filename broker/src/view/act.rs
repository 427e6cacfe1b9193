//! Actions of an operator: clients are disconnected, sessions ended, retained messages cleared.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::Broker;
use crate::link::Link;
use crate::message::Message;
use crate::route::Dispatch;
use door::{Failed, Inbox, Intake, Retained, Sender};

/// Time that a connection has to end. It may wait for the log, and for a peer that does not read.
const GONE: Duration = Duration::from_secs(5);
/// Topics that are cleared by one write of the log.
const BATCH: usize = 256;
/// Client id of messages of an operator, for traces.
const OPERATOR: &str = "weir-operator";

/// The outcome of a disconnect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disconnected {
    /// A connection was closed.
    pub was_connected: bool,
    /// Messages that waited for the client and were discarded with its session.
    pub discarded: usize,
}

/// The outcome of clearing retained messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cleared {
    /// Topics that were cleared.
    pub topics: u64,
    /// Topics behind this one may be left; `None` when all that match are cleared.
    pub next: Option<String>,
}

impl<I: Inbox> Broker<I> {
    /// Closes the connection of a client: with MQTT 5, by a DISCONNECT with the reason 0x98. Its
    /// will message is published. With `end_session`, the session ends, too, with its subscriptions
    /// and the messages that wait, also when its client is away. Returns when the connection has
    /// left and the end of the session is durable, or after a few seconds; `None` when there is no
    /// such session here, or, without `end_session`, no connection.
    pub async fn disconnect(&self, tenant: &str, client: &str, end_session: bool) -> Option<Disconnected> {
        let tenant = self.tenants.find(tenant)?;
        let session = tenant.sessions.get(client)?;
        let (queued, link) = {
            let state = session.state();
            (state.queue.len() + state.in_flight.len(), state.link.clone())
        };
        let discarded = if end_session { queued } else { 0 };
        let Some(link) = link else {
            // In a fleet, its messages are in the store.
            let stored = if end_session { self.stored_messages(&tenant.id, client).await } else { 0 };
            if !end_session || !self.end_away(&tenant, &session) {
                return None;
            }
            self.flush_fleet().await;
            return Some(Disconnected { was_connected: false, discarded: discarded.max(stored) });
        };
        let mut gone = link.kick(end_session);
        // The connection is gone when this holds its last reference.
        drop((link, session));
        // An error is the end of it.
        tokio::time::timeout(GONE, async { while gone.changed().await.is_ok() {} }).await.ok();
        if end_session {
            self.flush_fleet().await;
        }
        Some(Disconnected { was_connected: true, discarded })
    }

    /// Returns the number of messages that the store of the fleet has for a client; 0 when it does
    /// not answer.
    async fn stored_messages(&self, tenant: &str, client: &str) -> usize {
        self.stored_session(tenant, client).await.ok().flatten().map_or(0, |of| of.messages)
    }

    async fn flush_fleet(&self) {
        if let Some(fleet) = &self.fleet
            && !fleet.flush().await
        {
            tracing::warn!("the end of a session is not stored yet: the store of sessions is away");
        }
    }

    /// Clears retained messages of a tenant whose topics match `filter` and come behind `after`, at
    /// most about `most`: as PUBLISH packets with an empty payload do, in the log first, and then
    /// for subscribers. Returns when that is durable.
    ///
    /// # Errors
    /// [`Failed`] when the log has failed, or the pool of the tenant is not known here. Topics may
    /// have been cleared before.
    pub async fn clear_retained(
        &self,
        tenant: &Arc<str>,
        filter: &str,
        after: Option<&str>,
        most: usize,
    ) -> Result<Cleared, Failed> {
        let Some(shared) = self.tenants.find(tenant) else { return Ok(Cleared { topics: 0, next: None }) };
        let sender = Sender {
            tenant: Arc::clone(tenant),
            device: None,
            meter: None,
            client: OPERATOR.into(),
            user: None,
            peer: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            protocol: "mqtt",
        };
        let mut intake = self.inbox.open(&sender);
        let mut cleared = Cleared { topics: 0, next: after.map(str::to_owned) };
        let begun = Instant::now();
        loop {
            let (messages, next) = shared.retained.some(filter, cleared.next.as_deref(), BATCH, 1);
            for message in &messages {
                intake.retain(&Retained { topic: &message.topic, payload: b"", qos: 0, properties: b"" });
            }
            if !messages.is_empty() {
                door::store(&mut intake).await?;
            }
            for message in &messages {
                let takers = self.takers(&shared, &message.topic, (0, true), OPERATOR);
                let message = Arc::new(Message::new(&message.topic, b"", 0, true, &[]));
                self.route(&shared, Dispatch::new(message, takers, &OPERATOR.into()));
            }
            cleared.topics += messages.len() as u64;
            cleared.next = next;
            // A call has an end, also when the log is slow.
            if cleared.next.is_none() || cleared.topics >= most as u64 || begun.elapsed() > GONE {
                return Ok(cleared);
            }
            tokio::task::yield_now().await;
        }
    }
}

impl Link {
    /// Asks the connection to end, and its session with it if `end_session`. The receiver is closed
    /// when it has.
    fn kick(&self, end_session: bool) -> watch::Receiver<()> {
        let gone = self.gone.get_or_init(|| watch::channel(()).0).subscribe();
        self.signal(if end_session { Self::KICKED | Self::ENDED } else { Self::KICKED });
        gone
    }
}
