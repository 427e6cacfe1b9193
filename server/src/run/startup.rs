//! State of a start: pending connections first, then the state of the process.

use std::sync::Arc;
use std::time::Duration;

use model::Backoff;
use parking_lot::Mutex;

use super::state::{Readiness, Reason, State, Waiting};
use crate::backup::Offer;
use crate::{drain, encryption};

/// Shortest and longest wait between two attempts.
pub(super) const WAIT: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// Progress of the start. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Startup {
    /// Servers that cannot be used yet, with the reasons.
    pub(super) waiting: Waiting,
    state: Arc<Mutex<Option<State>>>,
    backups: Arc<Mutex<Option<Offer>>>,
    encryption: Arc<Mutex<Option<encryption::Offer>>>,
    drain: Arc<Mutex<Option<drain::Offer>>>,
}

impl Startup {
    /// Marks the process as running: completely, or only with its log while a store does not
    /// respond.
    pub(super) fn works(&self, state: State) {
        *self.state.lock() = Some(state);
    }

    /// Takes backups on request from now on.
    pub(super) fn offer_backups(&self, offer: Offer) {
        *self.backups.lock() = Some(offer);
    }

    /// Follows orders about the keyring from now on.
    pub(super) fn offer_encryption(&self, offer: encryption::Offer) {
        *self.encryption.lock() = Some(offer);
    }

    /// Drains on request from now on.
    pub(super) fn offer_drain(&self, offer: drain::Offer) {
        *self.drain.lock() = Some(offer);
    }

    /// The drain; None during the start, and in a process without devices.
    pub(crate) fn drain(&self) -> Option<drain::Offer> {
        self.drain.lock().clone()
    }

    /// The orders about the keyring; None during the start.
    pub(crate) fn encryption(&self) -> Option<encryption::Offer> {
        self.encryption.lock().clone()
    }

    /// The backups of the process; None during the start.
    pub(crate) fn backups(&self) -> Option<Offer> {
        self.backups.lock().clone()
    }

    /// The state of the process; None during the start.
    pub(crate) fn state(&self) -> Option<State> {
        self.state.lock().clone()
    }

    /// Like [`State::readiness`]; not ready during the start.
    pub(crate) fn readiness(&self) -> Readiness {
        match self.state() {
            Some(state) => state.readiness(),
            None => {
                let mut reasons = vec![Reason::new("weir", "it is starting")];
                reasons.extend(self.waiting.reasons());
                Readiness { ready: false, reasons }
            }
        }
    }

    /// Retries until `attempt` succeeds; each new reason of a wait is logged and reported.
    ///
    /// # Errors
    /// The first error that is not `passing`.
    pub(crate) async fn wait_for<T, E, F>(
        &self,
        server: &str,
        passing: impl Fn(&E) -> bool,
        mut attempt: impl FnMut() -> F,
    ) -> Result<T, E>
    where
        E: std::fmt::Display,
        F: Future<Output = Result<T, E>>,
    {
        let mut backoff = Backoff::new(WAIT.0, WAIT.1);
        let mut waited = false;
        loop {
            match attempt().await {
                Err(error) if passing(&error) => {
                    waited = true;
                    if self.waiting.set(server, Some(format!("waiting for it: {error}"))) {
                        tracing::warn!(server, %error, "a server cannot be used yet; waiting for it");
                    }
                    tokio::time::sleep(backoff.draw()).await;
                }
                outcome => {
                    self.waiting.set(server, None);
                    if waited && outcome.is_ok() {
                        tracing::info!(server, "responds");
                    }
                    return outcome;
                }
            }
        }
    }
}
