//! The logs: the one that this process writes, and the catalogue of those that it flushes and
//! reads.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use async_trait::async_trait;
use buffer::embedded::EmbeddedLog;
use buffer::redis::{OpenError, Redis};
use buffer::{
    Batcher, Catalogue, CatalogueError, Cursor, ExportSetting, Holder, Lease, Log, LogInfo, Metrics, SingleLog, spill,
};

use super::known::KnownSettings;
use super::lane::of_pool;
use super::settings;
use super::startup::Startup;
use crate::config::{Config, Role};
use crate::data_dir::DataDir;

/// The logs of this process.
pub(super) struct Logs {
    /// The log that this process writes, with the way into it; `None` without the role ingest.
    pub(super) own: Option<(Arc<dyn Log>, Batcher)>,
    /// The logs that it flushes and reads.
    pub(super) catalogue: Arc<dyn Catalogue>,
    /// The server of the logs, when they are on Redis.
    pub(super) redis: Option<Redis>,
    /// The log that this process writes, when it is in the data folder.
    pub(super) embedded: Option<Arc<EmbeddedLog>>,
    /// The files that it writes while Redis is unavailable.
    pub(super) spill: Option<spill::Status>,
}

impl Logs {
    /// Opens the configured log: on Redis if `redis.urls` is set, else in the data folder.
    ///
    /// # Errors
    /// Names the key to change.
    pub(super) async fn open(
        config: &Config,
        data: &DataDir,
        metrics: Arc<Metrics>,
        startup: &Startup,
        known: &KnownSettings,
    ) -> anyhow::Result<Self> {
        if config.redis.is_used() {
            return Self::on_redis(config, data, metrics, startup, known).await;
        }
        let settings = settings::embedded_log(config, data);
        let opened = tokio::task::spawn_blocking(move || EmbeddedLog::open(settings, metrics)).await;
        let (log, batcher) = opened.context("open the log")??;
        let embedded = Some(Arc::clone(&log));
        let log: Arc<dyn Log> = log;
        let catalogue = Arc::new(SingleLog::open(Arc::clone(&log), data.exports())?);
        Ok(Self { own: Some((log, batcher)), catalogue, redis: None, embedded, spill: None })
    }

    /// Creates a new log for this start, in a process that takes devices. Waits for Redis, also for
    /// one that refuses settings that it accepted before.
    async fn on_redis(
        config: &Config,
        data: &DataDir,
        metrics: Arc<Metrics>,
        startup: &Startup,
        known: &KnownSettings,
    ) -> anyhow::Result<Self> {
        let server = &of_pool("Redis", config.redis.log.pool.as_deref());
        let settings = known.fingerprint(&config.redis.log);
        let was_accepted = known.holds(server, &settings);
        let passing = |error: &OpenError| match error {
            OpenError::Unreachable(_) => true,
            OpenError::Denied(_) | OpenError::Unsafe(_) => was_accepted,
            OpenError::Config(_) | OpenError::Spill(_) | OpenError::Start(_) => false,
        };
        let redis = startup.wait_for(server, passing, || Redis::connect(settings::redis_log(config))).await?;
        let (own, spill) = match config.has(Role::Ingest) {
            true => {
                let create = || create(&redis, config, data, Arc::clone(&metrics));
                let (log, batcher, spill) = startup.wait_for(server, passing, create).await?;
                (Some((log, batcher)), Some(spill))
            }
            false => (None, None),
        };
        known.accepted(server, &settings);
        let catalogue: Arc<dyn Catalogue> = match config.is_fleet() {
            true => Arc::new(redis.clone()),
            false => Arc::new(Unshared(redis.clone())),
        };
        Ok(Self { own, catalogue, redis: Some(redis), embedded: None, spill })
    }
}

/// Creates a log on Redis, with a spill in the data folder for when Redis is away or full.
async fn create(
    redis: &Redis,
    config: &Config,
    data: &DataDir,
    metrics: Arc<Metrics>,
) -> Result<(Arc<dyn Log>, Batcher, spill::Status), OpenError> {
    let (log, batcher, spill) = redis.create_with_spill(settings::spill(config, data), metrics).await?;
    Ok((log, batcher, spill))
}

/// Logs on Redis whose readings go into the data folder of this process: they are claimed, and
/// never shared with another process, which has a store of its own.
struct Unshared(Redis);

#[async_trait]
impl Catalogue for Unshared {
    /// Returns this process alone, so that it has no one to share with.
    async fn announce(&self, holder: &Holder, _: Duration) -> Result<Vec<Holder>, CatalogueError> {
        Ok(vec![holder.clone()])
    }

    async fn withdraw(&self, _: &Holder) -> Result<(), CatalogueError> {
        Ok(())
    }

    async fn list(&self) -> Result<Vec<LogInfo>, CatalogueError> {
        self.0.list().await
    }

    async fn ids(&self) -> Result<Vec<String>, CatalogueError> {
        self.0.ids().await
    }

    async fn claim(&self, log: &str, holder: &Holder, time: Duration) -> Result<Option<Lease>, CatalogueError> {
        self.0.claim(log, holder, time).await
    }

    async fn renew(&self, lease: &Lease, time: Duration) -> Result<bool, CatalogueError> {
        self.0.renew(lease, time).await
    }

    async fn regain(&self, lease: &Lease, time: Duration) -> Result<bool, CatalogueError> {
        self.0.regain(lease, time).await
    }

    async fn release(&self, lease: &Lease) -> Result<(), CatalogueError> {
        self.0.release(lease).await
    }

    async fn open(&self, log: &str) -> Result<Arc<dyn Log>, CatalogueError> {
        self.0.open(log).await
    }

    async fn remove(&self, lease: &Lease) -> Result<bool, CatalogueError> {
        self.0.remove(lease).await
    }

    async fn settled(&self) -> Result<BTreeMap<String, Cursor>, CatalogueError> {
        self.0.settled().await
    }

    async fn export_settings(&self) -> Result<BTreeMap<String, ExportSetting>, CatalogueError> {
        self.0.export_settings().await
    }

    async fn set_export(&self, name: &str, setting: ExportSetting) -> Result<(), CatalogueError> {
        self.0.set_export(name, setting).await
    }
}
