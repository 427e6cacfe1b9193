//! The dead letters of all logs: stored, or still in a log.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use buffer::Log;
use buffer::frame::Frame;
use model::Nanos;
use stores::contract::{DeadLetters, Deadletter, LIST_BYTES, Result, is_last};

use super::readers::Reading;
use crate::PurgedTenants;
use crate::readers::scan;
use crate::sinks::records::{DeadLetterWriter, RecordWriter};

/// Reads the store and the logs.
pub(super) struct FleetLetters(pub(super) Arc<Reading>);

impl FleetLetters {
    /// The letters of all logs that no sink has stored, as far as `kept` keeps them of each.
    async fn unstored(&self, kept: &Kept<'_>) -> Result<Vec<Vec<Deadletter>>> {
        let listing = self.0.directory.list().await?;
        let logs: Vec<String> = listing.logs.iter().map(|info| info.id.clone()).collect();
        let mut found = Vec::new();
        for log in self.0.open_all(&logs).await? {
            let store = Arc::clone(&self.0.stores.dead_letters);
            let letters = DeadLetterWriter { log: log.id().into(), store, purged: PurgedTenants::default() };
            let read = from_log(&*log, &letters, kept, self.0.wait).await;
            found.extend(self.0.unless_gone(log.id(), read).await?);
        }
        Ok(found)
    }
}

/// The letters that a reader of a log keeps, so that a log full of them does not fill the memory.
enum Kept<'a> {
    /// Letters after a position, until they are [`LIST_BYTES`] long.
    After(&'a str, Option<Place<'a>>),
    /// The one at a position.
    At(&'a str, Place<'a>),
    /// The last ones of a log.
    Last(&'a str, &'a str, usize),
}

/// Log, offset and stage of a letter.
type Place<'a> = (&'a str, u64, &'a str);

impl Kept<'_> {
    fn add(&self, found: &mut VecDeque<Deadletter>, bytes: &mut usize, letter: Deadletter) {
        match self {
            Self::After(tenant, after) => {
                let wanted = *letter.tenant == **tenant && after.is_none_or(|after| place(&letter) > after);
                if wanted && *bytes < LIST_BYTES {
                    *bytes += letter.bytes();
                    found.push_back(letter);
                }
            }
            Self::At(tenant, at) => {
                if *letter.tenant == **tenant && place(&letter) == *at {
                    found.push_back(letter);
                }
            }
            Self::Last(tenant, log, most) => {
                if *letter.tenant == **tenant && *letter.log == **log {
                    found.push_back(letter);
                }
                if found.len() > *most {
                    found.pop_front();
                }
            }
        }
    }
}

async fn from_log(
    log: &dyn Log,
    letters: &DeadLetterWriter,
    kept: &Kept<'_>,
    wait: Duration,
) -> Result<Vec<Deadletter>> {
    let (offsets, _) = scan::not_passed(log, crate::DEAD_LETTERS, wait).await?;
    let (mut found, mut bytes) = (VecDeque::new(), 0);
    let take = |frame: &Frame| {
        let records = frame.records().filter(|(offset, _)| *offset >= offsets.start);
        for (letter, _) in records.filter_map(|(offset, record)| letters.keep(offset, &record)) {
            kept.add(&mut found, &mut bytes, letter);
        }
    };
    scan::frames(log, offsets.start, offsets.end, take).await?;
    Ok(found.into())
}

fn place(letter: &Deadletter) -> Place<'_> {
    (&letter.log, letter.offset, &letter.stage)
}

/// Merges a page of the store with letters of each log, in order. A list that its bytes have ended
/// ends the page: what follows it is not known.
fn merge(unstored: Vec<Vec<Deadletter>>, stored: Vec<Deadletter>, limit: usize) -> Vec<Deadletter> {
    let own = |letter: &Deadletter| (Arc::clone(&letter.log), letter.offset, letter.stage.clone());
    let mut ends: Vec<_> =
        unstored.iter().filter(|list| !is_last(list, usize::MAX)).filter_map(|l| l.last()).map(own).collect();
    ends.extend(stored.last().filter(|_| !is_last(&stored, limit)).map(own));
    let end = ends.into_iter().min();
    let held: HashSet<_> = stored.iter().map(own).collect();
    let mut found = stored;
    found.extend(unstored.into_iter().flatten().filter(|letter| !held.contains(&own(letter))));
    found.sort_by(|a, b| place(a).cmp(&place(b)));
    if let Some((log, offset, stage)) = &end {
        found.retain(|letter| place(letter) <= (&**log, *offset, stage.as_str()));
    }
    found.truncate(limit);
    found
}

#[async_trait]
impl DeadLetters for FleetLetters {
    async fn put(&self, letters: Vec<Deadletter>) -> Result<()> {
        self.0.stores.dead_letters.put(letters).await
    }

    async fn list(&self, tenant: &str, after: Option<(&str, u64, &str)>, limit: usize) -> Result<Vec<Deadletter>> {
        let unstored = self.unstored(&Kept::After(tenant, after)).await?;
        // The store's are the later ones: they may have been replayed.
        let stored = self.0.stores.dead_letters.list(tenant, after, limit).await?;
        Ok(merge(unstored, stored, limit))
    }

    async fn newest(&self, tenant: &str, log: &str, most: usize) -> Result<Vec<Deadletter>> {
        let unstored = self.unstored(&Kept::Last(tenant, log, most)).await?;
        let mut found = self.0.stores.dead_letters.newest(tenant, log, most).await?;
        let new = |letter: &Deadletter| found.iter().all(|held| place(held) != place(letter));
        let unstored: Vec<Deadletter> = unstored.into_iter().flatten().filter(new).collect();
        found.extend(unstored);
        found.sort_by(|a, b| place(b).cmp(&place(a)));
        found.truncate(most);
        Ok(found)
    }

    async fn get(&self, tenant: &str, log: &str, offset: u64, stage: &str) -> Result<Option<Deadletter>> {
        let unstored = self.unstored(&Kept::At(tenant, (log, offset, stage))).await?;
        if let Some(stored) = self.0.stores.dead_letters.get(tenant, log, offset, stage).await? {
            return Ok(Some(stored));
        }
        Ok(unstored.into_iter().flatten().next())
    }

    async fn mark_replayed(&self, tenant: &str, log: &str, offset: u64, stage: &str, at: Nanos) -> Result<()> {
        let store = &self.0.stores.dead_letters;
        if store.get(tenant, log, offset, stage).await?.is_none() {
            // It is still in its log: the sink's later put changes nothing.
            let letter = self.get(tenant, log, offset, stage).await?;
            store.put(Vec::from_iter(letter)).await?;
        }
        store.mark_replayed(tenant, log, offset, stage, at).await
    }

    async fn count(&self) -> Result<Vec<(Arc<str>, u64)>> {
        self.0.stores.dead_letters.count().await
    }

    async fn count_replayed(&self, stage: &str) -> Result<Vec<(Arc<str>, u64)>> {
        self.0.stores.dead_letters.count_replayed(stage).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(log: &str, offset: u64, bytes: usize) -> Deadletter {
        Deadletter {
            log: log.into(),
            offset,
            tenant: "t".into(),
            device: None,
            client: String::new(),
            topic: String::new(),
            payload: vec![0; bytes],
            received: 0,
            stage: "ingest".into(),
            reason: String::new(),
            replayed: None,
        }
    }

    fn places(letters: &[Deadletter]) -> Vec<(&str, u64)> {
        letters.iter().map(|letter| (&*letter.log, letter.offset)).collect()
    }

    #[test]
    fn a_page_ends_where_the_first_list_that_is_cut_ends() {
        let large = LIST_BYTES / 2;
        // The store's list is cut after a/2, so b/1 is not next.
        let stored = vec![letter("a", 1, large), letter("a", 2, large)];
        let page = merge(vec![vec![letter("a", 9, 1)], vec![letter("b", 1, 1)]], stored, 100);
        assert_eq!(places(&page), [("a", 1), ("a", 2)]);
        assert!(!is_last(&page, 100));
        // The list of log a is cut after 5.
        let unstored = vec![vec![letter("a", 3, large), letter("a", 5, large)], vec![letter("b", 1, 1)]];
        let page = merge(unstored, vec![letter("a", 1, 1), letter("b", 7, 1)], 100);
        assert_eq!(places(&page), [("a", 1), ("a", 3), ("a", 5)]);
        assert!(!is_last(&page, 100));
        let page = merge(vec![vec![letter("a", 3, 1)]], vec![letter("a", 3, 2), letter("a", 4, 1)], 100);
        assert_eq!((places(&page), page[0].payload.len()), (vec![("a", 3), ("a", 4)], 2), "the stored one counts");
    }

    #[test]
    fn a_log_full_of_large_letters_is_read_into_little_memory() {
        for (kept, wanted) in [
            (Kept::After("t", Some(("l", 10, "ingest"))), (11..=14).collect::<Vec<u64>>()),
            (Kept::At("t", ("l", 77, "ingest")), vec![77]),
            (Kept::Last("t", "l", 2), vec![98, 99]),
            (Kept::After("other", None), vec![]),
        ] {
            let (mut found, mut bytes) = (VecDeque::new(), 0);
            for offset in 0..100 {
                kept.add(&mut found, &mut bytes, letter("l", offset, 1 << 20));
                assert!(found.len() <= 5);
            }
            assert_eq!(found.iter().map(|letter| letter.offset).collect::<Vec<_>>(), wanted);
        }
    }
}
