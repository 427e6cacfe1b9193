//! Reports that processes make to each other, each of which forgets the others' after a time. The
//! contents are no concern of this crate.

use std::sync::LazyLock;
use std::time::Duration;

use buffer::redis::{Access, AccessError, Script};

use crate::reply;

/// Stores the report of a process and returns those of the others.
static EXCHANGE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/exchange.lua")));

/// The exchange of reports between the processes of a fleet.
#[derive(Debug)]
pub struct Exchange {
    access: Access,
    key: String,
    /// Unique among the processes and their starts.
    process: String,
    /// Time for which a report is valid.
    valid: Duration,
}

impl Exchange {
    pub(super) fn new(access: Access, process: String, valid: Duration) -> Self {
        let key = format!("{}reports", access.prefix());
        Self { access, key, process, valid }
    }

    /// Replaces the report of this process, and returns those of the others that are valid: one
    /// request to the server.
    ///
    /// # Errors
    /// [`AccessError`] when the server does not answer.
    pub async fn report(&self, report: &[u8]) -> Result<Vec<Vec<u8>>, AccessError> {
        self.run(self.valid, report).await
    }

    /// Removes the report of this process.
    ///
    /// # Errors
    /// [`AccessError`] when the server does not answer.
    pub async fn leave(&self) -> Result<(), AccessError> {
        self.run(Duration::ZERO, &[]).await.map(drop)
    }

    async fn run(&self, valid: Duration, report: &[u8]) -> Result<Vec<Vec<u8>>, AccessError> {
        let call = EXCHANGE.call(&self.key).arg(valid.as_millis().to_string()).arg(&self.process).arg(report);
        let reports = self.access.run_script(&EXCHANGE, &call).await?;
        reply::list(reports)?.into_iter().map(reply::bytes).collect()
    }
}
