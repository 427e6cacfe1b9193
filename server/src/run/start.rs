//! From a process that listens to one that works: what it waits for meanwhile, then what it is.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::state::{Readiness, Reason, State};

/// Between two attempts, at first and at most.
const WAIT: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// How far the start is. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Start(Arc<Inner>);

#[derive(Default)]
struct Inner {
    /// Servers that do not answer yet, and how they do not.
    waiting: Mutex<Vec<Reason>>,
    begins_to_wait: Notify,
    state: Mutex<Option<State>>,
}

impl Start {
    /// From now on the process works: with all that it does, or with its log alone as long as a store does not answer.
    pub(super) fn works(&self, state: State) {
        *self.0.state.lock() = Some(state);
    }

    /// None before the process works.
    pub(crate) fn state(&self) -> Option<State> {
        self.0.state.lock().clone()
    }

    /// Resolves when a server does not answer.
    pub(super) async fn waits(&self) {
        loop {
            let change = self.0.begins_to_wait.notified();
            if !self.0.waiting.lock().is_empty() {
                return;
            }
            change.await;
        }
    }

    /// As [`State::readiness`], and not ready before the process works.
    pub(crate) fn readiness(&self) -> Readiness {
        let mut readiness = match self.state() {
            Some(state) => state.readiness(),
            None => Readiness { ready: false, reasons: vec![Reason::new("weir", "it is starting")] },
        };
        readiness.reasons.extend(self.0.waiting.lock().iter().cloned());
        readiness
    }

    /// Tries until it works. What a person has to change ends it at once; a server that does not answer is waited for, and that
    /// is said.
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
        let mut wait = WAIT.0;
        let mut said = false;
        loop {
            match attempt().await {
                Err(error) if passing(&error) => {
                    if !std::mem::replace(&mut said, true) {
                        tracing::warn!(server, %error, "a server does not answer yet; waiting for it");
                    }
                    self.waits_for(server, &error);
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(WAIT.1);
                }
                outcome => {
                    self.note(server, None);
                    if said && outcome.is_ok() {
                        tracing::info!(server, "answers");
                    }
                    return outcome;
                }
            }
        }
    }

    /// A server does not answer, and will be waited for.
    pub(super) fn waits_for(&self, server: &str, why: &dyn std::fmt::Display) {
        self.note(server, Some(format!("waiting for it: {why}")));
        self.0.begins_to_wait.notify_one();
    }

    fn note(&self, server: &str, waits: Option<String>) {
        let mut waiting = self.0.waiting.lock();
        waiting.retain(|reason| reason.part != server);
        waiting.extend(waits.map(|why| Reason::new(server, why)));
    }
}
