//! Dead letters.

use std::sync::Arc;

use async_trait::async_trait;
use model::Nanos;

use super::Result;

/// A message that could not be read, or a reading that a store refused.
#[derive(Debug, Clone, PartialEq)]
pub struct Deadletter {
    /// Log that holds the record.
    pub log: Arc<str>,
    /// Offset of the record in that log.
    pub offset: u64,
    /// Tenant of the sender.
    pub tenant: Arc<str>,
    /// Device, where it is known.
    pub device: Option<Arc<str>>,
    /// MQTT client id of the sender.
    pub client: String,
    /// Topic of the message.
    pub topic: String,
    /// The payload as received.
    pub payload: Vec<u8>,
    /// Receive time.
    pub received: Nanos,
    /// The projection whose store refused it; `ingest` when it could not be read.
    pub stage: String,
    /// The reason, for the operator.
    pub reason: String,
    /// Time of its replay, if it was replayed.
    pub replayed: Option<Nanos>,
}

/// The stage of a message that could not be read.
pub const INGEST: &str = "ingest";

/// Bytes of letters after which a list ends, however many were asked for.
pub const LIST_BYTES: usize = 4 << 20;

/// How many letters a store holds, of all tenants together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LetterBound {
    /// Letters.
    pub count: u64,
    /// Bytes of them, as the store holds them.
    pub bytes: u64,
}

/// Letters of a tenant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LetterSum {
    /// Letters.
    pub count: u64,
    /// Bytes of them, as the store holds them.
    pub bytes: u64,
}

impl LetterBound {
    /// Returns the tenant whose oldest letters have to leave: that with the most bytes, or with the
    /// most letters. `None` when no more are held than `bound`; `over` is true once one was
    /// deleted, and then some room is made.
    pub fn exceeded_by<'a, T>(
        &self,
        held: impl Iterator<Item = (&'a T, &'a LetterSum)> + Clone,
        over: bool,
    ) -> Option<&'a T> {
        let room = |bound: u64| if over { bound - bound / 20 } else { bound };
        let total = |of: fn(&LetterSum) -> u64| held.clone().map(|(_, sum)| of(sum)).sum::<u64>();
        let most = |of: fn(&LetterSum) -> u64| held.clone().max_by_key(|(_, sum)| of(sum)).map(|(tenant, _)| tenant);
        if total(|sum| sum.bytes) > room(self.bytes) {
            most(|sum| sum.bytes)
        } else if total(|sum| sum.count) > room(self.count) {
            most(|sum| sum.count)
        } else {
            None
        }
    }
}

impl Deadletter {
    /// True when a bound may delete it. The books count the readings of an export that were
    /// replayed from their letters.
    pub fn may_leave(&self) -> bool {
        self.stage == INGEST || self.replayed.is_none()
    }

    /// Bytes that it takes in memory and in an answer, about.
    pub fn bytes(&self) -> usize {
        256 + self.payload.len() + self.topic.len() + self.client.len() + self.reason.len()
    }
}

/// True when a list of at most `limit` letters holds all that there are: neither their number nor
/// [`LIST_BYTES`] ended it.
pub fn is_last(letters: &[Deadletter], limit: usize) -> bool {
    letters.len() < limit && letters.iter().map(Deadletter::bytes).sum::<usize>() < LIST_BYTES
}

/// Dead letters, in the order of (log, offset, stage).
#[async_trait]
pub trait DeadLetters: Send + Sync + 'static {
    /// Adds letters, durably when it returns; one that is stored already (same tenant, log, offset
    /// and stage) changes nothing.
    async fn put(&self, letters: Vec<Deadletter>) -> Result<()>;

    /// Returns up to `limit` letters of a tenant after `after` = (log, offset, stage). The list
    /// ends before that with the letter that makes it [`LIST_BYTES`] long; see [`is_last`].
    async fn list(&self, tenant: &str, after: Option<(&str, u64, &str)>, limit: usize) -> Result<Vec<Deadletter>>;

    /// Returns up to `most` letters of a log, the newest first.
    async fn newest(&self, tenant: &str, log: &str, most: usize) -> Result<Vec<Deadletter>> {
        const PAGE: usize = 1_000;
        let mut newest: Vec<Deadletter> = Vec::new();
        let mut after = (0, String::new());
        loop {
            let page = self.list(tenant, Some((log, after.0, &after.1)), PAGE).await?;
            let end = is_last(&page, PAGE) || page.last().is_none_or(|last| *last.log != *log);
            if let Some(last) = page.last() {
                after = (last.offset, last.stage.clone());
            }
            newest.extend(page.into_iter().filter(|letter| *letter.log == *log));
            newest.drain(..newest.len().saturating_sub(most));
            if end {
                newest.reverse();
                return Ok(newest);
            }
        }
    }

    /// Returns one letter.
    async fn get(&self, tenant: &str, log: &str, offset: u64, stage: &str) -> Result<Option<Deadletter>>;

    /// Marks a letter as replayed.
    async fn mark_replayed(&self, tenant: &str, log: &str, offset: u64, stage: &str, at: Nanos) -> Result<()>;

    /// Counts the letters held, by tenant.
    async fn count(&self) -> Result<Vec<(Arc<str>, u64)>>;

    /// Deletes the oldest letters while more than `bound` are held, of the tenant with the most,
    /// and counts them by tenant with their deletion. Letters of an export that were replayed stay.
    /// Returns the number of those deleted.
    async fn trim(&self, _bound: LetterBound) -> Result<u64> {
        Ok(0)
    }

    /// Counts the letters that [`DeadLetters::trim`] has deleted, by tenant.
    async fn count_trimmed(&self) -> Result<Vec<(Arc<str>, u64)>> {
        Ok(Vec::new())
    }

    /// Counts the letters of a stage that were replayed, by tenant.
    async fn count_replayed(&self, stage: &str) -> Result<Vec<(Arc<str>, u64)>> {
        const PAGE: usize = 1_000;
        let mut counts = Vec::new();
        for (tenant, _) in self.count().await? {
            let (mut count, mut last) = (0, None::<Deadletter>);
            loop {
                let after = last.as_ref().map(|letter| (&*letter.log, letter.offset, &*letter.stage));
                let page = self.list(&tenant, after, PAGE).await?;
                count += page.iter().filter(|l| l.stage == stage && l.replayed.is_some()).count() as u64;
                let end = is_last(&page, PAGE);
                last = page.into_iter().last();
                if end {
                    break;
                }
            }
            counts.push((tenant, count));
        }
        Ok(counts)
    }
}
