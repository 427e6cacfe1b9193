//! State of an export for each log, used by one call at a time on a thread that may block.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Mutex as AsyncMutex;

use crate::contract::{Result, StoreError};

type Slots<S> = HashMap<Box<str>, Arc<AsyncMutex<Slot<S>>>>;

/// The states of the logs, by id.
#[derive(Debug)]
pub(crate) struct PerLog<S> {
    logs: Mutex<Slots<S>>,
}

#[derive(Debug, Default)]
struct Slot<S> {
    state: S,
    /// A call is under way, or was dropped before its answer arrived.
    unanswered: bool,
}

impl<S> Default for PerLog<S> {
    fn default() -> Self {
        Self { logs: Mutex::default() }
    }
}

impl<S: Default + Send + 'static> PerLog<S> {
    /// Runs `work` with the state of `log`. Calls for one log run one after the other; a call whose
    /// caller goes away runs to its end, and the next call is started with `true`: the answer of
    /// the one before never arrived.
    ///
    /// # Errors
    /// The errors of `work`; [`StoreError::Busy`] when the runtime is shutting down.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        log: &str,
        work: impl FnOnce(&mut S, bool) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let slot = {
            let mut logs = self.logs.lock();
            match logs.get(log) {
                Some(slot) => Arc::clone(slot),
                None => Arc::clone(logs.entry(log.into()).or_default()),
            }
        };
        let mut slot = slot.lock_owned().await;
        let call = tokio::task::spawn_blocking(move || {
            let abandoned = std::mem::replace(&mut slot.unanswered, true);
            let answer = work(&mut slot.state, abandoned);
            (slot, answer)
        });
        let (mut slot, answer) =
            call.await.map_err(|error| StoreError::busy(format!("a call was cancelled: {error}")))?;
        slot.unanswered = false;
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_call_whose_caller_went_away_ends_before_the_next_which_knows_of_it() {
        let logs: Arc<PerLog<u32>> = Arc::default();
        let (started, is_started) = std::sync::mpsc::channel();
        let (release, is_released) = std::sync::mpsc::channel::<()>();
        let first = tokio::spawn({
            let logs = Arc::clone(&logs);
            async move {
                logs.run("l", move |count, _| {
                    started.send(()).unwrap();
                    is_released.recv().unwrap();
                    *count += 1;
                    Ok(())
                })
                .await
            }
        });
        tokio::task::spawn_blocking(move || is_started.recv().unwrap()).await.unwrap();
        first.abort();
        assert!(first.await.unwrap_err().is_cancelled());
        release.send(()).unwrap();
        assert_eq!(logs.run("l", |count, abandoned| Ok((*count, abandoned))).await.unwrap(), (1, true));
        assert_eq!(logs.run("l", |count, abandoned| Ok((*count, abandoned))).await.unwrap(), (1, false));
        assert_eq!(logs.run("other", |count, abandoned| Ok((*count, abandoned))).await.unwrap(), (0, false));
    }
}
