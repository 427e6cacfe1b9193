//! The logs that several processes share, and who flushes which.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::log::Log;

/// Why the catalogue did not answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CatalogueError {
    /// The server does not answer now: ask again.
    #[error("cannot reach the logs: {0}")]
    Unavailable(String),
    /// What is stored cannot be understood.
    #[error("log {log} is damaged: {reason}")]
    Damaged {
        /// Which.
        log: String,
        /// What is wrong.
        reason: String,
    },
}

/// A log as the catalogue knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogInfo {
    /// [`Log::id`].
    pub id: String,
    /// Its writer has been heard of lately; a log without one only drains.
    pub written: bool,
    /// Who flushes it, as far as the lease has not run out.
    pub holder: Option<Holder>,
}

/// Who holds a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Name of the flusher, unique among those that run.
    pub name: String,
    /// Where it answers for the tail: `http://host:port`.
    pub address: String,
}

/// The right to flush a log until it runs out or another takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// [`Log::id`].
    pub log: String,
    /// Rises with every claim of the log; cursors refuse a lower one.
    pub epoch: u64,
    /// Who has it.
    pub holder: Holder,
}

/// Logs, their leases and their readers. Cheap to share.
#[async_trait]
pub trait Catalogue: Send + Sync + 'static {
    /// All logs there are, by id.
    ///
    /// # Errors
    /// [`CatalogueError`].
    async fn list(&self) -> Result<Vec<LogInfo>, CatalogueError>;

    /// The names of all logs there are, in order: the least that tells whether one came or went.
    ///
    /// # Errors
    /// [`CatalogueError`].
    async fn ids(&self) -> Result<Vec<String>, CatalogueError> {
        Ok(self.list().await?.into_iter().map(|info| info.id).collect())
    }

    /// Says that this flusher runs, for `time` from now. Returns all that do, itself included, by name.
    ///
    /// # Errors
    /// [`CatalogueError`].
    async fn announce(&self, holder: &Holder, time: Duration) -> Result<Vec<Holder>, CatalogueError>;

    /// Takes back what [`Catalogue::announce`] said.
    ///
    /// # Errors
    /// [`CatalogueError`].
    async fn withdraw(&self, holder: &Holder) -> Result<(), CatalogueError>;

    /// Takes the lease of a log for `time` if nobody holds it; `None` when another does. Whoever holds it already under
    /// the same name gets a new epoch.
    ///
    /// # Errors
    /// [`CatalogueError`].
    async fn claim(&self, log: &str, holder: &Holder, time: Duration) -> Result<Option<Lease>, CatalogueError>;

    /// Makes the lease run for `time` from now; false when it is no longer this holder's.
    ///
    /// # Errors
    /// [`CatalogueError`].
    async fn renew(&self, lease: &Lease, time: Duration) -> Result<bool, CatalogueError>;

    /// Gives the lease back, so that another need not wait for it to run out.
    ///
    /// # Errors
    /// [`CatalogueError`].
    async fn release(&self, lease: &Lease) -> Result<(), CatalogueError>;

    /// A log's reading side. Follows the end of the log while it is held; any number of readers may open one log.
    ///
    /// # Errors
    /// [`CatalogueError`].
    async fn open(&self, log: &str) -> Result<Arc<dyn Log>, CatalogueError>;

    /// Deletes a log that has no writer and that every sink has passed to its end, its cursors included; their tallies
    /// are kept as part of [`Catalogue::settled`]. False when it is still needed.
    ///
    /// # Errors
    /// [`CatalogueError`].
    async fn remove(&self, lease: &Lease) -> Result<bool, CatalogueError>;

    /// What became of all records of the logs that were removed, by sink: for the books.
    ///
    /// # Errors
    /// [`CatalogueError`].
    async fn settled(&self) -> Result<std::collections::BTreeMap<String, crate::cursor::Cursor>, CatalogueError>;
}
