//! Changes of sessions that no client waits for, stored by one task a moment later, which puts
//! messages that go to another session into its queue then.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashMap;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::ledger::{Duty, Ledger, StoredMessage};
use super::record::{self, Keys};
use crate::Broker;
use crate::archive::{Entry, Packed};
use crate::fleet::{Change, Fleet};
use crate::queue::Queued;
use crate::session::Session;
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
    /// It is stored in one step with the record before it.
    pub(crate) is_bound: bool,
}

impl Put {
    /// A record without properties; an empty one clears the topic.
    fn of(topic: String, payload: Vec<u8>) -> Self {
        Self { topic, payload, qos: 0, properties: Vec::new(), is_bound: false }
    }
}

/// A message that goes to another session.
#[derive(Debug)]
pub(crate) struct Handed {
    /// Its record.
    pub(crate) put: Put,
    pub(crate) session: Arc<Session>,
    pub(crate) queued: Queued,
    /// Its place in the session that had it, until the record is stored.
    pub(crate) from: Option<Duty>,
}

/// The changes of one tenant's sessions.
#[derive(Debug, Default)]
struct Changes {
    /// Messages that go to another session, with their records.
    handed: Vec<Handed>,
    /// Sessions whose clients have more messages than before, have left or are back.
    progress: Vec<Arc<Ledger>>,
    clears: Vec<String>,
    /// Messages of sessions that have ended, which were not in memory.
    over: Vec<Packed>,
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

    /// A message with this id, whose record is cleared when no session needs it.
    pub(crate) fn stored(self: &Arc<Self>, tenant: &Arc<str>, id: u64) -> Arc<StoredMessage> {
        Arc::new(StoredMessage { id, tenant: Arc::clone(tenant), journal: Arc::clone(self) })
    }

    /// Clears the records of messages that no other session gets.
    pub(crate) fn clear_messages(&self, tenant: &Arc<str>, messages: Packed) {
        self.change(tenant, |changes| changes.over.push(messages));
    }

    /// Stores the record of a message, and puts the message into the session's queue then: its
    /// packet id must not be that of another message after a kill.
    pub(crate) fn hand(&self, tenant: &Arc<str>, handed: Handed) {
        self.change(tenant, |changes| changes.handed.push(handed));
    }

    /// True when many messages wait for their record to be stored.
    pub(crate) fn is_behind(&self, tenant: &Arc<str>) -> bool {
        self.waiting.lock().by_tenant.get(tenant).is_some_and(|changes| changes.handed.len() >= AT_ONCE)
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
        let left = {
            let mut waiting = self.waiting.lock();
            waiting.closed = true;
            std::mem::take(&mut waiting.by_tenant)
        };
        // Without the lock: messages in it note that they are done.
        drop(left);
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
        for (tenant, Changes { handed, progress, clears, over }) in self.journal.take() {
            // In this order: a message is not cleared before the progress that is the reason, nor
            // before it is that of another session.
            let (mut all, mut given) = (Vec::new(), Vec::new());
            for Handed { put, session, queued, from } in handed {
                all.push(put);
                given.push((session, queued));
                // In one step with it: the session that had the message does so no longer, also
                // when it has ended.
                let Some(Duty { ledger, .. }) = &from else { continue };
                let ledger = Arc::clone(ledger);
                drop(from);
                if ledger.is_in_log() {
                    let progress = record::encode(&ledger.progress());
                    let put = Put::of(self.journal.keys.progress(ledger.session), progress);
                    all.push(Put { is_bound: true, ..put });
                }
            }
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
            let own = |entry: &Entry| !entry.is_shared;
            let over = over.into_iter().flatten().filter(own);
            let over = over.map(|entry| Put::of(self.journal.keys.message(entry.id), Vec::new()));
            let mut all = all.into_iter().chain(over).peekable();
            let mut intake = self.inbox.open(&sender(Arc::clone(&tenant)));
            while all.peek().is_some() {
                let (mut count, mut bytes) = (0, 0);
                while let Some(put) = all.next_if(|put| put.is_bound || count < AT_ONCE && bytes <= BYTES_AT_ONCE) {
                    let Put { topic, payload, qos, properties, .. } = put;
                    (count, bytes) = (count + 1, bytes + topic.len() + payload.len() + properties.len());
                    intake.retain(&Retained { topic: &topic, payload: &payload, qos, properties: &properties });
                }
                if let Err(error) = door::store(&mut intake).await {
                    // Messages are sent once more after the restart that a failed log needs.
                    tracing::debug!("cannot store the progress of sessions: {error}");
                    return;
                }
            }
            if given.is_empty() {
                continue;
            }
            let tenant = self.tenants.get(&tenant);
            for (session, queued) in given {
                self.put_into(&tenant, &session, queued, false, &self.bounds(&session));
            }
        }
    }
}
