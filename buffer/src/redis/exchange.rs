//! Reports that processes make to each other, each of which forgets the others' after a time. The
//! contents are no concern of this crate.

use std::time::Duration;

use super::error::{explain, is_no_script};
use super::{Redis, append, millis, scripts};
use crate::catalogue::CatalogueError;

/// The exchange of reports between the processes of an installation.
#[derive(Debug)]
pub struct Exchange {
    redis: Redis,
    /// Unique among the processes and their starts.
    process: String,
    /// Time for which a report is valid.
    valid: Duration,
}

impl Redis {
    /// Returns the exchange of this process, whose reports the others forget when they are older
    /// than `valid`.
    pub fn exchange(&self, valid: Duration) -> Exchange {
        let process = format!("{}-{:016x}", self.shared.config.node, append::unique());
        Exchange { redis: self.clone(), process, valid }
    }
}

impl Exchange {
    /// Replaces the report of this process, and returns those of the others that are valid: one
    /// request to the server.
    ///
    /// # Errors
    /// [`CatalogueError::Unavailable`].
    pub async fn report(&self, report: &[u8]) -> Result<Vec<Vec<u8>>, CatalogueError> {
        self.run(&millis(self.valid), report).await
    }

    /// Removes the report of this process.
    ///
    /// # Errors
    /// [`CatalogueError::Unavailable`].
    pub async fn leave(&self) -> Result<(), CatalogueError> {
        self.run("0", &[]).await.map(drop)
    }

    async fn run(&self, valid: &str, report: &[u8]) -> Result<Vec<Vec<u8>>, CatalogueError> {
        let shared = &self.redis.shared;
        let (servers, key, script) = (&shared.servers, &shared.common.reports, &scripts::EXCHANGE);
        let mut command = redis::cmd("EVALSHA");
        command.arg(script.get_hash()).arg(1).arg(key).arg(valid).arg(&self.process).arg(report);
        let answer = match servers.run(key, &command).await {
            Err(error) if is_no_script(&error) => match servers.load(key, script).await {
                Ok(()) => servers.run(key, &command).await,
                Err(error) => Err(error),
            },
            other => other,
        };
        answer.map_err(|error| CatalogueError::Unavailable(explain(&error)))
    }
}
