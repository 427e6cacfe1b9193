//! Messages of shared subscriptions whose member leaves: another one gets them (MQTT 5.0, section
//! 4.8.2).
//!
//! While a member is connected, no message waits for one that is away. A message that was sent at
//! QoS 1 and not acknowledged goes to another member when the connection ends; one of QoS 2 stays
//! with its session, as the standard demands.

use std::sync::Arc;

use crate::Broker;
use crate::queue::{Bounds, Queued};
use crate::session::{Lasting, Push, Session, State};
use crate::tenant::Tenant;
use crate::trie::Entry;
use door::Inbox;

/// Members that are tried for a message.
const MOST_LEAVING: usize = 64;

impl<I: Inbox> Broker<I> {
    /// Gives messages of shared subscriptions that client `from` had to other members.
    pub(crate) fn hand_on(&self, tenant: &Tenant, from: &Arc<str>, messages: Vec<Queued>) {
        for message in messages {
            if self.hand_one_on(tenant, from, message).is_some() {
                self.count_dropped("no_member");
            }
        }
    }

    /// Gives messages of shared subscriptions that a session had to other members. It keeps those
    /// for which there is none.
    pub(crate) fn hand_on_or_keep(&self, tenant: &Tenant, session: &Arc<Session>, messages: Vec<Queued>) {
        for message in messages {
            let Some(back) = self.hand_one_on(tenant, &session.client, message) else { continue };
            let share = back.share.clone();
            if self.push(session, back, &Bounds::NONE) == Push::Over {
                self.count_dropped("no_member");
            }
            if let Some(share) = share {
                tenant.trie.note_holder(&share, &session.client);
            }
        }
    }

    /// Gives one message. Returns it when there is no other member.
    pub(crate) fn hand_one_on(&self, tenant: &Tenant, from: &Arc<str>, mut message: Queued) -> Option<Queued> {
        let (share, mut from) = (message.share.clone()?, Arc::clone(from));
        // Each of these members has left at this very moment.
        for _ in 0..MOST_LEAVING {
            let other = Self::another_member(tenant, &share, &from, message.message.qos);
            let Some((entry, is_connected)) = other else { break };
            match self.give(tenant, message, (&entry, is_connected)) {
                Some(back) => (message, from) = (back, entry.client),
                None => {
                    if !is_connected {
                        self.note_holder(tenant, &share, &entry.client);
                    }
                    return None;
                }
            }
        }
        Some(message)
    }

    /// Chooses a member other than this client for a message that was published at this QoS, and
    /// returns whether it is connected. Of a session at another node there are two entries: that
    /// node is one for messages of QoS 0 only.
    fn another_member(
        tenant: &Tenant,
        share: &str,
        except: &str,
        published: u8,
    ) -> Option<(Entry<Arc<Session>>, bool)> {
        let wants = |entry: &Entry<Arc<Session>>| {
            let qos = published.min(entry.options.qos);
            *entry.client != *except && entry.subscriber.wants(qos, published)
        };
        tenant.trie.choose(share, wants)
    }

    /// Notes that a client that is away holds messages of a shared subscription.
    pub(crate) fn note_holder(&self, tenant: &Tenant, share: &str, client: &Arc<str>) {
        tenant.trie.note_holder(share, client);
        // A member may have connected meanwhile.
        if tenant.trie.has_connected(share, client) {
            self.collect_shared(tenant, &[share.to_owned()]);
        }
    }

    /// Gives the messages that members that are away hold to the ones that are connected, of which
    /// there is a new one.
    pub(crate) fn collect_shared(&self, tenant: &Tenant, shares: &[String]) {
        for share in shares {
            for holder in tenant.trie.take_holders(share) {
                let taken = {
                    let mut state = holder.state();
                    // The store of a fleet hands on what it has.
                    let is_away = state.link.is_none() && holder.lasting() != Lasting::Fleet;
                    let taken = state.take_shared(|held| is_away && **held == **share);
                    holder.note(&mut state);
                    taken
                };
                self.hand_on_or_keep(tenant, &holder, taken);
            }
        }
    }

    /// Notes that a client has left its shared subscriptions for now, and returns the messages that
    /// others get in its place. Those of a session of a fleet are handed on as it departs.
    pub(crate) fn leave_shares(tenant: &Tenant, session: &Session, state: &mut State) -> Vec<Queued> {
        let shares: Vec<String> = state.shares().cloned().collect();
        if shares.is_empty() {
            return Vec::new();
        }
        for share in &shares {
            tenant.trie.set_connected(share, &session.client, false);
        }
        if session.lasting() == Lasting::Fleet {
            return Vec::new();
        }
        let taken = state.take_shared(|share| tenant.trie.has_connected(share, &session.client));
        for share in shares.iter().filter(|share| state.holds_shared(share)) {
            tenant.trie.note_holder(share, &session.client);
        }
        taken
    }
}

#[cfg(any(test, feature = "testing"))]
impl<I: Inbox> Broker<I> {
    /// Gives the messages of a shared subscription that members that are away hold to one that was
    /// connected a moment ago.
    pub fn collect(&self, tenant: &str, share: &str) {
        if let Some(tenant) = self.tenants.find(tenant) {
            self.collect_shared(&tenant, &[share.to_owned()]);
        }
    }
}
