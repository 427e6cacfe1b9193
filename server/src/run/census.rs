//! The devices and series of tenants that have a limit of them: read from the latest states, those
//! of earlier starts once, those of other processes every minute, or less often when they are many.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use door::quota::TenantMeter;
use identity::Gate;
use stores::contract::LatestView;
use tokio_util::sync::CancellationToken;

use super::lane::Lane;

/// Time between two looks for tenants that are not counted.
const LOOK: Duration = Duration::from_secs(1);
/// Time between two readings of the states of one tenant.
const AGAIN: Duration = Duration::from_secs(60);
/// And at least so many times as long as it takes.
const PAUSE: u32 = 20;
/// States of one page.
const PAGE: usize = 1_000;
/// Devices and series of all tenants together, of 8 bytes each and room between them.
const MOST: usize = 4_000_000;

/// The latest states of a pool; `None` is the shared one.
pub(super) type OfPool = (Option<Arc<str>>, Arc<dyn LatestView>);

pub(super) fn of_lanes(lanes: &[Lane]) -> Vec<OfPool> {
    lanes.iter().map(|lane| (lane.pool.clone(), lane.readers.latest())).collect()
}

/// Counts the tenants of a pool until it is stopped: one whose store hangs holds up no other.
pub(super) async fn follow(gate: Gate, (pool, latest): OfPool, stop: CancellationToken) -> anyhow::Result<()> {
    // With the count of the meter that it is for: one that began anew is due at once.
    let mut due: BTreeMap<Box<str>, (u64, Instant)> = BTreeMap::new();
    let mut ticks = tokio::time::interval(LOOK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            _ = ticks.tick() => {}
        }
        let meters = gate.counting_meters();
        due.retain(|known, _| meters.iter().any(|(tenant, _)| tenant == known));
        for (tenant, meter) in &meters {
            let (begun, count_begun) = (Instant::now(), meter.count_begun());
            if due.get(tenant).is_some_and(|(count, due)| *count == count_begun && begun < *due) {
                continue;
            }
            // One of another pool is not counted here.
            if !gate.known_pool(tenant).is_ok_and(|known| known.as_ref() == Some(&pool)) {
                continue;
            }
            let others = meters.iter().filter(|(other, _)| other != tenant);
            let others: usize = others.map(|(_, meter)| meter.remembered()).sum();
            let counted = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                counted = count(&*latest, tenant, meter, MOST.saturating_sub(others)) => counted,
            };
            if let Err(reason) = counted {
                tracing::warn!(
                    tenant = &**tenant,
                    reason,
                    "cannot count the devices and series of a tenant: new ones are not refused meanwhile"
                );
            }
            due.insert(tenant.clone(), (count_begun, Instant::now() + AGAIN.max(begun.elapsed() * PAUSE)));
        }
    }
}

async fn count(latest: &dyn LatestView, tenant: &str, meter: &Arc<TenantMeter>, most: usize) -> Result<(), String> {
    let begun = meter.count_begun();
    let mut after: Option<Arc<str>> = None;
    loop {
        let page = latest.list(tenant, after.as_deref(), PAGE).await.map_err(|error| error.to_string())?;
        for state in &page {
            let names = state.values.iter().map(|value| &*value.name);
            if !meter.learn(&state.device.id, names) || meter.remembered() > most.max(PAGE) {
                meter.forget_series();
                return Err("there are more than can be remembered".to_owned());
            }
        }
        match page.last() {
            Some(last) if page.len() == PAGE => after = Some(Arc::clone(&last.device.id)),
            _ => break,
        }
    }
    meter.learnt_all(begun);
    Ok(())
}
