//! A claimed log with its running sinks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use buffer::{Catalogue, CursorError, Lease, Log};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::engine::assemble::{Builder, Opened};
use crate::engine::register::Unready;
use crate::flusher::Handle;
use crate::{Claim, Error};

/// A claimed log. Its sinks end at once when it is dropped.
pub(crate) struct HeldLog {
    pub(crate) lease: Lease,
    pub(crate) log: Arc<dyn Log>,
    pub(crate) handle: Handle,
    /// The store's states were read after the log was claimed.
    complete: AtomicBool,
    stop: CancellationToken,
    task: tokio::sync::Mutex<Option<JoinHandle<Result<(), Error>>>>,
    abort: tokio::task::AbortHandle,
}

impl HeldLog {
    /// Makes the cursors this holder's and starts the sinks.
    ///
    /// # Errors
    /// [`Unready`] with the reason why the log cannot be flushed now.
    pub(crate) async fn start(
        context: &Context,
        catalogue: &dyn Catalogue,
        lease: Lease,
        complete: bool,
    ) -> Result<Self, Unready> {
        let log = catalogue.open(&lease.log).await?;
        let claim = Claim { log: Arc::clone(&log), epoch: lease.epoch };
        let opened = Opened::register(context, claim).await.map_err(|error| match error {
            Error::Cursor { passing, .. } => Unready { reason: error.to_string(), passing },
            error => Unready::from(error.to_string()),
        })?;
        let mut builder = Builder::new(context.clone());
        builder.add_log(opened);
        let flusher = builder.finish();
        let (handle, stop) = (flusher.handle(), CancellationToken::new());
        let task = tokio::spawn(flusher.run(stop.clone()));
        let (abort, complete) = (task.abort_handle(), AtomicBool::new(complete));
        Ok(Self { lease, log, handle, complete, stop, task: tokio::sync::Mutex::new(Some(task)), abort })
    }

    /// Puts the cursors of all sinks on the log's server again, where they are missing.
    ///
    /// # Errors
    /// When the server does not answer, or another holder has moved one.
    pub(crate) async fn put_cursors(&self) -> Result<(), CursorError> {
        for sink in self.handle.sinks.iter() {
            match self.log.move_cursor(sink.shared.name(), sink.shared.cursor()).await {
                // It was moved meanwhile.
                Ok(()) | Err(CursorError::Backwards { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.complete.load(Ordering::Acquire)
    }

    pub(crate) fn set_complete(&self) {
        self.complete.store(true, Ordering::Release);
    }

    /// True when the sinks have ended, for any reason.
    pub(crate) fn has_ended(&self) -> bool {
        self.abort.is_finished()
    }

    /// Flushes once more and ends.
    ///
    /// # Errors
    /// The reason why the sinks ended earlier.
    pub(crate) async fn stop(&self) -> Result<(), String> {
        self.stop.cancel();
        match self.task.lock().await.take() {
            Some(task) => match task.await {
                Ok(ended) => ended.map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            },
            None => Ok(()),
        }
    }
}

impl Drop for HeldLog {
    fn drop(&mut self) {
        // The log has all that was taken in: its next holder takes it in again.
        self.abort.abort();
    }
}
