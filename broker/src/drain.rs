//! Draining: the connections are closed in slices, so that their clients connect to other processes
//! at a rate that these can take.
//!
//! Clients of a process that closes all of them at once connect again all at once. A drain signals
//! so many connections each [`SLICE`] as its rate allows; each of them reads what its client has
//! sent, acknowledges it, and gives the reason. The clients of all tenants leave side by side:
//! those of one tenant that left together would reach its limit of new connections elsewhere.
//!
//! The rate rises as far as the time of a stop demands: a stop that takes longer ends in a kill.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::Broker;
use crate::link::Link;
use crate::session::Session;
use door::Inbox;

/// Time between two slices.
const SLICE: Duration = Duration::from_millis(100);
/// Time between two looks for clients that were connecting when the drain began.
const AGAIN: Duration = Duration::from_secs(1);

/// Metric label of a connection that was closed for a drain.
pub(crate) const MOVED: &str = "moved";

/// The reason of a drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The process stops.
    Stop,
    /// An operator moves the connections.
    Operator,
}

/// The progress of a drain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DrainReport {
    /// Connections that are closed in a second.
    pub per_second: u32,
    /// Connections that were closed since it began.
    pub closed: u64,
    /// Connections that are open, without those of clients inside of the process.
    pub open: usize,
    /// Time since it began.
    pub lasting: Duration,
}

/// A drain that an operator asked for cannot begin or end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DrainError {
    /// The process stops, which is a drain already.
    #[error("the process is stopping: its connections are being closed already")]
    Stopping,
    /// There is none.
    #[error("the process is not draining")]
    NotDraining,
}

/// The drain of a process, when there is one.
#[derive(Debug, Default)]
pub(crate) struct Drain {
    current: Mutex<Option<Current>>,
    changed: Notify,
    /// The rest of a stop is to be closed at once.
    hastened: CancellationToken,
}

#[derive(Debug)]
struct Current {
    cause: Cause,
    per_second: u32,
    /// End of the time that a stop has for its slices.
    until: Option<Instant>,
    begun: Instant,
    /// Time of the next slice.
    next: Instant,
    /// Connections that may be closed now, with a fraction for slow rates.
    credit: f64,
    /// Sessions whose connections are to be closed, the next one last.
    left: Vec<Arc<Session>>,
    /// Connections that were closed for a drain before.
    closed_before: u64,
}

impl Current {
    /// Adds the credit of the next slice.
    fn earn(&mut self, now: Instant) {
        let time_left = self.until.map(|until| until.saturating_duration_since(now).max(SLICE));
        let needed = time_left.map_or(0.0, |time| self.left.len() as f64 / time.as_secs_f64());
        let rate = f64::from(self.per_second).max(needed);
        // A slice that comes late makes up for no more than one.
        let late = now.saturating_duration_since(self.next).min(SLICE);
        self.credit += rate * (SLICE + late).as_secs_f64();
        self.next = now + SLICE;
    }

    /// Returns the links of the next connections. A session that no connection owns any longer
    /// costs nothing.
    fn choose(&mut self) -> Vec<Arc<Link>> {
        let mut links = Vec::new();
        while self.credit >= 1.0 {
            let Some(session) = self.left.pop() else { break };
            let link = session.state().link.clone();
            if let Some(link) = link {
                self.credit -= 1.0;
                links.push(link);
            }
        }
        // What is not used is not saved for a burst.
        self.credit = self.credit.min(1.0);
        links
    }
}

impl Drain {
    /// The cause, while connections are being closed.
    pub(crate) fn cause(&self) -> Option<Cause> {
        self.current.lock().as_ref().map(|current| current.cause)
    }

    /// Resolves when the next slice is due; never while there is no drain.
    pub(crate) async fn due(&self) {
        loop {
            let changed = self.changed.notified();
            let next = self.current.lock().as_ref().map(|current| current.next);
            match next {
                None => changed.await,
                Some(next) => tokio::select! {
                    () = tokio::time::sleep_until(next) => return,
                    () = changed => {}
                },
            }
        }
    }

    /// Resolves when the rest is to be closed at once.
    pub(crate) async fn hastened(&self) {
        self.hastened.cancelled().await;
    }
}

impl<I: Inbox> Broker<I> {
    /// Begins to close the connections for an operator, at a rate a second, or at
    /// `drain_connections_per_second`. New ones are refused until [`Broker::cancel_drain`]. Sets
    /// the rate of a drain that goes on.
    ///
    /// # Errors
    /// [`DrainError::Stopping`].
    pub fn drain(&self, per_second: Option<u32>) -> Result<(), DrainError> {
        let per_second = per_second.unwrap_or(self.config.drain_connections_per_second).max(1);
        {
            let mut current = self.drain.current.lock();
            match &mut *current {
                Some(Current { cause: Cause::Stop, .. }) => return Err(DrainError::Stopping),
                Some(going_on) => {
                    going_on.per_second = per_second;
                    return Ok(());
                }
                None => *current = Some(self.begin(Cause::Operator, per_second, None)),
            }
        }
        self.drain.changed.notify_one();
        Ok(())
    }

    /// Ends a drain: connections are accepted again.
    ///
    /// # Errors
    /// When there is none, or the process stops.
    pub fn cancel_drain(&self) -> Result<(), DrainError> {
        let mut current = self.drain.current.lock();
        match current.as_ref().map(|current| current.cause) {
            None => return Err(DrainError::NotDraining),
            Some(Cause::Stop) => return Err(DrainError::Stopping),
            Some(Cause::Operator) => {}
        }
        let closed = current.take().map_or(0, |ended| self.closed_since(&ended));
        self.metrics.draining.set(0);
        drop(current);
        self.drain.changed.notify_one();
        tracing::info!(closed, open = self.connections(), "the drain was cancelled; accepting connections");
        Ok(())
    }

    /// Returns the progress of the drain, if there is one.
    pub fn drain_report(&self) -> Option<DrainReport> {
        let current = self.drain.current.lock();
        current.as_ref().map(|current| DrainReport {
            per_second: current.per_second,
            closed: self.closed_since(current),
            open: self.connections().saturating_sub(self.attached.load(Ordering::Relaxed)),
            lasting: current.begun.elapsed(),
        })
    }

    fn closed_since(&self, drain: &Current) -> u64 {
        self.metrics.disconnects(MOVED).get() - drain.closed_before
    }

    /// Closes what is left at once, when the process is closing its connections in slices to stop.
    /// False when it is not.
    pub fn hasten(&self) -> bool {
        let stops = self.drain.cause() == Some(Cause::Stop) && !self.drain.hastened.is_cancelled();
        if stops {
            self.drain.hastened.cancel();
        }
        stops
    }

    /// Begins to close the connections for a stop. False when all of them are to be closed at once.
    pub(crate) fn drain_to_stop(&self) -> bool {
        let most = Duration::from_secs(u64::from(self.config.drain_secs));
        if most.is_zero() {
            return false;
        }
        let mut current = self.drain.current.lock();
        let earlier = current.as_ref().map_or(0, |current| current.per_second);
        let per_second = self.config.drain_connections_per_second.max(1).max(earlier);
        *current = Some(self.begin(Cause::Stop, per_second, Some(Instant::now() + most)));
        true
    }

    fn begin(&self, cause: Cause, per_second: u32, until: Option<Instant>) -> Current {
        let now = Instant::now();
        let left = self.connected();
        self.metrics.draining.set(1);
        let open = left.len();
        tracing::info!(open, per_second, "draining: connections are closed in slices");
        let closed_before = self.metrics.disconnects(MOVED).get();
        Current { cause, per_second, until, begun: now, next: now, credit: 0.0, left, closed_before }
    }

    /// Closes the next connections. True when a stop has closed all, or has no more time for it.
    pub(crate) fn close_slice(&self) -> bool {
        let now = Instant::now();
        let mut drain = self.drain.current.lock();
        let Some(current) = &mut *drain else { return false };
        let stops = current.cause == Cause::Stop;
        if current.left.is_empty() && !stops {
            // Clients that were connecting when it began.
            current.left = self.connected();
        }
        current.earn(now);
        let links = current.choose();
        let rest = current.left.len();
        if rest == 0 && !stops {
            current.next = now + AGAIN;
        }
        let is_late = current.until.is_some_and(|until| until <= now);
        drop(drain);
        links.iter().for_each(|link| link.signal(Link::MOVE));
        if is_late && rest > 0 {
            tracing::warn!(rest, "mqtt.drain_secs are over: closing the rest at once");
        }
        stops && (is_late || rest == 0)
    }

    /// The sessions that have a connection; those of each tenant are spread over all of them.
    fn connected(&self) -> Vec<Arc<Session>> {
        let mut placed = Vec::new();
        for tenant in self.tenants.all() {
            let mut connected = tenant.sessions.all();
            // Clients inside of the process stay: they have no other one.
            connected.retain(|session| !session.client.starts_with(Self::INTERNAL) && session.state().link.is_some());
            let count = connected.len();
            let place = |(n, session)| ((2 * n as u64 + 1) * (u64::from(u32::MAX) / count as u64), session);
            placed.extend(connected.into_iter().enumerate().map(place));
        }
        placed.sort_by_key(|(place, _)| *place);
        placed.into_iter().map(|(_, session)| session).collect()
    }
}
