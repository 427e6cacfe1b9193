//! A tenant's sessions by client id: taking one up, leaving it, letting it expire.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::Broker;
use crate::durable::Ledger;
use crate::fleet::{self, Change, Claim, Client, Owned, Progress};
use crate::in_flight::InFlight;
use crate::link::Link;
use crate::queue::{Queue, Queued};
use crate::session::{Session, State};
use crate::takeovers::TakeoverPace;
use crate::tenant::Tenant;
use crate::will::Before;
use door::{Grants, Identity, Inbox};

/// Time that a connection waits until the one before it has read what has arrived. One whose socket
/// is not read, as it waits for the log or a limit, keeps its client out no longer.
const HAND_OVER: Duration = Duration::from_secs(1);

/// A tenant's sessions, in the order of their client ids, so that a list continues behind one.
#[derive(Debug, Default)]
pub(crate) struct Sessions(Mutex<BTreeMap<Arc<str>, Arc<Session>>>);

impl Sessions {
    pub(crate) fn all(&self) -> Vec<Arc<Session>> {
        self.0.lock().values().cloned().collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.lock().len()
    }

    /// Returns a client's session.
    pub(crate) fn get(&self, client: &str) -> Option<Arc<Session>> {
        self.0.lock().get(client).map(Arc::clone)
    }

    /// Calls `change` with whether a client has a session here that is not in the store alone; no
    /// connection takes one up meanwhile.
    pub(crate) fn while_held<R>(&self, client: &str, change: impl FnOnce(bool) -> R) -> R {
        let sessions = self.0.lock();
        let is_held = sessions.get(client).is_some_and(|session| !session.state().is_departed);
        change(is_held)
    }

    /// Removes a client's session if `check` returns something.
    pub(crate) fn remove_if<R>(&self, client: &str, check: impl FnOnce(&Arc<Session>) -> Option<R>) -> Option<R> {
        let mut sessions = self.0.lock();
        let checked = check(sessions.get(client)?)?;
        sessions.remove(client);
        Some(checked)
    }

    /// Adds a session of an earlier start.
    pub(crate) fn add(&self, session: Arc<Session>) {
        self.0.lock().insert(Arc::clone(&session.client), session);
    }

    /// The next `most` sessions from a client id on.
    pub(crate) fn from(&self, from: Bound<&str>, most: usize) -> Vec<Arc<Session>> {
        let sessions = self.0.lock();
        sessions.range::<str, _>((from, Bound::Unbounded)).take(most).map(|(_, session)| Arc::clone(session)).collect()
    }
}

/// A session that a connection has taken up.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) session: Arc<Session>,
    /// An existing session continues. It outlives its connections already: its room is not looked
    /// for again.
    pub(crate) present: bool,
    /// It lasts longer or shorter than before.
    pub(crate) has_new_expiry: bool,
    /// Another connection owned it.
    pub(crate) taken_over: bool,
    pub(crate) before: Before,
}

impl<I: Inbox> Broker<I> {
    /// Makes the connection behind `link` the owner of the client's session, and closes the
    /// connection that owned it before. The session starts empty with `clean`, or when the one
    /// before ends with its connection. Subscriptions that are not granted to the `identity` are
    /// removed.
    ///
    /// A new session does not yet get `expiry_secs`: the caller gives it by [`Session::owned_by`]
    /// when there is room.
    ///
    /// In a fleet, the `claim` decides which session it is: the one that is held here, if it is the
    /// same one, or what the store has.
    pub(crate) fn take_session(
        &self,
        tenant: &Tenant,
        client: &Arc<str>,
        link: &Arc<Link>,
        (clean, expiry_secs): (bool, u32),
        claim: &mut Claim,
        identity: &Identity,
    ) -> Taken {
        let mut sessions = tenant.sessions.0.lock();
        let mut before = Before::default();
        let mut left = Vec::new();
        let mut taken_over = false;
        let mut pace = TakeoverPace::default();
        if let Some(held) = sessions.get(client) {
            let mut state = held.state();
            let owner = state.link.take();
            let earlier = owner.as_ref().map(Arc::downgrade);
            if state.is_departed {
                pace = std::mem::take(&mut state.takeovers);
                before.publishing = state.publishing.take();
                claim.end_departed(&mut state);
            } else if let Some(owner) = owner.filter(|_| !state.is_leaving) {
                owner.signal(Link::TAKEN_OVER);
                taken_over = true;
                state.takeovers.count(Instant::now());
            }
            if !state.has_ended() {
                pace = std::mem::take(&mut state.takeovers);
                let publishing = state.publishing.take();
                let last = state.last_will.take();
                before = Before { last, is_due: true, publishing, earlier, ..Before::default() };
            }
            if state.has_ended() {
                // It was in the store alone.
            } else if clean || state.expiry_secs == 0 || state.is_over(Instant::now()) || claim.is_of_another(&state) {
                let continues_elsewhere = claim.continues_elsewhere(&state);
                self.drop_sent(&state, claim.owned());
                before.ended = state.ledger.clone().filter(|ledger| ledger.is_in_log());
                if let Some(owned) = state.owned.clone().filter(|_| continues_elsewhere) {
                    // A message that is published meanwhile finds its subscriptions.
                    let filters: Vec<String> = state.subscriptions.iter().cloned().collect();
                    fleet::keep_routes(tenant, client, owned.session, &filters);
                    self.drop_interests(tenant, client, &filters);
                    state.is_departed = true;
                }
                left = self.end_session(tenant, &mut state, client);
                if continues_elsewhere {
                    // The store has them.
                    left.clear();
                }
            } else {
                state.link = Some(Arc::clone(link));
                claim.settle(&mut state);
                self.submit_again(&state, claim);
                self.resume_walks(tenant, held, &mut state, claim.take_walks());
                (state.is_leaving, state.handing_over, state.rests_until) = (false, None, None);
                state.takeovers = pace;
                let has_new_expiry = std::mem::replace(&mut state.expiry_secs, expiry_secs) != expiry_secs;
                state.expires = None;
                if let Some(ledger) = &state.ledger {
                    ledger.note_left(client, expiry_secs, None);
                }
                state.in_flight.reconnect();
                state.ended.clone_from(&identity.ended);
                let dropped = tenant.restrict(&mut state, client, &identity.grants);
                self.drop_interests(tenant, client, &dropped);
                let shares: Vec<String> = state.shares().cloned().collect();
                shares.iter().for_each(|share| tenant.trie.set_connected(share, client, true));
                if let Some(will) = state.will.take() {
                    // The receiver is gone when the will was published at this very moment.
                    will.send(()).ok();
                }
                held.note(&mut state);
                drop(state);
                let session = Arc::clone(held);
                drop(sessions);
                self.collect_shared(tenant, &shares);
                // The client is back in time.
                before.is_due = before.last.as_ref().is_some_and(|last| last.will.delay_secs == 0);
                return Taken { session, present: true, has_new_expiry, taken_over, before };
            }
        }
        let continued = claim.take_stored().map(|(owned, stored)| self.restore_claimed(tenant, &owned, stored));
        let present = continued.is_some();
        let session = continued.unwrap_or_else(|| {
            let queue = Queue::new(self.memory.sessions.clone(), Arc::clone(&self.memory.heavy));
            Arc::new(Session::new(Arc::clone(client), Arc::clone(link), 0, queue))
        });
        let mut has_new_expiry = false;
        {
            let mut state = session.state();
            state.ended.clone_from(&identity.ended);
            state.takeovers = pace;
            claim.settle(&mut state);
            if present {
                state.link = Some(Arc::clone(link));
                state.expires = None;
                has_new_expiry = std::mem::replace(&mut state.expiry_secs, expiry_secs) != expiry_secs;
                let dropped = tenant.restrict(&mut state, client, &identity.grants);
                self.drop_interests(tenant, client, &dropped);
                state.shares().for_each(|share| tenant.trie.set_connected(share, client, true));
                session.note(&mut state);
            }
        }
        if sessions.insert(Arc::clone(client), Arc::clone(&session)).is_none() {
            self.metrics.sessions.inc();
        }
        if !present {
            tenant.replace_stranger(client, &BTreeSet::new());
        }
        drop(sessions);
        self.hand_on(tenant, client, left);
        Taken { session, present, has_new_expiry, taken_over, before }
    }

    /// An id that no other session of this node has.
    pub(crate) fn new_session_id(&self) -> u64 {
        self.last_session.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The ledger of a new session that outlasts the process: in the log, or with the fleet.
    pub(crate) fn new_ledger(&self, tenant: &Tenant, claim: &Claim) -> Arc<Ledger> {
        let journal = Arc::clone(&self.journal);
        match claim.owned() {
            Some(owned) => Ledger::shared(owned.clone(), journal, &Default::default(), &Default::default(), 0),
            None => Ledger::new(self.new_session_id(), Arc::clone(&tenant.id), journal),
        }
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
            let held = self.tenants.get(tenant);
            let sessions = held.sessions.0.lock();
            let mut state = sessions.get(client).map(|session| session.state());
            let taken = state.as_mut().filter(|state| state.link.is_some() && !state.is_leaving);
            taken.and_then(|state| state.takeovers.turn(Instant::now()))
        };
        // Its connections at other nodes are not known.
        let turn = turn.or_else(|| {
            let client = Client { tenant: Arc::clone(tenant), id: client.into() };
            self.fleet.as_ref()?.paces.turn(&client, Instant::now())
        });
        let Some((wait, another)) = turn else { return Ok(()) };
        self.metrics.takeovers_paced.inc();
        // A client whose connections have little time for their CONNECT has its turn, too.
        let most = Duration::from_millis(self.config.connect_timeout_ms / 2);
        tokio::select! {
            () = tokio::time::sleep(wait.min(most)) => Ok(()),
            () = another.cancelled() => Err("taken_over"),
        }
    }

    /// Waits until the connection that owns the client's session has handled what has arrived: a
    /// DISCONNECT and the last messages come before the session changes hands.
    pub(crate) async fn hand_over(&self, tenant: &Arc<str>, client: &str) {
        let mut handled = {
            let tenant = self.tenants.get(tenant);
            let sessions = tenant.sessions.0.lock();
            let Some(mut state) = sessions.get(client).map(|session| session.state()) else { return };
            let Some(owner) = state.link.clone().filter(|_| !state.is_leaving) else { return };
            let handled = state.handing_over.get_or_insert_with(|| watch::channel(()).0).subscribe();
            owner.signal(Link::HAND_OVER);
            handled
        };
        let most = HAND_OVER.min(Duration::from_millis(self.config.connect_timeout_ms / 4));
        // An error is the end of it.
        tokio::time::timeout(most, async { while handled.changed().await.is_ok() {} }).await.ok();
    }

    /// Ends the ownership of the connection behind `link`: its session waits for the next one, or
    /// ends.
    pub(crate) fn leave_session(&self, tenant: &Tenant, session: &Arc<Session>, link: &Arc<Link>) {
        let mut sessions = tenant.sessions.0.lock();
        let Some(mut state) = session.owned_by(link) else { return };
        state.link = None;
        let left = if state.expiry_secs == 0 {
            let left = self.end_session(tenant, &mut state, &session.client);
            if sessions.remove(&session.client).is_some() {
                self.metrics.sessions.dec();
            }
            left
        } else {
            state.expires = Instant::now().checked_add(Duration::from_secs(u64::from(state.expiry_secs)));
            if let Some(ledger) = &state.ledger {
                ledger.note_left(&session.client, state.expiry_secs, Some(model::clock::now()));
            }
            let left = Self::leave_shares(tenant, session, &mut state);
            session.note(&mut state);
            left
        };
        drop((state, sessions));
        self.hand_on_or_keep(tenant, session, left);
        self.depart(tenant, session);
    }

    /// Leaves a session that the fleet shares to the store, unless a connection has taken it up, or
    /// is about to.
    pub(crate) fn depart(&self, tenant: &Tenant, session: &Arc<Session>) {
        let Some(fleet) = &self.fleet else { return };
        let sessions = tenant.sessions.0.lock();
        let mut state = session.state();
        let (Some(owned), Some(ledger)) = (state.owned.clone(), state.ledger.clone()) else { return };
        if state.link.is_some() || state.has_ended() || state.is_departed || state.claims > 0 {
            return;
        }
        let mut changes = fleet::present_state(&state, &owned, ledger.abandon());
        changes.push(Change::Leave((*owned).clone()));
        // Refused once the client is connected elsewhere: it has them then.
        let shared = state.take_shared(|_| true);
        changes.extend(shared.into_iter().filter_map(|queued| self.hand_over_to_member(tenant, &owned, queued)));
        fleet.store.submit(changes);
        state.is_departed = true;
        // The store has them.
        state.in_flight = InFlight::default();
        state.queue = Queue::default();
        session.note(&mut state);
        let filters: Vec<String> = state.subscriptions.iter().cloned().collect();
        drop(state);
        fleet::keep_routes(tenant, &session.client, owned.session, &filters);
        self.drop_interests(tenant, &session.client, &filters);
        drop(sessions);
    }

    /// Ends a session that no connection owns, with its delayed will message. False when it has a
    /// connection by now, or has ended.
    pub(crate) fn end_away(&self, tenant: &Tenant, session: &Arc<Session>) -> bool {
        let mut sessions = tenant.sessions.0.lock();
        if !sessions.get(&session.client).is_some_and(|held| Arc::ptr_eq(held, session)) {
            return false;
        }
        let mut state = session.state();
        if state.link.is_some() {
            return false;
        }
        let left = self.end_session(tenant, &mut state, &session.client);
        sessions.remove(&session.client);
        self.metrics.sessions.dec();
        drop((state, sessions));
        self.hand_on(tenant, &session.client, left);
        true
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
            self.end_session(tenant, &mut state, client);
            false
        });
        self.metrics.sessions.dec_by((before - sessions.len()) as i64);
    }

    /// Removes a tenant's expired sessions, and those whose credential was revoked.
    pub(crate) fn expire_sessions(&self, tenant: &Tenant) {
        let now = Instant::now();
        let mut left = Vec::new();
        let (mut connected, mut gone) = (0, 0);
        let mut sessions = tenant.sessions.0.lock();
        let before = sessions.len();
        sessions.retain(|client, session| {
            let mut state = session.state();
            connected += usize::from(state.link.is_some());
            let expired = state.link.is_none() && state.is_over(now);
            if expired {
                gone += u64::from(state.expires.is_some_and(|at| at <= now));
                let messages = self.end_session(tenant, &mut state, client);
                if !messages.is_empty() {
                    left.push((Arc::clone(client), messages));
                }
            }
            !expired
        });
        self.metrics.sessions.dec_by((before - sessions.len()) as i64);
        drop(sessions);
        tenant.set_connected(connected);
        tenant.count_expired(gone);
        self.metrics.sessions_expired.inc_by(gone);
        for (client, messages) in left {
            self.hand_on(tenant, &client, messages);
        }
    }

    /// Lets the store hand on nothing that a session has sent at QoS 2, if it has ended there by a
    /// claim.
    pub(crate) fn drop_sent(&self, state: &State, claimed: Option<&Owned>) {
        let Some(fleet) = &self.fleet else { return };
        let owned = state.owned.as_deref();
        if let Some(owned) = owned.filter(|held| claimed.is_some_and(|claimed| claimed.session != held.session)) {
            fleet.drop_sent(owned, state);
        }
    }

    /// Ends a session. Returns the messages of its shared subscriptions, which others get. The
    /// store of a fleet hands on those that it has.
    fn end_session(&self, tenant: &Tenant, state: &mut State, client: &str) -> Vec<Queued> {
        let mut before = state.end();
        if !before.is_departed {
            for filter in &before.subscriptions {
                tenant.trie.remove(filter, client);
            }
        }
        if let (Some(fleet), Some(owned)) = (&self.fleet, &before.owned) {
            if !before.is_departed {
                self.drop_interests(tenant, &owned.client.id, &before.subscriptions);
            }
            let mut changes = Vec::new();
            if let Some(ledger) = &before.ledger {
                let progress = Progress { exact: true, ..ledger.abandon() };
                if !before.is_departed {
                    // By which the store knows what is left over.
                    changes.push(Change::Progress((**owned).clone(), progress));
                }
            }
            changes.push(Change::End((**owned).clone()));
            fleet.store.submit(changes);
        } else if let Some(ledger) = &before.ledger {
            ledger.end();
            before.subscriptions.iter().for_each(|filter| ledger.clear_subscription(filter));
            before.receipts.iter().for_each(|packet_id| ledger.clear_receipt(*packet_id));
        }
        tenant.return_entries(client);
        let left = before.take_left_over();
        self.metrics.dropped("session_ended").inc_by(before.queue.owed() as u64);
        left
    }
}

impl Tenant {
    /// Removes the subscriptions that are not granted, and returns their filters.
    fn restrict(&self, state: &mut State, client: &str, grants: &Grants) -> Vec<String> {
        let State { subscriptions, walks, ledger, .. } = state;
        let mut dropped = Vec::new();
        subscriptions.retain(|filter| {
            let granted = grants.may_subscribe(filter);
            if !granted {
                walks.remove(&**filter);
                if let Some(ledger) = ledger {
                    ledger.clear_subscription(filter);
                }
                self.trie.remove(filter, client);
                dropped.push(filter.clone());
            }
            granted
        });
        dropped
    }
}
