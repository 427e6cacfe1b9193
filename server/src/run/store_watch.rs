//! The store at a start: devices do not wait for an unavailable one.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use stores::contract::{Store, StoreError};
use tokio_util::sync::CancellationToken;

use super::retained;
use super::startup::Startup;

/// Time for which a start waits for a store before devices are accepted without it.
const STORE_DEADLINE: Duration = Duration::from_secs(5);

/// Waits for a store that is unavailable when the process starts.
pub(super) struct StoreWatch {
    store: Arc<dyn Store>,
    startup: Startup,
    /// True once the store has responded.
    answered: bool,
}

impl StoreWatch {
    pub(super) fn new(store: Arc<dyn Store>, startup: Startup) -> Self {
        Self { store, startup, answered: false }
    }

    /// Waits for the first response of the store, but no longer than devices may wait, and loads
    /// the retained messages if `wanted`. Returns `None` when the store does not respond yet.
    ///
    /// # Errors
    /// The error names the key that an operator has to change.
    pub(super) async fn open(&mut self, wanted: bool) -> anyhow::Result<Option<Vec<broker::RetainedMessage>>> {
        let first = async {
            self.store.ready().await?;
            if wanted { retained::load(&*self.store).await } else { Ok(Vec::new()) }
        };
        let reason = match tokio::time::timeout(STORE_DEADLINE, first).await {
            Ok(Ok(retained)) => {
                self.answered = true;
                return Ok(Some(retained));
            }
            Ok(Err(StoreError::Busy { reason, .. })) => reason,
            Ok(Err(error)) => return Err(error).with_context(|| format!("open {}", self.server())),
            Err(_) => format!("no answer within {STORE_DEADLINE:?}"),
        };
        tracing::warn!(
            server = self.server(),
            reason,
            "a server does not respond yet; queries wait for it, devices do not"
        );
        self.startup.waits_for(self.server(), &reason);
        Ok(None)
    }

    /// Name of the server that has not responded yet.
    pub(super) fn waits_for(&self) -> Option<&'static str> {
        (!self.answered).then(|| self.server())
    }

    /// Waits for the store, then for `stop`.
    ///
    /// # Errors
    /// The error names the key that an operator has to change.
    pub(super) async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        if !self.answered {
            let busy = |error: &StoreError| matches!(error, StoreError::Busy { .. });
            tokio::select! {
                ready = self.startup.wait_for(self.server(), busy, || self.store.ready()) => {
                    ready.with_context(|| format!("open {}", self.server()))?;
                }
                () = stop.cancelled() => return Ok(()),
            }
        }
        stop.cancelled().await;
        Ok(())
    }

    fn server(&self) -> &'static str {
        match self.store.name() {
            "mongodb" => "MongoDB",
            name => name,
        }
    }
}
