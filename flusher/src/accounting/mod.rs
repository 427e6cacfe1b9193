//! The accepted records, what became of them, and the replay of readings that a store refused.

pub(crate) mod accepted;
pub(crate) mod books;
pub(crate) mod refill;
pub(crate) mod replay;
pub(crate) mod tallies;

use std::sync::Arc;

use async_trait::async_trait;
use model::TimeRange;
use stores::contract::{DeadLetters, Result};

/// The way a projection appears in the books.
#[derive(Clone)]
pub enum Accounting {
    /// One line for each tenant: every message and reading that was accepted is accounted for. A
    /// store that can be counted is compared with it.
    Telemetry(Option<Arc<dyn Countable>>),
    /// One line for each tenant: messages that could not be read, and readings that stores refused.
    DeadLetters(Arc<dyn DeadLetters>),
    /// No line.
    Nothing,
}

/// A store whose readings can be counted.
#[async_trait]
pub trait Countable: Send + Sync + 'static {
    /// Readings held, by tenant; `None` when that is not comparable with what was written.
    ///
    /// # Errors
    /// Fails the check of the books.
    async fn count(&self) -> Result<Option<Vec<(Arc<str>, u64)>>>;

    /// Readings held between two ordering times, by tenant; `None` as for [`Countable::count`].
    ///
    /// # Errors
    /// Fails the check of the books.
    async fn count_between(&self, range: TimeRange) -> Result<Option<Vec<(Arc<str>, u64)>>>;
}
