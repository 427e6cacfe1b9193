//! Messages that are read again as their turn is near.

use std::sync::Arc;

use model::Backoff;

use super::{Archive, READ_HEADS, Unreachable, WAIT};
use crate::Broker;
use crate::RetainedMessage;
use crate::config::QueueFull;
use crate::durable::{Ledger, MessageRecord};
use crate::link::Link;
use crate::message::Message;
use crate::queue::away::Contents;
use crate::session::Session;
use door::Inbox;

impl<I: Inbox> Broker<I> {
    /// Reads messages of a session whose turn is near. The session is signalled then.
    pub(crate) fn read_back(self: &Arc<Self>, session: &Arc<Session>) {
        let Some(archive) = self.pager.archive.get().cloned() else { return };
        let (broker, session) = (Arc::clone(self), Arc::clone(session));
        self.tasks.spawn(async move {
            let stopping = broker.stopping.clone();
            tokio::select! {
                () = broker.read_back_from(&*archive, &session) => {}
                () = stopping.cancelled() => {}
            }
        });
    }

    async fn read_back_from(&self, archive: &dyn Archive, session: &Arc<Session>) {
        let mut backoff = Backoff::new(WAIT.0, WAIT.1);
        let mut last = String::new();
        loop {
            let wanted = {
                let mut state = session.state();
                // With little memory, no more than the next ones: others may not have to give way.
                let most = if self.is_half_full() { 1 } else { READ_HEADS * self.config.queue_head };
                // A client that has left asks again when it is back.
                let wanted = state.link.is_some().then(|| state.queue.to_read(most)).flatten();
                if wanted.is_none() {
                    state.queue.end_read();
                }
                wanted
            };
            let Some((ledger, ids)) = wanted else { return };
            match self.read_these(archive, session, &ledger, &ids).await {
                Ok(true) => return session.signal(Link::ATTENTION),
                Ok(false) => last.clear(),
                Err(error) if error.to_string() != last => {
                    last = error.to_string();
                    tracing::warn!(client = %session.client, "messages wait: {error}");
                }
                Err(_) => {}
            }
            tokio::time::sleep(backoff.draw()).await;
        }
    }

    /// Reads messages into the queue. False when there is no memory for one of them now.
    async fn read_these(
        &self,
        archive: &dyn Archive,
        session: &Arc<Session>,
        ledger: &Arc<Ledger>,
        ids: &[u64],
    ) -> Result<bool, Unreachable> {
        let read = self.read_records(archive, &ledger.tenant, ids).await?;
        let (mut contents, mut has_memory) = (Vec::with_capacity(read.len()), true);
        for (id, read) in ids.iter().zip(read) {
            match self.contents(ledger.session, read) {
                Some(found) => contents.push((*id, found)),
                None => {
                    has_memory = false;
                    break;
                }
            }
        }
        let found = contents.iter().filter(|(_, found)| found.is_some()).count();
        self.metrics.read_back.inc_by(found as u64);
        let lost = {
            let mut state = session.state();
            let (lost, is_all) = state.queue.put_back(contents);
            has_memory &= is_all;
            // With some of them, it goes on, and asks again when it has sent them.
            let goes_on = found > 0 || lost > 0;
            if has_memory || goes_on {
                state.queue.end_read();
            }
            session.note(&mut state);
            has_memory |= goes_on;
            lost
        };
        if lost > 0 {
            self.metrics.dropped("not_in_store").inc_by(lost);
            tracing::warn!(
                client = %session.client,
                "{lost} messages that waited for a client are no longer in the store that had them"
            );
            if self.config.queue_full == QueueFull::EndSession {
                session.lose();
            }
        }
        Ok(has_memory)
    }

    /// The contents of a message for one session, with nothing in them when it cannot be read. None
    /// when there is no memory for it.
    pub(super) fn contents(&self, session: u64, read: Option<RetainedMessage>) -> Option<Option<Contents>> {
        let Some(RetainedMessage { payload, properties, published, topic: key, .. }) = read else { return Some(None) };
        let record = MessageRecord::decode(&payload).and_then(|(record, payload)| {
            let qos = record.takers.iter().map(|taker| taker.qos).max()?;
            let taker = record.takers.into_iter().find(|taker| taker.session == session && taker.share.is_none())?;
            Some((record.topic, qos, taker, payload))
        });
        let Some((topic, qos, taker, payload)) = record else {
            tracing::warn!(topic = %key, "cannot read a message that waits for a session");
            return Some(None);
        };
        let message = Message::within(&self.memory.sessions, &topic, payload, qos, false, &properties).ok()?;
        let message = Arc::new(message.published(published, model::clock::now()));
        Some(Some(Contents { message, qos: taker.qos, retain: taker.retain, subscription_ids: taker.ids }))
    }
}
