//! The pool of each tenant, as the registry has it, and the way of its devices into that pool's
//! log.

use std::collections::HashMap;
use std::sync::Arc;
use std::task::{Context, Poll};

use door::{Failed, Inbox, Intake, Message, Retained, Sender, Ticket, Verdict};
use identity::{Gate, PlaceError};
use ingest::{ConnectionIngest, TelemetryInbox};
use model::trace::Span;
use parking_lot::Mutex;
use stores::contract::StoreError;

/// The lane of the shared pool.
const SHARED: usize = 0;

/// The lanes of tenants by number: 0 is the shared one, then those of the pools in order.
pub(super) struct Placement {
    gate: Gate,
    pools: Vec<Arc<str>>,
    /// Tenants whose devices or messages have come to this process. A tenant never changes its
    /// pool.
    seen: Mutex<HashMap<Arc<str>, usize>>,
}

impl Placement {
    /// Tenants as `gate` knows them, in these pools.
    pub(super) fn new(gate: Gate, pools: Vec<Arc<str>>) -> Self {
        Self { gate, pools, seen: Mutex::default() }
    }

    fn number(&self, pool: Option<&str>) -> Option<usize> {
        match pool {
            None => Some(SHARED),
            Some(pool) => self.pools.iter().position(|known| **known == *pool).map(|at| at + 1),
        }
    }

    /// Returns the lane of a tenant.
    ///
    /// # Errors
    /// [`StoreError::Busy`] when this process does not have the pool, or does not know it.
    pub(super) async fn lane(&self, tenant: &str) -> Result<usize, StoreError> {
        let pool = self.gate.pool(tenant).await.map_err(|error| match error {
            PlaceError::NotHere(not_here) => StoreError::busy(not_here.to_string()),
            PlaceError::Unavailable(reason) => StoreError::busy(reason),
        })?;
        let missing = || StoreError::busy(format!("tenant {tenant} is in a pool that this process does not have"));
        self.number(pool.as_deref()).ok_or_else(missing)
    }

    /// Notes that messages of a tenant were found in a lane.
    pub(super) fn found(&self, tenant: &Arc<str>, lane: usize) {
        self.seen.lock().entry(Arc::clone(tenant)).or_insert(lane);
    }

    /// Returns the lane of a tenant whose devices were admitted here, or whose messages were found.
    fn of_sender(&self, tenant: &Arc<str>) -> Option<usize> {
        let lane = self.of_tenant(tenant)?;
        self.seen.lock().entry(Arc::clone(tenant)).insert_entry(lane);
        Some(lane)
    }

    /// As `of_sender`, without noting the tenant.
    fn of_tenant(&self, tenant: &str) -> Option<usize> {
        match self.gate.known_pool(tenant) {
            Ok(Some(pool)) => self.number(pool.as_deref()),
            Ok(None) => self.seen.lock().get(tenant).copied(),
            Err(_) => None,
        }
    }
}

/// Returns the lane of a tenant, where it is known. Without a placement, all are in the shared one.
pub(super) fn lane_of(placement: Option<&Placement>, tenant: &str) -> Option<usize> {
    placement.map_or(Some(SHARED), |placement| placement.of_tenant(tenant))
}

/// The inboxes of all lanes. Cheap to clone.
#[derive(Clone)]
pub(crate) struct PooledInbox {
    lanes: Arc<[TelemetryInbox]>,
    /// `None` with the shared pool alone.
    placement: Option<Arc<Placement>>,
}

impl PooledInbox {
    /// Inboxes in the order of their lanes.
    pub(super) fn new(lanes: Vec<TelemetryInbox>, placement: Option<Arc<Placement>>) -> Self {
        Self { lanes: lanes.into(), placement }
    }
}

impl Inbox for PooledInbox {
    type Intake = PooledIntake;

    fn open(&self, sender: &Sender) -> PooledIntake {
        let lane = match &self.placement {
            None => Some(SHARED),
            Some(placement) => placement.of_sender(&sender.tenant),
        };
        match lane.and_then(|lane| self.lanes.get(lane)) {
            Some(inbox) => PooledIntake::Lane(Box::new(inbox.open(sender))),
            None => PooledIntake::Nowhere(format!("the pool of tenant {} is not known here", sender.tenant).into()),
        }
    }
}

/// A sender's way into the log of its tenant's pool.
pub(crate) enum PooledIntake {
    Lane(Box<ConnectionIngest>),
    /// The pool is not known, for this reason: everything fails, and nothing is acknowledged.
    Nowhere(Arc<str>),
}

impl Intake for PooledIntake {
    fn take(&mut self, message: &Message<'_>) -> Verdict {
        match self {
            Self::Lane(intake) => intake.take(message),
            Self::Nowhere(_) => Verdict::Staged,
        }
    }

    fn is_traced(&self) -> bool {
        matches!(self, Self::Lane(intake) if intake.is_traced())
    }

    fn take_span(&mut self) -> Option<Box<Span>> {
        match self {
            Self::Lane(intake) => intake.take_span(),
            Self::Nowhere(_) => None,
        }
    }

    fn answered(&mut self, span: Box<Span>) {
        if let Self::Lane(intake) = self {
            intake.answered(span);
        }
    }

    fn retain(&mut self, message: &Retained<'_>) {
        if let Self::Lane(intake) = self {
            intake.retain(message);
        }
    }

    fn end_session(&mut self) -> bool {
        match self {
            Self::Lane(intake) => intake.end_session(),
            Self::Nowhere(_) => false,
        }
    }

    fn released(&mut self, id: u64) {
        if let Self::Lane(intake) = self {
            intake.released(id);
        }
    }

    fn rest(&mut self) {
        if let Self::Lane(intake) = self {
            intake.rest();
        }
    }

    fn was_routed(&mut self, id: u64) -> bool {
        match self {
            Self::Lane(intake) => intake.was_routed(id),
            Self::Nowhere(_) => false,
        }
    }

    fn poll_submit(&mut self, cx: &mut Context<'_>) -> Poll<Result<Ticket, Failed>> {
        match self {
            Self::Lane(intake) => intake.poll_submit(cx),
            Self::Nowhere(reason) => Poll::Ready(Err(Failed(Arc::clone(reason)))),
        }
    }

    fn durable(&self) -> Result<Ticket, Failed> {
        match self {
            Self::Lane(intake) => intake.durable(),
            Self::Nowhere(reason) => Err(Failed(Arc::clone(reason))),
        }
    }
}
