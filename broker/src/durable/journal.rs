//! Changes of sessions that no client waits for, stored by one task a moment later.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashMap;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::ledger::{Ledger, StoredMessage};
use super::record::{self, Keys};
use crate::Broker;
use crate::fleet::{Change, Fleet};
use door::{Inbox, Intake, Retained, Sender};

/// Time in which changes are collected: acknowledgements come in groups.
const COLLECT: Duration = Duration::from_millis(100);
/// Records that are submitted at a time.
const AT_ONCE: usize = 4096;
/// And bytes.
const BYTES_AT_ONCE: usize = 1 << 20;

/// A record to store.
#[derive(Debug)]
pub(crate) struct Put {
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) qos: u8,
    pub(crate) properties: Vec<u8>,
}

impl Put {
    /// A record without properties; an empty one clears the topic.
    fn of(topic: String, payload: Vec<u8>) -> Self {
        Self { topic, payload, qos: 0, properties: Vec::new() }
    }
}

/// The changes of one tenant's sessions.
#[derive(Debug, Default)]
struct Changes {
    puts: Vec<Put>,
    /// Sessions whose clients have more messages than before, have left or are back.
    progress: Vec<Arc<Ledger>>,
    clears: Vec<String>,
}

/// Changes that are not stored yet.
#[derive(Debug)]
pub(crate) struct Journal {
    pub(crate) keys: Keys,
    /// The nodes that share their sessions with this one.
    fleet: Option<Arc<Fleet>>,
    waiting: Mutex<Waiting>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    by_tenant: HashMap<Arc<str>, Changes, foldhash::fast::RandomState>,
    /// The process ends: sessions that are dropped now are there at the next start.
    closed: bool,
}

impl Journal {
    /// The journal of a node.
    pub(crate) fn new(node: &str, fleet: Option<Arc<Fleet>>) -> Arc<Self> {
        Arc::new(Self { keys: Keys::new(node), fleet, waiting: Mutex::default(), changed: Notify::new() })
    }

    /// Submits a change of a session that the fleet shares.
    pub(super) fn submit(&self, change: Change) {
        if let Some(fleet) = &self.fleet {
            fleet.store.submit(vec![change]);
        }
    }

    fn change(&self, tenant: &Arc<str>, change: impl FnOnce(&mut Changes)) {
        {
            let mut waiting = self.waiting.lock();
            if waiting.closed {
                return;
            }
            change(waiting.by_tenant.entry(Arc::clone(tenant)).or_default());
        }
        self.changed.notify_one();
    }

    /// A message under this topic, whose record is cleared when no session needs it.
    pub(crate) fn stored(self: &Arc<Self>, tenant: &Arc<str>, topic: String) -> Arc<StoredMessage> {
        Arc::new(StoredMessage { topic, tenant: Arc::clone(tenant), journal: Arc::clone(self) })
    }

    /// Stores a record.
    pub(crate) fn put(&self, tenant: &Arc<str>, put: Put) {
        self.change(tenant, |changes| changes.puts.push(put));
    }

    /// Clears a record.
    pub(crate) fn clear(&self, tenant: &Arc<str>, topic: String) {
        self.change(tenant, |changes| changes.clears.push(topic));
    }

    /// Stores what has changed of a session by then.
    pub(super) fn progress(&self, tenant: &Arc<str>, ledger: Arc<Ledger>) {
        self.change(tenant, |changes| changes.progress.push(ledger));
    }

    /// Ignores changes from now on.
    pub(crate) fn close(&self) {
        let mut waiting = self.waiting.lock();
        waiting.closed = true;
        waiting.by_tenant.clear();
    }

    fn take(&self) -> impl Iterator<Item = (Arc<str>, Changes)> + use<> {
        std::mem::take(&mut self.waiting.lock().by_tenant).into_iter()
    }
}

/// The sender of these records.
fn sender(tenant: Arc<str>) -> Sender {
    Sender {
        tenant,
        device: None,
        meter: None,
        client: "$weir".into(),
        user: None,
        peer: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        protocol: "mqtt",
    }
}

impl<I: Inbox> Broker<I> {
    /// Stores changes of sessions until `last` is cancelled, and then those that are left.
    pub(crate) async fn keep_journal(self: Arc<Self>, last: CancellationToken) {
        while !last.is_cancelled() {
            tokio::select! {
                () = self.journal.changed.notified() => {}
                () = last.cancelled() => {}
            }
            tokio::select! {
                () = tokio::time::sleep(COLLECT) => {}
                () = last.cancelled() => {}
            }
            self.store_changes().await;
        }
    }

    async fn store_changes(&self) {
        for (tenant, Changes { puts, progress, clears }) in self.journal.take() {
            // In this order: a message is not cleared before the progress that is the reason.
            let mut all = puts;
            let mut shared = Vec::new();
            for ledger in progress {
                let (session, progress) = ledger.take_changes();
                if let Some(session) = session {
                    all.push(Put::of(self.journal.keys.session(ledger.session), record::encode(&session)));
                }
                let Some(progress) = progress else { continue };
                match ledger.owned() {
                    Some(owned) => shared.push(Change::Progress(owned, progress)),
                    None => all.push(Put::of(self.journal.keys.progress(ledger.session), record::encode(&progress))),
                }
            }
            if let Some(fleet) = self.fleet.as_ref().filter(|_| !shared.is_empty()) {
                fleet.store.submit(shared);
            }
            all.extend(clears.into_iter().map(|topic| Put::of(topic, Vec::new())));
            let mut all = all.into_iter().peekable();
            let mut intake = self.inbox.open(&sender(tenant));
            while all.peek().is_some() {
                let mut bytes = 0;
                for Put { topic, payload, qos, properties } in all.by_ref().take(AT_ONCE) {
                    bytes += topic.len() + payload.len() + properties.len();
                    intake.retain(&Retained { topic: &topic, payload: &payload, qos, properties: &properties });
                    if bytes > BYTES_AT_ONCE {
                        break;
                    }
                }
                if let Err(error) = door::store(&mut intake).await {
                    // Messages are sent once more after the restart that a failed log needs.
                    tracing::debug!("cannot store the progress of sessions: {error}");
                    return;
                }
            }
        }
    }
}
