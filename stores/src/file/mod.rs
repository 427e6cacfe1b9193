//! Files of newline-delimited JSON: readings for programs that read files.
//!
//! **Files.** Each log has one open file, `{begun}-{log}-{first offset}.ndjson.part`; a closed one
//! loses `.part` and is never changed again. Names sort by the time that a file was begun. A file
//! is closed at the end of the first delivery after which it is large or old enough.
//!
//! **Once.** Every reading is in exactly one closed file once, even after crashes. The cursor of
//! a log is a side file, `{log}.cursor`, that holds the name of the open file, its committed length
//! and the offset below which everything is written. A commit syncs the file, then replaces the
//! cursor (written beside it, synced, renamed, the folder synced). At a start the open file is cut
//! to its committed length, which removes a torn line as well as whole lines that will be delivered
//! again. Two synced writes a delivery pay for it. Names of files could carry the cursor instead,
//! but only at the price of a file for each delivery.
//!
//! A reader that follows an open file may see lines that are cut later and then written again: read
//! closed files, or drop repeats by `id`.
//!
//! **Encryption at rest.** With keys, a line holds the readings of one tenant in a delivery, sealed
//! ([`decrypt`]); the readings of several tenants are then in order for each tenant only.
//!
//! **Faults.** A full disk answers `Busy` with the path, and leaves whole lines only. A failed sync
//! is never repeated: the file is opened and cut again, and the delivery is written again. The
//! lease epoch stands in the cursor, so that a folder that several processes share has one writer
//! for each log.

mod config;
mod files;
mod sealed;

use std::sync::Arc;

use async_trait::async_trait;
use envelope::Keyring;
use prometheus_client::registry::Registry;

use crate::contract::{DeviceBatch, Export, ExportType, Result};
use crate::per_log::PerLog;
use crate::settings::SettingsError;
pub use config::Config;
use files::LogFiles;
pub use sealed::decrypt;

/// Writes readings into files of one folder.
#[derive(Debug)]
pub struct FileExport {
    config: Arc<Config>,
    logs: PerLog<LogFiles>,
}

impl ExportType for Config {
    const TYPE: &'static str = "file";
    type Metrics = ();

    fn register((): &(), _: &mut Registry) {}

    fn check(&self, name: &str) -> std::result::Result<(), String> {
        Self::check(self, name).map_err(|error| error.fault)
    }

    fn with_keys(self, keys: Option<Keyring>) -> Self {
        Self { keys, ..self }
    }

    async fn open(self, name: &str, _: Arc<()>) -> std::result::Result<Arc<dyn Export>, String> {
        Ok(Arc::new(FileExport::new(name, self).map_err(|error| error.fault)?))
    }
}

impl FileExport {
    /// An export called `name`; nothing is touched before a log is joined.
    ///
    /// # Errors
    /// [`SettingsError`] naming the key of a setting that cannot be used.
    pub fn new(name: &str, config: Config) -> std::result::Result<Self, SettingsError> {
        config.check(name)?;
        Ok(Self { config: Arc::new(config), logs: PerLog::default() })
    }
}

#[async_trait]
impl Export for FileExport {
    async fn join(&self, log: &str, epoch: u64) -> Result<Option<u64>> {
        let (config, id) = (Arc::clone(&self.config), log.to_owned());
        self.logs.run(log, move |files, _| files.join(&config, &id, epoch)).await
    }

    async fn write(&self, log: &str, batches: Vec<DeviceBatch>) -> Result<()> {
        let (config, id) = (Arc::clone(&self.config), log.to_owned());
        self.logs.run(log, move |files, abandoned| files.write(&config, &id, &batches, abandoned)).await
    }

    async fn commit(&self, log: &str, done_to: u64) -> Result<()> {
        let (config, id) = (Arc::clone(&self.config), log.to_owned());
        self.logs.run(log, move |files, abandoned| files.commit(&config, &id, done_to, abandoned)).await
    }

    async fn rewind(&self, log: &str, epoch: u64, done_to: u64) -> Result<()> {
        let (config, id) = (Arc::clone(&self.config), log.to_owned());
        self.logs.run(log, move |files, _| files.rewind(&config, &id, epoch, done_to)).await
    }
}

#[cfg(test)]
mod tests;
