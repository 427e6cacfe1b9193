//! Signals that ask the process to stop.

use std::time::Duration;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

/// Resolves with the name of the first signal that asks to stop.
///
/// # Errors
/// When the handlers cannot be installed.
pub(super) fn handle_signals() -> anyhow::Result<impl Future<Output = &'static str>> {
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for ctrl-c")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    })
}

/// Signals within this time of the first are one request: timeout(1) and some supervisors signal
/// the process, then its group.
const ONE_REQUEST: Duration = Duration::from_millis(500);

/// Ends the process at the next request, because a second request means not to wait. Acknowledged
/// readings are on disk.
pub(super) async fn end_at_next_signal() {
    // The handlers of the first request stay installed: what arrives meanwhile is not delivered.
    tokio::time::sleep(ONE_REQUEST).await;
    if let Ok(second) = handle_signals() {
        let name = second.await;
        tracing::error!(signal = name, "second signal: ended at once");
        std::process::exit(1);
    }
}
