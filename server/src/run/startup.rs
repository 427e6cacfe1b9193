//! State of a start: pending connections first, then the state of the process.

use std::sync::Arc;
use std::time::Duration;

use model::Backoff;
use parking_lot::Mutex;

use super::state::{Readiness, Reason, State};

/// Shortest and longest wait between two attempts.
pub(super) const WAIT: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// Progress of the start. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Startup(Arc<Inner>);

#[derive(Default)]
struct Inner {
    /// Servers that do not respond yet, with the reasons.
    waiting: Mutex<Vec<Reason>>,
    state: Mutex<Option<State>>,
}

impl Startup {
    /// Marks the process as running: completely, or only with its log while a store does not
    /// respond.
    pub(super) fn works(&self, state: State) {
        *self.0.state.lock() = Some(state);
    }

    /// The state of the process; None during the start.
    pub(crate) fn state(&self) -> Option<State> {
        self.0.state.lock().clone()
    }

    /// Like [`State::readiness`]; not ready during the start.
    pub(crate) fn readiness(&self) -> Readiness {
        let mut readiness = match self.state() {
            Some(state) => state.readiness(),
            None => Readiness { ready: false, reasons: vec![Reason::new("weir", "it is starting")] },
        };
        readiness.reasons.extend(self.0.waiting.lock().iter().cloned());
        readiness
    }

    /// Retries until `attempt` succeeds. An error that needs an operator ends it at once; the wait
    /// for a server that does not respond is logged and reported.
    ///
    /// # Errors
    /// The first error that is not `passing`.
    pub(super) async fn wait_for<T, E, F>(
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
        let mut said = false;
        loop {
            match attempt().await {
                Err(error) if passing(&error) => {
                    if !std::mem::replace(&mut said, true) {
                        tracing::warn!(server, %error, "a server does not respond yet; waiting for it");
                    }
                    self.waits_for(server, &error);
                    tokio::time::sleep(backoff.draw()).await;
                }
                outcome => {
                    self.note(server, None);
                    if said && outcome.is_ok() {
                        tracing::info!(server, "responds");
                    }
                    return outcome;
                }
            }
        }
    }

    /// Reports that the start waits for a server.
    pub(super) fn waits_for(&self, server: &str, why: &dyn std::fmt::Display) {
        self.note(server, Some(format!("waiting for it: {why}")));
    }

    fn note(&self, server: &str, waits: Option<String>) {
        let mut waiting = self.0.waiting.lock();
        waiting.retain(|reason| reason.part != server);
        waiting.extend(waits.map(|why| Reason::new(server, why)));
    }
}
