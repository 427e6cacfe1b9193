//! What the services read from.

use std::sync::Arc;

use async_trait::async_trait;
use proto::v1;
use stores::contract::{Books, DeadLetters, Deadletter, History, LatestView, StoreError, Tail};
use tokio::sync::watch;

/// Everything that the services ask. Cheap to clone.
#[derive(Clone)]
pub struct Backend {
    /// What the history sink has stored.
    pub history: Arc<dyn History>,
    /// What it has not stored yet.
    pub tail: Arc<dyn Tail>,
    /// Latest state of each device.
    pub latest: Arc<dyn LatestView>,
    /// Dead letters.
    pub dead_letters: Arc<dyn DeadLetters>,
    /// The logs, for those who follow them.
    pub logs: Arc<dyn Logs>,
    /// The books.
    pub books: Arc<dyn Books>,
    /// Takes dead letters in again.
    pub replay: Arc<dyn Replay>,
    /// What the process knows of itself.
    pub status: Arc<dyn StatusSource>,
}

/// The logs, which may come and go.
#[async_trait]
pub trait Logs: Send + Sync + 'static {
    /// All there are now.
    ///
    /// # Errors
    /// [`StoreError::Busy`] when they cannot be reached.
    async fn open(&self) -> Result<Vec<Arc<dyn buffer::Log>>, StoreError>;

    /// Their names; changes when one came or went, and may be empty before the first look. Never changes again once closed.
    fn names(&self) -> watch::Receiver<Arc<[String]>>;
}

/// Logs that are there as long as the process.
#[async_trait]
impl Logs for Vec<Arc<dyn buffer::Log>> {
    async fn open(&self) -> Result<Vec<Arc<dyn buffer::Log>>, StoreError> {
        Ok(self.clone())
    }

    fn names(&self) -> watch::Receiver<Arc<[String]>> {
        watch::channel(self.iter().map(|log| log.id().to_owned()).collect()).1
    }
}

/// Why a dead letter was not taken in again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    /// It would be a dead letter again, for this reason; nothing was appended.
    #[error("still refused: {0}")]
    Refused(String),
    /// The log takes nothing now.
    #[error("cannot be stored now: {0}")]
    Unavailable(String),
}

/// Takes dead letters in again.
#[async_trait]
pub trait Replay: Send + Sync + 'static {
    /// Reads the letter's payload as if it were published to its topic now and returns when its readings are durable in
    /// the log. Does not mark the letter.
    ///
    /// # Errors
    /// [`ReplayError`].
    async fn replay(&self, letter: &Deadletter) -> Result<(), ReplayError>;
}

/// What a server knows of itself.
#[async_trait]
pub trait StatusSource: Send + Sync + 'static {
    /// Everything but [`v1::Status::logs`], which the service fills from [`Backend::logs`].
    async fn status(&self) -> v1::Status;
}
