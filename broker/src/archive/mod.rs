//! Messages that wait for sessions and are not in memory.
//!
//! ```text
//! queue:   [ head, in memory ][ ids ················· ][ newest, in memory ]
//!             ▲ read back, in time                        │ put away, once the archive has them
//!             └──────────────── the archive ◄─────────────┘
//! ```
//!
//! A message for a session that lasts has a record in the log (`$weir/messages/…`), which is in the
//! store a few seconds later: that is the archive. A queue that grows is listed, and its messages
//! are let go as soon as the archive says that it has them. So what a session costs in memory is
//! its head, what is on its way to the store, and a few bytes for each other message. The records
//! stay what they are: nothing is written for this, and a kill at any time loses nothing.
//!
//! An archive that does not answer holds up the sessions that have to read from it, and no other.
//! Messages stay in memory meanwhile, as far as that goes.

mod back;
mod follow;
mod packed;
mod run;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use foldhash::fast::RandomState;
use hashbrown::{HashMap, HashSet};
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;

pub(crate) use packed::{Entry, Packed};
pub(crate) use run::Run;

use crate::Broker;
use crate::RetainedMessage;
use crate::session::Session;
use door::Inbox;

/// Time for the archive to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Messages that the archive is asked for at a time.
const AT_ONCE: usize = 1024;
/// Messages that are read at a time, in times of those at the front of a queue.
const READ_HEADS: usize = 4;
/// Bytes of messages that are read at a time.
const READ_BYTES: usize = 512 << 10;
/// Sessions of a tenant that are read for at a time.
const READERS: usize = 4;
/// Waits after the archive has not answered.
const WAIT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// Sessions that are listed at a time because memory is short.
const HEAVIEST: usize = 64;

/// The archive does not answer, or not in time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot reach the messages that wait for sessions: {0}")]
pub struct Unreachable(pub String);

/// The store of what was given to [`door::Intake::retain`], by tenant and topic.
#[async_trait]
pub trait Archive: Send + Sync + 'static {
    /// Returns for each of these topics whether there is a message, which is durable then and can
    /// be read.
    ///
    /// # Errors
    /// [`Unreachable`].
    async fn holds(&self, tenant: &Arc<str>, topics: &[String]) -> Result<Vec<bool>, Unreachable>;

    /// Reads the messages of the first of these topics: about `most_bytes`, and one at least. None
    /// for a topic without a message.
    ///
    /// # Errors
    /// [`Unreachable`].
    async fn read(
        &self,
        tenant: &Arc<str>,
        topics: &[String],
        most_bytes: usize,
    ) -> Result<Vec<Option<RetainedMessage>>, Unreachable>;
}

/// Sessions of one tenant.
#[derive(Debug, Default)]
struct OfTenant {
    /// Their queues have grown.
    listed: Vec<Arc<Session>>,
    /// A task puts messages of those before away.
    is_busy: bool,
}

/// Puts messages away, and reads them back.
#[derive(Default)]
pub(crate) struct Pager {
    archive: OnceLock<Arc<dyn Archive>>,
    by_tenant: Mutex<HashMap<Arc<str>, OfTenant, RandomState>>,
    readers: Mutex<HashMap<Arc<str>, Arc<Semaphore>, RandomState>>,
    listed: Notify,
}

impl Pager {
    /// Notes that the queue of a session has grown.
    pub(crate) fn list(&self, tenant: &Arc<str>, session: Arc<Session>) {
        self.by_tenant.lock().entry(Arc::clone(tenant)).or_default().listed.push(session);
        self.listed.notify_one();
    }

    /// Takes the listed sessions of each tenant for which no task is busy.
    fn take(&self) -> Vec<(Arc<str>, Vec<Arc<Session>>)> {
        let mut all = self.by_tenant.lock();
        let due = all.iter_mut().filter(|(_, of)| !of.is_busy && !of.listed.is_empty());
        let begin = |(tenant, of): (&Arc<str>, &mut OfTenant)| {
            of.is_busy = true;
            (Arc::clone(tenant), std::mem::take(&mut of.listed))
        };
        due.map(begin).collect()
    }

    /// Ends the task of a tenant. The sessions that are `left` stay listed.
    fn end(&self, tenant: &Arc<str>, left: Vec<Arc<Session>>) {
        let mut all = self.by_tenant.lock();
        let of = all.entry(Arc::clone(tenant)).or_default();
        of.is_busy = false;
        of.listed.extend(left);
        if of.listed.is_empty() {
            all.remove(tenant);
        }
    }

    fn is_idle(&self) -> bool {
        self.by_tenant.lock().is_empty()
    }

    fn readers(&self, tenant: &Arc<str>) -> Arc<Semaphore> {
        let mut all = self.readers.lock();
        Arc::clone(all.entry(Arc::clone(tenant)).or_insert_with(|| Arc::new(Semaphore::new(READERS))))
    }
}

impl<I: Inbox> Broker<I> {
    /// Keeps messages that wait for sessions in memory no longer than it takes this archive to have
    /// them. To be called before [`Broker::run`].
    pub fn put_away_to(&self, archive: Arc<dyn Archive>) {
        // The first one counts.
        self.pager.archive.get_or_init(|| archive);
    }

    /// Messages in memory beyond which those of a queue are put away: those at its front twice, and
    /// as many as are read at a time.
    pub(crate) fn long_queue(&self) -> usize {
        if self.pager.archive.get().is_some() { (2 + READ_HEADS) * self.config.queue_head } else { usize::MAX }
    }

    /// True when queues hold so much that those of clients that are away need not have a head.
    fn is_half_full(&self) -> bool {
        self.memory.sessions.held() > self.memory.sessions.capacity() / 2
    }

    /// Lists the sessions that hold most of the memory of all queues.
    fn list_heaviest(&self) {
        for session in self.memory.heavy.heaviest_of(HEAVIEST) {
            let listed = session.state().list();
            if let Some(tenant) = listed {
                self.pager.list(&tenant, session);
            }
        }
    }

    /// Puts messages of listed sessions away until `stop`.
    pub(crate) async fn keep_archive(self: Arc<Self>, stop: CancellationToken) {
        let Some(archive) = self.pager.archive.get().cloned() else { return };
        let round = Duration::from_millis(self.config.put_away_ms);
        loop {
            tokio::select! {
                () = self.pager.listed.notified(), if self.pager.is_idle() => {}
                () = tokio::time::sleep(round) => {}
                () = stop.cancelled() => return,
            }
            let is_short = self.is_half_full();
            if is_short {
                self.list_heaviest();
            }
            for (tenant, sessions) in self.pager.take() {
                let (broker, archive, stop) = (Arc::clone(&self), Arc::clone(&archive), stop.clone());
                tokio::spawn(async move {
                    tokio::select! {
                        left = broker.put_away(&*archive, &tenant, sessions, is_short) => broker.pager.end(&tenant, left),
                        () = stop.cancelled() => {}
                    }
                });
            }
        }
    }

    /// Puts messages of these sessions away. Returns the sessions that stay listed.
    async fn put_away(
        &self,
        archive: &dyn Archive,
        tenant: &Arc<str>,
        sessions: Vec<Arc<Session>>,
        is_short: bool,
    ) -> Vec<Arc<Session>> {
        let (mut left, mut sessions) = (Vec::new(), sessions.into_iter());
        while let Some(session) = sessions.next() {
            match self.put_away_of(archive, tenant, &session, is_short).await {
                Ok(true) => left.push(session),
                Ok(false) => {}
                Err(error) => {
                    tracing::debug!(%tenant, "messages stay in memory: {error}");
                    left.push(session);
                    left.extend(sessions.by_ref());
                }
            }
        }
        left
    }

    /// Puts messages of a session away; when memory `is_short` and no client waits for them, all of
    /// them. True when the session stays listed.
    async fn put_away_of(
        &self,
        archive: &dyn Archive,
        tenant: &Arc<str>,
        session: &Arc<Session>,
        is_short: bool,
    ) -> Result<bool, Unreachable> {
        loop {
            let ids = {
                let state = session.state();
                let head = if is_short && state.link.is_none() { 0 } else { self.config.queue_head };
                state.queue.candidates(head, AT_ONCE)
            };
            let topics = self.journal.keys.messages(&ids);
            let asked = match topics.is_empty() {
                true => Vec::new(),
                false => in_time(archive.holds(tenant, &topics)).await?,
            };
            let held = ids.iter().zip(&asked).filter(|(_, is_held)| **is_held).map(|(id, _)| *id);
            let held: HashSet<u64, RandomState> = held.collect();
            let has_all = held.len() == ids.len();
            let mut state = session.state();
            let put_away = state.queue.put_away(&held);
            self.metrics.put_away.inc_by(put_away as u64);
            session.note(&mut state);
            if state.has_ended() || !state.queue.is_long(self.long_queue()) {
                state.queue.unlist();
                return Ok(false);
            }
            if !has_all || ids.is_empty() {
                return Ok(true);
            }
        }
    }

    /// Reads the records of messages of a session, of as many as one answer has.
    async fn read_records(
        &self,
        archive: &dyn Archive,
        tenant: &Arc<str>,
        ids: &[u64],
    ) -> Result<Vec<Option<RetainedMessage>>, Unreachable> {
        let readers = self.pager.readers(tenant);
        // It is never closed.
        let _turn = readers.acquire().await;
        in_time(archive.read(tenant, &self.journal.keys.messages(ids), READ_BYTES)).await
    }
}

/// Waits for the archive no longer than for [`PATIENCE`].
async fn in_time<T>(answer: impl Future<Output = Result<T, Unreachable>>) -> Result<T, Unreachable> {
    let late = |_| Unreachable(format!("no answer within {PATIENCE:?}"));
    tokio::time::timeout(PATIENCE, answer).await.map_err(late)?
}
