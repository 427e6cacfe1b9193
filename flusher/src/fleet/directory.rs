//! The list of all logs and their holders, as fresh as a query needs it.

use std::sync::Arc;
use std::time::Duration;

use buffer::{Catalogue, LogInfo};
use model::Nanos;
use parking_lot::Mutex;
use stores::contract::{Result, StoreError};
use tokio::time::Instant;

use crate::Clock;

/// Holders are looked up again after this time.
const BELIEVED: Duration = Duration::from_secs(2);

/// The catalogue, remembered.
pub(crate) struct Directory {
    pub(crate) catalogue: Arc<dyn Catalogue>,
    pub(crate) clock: Clock,
    known: Mutex<Known>,
}

#[derive(Clone, Default)]
struct Known {
    logs: Arc<Vec<LogInfo>>,
    /// Time of the list; none before the first one.
    at: Option<Nanos>,
    /// Time until which the holders are believed.
    believed: Option<Instant>,
}

/// A list of all logs.
#[derive(Clone)]
pub(crate) struct Listing {
    pub(crate) logs: Arc<Vec<LogInfo>>,
    /// Every log that was made before this time is among them.
    pub(crate) as_of: Nanos,
}

impl Directory {
    pub(crate) fn new(catalogue: Arc<dyn Catalogue>, clock: Clock) -> Self {
        Self { catalogue, clock, known: Mutex::default() }
    }

    /// All logs there are now. Their names are read each time; their holders only when a name is
    /// new, from time to time, and after [`Directory::forget`]. While the catalogue does not
    /// answer: the last known list.
    ///
    /// # Errors
    /// [`StoreError::Busy`] when no list is known.
    pub(crate) async fn list(&self) -> Result<Listing> {
        let asked = (self.clock)();
        let known = self.known.lock().clone();
        let names = match self.catalogue.ids().await {
            Ok(names) => names,
            Err(error) => return last(known, &error),
        };
        let believed = known.believed.filter(|until| *until > Instant::now());
        let same = known.logs.iter().map(|info| &info.id).eq(&names);
        let logs = if believed.is_some() && same {
            known.logs
        } else {
            match self.catalogue.list().await {
                Ok(mut logs) => {
                    logs.sort_unstable_by(|a, b| a.id.cmp(&b.id));
                    Arc::new(logs)
                }
                Err(error) => return last(known, &error),
            }
        };
        let believed = believed.filter(|_| same).or_else(|| Some(Instant::now() + BELIEVED));
        *self.known.lock() = Known { logs: Arc::clone(&logs), at: Some(asked), believed };
        Ok(Listing { logs, as_of: asked })
    }

    /// Drops the known holders: one did not answer for its log.
    pub(crate) fn forget(&self) {
        self.known.lock().believed = None;
    }

    /// True when the log no longer exists.
    pub(crate) async fn is_gone(&self, log: &str) -> bool {
        self.catalogue.ids().await.is_ok_and(|ids| !ids.iter().any(|id| id == log))
    }
}

fn last(known: Known, error: &buffer::CatalogueError) -> Result<Listing> {
    match known.at {
        Some(as_of) => Ok(Listing { logs: known.logs, as_of }),
        None => Err(StoreError::busy(error.to_string())),
    }
}
