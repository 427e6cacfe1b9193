//! What keeps a store in shape: merging small blocks, deleting old ones.

use std::sync::Arc;
use std::time::{Duration, Instant};

use model::time::SECOND;
use stores::contract::History;
use tokio_util::sync::CancellationToken;

use crate::Clock;
use crate::config::Retry;
use crate::metrics::Metrics;
use crate::verdict::Backoff;

/// Rest after a merge, in times of what it took: a fifth of one core at most.
const REST: u32 = 4;
/// Between two looks when there was nothing to merge.
const IDLE: Duration = Duration::from_secs(30);
/// Between two deletions of what is too old.
const EXPIRE: Duration = Duration::from_secs(3600);

/// Merges while there is work, at a pace that leaves the machine to others.
pub(crate) async fn merge(store: Arc<dyn History>, retry: Retry, shutdown: CancellationToken) -> Result<(), String> {
    let mut backoff = Backoff::new(&retry);
    loop {
        let begun = Instant::now();
        let wait = match store.merge().await {
            Ok(more) => {
                backoff = Backoff::new(&retry);
                if more { begun.elapsed() * REST } else { IDLE }
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

/// Deletes what is older than `retention`, every hour.
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
