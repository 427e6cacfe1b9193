//! The types of exports: one line each. A type is the settings struct beside its store.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use envelope::Keyring;
use flusher::projections::{ExportFilter, ExportSpec};
use flusher::{Pace, StartAt};
use futures::FutureExt;
use futures::future::BoxFuture;
use prometheus_client::registry::Registry;
use stores::contract::{Export as Store, ExportType};

use crate::config::{Config, Export, Key};

/// Every type of export.
pub(crate) const TYPES: &[Kind] = &[
    Kind::of::<stores::influxdb::Config>(),
    Kind::of::<stores::file::Config>(),
    #[cfg(feature = "kafka")]
    Kind::of::<stores::kafka::Config>(),
];

/// Memory for readings of one export that are not delivered yet; the rest waits in the log.
const UNFLUSHED_BYTES: u64 = 128 << 20;

type AnyMetrics = Arc<dyn Any + Send + Sync>;

type Opening = BoxFuture<'static, anyhow::Result<Arc<dyn Store>>>;

/// A type of export, without its settings' type.
#[derive(Debug)]
pub(crate) struct Kind {
    /// `type` of the configuration.
    pub(crate) name: &'static str,
    /// The keys that it adds.
    pub(crate) keys: fn() -> Vec<Key>,
    /// Its settings when no key is given.
    pub(crate) defaults: fn() -> anyhow::Result<toml::Table>,
    /// Checks the settings of the export that is named.
    pub(crate) check: fn(&str, &toml::Table) -> anyhow::Result<()>,
    metrics: fn() -> AnyMetrics,
    register: fn(&AnyMetrics, &mut Registry),
    open: fn(String, toml::Table, (AnyMetrics, Option<Keyring>)) -> Opening,
}

impl Kind {
    const fn of<T: ExportType>() -> Self {
        Self {
            name: T::TYPE,
            keys: crate::config::keys_of_table::<T>,
            defaults: defaults::<T>,
            check: check::<T>,
            metrics: || Arc::new(T::Metrics::default()),
            register: |metrics, registry| {
                if let Some(metrics) = metrics.downcast_ref::<T::Metrics>() {
                    T::register(metrics, registry);
                }
            },
            open: |name, settings, parts| open::<T>(name, settings, parts).boxed(),
        }
    }
}

fn defaults<T: ExportType>() -> anyhow::Result<toml::Table> {
    toml::Table::try_from(T::default()).context("settings are a table")
}

fn settings<T: ExportType>(settings: &toml::Table) -> anyhow::Result<T> {
    settings.clone().try_into().map_err(|error: toml::de::Error| {
        // One key alone shows which it is.
        let wrong = settings
            .iter()
            .find(|(key, value)| toml::Table::from_iter([((*key).clone(), (*value).clone())]).try_into::<T>().is_err());
        let message = error.message().lines().next().unwrap_or_default();
        match wrong {
            Some((key, _)) => anyhow::anyhow!("`{key}`: {message}"),
            None => anyhow::anyhow!("{message}"),
        }
    })
}

fn check<T: ExportType>(name: &str, table: &toml::Table) -> anyhow::Result<()> {
    settings::<T>(table)?.check(name).map_err(anyhow::Error::msg)
}

async fn open<T: ExportType>(
    name: String,
    table: toml::Table,
    (metrics, keys): (AnyMetrics, Option<Keyring>),
) -> anyhow::Result<Arc<dyn Store>> {
    let metrics = metrics.downcast::<T::Metrics>().map_err(|_| anyhow::anyhow!("metrics of another type"))?;
    settings::<T>(&table)?.with_keys(keys).open(&name, metrics).await.map_err(anyhow::Error::msg)
}

/// Metrics of every type; exports of a type share theirs.
#[derive(Debug)]
pub(crate) struct Metrics(BTreeMap<&'static str, AnyMetrics>);

impl Default for Metrics {
    fn default() -> Self {
        Self(TYPES.iter().map(|kind| (kind.name, (kind.metrics)())).collect())
    }
}

impl Metrics {
    /// Puts them into a registry.
    pub(crate) fn register(&self, registry: &mut Registry) {
        for kind in TYPES {
            if let Some(metrics) = self.0.get(kind.name) {
                (kind.register)(metrics, registry);
            }
        }
    }
}

/// Opens every export of the configuration.
///
/// # Errors
/// Names the export and the setting to change. The systems are not asked for anything.
pub(crate) async fn open_all(config: &Config, metrics: &Metrics) -> anyhow::Result<Vec<ExportSpec>> {
    let mut specs = Vec::new();
    for export in config.exports()? {
        let failed = format!("open export `{}`", export.name);
        specs.push(open_one(export, config, config.log.keys.clone(), metrics).await.context(failed)?);
    }
    Ok(specs)
}

/// Opens one export of the configuration; `None` when none has this name.
///
/// # Errors
/// Names the key of a setting that cannot be used.
pub(crate) async fn open_named(config: &Config, name: &str) -> anyhow::Result<Option<ExportSpec>> {
    let Some(export) = config.exports()?.into_iter().find(|export| export.name == name) else { return Ok(None) };
    // The process that runs has the keyring.
    let is_sealed = export.kind == stores::file::Config::TYPE && config.encryption.is_on();
    let keys = is_sealed.then(|| Keyring::read(&config.encryption, &config.data_dir)).transpose()?;
    open_one(export, config, keys, &Metrics::default()).await.map(Some)
}

async fn open_one(
    export: Export,
    config: &Config,
    keys: Option<Keyring>,
    metrics: &Metrics,
) -> anyhow::Result<ExportSpec> {
    let kind = crate::config::kind_of(&export)?;
    let metrics = metrics.0.get(kind.name).context("every type has metrics")?;
    let store = (kind.open)(export.name.clone(), export.settings, (Arc::clone(metrics), keys)).await?;
    let flush = Duration::from_millis(export.flush_interval_ms);
    Ok(ExportSpec {
        name: export.name.into(),
        kind: kind.name,
        store,
        filter: ExportFilter::new(&export.tenants, &export.devices, &export.names),
        pace: Pace::export(flush, export.flush_records, UNFLUSHED_BYTES.min(config.shares().export)),
        start: match export.start {
            crate::config::Start::Beginning => StartAt::Joining,
            crate::config::Start::Now => StartAt::Now,
        },
    })
}
