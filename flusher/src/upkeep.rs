//! Upkeep of the stores: merging small blocks, deleting old readings, loading the latest states.

use std::sync::Arc;
use std::time::{Duration, Instant};

use model::time::SECOND;
use stores::contract::{DeadLetters, History, LetterBound};
use tokio_util::sync::CancellationToken;

use crate::Clock;
use crate::config::Retry;
use crate::metrics::Metrics;
use crate::sinks::latest::States;

/// Pause after a merge, in multiples of its duration: a fifth of one core at most.
const PAUSE: u32 = 4;
/// Wait before the next attempt when there was nothing to merge.
const IDLE: Duration = Duration::from_secs(30);
/// Time between two deletions of old readings.
const EXPIRE: Duration = Duration::from_secs(3600);

/// Time between two looks at the number of dead letters.
const TRIM: Duration = Duration::from_secs(5);

/// Merges while there is work, at a pace that leaves the machine to other work.
pub(crate) async fn merge(store: Arc<dyn History>, retry: Retry, shutdown: CancellationToken) -> Result<(), String> {
    let mut backoff = retry.backoff();
    loop {
        let begun = Instant::now();
        let wait = match store.merge().await {
            Ok(more) => {
                backoff = retry.backoff();
                if more { begun.elapsed() * PAUSE } else { IDLE }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot merge blocks; trying again");
                backoff.draw().max(IDLE)
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = shutdown.cancelled() => return Ok(()),
        }
    }
}

/// Deletes readings older than `retention`, every hour.
pub(crate) async fn expire(
    store: Arc<dyn History>,
    retention: Option<u64>,
    clock: Clock,
    metrics: Arc<Metrics>,
    shutdown: CancellationToken,
) -> Result<(), String> {
    let Some(retention) = retention.and_then(|secs| i64::try_from(secs).ok()) else {
        shutdown.cancelled().await;
        return Ok(());
    };
    loop {
        let before = clock().saturating_sub(retention.saturating_mul(SECOND));
        match store.expire(before).await {
            Ok(0) => {}
            Ok(readings) => {
                metrics.expired.inc_by(readings);
                tracing::info!(readings, "deleted readings older than the retention");
            }
            Err(error) => tracing::warn!(%error, "cannot delete old readings; trying again in an hour"),
        }
        tokio::select! {
            () = tokio::time::sleep(EXPIRE) => {}
            () = shutdown.cancelled() => return Ok(()),
        }
    }
}

/// Deletes the oldest dead letters beyond the bound.
pub(crate) async fn trim(
    store: Arc<dyn DeadLetters>,
    bound: LetterBound,
    metrics: Arc<Metrics>,
    shutdown: CancellationToken,
) -> Result<(), String> {
    let mut failed = false;
    loop {
        match store.trim(bound).await {
            Ok(0) => failed = false,
            Ok(letters) => {
                failed = false;
                metrics.letters_trimmed.inc_by(letters);
                tracing::warn!(
                    letters,
                    "deleted the oldest dead letters, as there are more than dead_letters.max_count or \
                     dead_letters.max_bytes: repair their cause, and replay those that are needed"
                );
            }
            Err(error) => {
                if !std::mem::replace(&mut failed, true) {
                    tracing::warn!(%error, "cannot bound the dead letters; trying again");
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(TRIM) => {}
            () = shutdown.cancelled() => return Ok(()),
        }
    }
}

/// Loads the latest states that the store holds, as often as it takes; then waits for `shutdown`.
pub(crate) async fn load(states: Arc<States>, retry: Retry, shutdown: CancellationToken) -> Result<(), String> {
    let mut backoff = retry.backoff();
    let mut failed = false;
    while let Err(error) = states.load().await {
        if !std::mem::replace(&mut failed, true) {
            tracing::warn!(%error, "cannot load the latest states; trying again");
        }
        tokio::select! {
            () = tokio::time::sleep(backoff.draw()) => {}
            () = shutdown.cancelled() => return Ok(()),
        }
    }
    if failed {
        tracing::info!("the latest states are loaded");
    }
    shutdown.cancelled().await;
    Ok(())
}
