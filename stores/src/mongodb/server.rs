//! A server that was reached and keeps the promises of the contract: requests to it, bounded in
//! time and counted.

use std::future::IntoFuture;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mongodb::bson::{RawDocument, RawDocumentBuf};
use mongodb::error::Error;
use mongodb::{Client, Collection, Cursor, Database};

use super::answer;
use super::config::Config;
use super::connect::Access;
use super::metrics::Metrics;
use crate::contract::{Result, StoreError};

#[derive(Debug)]
pub(super) struct Server {
    pub(super) config: Config,
    pub(super) client: Client,
    pub(super) database: Database,
    pub(super) metrics: Arc<Metrics>,
    pub(super) access: Access,
    /// The schema was made or found complete on this connection.
    pub(super) is_prepared: AtomicBool,
    /// An answer shows that a part of the schema is missing.
    pub(super) in_question: AtomicBool,
    /// Held while the schema is made.
    pub(super) preparing: tokio::sync::Mutex<()>,
}

impl Server {
    /// Returns the full name of a collection of this installation.
    pub(super) fn name(&self, collection: &str) -> String {
        format!("{}{collection}", self.config.collection_prefix)
    }

    pub(super) fn collection(&self, name: &str) -> Collection<RawDocumentBuf> {
        self.database.collection(&self.name(name))
    }

    /// Sends a request and waits for its answer, for as long as the configuration allows.
    pub(super) async fn send<T, R>(&self, command: &'static str, request: R) -> std::result::Result<T, Error>
    where
        R: IntoFuture<Output = std::result::Result<T, Error>>,
    {
        self.send_within(self.request_limit(), command, request).await
    }

    pub(super) async fn send_within<T, R>(
        &self,
        limit: Duration,
        command: &'static str,
        request: R,
    ) -> std::result::Result<T, Error>
    where
        R: IntoFuture<Output = std::result::Result<T, Error>>,
    {
        self.metrics.sent(command);
        answered(limit, command, request.into_future()).await
    }

    /// Returns the meaning of a failed request, and counts it.
    pub(super) fn failed(&self, error: &Error) -> StoreError {
        if answer::is_about_schema(error) {
            self.in_question.store(true, Ordering::Relaxed);
        }
        self.counted(self.meaning(error))
    }

    pub(super) fn counted(&self, meaning: StoreError) -> StoreError {
        self.metrics.failed(answer::label(&meaning));
        meaning
    }

    /// Reads a cursor to its end.
    pub(super) async fn gather<T>(
        &self,
        limit: Duration,
        cursor: Cursor<RawDocumentBuf>,
        read: impl FnMut(&RawDocument) -> Result<T>,
    ) -> Result<Vec<T>> {
        self.gather_until(limit, cursor, read, |_| false).await
    }

    /// As [`Server::gather`], until `full` is true of what was read, which it is asked after each.
    pub(super) async fn gather_until<T>(
        &self,
        limit: Duration,
        mut cursor: Cursor<RawDocumentBuf>,
        mut read: impl FnMut(&RawDocument) -> Result<T>,
        mut full: impl FnMut(&[T]) -> bool,
    ) -> Result<Vec<T>> {
        let mut all = Vec::new();
        while !full(&all) && answered(limit, "getMore", cursor.advance()).await.map_err(|error| self.failed(&error))? {
            all.push(read(cursor.current())?);
        }
        Ok(all)
    }

    pub(super) fn request_limit(&self) -> Duration {
        Duration::from_millis(self.config.request_timeout_ms)
    }
}

/// Waits for an answer no longer than `limit`. An answer that is not waited for ends with its
/// connection.
async fn answered<T>(
    limit: Duration,
    command: &'static str,
    request: impl Future<Output = std::result::Result<T, Error>>,
) -> std::result::Result<T, Error> {
    match tokio::time::timeout(limit, request).await {
        Ok(answer) => answer,
        Err(_) => {
            let what = format!("no answer to {command} within {} s", limit.as_secs_f64());
            Err(std::io::Error::new(std::io::ErrorKind::TimedOut, what).into())
        }
    }
}

/// Runs work that takes a processor for a while on a thread of its own.
pub(super) async fn compute<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|error| StoreError::busy(error.to_string()))
}
