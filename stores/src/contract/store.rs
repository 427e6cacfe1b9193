//! A whole store, as a process opens one.

use async_trait::async_trait;

use super::{DeadLetters, History, Latest, Result, Retained};

/// A store that holds everything a process keeps outside its log. That it is away is a state of the
/// store: its calls are refused until it is back, and the process goes on.
#[async_trait]
pub trait Store: History + Latest + DeadLetters + Retained {
    /// Tries to reach the store, now.
    ///
    /// # Errors
    /// [`StoreError::Busy`](super::StoreError::Busy) when it is away: continue, everything else
    /// works meanwhile. [`StoreError::NeedsOperator`](super::StoreError::NeedsOperator), with the
    /// key to change, when it refuses the settings: end the start if they are new, else go on
    /// without it.
    async fn ready(&self) -> Result<()>;

    /// Returns the name of the kind of store, for logs and traces: `embedded`, `mongodb`.
    fn name(&self) -> &'static str;
}
