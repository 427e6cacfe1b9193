//! The stores of the process, and the projections into them.

use std::sync::Arc;

use ::stores::contract::{Export, Store};
use ::stores::embedded::EmbeddedStore;
use ::stores::mongodb::MongoStore;
use anyhow::Context;
use flusher::Projections;
use flusher::projections;

use super::settings;
use super::state::Metrics;
use crate::config::Config;
use crate::data_dir::DataDir;
use crate::exports;

/// The stores of this process, and the projections into them.
pub(super) struct Stores {
    /// The store that holds everything but the exports.
    pub(super) store: Arc<dyn Store>,
    /// The store, when it is that of the data folder.
    pub(super) embedded: Option<EmbeddedStore>,
    /// The same, by what it holds.
    pub(super) standard: flusher::Stores,
    /// History, latest states, dead letters, retained messages, then the exports.
    pub(super) projections: Projections,
    /// The servers of the exports, each with its name and its settings.
    pub(super) targets: Vec<(String, Arc<dyn Export>, toml::Table)>,
}

impl Stores {
    /// Opens the configured store and the exports. Servers are connected later.
    ///
    /// # Errors
    /// Names the key to change.
    pub(super) async fn open(config: &Config, data: &DataDir, metrics: &Metrics) -> anyhow::Result<Self> {
        if !config.mongodb.uri.is_empty() {
            let store = Arc::new(MongoStore::new(config.mongodb.clone(), Arc::clone(&metrics.mongodb)));
            return Self::with(config, store, None, metrics).await;
        }
        let (settings, counts) = (settings::embedded_store(config, data), Arc::clone(&metrics.stores));
        let opened = tokio::task::spawn_blocking(move || EmbeddedStore::open(settings, counts)).await;
        let store = opened.context("open the store")??;
        Self::with(config, Arc::new(store.clone()), Some(store), metrics).await
    }

    async fn with<S: Store>(
        config: &Config,
        store: Arc<S>,
        embedded: Option<EmbeddedStore>,
        metrics: &Metrics,
    ) -> anyhow::Result<Self> {
        let standard = flusher::Stores::of(Arc::clone(&store));
        let mut projections = projections::standard(&settings::flusher(config), &standard);
        let exports = exports::open_all(config, &metrics.exports).await?;
        let settings = config.exports()?.into_iter().map(|export| export.settings);
        let target = |(spec, settings): (&flusher::projections::ExportSpec, toml::Table)| {
            (spec.name.to_string(), Arc::clone(&spec.store), settings)
        };
        let targets = exports.iter().zip(settings).map(target).collect();
        projections.extend(exports.into_iter().map(projections::export));
        Ok(Self { store, embedded, standard, projections: Projections::new(projections)?, targets })
    }
}
