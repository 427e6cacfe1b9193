//! The storage of tenants that have a limit of it: asked of the store of their pool, every ten
//! seconds, or less often when the answers take long.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use buffer::Log;
use door::quota::TenantMeter;
use flusher::HISTORY;
use identity::Gate;
use model::clock::now;
use stores::contract::Store;
use tokio_util::sync::CancellationToken;

use super::lane::Lane;

/// Time between two marks of what is on its way to the store, and between two looks for tenants
/// whose storage is not known yet.
const LOOK: Duration = Duration::from_secs(1);
/// Time between two questions for all tenants.
const AGAIN: Duration = Duration::from_secs(10);
/// And at least so many times as long as they take: a store spends a twentieth of one core on them.
const PAUSE: u32 = 20;

/// The store of a pool, and the log of this process in it.
pub(super) struct Held {
    pool: Option<Arc<str>>,
    store: Arc<dyn Store>,
    /// `None` in a process without the role ingest: it only reports what is stored.
    log: Option<Arc<dyn Log>>,
}

impl Held {
    pub(super) fn of(lane: &Lane) -> Self {
        let log = lane.logs.own.as_ref().map(|(log, _)| Arc::clone(log));
        Self { pool: lane.pool.clone(), store: Arc::clone(&lane.stores.store), log }
    }

    /// Asks for one tenant. In this order: what is below the cursor was written before the store is
    /// asked.
    async fn ask(&self, tenant: &str, meter: &TenantMeter) -> Result<(), String> {
        let done_to = match &self.log {
            Some(log) => {
                let cursors = log.cursors().await.map_err(|error| error.to_string())?;
                Some(cursors.get(HISTORY).map_or(0, |cursor| cursor.done_to))
            }
            None => None,
        };
        let bytes = self.store.size_of(tenant).await.map_err(|error| error.to_string())?;
        meter.stored(bytes, done_to);
        Ok(())
    }
}

/// Asks until it is stopped; a store that hangs holds up no other pool.
pub(super) async fn follow(gate: Gate, held: Held, stop: CancellationToken) -> anyhow::Result<()> {
    let mut ticks = tokio::time::interval(LOOK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut due, mut marked) = (Instant::now(), now());
    // Of tenants that were asked for in vain: again when all are due.
    let mut failed: HashSet<Box<str>> = HashSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            _ = ticks.tick() => {}
        }
        let meters = gate.storing_meters(held.pool.as_deref());
        if let Some(log) = &held.log {
            // Records that were spilled have no place in the log yet.
            let (end, complete_until) = log.confirm_end().await;
            if complete_until >= marked {
                marked = now();
                meters.iter().for_each(|(_, meter)| meter.mark_storage(end));
            }
        }
        let begun = Instant::now();
        let are_all_due = begun >= due;
        if are_all_due {
            failed.clear();
        }
        for (tenant, meter) in &meters {
            if !are_all_due && (meter.knows_storage() || failed.contains(tenant)) {
                continue;
            }
            let asked = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                asked = held.ask(tenant, meter) => asked,
            };
            if let Err(reason) = asked {
                tracing::warn!(
                    tenant = &**tenant,
                    reason,
                    "cannot read the storage of a tenant: what was read before counts, with what came since"
                );
                failed.insert(tenant.clone());
            }
        }
        if are_all_due {
            due = Instant::now() + AGAIN.max(begun.elapsed() * PAUSE);
        }
    }
}
