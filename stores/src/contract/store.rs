//! A whole store, as a process opens one.

use std::sync::Arc;

use async_trait::async_trait;

use super::{DeadLetters, History, Latest, Result, Retained, TenantData};

/// A part of a store that holds what was written: a collection, a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredPart {
    /// Its name for an operator, with its kind: ``collection `blocks` ``.
    pub name: String,
    /// Given by the server when the part was made. A part that was deleted and made anew has
    /// another, and holds nothing that was written before.
    pub id: Arc<str>,
}

/// A store that holds everything a process keeps outside its log. That it is away is a state of the
/// store: its calls are refused until it is back, and the process goes on.
#[async_trait]
pub trait Store: History + Latest + DeadLetters + Retained + TenantData {
    /// Tries to reach the store, now, checks its schema, and makes again what is missing of it.
    ///
    /// # Errors
    /// [`StoreError::Busy`](super::StoreError::Busy) when it is away: continue, everything else
    /// works meanwhile. [`StoreError::NeedsOperator`](super::StoreError::NeedsOperator), with the
    /// key to change, when it refuses the settings: end the start if they are new, else go on
    /// without it.
    async fn ready(&self) -> Result<()>;

    /// Returns the parts that hold what was written, as they are now; none of a store without a
    /// server.
    ///
    /// # Errors
    /// As [`Store::ready`].
    async fn parts(&self) -> Result<Vec<StoredPart>> {
        Ok(Vec::new())
    }

    /// Returns the name of the kind of store, for logs and traces: `embedded`, `mongodb`.
    fn name(&self) -> &'static str;
}
