//! The books: every accepted reading is accounted for in every projection.

use std::sync::Arc;

use async_trait::async_trait;

use crate::contract::Result;

/// One line of the books: a tenant in a projection. `accepted = stored + merged + pending +
/// dead_lettered`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BookLine {
    /// The tenant.
    pub tenant: Arc<str>,
    /// Projection: `history`, `latest`, …
    pub sink: String,
    /// Messages and readings acknowledged as durable: counted from the log, independently of the
    /// projection.
    pub accepted: u64,
    /// Stored.
    pub stored: u64,
    /// Equal to one stored already.
    pub merged: u64,
    /// In the log, not yet in the store.
    pub pending: u64,
    /// In the dead letters.
    pub dead_lettered: u64,
    /// Readings that the store itself counts, when it was asked (`check`).
    pub held: Option<u64>,
    /// Readings that the store should count.
    pub expected: u64,
    /// The same by the hour of the readings' time, for stores that can count by time; the latest
    /// hours.
    pub hours: Vec<HourLine>,
}

impl BookLine {
    /// The sum of all that is known of the accepted readings.
    pub fn accounted(&self) -> u64 {
        self.stored + self.merged + self.pending + self.dead_lettered
    }

    /// True when every accepted reading is accounted for.
    pub fn balances(&self) -> bool {
        self.accepted == self.accounted()
    }

    /// True when the store holds what it should, in all and in each hour, as far as it was asked.
    pub fn agrees(&self) -> bool {
        let agrees = |held: Option<u64>, expected| held.is_none_or(|held| held == expected);
        agrees(self.held, self.expected) && self.hours.iter().all(|hour| agrees(hour.held, hour.expected))
    }
}

/// One hour of a line: what the store should hold, and what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HourLine {
    /// Hours since 1970.
    pub hour: i64,
    /// Readings that the store should count.
    pub expected: u64,
    /// Readings that it counts, when it was asked.
    pub held: Option<u64>,
}

/// The books of all projections.
#[async_trait]
pub trait Books: Send + Sync + 'static {
    /// Returns one line for each tenant and projection; with `check`, the stores are asked what
    /// they hold.
    async fn books(&self, check: bool) -> Result<Vec<BookLine>>;

    /// As [`Books::books`], with the lines of one tenant only.
    async fn books_of(&self, tenant: &str, check: bool) -> Result<Vec<BookLine>> {
        let mut lines = self.books(check).await?;
        lines.retain(|line| *line.tenant == *tenant);
        Ok(lines)
    }
}
