//! The meaning of a store's refusal: decided in the store, acted on by one driver in the flusher.

use std::time::Duration;

/// A store's refusal; each variant names a different reaction of the caller.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// Some of the items can never be stored: split the batch to find them, then dead-letter them
    /// with this reason.
    #[error("refused: {0}")]
    Refused(String),
    /// The batch is too large: split it.
    #[error("too large: {0}")]
    TooLarge(String),
    /// An operator has to change something first (credentials, permissions, a missing database):
    /// pause the sink and keep everything.
    #[error("needs attention: {0}")]
    NeedsOperator(String),
    /// The store cannot answer now: try again.
    #[error("not now: {reason}")]
    Busy {
        /// The reason, for the log and for callers.
        reason: String,
        /// The wait that the store asked for.
        retry_after: Option<Duration>,
    },
    /// Everything written since the last commit is lost: write the whole batch again.
    #[error("aborted: {0}")]
    Aborted(String),
    /// Stored bytes are not those that were written. Never retried, never skipped.
    #[error("stored data is damaged: {0}")]
    Damaged(String),
    /// A block was merged or deleted between find and fetch: find again.
    #[error("block has moved")]
    Moved,
}

impl StoreError {
    /// [`StoreError::Busy`], to be retried at the caller's own pace.
    pub fn busy(reason: impl Into<String>) -> Self {
        Self::Busy { reason: reason.into(), retry_after: None }
    }
}

/// The result of a call to a store.
pub type Result<T> = std::result::Result<T, StoreError>;
