//! How a change takes effect.

use std::sync::Arc;

use super::owners::{Held, Kept};
use super::state::{Start, State};
use crate::fleet::{
    Arrival, Change, Client, Interest, Numbered, Owned, Placed, Progress, Refusal, Route, SharedMessage, Source,
};

impl State {
    /// Makes a change, unless it is of a former owner.
    pub(super) fn change(&mut self, start: Start, change: Change) -> Result<(), Refusal> {
        match change {
            Change::Keep(owned, expiry_secs) => self.keep(&owned, expiry_secs)?,
            Change::Subscribe(owned, filter, options) => {
                self.kept(&owned)?;
                let held = self.owned(&owned)?;
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
                if self.kept(&owned)?.subscriptions.remove(&filter).is_some() {
                    self.announce(None, &Route::Session(owned.client, owned.session, filter, None));
                }
            }
            Change::Walks(owned, walks) => self.kept(&owned)?.walks = walks,
            Change::Receipt(owned, packet_id) => {
                self.kept(&owned)?.receipts.insert(packet_id);
            }
            Change::ReceiptOver(owned, packet_id) => {
                self.kept(&owned)?.receipts.remove(&packet_id);
            }
            Change::Released(owned, numbers, progress) => {
                let kept = self.kept(&owned)?;
                kept.released = numbers;
                kept.advance(progress);
            }
            Change::Progress(owned, progress) => self.kept(&owned)?.advance(progress),
            Change::Leave(owned) => {
                self.owned(&owned)?;
                self.leave(&owned.client);
            }
            Change::End(owned) => {
                self.owned(&owned)?;
                self.end(&owned.client, None);
            }
            Change::WillOver(owned) => drop(self.will_over(start, &owned)),
            Change::Message { tenant, message, takers, source } => {
                match source {
                    Some(Source::Publish(owned, packet_id)) => self.note_receipt(&owned, packet_id)?,
                    Some(Source::Will(owned)) if !self.will_over(start, &owned) => return Err(Refusal::NotOwned),
                    Some(Source::Will(_)) | None => {}
                }
                for (id, session, placed) in takers {
                    self.append(&Client { tenant: Arc::clone(&tenant), id }, session, placed, &message);
                }
            }
            Change::HandOn { from, session, number, to } => self.hand_on(start, &from, (session, number), *to)?,
            Change::Interest(tenant, filter, interest) => self.interest(start, tenant, filter, interest),
        }
        Ok(())
    }

    /// The client, if it is still owned so.
    fn owned(&mut self, owned: &Owned) -> Result<&mut Held, Refusal> {
        self.held.get_mut(&owned.client).filter(|held| held.owned == *owned).ok_or(Refusal::NotOwned)
    }

    fn kept(&mut self, owned: &Owned) -> Result<&mut Kept, Refusal> {
        self.owned(owned)?.kept.as_mut().ok_or(Refusal::NotOwned)
    }

    /// Also after another claim by the same node, whose connections wait for each other's messages.
    fn note_receipt(&mut self, owned: &Owned, packet_id: u16) -> Result<(), Refusal> {
        let is_of = |held: &&mut Held| {
            held.owned.session == owned.session && (held.since..=held.owned.epoch).contains(&owned.epoch)
        };
        let held = self.held.get_mut(&owned.client).filter(is_of);
        let kept = held.and_then(|held| held.kept.as_mut()).ok_or(Refusal::NotOwned)?;
        kept.receipts.insert(packet_id);
        Ok(())
    }

    fn keep(&mut self, owned: &Owned, expiry_secs: u32) -> Result<(), Refusal> {
        let held = self.owned(owned)?;
        held.kept.get_or_insert_default().expiry_secs = expiry_secs;
        if !held.is_connected {
            self.await_expiry(&owned.client);
        }
        Ok(())
    }

    pub(super) fn append(&mut self, client: &Client, session: u64, placed: Placed, message: &Arc<SharedMessage>) {
        let most = self.most_messages;
        let held = self.held.get_mut(client).filter(|held| held.owned.session == session && held.kept.is_some());
        let Some(held) = held.filter(|held| held.is_connected || !placed.is_for_connected) else {
            if placed.share.is_some() {
                self.leave_one_over(client, placed, message);
            }
            return;
        };
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
