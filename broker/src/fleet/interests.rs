//! The filters that this node's own subscribers have, for the other nodes.

use std::collections::BTreeMap;
use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use parking_lot::Mutex;

use super::{Change, Fleet, Interest};
use crate::Broker;
use crate::session::{Lasting, Session};
use crate::tenant::Tenant;
use door::Inbox;

/// The interests of one tenant's subscribers, by filter.
#[derive(Debug, Default)]
pub(crate) struct Interests(Mutex<HashMap<Box<str>, Clients, RandomState>>);

/// The interests of clients in one filter.
type Clients = BTreeMap<Arc<str>, Interest>;

impl Interests {
    /// Sets interests of a client, and announces those of the node that have changed. Other clients
    /// wait meanwhile: of two changes of one filter, the later one is announced last.
    fn set<'a>(
        &self,
        client: &Arc<str>,
        interests: impl IntoIterator<Item = (&'a str, Option<Interest>)>,
        announce: impl FnOnce(Vec<(&'a str, Option<Interest>)>),
    ) {
        let mut all = self.0.lock();
        let mut changes = Vec::new();
        for (filter, interest) in interests {
            let before = all.get(filter).and_then(most);
            match interest {
                Some(interest) => {
                    all.entry(filter.into()).or_default().insert(Arc::clone(client), interest);
                }
                None => {
                    if let Some(clients) = all.get_mut(filter) {
                        clients.remove(client);
                        if clients.is_empty() {
                            all.remove(filter);
                        }
                    }
                }
            }
            let now = all.get(filter).and_then(most);
            if now != before {
                changes.push((filter, now));
            }
        }
        if !changes.is_empty() {
            announce(changes);
        }
    }
}

/// The interest of all clients together.
fn most(clients: &Clients) -> Option<Interest> {
    // Few subscribers of one filter ask for no more than QoS 0: mostly the first one says it.
    let all = clients.values().any(|interest| *interest == Interest::All);
    if all { Some(Interest::All) } else { clients.values().next().copied() }
}

impl Fleet {
    /// Waits for nothing.
    fn announce(&self, tenant: &Arc<str>, changes: Vec<(&str, Option<Interest>)>) {
        let change = |(filter, interest): (&str, _)| Change::Interest(Arc::clone(tenant), filter.to_owned(), interest);
        self.store.submit(changes.into_iter().map(change).collect());
    }
}

impl<I: Inbox> Broker<I> {
    /// Announces to the fleet that a session has subscribed to a filter at this QoS, or, with None,
    /// that it no longer does. Nothing waits for it.
    pub(crate) fn note_interest(&self, tenant: &Tenant, session: &Session, filter: &str, qos: Option<u8>) {
        let Some(fleet) = &self.fleet else { return };
        // Each node has a bridge of its own, for its own messages.
        if session.client.starts_with(Self::INTERNAL) {
            return;
        }
        let interest = qos.map(|qos| match session.lasting() {
            Lasting::Fleet if qos > 0 => Interest::Qos0,
            _ => Interest::All,
        });
        tenant.interests.set(&session.client, [(filter, interest)], |changes| fleet.announce(&tenant.id, changes));
    }

    /// Announces that a client has left all these filters.
    pub(crate) fn drop_interests<'a>(
        &self,
        tenant: &Tenant,
        client: &Arc<str>,
        filters: impl IntoIterator<Item = &'a String>,
    ) {
        let Some(fleet) = &self.fleet else { return };
        let none = filters.into_iter().map(|filter| (filter.as_str(), None));
        tenant.interests.set(client, none, |changes| fleet.announce(&tenant.id, changes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_asks_for_what_any_of_its_clients_asks_for() {
        let interests = Interests::default();
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let steps = [
            (&a, Some(Interest::Qos0), Some(Some(Interest::Qos0))),
            (&b, Some(Interest::Qos0), None),
            (&b, Some(Interest::All), Some(Some(Interest::All))),
            (&a, None, None),
            (&a, Some(Interest::All), None),
            (&b, None, None),
            (&a, Some(Interest::Qos0), Some(Some(Interest::Qos0))),
            (&a, None, Some(None)),
            (&a, None, None),
        ];
        for (client, interest, changed) in steps {
            let mut announced = None;
            interests.set(client, [("x/#", interest)], |changes| announced = Some(changes));
            assert_eq!(announced, changed.map(|changed| vec![("x/#", changed)]));
        }
        assert!(interests.0.lock().is_empty());
    }

    #[test]
    fn a_change_is_announced_before_the_next_one_is_made() {
        let interests = Interests::default();
        let client: Arc<str> = "a".into();
        for interest in [Some(Interest::Qos0), Some(Interest::All), None] {
            let mut announced = false;
            interests.set(&client, [("x/#", interest)], |_| announced = interests.0.is_locked());
            assert!(announced);
        }
    }
}
