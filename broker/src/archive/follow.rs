//! Sessions that continue another one without knowing of it, as the store was away at the start.

use std::sync::Arc;
use std::time::Duration;

use model::Backoff;

use super::{AT_ONCE, Archive, READ_BYTES, Run, WAIT};
use crate::Broker;
use crate::durable::Successor;
use crate::queue::away::Contents;
use crate::route::Taker;
use crate::session::Session;
use door::Inbox;

/// Time for a session to become shorter, which gets messages of an earlier one.
const PAUSE: Duration = Duration::from_millis(500);
/// Messages in memory of a session that gets those of an earlier one.
const MOST_FOLLOWED: usize = 10_000;

impl<I: Inbox> Broker<I> {
    /// Gives a session the messages of an earlier one, which its client has continued without
    /// knowing of it, as fast as they can be put away.
    pub(crate) fn follow(self: &Arc<Self>, Successor { session, mut messages }: Successor) {
        let Some(archive) = self.pager.archive.get().cloned() else { return };
        let broker = Arc::clone(self);
        self.tasks.spawn(async move {
            let stopping = broker.stopping.clone();
            tokio::select! {
                () = broker.follow_from(&*archive, &session, &mut messages) => {}
                () = stopping.cancelled() => {}
            }
        });
    }

    async fn follow_from(&self, archive: &dyn Archive, session: &Arc<Session>, messages: &mut Run) {
        let mut backoff = Backoff::new(WAIT.0, WAIT.1);
        while messages.len() > 0 {
            let (is_over, here) = {
                let state = session.state();
                (state.has_ended(), state.queue.here())
            };
            if is_over {
                return;
            }
            let is_behind = self.journal.is_behind(&messages.ledger().tenant);
            if here > MOST_FOLLOWED || is_behind || self.memory.is_short(READ_BYTES) {
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            let tenant = Arc::clone(&messages.ledger().tenant);
            let read = match self.read_records(archive, &tenant, &messages.ids(AT_ONCE)).await {
                Ok(read) => read,
                Err(error) => {
                    tracing::debug!(client = %session.client, "messages of an earlier session wait: {error}");
                    tokio::time::sleep(backoff.draw()).await;
                    continue;
                }
            };
            for read in read {
                match self.contents(messages.ledger().session, read) {
                    Some(Some(Contents { message, qos, retain, subscription_ids })) => {
                        let taker = Taker::alone(session, qos, retain, subscription_ids);
                        self.give_to(&tenant, &message, taker, None);
                    }
                    Some(None) => self.count_dropped("not_in_store"),
                    None => break,
                }
                // After the record of the one that the session has now.
                drop(messages.pop());
            }
        }
    }
}
