//! Messages that sessions have left over.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::owners::Kept;
use super::state::{Start, State};
use crate::fleet::{Arrival, Client, Leftover, NextTaker, Numbered, Placed, Refusal, SharedMessage};

/// Messages that are read at a time.
const PIECE: usize = 256;
/// Time in which a node drops what it has sent of a session that has ended elsewhere.
const GRACE: Duration = Duration::from_millis(100);

/// A session that has ended, with the messages that it has left over.
#[derive(Debug)]
pub(super) struct Ended {
    client: Client,
    session: u64,
    messages: BTreeMap<u64, Numbered>,
    /// Nothing of it is returned before.
    due: Instant,
    /// The node that hands it on.
    reader: Option<Start>,
}

impl Kept {
    /// Messages that other members get.
    fn left_over(self) -> BTreeMap<u64, Numbered> {
        let sent_to = self.progress.sent_at_most();
        let is_left = |(number, message): &(u64, Numbered)| {
            message.placed.share.is_some() && (message.placed.qos < 2 || *number > sent_to)
        };
        self.messages.into_iter().filter(is_left).collect()
    }
}

impl State {
    /// Keeps what a session leaves over.
    pub(super) fn leave_over(&mut self, client: Client, session: u64, kept: Kept, was_connected: bool) {
        let messages = kept.left_over();
        if messages.is_empty() {
            return;
        }
        let due = if was_connected { self.now() + GRACE } else { self.now() };
        self.ended.push(Ended { client, session, messages, due, reader: None });
        self.notify_readers();
    }

    /// Keeps a message for a member of a shared subscription that has left or ended, as one of a
    /// session of its own.
    pub(super) fn leave_one_over(&mut self, client: &Client, placed: Placed, message: &Arc<SharedMessage>) {
        self.last_epoch += 1;
        let (session, due) = (self.last_epoch, self.now());
        let messages = BTreeMap::from([(1, Numbered { number: 1, placed, message: Arc::clone(message) })]);
        self.ended.push(Ended { client: client.clone(), session, messages, due, reader: None });
        self.notify_readers();
    }

    pub(super) fn forget_leftovers(&mut self, tenant: &str) {
        self.ended.retain(|ended| *ended.client.tenant != *tenant);
    }

    pub(super) fn notify_readers(&self) {
        self.nodes.values().for_each(|node| node.left.notify_one());
    }

    pub(super) fn take_leftovers(&mut self, start: Start) -> Vec<Leftover> {
        if self.reaching(start).is_err() {
            return Vec::new();
        }
        let now = self.now();
        let Self { ended, nodes, .. } = self;
        let is_free = |reader: Option<Start>| reader.is_none_or(|of| of == start || !nodes.contains_key(&of));
        let Some(ended) = ended.iter_mut().find(|ended| ended.due <= now && is_free(ended.reader)) else {
            return Vec::new();
        };
        ended.reader = Some(start);
        let Ended { client, session, messages, .. } = ended;
        let leftover =
            |message: &Numbered| Leftover { client: client.clone(), session: *session, message: message.clone() };
        messages.values().take(PIECE).map(leftover).collect()
    }

    /// The time, on the clock, at which what a session has left over is returned.
    pub(super) fn next_leftover(&self) -> Option<Instant> {
        // Of those that are due, nodes are notified.
        let now = self.now();
        self.ended.iter().map(|ended| ended.due).filter(|due| *due > now).min().map(|at| self.real(at))
    }

    /// The messages of a session that has ended, or whose client is not connected.
    fn handed_on_from(&mut self, from: &Client, session: u64) -> Option<&mut BTreeMap<u64, Numbered>> {
        let ended = self.ended.iter_mut().find(|ended| ended.session == session && ended.client == *from);
        if let Some(ended) = ended {
            return Some(&mut ended.messages);
        }
        let held = self.held.get_mut(from).filter(|held| held.owned.session == session && !held.is_connected);
        held.and_then(|held| held.kept.as_mut()).map(|kept| &mut kept.messages)
    }

    pub(super) fn hand_on(
        &mut self,
        start: Start,
        from: &Client,
        (session, number): (u64, u64),
        to: NextTaker,
    ) -> Result<(), Refusal> {
        let Some(Numbered { message, .. }) =
            self.handed_on_from(from, session).and_then(|held| held.get(&number).cloned())
        else {
            return if to == NextTaker::Dropped { Ok(()) } else { Err(Refusal::NotOwned) };
        };
        match to {
            NextTaker::Session(id, taker, placed) => {
                let client = Client { tenant: Arc::clone(&from.tenant), id };
                let held = self.held.get(&client).filter(|held| held.owned.session == taker);
                let held = held.filter(|held| held.is_connected || !placed.is_for_connected);
                held.and_then(|held| held.kept.as_ref()).ok_or(Refusal::NotOwned)?;
                self.append(&client, taker, placed, &message);
            }
            NextTaker::Node(name, forwarded) => {
                let node = match name {
                    Some(name) => self.find(&name).ok_or(Refusal::NotOwned)?,
                    None => start,
                };
                self.at(node, |node| node.arrive(Arrival::Forwarded(forwarded)));
            }
            NextTaker::Dropped => {}
        }
        if let Some(messages) = self.handed_on_from(from, session) {
            messages.remove(&number);
        }
        self.ended.retain(|ended| !ended.messages.is_empty());
        // There may be others, or another session.
        self.notify_readers();
        Ok(())
    }
}
