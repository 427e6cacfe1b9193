//! Deletion of readings of tenants that keep them for less time than the installation does.

use std::sync::Arc;
use std::time::Duration;

use flusher::Projections;
use identity::Admin;
use model::Nanos;
use model::clock::now;
use model::time::SECOND;
use stores::contract::Store;
use tokio_util::sync::CancellationToken;

use super::lane::Lane;

/// Time between two deletions, as for the retention of the installation.
const EXPIRE: Duration = Duration::from_secs(3600);
/// Time between two looks of a process that deletes nothing.
const NOTE: Duration = Duration::from_secs(60);
/// Tenants of one page.
const PAGE: usize = 1_000;

/// The readings of the tenants of a pool.
pub(super) struct Kept {
    pool: Option<Arc<str>>,
    store: Arc<dyn Store>,
    projections: Projections,
    /// False in a process without the role flusher: others delete, and it only notes what for its
    /// books.
    deletes: bool,
}

impl Kept {
    /// The readings of the tenants of a lane.
    pub(super) fn of(lane: &Lane) -> Self {
        let (store, projections) = (Arc::clone(&lane.stores.store), lane.stores.projections.clone());
        Self { pool: lane.pool.clone(), store, projections, deletes: lane.fleet.is_some() }
    }
}

/// Deletes what is too old, every hour, or notes what others delete, until it is stopped. Several
/// processes may do so.
pub(super) async fn follow(admin: Admin, kept: Kept, stop: CancellationToken) -> anyhow::Result<()> {
    let mut ticks = tokio::time::interval(if kept.deletes { EXPIRE } else { NOTE });
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            _ = ticks.tick() => {}
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = expire(&admin, &kept) => {}
        }
    }
}

async fn expire(admin: &Admin, Kept { pool, store, projections, deletes }: &Kept) {
    let mut after = String::new();
    loop {
        let page = match admin.list_tenants(&after, PAGE).await {
            Ok(page) => page,
            Err(error) => {
                tracing::warn!(%error, "cannot read the retention of tenants; trying again later");
                return;
            }
        };
        for tenant in page.iter().filter(|tenant| tenant.pool.as_deref() == pool.as_deref()) {
            let Some(seconds) = tenant.limits.retention_seconds else { continue };
            let kept = Nanos::try_from(seconds.get()).unwrap_or(Nanos::MAX).saturating_mul(SECOND);
            let before = now().saturating_sub(kept);
            if !deletes {
                // Others may delete more until the next look, or have another clock.
                projections.retentions().expiring(&tenant.id, before.saturating_add(3600 * SECOND));
                continue;
            }
            projections.retentions().expiring(&tenant.id, before);
            match store.expire_of(&tenant.id, before).await {
                Ok(0) => {}
                Ok(readings) => {
                    tracing::info!(
                        tenant = tenant.id,
                        readings,
                        "deleted readings older than the retention of the tenant"
                    );
                }
                Err(error) => {
                    tracing::warn!(tenant = tenant.id, %error, "cannot delete old readings; trying again in an hour");
                }
            }
        }
        match page.last() {
            Some(last) if page.len() == PAGE => after.clone_from(&last.id),
            _ => return,
        }
    }
}
