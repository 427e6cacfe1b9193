//! The logs that several processes share, their leases, and the operator's settings of exports.

mod single;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::log::Log;

pub use single::SingleLog;

/// Error of the catalogue.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CatalogueError {
    /// The server does not respond: retry.
    #[error("cannot reach the logs: {0}")]
    Unavailable(String),
    /// The file with the settings of the exports cannot be read.
    #[error("cannot read {path}: {reason}: repair it, or move it away to run every export from where it is")]
    Settings {
        /// Path of the file.
        path: String,
        /// Description of the fault.
        reason: String,
    },
    /// Stored data is invalid.
    #[error("log {log} is damaged: {reason}")]
    Damaged {
        /// Id of the log.
        log: String,
        /// Description of the fault.
        reason: String,
    },
}

/// Settings of an export by an operator. They apply to all logs, including future ones.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct ExportSetting {
    /// No deliveries; the log keeps the records.
    pub paused: bool,
    /// The last rewind; the cursor of every log follows it once.
    pub rewind: Option<Rewind>,
}

/// A rewind of an export: records are delivered again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Rewind {
    /// Increases with every rewind of the export; a cursor of a lower generation has not followed
    /// it yet.
    pub generation: u64,
    /// Records received at or after this time are delivered again, if the log still holds them.
    pub to: model::Nanos,
}

/// A log in the catalogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogInfo {
    /// [`Log::id`].
    pub id: String,
    /// True when its writer is alive; a log without a writer only drains.
    pub written: bool,
    /// Holder of its lease, unless the lease has expired.
    pub holder: Option<Holder>,
}

/// Holder of a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Name of the flusher, unique among running ones.
    pub name: String,
    /// Address for calls of other processes: `http://host:port`.
    pub address: String,
}

/// The right to flush a log until it expires or another flusher claims the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// [`Log::id`].
    pub log: String,
    /// Increases with every claim of the log; cursors refuse a lower one.
    pub epoch: u64,
    /// Holder of the lease.
    pub holder: Holder,
}

/// Logs, their leases and their readers. Cheap to share.
#[async_trait]
pub trait Catalogue: Send + Sync + 'static {
    /// All logs by id.
    ///
    /// # Errors
    /// [`CatalogueError`].
    async fn list(&self) -> Result<Vec<LogInfo>, CatalogueError>;

    /// The ids of all logs in order: a cheap way to detect new and removed logs.
    ///
    /// # Errors
    /// [`CatalogueError`].
    async fn ids(&self) -> Result<Vec<String>, CatalogueError> {
        Ok(self.list().await?.into_iter().map(|info| info.id).collect())
    }

    /// Registers this flusher as running for `time` from now. Returns all running flushers by name,
    /// including this one.
    ///
    /// # Errors
    /// [`CatalogueError`].
    async fn announce(&self, holder: &Holder, time: Duration) -> Result<Vec<Holder>, CatalogueError>;

    /// Reverts [`Catalogue::announce`].
    ///
    /// # Errors
    /// [`CatalogueError`].
    async fn withdraw(&self, holder: &Holder) -> Result<(), CatalogueError>;

    /// Claims the lease of a log for `time` unless another flusher holds it; then returns `None`. A
    /// holder with the same name gets a new epoch.
    ///
    /// # Errors
    /// [`CatalogueError`].
    async fn claim(&self, log: &str, holder: &Holder, time: Duration) -> Result<Option<Lease>, CatalogueError>;

    /// Renews the lease for `time` from now. Returns false when it is lost.
    ///
    /// # Errors
    /// [`CatalogueError`].
    async fn renew(&self, lease: &Lease, time: Duration) -> Result<bool, CatalogueError>;

    /// Takes a lease again that ran out or that the server lost, with its epoch, unless another
    /// flusher has taken it since. Returns false when it cannot be had. To be called after the
    /// holder has put its cursors there again.
    ///
    /// # Errors
    /// [`CatalogueError`].
    async fn regain(&self, lease: &Lease, time: Duration) -> Result<bool, CatalogueError> {
        let _ = (lease, time);
        Ok(false)
    }

    /// Releases the lease, so that another flusher does not have to wait for its expiry.
    ///
    /// # Errors
    /// [`CatalogueError`].
    async fn release(&self, lease: &Lease) -> Result<(), CatalogueError>;

    /// Opens a log for reading. The reader follows the end of the log until it is dropped; a log
    /// can have any number of readers.
    ///
    /// # Errors
    /// [`CatalogueError`].
    async fn open(&self, log: &str) -> Result<Arc<dyn Log>, CatalogueError>;

    /// Deletes a log without a writer that every sink has passed completely, including its cursors;
    /// their tallies become part of [`Catalogue::settled`]. Returns false when the log is still
    /// needed.
    ///
    /// # Errors
    /// [`CatalogueError`].
    async fn remove(&self, lease: &Lease) -> Result<bool, CatalogueError>;

    /// Tallies of all removed logs by sink, for the books.
    ///
    /// # Errors
    /// [`CatalogueError`].
    async fn settled(&self) -> Result<BTreeMap<String, crate::cursor::Cursor>, CatalogueError>;

    /// Settings of exports by name, as changed by an operator.
    ///
    /// # Errors
    /// [`CatalogueError`].
    async fn export_settings(&self) -> Result<BTreeMap<String, ExportSetting>, CatalogueError>;

    /// Replaces the setting of an export. Durable when it returns.
    ///
    /// # Errors
    /// [`CatalogueError`]; the effective setting is then the old one or the new one.
    async fn set_export(&self, name: &str, setting: ExportSetting) -> Result<(), CatalogueError>;
}
