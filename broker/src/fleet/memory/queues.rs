//! The queues of a node: what it has submitted, and what is for it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::task::Waker;

use tokio::sync::Notify;

use crate::fleet::{Arrival, Change, Forwarded, Interest, Node, Route, Submitter};

/// Changes of a node that are not durable, from which on there is no room for more.
const MOST_CHANGES: usize = 1024;

/// Something of a node that takes effect in its turn.
#[derive(Debug)]
pub(super) enum Waits {
    Changes(u64, Vec<Change>, Option<Arc<dyn Submitter>>),
    Forward(Vec<Node>, Forwarded),
    /// A message for this node and tenant was dropped.
    Missed(Node, Arc<str>),
    HandedOver(u64),
}

/// A node that has not ended.
#[derive(Debug)]
pub(super) struct NodeState {
    pub(super) name: Node,
    pub(super) is_held: bool,
    pub(super) is_away: bool,
    /// Nothing arrives at it.
    pub(super) is_deaf: bool,
    pub(super) interests: BTreeMap<(Arc<str>, String), Interest>,
    pub(super) waits: VecDeque<Waits>,
    /// Tickets that are not durable, each with the number of its changes.
    pub(super) tickets: VecDeque<(u64, usize)>,
    /// Changes of these tickets.
    pub(super) changes: usize,
    pub(super) last_ticket: u64,
    /// Changes up to this ticket have taken effect.
    pub(super) effective: u64,
    pub(super) durable: u64,
    pub(super) wakers: Vec<(u64, Waker)>,
    pub(super) room: Vec<Waker>,
    pub(super) arrivals: VecDeque<Arrival>,
    /// Arrivals of claimed sessions that have not begun, by epoch.
    pub(super) beginning: BTreeMap<u64, Vec<Arrival>>,
    pub(super) routes: Vec<Route>,
    pub(super) arrived: Arc<Notify>,
    pub(super) routed: Arc<Notify>,
    /// Notified when there are messages that sessions have left over.
    pub(super) left: Arc<Notify>,
    /// Notified when there are will messages of nodes that have ended.
    pub(super) willed: Arc<Notify>,
}

impl NodeState {
    pub(super) fn new(name: &str, is_away: bool) -> Self {
        Self {
            name: name.into(),
            is_held: false,
            is_away,
            is_deaf: false,
            interests: BTreeMap::new(),
            waits: VecDeque::new(),
            tickets: VecDeque::new(),
            changes: 0,
            last_ticket: 0,
            effective: 0,
            durable: 0,
            wakers: Vec::new(),
            room: Vec::new(),
            arrivals: VecDeque::new(),
            beginning: BTreeMap::new(),
            routes: Vec::new(),
            arrived: Arc::default(),
            routed: Arc::default(),
            left: Arc::default(),
            willed: Arc::default(),
        }
    }

    pub(super) fn set_away(&mut self, is_away: bool) {
        self.is_away = is_away;
        self.willed.notify_one();
        self.left.notify_one();
    }

    pub(super) fn has_room(&self) -> bool {
        self.changes < MOST_CHANGES && self.waits.len() < MOST_CHANGES
    }

    /// Lets changes that have taken effect become durable. Adds who waits for it to `due`.
    pub(super) fn harden(&mut self, due: &mut Vec<Waker>) {
        if !self.is_held && !self.is_away {
            self.durable = self.effective;
            let durable = self.durable;
            while let Some((_, changes)) = self.tickets.front().filter(|(ticket, _)| *ticket <= durable) {
                self.changes -= changes;
                self.tickets.pop_front();
            }
            due.extend(self.wakers.extract_if(.., |(ticket, _)| *ticket <= durable).map(|(_, waker)| waker));
        }
        if self.has_room() {
            due.append(&mut self.room);
        }
    }

    pub(super) fn arrive(&mut self, arrival: Arrival) {
        self.arrivals.push_back(arrival);
        self.arrived.notify_one();
    }

    /// As `arrive`, for a session of this epoch: behind its beginning.
    pub(super) fn arrive_at(&mut self, epoch: u64, arrival: Arrival) {
        match self.beginning.get_mut(&epoch) {
            Some(held_back) => held_back.push(arrival),
            None => self.arrive(arrival),
        }
    }
}
