//! Will messages of connections.

use std::time::Duration;

use tokio::time::Instant;

use super::state::{Start, State};
use crate::fleet::{Client, DueWill, Owned, StoredWill, Unavailable};

/// A will message, by the epoch of its connection.
#[derive(Debug)]
pub(super) struct Will {
    owned: Owned,
    delay: Duration,
    body: Box<[u8]>,
    /// The node that publishes it.
    node: Start,
    /// That is another one than the one of its connection.
    is_given: bool,
    /// It publishes it now.
    is_begun: bool,
    /// The end of its delay, when its connection has ended.
    until: Option<Instant>,
    /// The time from which on any node publishes it, when its own one has ended.
    due: Option<Instant>,
}

impl State {
    pub(super) fn keep_will(&mut self, start: Start, owned: &Owned, will: &StoredWill) {
        let delay = Duration::from_secs(will.delay_secs.into());
        let (owned, body) = (owned.clone(), will.body.clone());
        self.wills.insert(
            owned.epoch,
            Will { owned, delay, body, node: start, is_given: false, is_begun: false, until: None, due: None },
        );
    }

    /// Decides at a claim about the will message of the connection before. Returns it when it is
    /// due, and its own node does not publish it; or its ownership, when that does.
    pub(super) fn succeed_will(
        &mut self,
        start: Start,
        client: &Client,
        continues: bool,
    ) -> (Option<DueWill>, Option<Owned>) {
        let now = self.now();
        let is_elsewhere = self.held.get(client).is_some_and(|held| held.is_connected && held.owner != start);
        let last = self.wills.iter_mut().rev().find(|(_, will)| will.owned.client == *client);
        let Some((epoch, will)) = last else { return (None, None) };
        let is_over = will.is_begun || will.until.is_some_and(|until| until <= now);
        if continues && !will.delay.is_zero() && !is_over {
            let epoch = *epoch;
            self.wills.remove(&epoch);
            return (None, None);
        }
        let is_up = self.nodes.contains_key(&will.node);
        if is_up && (will.is_given || will.is_begun || !is_elsewhere) {
            let is_own = will.node == start && !will.is_given;
            return (None, (!is_own).then(|| will.owned.clone()));
        }
        (Some(will.give(start)), None)
    }

    /// Notes that a connection has ended.
    pub(super) fn await_will(&mut self, owned: &Owned) {
        let now = self.now();
        let kept = self.held.get(&owned.client).and_then(|held| held.kept.as_ref());
        let lasts = Duration::from_secs(kept.map_or(0, |kept| kept.expiry_secs).into());
        if let Some(will) = self.wills.get_mut(&owned.epoch) {
            will.until = Some(now + will.delay.min(lasts));
        }
    }

    /// Notes that a session has ended: its will message is due.
    pub(super) fn end_will(&mut self, owned: &Owned) {
        let now = self.now();
        if let Some(due) = self.wills.get_mut(&owned.epoch).and_then(|will| will.due.as_mut()) {
            *due = now;
            self.notify_will_readers();
        }
    }

    pub(super) fn forget_wills(&mut self, tenant: &str) {
        self.wills.retain(|_, will| *will.owned.client.tenant != *tenant);
    }

    pub(super) fn begin_will(&mut self, start: Start, owned: &Owned) -> Result<bool, Unavailable> {
        self.reaching(start)?;
        let will = self.wills.get_mut(&owned.epoch).filter(|will| will.node == start);
        Ok(will.is_some_and(|will| {
            will.is_begun = true;
            true
        }))
    }

    pub(super) fn has_will(&mut self, start: Start, owned: &Owned) -> Result<bool, Unavailable> {
        self.reaching(start)?;
        Ok(self.wills.contains_key(&owned.epoch))
    }

    /// Returns whether this node was to publish it.
    pub(super) fn will_over(&mut self, start: Start, owned: &Owned) -> bool {
        let is_own = self.wills.get(&owned.epoch).is_some_and(|will| will.node == start);
        if is_own {
            self.wills.remove(&owned.epoch);
        }
        is_own
    }

    /// Leaves the will messages of a node that has ended to others.
    pub(super) fn leave_wills(&mut self, start: Start) {
        let now = self.now();
        let Self { wills, held, .. } = self;
        wills.retain(|epoch, will| {
            if will.node != start || will.due.is_some() {
                return true;
            }
            let held = held.get(&will.owned.client);
            // Its client has connected again.
            if !will.is_given && held.is_some_and(|held| held.owned.epoch != *epoch) {
                return false;
            }
            let until = held.filter(|_| !will.is_given).and(will.until);
            will.due = Some(until.unwrap_or(now));
            true
        });
        self.notify_will_readers();
    }

    pub(super) fn take_wills(&mut self, start: Start) -> Vec<DueWill> {
        if self.reaching(start).is_err() {
            return Vec::new();
        }
        let now = self.now();
        let Self { wills, held, .. } = self;
        let is_due = |will: &Will| will.due.is_some_and(|due| due <= now);
        // The client is back.
        wills.retain(|_, will| !is_due(will) || !held.get(&will.owned.client).is_some_and(|held| held.is_connected));
        wills.values_mut().filter(|will| is_due(will)).map(|will| will.give(start)).collect()
    }

    fn notify_will_readers(&self) {
        self.nodes.values().for_each(|node| node.willed.notify_one());
    }

    /// The time, on the clock, at which a will message is due. Of those that are, nodes are
    /// notified.
    pub(super) fn next_will(&self) -> Option<Instant> {
        let now = self.now();
        self.wills.values().filter_map(|will| will.due).filter(|due| *due > now).min().map(|at| self.real(at))
    }
}

impl Will {
    /// Lets a node publish it in place of its own one.
    fn give(&mut self, node: Start) -> DueWill {
        (self.node, self.is_given, self.is_begun, self.due) = (node, true, false, None);
        DueWill { owned: self.owned.clone(), body: self.body.clone() }
    }
}
