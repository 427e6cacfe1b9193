//! Taking up a client's session from the fleet.

use std::sync::Arc;
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use tokio::sync::oneshot;

use super::{Change, Claimed, Client, DueWill, Fleet, Owned, StoredSession, StoredWill, Unavailable};
use crate::Broker;
use crate::config::QueueFull;
use crate::durable::{Duty, Ledger, Numbers, restore_exchanges};
use crate::link::Link;
use crate::message::Message;
use crate::queue::{Bounds, Queue, Queued};
use crate::retained::Walk;
use crate::session::{Receipt, Session, State};
use crate::tenant::Tenant;
use door::Inbox;

/// Wait before a claim is repeated: the first, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(500));

/// The outcome of a claim at CONNECT.
#[derive(Debug)]
pub(crate) enum Claim {
    /// The client belongs to this node alone.
    Alone,
    /// The store has not answered for long: a new session ends with its connection.
    Unavailable,
    /// The client belongs to this node.
    Claimed(Box<Claimed>),
}

impl Claim {
    /// True when the session that is held here is another one than that of the claim, or another
    /// node has owned it since.
    pub(crate) fn is_of_another(&self, state: &State) -> bool {
        let (Self::Claimed(claimed), Some(held)) = (self, &state.owned) else { return false };
        claimed.session.is_none() || held.session != claimed.owned.session || held.epoch < claimed.since
    }

    /// True when what is held here is not all of the session: another node has owned it since.
    pub(crate) fn continues_elsewhere(&self, state: &State) -> bool {
        matches!(self, Self::Claimed(claimed) if claimed.session.is_some()) && self.is_of_another(state)
    }

    /// Ends what is held here of a session that is in the store alone. Its delayed will message is
    /// published, unless the session continues, or is kept while the store is away.
    pub(crate) fn end_departed(&self, state: &mut State) {
        let continues = !matches!(self, Self::Claimed(claimed) if claimed.session.is_none());
        let mut ended = state.end();
        if let Some(will) = ended.will.take().filter(|_| continues) {
            // The receiver is gone when the will was published at this very moment.
            will.send(()).ok();
        }
    }

    /// Notes the claim in the session that it is of.
    pub(crate) fn settle(&self, state: &mut State) {
        if let Some(owned) = self.owned() {
            state.owned = Some(Box::new(owned.clone()));
            if let Some(ledger) = &state.ledger {
                ledger.claimed(owned);
            }
        }
    }

    /// Returns the packet ids of the receipts that the store has of the session.
    fn stored_receipts(&self) -> &[u16] {
        let Self::Claimed(claimed) = self else { return &[] };
        claimed.session.as_ref().map_or(&[], |session| &session.receipts)
    }

    /// Takes the subscriptions whose retained messages the client does not have yet.
    pub(crate) fn take_walks(&mut self) -> Vec<(String, Option<String>)> {
        let Self::Claimed(claimed) = self else { return Vec::new() };
        claimed.session.as_mut().map(|session| std::mem::take(&mut session.walks)).unwrap_or_default()
    }

    /// Takes what the store has of a session.
    pub(crate) fn take_stored(&mut self) -> Option<(Owned, StoredSession)> {
        let Self::Claimed(claimed) = self else { return None };
        Some((claimed.owned.clone(), claimed.session.take()?))
    }

    /// Takes the will message that this node publishes in place of another one, and the ownership
    /// of one that is being published.
    pub(crate) fn take_wills(&mut self) -> (Option<DueWill>, Option<Owned>) {
        let Self::Claimed(claimed) = self else { return (None, None) };
        (claimed.due_will.take(), claimed.pending_will.take())
    }

    /// Returns the ownership under which the store keeps the will message of the connection.
    pub(crate) fn keeps_will(&self) -> Option<&Owned> {
        let Self::Claimed(claimed) = self else { return None };
        claimed.keeps_will.then_some(&claimed.owned)
    }

    /// True when a session can outlast the process.
    pub(crate) fn may_last(&self) -> bool {
        !matches!(self, Self::Unavailable)
    }

    pub(crate) fn owned(&self) -> Option<&Owned> {
        match self {
            Self::Claimed(claimed) => Some(&claimed.owned),
            Self::Alone | Self::Unavailable => None,
        }
    }
}

/// A claim under way. The client's session stays at this node until it is dropped: changes that
/// are submitted under the ownership before, once the claim has effect, are refused.
#[derive(Debug)]
pub(crate) struct Claiming<I: Inbox> {
    broker: Arc<Broker<I>>,
    tenant: Arc<Tenant>,
    /// None when the store alone has it.
    session: Option<Arc<Session>>,
}

impl<I: Inbox> Claiming<I> {
    fn begin(broker: &Arc<Broker<I>>, client: &Client) -> Self {
        let tenant = broker.tenants.get(&client.tenant);
        let session = tenant.sessions.get(&client.id).filter(|session| {
            let mut state = session.state();
            let stays = state.owned.is_some() && !state.is_departed;
            state.claims += u32::from(stays);
            stays
        });
        Self { broker: Arc::clone(broker), tenant, session }
    }

    /// Gives the client back to the store, as the connection that it was claimed for has ended.
    fn give_back(self, fleet: &Fleet, claimed: Claimed) {
        let claim = Claim::Claimed(Box::new(claimed));
        self.broker.begin_arrivals(&claim);
        let Some(owned) = claim.owned().cloned() else { return };
        let mut changes = vec![Change::WillOver(owned.clone())];
        let mut state = self.session.as_ref().map(|session| session.state());
        let held = state.as_mut().filter(|state| !state.has_ended() && !claim.is_of_another(state));
        match held {
            // It leaves under this claim.
            Some(state) => {
                claim.settle(state);
                self.broker.submit_again(state, &claim);
                if let Some(owner) = &state.link {
                    owner.signal(Link::TAKEN_OVER);
                }
            }
            None => changes.push(Change::Leave(owned)),
        }
        fleet.store.submit(changes);
    }
}

impl<I: Inbox> Drop for Claiming<I> {
    fn drop(&mut self) {
        let Some(session) = &self.session else { return };
        {
            let mut state = session.state();
            state.claims = state.claims.saturating_sub(1);
        }
        self.broker.depart(&self.tenant, session);
    }
}

impl<I: Inbox> Broker<I> {
    /// Claims a client for this node, before its session is taken up. One that may have a session
    /// to continue waits until `deadline` for a store that has answered a moment ago. The session
    /// stays at this node until it is taken up, or the [`Claiming`] is dropped.
    ///
    /// # Errors
    /// [`Unavailable`]: the store does not answer for the moment, and the client may have a
    /// session.
    pub(crate) async fn claim(
        self: &Arc<Self>,
        tenant: &Arc<str>,
        client: &str,
        clean: bool,
        will: Option<StoredWill>,
        deadline: Instant,
    ) -> Result<(Claim, Option<Claiming<I>>), Unavailable> {
        let Some(fleet) = self.fleet.as_ref().filter(|_| !client.starts_with(Self::INTERNAL)) else {
            return Ok((Claim::Alone, None));
        };
        // One that has ended here, or is about to, does not continue anywhere.
        let is_over = {
            let held = self.tenants.get(tenant).sessions.get(client);
            held.is_some_and(|session| {
                let state = session.state();
                state.ledger.is_some() && state.expiry_secs == 0 || state.is_over(Instant::now())
            })
        };
        let client = Client { tenant: Arc::clone(tenant), id: client.into() };
        if clean || is_over {
            // By which the store knows what is left over.
            self.store_present_state(fleet, &client);
        }
        let new = self.new_session_id();
        let mut backoff = model::Backoff::new(PAUSE.0, PAUSE.1);
        loop {
            match self.claim_once(fleet, &client, clean || is_over, new, will.clone()).await {
                Ok((claimed, claiming)) => {
                    if claimed.taken_over {
                        fleet.paces.count(&client, Instant::now());
                    }
                    return Ok((Claim::Claimed(Box::new(claimed)), Some(claiming)));
                }
                Err(unavailable) if clean || !unavailable.is_brief => {
                    self.metrics.unclaimed.inc();
                    return Ok((Claim::Unavailable, None));
                }
                Err(unavailable) => {
                    let pause = backoff.draw();
                    if Instant::now() + pause > deadline {
                        return Err(unavailable);
                    }
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    async fn claim_once(
        self: &Arc<Self>,
        fleet: &Arc<Fleet>,
        client: &Client,
        clean: bool,
        new: u64,
        will: Option<StoredWill>,
    ) -> Result<(Claimed, Claiming<I>), Unavailable> {
        let (answer, claimed) = oneshot::channel();
        let (broker, fleet, client) = (Arc::clone(self), Arc::clone(fleet), client.clone());
        // The connection may end meanwhile, and the claim has its effect all the same.
        self.tasks.spawn(async move {
            let claiming = Claiming::begin(&broker, &client);
            let claimed = fleet.store.claim(&client, clean, new, will.as_ref()).await;
            let claimed = claimed.map(|claimed| (claimed, claiming));
            if let Err(Ok((mut claimed, claiming))) = answer.send(claimed) {
                let due_will = claimed.due_will.take();
                claiming.give_back(&fleet, claimed);
                if let Some(due) = due_will {
                    broker.publish_due_will(due).await;
                }
            }
        });
        let ended = |_| Unavailable { reason: "the process ends".into(), is_brief: false };
        claimed.await.map_err(ended)?
    }

    /// Submits again what a session has, under the ownership of a claim: changes that were
    /// submitted under the one before may have been refused.
    pub(crate) fn submit_again(&self, state: &State, claim: &Claim) {
        let (Some(fleet), Some(owned), Some(ledger)) = (&self.fleet, claim.owned(), &state.ledger) else { return };
        let receipts = state.unreleased.iter().filter(|(_, receipt)| **receipt == Receipt::Stored);
        let released = claim.stored_receipts().iter().filter(|id| !state.unreleased.contains_key(id));
        let mut changes = vec![Change::Progress(owned.clone(), ledger.progress())];
        changes.extend(receipts.map(|(id, _)| Change::Receipt(owned.clone(), *id)));
        changes.extend(released.map(|id| Change::ReceiptOver(owned.clone(), *id)));
        fleet.store.submit(changes);
    }

    /// Lets the messages of a session that was claimed arrive.
    pub(crate) fn begin_arrivals(&self, claim: &Claim) {
        if let (Some(fleet), Some(owned)) = (&self.fleet, claim.owned()) {
            fleet.bus.begin(owned);
        }
    }

    /// Makes a session from what the store has of it, with its subscriptions.
    pub(crate) fn restore_claimed(&self, tenant: &Tenant, owned: &Owned, stored: StoredSession) -> Arc<Session> {
        let StoredSession { expiry_secs, subscriptions, progress, released, receipts, last, .. } = stored;
        let StoredSession { messages, is_lost, walks, .. } = stored;
        let was_exact = progress.exact;
        // They count as sent for the next node, too, to which the client may get before they come.
        let progress = progress.with_unnoted(last);
        let open: Numbers = messages.iter().map(|message| message.number).collect();
        let ledger = Ledger::shared(owned.clone(), Arc::clone(&self.journal), &progress, &open, last);
        let queue = Queue::new(self.memory.sessions.clone(), Arc::clone(&self.memory.heavy));
        let lasts = (expiry_secs, Duration::from_secs(u64::from(expiry_secs)));
        let session = Arc::new(Session::restored(Arc::clone(&owned.client.id), lasts, queue, Arc::clone(&ledger)));
        let mut is_lost = is_lost;
        let mut held = HashMap::<u64, Duty, RandomState>::default();
        for message in messages {
            let duty = Duty { ledger: Arc::clone(&ledger), number: message.number, message: None };
            if released.contains(&message.number) {
                held.insert(message.number, duty);
                continue;
            }
            match self.receive(&message.message) {
                Some(own) => {
                    let queued = Self::queued(own, message.placed, duty);
                    self.push(&session, queued, &Bounds::NONE);
                }
                None => {
                    self.count_dropped("memory");
                    is_lost |= self.config.queue_full == QueueFull::EndSession;
                }
            }
        }
        if is_lost {
            session.lose();
        }
        let mut state = session.state();
        let released = released.iter().filter_map(|number| held.remove(number));
        restore_exchanges(&mut state, released, &progress, receipts);
        if let Some(fleet) = self.fleet.as_ref().filter(|_| was_exact) {
            fleet.store.submit(vec![Change::Progress(owned.clone(), ledger.progress())]);
        }
        self.restore_subscriptions(tenant, &session, &mut state, subscriptions);
        for filter in &state.subscriptions {
            let held = tenant.trie.options(filter, &session.client);
            self.note_interest(tenant, &session, filter, held.map(|(options, _)| options.qos));
        }
        tenant.replace_stranger(&session.client, &state.subscriptions);
        self.resume_walks(tenant, &session, &mut state, walks);
        session.note(&mut state);
        drop(state);
        session
    }

    /// Goes on with the retained messages of new subscriptions, which another connection has begun.
    pub(crate) fn resume_walks(
        &self,
        tenant: &Tenant,
        session: &Session,
        state: &mut State,
        walks: Vec<(String, Option<String>)>,
    ) {
        if walks.is_empty() {
            return;
        }
        for (filter, after) in walks {
            if let Some((options, id)) = tenant.trie.options(&filter, &session.client) {
                let filter = Box::<str>::from(filter);
                let walk = Walk { filter: filter.clone(), options, id, after: after.map(String::into_boxed_str) };
                state.walks.entry(filter).or_insert(walk);
            }
        }
        if let (Some(fleet), Some(owned)) = (&self.fleet, state.ledger.as_ref().and_then(|ledger| ledger.owned())) {
            // They are this node's from now on.
            fleet.store.submit(vec![Change::Walks(owned, Vec::new())]);
        }
    }

    /// A message of the fleet in the memory of queues. None when there is no memory for it.
    pub(super) fn receive(&self, shared: &super::SharedMessage) -> Option<Arc<Message>> {
        let super::SharedMessage { topic, payload, properties, qos, published, .. } = shared;
        self.make_way(topic.len() + payload.len() + properties.len());
        let message = Message::within(&self.memory.sessions, topic, payload, *qos, false, properties).ok()?;
        Some(Arc::new(message.published(*published, model::clock::now())))
    }

    pub(super) fn queued(message: Arc<Message>, placed: super::Placed, duty: Duty) -> Queued {
        let super::Placed { qos, retain, ids, share, .. } = placed;
        Queued { retain, subscription_ids: ids, share, duty: Some(duty), ..Queued::new(message, qos) }
    }
}
