//! Signals: those that ask the process to stop, and SIGHUP.

use std::time::Duration;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

/// Resolves with the name of the first signal that asks to stop. SIGHUP does not: the parts that
/// read files read them again.
///
/// # Errors
/// When the handlers cannot be installed.
pub(super) fn handle_signals() -> anyhow::Result<impl Future<Output = &'static str>> {
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for ctrl-c")?;
    let mut hangup = signal(SignalKind::hangup()).context("listen for SIGHUP")?;
    Ok(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => return "SIGTERM",
                _ = interrupt.recv() => return "SIGINT",
                _ = hangup.recv() => tracing::info!(
                    "SIGHUP: certificates and peppers that changed are read again; other settings need a restart"
                ),
            }
        }
    })
}

/// Signals within this time of the first are one request: timeout(1) and some supervisors signal
/// the process, then its group.
const ONE_REQUEST: Duration = Duration::from_millis(500);

/// Ends the process at the next request, because a second request means not to wait. Acknowledged
/// readings are on disk. One that `hasten` accepts, as there were connections to be closed in
/// slices, is followed by another one.
pub(super) async fn end_at_next_signal(hasten: impl Fn() -> bool) {
    // The handlers of the first request stay installed: what arrives meanwhile is not delivered.
    tokio::time::sleep(ONE_REQUEST).await;
    while let Ok(next) = handle_signals() {
        let name = next.await;
        if !hasten() {
            tracing::error!(signal = name, "second signal: ended at once");
            std::process::exit(1);
        }
        tracing::warn!(signal = name, "second signal: all connections are closed now; another one ends the process");
        tokio::time::sleep(ONE_REQUEST).await;
    }
}
