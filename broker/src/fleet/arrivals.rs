//! Arrivals from the other nodes: messages of sessions, messages for subscribers, clients that have
//! connected elsewhere.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::{Arrival, Client, Fleet, Forwarded, Numbered, Owned, SharedMessage, Taking, keep_routes, present_state};
use crate::Broker;
use crate::config::QueueFull;
use crate::durable::{Duty, Ledger};
use crate::link::Link;
use crate::message::Message;
use crate::queue::Queued;
use crate::session::{Lasting, Push, Receipt, Session};
use crate::tenant::Tenant;
use crate::will::Before;
use door::Inbox;

/// Time in which a node that has asked for a client claims it, at the latest: when it does not, the
/// client's messages go on here.
const CLAIM: Duration = Duration::from_secs(2);

/// The message that arrived last: it mostly goes to many sessions.
type Last = Option<(Arc<SharedMessage>, Arc<Message>)>;

impl<I: Inbox> Broker<I> {
    /// Handles what arrives from the fleet until `stop`.
    pub(crate) async fn follow_arrivals(self: Arc<Self>, fleet: Arc<Fleet>, stop: CancellationToken) {
        loop {
            let arrivals = tokio::select! {
                arrivals = fleet.bus.arrivals() => arrivals,
                () = stop.cancelled() => return,
            };
            let mut last = None;
            for arrival in arrivals {
                match arrival {
                    Arrival::Message(owned, message) => self.take_message(&fleet, &owned, message, &mut last).await,
                    Arrival::Lost(owned) => {
                        if let Some((_, session, _)) = self.shared_session(&owned) {
                            session.lose();
                        }
                    }
                    Arrival::HandOver(client, hand_over) => {
                        let (broker, fleet) = (Arc::clone(&self), Arc::clone(&fleet));
                        self.tasks.spawn(async move {
                            broker.hand_over(&client.tenant, &client.id).await;
                            broker.store_present_state(&fleet, &client);
                            fleet.bus.handed_over(&hand_over);
                        });
                    }
                    Arrival::Taken(owned, taking) => self.give_up(&owned, taking),
                    Arrival::Forwarded(forwarded) => self.take_forwarded(&forwarded),
                    Arrival::Gap => {
                        self.fill_gaps(&fleet).await;
                        fleet.missed.notify_one();
                        self.tenants.all().iter().for_each(|tenant| self.lose_forwarded(tenant));
                    }
                    Arrival::Missed(tenant) => {
                        tracing::warn!(
                            %tenant,
                            "another node has dropped messages for subscribers of this one: too many waited"
                        );
                        self.count_dropped("fleet_gap");
                        if let Some(tenant) = self.tenants.find(&tenant) {
                            self.lose_forwarded(&tenant);
                        }
                    }
                }
            }
        }
    }

    /// Stores what another node has to know of a client's session.
    pub(super) fn store_present_state(&self, fleet: &Fleet, client: &Client) {
        let session = self.tenants.find(&client.tenant).and_then(|tenant| tenant.sessions.get(&client.id));
        let Some(session) = session else { return };
        let mut state = session.state();
        let (Some(owned), Some(ledger), false) = (state.owned.clone(), state.ledger.clone(), state.is_departed) else {
            return;
        };
        fleet.store.submit(present_state(&state, &owned, ledger.progress()));
        // The next node goes on with them.
        state.walks.clear();
        state.rests_until = Instant::now().checked_add(CLAIM);
        // The client may stay here: then their end is stored, too.
        let stored = state.unreleased.iter().filter(|(_, receipt)| **receipt == Receipt::Stored).map(|(id, _)| *id);
        let stored: Vec<u16> = stored.collect();
        state.receipts.extend(stored);
    }

    /// The session that this node owns under this id.
    fn shared_session(&self, owned: &Owned) -> Option<(Arc<Tenant>, Arc<Session>, Arc<Ledger>)> {
        let tenant = self.tenants.find(&owned.client.tenant)?;
        let session = tenant.sessions.get(&owned.client.id)?;
        let ledger = {
            let state = session.state();
            state.ledger.clone().filter(|ledger| ledger.session == owned.session && !state.is_departed)?
        };
        ledger.owned()?;
        Some((tenant, session, ledger))
    }

    async fn take_message(&self, fleet: &Fleet, owned: &Owned, message: Numbered, last: &mut Last) {
        // One of a session that another node owns by now, or that is in the store only.
        let Some((tenant, session, ledger)) = self.shared_session(owned) else {
            return self.hand_late_on(fleet, owned, message);
        };
        match ledger.take(message.number) {
            None => {}
            Some(0) => self.queue_message(fleet, &tenant, &session, &ledger, message, last),
            Some(_) => self.fill_gap(fleet, &tenant, &session, &ledger).await,
        }
    }

    fn queue_message(
        &self,
        fleet: &Fleet,
        tenant: &Tenant,
        session: &Arc<Session>,
        ledger: &Arc<Ledger>,
        Numbered { number, placed, message }: Numbered,
        last: &mut Last,
    ) {
        let duty = Duty { ledger: Arc::clone(ledger), number, message: None };
        let of_share =
            placed.share.is_some().then(|| Numbered { number, placed: placed.clone(), message: Arc::clone(&message) });
        let known = last.as_ref().filter(|(shared, _)| Arc::ptr_eq(shared, &message)).map(|(_, own)| Arc::clone(own));
        let own = known.or_else(|| {
            let own = self.receive(&message)?;
            *last = Some((message, Arc::clone(&own)));
            Some(own)
        });
        let Some(own) = own else {
            self.count_dropped("memory");
            if self.config.queue_full == QueueFull::EndSession {
                session.lose();
            }
            return;
        };
        let pushed = self.put_into(tenant, session, Self::queued(own, placed, duty), false, &self.bounds(session));
        // Its client has left at this very moment.
        if let (Push::Over, Some(message), Some(owned)) = (pushed, of_share, ledger.owned()) {
            self.hand_late_on(fleet, &owned, message);
        }
    }

    /// Reads the messages of a session that have not arrived.
    async fn fill_gap(&self, fleet: &Fleet, tenant: &Tenant, session: &Arc<Session>, ledger: &Arc<Ledger>) {
        let Some(owned) = ledger.owned() else { return };
        match fleet.store.messages(&owned, ledger.last()).await {
            Ok(messages) => {
                let mut last = None;
                for message in messages {
                    ledger.skip_to(message.number);
                    self.queue_message(fleet, tenant, session, ledger, message, &mut last);
                }
            }
            Err(error) => {
                // The next message finds the gap again.
                tracing::warn!(client = %session.client, "cannot read the messages of a session: {error}");
            }
        }
    }

    async fn fill_gaps(&self, fleet: &Fleet) {
        tracing::warn!("messages from other nodes were lost: this node was behind; reading those of sessions again");
        self.count_dropped("fleet_gap");
        for tenant in self.tenants.all() {
            for session in tenant.sessions.all() {
                let ledger = session.state().ledger.clone().filter(|ledger| ledger.owned().is_some());
                if let Some(ledger) = ledger {
                    self.fill_gap(fleet, &tenant, &session, &ledger).await;
                }
            }
        }
    }

    /// Ends sessions of a tenant that end with their connections and may have missed a message of
    /// QoS 1 or 2, as one does whose queue is full, unless messages are dropped by choice.
    fn lose_forwarded(&self, tenant: &Tenant) {
        if self.config.queue_full != QueueFull::EndSession {
            return;
        }
        for session in tenant.sessions.all() {
            // The others have them from the store, and bridges get none from other nodes.
            if session.lasting() == Lasting::Fleet || session.client.starts_with(Self::INTERNAL) {
                continue;
            }
            let filters: Vec<String> = session.state().subscriptions.iter().cloned().collect();
            let is_owed = |filter: &String| {
                tenant.trie.options(filter, &session.client).is_some_and(|(options, _)| options.qos > 0)
            };
            if filters.iter().any(is_owed) {
                session.lose();
            }
        }
    }

    /// Gives a message of another node to the subscribers of this one.
    fn take_forwarded(&self, forwarded: &Forwarded) {
        let tenant = self.tenants.get(&forwarded.tenant);
        let SharedMessage { topic, payload, properties, qos, retain, published } = &*forwarded.message;
        if *retain && forwarded.share.is_none() {
            self.take_retained(&tenant, topic, payload, *qos, properties, *published);
        }
        if !forwarded.is_routed {
            return;
        }
        let takers = self.takers_here(&tenant, forwarded);
        // Of a shared subscription, its members here have left: one elsewhere gets the message.
        let to_another = forwarded.share.as_ref().filter(|_| takers.is_empty() && *qos > 0);
        if takers.is_empty() && to_another.is_none() {
            return;
        }
        match (self.receive(&forwarded.message), to_another) {
            (Some(message), Some(share)) => {
                let queued = Queued { share: Some(Arc::clone(share)), ..Queued::new(message, *qos) };
                self.hand_on(&tenant, &Arc::from(""), vec![queued]);
            }
            (Some(message), None) => {
                // Not as a retained one: it was set above, and has been announced.
                self.route_here(&tenant, &message, takers, false);
            }
            (None, _) => {
                self.count_dropped("memory");
                self.lose(&tenant, topic, *qos);
            }
        }
    }

    /// Closes the connection of a client that belongs to another node now, and forgets its session.
    fn give_up(self: &Arc<Self>, owned: &Owned, taking: Taking) {
        let Some(tenant) = self.tenants.find(&owned.client.tenant) else { return };
        let Some(given) = self.give_up_session(&tenant, owned, taking) else { return };
        self.drop_interests(&tenant, &owned.client.id, &given.filters);
        self.hand_on(&tenant, &owned.client.id, given.left);
        let continues = taking == Taking::Continues;
        let is_due = given.before.last.as_ref().is_some_and(|last| !continues || last.will.delay_secs == 0);
        let (broker, before) = (Arc::clone(self), Before { is_due, ..given.before });
        self.tasks.spawn(async move { broker.settle(before, &tenant).await });
        self.metrics.sessions.dec();
        if given.was_connected {
            let peer = crate::listener::THIS_MACHINE;
            tracing::debug!(client = %owned.client.id, "the client has connected to another node");
            self.metrics.takeovers.count(&owned.client.tenant, &owned.client.id, peer, model::clock::now());
        }
    }
}

/// A session that was given up.
struct Given {
    filters: Vec<String>,
    before: Before,
    /// Messages of shared subscriptions, for other members.
    left: Vec<Queued>,
    was_connected: bool,
}

impl<I: Inbox> Broker<I> {
    fn give_up_session(&self, tenant: &Tenant, owned: &Owned, taking: Taking) -> Option<Given> {
        tenant.sessions.remove_if(&owned.client.id, |session| {
            let mut state = session.state();
            // Not one that was claimed again since.
            state.owned.as_ref().filter(|held| held.session == owned.session && held.epoch <= owned.epoch)?;
            let owner = state.link.take();
            if let Some(owner) = &owner {
                if let Some(fleet) = self.fleet.as_ref().filter(|_| taking != Taking::Ended) {
                    fleet.paces.count(&owned.client, Instant::now());
                }
                owner.signal(Link::TAKEN_OVER);
            }
            if let Some(will) = state.will.take()
                && taking == Taking::Continues
            {
                // The receiver is gone when the will was published at this very moment.
                will.send(()).ok();
            }
            let before = Before {
                last: state.last_will.take(),
                publishing: state.publishing.take(),
                earlier: owner.as_ref().map(Arc::downgrade),
                ..Before::default()
            };
            if taking != Taking::Continues
                && let Some(fleet) = &self.fleet
            {
                fleet.drop_sent(owned, &state);
            }
            let mut ended = state.end();
            let departed = ended.is_departed;
            if let Some(ledger) = &ended.ledger {
                ledger.abandon();
            }
            let filters: Vec<String> = match departed {
                // They are those of another node's already.
                true => Vec::new(),
                false => ended.subscriptions.iter().cloned().collect(),
            };
            if taking == Taking::Continues {
                keep_routes(tenant, &owned.client.id, owned.session, &filters);
            } else {
                for filter in &filters {
                    tenant.trie.remove(filter, &owned.client.id);
                }
            }
            // Those of sessions that last are in the store.
            let left = if taking == Taking::Continues { Vec::new() } else { ended.take_left_over() };
            Some(Given { filters, before, left, was_connected: owner.is_some() })
        })
    }
}
