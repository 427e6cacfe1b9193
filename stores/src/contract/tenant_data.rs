//! All that a store holds of a tenant: counting and deleting it.

use async_trait::async_trait;
use model::Nanos;

use super::Result;

/// Entries of a tenant, by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TenantCounts {
    /// Readings of the history.
    pub readings: u64,
    /// Latest states.
    pub latest_states: u64,
    /// Dead letters.
    pub dead_letters: u64,
    /// Retained messages, with the records of sessions and will messages.
    pub retained_messages: u64,
}

impl TenantCounts {
    /// True when there is nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Returns the counts with the names of their kinds.
    pub fn named(&self) -> [(&'static str, u64); 4] {
        [
            ("readings", self.readings),
            ("latest_states", self.latest_states),
            ("dead_letters", self.dead_letters),
            ("retained_messages", self.retained_messages),
        ]
    }
}

/// The data of tenants in a store.
///
/// The deletion of a tenant takes as long as it takes: it goes in slices that are short, so that
/// the writes of other tenants pass between them, and each of which is durable when it returns. A
/// deletion that was interrupted begins again and continues where it was.
#[async_trait]
pub trait TenantData: Send + Sync + 'static {
    /// Counts what is held of a tenant: for the report of its deletion, and for the check after it.
    async fn count_of(&self, tenant: &str) -> Result<TenantCounts>;

    /// Returns the bytes of the readings that are held of a tenant, each as [`model::size`] counts
    /// it: the sum over the blocks that can be found, not of those that have expired or were
    /// deleted, and of equal readings as often as they are there. While a tenant is being deleted
    /// it may be up to the number before.
    async fn size_of(&self, tenant: &str) -> Result<u64>;

    /// Deletes up to about `most` entries of a tenant (blocks, states, letters, messages), durably
    /// when it returns. Returns false when nothing was left. Deleted readings are no longer part of
    /// [`History::count`](super::History::count), nor are those of the tenant that had expired.
    async fn delete_some_of(&self, tenant: &str, most: usize) -> Result<bool>;

    /// Deletes readings of a tenant that are older than `before`, as far as the store can, in
    /// slices that are short; returns their number. They count as held, as those that
    /// [`History::expire`](super::History::expire) deletes.
    async fn expire_of(&self, tenant: &str, before: Nanos) -> Result<u64>;
}
