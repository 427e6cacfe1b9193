//! The ports that the services query.

use std::sync::Arc;

use async_trait::async_trait;
use proto::v1;
use stores::contract::{Books, DeadLetters, Deadletter, History, LatestView, StoreError, Tail};
use tokio::sync::watch;

use crate::brokers::Brokers;
use crate::exports::Exports;

/// The data sources of the services. Cheap to clone.
#[derive(Clone)]
pub struct Backend {
    /// Stored history.
    pub history: Arc<dyn History>,
    /// Readings that are not in the history yet.
    pub tail: Arc<dyn Tail>,
    /// Latest state of each device.
    pub latest: Arc<dyn LatestView>,
    /// Dead letters.
    pub dead_letters: Arc<dyn DeadLetters>,
    /// The logs, for live subscriptions.
    pub logs: Arc<dyn Logs>,
    /// The books.
    pub books: Arc<dyn Books>,
    /// Replays dead letters.
    pub replay: Arc<dyn Replay>,
    /// Lists and controls the exports.
    pub exports: Arc<dyn Exports>,
    /// Sessions, subscriptions and retained messages of the MQTT broker.
    pub brokers: Arc<dyn Brokers>,
    /// Status of the process.
    pub status: Arc<dyn StatusSource>,
}

/// The logs of the installation, which may be added and removed.
#[async_trait]
pub trait Logs: Send + Sync + 'static {
    /// Opens the current logs that may have records of a tenant; all without one.
    ///
    /// # Errors
    /// [`StoreError::Busy`] when they cannot be reached.
    async fn open(&self, tenant: Option<&str>) -> Result<Vec<Arc<dyn buffer::Log>>, StoreError>;

    /// Names of the logs. Changes when a log is added or removed; may be empty before the first
    /// listing. Never changes again once closed.
    fn names(&self) -> watch::Receiver<Arc<[String]>>;
}

/// A fixed set of logs.
#[async_trait]
impl Logs for Vec<Arc<dyn buffer::Log>> {
    async fn open(&self, _tenant: Option<&str>) -> Result<Vec<Arc<dyn buffer::Log>>, StoreError> {
        Ok(self.clone())
    }

    fn names(&self) -> watch::Receiver<Arc<[String]>> {
        watch::channel(self.iter().map(|log| log.id().to_owned()).collect()).1
    }
}

/// Failure of a replay.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    /// The message would become a dead letter again, for this reason; nothing was appended.
    #[error("still refused: {0}")]
    Refused(String),
    /// The log does not accept records now.
    #[error("cannot be stored now: {0}")]
    Unavailable(String),
}

/// Replays dead letters.
#[async_trait]
pub trait Replay: Send + Sync + 'static {
    /// Processes the payload as if it were published to its topic now, and returns when its
    /// readings are durable in the log. Does not mark the letter.
    ///
    /// # Errors
    /// [`ReplayError`].
    async fn replay(&self, letter: &Deadletter) -> Result<(), ReplayError>;
}

/// Source of a server's status.
#[async_trait]
pub trait StatusSource: Send + Sync + 'static {
    /// The status without [`v1::Status::logs`], which the service fills in from [`Backend::logs`].
    async fn status(&self) -> v1::Status;
}
