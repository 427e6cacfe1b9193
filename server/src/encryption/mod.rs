//! Encryption at rest: the keyring of a data folder, and the commands about it.

mod command;
mod exposed;
mod offer;

use std::path::Path;

use envelope::Keyring;

use crate::config::Config;

pub(crate) use command::run;
pub(crate) use exposed::plain_exports;
pub(crate) use offer::{Offer, Order, PATH};

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
