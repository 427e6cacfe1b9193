//! SUBSCRIBE and UNSUBSCRIBE.

use std::sync::Arc;

use super::answer::{Answer, Pending, Wait};
use super::end::End;
use super::{Connection, Stream};
use crate::codec::subscribe::{self, RetainHandling};
use crate::codec::{encode, reason};
use crate::retained::Walk;
use crate::trie::Entry;
use door::Inbox;
use door::quota::Kept;

impl<I: Inbox, S: Stream> Connection<I, S> {
    pub(super) fn subscribe(&mut self, body: &[u8]) -> Result<(), End> {
        let packet = subscribe::decode(body, self.version)?;
        let mut reasons = Vec::with_capacity(packet.filters.len());
        let mut limit = None;
        let mut is_kept = false;
        for (filter, mut options) in packet.filters {
            if !subscribe::fits(filter) {
                reasons.push(reason::TOPIC_FILTER_INVALID);
                continue;
            }
            if !self.grants.may_subscribe(filter) {
                self.broker.metrics.denied("subscribe", "filter").inc();
                self.log_denial(filter, "the topic filter is not granted to this client");
                reasons.push(reason::NOT_AUTHORIZED);
                continue;
            }
            // 3.1.1 has no options: a bridge gets its own messages not back, and retained ones as
            // such.
            options.no_local |= self.is_bridge && !filter.starts_with("$share/");
            options.retain_as_published |= self.is_bridge;
            let entry = Entry {
                client: Arc::clone(&self.sender.client),
                subscriber: Arc::clone(&self.session),
                options,
                id: packet.subscription_id,
            };
            let new = {
                // With the state held: a connection that takes over the session finds the filter in
                // both places or in neither.
                let mut state = self.session.owned_by(&self.link).ok_or(End::TakenOver)?;
                let held = state.subscriptions.contains(filter);
                let before = if held { self.tenant.trie.options(filter, &self.sender.client) } else { None };
                let inserted = if !held && state.subscriptions.len() >= self.broker.config.max_subscriptions {
                    limit.get_or_insert("refused: the client has mqtt.max_subscriptions subscriptions");
                    None
                } else if !held && !self.may_keep(Kept::Subscriptions, || self.tenant.subscriptions()) {
                    limit.get_or_insert("refused: the limit subscriptions of the tenant is reached");
                    None
                } else {
                    let inserted = self.tenant.trie.insert(filter, entry).ok();
                    if inserted.is_none() {
                        limit.get_or_insert("refused: the memory for sessions is used up (memory.max_bytes)");
                    }
                    inserted
                };
                if inserted.is_some() && !held {
                    state.subscriptions.insert(filter.to_owned());
                }
                if inserted.is_some() {
                    // Other nodes send its messages to this one until they know that the store has
                    // them for the session.
                    if before.is_some_and(|(before, _)| before.qos == 0)
                        && let Some(ledger) = &state.ledger
                    {
                        ledger.announce_subscription(filter, options, packet.subscription_id);
                    }
                    self.broker.note_interest(&self.tenant, &self.session, filter, Some(options.qos));
                }
                if inserted.is_some()
                    && let Some(ledger) = &state.ledger
                {
                    ledger.keep_subscription(&mut self.intake, filter, options, packet.subscription_id);
                    is_kept = true;
                }
                inserted
            };
            let Some(new) = new else {
                reasons.push(reason::QUOTA_EXCEEDED);
                continue;
            };
            if filter.starts_with("$share/") {
                self.broker.collect_shared(&self.tenant, &[filter.to_owned()]);
            }
            reasons.push(options.qos);
            let wanted = match options.retain_handling {
                RetainHandling::Always => true,
                RetainHandling::IfNew => new,
                RetainHandling::Never => false,
            };
            if wanted && !filter.starts_with("$share/") {
                let walk = Walk { filter: filter.into(), options, id: packet.subscription_id, after: None };
                self.state()?.walks.insert(filter.into(), walk);
                self.walking = true;
            }
        }
        let version = self.version;
        let limit = limit.filter(|_| self.problem_information);
        let begun = self.out.len();
        self.reply(limit, |out, limit| encode::suback(out, version, packet.packet_id, &reasons, limit))?;
        self.broker.metrics.replies.inc();
        self.wait_with(begun, is_kept);
        Ok(())
    }

    /// Lets the answer that was written last wait until what it answers is durable.
    fn wait_with(&mut self, begun: usize, waits: bool) {
        if waits {
            self.staged = true;
            self.walking = false;
            let answer = Answer::Packet(self.out.split_off(begun).into());
            self.owe(Pending::answer(Wait::Submit, 0, answer));
        }
    }

    pub(super) fn unsubscribe(&mut self, body: &[u8]) -> Result<(), End> {
        let packet = subscribe::decode_unsubscribe(body, self.version)?;
        let mut is_kept = false;
        let mut reasons = Vec::with_capacity(packet.filters.len());
        for filter in packet.filters {
            let was = {
                let mut state = self.session.owned_by(&self.link).ok_or(End::TakenOver)?;
                state.walks.remove(filter);
                let was = state.subscriptions.remove(filter) && self.tenant.trie.remove(filter, &self.sender.client);
                if was {
                    self.broker.note_interest(&self.tenant, &self.session, filter, None);
                }
                if let Some(ledger) = &state.ledger {
                    if was {
                        ledger.drop_subscription(&mut self.intake, filter);
                    }
                    // The removal before may not be durable.
                    is_kept |= was || !self.pending.is_empty();
                }
                was
            };
            reasons.push(if was { reason::SUCCESS } else { reason::NO_SUBSCRIPTION });
        }
        let version = self.version;
        let begun = self.out.len();
        self.reply(None, |out, _| encode::unsuback(out, version, packet.packet_id, &reasons))?;
        self.broker.metrics.replies.inc();
        self.wait_with(begun, is_kept);
        Ok(())
    }
}
