//! Encryption at rest: the keyring of a data folder, and the commands about it.

mod command;
mod exposed;
mod offer;

use std::path::Path;
use std::time::Duration;

use envelope::Keyring;
use flusher::Projections;
use tokio_util::sync::CancellationToken;

use crate::config::Config;

pub(crate) use command::run;
pub(crate) use exposed::plain_exports;
pub(crate) use offer::{Offer, Order, PATH};

/// Time between two looks for tenants whose keys were destroyed.
const PERIOD: Duration = Duration::from_secs(1);

/// Removes the latest states of tenants from memory once their keys were destroyed, until it is
/// stopped. Each second, since a record that was opened before may come later.
pub(crate) async fn forget_destroyed(
    keys: Keyring,
    of_lanes: Vec<Projections>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            _ = ticks.tick() => {}
        }
        for tenant in keys.closed() {
            of_lanes.iter().for_each(|projections| projections.forget_states(&tenant));
        }
    }
}

/// Opens the keyring of the data folder `dir`, which this process has locked, and gives it to the
/// log and to the store.
///
/// # Errors
/// Names the key of the configuration and what to do.
pub(crate) fn open(config: &mut Config, dir: &Path) -> anyhow::Result<Option<Keyring>> {
    let keys = Keyring::open(&config.encryption, dir)?;
    config.log.keys.clone_from(&keys);
    config.history.store.keys.clone_from(&keys);
    Ok(keys)
}
