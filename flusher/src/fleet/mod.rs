//! One of several flushers over the same logs.
//!
//! Logs come and go while it runs. It claims logs without a flusher, up to its share, under leases
//! that it renews. A log whose lease went to another flusher is released at once, without a last
//! flush: every move of a cursor is refused from then on, and the next holder writes the last
//! blocks again, under the same ids. A lease that ran out while the server was away, or that the
//! server has lost, is taken again if no other flusher has it; the sinks keep what they hold. A log
//! without a writer is removed when every sink has passed it. A log that cannot be read stops only
//! itself.

mod answers;
#[cfg(test)]
mod answers_tests;
mod call;
mod convert;
mod directory;
#[cfg(test)]
mod export_tests;
mod exports;
mod fresh;
mod handle;
mod held_log;
mod latest;
mod ledger;
mod letters;
mod readers;
mod retained;
mod share;
mod tail;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use buffer::{Catalogue, CursorError, Holder, Lease, LogInfo};
use model::trace::Tracer;
use parking_lot::RwLock;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::context::Context;
use crate::engine::assemble::Builder;
use crate::engine::control::Controls;
use crate::engine::register::Unready;
use crate::flusher::Error;
use crate::metrics::Metrics;
use crate::{Projections, Stores};

pub use answers::{Pools, answers};
pub use exports::ExportControlError;
pub(crate) use fresh::Fresh;
pub use handle::FleetHandle;
pub(crate) use handle::Shared;
use held_log::HeldLog;
pub use readers::{Readers, Source as ReaderSource};

/// A log that could not be flushed here is left to others for this many lease times.
const BACK_OFF: u32 = 3;
/// The sinks of new logs wait this long for the store's states.
const LOAD: Duration = Duration::from_secs(5);

/// A flusher beside others, or alone.
pub struct Fleet {
    shared: Arc<Shared>,
    lease: Duration,
    /// Logs that failed here, and until when they are left alone.
    resting: HashMap<String, Instant>,
    jobs: JoinSet<Job>,
    /// Logs that a job is at.
    busy: Vec<String>,
    /// Leases of logs that are claimed and not started yet.
    starting: Vec<Lease>,
    /// No other flusher can take a log that fails here.
    is_alone: bool,
    /// A log that cannot be flushed before an operator acts, and the reason.
    broken: Option<(String, String)>,
}

/// The outcome of a job.
enum Job {
    Started(Vec<(Lease, Result<HeldLog, Unready>)>),
    Loaded(Vec<String>, bool),
    /// A log, and the reason why its sinks ended, if it was a fault.
    Given(String, Option<String>),
}

/// Ends a task that the fleet has started.
struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Fleet {
    /// A flusher named `holder.name`, which answers the other processes at `holder.address`. A
    /// lease lasts for `lease`: a log may be without a flusher for that long after one died.
    /// Nothing is claimed before [`Fleet::run`].
    pub fn new(
        config: Config,
        catalogue: Arc<dyn Catalogue>,
        (holder, lease): (Holder, Duration),
        projections: Projections,
        stores: Stores,
        metrics: Arc<Metrics>,
    ) -> Self {
        let shared = Shared {
            catalogue,
            holder,
            context: Context::new(config, projections, stores, metrics, Controls::unread()),
            held_logs: RwLock::default(),
            failed: RwLock::default(),
            moving: tokio::sync::RwLock::default(),
        };
        let (resting, busy, starting, broken) = (HashMap::new(), Vec::new(), Vec::new(), None);
        let (shared, jobs, is_alone) = (Arc::new(shared), JoinSet::new(), false);
        Self { shared, lease, resting, jobs, busy, starting, is_alone, broken }
    }

    /// A flusher without others: it ends when a log cannot be flushed, because no other can take
    /// it.
    pub fn alone(self) -> Self {
        Self { is_alone: true, ..self }
    }

    /// Readers of the logs held here, for the rest of the process.
    pub fn handle(&self) -> FleetHandle {
        FleetHandle(Arc::clone(&self.shared))
    }

    /// Records spans of flushes that hold traced messages, from now on. The first call counts.
    pub fn trace(&self, tracer: Tracer) {
        self.shared.context.traces.get_or_init(|| tracer);
    }

    /// Claims and flushes until `stop`, then flushes once more and gives every log back.
    ///
    /// # Errors
    /// [`Error::Ended`] when the upkeep of the stores ended; for a flusher that is alone, also when
    /// a log cannot be flushed.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), Error> {
        let mut upkeep = Builder::new(self.shared.context.clone());
        upkeep.add_upkeep();
        let (upkeep, upkeep_stop) = (upkeep.finish(), stop.clone());
        let mut upkeep = tokio::spawn(upkeep.run(upkeep_stop));
        let controls = self.shared.context.controls.clone();
        let following = tokio::spawn(controls.follow(Arc::clone(&self.shared.catalogue), stop.clone()));
        let _following = AbortOnDrop(following.abort_handle());
        let mut ticks = tokio::time::interval(self.lease / 3);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                // First: parts that end because of the stop are not at fault.
                biased;
                () = stop.cancelled() => break,
                ended = &mut upkeep => {
                    let task = "upkeep of the stores".to_owned();
                    return Err(match ended {
                        Ok(Err(error)) => error,
                        Ok(Ok(())) => Error::Ended { task, reason: "it returned".into() },
                        Err(error) => Error::Ended { task, reason: error.to_string() },
                    });
                },
                _ = ticks.tick() => self.tick().await,
                Some(job) = self.jobs.join_next() => self.finish(job),
            }
            if let Some((log, reason)) = self.broken.take().filter(|_| self.is_alone) {
                return Err(Error::Ended { task: format!("flushing of log {log}"), reason });
            }
        }
        self.give_all_back(ticks).await;
        Ok(())
    }

    async fn tick(&mut self) {
        self.renew().await;
        self.release_ended();
        let (alive, logs) = match self.poll().await {
            Ok(seen) => seen,
            Err(error) => {
                tracing::warn!(%error, "cannot list the logs; trying again");
                return;
            }
        };
        if self.shared.context.fresh.get().is_none() {
            match Fresh::find(&*self.shared.catalogue, &self.shared.context.projections, &logs).await {
                Ok(fresh) => drop(self.shared.context.fresh.set(fresh)),
                Err(error) => {
                    tracing::warn!(error, "cannot read the cursors of the logs; trying again");
                    return;
                }
            }
        }
        self.remove_drained(&logs).await;
        let now = Instant::now();
        self.resting.retain(|_, until| *until > now);
        self.shared.failed.write().retain(|log, _| logs.iter().any(|info| info.id == *log));
        let able = |log: &str| !self.resting.contains_key(log) && !self.busy.iter().any(|busy| busy == log);
        let mut plan = share::plan(&logs, &alive, &self.shared.holder.name, able);
        // Claimed under this name before a restart: no other flusher may have it before its lease
        // runs out.
        let orphaned = |info: &&LogInfo| info.holder.as_ref() == Some(&self.shared.holder);
        let lost = logs.iter().filter(orphaned).map(|info| &info.id);
        plan.claim.extend(lost.filter(|id| able(id) && !self.shared.held_logs.read().contains_key(*id)).cloned());
        for log in plan.release {
            self.give_back(&log);
        }
        self.claim(plan.claim).await;
        self.load_missing();
    }

    async fn poll(&self) -> Result<(Vec<Holder>, Vec<LogInfo>), buffer::CatalogueError> {
        let Shared { catalogue, holder, .. } = &*self.shared;
        Ok((catalogue.announce(holder, self.lease).await?, catalogue.list().await?))
    }

    /// Renews every lease, or takes it again; releases logs whose leases went to others.
    async fn renew(&self) {
        for held_log in self.shared.held_logs() {
            let log = &held_log.lease.log;
            match self.shared.catalogue.renew(&held_log.lease, self.lease).await {
                Ok(true) => {}
                Ok(false) => self.regain(&held_log).await,
                // The epoch guards every cursor: nothing is lost by continuing, and queries are
                // still answered.
                Err(error) => tracing::warn!(log, %error, "cannot renew a lease; trying again"),
            }
        }
        // A start may take longer than a lease. A lease that is lost now is noticed by the first
        // renewal after the start.
        for lease in &self.starting {
            if let Err(error) = self.shared.catalogue.renew(lease, self.lease).await {
                tracing::warn!(log = lease.log, %error, "cannot renew a lease; trying again");
            }
        }
    }

    /// Takes a lease again that ran out or that the server lost. Without it the log was taken by
    /// another flusher, or is not on the server.
    async fn regain(&self, held_log: &HeldLog) {
        let (catalogue, log) = (&self.shared.catalogue, &held_log.lease.log);
        // First: nothing is trimmed before the cursors are there.
        match held_log.put_cursors().await {
            // The lease decides.
            Ok(()) | Err(CursorError::Fenced { .. } | CursorError::Backwards { .. } | CursorError::Outside { .. }) => {}
            Err(error @ CursorError::Unavailable(_)) => {
                return tracing::warn!(log, %error, "a lease is gone, and the cursors cannot be written; trying again");
            }
        }
        match catalogue.regain(&held_log.lease, self.lease).await {
            Ok(true) => return tracing::warn!(log, "a lease had run out or was lost; no other flusher has taken it"),
            Ok(false) => {}
            Err(error) => return tracing::warn!(log, %error, "cannot take a lease again; trying again"),
        }
        match catalogue.ids().await {
            Ok(ids) if ids.contains(log) => {
                tracing::warn!(log, "the lease went to another flusher");
                self.shared.held_logs.write().remove(log);
            }
            Ok(_) => tracing::error!(log, "the log is not on its server; its records in memory are kept and delivered"),
            Err(error) => tracing::warn!(log, %error, "cannot list the logs; trying again"),
        }
    }

    /// Releases logs whose sinks ended by themselves.
    fn release_ended(&mut self) {
        for held_log in self.shared.held_logs().iter().filter(|held_log| held_log.has_ended()) {
            let log = held_log.lease.log.clone();
            if self.busy.contains(&log) {
                continue;
            }
            self.back_off(&log);
            self.give_back(&log);
        }
    }

    fn back_off(&mut self, log: &str) {
        self.resting.insert(log.to_owned(), Instant::now() + self.lease * BACK_OFF);
    }

    async fn remove_drained(&self, logs: &[LogInfo]) {
        for held_log in self.shared.held_logs() {
            let log = &held_log.lease.log;
            if self.busy.contains(log) || logs.iter().any(|info| info.id == *log && info.written) {
                continue;
            }
            let end = held_log.log.end();
            if held_log.handle.statuses().iter().any(|status| status.done_to < end) {
                continue;
            }
            // Not while the books are read: the leases have to be renewed meanwhile.
            let Ok(moving) = self.shared.moving.try_write() else { return };
            match self.shared.catalogue.remove(&held_log.lease).await {
                Ok(true) => {
                    self.shared.held_logs.write().remove(log);
                    tracing::info!(log, records = end, "a log without a writer is in every store and was removed");
                }
                Ok(false) => {}
                Err(error) => tracing::warn!(log, %error, "cannot remove a log that is in every store; trying again"),
            }
            drop(moving);
        }
    }

    async fn claim(&mut self, logs: Vec<String>) {
        let mut leases = Vec::new();
        for log in logs {
            match self.shared.catalogue.claim(&log, &self.shared.holder, self.lease).await {
                Ok(Some(lease)) => leases.push(lease),
                Ok(None) => {}
                Err(error) => tracing::warn!(log, %error, "cannot claim a log; trying again"),
            }
        }
        if leases.is_empty() {
            return;
        }
        self.busy.extend(leases.iter().map(|lease| lease.log.clone()));
        self.starting.extend(leases.iter().cloned());
        let shared = Arc::clone(&self.shared);
        self.jobs.spawn(async move {
            // Before the sinks continue the store's counts. A store that is away does not hold up
            // the log for long.
            let loaded = matches!(tokio::time::timeout(LOAD, shared.load_states()).await, Ok(Ok(())));
            let mut started = Vec::new();
            for lease in leases {
                let held_log = HeldLog::start(&shared.context, &*shared.catalogue, lease.clone(), loaded).await;
                started.push((lease, held_log));
            }
            Job::Started(started)
        });
    }

    /// Loads the store's states for logs that were started without them.
    fn load_missing(&mut self) {
        let missing = |held_log: &Arc<HeldLog>| !held_log.is_complete();
        let missing =
            self.shared.held_logs().iter().filter(|m| missing(m)).map(|m| m.lease.log.clone()).collect::<Vec<_>>();
        if missing.is_empty() || self.busy.iter().any(|busy| busy.is_empty()) {
            return;
        }
        // No log has this name: one load at a time.
        self.busy.push(String::new());
        let shared = Arc::clone(&self.shared);
        self.jobs.spawn(async move { Job::Loaded(missing, shared.load_states().await.is_ok()) });
    }

    /// Flushes a log once more, then leaves it to others.
    fn give_back(&mut self, log: &str) {
        let Some(held_log) = self.shared.held_logs.read().get(log).cloned() else { return };
        if self.busy.iter().any(|busy| busy == log) {
            return;
        }
        self.busy.push(log.to_owned());
        let (shared, log) = (Arc::clone(&self.shared), log.to_owned());
        self.jobs.spawn(async move {
            let fault = held_log.stop().await.err();
            match &fault {
                None => tracing::info!(log, "given back"),
                Some(reason) => {
                    tracing::error!(log, reason, "a log cannot be flushed here");
                    shared.failed.write().insert(log.clone(), reason.clone());
                }
            }
            // Answered for until the next holder can.
            shared.held_logs.write().remove(&log);
            if let Err(error) = shared.catalogue.release(&held_log.lease).await {
                tracing::debug!(log, %error, "a lease was not given back; it runs out");
            }
            Job::Given(log, fault)
        });
    }

    fn finish(&mut self, job: Result<Job, tokio::task::JoinError>) {
        let job = match job {
            Ok(job) => job,
            Err(error) => {
                tracing::error!(%error, "a step of the flusher ended");
                self.busy.clear();
                self.starting.clear();
                return;
            }
        };
        match job {
            Job::Given(log, fault) => {
                self.busy.retain(|busy| *busy != log);
                self.broken = self.broken.take().or(fault.map(|reason| (log, reason)));
            }
            Job::Loaded(logs, loaded) => {
                self.busy.retain(|busy| !busy.is_empty());
                self.shared.held(&logs).iter().filter(|_| loaded).for_each(|held_log| held_log.set_complete());
            }
            Job::Started(started) => {
                for (lease, held_log) in started {
                    self.busy.retain(|busy| *busy != lease.log);
                    self.starting.retain(|starting| *starting != lease);
                    self.join(lease, held_log);
                }
            }
        }
    }

    fn join(&mut self, lease: Lease, held_log: Result<HeldLog, Unready>) {
        match held_log {
            Ok(held_log) => {
                tracing::info!(log = lease.log, epoch = lease.epoch, "flushes this log");
                self.shared.failed.write().remove(&lease.log);
                self.shared.held_logs.write().insert(lease.log, Arc::new(held_log));
            }
            Err(Unready { reason, passing }) => {
                if passing {
                    tracing::warn!(log = lease.log, reason, "cannot flush a log now; trying again");
                } else {
                    tracing::error!(log = lease.log, reason, "cannot flush a log; leaving it to others for a while");
                    self.back_off(&lease.log);
                    self.broken.get_or_insert_with(|| (lease.log.clone(), reason.clone()));
                }
                self.shared.failed.write().insert(lease.log.clone(), reason);
                let shared = Arc::clone(&self.shared);
                self.busy.push(lease.log.clone());
                self.jobs.spawn(async move {
                    if let Err(error) = shared.catalogue.release(&lease).await {
                        tracing::debug!(log = lease.log, %error, "a lease was not given back; it runs out");
                    }
                    Job::Given(lease.log, None)
                });
            }
        }
    }

    /// Stops all at once; leases are renewed meanwhile.
    async fn give_all_back(&mut self, mut ticks: tokio::time::Interval) {
        if let Err(error) = self.shared.catalogue.withdraw(&self.shared.holder).await {
            tracing::debug!(%error, "not withdrawn; it runs out");
        }
        loop {
            let held: Vec<String> = self.shared.held_logs.read().keys().cloned().collect();
            held.iter().for_each(|log| self.give_back(log));
            tokio::select! {
                job = self.jobs.join_next() => match job {
                    Some(job) => self.finish(job),
                    None => return,
                },
                _ = ticks.tick() => self.renew().await,
            }
        }
    }
}
