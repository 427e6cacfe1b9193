//! All sessions by client id: taking one up, leaving it, letting it expire.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use parking_lot::Mutex;

use crate::Broker;
use crate::inbox::Inbox;
use crate::session::{Link, Session, State};

/// All sessions.
#[derive(Debug, Default)]
pub(crate) struct Sessions(Mutex<HashMap<Arc<str>, Arc<Session>, foldhash::fast::RandomState>>);

impl Sessions {
    pub(crate) fn all(&self) -> Vec<Arc<Session>> {
        self.0.lock().values().cloned().collect()
    }
}

impl<I: Inbox> Broker<I> {
    /// Makes the connection behind `link` the owner of the client's session; who owned it before is told. With `clean` nothing of
    /// it is kept. True when there was one to go on with.
    pub(crate) fn take_session(
        &self,
        client: &Arc<str>,
        link: &Arc<Link>,
        clean: bool,
        expiry_secs: u32,
    ) -> (Arc<Session>, bool) {
        let mut sessions = self.sessions.0.lock();
        if let Some(held) = sessions.get(client) {
            let mut state = held.state();
            if let Some(owner) = state.link.take() {
                owner.signal(Link::TAKEN_OVER);
            }
            if clean || state.expires.is_some_and(|at| at <= Instant::now()) {
                self.end_session(&mut state, client);
            } else {
                state.link = Some(Arc::clone(link));
                state.expiry_secs = expiry_secs;
                state.expires = None;
                state.on_the_wire = 0;
                if let Some(will) = state.will.take() {
                    // It may have been published this very moment.
                    will.send(()).ok();
                }
                drop(state);
                return (Arc::clone(held), true);
            }
        }
        let session = Arc::new(Session::new(Arc::clone(client), Arc::clone(link), expiry_secs));
        sessions.insert(Arc::clone(client), Arc::clone(&session));
        self.metrics.sessions.set(sessions.len() as i64);
        (session, false)
    }

    /// The connection behind `link` has ended: its session waits for the next, or goes.
    pub(crate) fn leave_session(&self, session: &Session, link: &Arc<Link>) {
        let mut sessions = self.sessions.0.lock();
        let Some(mut state) = session.owned_by(link) else { return };
        state.link = None;
        if state.expiry_secs == 0 {
            self.end_session(&mut state, &session.client);
            sessions.remove(&session.client);
        } else {
            state.expires = Instant::now().checked_add(Duration::from_secs(u64::from(state.expiry_secs)));
        }
        self.metrics.sessions.set(sessions.len() as i64);
    }

    /// Removes the sessions that are over.
    pub(crate) fn expire_sessions(&self) {
        let now = Instant::now();
        let mut sessions = self.sessions.0.lock();
        sessions.retain(|client, session| {
            let mut state = session.state();
            let over = state.link.is_none() && state.expires.is_some_and(|at| at <= now);
            if over {
                self.end_session(&mut state, client);
            }
            !over
        });
        self.metrics.sessions.set(sessions.len() as i64);
    }

    fn end_session(&self, state: &mut State, client: &str) {
        for filter in state.end() {
            self.trie.remove(&filter, client);
        }
    }
}
