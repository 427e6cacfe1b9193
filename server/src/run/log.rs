//! Which form the log has, and which logs this process flushes.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use buffer::embedded::EmbeddedLog;
use buffer::redis::{OpenError, Redis};
use buffer::{Batcher, Catalogue, Holder, Lease, Log, Metrics};
use flusher::Claim;
use tokio_util::sync::CancellationToken;

use super::start::Start;
use crate::config::Config;
use crate::data_dir::DataDir;

/// A lease runs so long; it is renewed three times in that time.
const LEASE: Duration = Duration::from_secs(30);

/// The log that this process writes, and those that it flushes.
pub(super) struct Opened {
    pub(super) log: Arc<dyn Log>,
    pub(super) batcher: Batcher,
    pub(super) claims: Vec<Claim>,
    pub(super) leases: Leases,
}

/// The right to flush logs that others could flush too. Empty when there are no others.
pub(super) struct Leases {
    catalogue: Option<Redis>,
    held: Vec<Lease>,
}

/// Opens the log that the configuration names: on Redis when it has urls, else in the data folder.
///
/// # Errors
/// Names the key to change.
pub(super) async fn open(
    config: &Config,
    data: &DataDir,
    metrics: Arc<Metrics>,
    start: &Start,
) -> anyhow::Result<Opened> {
    if config.redis.is_used() {
        return on_redis(config, data, metrics, start).await;
    }
    let settings = embedded(config, data);
    let opened = tokio::task::spawn_blocking(move || EmbeddedLog::open(settings, metrics)).await;
    let (log, batcher) = opened.context("open the log")??;
    let log: Arc<dyn Log> = log;
    let claims = vec![Claim::sole(Arc::clone(&log))];
    Ok(Opened { log, batcher, claims, leases: Leases { catalogue: None, held: Vec::new() } })
}

/// Redis, once it answers.
///
/// # Errors
/// Names the key to change.
pub(super) async fn redis(config: &Config, start: &Start) -> Result<Redis, OpenError> {
    let passing = |error: &OpenError| matches!(error, OpenError::Unreachable(_));
    start.wait_for("Redis", passing, || Redis::connect(config.redis.log(&config.log))).await
}

/// A new log for this start, and the leases of all logs that nobody flushes: those of earlier starts hold what was not yet
/// in the stores.
async fn on_redis(config: &Config, data: &DataDir, metrics: Arc<Metrics>, start: &Start) -> anyhow::Result<Opened> {
    let redis = redis(config, start).await?;
    let (log, batcher) = append_to(&redis, config, data, metrics).await?;
    let own = log.id().to_owned();
    // By the node's name, so that its next start has at once what the one before left.
    let holder = Holder { name: config.redis.node.clone(), address: String::new() };
    let (mut claims, mut held) = (Vec::new(), Vec::new());
    for info in redis.list().await.context("list the logs")? {
        let Some(lease) = redis.claim(&info.id, &holder, LEASE).await.context("claim a log")? else {
            tracing::info!(log = info.id, holder = ?info.holder.map(|h| h.name), "another process flushes this log");
            continue;
        };
        let opened = redis.open(&info.id).await.with_context(|| format!("open log {}", info.id))?;
        claims.push(Claim { log: opened, epoch: lease.epoch });
        held.push(lease);
    }
    anyhow::ensure!(held.iter().any(|lease| lease.log == own), "log {own} was taken by another process at once");
    Ok(Opened { log, batcher, claims, leases: Leases { catalogue: Some(redis), held } })
}

/// A new log for this start, with a spill in the data folder for when Redis is away or full.
///
/// # Errors
/// Names the key to change.
pub(super) async fn append_to(
    redis: &Redis,
    config: &Config,
    data: &DataDir,
    metrics: Arc<Metrics>,
) -> anyhow::Result<(Arc<dyn Log>, Batcher)> {
    let usual = buffer::spill::Config::default();
    let spill = buffer::spill::Config {
        dir: data.spill(),
        capacity_bytes: config.log.capacity_bytes,
        segment_bytes: config.log.segment_bytes.min(usual.segment_bytes),
        patience_ms: config.redis.spill_patience_ms,
    };
    let (log, batcher, _) = redis.create_with_spill(spill, metrics).await?;
    Ok((log, batcher))
}

impl Leases {
    /// Renews them until `stop`, then gives them back.
    ///
    /// # Errors
    /// When another process has one.
    pub(super) async fn keep(self, stop: CancellationToken) -> anyhow::Result<()> {
        let Some(catalogue) = self.catalogue else {
            stop.cancelled().await;
            return Ok(());
        };
        let mut ticks = tokio::time::interval(LEASE / 3);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = ticks.tick() => {}
            }
            for lease in &self.held {
                match catalogue.renew(lease, LEASE).await {
                    Ok(true) => {}
                    // Everything is fenced by the epoch: nothing is lost by ending, and nothing is gained by going on.
                    Ok(false) => anyhow::bail!("another process flushes log {} now", lease.log),
                    Err(error) => tracing::warn!(log = lease.log, %error, "cannot renew a lease; trying again"),
                }
            }
        }
        for lease in &self.held {
            if let Err(error) = catalogue.release(lease).await {
                tracing::debug!(log = lease.log, %error, "a lease was not given back; it runs out");
            }
        }
        Ok(())
    }
}

fn embedded(config: &Config, data: &DataDir) -> buffer::embedded::Config {
    let c = &config.log;
    buffer::embedded::Config {
        dir: data.log(),
        segment_bytes: c.segment_bytes,
        capacity_bytes: c.capacity_bytes,
        ring_bytes: c.ring_bytes,
        retain_bytes: c.retain_bytes,
        retain_secs: c.retain_secs,
        ..buffer::embedded::Config::default()
    }
}
