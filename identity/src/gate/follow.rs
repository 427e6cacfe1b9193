//! Following the control log: changes that other processes make.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::StreamExt as _;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::denials::Key;
use super::{Gate, LOOKUP};
use crate::CredentialId;
use crate::registry::{ChangeKind, Denial, Error, Found, TenantState, Use};

const PERIOD: Duration = Duration::from_secs(1);
/// Entries of the control log that are read at one time.
const ENTRIES: usize = 1000;
/// Uses that one transaction records.
const USES: usize = 1000;
/// Periods between two records of uses.
const USES_EVERY: u64 = 30;
/// Rows that are read again at one step, so that it ends soon.
const PART: usize = 10_000;
/// Rows that are read again at the same time.
const READS: usize = 16;
/// Rows that cannot be read, after which the others are left for the next step.
const FAILURES: usize = 16;

/// The place in the control log.
#[derive(Debug, Default)]
pub(super) struct Position {
    /// Number of the last change that was applied; `None` before the first one.
    after: Option<u64>,
    is_failing: bool,
    again: Again,
}

/// Rows that are still to be read. One row that cannot be read holds up nothing else: it is tried
/// again at each step. Until `rows`, `tenants`, `groups` and `devices` are empty, the tables are
/// not known to be true.
#[derive(Debug, Default)]
struct Again {
    /// Credentials, issuers and bindings of the tables.
    rows: VecDeque<CredentialId>,
    /// Tenants of the tokens.
    tenants: VecDeque<Arc<str>>,
    /// Tenants whose limits were changed, each once.
    limits: VecDeque<Box<str>>,
    /// Groups that were changed, each once.
    groups: VecDeque<CredentialId>,
    /// Credentials of tenants that ask for a registration, whose devices may have none.
    devices: VecDeque<CredentialId>,
    /// The list of the tenants whose data is removed has to be read.
    purged: bool,
    is_failing: bool,
}

/// Does something for each of a part of the items, and leaves those for which it fails for the next
/// time.
async fn try_each<T, F>(left: &mut VecDeque<T>, act: impl Fn(T) -> F) -> Result<(), Error>
where
    T: Clone,
    F: Future<Output = Result<(), Error>>,
{
    let (failures, act) = (&AtomicUsize::new(0), &act);
    let (mut failed, mut result) = (Vec::new(), Ok(()));
    let tries = (0..PART).map_while(|_| {
        let has_failed = failures.load(Ordering::Relaxed) >= FAILURES;
        let item = if has_failed { None } else { left.pop_front() }?;
        Some(async move {
            let done = tokio::time::timeout(LOOKUP, act(item.clone())).await;
            let late = |_| Err(Error::Unavailable("the registry does not answer in time".into()));
            (item, done.unwrap_or_else(late))
        })
    });
    let mut tries = futures::stream::iter(tries).buffer_unordered(READS);
    while let Some((item, done)) = tries.next().await {
        if let Err(error) = done {
            failures.fetch_add(1, Ordering::Relaxed);
            result = Err(error);
            failed.push(item);
        }
    }
    drop(tries);
    // After the others, which may be read.
    left.extend(failed);
    result
}

/// Logs the first one of errors that follow each other.
fn report(is_failing: &mut bool, result: Result<(), Error>, why: &str) {
    if let Err(error) = &result
        && !*is_failing
    {
        tracing::warn!(%error, "{why}");
    }
    *is_failing = result.is_err();
}

fn periods() -> Interval {
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

impl Gate {
    /// Applies changes of other processes, ends the sessions of expired credentials, and writes
    /// uses and denials, each second until it is stopped.
    pub async fn follow(&self, stop: CancellationToken) {
        // Side by side: a disk that hangs in a write delays no end of a session.
        tokio::join!(self.keep_up(&stop), self.keep_written(&stop), self.keep_keys(&stop));
    }

    async fn keep_up(&self, stop: &CancellationToken) {
        let mut position = Position::default();
        let mut ticks = periods();
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = ticks.tick() => self.step(&mut position).await,
            }
        }
    }

    /// Reads the keys of issuers again when they are due.
    async fn keep_keys(&self, stop: &CancellationToken) {
        let mut ticks = periods();
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = ticks.tick() => {}
            }
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.0.tokens.keep_keys(self.0.clock.now()) => {}
            }
        }
    }

    async fn keep_written(&self, stop: &CancellationToken) {
        let mut ticks = periods();
        for period in 0_u64.. {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = ticks.tick() => {}
            }
            // A digest that moved to a new pepper has to be written before the next rotation.
            let is_due = {
                let uses = self.0.uses.lock();
                uses.len() >= USES || uses.iter().any(Use::moves)
            };
            if is_due || period.is_multiple_of(USES_EVERY) {
                self.write_uses().await;
            }
            self.write_denials(false).await;
        }
        self.write_uses().await;
        self.write_denials(true).await;
    }

    /// Ends the sessions of expired credentials and applies changes. Waits for no write.
    pub(super) async fn step(&self, position: &mut Position) {
        // Needs no registry.
        self.0.live.expire(self.0.clock.now());
        self.0.tokens.expire(self.0.clock.now());
        let read = self.catch_up(position).await;
        let is_read = read.is_ok();
        let why = "changes of credentials cannot be read; sessions go on meanwhile";
        report(&mut position.is_failing, read, why);
        if !is_read {
            return;
        }
        // All at the same time, so that none waits for another that does not answer.
        let Again { rows, tenants, limits, groups, devices, .. } = &mut position.again;
        self.add_unchecked(devices, false);
        let (row, tenant, limit, group, device) = tokio::join!(
            try_each(rows, |id| async move {
                let found = self.0.registry.credential(id).await?;
                self.check_again(&id, found.as_ref());
                Ok(())
            }),
            try_each(tenants, |id| async move { self.check_tenant_again(&id).await }),
            try_each(limits, |id| async move { self.read_limits(&id).await }),
            try_each(groups, |key| async move { self.read_group_again(&key).await }),
            try_each(devices, |id| async move { self.check_registered_again(&id).await }),
        );
        let is_checked = rows.is_empty() && tenants.is_empty() && groups.is_empty() && devices.is_empty();
        let listed = match position.again.purged {
            true => self.load_purged().await,
            false => Ok(()),
        };
        position.again.purged = listed.is_err();
        let why = "rows of credentials or tenants cannot be read; what needs them is tried again each second";
        report(&mut position.again.is_failing, row.and(tenant).and(limit).and(group).and(device).and(listed), why);
        if is_checked {
            self.0.followed.store(self.0.clock.now(), Ordering::Relaxed);
        }
    }

    /// Applies the entries of the control log, and notes what has to be read for them.
    pub(super) async fn catch_up(&self, position: &mut Position) -> Result<(), Error> {
        loop {
            let Some(after) = position.after else {
                // Entries before this one were made before, or are looked up again.
                let newest = self.0.registry.changes(0, 0).await?.newest;
                // A lookup that has read its row before one of them puts nothing into the tables
                // from here on.
                self.0.live.overtake();
                let ids = self.0.live.ids().into_iter().map(|(id, _)| id);
                let again = &mut position.again;
                again.rows = ids.chain(self.0.tokens.ids()).collect();
                again.tenants = self.0.tokens.tenants().into();
                again.limits = self.0.tenants.ids().into();
                again.groups = self.0.groups.all_changed().into();
                again.devices.clear();
                self.add_unchecked(&mut again.devices, true);
                again.purged = true;
                position.after = Some(newest);
                continue;
            };
            let changes = self.0.registry.changes(after, ENTRIES).await?;
            if changes.has_gap {
                position.after = None;
                continue;
            }
            let Some(last) = changes.entries.last() else { return Ok(()) };
            let (mut adopted, mut imported) = (BTreeSet::new(), BTreeSet::new());
            for change in &changes.entries {
                match change.kind {
                    ChangeKind::Deleted(id) => self.revoke(&id),
                    ChangeKind::TenantSuspended => self.revoke_tenant(&change.tenant),
                    ChangeKind::TenantPurging => {
                        self.revoke_tenant(&change.tenant);
                        self.0.purged.add(&change.tenant);
                    }
                    ChangeKind::Created(id) => {
                        // This one counts the change: a lookup that did not see it, and ends
                        // between the two, adds no token.
                        self.0.live.created(&id);
                        self.0.tokens.created(&id);
                    }
                    ChangeKind::GroupChanged(key) => {
                        // One that is being read for its first caller is read again.
                        let is_known = self.0.groups.changed(&key).is_some();
                        if is_known && !position.again.groups.contains(&key) {
                            position.again.groups.push_back(key);
                        }
                    }
                    ChangeKind::TenantActive | ChangeKind::TenantUpdated => {}
                    ChangeKind::DeviceChanged(key) => position.again.devices.extend(self.0.registered.of(&key)),
                    ChangeKind::DeviceAdopted(key) => {
                        position.again.devices.extend(self.0.registered.of(&key));
                        adopted.insert(&*change.tenant);
                    }
                    // They are registered.
                    ChangeKind::DevicesChanged => {}
                    ChangeKind::DevicesAdopted => {
                        imported.insert(&*change.tenant);
                        adopted.insert(&*change.tenant);
                    }
                }
            }
            imported.into_iter().for_each(|tenant| self.add_quarantined(&mut position.again.devices, tenant));
            adopted.into_iter().for_each(|tenant| self.note_adopted(tenant));
            let is_updated = |kind| matches!(kind, ChangeKind::TenantUpdated | ChangeKind::TenantActive);
            let updated = changes.entries.iter().filter(|change| is_updated(change.kind));
            let updated: BTreeSet<&str> = updated.map(|change| change.tenant.as_str()).collect();
            for tenant in updated {
                if !position.again.limits.iter().any(|known| **known == *tenant) {
                    position.again.limits.push_back(tenant.into());
                }
            }
            position.after = Some(last.number);
        }
    }

    /// Ends the sessions and calls for which a row is not as it was.
    fn check_again(&self, id: &CredentialId, found: Option<&Found>) {
        if let Some(entry) = self.0.live.get(id) {
            let is_valid = match entry.authority {
                None => found.is_some_and(|found| {
                    found.tenant == TenantState::Active && found.credential.stamp() == entry.stamp
                }),
                Some(_) => found.is_none(),
            };
            if !is_valid {
                self.0.live.revoke(id);
            }
        }
        self.0.tokens.check_again(id, found);
    }

    /// Ends the calls of a tenant that is suspended, or is not there: of a token that names its
    /// tenant, no row tells.
    async fn check_tenant_again(&self, id: &str) -> Result<(), Error> {
        let found = self.0.registry.tenant(id).await?;
        if found.is_none_or(|found| found.state != TenantState::Active) {
            self.revoke_tenant(id);
        }
        Ok(())
    }

    pub(super) async fn write_uses(&self) {
        let mut uses = std::mem::take(&mut *self.0.uses.lock());
        while !uses.is_empty() {
            let part = uses.split_off(uses.len().saturating_sub(USES));
            if let Err(error) = self.0.registry.record_uses(&part).await {
                tracing::debug!(%error, "uses of credentials are not recorded yet");
                part.into_iter().chain(uses).for_each(|used| self.record(used));
                return;
            }
        }
    }

    /// Writes events of denials: all in one transaction, or each tenant for itself when the chain
    /// of one of them refuses.
    pub(super) async fn write_denials(&self, all: bool) {
        let mut taken = self.0.denials.take(self.0.clock.now(), all);
        if self.try_denials(&taken).await.is_ok() {
            return;
        }
        taken.sort_by(|(_, one), (_, other)| one.tenant.cmp(&other.tenant));
        while let Some((_, last)) = taken.last() {
            let tenant = last.tenant.clone();
            let part = taken.split_off(taken.partition_point(|(_, denial)| denial.tenant < tenant));
            if let Err(error) = self.try_denials(&part).await {
                tracing::warn!(tenant, %error, "denials have no audit event yet");
                self.0.denials.give_back(part);
            }
        }
    }

    async fn try_denials(&self, taken: &[(Key, Denial)]) -> Result<(), Error> {
        if taken.is_empty() {
            return Ok(());
        }
        let denials: Vec<_> = taken.iter().map(|(_, denial)| denial.clone()).collect();
        self.0.registry.record_denials(&denials).await
    }
}
