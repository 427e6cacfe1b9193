//! Following the control log: changes that other processes make.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Interval, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::Gate;
use super::denials::Key;
use crate::registry::{ChangeKind, Denial, Error, TenantState};

const PERIOD: Duration = Duration::from_secs(1);
/// Entries of the control log that are read at one time.
const ENTRIES: usize = 1000;
/// Uses that one transaction records.
const USES: usize = 1000;
/// Periods between two records of uses.
const USES_EVERY: u64 = 30;

/// The place in the control log.
#[derive(Debug, Default)]
pub(super) struct Position {
    /// Number of the last change that was applied; `None` before the first one.
    after: Option<u64>,
    is_failing: bool,
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
        tokio::join!(self.keep_up(&stop), self.keep_written(&stop));
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

    async fn keep_written(&self, stop: &CancellationToken) {
        let mut ticks = periods();
        for period in 0_u64.. {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = ticks.tick() => {}
            }
            if period.is_multiple_of(USES_EVERY) || self.0.uses.lock().len() >= USES {
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
        match self.catch_up(position).await {
            Ok(()) => {
                position.is_failing = false;
                self.0.followed.store(self.0.clock.now(), Ordering::Relaxed);
            }
            Err(error) if !position.is_failing => {
                position.is_failing = true;
                tracing::warn!(%error, "changes of credentials cannot be read; sessions go on meanwhile");
            }
            Err(_) => {}
        }
    }

    async fn catch_up(&self, position: &mut Position) -> Result<(), Error> {
        loop {
            let Some(after) = position.after else {
                // Entries before this one were made before, or are looked up again.
                let newest = self.0.registry.changes(0, 0).await?.newest;
                self.check_again().await?;
                position.after = Some(newest);
                continue;
            };
            let changes = self.0.registry.changes(after, ENTRIES).await?;
            if changes.has_gap {
                position.after = None;
                continue;
            }
            let Some(last) = changes.entries.last() else { return Ok(()) };
            position.after = Some(last.number);
            for change in &changes.entries {
                match change.kind {
                    ChangeKind::Deleted(id) => self.0.live.revoke(&id),
                    ChangeKind::TenantSuspended => self.0.live.revoke_tenant(&change.tenant),
                    ChangeKind::TenantActive | ChangeKind::Created(_) => {}
                }
            }
        }
    }

    /// Looks up all credentials of the table again.
    async fn check_again(&self) -> Result<(), Error> {
        for id in self.0.live.ids() {
            let found = self.0.registry.credential(id).await?;
            if !found.is_some_and(|found| found.tenant == TenantState::Active) {
                self.0.live.revoke(&id);
            }
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
