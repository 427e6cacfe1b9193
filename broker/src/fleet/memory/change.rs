//! How a change takes effect.

use std::sync::Arc;

use super::owners::{Held, Kept};
use super::state::{Start, State};
use crate::fleet::{Arrival, Change, Client, Interest, Numbered, Owned, Placed, Progress, Route, SharedMessage};

impl State {
    pub(super) fn change(&mut self, start: Start, change: Change) {
        match change {
            Change::Keep(owned, expiry_secs) => self.keep(&owned, expiry_secs),
            Change::Subscribe(owned, filter, options) => {
                let Some(held) = self.owned(&owned).filter(|held| held.kept.is_some()) else { return };
                let is_connected = held.is_connected;
                if let Some(kept) = &mut held.kept {
                    kept.subscriptions.insert(filter.clone(), options);
                }
                self.announce(
                    None,
                    &Route::Session(owned.client, owned.session, filter, Some((options, is_connected))),
                );
            }
            Change::Unsubscribe(owned, filter) => {
                if self.kept(&owned).is_some_and(|kept| kept.subscriptions.remove(&filter).is_some()) {
                    self.announce(None, &Route::Session(owned.client, owned.session, filter, None));
                }
            }
            Change::Receipt(owned, packet_id) => {
                if let Some(kept) = self.kept(&owned) {
                    kept.receipts.insert(packet_id);
                }
            }
            Change::ReceiptOver(owned, packet_id) => {
                if let Some(kept) = self.kept(&owned) {
                    kept.receipts.remove(&packet_id);
                }
            }
            Change::Released(owned, numbers, progress) => {
                if let Some(kept) = self.kept(&owned) {
                    kept.released = numbers;
                    kept.advance(progress);
                }
            }
            Change::Progress(owned, progress) => {
                if let Some(kept) = self.kept(&owned) {
                    kept.advance(progress);
                }
            }
            Change::Leave(owned) => {
                if self.owned(&owned).is_some() {
                    self.leave(&owned.client);
                }
            }
            Change::End(owned) => {
                if self.owned(&owned).is_some() {
                    self.end(&owned.client, None);
                }
            }
            Change::Message { tenant, message, takers, receipt } => {
                if let Some((owned, packet_id)) = receipt {
                    // Also after another claim by this node, whose connections wait for each
                    // other's messages.
                    let held = self.held.get_mut(&owned.client).filter(|held| {
                        held.owned.session == owned.session && (held.owned == owned || held.owner == start)
                    });
                    let Some(kept) = held.and_then(|held| held.kept.as_mut()) else { return };
                    kept.receipts.insert(packet_id);
                }
                for (id, session, placed) in takers {
                    self.append(&Client { tenant: Arc::clone(&tenant), id }, session, placed, &message);
                }
            }
            Change::Interest(tenant, filter, interest) => self.interest(start, tenant, filter, interest),
        }
    }

    /// The client, if it is still owned so.
    fn owned(&mut self, owned: &Owned) -> Option<&mut Held> {
        self.held.get_mut(&owned.client).filter(|held| held.owned == *owned)
    }

    fn kept(&mut self, owned: &Owned) -> Option<&mut Kept> {
        self.owned(owned)?.kept.as_mut()
    }

    fn keep(&mut self, owned: &Owned, expiry_secs: u32) {
        let Some(held) = self.owned(owned) else { return };
        held.kept.get_or_insert_default().expiry_secs = expiry_secs;
        if !held.is_connected {
            self.await_expiry(&owned.client);
        }
    }

    fn append(&mut self, client: &Client, session: u64, placed: Placed, message: &Arc<SharedMessage>) {
        let most = self.most_messages;
        let Some(held) = self.held.get_mut(client).filter(|held| held.owned.session == session) else { return };
        let (owner, owned, is_connected) = (held.owner, held.owned.clone(), held.is_connected);
        let Some(kept) = held.kept.as_mut().filter(|kept| !kept.is_lost) else { return };
        let epoch = owned.epoch;
        let arrival = if kept.messages.len() < most {
            kept.last += 1;
            let numbered = Numbered { number: kept.last, placed, message: Arc::clone(message) };
            kept.messages.insert(kept.last, numbered.clone());
            Arrival::Message(owned, numbered)
        } else {
            kept.is_lost = true;
            Arrival::Lost(owned)
        };
        // Without a connection it is in the store alone.
        if is_connected {
            self.arrive(owner, epoch, arrival);
        }
    }

    fn interest(&mut self, start: Start, tenant: Arc<str>, filter: String, interest: Option<Interest>) {
        let mut name = None;
        self.at(start, |node| {
            let key = (Arc::clone(&tenant), filter.clone());
            match interest {
                Some(interest) => node.interests.insert(key, interest),
                None => node.interests.remove(&key),
            };
            name = Some(Arc::clone(&node.name));
        });
        if let Some(name) = name {
            self.announce(Some(start), &Route::Interest(name, tenant, filter, interest));
        }
    }
}

impl Kept {
    /// Forgets messages that the client has.
    fn advance(&mut self, progress: Progress) {
        let Progress { done_to, done, .. } = &progress;
        self.messages = self.messages.split_off(&done_to.saturating_add(1));
        for (from, to) in done.iter().filter(|(from, to)| from <= to) {
            let had: Vec<u64> = self.messages.range(*from..=*to).map(|(number, _)| *number).collect();
            had.iter().for_each(|number| drop(self.messages.remove(number)));
        }
        self.released.retain(|number| !progress.has(*number));
        self.progress = progress;
    }
}
