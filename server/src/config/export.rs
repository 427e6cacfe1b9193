//! `[[export]]`: the keys of every export here, the keys of its type with the store.

use std::collections::BTreeSet;
use std::fmt;

use anyhow::Context;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Config, Influxdb, Key, keys, load};
use crate::exports::{self, Kind};

/// Begins the variables of exports: `WEIR_EXPORT_<NAME>_<KEY>`.
pub(super) const VARIABLE: &str = "WEIR_EXPORT_";

/// The export that the section `[influxdb]` is.
const INFLUXDB: &str = "influxdb";

/// Names of the projections that every process has.
const RESERVED: [&str; 4] = [flusher::HISTORY, flusher::LATEST, flusher::DEAD_LETTERS, flusher::RETAINED];

/// One `[[export]]` table.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub(crate) struct Export {
    /// Name of the export: lowercase letters, digits and dashes. Its cursor, its metrics and its
    /// dead letters have it, so a new name begins a new export.
    pub(crate) name: String,
    /// Type of the export, one of those below.
    #[serde(rename = "type")]
    pub(crate) kind: String,
    /// Pool whose readings are exported, as `[[pool]]` names it; empty exports those of the shared
    /// one.
    pub(crate) pool: String,
    /// Tenants whose readings are exported; empty exports all.
    pub(crate) tenants: Vec<String>,
    /// Patterns of device ids, as `["pump-*"]`; empty exports all.
    pub(crate) devices: Vec<String>,
    /// Patterns of value names, as `["temperature", "motor.*"]`; empty exports all.
    pub(crate) names: Vec<String>,
    /// Where a new export begins: `"now"`, with the readings received from then on, or
    /// `"beginning"`, with the oldest that the log still holds.
    pub(crate) start: Start,
    /// Readings are delivered this long after the first of them, in milliseconds.
    pub(crate) flush_interval_ms: u64,
    /// Readings are delivered earlier when there are this many.
    pub(crate) flush_records: u64,
    /// The keys of the type.
    #[serde(flatten)]
    #[schemars(skip)]
    pub(crate) settings: toml::Table,
}

/// Where an export begins on a log that it has not seen before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Start {
    /// At the oldest record that the log still holds.
    Beginning,
    /// At the records that come after the export was configured.
    #[default]
    Now,
}

impl Default for Export {
    fn default() -> Self {
        Self {
            name: String::new(),
            kind: String::new(),
            pool: String::new(),
            tenants: Vec::new(),
            devices: Vec::new(),
            names: Vec::new(),
            start: Start::default(),
            flush_interval_ms: 1_000,
            flush_records: 100_000,
            settings: toml::Table::new(),
        }
    }
}

impl fmt::Debug for Export {
    /// Without the settings of the type, which hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Export").field("name", &self.name).field("type", &self.kind).finish_non_exhaustive()
    }
}

impl Influxdb {
    /// The same as an export; `None` when it has no address.
    fn export(&self) -> anyhow::Result<Option<Export>> {
        if self.store.url.is_empty() {
            return Ok(None);
        }
        Ok(Some(Export {
            name: INFLUXDB.to_owned(),
            kind: INFLUXDB.to_owned(),
            start: Start::Beginning,
            flush_interval_ms: self.flush_interval_ms,
            settings: toml::Table::try_from(&self.store).context("settings of InfluxDB are a table")?,
            ..Export::default()
        }))
    }
}

impl Config {
    /// Every export: `[influxdb]` when it has an address, then those of `[[export]]`.
    ///
    /// # Errors
    /// When the settings cannot be written as a table.
    pub(crate) fn exports(&self) -> anyhow::Result<Vec<Export>> {
        Ok(self.influxdb.export()?.into_iter().chain(self.export.iter().cloned()).collect())
    }
}

/// Checks every export.
///
/// # Errors
/// Names the export and the key.
pub(super) fn check(config: &Config) -> anyhow::Result<()> {
    anyhow::ensure!(config.influxdb.flush_interval_ms > 0, "`influxdb.flush_interval_ms` is 0: give at least 1");
    let mut seen = BTreeSet::new();
    for (at, export) in config.exports()?.iter().enumerate() {
        let name = &export.name;
        check_name(name, at)?;
        anyhow::ensure!(
            seen.insert(name.clone()),
            "two exports have the `name` {name:?}: give each its own{}",
            if name == INFLUXDB { " (the section [influxdb] is the export `influxdb`)" } else { "" }
        );
        let of_export = || format!("export `{name}`");
        anyhow::ensure!(export.flush_interval_ms > 0, "export `{name}`: `flush_interval_ms` is 0: give at least 1");
        anyhow::ensure!(export.flush_records > 0, "export `{name}`: `flush_records` is 0: give at least 1");
        let kind = kind_of(export).with_context(of_export)?;
        (kind.check)(name, &export.settings).with_context(of_export)?;
    }
    Ok(())
}

fn check_name(name: &str, at: usize) -> anyhow::Result<()> {
    anyhow::ensure!(!name.is_empty(), "export {}: `name` is missing: name each [[export]]", at + 1);
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    anyhow::ensure!(
        name.chars().all(allowed) && !name.starts_with('-') && !name.ends_with('-') && name.len() <= 64,
        "export {}: `name` is {name:?}: use up to 64 lowercase letters, digits and dashes, a dash not at an end",
        at + 1
    );
    anyhow::ensure!(
        !RESERVED.iter().any(|reserved| reserved.replace('_', "-") == *name),
        "export {}: `name` is {name:?}, which Weir uses itself: choose another",
        at + 1
    );
    Ok(())
}

/// The type of an export.
///
/// # Errors
/// Names the types that exist.
pub(crate) fn kind_of(export: &Export) -> anyhow::Result<&'static Kind> {
    let known = || exports::TYPES.iter().map(|kind| kind.name).collect::<Vec<_>>().join(", ");
    anyhow::ensure!(!export.kind.is_empty(), "`type` is missing: give one of {}", known());
    let kind = exports::TYPES.iter().find(|kind| kind.name == export.kind);
    kind.with_context(|| format!("`type` is {:?}: give one of {}", export.kind, known()))
}

/// The keys that every export has.
pub(super) fn common_keys() -> Vec<Key> {
    keys::of::<Export>()
}

/// Names of the keys of an export: of its type, or of all types where the type is not known.
pub(super) fn keys_of(kind: Option<&str>) -> Vec<String> {
    let known = exports::TYPES.iter().any(|known| Some(known.name) == kind);
    let kinds = exports::TYPES.iter().filter(|candidate| !known || Some(candidate.name) == kind);
    let keys = common_keys().into_iter().chain(kinds.flat_map(|kind| (kind.keys)()));
    keys.map(|key| key.name).collect()
}

/// The export and the key that a variable sets.
///
/// # Errors
/// When the variable may be a key of several exports.
pub(super) fn of_variable(exports: &[Export], variable: &str) -> anyhow::Result<Option<(usize, String)>> {
    let Some(rest) = variable.strip_prefix(VARIABLE) else { return Ok(None) };
    let mut found: Option<(usize, String)> = None;
    for (at, export) in exports.iter().enumerate() {
        let name = export.name.replace('-', "_").to_uppercase();
        let Some(key) = rest.strip_prefix(name.as_str()).and_then(|rest| rest.strip_prefix('_')) else { continue };
        // The name is what the variable names the export by.
        let key = keys_of(Some(&export.kind)).into_iter().find(|known| known != "name" && known.to_uppercase() == key);
        let Some(key) = key else { continue };
        if let Some((other, _)) = &found {
            anyhow::bail!(
                "it is a key of both export `{}` and export `{}`: rename one",
                exports[*other].name,
                export.name
            );
        }
        found = Some((at, key));
    }
    Ok(found)
}

/// Sets one key of an export. The text is read as the type that the key has.
///
/// # Errors
/// Names the export and the key.
pub(super) fn set(export: &mut Export, key: &str, text: &str) -> anyhow::Result<()> {
    let of_export = format!("export `{}`", export.name);
    let common = toml::Table::try_from(Export::default()).context("an export is a table")?;
    let old = match common.get(key) {
        Some(old) => old.clone(),
        None => {
            let defaults = (kind_of(export).context(of_export.clone())?.defaults)()?;
            defaults.get(key).cloned().with_context(|| format!("{of_export} has the key `{key}`"))?
        }
    };
    let new = load::read_as(&old, key, text).context(of_export.clone())?;
    let mut table = toml::Table::try_from(&*export).context("an export is a table")?;
    table.insert(key.to_owned(), new);
    *export = table.try_into().map_err(|error| load::refused(key, text, &error)).context(of_export)?;
    Ok(())
}
