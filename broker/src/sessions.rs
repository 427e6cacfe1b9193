//! All sessions by client id: taking one up, leaving it, letting it expire.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use parking_lot::Mutex;

use crate::Broker;
use crate::inbox::Inbox;
use crate::session::{Kick, Session, State};

/// All sessions.
#[derive(Debug, Default)]
pub(crate) struct Sessions(Mutex<HashMap<Arc<str>, Arc<Session>, foldhash::fast::RandomState>>);

impl Sessions {
    pub(crate) fn all(&self) -> Vec<Arc<Session>> {
        self.0.lock().values().cloned().collect()
    }
}

impl<I: Inbox> Broker<I> {
    /// Makes connection `number` the owner of the client's session; who owned it before is told. With `clean` nothing of it is
    /// kept. True when there was one to go on with.
    pub(crate) fn take_session(
        &self,
        client: &Arc<str>,
        number: u64,
        clean: bool,
        expiry_secs: u32,
    ) -> (Arc<Session>, bool) {
        let mut sessions = self.sessions.0.lock();
        let before = sessions.get(client).cloned();
        let before = before.filter(|s| s.state.lock().expires.is_none_or(|at| at > Instant::now()));
        if let Some(held) = &before
            && held.state.lock().owner != 0
        {
            held.kick(Kick::TakenOver);
        }
        let present = !clean && before.is_some();
        let session = Arc::new(Session::new(Arc::clone(client)));
        if let Some(held) = before {
            // The old connection keeps the old object, whose owner it stays until it ends; all that is to be kept moves.
            let mut old = held.state.lock();
            let filters: Vec<String> = old.subscriptions.keys().cloned().collect();
            if clean {
                filters.iter().for_each(|f| drop_subscription(self, f, client));
            } else {
                let mut new = session.state.lock();
                *new = State {
                    queue: std::mem::take(&mut old.queue),
                    in_flight: std::mem::take(&mut old.in_flight),
                    last_id: old.last_id,
                    unreleased: std::mem::take(&mut old.unreleased),
                    subscriptions: std::mem::take(&mut old.subscriptions),
                    ..State::default()
                };
                drop(new);
                for filter in &filters {
                    self.trie.replace(filter, client, &session);
                }
            }
            old.subscriptions.clear();
        }
        {
            let mut state = session.state.lock();
            state.owner = number;
            state.expiry_secs = expiry_secs;
        }
        sessions.insert(Arc::clone(client), Arc::clone(&session));
        self.metrics.sessions.set(sessions.len() as i64);
        (session, present)
    }

    /// Connection `number` has ended: its session waits for the next, or goes.
    pub(crate) fn leave_session(&self, session: &Arc<Session>, number: u64) {
        let mut sessions = self.sessions.0.lock();
        let current = sessions.get(&session.client).is_some_and(|s| Arc::ptr_eq(s, session));
        let mut state = session.state.lock();
        if !current || state.owner != number {
            return;
        }
        state.owner = 0;
        state.waker = None;
        if state.expiry_secs == 0 {
            state.subscriptions.keys().for_each(|f| drop_subscription(self, f, &session.client));
            drop(state);
            sessions.remove(&session.client);
        } else {
            // Messages in flight are sent again, first.
            state.expires = Instant::now().checked_add(Duration::from_secs(u64::from(state.expiry_secs)));
        }
        self.metrics.sessions.set(sessions.len() as i64);
    }

    /// Removes the sessions that are over.
    pub(crate) fn expire_sessions(&self) {
        let now = Instant::now();
        let mut sessions = self.sessions.0.lock();
        sessions.retain(|client, session| {
            let state = session.state.lock();
            let over = state.owner == 0 && state.expires.is_some_and(|at| at <= now);
            if over {
                state.subscriptions.keys().for_each(|f| drop_subscription(self, f, client));
            }
            !over
        });
        self.metrics.sessions.set(sessions.len() as i64);
    }

    /// True when the client has a connection other than `number`.
    pub(crate) fn is_back(&self, client: &str, number: u64) -> bool {
        self.sessions.0.lock().get(client).is_some_and(|s| {
            let owner = s.state.lock().owner;
            owner != 0 && owner != number
        })
    }
}

fn drop_subscription<I: Inbox>(broker: &Broker<I>, filter: &str, client: &str) {
    // One that is gone already is what was wanted.
    broker.trie.remove(filter, client);
}
