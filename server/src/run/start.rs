//! From a process that listens to one that works: what it waits for meanwhile, then what it is.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;

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
    state: OnceLock<State>,
}

impl Start {
    /// Everything is open.
    pub(super) fn is_over(&self, state: State) {
        // There is one start.
        drop(self.0.state.set(state));
    }

    /// None before everything is open.
    pub(crate) fn state(&self) -> Option<&State> {
        self.0.state.get()
    }

    /// As [`State::readiness`], and not ready before everything is open.
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
            let outcome = attempt().await;
            self.0.waiting.lock().retain(|reason| reason.part != server);
            match outcome {
                Err(error) if passing(&error) => {
                    let words = format!("waiting for it: {error}");
                    self.0.waiting.lock().push(Reason::new(server, words));
                    if !std::mem::replace(&mut said, true) {
                        tracing::warn!(server, %error, "waiting for a server before the start");
                    }
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(WAIT.1);
                }
                outcome => {
                    if said && outcome.is_ok() {
                        tracing::info!(server, "answers");
                    }
                    return outcome;
                }
            }
        }
    }
}
