//! The connection to MongoDB, made on first use and kept for good.
//!
//! The first call begins an attempt to connect and waits for its outcome; attempts then follow each
//! other in the background, with back-off, until one succeeds. Until then every call is refused at
//! once with the outcome of the last attempt. There is never more than one attempt under way,
//! however many calls wait.
//!
//! Once made, the connection stays: the driver itself reconnects to servers that were away.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use super::LONG_REQUEST;
use super::config::{Config, hosts};
use super::connect::{Access, connect};
use super::metrics::Metrics;
use super::server::Server;
use crate::contract::{Result, StoreError};

/// Between two attempts, at first and at most.
const WAIT: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// The first attempt and the calls that wait for it have the same limit; the attempt ends first.
const GRACE: Duration = Duration::from_millis(200);

/// The one connection that the calls of a store share.
#[derive(Debug)]
pub(super) struct Lazy {
    link: Arc<Link>,
    /// Makes attempts until one succeeds.
    connecting: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Link {
    config: Config,
    metrics: Arc<Metrics>,
    access: Access,
    server: OnceLock<Server>,
    outcome: watch::Sender<Outcome>,
    /// Ends the wait before the next attempt.
    now: Notify,
}

#[derive(Debug, Default)]
struct Outcome {
    /// Attempts that have ended.
    attempts: u64,
    /// The reason why the last of them failed.
    error: Option<StoreError>,
}

impl Lazy {
    pub(super) fn new(config: Config, metrics: Arc<Metrics>, access: Access) -> Self {
        let (server, outcome, now) = (OnceLock::new(), watch::Sender::default(), Notify::new());
        Self { link: Arc::new(Link { config, metrics, access, server, outcome, now }), connecting: Mutex::default() }
    }

    /// Returns the server, if it was ever reached.
    pub(super) fn connected(&self) -> Option<&Server> {
        self.link.server.get()
    }

    /// Returns the server. Calls that find no outcome yet wait for the first attempt, no longer
    /// than server selection may take.
    ///
    /// # Errors
    /// The outcome of the last attempt.
    pub(super) async fn server(&self) -> Result<&Server> {
        let limit = Duration::from_millis(self.link.config.server_selection_timeout_ms);
        self.after(0, limit + GRACE).await
    }

    /// Returns the server after an attempt that begins now or is under way, without a wait.
    ///
    /// # Errors
    /// The outcome of that attempt.
    pub(super) async fn attempt(&self) -> Result<&Server> {
        let attempts = self.link.outcome.borrow().attempts;
        self.link.now.notify_one();
        // Each request of an attempt has a limit of its own.
        self.after(attempts, LONG_REQUEST).await
    }

    /// Waits until more than `attempts` have ended, no longer than `limit`.
    async fn after(&self, attempts: u64, limit: Duration) -> Result<&Server> {
        if let Some(server) = self.connected() {
            return Ok(server);
        }
        self.begin();
        let mut outcomes = self.link.outcome.subscribe();
        let error = match tokio::time::timeout(limit, outcomes.wait_for(|outcome| outcome.attempts > attempts)).await {
            Ok(Ok(outcome)) => outcome.error.clone(),
            Ok(Err(_)) | Err(_) => None,
        };
        match self.connected() {
            Some(server) => Ok(server),
            None => Err(error.unwrap_or_else(|| self.link.away("no answer yet"))),
        }
    }

    /// Begins to connect, unless that is under way.
    fn begin(&self) {
        let mut connecting = self.connecting.lock();
        if connecting.as_ref().is_none_or(JoinHandle::is_finished) {
            *connecting = Some(tokio::spawn(Arc::clone(&self.link).connect()));
        }
    }
}

impl Drop for Lazy {
    fn drop(&mut self) {
        if let Some(connecting) = self.connecting.get_mut() {
            connecting.abort();
        }
    }
}

impl Link {
    /// Makes attempts until one succeeds. An operator may repair the server's side while the
    /// process runs, so errors that only an operator can cure do not end them.
    async fn connect(self: Arc<Self>) {
        let mut backoff = model::Backoff::new(WAIT.0, WAIT.1);
        let mut last: Option<String> = None;
        while self.server.get().is_none() {
            match connect(self.config.clone(), Arc::clone(&self.metrics), self.access).await {
                Ok(server) => {
                    if last.is_some() {
                        tracing::info!(hosts = hosts(&self.config.uri), "MongoDB answers");
                    }
                    self.server.get_or_init(|| server);
                    self.outcome.send_modify(|outcome| outcome.attempts += 1);
                }
                Err(error) => {
                    let reason = error.to_string();
                    if last.as_ref() != Some(&reason) {
                        tracing::warn!(reason, "cannot connect to MongoDB; trying again");
                    }
                    last = Some(reason);
                    self.outcome.send_modify(|outcome| {
                        outcome.attempts += 1;
                        outcome.error = Some(error);
                    });
                    tokio::select! {
                        () = tokio::time::sleep(backoff.draw()) => {}
                        () = self.now.notified() => {}
                    }
                }
            }
        }
    }

    fn away(&self, reason: &str) -> StoreError {
        StoreError::busy(waiting(&self.config, reason))
    }
}

/// The reason for a refusal while no server is reached.
pub(super) fn waiting(config: &Config, reason: &str) -> String {
    format!("waiting for MongoDB at {} (mongodb.uri): {reason}", hosts(&config.uri))
}
