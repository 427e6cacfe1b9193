//! Which store holds what.

use std::sync::Arc;

use ::stores::contract::{DeadLetters, History, Latest, Points, Retained, StoreError};
use ::stores::embedded::{self, EmbeddedStore};
use ::stores::influxdb::InfluxDb;
use ::stores::mongodb::MongoStore;
use anyhow::Context;
use model::trace::Tracer;

use super::state::Metrics;
use crate::config::Config;
use crate::data_dir::DataDir;

/// The stores of this process.
pub(super) struct Stores {
    pub(super) history: Arc<dyn History>,
    pub(super) latest: Arc<dyn Latest>,
    pub(super) dead_letters: Arc<dyn DeadLetters>,
    pub(super) retained: Arc<dyn Retained>,
    points: Option<Arc<dyn Points>>,
}

impl Stores {
    /// The store in the data folder, and InfluxDB when it is configured.
    ///
    /// # Errors
    /// Names the key to change.
    pub(super) async fn embedded(config: &Config, data: &DataDir, metrics: &Metrics) -> anyhow::Result<Self> {
        let points = points(config, metrics).await?;
        let (settings, metrics) = (embedded(config, data), Arc::clone(&metrics.stores));
        let opened = tokio::task::spawn_blocking(move || EmbeddedStore::open(settings, metrics)).await;
        Ok(Self::all(opened.context("open the store")??, points))
    }

    /// With MongoDB, and InfluxDB when it is configured.
    ///
    /// # Errors
    /// Names the key to change.
    pub(super) async fn of(config: &Config, store: MongoStore, metrics: &Metrics) -> anyhow::Result<Self> {
        Ok(Self::all(store, points(config, metrics).await?))
    }

    fn all(store: impl History + Latest + DeadLetters + Retained, points: Option<Arc<dyn Points>>) -> Self {
        let store = Arc::new(store);
        Self { history: store.clone(), latest: store.clone(), dead_letters: store.clone(), retained: store, points }
    }

    /// For the sinks.
    pub(super) fn sinks(&self) -> flusher::Stores {
        flusher::Stores {
            history: Arc::clone(&self.history),
            latest: Arc::clone(&self.latest),
            dead_letters: Arc::clone(&self.dead_letters),
            retained: Arc::clone(&self.retained),
            points: self.points.clone(),
        }
    }
}

/// What traces call the stores.
pub(super) fn tracing(config: &Config, tracer: &Tracer) -> flusher::Tracing {
    let store = if config.mongodb.uri.is_empty() { "embedded" } else { "mongodb" };
    flusher::Tracing { tracer: tracer.clone(), store, points: "influxdb" }
}

/// InfluxDB, when it has an address. One that does not answer now is no reason not to start; one that refuses is.
async fn points(config: &Config, metrics: &Metrics) -> anyhow::Result<Option<Arc<dyn Points>>> {
    let Some(settings) = config.influxdb.store()? else { return Ok(None) };
    let store = InfluxDb::new(settings, Arc::clone(&metrics.influxdb)).context("open InfluxDB")?;
    match store.check().await {
        Ok(()) => {}
        Err(error @ StoreError::Busy { .. }) => {
            tracing::warn!(%error, "InfluxDB does not answer yet; the log keeps its readings")
        }
        Err(error) => return Err(error).context("open InfluxDB"),
    }
    Ok(Some(Arc::new(store)))
}

fn embedded(config: &Config, data: &DataDir) -> embedded::Config {
    let c = &config.history;
    embedded::Config { dir: data.store(), cache_bytes: c.cache_bytes, max_open_partitions: c.max_open_partitions }
}
