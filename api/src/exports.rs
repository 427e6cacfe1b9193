//! The exports as the api sees them.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use model::Nanos;

/// Lists and controls the exports of the installation.
#[async_trait]
pub trait Exports: Send + Sync + 'static {
    /// All exports of the configuration, by name.
    ///
    /// # Errors
    /// [`ExportError::Unavailable`].
    async fn list(&self) -> Result<Vec<ExportStatus>, ExportError>;

    /// Stops the deliveries of an export. Returns when that is durable; the deliveries stop a
    /// moment later.
    ///
    /// # Errors
    /// [`ExportError`].
    async fn pause(&self, name: &str) -> Result<(), ExportError>;

    /// Continues the deliveries of an export. Returns when that is durable.
    ///
    /// # Errors
    /// [`ExportError`].
    async fn resume(&self, name: &str) -> Result<(), ExportError>;

    /// Sets the cursor of an export back to the first record received at or after `to`, in each
    /// log, or to the start of a log that no longer holds it. Returns when that is durable.
    ///
    /// # Errors
    /// [`ExportError`].
    async fn rewind(&self, name: &str, to: Nanos) -> Result<Rewound, ExportError>;
}

/// Where an export that was set back begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rewound {
    /// Everything received at or after this time is delivered again.
    pub begins: Nanos,
    /// A log no longer holds everything received since the time asked for.
    pub truncated: bool,
}

/// An export and its progress.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportStatus {
    /// Name in the configuration.
    pub name: Arc<str>,
    /// Type of its target: `influxdb`, `kafka`, `file`.
    pub kind: String,
    /// The readings that it delivers, for an operator; empty when it delivers all.
    pub filter: String,
    /// An operator paused it.
    pub paused: bool,
    /// Its progress in each log.
    pub logs: Vec<ExportLogStatus>,
}

/// The progress of an export in one log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportLogStatus {
    /// Log.
    pub log: String,
    /// State of the deliveries from this log.
    pub state: ExportState,
    /// Offset below which everything is delivered.
    pub done_to: u64,
    /// Records from there on.
    pub lag_records: u64,
    /// Bytes of these records.
    pub lag_bytes: u64,
    /// Age of the oldest of these records; zero when there are none.
    pub lag: Duration,
    /// Readings that the target refused for good.
    pub dead_letters: u64,
}

/// State of an export's deliveries, by rising need of attention. The texts are reasons for an
/// operator.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum ExportState {
    /// Follows the log.
    Running,
    /// The target does not accept deliveries now.
    Retrying(String),
    /// The target refuses deliveries until an operator changes something.
    NeedsOperator(String),
}

/// Why an export was not listed or changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExportError {
    /// The configuration has no export of this name.
    #[error("there is no export `{name}`{}", known_names(.known))]
    Unknown {
        /// Name in the request.
        name: String,
        /// Names of all exports.
        known: Vec<String>,
    },
    /// The logs or their settings cannot be reached now.
    #[error("cannot reach the exports: {0}")]
    Unavailable(String),
}

fn known_names(known: &[String]) -> String {
    if known.is_empty() {
        return ": the configuration has no [[export]] table".to_owned();
    }
    let quoted: Vec<String> = known.iter().map(|name| format!("`{name}`")).collect();
    format!(": use one of {}", quoted.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_name_is_answered_with_the_known_ones() {
        let unknown = |known: &[&str]| {
            let known = known.iter().map(|name| (*name).to_owned()).collect();
            ExportError::Unknown { name: "x".to_owned(), known }.to_string()
        };
        assert_eq!(unknown(&["events", "influxdb"]), "there is no export `x`: use one of `events`, `influxdb`");
        assert_eq!(unknown(&[]), "there is no export `x`: the configuration has no [[export]] table");
    }
}
