//! A tenant's sessions by client id: taking one up, leaving it, letting it expire.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use parking_lot::Mutex;

use crate::Broker;
use crate::session::{Link, Session, State};
use crate::takeovers::TakeoverPace;
use crate::tenant::Tenant;
use crate::will::Before;
use door::{Grants, Identity, Inbox};

/// A tenant's sessions.
#[derive(Debug, Default)]
pub(crate) struct Sessions(Mutex<HashMap<Arc<str>, Arc<Session>, foldhash::fast::RandomState>>);

impl Sessions {
    pub(crate) fn all(&self) -> Vec<Arc<Session>> {
        self.0.lock().values().cloned().collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.lock().len()
    }
}

/// A session that a connection has taken up.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) session: Arc<Session>,
    /// An existing session continues.
    pub(crate) present: bool,
    /// The session already outlives its connections: its room is not looked for again.
    pub(crate) is_kept: bool,
    /// Another connection owned it.
    pub(crate) taken_over: bool,
    pub(crate) before: Before,
}

impl<I: Inbox> Broker<I> {
    /// Makes the connection behind `link` the owner of the client's session, and closes the
    /// connection that owned it before. With `clean` the session starts empty. Subscriptions that
    /// are not granted to the `identity` are removed.
    ///
    /// A session that did not outlive its connections does not yet get `expiry_secs`: the caller
    /// gives it by [`Session::owned_by`] when there is room.
    pub(crate) fn take_session(
        &self,
        tenant: &Tenant,
        client: &Arc<str>,
        link: &Arc<Link>,
        clean: bool,
        expiry_secs: u32,
        identity: &Identity,
    ) -> Taken {
        let mut sessions = tenant.sessions.0.lock();
        let mut before = Before::default();
        let mut taken_over = false;
        let mut pace = TakeoverPace::default();
        if let Some(held) = sessions.get(client) {
            let mut state = held.state();
            if let Some(owner) = state.link.take() {
                owner.signal(Link::TAKEN_OVER);
                taken_over = true;
                state.takeovers.count(Instant::now());
            }
            pace = std::mem::take(&mut state.takeovers);
            before = Before { last: state.last_will.take(), is_due: true, publishing: state.publishing.take() };
            if clean || state.is_over(Instant::now()) {
                tenant.end_session(&mut state, client);
            } else {
                state.link = Some(Arc::clone(link));
                state.takeovers = pace;
                let is_kept = state.expiry_secs > 0;
                state.expiry_secs = if is_kept { expiry_secs } else { 0 };
                state.expires = None;
                state.on_the_wire = 0;
                state.ended.clone_from(&identity.ended);
                tenant.restrict(&mut state, client, &identity.grants);
                if let Some(will) = state.will.take() {
                    // The receiver is gone when the will was published at this very moment.
                    will.send(()).ok();
                }
                drop(state);
                // The client is back in time.
                before.is_due = before.last.as_ref().is_some_and(|last| last.will.delay_secs == 0);
                return Taken { session: Arc::clone(held), present: true, is_kept, taken_over, before };
            }
        }
        let session = Arc::new(Session::new(Arc::clone(client), Arc::clone(link), 0, self.memory.sessions.hold()));
        {
            let mut state = session.state();
            state.ended.clone_from(&identity.ended);
            state.takeovers = pace;
        }
        if sessions.insert(Arc::clone(client), Arc::clone(&session)).is_none() {
            self.metrics.sessions.inc();
        }
        Taken { session, present: false, is_kept: false, taken_over, before }
    }

    /// True while a connection owns the client's session.
    pub(crate) fn is_connected(&self, tenant: &Tenant, client: &str) -> bool {
        tenant.sessions.0.lock().get(client).is_some_and(|session| session.state().link.is_some())
    }

    /// Waits for the turn of a connection that takes over the session of another one, when the
    /// session goes from one to the next again and again.
    ///
    /// # Errors
    /// A metric label, when the client has connected again meanwhile: that connection waits now.
    pub(crate) async fn wait_for_takeover(&self, tenant: &Arc<str>, client: &str) -> Result<(), &'static str> {
        let turn = {
            let tenant = self.tenants.get(tenant);
            let sessions = tenant.sessions.0.lock();
            let mut state = sessions.get(client).map(|session| session.state());
            let taken = state.as_mut().filter(|state| state.link.is_some());
            taken.and_then(|state| state.takeovers.turn(Instant::now()))
        };
        let Some((wait, another)) = turn else { return Ok(()) };
        self.metrics.takeovers_paced.inc();
        // A client whose connections have little time for their CONNECT has its turn, too.
        let most = Duration::from_millis(self.config.connect_timeout_ms / 2);
        tokio::select! {
            () = tokio::time::sleep(wait.min(most)) => Ok(()),
            () = another.cancelled() => Err("taken_over"),
        }
    }

    /// Ends the ownership of the connection behind `link`: its session waits for the next one, or
    /// ends.
    pub(crate) fn leave_session(&self, tenant: &Tenant, session: &Session, link: &Arc<Link>) {
        let mut sessions = tenant.sessions.0.lock();
        let Some(mut state) = session.owned_by(link) else { return };
        state.link = None;
        if state.expiry_secs == 0 {
            tenant.end_session(&mut state, &session.client);
            if sessions.remove(&session.client).is_some() {
                self.metrics.sessions.dec();
            }
        } else {
            state.expires = Instant::now().checked_add(Duration::from_secs(u64::from(state.expiry_secs)));
        }
    }

    /// Ends a tenant's sessions that no connection owns, without their will messages.
    pub(crate) fn forget_sessions(&self, tenant: &Tenant) {
        let mut sessions = tenant.sessions.0.lock();
        let before = sessions.len();
        sessions.retain(|client, session| {
            let mut state = session.state();
            if state.link.is_some() {
                return true;
            }
            if let Some(will) = state.will.take() {
                // The receiver is gone when the will was published at this very moment.
                will.send(()).ok();
            }
            tenant.end_session(&mut state, client);
            false
        });
        self.metrics.sessions.dec_by((before - sessions.len()) as i64);
    }

    /// Removes a tenant's expired sessions, and those whose credential was revoked.
    pub(crate) fn expire_sessions(&self, tenant: &Tenant) {
        let now = Instant::now();
        let mut sessions = tenant.sessions.0.lock();
        let before = sessions.len();
        sessions.retain(|client, session| {
            let mut state = session.state();
            let expired = state.link.is_none() && state.is_over(now);
            if expired {
                tenant.end_session(&mut state, client);
            }
            !expired
        });
        self.metrics.sessions.dec_by((before - sessions.len()) as i64);
    }
}

impl Tenant {
    /// Removes the subscriptions that are not granted.
    fn restrict(&self, state: &mut State, client: &str, grants: &Grants) {
        let State { subscriptions, walks, .. } = state;
        subscriptions.retain(|filter| {
            let granted = grants.may_subscribe(filter);
            if !granted {
                walks.remove(&**filter);
                self.trie.remove(filter, client);
            }
            granted
        });
    }

    fn end_session(&self, state: &mut State, client: &str) {
        for filter in state.end() {
            self.trie.remove(&filter, client);
        }
    }
}
