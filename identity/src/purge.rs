//! Removal of the data of tenants that are deleted: from every place that holds some, in slices,
//! until each is found empty.
//!
//! ```text
//! DELETING ──time──▶ PURGING: all processes know it ─▶ nothing of the tenant is on its way
//!     ─▶ counted ─▶ removed, place by place ─▶ counted again: nothing ─▶ DELETED, with its report
//! ```
//! Every step may be repeated. A process that dies leaves the tenant PURGING; another one, or its
//! next start, goes on when the time of its claim has passed. One tenant that cannot be removed,
//! because a place is away, holds up no other.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use model::time::SECOND;
use model::{Clock, Nanos};
use tokio_util::sync::CancellationToken;

use crate::Gate;
use crate::registry::{DeletionStep, Error, Origin, PlaceCount, Registry, Residual, Tenant, TenantState, Worker};

/// Time between two looks for tenants that are due.
const PERIOD: Duration = Duration::from_secs(5);
/// Time for which a worker has claimed a tenant, and after which it shows that it goes on.
const CLAIM: Nanos = 60 * SECOND;
const RENEWAL: Duration = Duration::from_secs(10);
/// Time after which a tenant that is due has no process with its pool: that process looks every
/// [`PERIOD`].
const ORPHANED: Nanos = 60 * SECOND;
/// Pause after a slice, in multiples of its duration: a fifth of the time at most.
const PAUSE: u32 = 4;
/// Rows of the registry in one slice: one transaction.
const ROWS: usize = 200;
/// Passes over all places, of which each finds less.
const PASSES: usize = 10;
/// Tenants of one page.
const PAGE: usize = 1000;

/// A place that holds data of tenants: a store, an export, a key.
#[async_trait]
pub trait Place: Send + Sync + 'static {
    /// Its name in the report: `store mongodb`, `export plant`.
    fn name(&self) -> String;

    /// Returns once nothing of the tenant, which all processes know to be deleted, is on its way
    /// into the place.
    ///
    /// # Errors
    /// The reason why that is not so yet: it is asked again.
    async fn settle(&self, _tenant: &str) -> Result<(), String> {
        Ok(())
    }

    /// Counts its data of a tenant, by kind.
    ///
    /// # Errors
    /// The reason why it cannot be counted now.
    async fn count(&self, tenant: &str) -> Result<Vec<(String, u64)>, String>;

    /// Removes a slice, durably when it returns; false when nothing was left.
    ///
    /// # Errors
    /// The reason why it cannot be removed now.
    async fn remove_some(&self, tenant: &str) -> Result<bool, String>;

    /// Returns the data that stays in the place although it was removed as far as that is possible.
    async fn residuals(&self, _tenant: &str) -> Vec<Residual> {
        Vec::new()
    }
}

/// Removes the data of tenants that are due. Several processes may run one each.
pub struct Purger {
    registry: Arc<dyn Registry>,
    clock: Arc<dyn Clock>,
    gate: Gate,
    places: Vec<Arc<dyn Place>>,
    worker: String,
    /// The pool whose tenants are removed; `None` is the shared one.
    pool: Option<String>,
    /// Time after which all processes know of the removal.
    grace: Nanos,
}

/// The reason why the removal of a tenant does not go on.
#[derive(Debug)]
enum Halt {
    /// Another process removes, or has.
    Taken,
    /// Tried again later.
    Trouble(String),
}

impl From<Error> for Halt {
    fn from(error: Error) -> Self {
        match error {
            Error::Conflict(_) => Self::Taken,
            error => Self::Trouble(error.to_string()),
        }
    }
}

/// Tenants whose time has come.
#[derive(Default)]
struct Due {
    /// Tenants of the pool of this purger.
    own: Vec<String>,
    /// Tenants of pools that no process has, each with its pool.
    orphans: Vec<(String, String)>,
}

impl Purger {
    /// Removes from these places, in this order. `worker` is unique among processes and the same at
    /// each start of one, which then goes on at once. After `grace`, all processes know of the
    /// removal of a tenant.
    pub fn new(gate: &Gate, places: Vec<Arc<dyn Place>>, worker: String, grace: Duration) -> Self {
        let (registry, clock) = gate.registry_and_clock();
        let grace = Nanos::try_from(grace.as_nanos()).unwrap_or(Nanos::MAX);
        Self { registry, clock, gate: gate.clone(), places, worker, pool: None, grace }
    }

    /// Removes data of tenants of this pool: the places are its own. `None` is the shared one.
    #[must_use]
    pub fn of_pool(self, pool: Option<&str>) -> Self {
        Self { pool: pool.map(str::to_owned), ..self }
    }

    /// Looks for tenants that are due, until it is stopped. A slice that was begun goes on to its
    /// end.
    pub async fn run(&self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut reported: BTreeMap<String, String> = BTreeMap::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.step(&mut reported) => {}
            }
        }
    }

    /// Removes what is due now, one tenant after the other.
    async fn step(&self, reported: &mut BTreeMap<String, String>) {
        let due = match self.due().await {
            Ok(due) => due,
            Err(error) => {
                tracing::debug!(%error, "cannot look for tenants to remove");
                return;
            }
        };
        reported.retain(|known, _| due.own.contains(known) || due.orphans.iter().any(|(id, _)| id == known));
        for id in due.own {
            match self.remove(&id).await {
                Ok(()) | Err(Halt::Taken) => drop(reported.remove(&id)),
                Err(Halt::Trouble(reason)) => {
                    if reported.get(&id) != Some(&reason) {
                        tracing::info!(tenant = id, reason, "the removal of a deleted tenant waits; it is tried again");
                    }
                    self.note(&id, &reason).await;
                    reported.insert(id, reason);
                }
            }
        }
        for (id, pool) in due.orphans {
            let reason = format!(
                "its pool {pool:?} is in no process: add it as [[pool]] to the configuration again, with the log and \
                 the store that it had, and leave it until the tenant is deleted"
            );
            match self.take(&id, DeletionStep::Waits { trouble: reason.clone() }).await {
                Ok(_) => {
                    if reported.get(&id) != Some(&reason) {
                        tracing::warn!(tenant = id, reason, "the data of a deleted tenant cannot be removed");
                    }
                    reported.insert(id, reason);
                }
                // A process with its pool has begun.
                Err(Halt::Taken) => {}
                Err(Halt::Trouble(error)) => {
                    tracing::debug!(tenant = id, error, "cannot note why a removal waits");
                }
            }
        }
    }

    /// Returns the tenants whose time has come.
    async fn due(&self) -> Result<Due, Error> {
        let (mut due, mut after, now) = (Due::default(), String::new(), self.clock.now());
        let is_due = |tenant: &Tenant| match (tenant.state, &tenant.deletion) {
            (TenantState::Deleting, Some(deletion)) => deletion.purge <= now,
            (TenantState::Purging, Some(_)) => true,
            _ => false,
        };
        loop {
            let page = self.registry.tenants(&after, PAGE).await?;
            for tenant in page.iter().filter(|tenant| is_due(tenant)) {
                match &tenant.pool {
                    pool if *pool == self.pool => due.own.push(tenant.id.clone()),
                    Some(pool) if self.is_orphaned(tenant, pool, now) => {
                        due.orphans.push((tenant.id.clone(), pool.clone()));
                    }
                    _ => {}
                }
            }
            match page.last() {
                Some(last) if page.len() == PAGE => after.clone_from(&last.id),
                _ => return Ok(due),
            }
        }
    }

    /// True when no process removes a tenant that is due in a pool. The purger of the shared pool
    /// looks for them.
    fn is_orphaned(&self, tenant: &Tenant, pool: &str, now: Nanos) -> bool {
        let is_here = self.gate.pools().iter().any(|known| known == pool);
        let Some(deletion) = &tenant.deletion else { return false };
        let seen = deletion.worker.as_ref().map_or(deletion.purge, |worker| worker.until);
        self.pool.is_none() && !is_here && seen.saturating_add(ORPHANED) <= now
    }

    async fn remove(&self, id: &str) -> Result<(), Halt> {
        let tenant = self.take(id, DeletionStep::Claim(self.claim())).await?;
        if tenant.state != TenantState::Purging {
            return Ok(());
        }
        self.gate.purge(id);
        let deletion = tenant.deletion.as_deref().ok_or(Halt::Taken)?;
        let known = deletion.started.unwrap_or_default().saturating_add(self.grace);
        if self.clock.now() < known {
            return Err(Halt::Trouble("it waits until all processes know of it".to_owned()));
        }
        for place in &self.places {
            self.renewing(id, place.settle(id)).await?.map_err(|reason| at(&**place, reason))?;
        }
        if deletion.counts.is_none() {
            // Before the first slice: so the report is the same after any crash.
            let counts = Some(self.renewing(id, self.count(id)).await??);
            self.take(id, DeletionStep::Progress { worker: self.claim(), counts, trouble: None }).await?;
            tracing::info!(tenant = id, "the data of a deleted tenant is being removed");
        }
        for _ in 0..PASSES {
            for place in &self.places {
                self.empty(id, Some(&**place)).await?;
            }
            self.empty(id, None).await?;
            // All places are asked again, after the last of them was emptied.
            if self.renewing(id, self.count(id)).await??.iter().all(|found| found.count == 0) {
                let mut residuals = Vec::new();
                for place in &self.places {
                    residuals.extend(place.residuals(id).await);
                }
                self.take(id, DeletionStep::End { worker: self.worker.clone(), residuals }).await?;
                tracing::info!(tenant = id, "the data of a deleted tenant is removed");
                return Ok(());
            }
        }
        Err(Halt::Trouble("data of the tenant is found again and again after its removal".to_owned()))
    }

    /// Removes a slice of a place, or of the rows of the registry; false when nothing was left.
    async fn slice(&self, id: &str, place: Option<&dyn Place>) -> Result<bool, Halt> {
        match place {
            Some(place) => self.renewing(id, place.remove_some(id)).await?.map_err(|reason| at(place, reason)),
            None => Ok(self.registry.remove_rows(id, ROWS).await? > 0),
        }
    }

    /// Removes slices until nothing is left, with pauses between them.
    async fn empty(&self, id: &str, place: Option<&dyn Place>) -> Result<(), Halt> {
        let mut shown = Instant::now();
        loop {
            let begun = Instant::now();
            if !self.slice(id, place).await? {
                return Ok(());
            }
            if shown.elapsed() >= RENEWAL {
                let step = DeletionStep::Progress { worker: self.claim(), counts: None, trouble: None };
                self.take(id, step).await?;
                shown = Instant::now();
            }
            self.renewing(id, tokio::time::sleep(begun.elapsed() * PAUSE)).await?;
        }
    }

    /// Waits for a part of the removal, and shows meanwhile that it goes on.
    async fn renewing<T: Send>(&self, id: &str, work: impl Future<Output = T> + Send) -> Result<T, Halt> {
        tokio::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return Ok(done),
                () = tokio::time::sleep(RENEWAL) => {
                    let step = DeletionStep::Progress { worker: self.claim(), counts: None, trouble: None };
                    self.take(id, step).await?;
                }
            }
        }
    }

    async fn count(&self, id: &str) -> Result<Vec<PlaceCount>, Halt> {
        let mut counts = Vec::new();
        for place in &self.places {
            let found = place.count(id).await.map_err(|reason| at(&**place, reason))?;
            let count = |(kind, count)| PlaceCount { place: place.name(), kind, count };
            counts.extend(found.into_iter().map(count));
        }
        let count = self.registry.count_rows(id).await?;
        counts.push(PlaceCount { place: "registry".to_owned(), kind: "rows".to_owned(), count });
        Ok(counts)
    }

    /// Writes down why a removal does not go on, for those who ask.
    async fn note(&self, id: &str, reason: &str) {
        let trouble = Some(reason.to_owned());
        let step = DeletionStep::Progress { worker: self.claim(), counts: None, trouble };
        if let Err(Halt::Trouble(error)) = self.take(id, step).await {
            tracing::debug!(tenant = id, error, "cannot note why a removal waits");
        }
    }

    async fn take(&self, id: &str, step: DeletionStep) -> Result<Tenant, Halt> {
        let origin = Origin {
            by: format!("processes/{}", self.worker),
            method: "PurgeTenant",
            address: None,
            request_id: None,
            at: self.clock.now(),
        };
        Ok(self.registry.delete_tenant(id, &step, &origin).await?)
    }

    fn claim(&self) -> Worker {
        Worker { name: self.worker.clone(), until: self.clock.now().saturating_add(CLAIM) }
    }
}

fn at(place: &dyn Place, reason: String) -> Halt {
    Halt::Trouble(format!("{}: {reason}", place.name()))
}
