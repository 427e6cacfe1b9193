//! One of several flushers over the same logs.
//!
//! Logs come and go while it runs. It claims those that nobody flushes, up to its share, under leases that it renews; a log whose
//! lease went to another is let go at once, without a last flush: every move of a cursor is refused from then on, and what was
//! written last is what its next holder writes again, under the same ids. A log without a writer is removed when every sink has
//! passed it. A log that cannot be read stops only itself.

mod directory;
mod latest;
mod ledger;
mod letters;
mod member;
mod peers;
mod readers;
mod serve;
mod share;
mod tail;
#[cfg(test)]
mod tests;
mod wire;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use buffer::{Catalogue, Holder, Lease, LogInfo};
use parking_lot::RwLock;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::assemble::Builder;
use crate::common::Common;
use crate::config::Config;
use crate::flusher::{Error, system_clock};
use crate::metrics::Metrics;
use crate::status::SinkStatus;
use crate::{Clock, Stores, Tracing};

use member::Member;
pub use readers::{Readers, Source as ReaderSource};
pub use serve::serve;

/// A log that could not be flushed here is left to others for so many lease times.
const REST: u32 = 3;
/// How long the sinks of new logs wait for the store's states.
const LOAD: Duration = Duration::from_secs(5);

/// A process that flushes logs beside others.
pub struct Fleet {
    shared: Arc<Shared>,
    lease: Duration,
    /// Logs that failed here, and until when they are left alone.
    resting: HashMap<String, Instant>,
    jobs: JoinSet<Job>,
    /// Logs that a job is at.
    busy: Vec<String>,
}

/// What those who ask share with those who work.
pub(crate) struct Shared {
    pub(crate) catalogue: Arc<dyn Catalogue>,
    pub(crate) holder: Holder,
    pub(crate) common: Common,
    members: RwLock<BTreeMap<String, Arc<Member>>>,
    /// Why logs cannot be flushed here.
    failed: RwLock<BTreeMap<String, String>>,
    /// Held while a log goes from the members to the removed ones, so that the books see it once.
    pub(crate) moving: tokio::sync::RwLock<()>,
}

/// How a job ended.
enum Job {
    Started(Vec<(Lease, Result<Member, String>)>),
    Loaded(Vec<String>, bool),
    Given(String),
}

/// What the rest of the process asks. Cheap to clone.
#[derive(Clone)]
pub struct FleetHandle(pub(crate) Arc<Shared>);

impl FleetHandle {
    /// How each sink of each log held here is. Sets the lag gauges too.
    pub fn status(&self) -> Vec<SinkStatus> {
        let statuses = self.0.statuses();
        self.0.common.metrics.observe(&statuses);
        statuses
    }

    /// Logs that cannot be flushed here, and why.
    pub fn failures(&self) -> Vec<(String, String)> {
        self.0.failed.read().iter().map(|(log, reason)| (log.clone(), reason.clone())).collect()
    }
}

impl Shared {
    pub(crate) fn statuses(&self) -> Vec<SinkStatus> {
        self.members().iter().flat_map(|member| member.handle.statuses()).collect()
    }

    pub(crate) fn members(&self) -> Vec<Arc<Member>> {
        self.members.read().values().cloned().collect()
    }

    /// Those of `logs` that are held here.
    pub(crate) fn held(&self, logs: &[String]) -> Vec<Arc<Member>> {
        let members = self.members.read();
        logs.iter().filter_map(|log| members.get(log)).filter(|member| !member.has_ended()).cloned().collect()
    }
}

impl Fleet {
    /// A flusher named `holder.name`, which answers the others at `holder.address`. A lease runs for `lease`: so long a log may be
    /// without a flusher after one died. Nothing is claimed before [`Fleet::run`].
    pub fn new(
        config: Config,
        catalogue: Arc<dyn Catalogue>,
        holder: Holder,
        lease: Duration,
        stores: Stores,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self::new_at(config, catalogue, holder, lease, stores, metrics, system_clock())
    }

    pub(crate) fn new_at(
        config: Config,
        catalogue: Arc<dyn Catalogue>,
        holder: Holder,
        lease: Duration,
        stores: Stores,
        metrics: Arc<Metrics>,
        clock: Clock,
    ) -> Self {
        let shared = Shared {
            catalogue,
            holder,
            common: Common::new(config, stores, metrics, clock),
            members: RwLock::default(),
            failed: RwLock::default(),
            moving: tokio::sync::RwLock::default(),
        };
        let (resting, busy) = (HashMap::new(), Vec::new());
        Self { shared: Arc::new(shared), lease, resting, jobs: JoinSet::new(), busy }
    }

    /// What the rest of the process asks.
    pub fn handle(&self) -> FleetHandle {
        FleetHandle(Arc::clone(&self.shared))
    }

    /// From now on flushes that hold traced messages are told of. The first call counts.
    pub fn trace(&self, tracing: Tracing) {
        self.shared.common.traces.get_or_init(|| tracing);
    }

    /// Claims and flushes until `stop`, then flushes once more and gives every log back.
    ///
    /// # Errors
    /// When what is done once for each process ended.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), Error> {
        let mut upkeep = Builder::new(self.shared.common.clone());
        upkeep.add_upkeep();
        let (upkeep, upkeep_stop) = (upkeep.finish(), stop.clone());
        let mut upkeep = tokio::spawn(upkeep.run(upkeep_stop));
        let mut ticks = tokio::time::interval(self.lease / 3);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                // First: what ends because it was told to is no fault.
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
        }
        self.give_all_back(ticks).await;
        Ok(())
    }

    async fn tick(&mut self) {
        self.renew().await;
        self.bury();
        let (alive, logs) = match self.look().await {
            Ok(seen) => seen,
            Err(error) => {
                tracing::warn!(%error, "cannot look for logs; trying again");
                return;
            }
        };
        self.remove_drained(&logs).await;
        let now = Instant::now();
        self.resting.retain(|_, until| *until > now);
        self.shared.failed.write().retain(|log, _| logs.iter().any(|info| info.id == *log));
        let able = |log: &str| !self.resting.contains_key(log) && !self.busy.iter().any(|busy| busy == log);
        let mut plan = share::plan(&logs, &alive, &self.shared.holder.name, able);
        // Claimed under this name by an incarnation that is no more: nobody else may have it before its lease runs out.
        let orphaned = |info: &&LogInfo| info.holder.as_ref() == Some(&self.shared.holder);
        let lost = logs.iter().filter(orphaned).map(|info| &info.id);
        plan.claim.extend(lost.filter(|id| able(id) && !self.shared.members.read().contains_key(*id)).cloned());
        for log in plan.release {
            self.give_back(&log);
        }
        self.claim(plan.claim).await;
        self.load_missing();
    }

    async fn look(&self) -> Result<(Vec<Holder>, Vec<LogInfo>), buffer::CatalogueError> {
        let Shared { catalogue, holder, .. } = &*self.shared;
        Ok((catalogue.announce(holder, self.lease).await?, catalogue.list().await?))
    }

    /// Renews every lease; lets go of those that went to others.
    async fn renew(&self) {
        for member in self.shared.members() {
            let log = &member.lease.log;
            match self.shared.catalogue.renew(&member.lease, self.lease).await {
                Ok(true) => {}
                Ok(false) => {
                    tracing::warn!(log, "the lease went to another flusher");
                    self.shared.members.write().remove(log);
                }
                // The epoch guards every cursor: nothing is lost by going on, and queries are still answered.
                Err(error) => tracing::warn!(log, %error, "cannot renew a lease; trying again"),
            }
        }
    }

    /// Lets go of logs whose sinks ended by themselves.
    fn bury(&mut self) {
        for member in self.shared.members().iter().filter(|member| member.has_ended()) {
            let log = member.lease.log.clone();
            if self.busy.contains(&log) {
                continue;
            }
            self.rest(&log);
            self.give_back(&log);
        }
    }

    fn rest(&mut self, log: &str) {
        self.resting.insert(log.to_owned(), Instant::now() + self.lease * REST);
    }

    async fn remove_drained(&self, logs: &[LogInfo]) {
        for member in self.shared.members() {
            let log = &member.lease.log;
            if self.busy.contains(log) || logs.iter().any(|info| info.id == *log && info.written) {
                continue;
            }
            let end = member.log.end();
            if member.handle.statuses().iter().any(|status| status.done_to < end) {
                continue;
            }
            // Whoever is at the books now is not waited for: leases want to be renewed.
            let Ok(moving) = self.shared.moving.try_write() else { return };
            match self.shared.catalogue.remove(&member.lease).await {
                Ok(true) => {
                    self.shared.members.write().remove(log);
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
        let shared = Arc::clone(&self.shared);
        self.jobs.spawn(async move {
            // Before the sinks count on from what the store holds. A store that is away makes nobody wait for long.
            let loaded = matches!(tokio::time::timeout(LOAD, shared.common.load_states()).await, Ok(Ok(())));
            let mut started = Vec::new();
            for lease in leases {
                let member = Member::start(&shared.common, &*shared.catalogue, lease.clone(), loaded).await;
                started.push((lease, member));
            }
            Job::Started(started)
        });
    }

    /// Reads the store's states for those logs that were started without them.
    fn load_missing(&mut self) {
        let missing = |member: &Arc<Member>| !member.is_complete();
        let missing =
            self.shared.members().iter().filter(|m| missing(m)).map(|m| m.lease.log.clone()).collect::<Vec<_>>();
        if missing.is_empty() || self.busy.iter().any(|busy| busy.is_empty()) {
            return;
        }
        // No log has this name: one load at a time.
        self.busy.push(String::new());
        let shared = Arc::clone(&self.shared);
        self.jobs.spawn(async move { Job::Loaded(missing, shared.common.load_states().await.is_ok()) });
    }

    /// Flushes a log once more, then leaves it to others.
    fn give_back(&mut self, log: &str) {
        let Some(member) = self.shared.members.read().get(log).cloned() else { return };
        if self.busy.iter().any(|busy| busy == log) {
            return;
        }
        self.busy.push(log.to_owned());
        let (shared, log) = (Arc::clone(&self.shared), log.to_owned());
        self.jobs.spawn(async move {
            match member.stop().await {
                Ok(()) => tracing::info!(log, "given back"),
                Err(reason) => {
                    tracing::error!(log, reason, "a log cannot be flushed here");
                    shared.failed.write().insert(log.clone(), reason);
                }
            }
            // Still answered for until the next holder can.
            shared.members.write().remove(&log);
            if let Err(error) = shared.catalogue.release(&member.lease).await {
                tracing::debug!(log, %error, "a lease was not given back; it runs out");
            }
            Job::Given(log)
        });
    }

    fn finish(&mut self, job: Result<Job, tokio::task::JoinError>) {
        let job = match job {
            Ok(job) => job,
            Err(error) => {
                tracing::error!(%error, "a step of the flusher ended");
                self.busy.clear();
                return;
            }
        };
        match job {
            Job::Given(log) => self.busy.retain(|busy| *busy != log),
            Job::Loaded(logs, loaded) => {
                self.busy.retain(|busy| !busy.is_empty());
                self.shared.held(&logs).iter().filter(|_| loaded).for_each(|member| member.set_complete());
            }
            Job::Started(started) => {
                for (lease, member) in started {
                    self.busy.retain(|busy| *busy != lease.log);
                    self.join(lease, member);
                }
            }
        }
    }

    fn join(&mut self, lease: Lease, member: Result<Member, String>) {
        match member {
            Ok(member) => {
                tracing::info!(log = lease.log, epoch = lease.epoch, "flushes this log");
                self.shared.failed.write().remove(&lease.log);
                self.shared.members.write().insert(lease.log, Arc::new(member));
            }
            Err(reason) => {
                tracing::error!(log = lease.log, reason, "cannot flush a log; leaving it to others for a while");
                self.rest(&lease.log);
                self.shared.failed.write().insert(lease.log.clone(), reason);
                let shared = Arc::clone(&self.shared);
                self.busy.push(lease.log.clone());
                self.jobs.spawn(async move {
                    if let Err(error) = shared.catalogue.release(&lease).await {
                        tracing::debug!(log = lease.log, %error, "a lease was not given back; it runs out");
                    }
                    Job::Given(lease.log)
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
            let held: Vec<String> = self.shared.members.read().keys().cloned().collect();
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
