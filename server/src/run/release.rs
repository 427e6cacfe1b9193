//! Release of the messages of devices that were in quarantine and were adopted: they are replayed,
//! as dead letters are by hand.
//!
//! Each process releases those of its own log when a device is adopted, and a moment later those
//! that others have not: of processes that have ended. A message that two release has one identity.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use api::{Replay, ReplayError};
use identity::{Admin, Gate};
use stores::contract::{DeadLetters, Deadletter, is_last};
use tokio_util::sync::CancellationToken;

use super::lane::Lane;

/// Dead letters of one call.
const PAGE: usize = 200;
/// Time before each look at the letters after an adoption: what was on its way to the store of dead
/// letters is there by the second one.
const LOOKS: [Duration; 3] = [Duration::ZERO, Duration::from_secs(5), Duration::from_secs(10)];
/// Time between two looks at the letters of all tenants: what was on its way may have waited for
/// the store of dead letters.
const PERIOD: Duration = Duration::from_secs(600);
/// The same after a failure.
const RETRY: Duration = Duration::from_secs(30);

/// The dead letters of a lane.
pub(super) struct Held {
    letters: Arc<dyn DeadLetters>,
    replay: Arc<dyn Replay>,
    /// The log of this process.
    log: Option<String>,
}

impl Held {
    pub(super) fn of(lane: &Lane) -> Self {
        let log = lane.logs.own.as_ref().map(|(log, _)| log.id().to_owned());
        Self { letters: lane.readers.dead_letters(), replay: lane.replay(), log }
    }

    /// Releases letters of these tenants, or of all.
    async fn release_all(&self, admin: &Admin, tenants: Option<&BTreeSet<Arc<str>>>, all: bool) -> anyhow::Result<()> {
        let tenants = match tenants {
            Some(tenants) => tenants.clone(),
            None => self.letters.count().await?.into_iter().map(|(tenant, _)| tenant).collect(),
        };
        let mut result = Ok(());
        for tenant in tenants {
            // The trouble of one holds up no other.
            result = result.and(self.release(admin, &tenant, all).await.with_context(|| format!("tenant {tenant}")));
        }
        result
    }

    /// Releases the letters of a tenant whose devices are registered by now; those of other logs,
    /// too, with `all`.
    async fn release(&self, admin: &Admin, tenant: &str, all: bool) -> anyhow::Result<()> {
        let mut last: Option<Deadletter> = None;
        let mut released = 0_u64;
        loop {
            let after = last.as_ref().map(|letter| (&*letter.log, letter.offset, &*letter.stage));
            let page = self.letters.list(tenant, after, PAGE).await?;
            let ends = is_last(&page, PAGE);
            last = page.last().cloned();
            let is_own = |letter: &Deadletter| all || self.log.as_deref() == Some(&*letter.log);
            let held = page.into_iter().filter(|letter| is_held(letter) && is_own(letter));
            for letter in registered(admin, tenant, held.collect()).await? {
                released += u64::from(self.release_one(&letter).await?);
            }
            if ends {
                break;
            }
        }
        if released > 0 {
            tracing::info!(tenant, released, "released messages of devices that were in quarantine");
        }
        Ok(())
    }

    /// Returns false for a letter that cannot be read any longer, which stays.
    async fn release_one(&self, letter: &Deadletter) -> anyhow::Result<bool> {
        match self.replay.replay(letter).await {
            Ok(()) => {}
            Err(ReplayError::Refused(reason)) => {
                let Deadletter { tenant, topic, .. } = letter;
                let device = letter.device.as_deref();
                tracing::warn!(%tenant, device, topic, reason, "a message of a device that was adopted stays a dead letter");
                return Ok(false);
            }
            Err(ReplayError::Unavailable(reason)) => anyhow::bail!(reason),
        }
        let at = model::clock::now();
        self.letters.mark_replayed(&letter.tenant, &letter.log, letter.offset, &letter.stage, at).await?;
        Ok(true)
    }
}

fn is_held(letter: &Deadletter) -> bool {
    letter.reason == model::IN_QUARANTINE && letter.replayed.is_none()
}

/// Returns the letters of devices that are registered.
async fn registered(admin: &Admin, tenant: &str, held: Vec<Deadletter>) -> anyhow::Result<Vec<Deadletter>> {
    let ids: BTreeSet<String> = held.iter().filter_map(|letter| letter.device.as_deref()).map(str::to_owned).collect();
    let ids: Vec<String> = ids.into_iter().collect();
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let rows = admin.registered_devices(tenant, &ids).await?;
    let is_registered = |row: &identity::Device| row.is_registered();
    let known: BTreeSet<String> = rows.into_iter().flatten().filter(is_registered).map(|row| row.id).collect();
    let is_known = |letter: &Deadletter| letter.device.as_deref().is_some_and(|device| known.contains(device));
    Ok(held.into_iter().filter(is_known).collect())
}

/// Releases what is held of devices that are adopted, until it is stopped; at first and now and
/// then of all tenants: an earlier start may not have come to it.
pub(super) async fn follow(gate: Gate, admin: Admin, lanes: Vec<Held>, stop: CancellationToken) -> anyhow::Result<()> {
    let work = async {
        let mut adopted = None;
        loop {
            let is_done = release(&lanes, &admin, adopted).await;
            let tenants = tokio::select! {
                tenants = gate.adopted() => Some(tenants),
                () = tokio::time::sleep(if is_done { PERIOD } else { RETRY }) => None,
            };
            // After a failure, of all.
            adopted = tenants.filter(|_| is_done);
        }
    };
    tokio::select! {
        () = stop.cancelled() => Ok(()),
        never = work => never,
    }
}

/// Releases what is held of these tenants, or of all. False when some of it could not be.
async fn release(lanes: &[Held], admin: &Admin, tenants: Option<BTreeSet<Arc<str>>>) -> bool {
    let mut is_done = true;
    for (look, wait) in LOOKS.into_iter().enumerate() {
        tokio::time::sleep(wait).await;
        for lane in lanes {
            let released = lane.release_all(admin, tenants.as_ref(), look + 1 == LOOKS.len()).await;
            if let Err(error) = &released {
                tracing::warn!("cannot release messages of adopted devices; trying again later: {error:#}");
            }
            is_done &= released.is_ok();
        }
    }
    is_done
}
