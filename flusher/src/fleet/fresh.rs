//! Exports that begin now, on logs that were there before them.
//!
//! An export that was just configured with `start = "now"` leaves out the records that the logs
//! hold at that moment. A log that is made later is exported from its first record on, also when no
//! flusher ran at that time.

use std::collections::BTreeSet;
use std::sync::Arc;

use buffer::{Catalogue, LogInfo};

use crate::{Projections, StartAt};

/// The exports that are new to all logs, and the logs that were there at that time.
#[derive(Debug, Default)]
pub(crate) struct Fresh {
    exports: BTreeSet<Arc<str>>,
    logs: BTreeSet<String>,
}

impl Fresh {
    /// Looks for the cursors of exports in all logs, and in those that were removed.
    ///
    /// # Errors
    /// A sentence when a log or the catalogue cannot be read.
    pub(super) async fn find(
        catalogue: &dyn Catalogue,
        projections: &Projections,
        logs: &[LogInfo],
    ) -> Result<Self, String> {
        let now = projections.exports().filter(|export| export.start == StartAt::Now);
        let mut fresh = Self { exports: now.map(|export| Arc::clone(&export.name)).collect(), logs: BTreeSet::new() };
        if fresh.exports.is_empty() {
            return Ok(fresh);
        }
        let settled = catalogue.settled().await.map_err(|error| error.to_string())?;
        fresh.exports.retain(|export| !settled.contains_key(&**export));
        for LogInfo { id, .. } in logs {
            let log = catalogue.open(id).await.map_err(|error| error.to_string())?;
            let cursors = log.cursors().await.map_err(|error| error.to_string())?;
            fresh.exports.retain(|export| !cursors.contains_key(&**export));
            fresh.logs.insert(id.clone());
        }
        Ok(fresh)
    }

    /// True when the records that the log holds now were there before the export.
    pub(crate) fn is_older(&self, log: &str, export: &Arc<str>) -> bool {
        self.exports.contains(export) && self.logs.contains(log)
    }
}
