//! Release of the messages of devices that were in quarantine and were adopted: they are replayed,
//! as dead letters are by hand.
//!
//! Each process releases those of its own log when a device is adopted, and a moment later those
//! that others have not: of processes that have ended. A message that two release has one identity.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use api::{Replay, ReplayError};
use identity::{Admin, Gate};
use stores::contract::{DeadLetters, Deadletter, is_last};
use tokio_util::sync::CancellationToken;

use super::lane::Lane;

/// Dead letters of one call.
const PAGE: usize = 200;
/// Time between an adoption and each look at the letters: what was on its way to the store of dead
/// letters is there by the second one.
const LOOKS: [Duration; 3] = [Duration::ZERO, Duration::from_secs(5), Duration::from_secs(15)];
/// Time between two later looks: the store of dead letters may have been away.
const PERIOD: Duration = Duration::from_secs(600);

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

/// Releases what is held of devices that are adopted, until it is stopped.
pub(super) async fn follow(gate: Gate, admin: Admin, lanes: Vec<Held>, stop: CancellationToken) -> anyhow::Result<()> {
    let work = async {
        // Adoptions that an earlier start has not seen, or not come to.
        let mut adopted = BTreeSet::new();
        for lane in &lanes {
            match lane.letters.count().await {
                Ok(counts) => adopted.extend(counts.into_iter().map(|(tenant, _)| tenant)),
                Err(error) => tracing::debug!(%error, "cannot list the tenants with dead letters"),
            }
        }
        let mut new = adopted.clone();
        loop {
            for (look, wait) in LOOKS.into_iter().enumerate() {
                let since = if look == 0 { Duration::ZERO } else { LOOKS[look - 1] };
                tokio::time::sleep(wait - since).await;
                release(&lanes, &admin, &new, look + 1 == LOOKS.len()).await;
            }
            new = tokio::select! {
                tenants = gate.adopted() => tenants,
                () = tokio::time::sleep(PERIOD) => adopted.clone(),
            };
            adopted.extend(new.iter().cloned());
        }
    };
    tokio::select! {
        () = stop.cancelled() => Ok(()),
        never = work => never,
    }
}

async fn release(lanes: &[Held], admin: &Admin, tenants: &BTreeSet<Arc<str>>, all: bool) {
    for tenant in tenants {
        for lane in lanes {
            if let Err(error) = lane.release(admin, tenant, all).await {
                tracing::warn!(%tenant, "cannot release messages of adopted devices; trying again later: {error:#}");
            }
        }
    }
}
