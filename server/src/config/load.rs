//! Flags over environment over file over default.

use std::path::{Path, PathBuf};

use anyhow::Context;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Config, bridges, export, keys, listener, pool, unknown};

/// The file that is read when it exists and no other was named.
const USUAL_FILE: &str = "weir.toml";

/// Variables of Weir that are not keys.
const OTHER_VARIABLES: &[&str] = &[
    "WEIR_CONFIG",
    "WEIR_LOG",
    "WEIR_SERVER",
    "WEIR_FORMAT",
    "WEIR_TENANT",
    "WEIR_API_KEY",
    "WEIR_API_KEY_FILE",
    "WEIR_CA",
];

/// Where the configuration comes from.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    /// `--config`.
    pub(crate) file: Option<PathBuf>,
    /// Reads no file.
    pub(crate) ignores_files: bool,
    /// Keys given as flags, with their values as text.
    pub(crate) flags: Vec<(&'static str, String)>,
    /// The environment, `WEIR_…` only.
    pub(crate) environment: Vec<(String, String)>,
}

impl Sources {
    /// The process's own environment and this file.
    pub(crate) fn of_process(file: Option<PathBuf>) -> Self {
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .filter(|(name, _)| name.starts_with("WEIR_"))
            .collect();
        Self { file, environment, ..Self::default() }
    }

    /// The same without the file that is read when no other was named.
    pub(crate) fn without_file(self) -> Self {
        Self { ignores_files: true, ..self }
    }

    /// The file to read, if there is one.
    fn file(&self) -> Option<PathBuf> {
        if self.ignores_files {
            return None;
        }
        match &self.file {
            Some(path) => Some(path.clone()),
            None => Some(PathBuf::from(USUAL_FILE)).filter(|path| path.is_file()),
        }
    }

    /// True when the environment or the file sets `section.name` to `value`, even if another key
    /// keeps the configuration from being loaded.
    pub(crate) fn asks_for(&self, (section, name): (&str, &str), value: &str) -> bool {
        let variable = variable(&format!("{section}.{name}"));
        if let Some((_, set)) = self.environment.iter().find(|(set, _)| *set == variable) {
            return set == value;
        }
        let text = self.file().and_then(|path| std::fs::read_to_string(path).ok());
        let tree: Option<toml::Table> = text.and_then(|text| text.parse().ok());
        tree.is_some_and(|tree| tree.get(section).and_then(|s| s.get(name)).and_then(|v| v.as_str()) == Some(value))
    }
}

/// Result of [`load`].
#[derive(Debug)]
pub(crate) struct Loaded {
    /// The configuration, checked.
    pub(crate) config: Config,
    /// The file it came from, if any.
    pub(crate) file: Option<PathBuf>,
    /// One line for each variable that resembles a key but is not one.
    pub(crate) warnings: Vec<String>,
}

/// Reads and checks the configuration.
///
/// # Errors
/// One line that names the place (file and line, variable or flag) and what to do.
pub(crate) fn load(sources: &Sources) -> anyhow::Result<Loaded> {
    let file = sources.file();
    let mut config = match &file {
        Some(path) => read_file(path)?,
        None => Config::default(),
    };
    let mut warnings = Vec::new();
    for (name, value) in &sources.environment {
        let place = || format!("environment variable {name}");
        if let Some(key) = key_of(name) {
            config = set(&config, key, value).with_context(place)?;
        } else if let Some((export, key)) = export::of_variable(&config.export, name).with_context(place)? {
            export::set(&mut config.export[export], &key, value).with_context(place)?;
        } else if pool::set(&mut config, name, value).with_context(place)?
            || bridges::set(&mut config, name, value).with_context(place)?
            || listener::set(&mut config, name, value).with_context(place)?
        {
        } else if name == "WEIR_LOG" {
            config.logging.level.clone_from(value);
        } else if !OTHER_VARIABLES.contains(&name.as_str()) && !name.starts_with("WEIR_TEST_") {
            warnings.extend(warning(name, &config));
        }
    }
    for (key, value) in &sources.flags {
        config = set(&config, key, value).with_context(|| format!("flag for `{key}`"))?;
    }
    config.check().map_err(|error| match &file {
        Some(path) => error.context(format!("configuration with {}", path.display())),
        None => error,
    })?;
    warnings.extend(config.exposure_warning());
    Ok(Loaded { config, file, warnings })
}

/// The warning about a variable that sets nothing, when it resembles a key.
fn warning(name: &str, config: &Config) -> Option<String> {
    if name.starts_with(export::VARIABLE) {
        let names: Vec<&str> = config.export.iter().map(|export| export.name.as_str()).collect();
        let there = if names.is_empty() { "there are no exports".to_owned() } else { names.join(", ") };
        return Some(format!("environment variable {name} is not a key of an export ({there})"));
    }
    if name.starts_with(pool::VARIABLE) {
        let names: Vec<&str> = config.pool.iter().map(|pool| pool.name.as_str()).collect();
        let there = if names.is_empty() { "there are no pools".to_owned() } else { names.join(", ") };
        return Some(format!("environment variable {name} is not a key of a pool ({there})"));
    }
    if name.starts_with(bridges::VARIABLE) {
        let names: Vec<&str> = config.bridge.iter().map(|bridge| bridge.name.as_str()).collect();
        let there = if names.is_empty() { "there are no bridges".to_owned() } else { names.join(", ") };
        return Some(format!("environment variable {name} is not a key of a bridge ({there})"));
    }
    if name.starts_with(listener::VARIABLE) {
        let names: Vec<&str> = config.mqtt.listener.iter().map(|listener| listener.name.as_str()).collect();
        let there = if names.is_empty() { "there are no listeners".to_owned() } else { names.join(", ") };
        return Some(format!("environment variable {name} is not a key of a listener ({there})"));
    }
    let guess = name.trim_start_matches("WEIR_").to_lowercase();
    let near = unknown::nearest(&guess.replacen('_', ".", 1)).or_else(|| unknown::nearest(&guess))?;
    if variable(near) == name {
        let keys = super::keys::all().filter(|key| key.name.starts_with(&format!("{near}.")));
        let keys: Vec<String> = keys.take(3).map(|key| variable(&key.name)).collect();
        return Some(format!("environment variable {name} names a section, not a key: use {}, …", keys.join(", ")));
    }
    Some(format!("environment variable {name} is not a key; did you mean {}?", variable(near)))
}

fn read_file(path: &Path) -> anyhow::Result<Config> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read {} (`weir config` prints a file to start from)", path.display()))?;
    parse(path, &text)
}

/// Reads a file's text.
///
/// # Errors
/// Names file and line.
pub(super) fn parse(path: &Path, text: &str) -> anyhow::Result<Config> {
    unknown::check(path, text)?;
    toml::from_str(text).map_err(|error| {
        let there = unknown::locate(path, text);
        there.unwrap_or_else(|| unknown::located(path, text, error.span(), error.message()))
    })
}

/// The variable of a key.
pub(crate) fn variable(key: &str) -> String {
    format!("WEIR_{}", key.replace('.', "_").to_uppercase())
}

fn key_of(variable_name: &str) -> Option<&'static str> {
    keys::all().map(|key| key.name.as_str()).find(|key| variable(key) == variable_name)
}

/// `config` with one key changed. The text is read as the type that the key has.
fn set(config: &Config, key: &str, text: &str) -> anyhow::Result<Config> {
    let mut tree = toml::Table::try_from(config).context("the configuration is a tree")?;
    let mut place: &mut toml::Table = &mut tree;
    let (sections, name) = key.rsplit_once('.').map_or((None, key), |(s, n)| (Some(s), n));
    for section in sections.into_iter().flat_map(|s| s.split('.')) {
        place = place.get_mut(section).and_then(toml::Value::as_table_mut).context("a section of the tree")?;
    }
    let old = place.get(name).context("a key of the tree")?;
    let new = read_as(old, key, text)?;
    place.insert(name.to_owned(), new);
    let mut changed: Config = tree.try_into().map_err(|error| refused(key, text, &error))?;
    // None of them is part of the written tree.
    changed.route.clone_from(&config.route);
    changed.export.clone_from(&config.export);
    changed.pool.clone_from(&config.pool);
    changed.bridge.clone_from(&config.bridge);
    changed.mqtt.listener.clone_from(&config.mqtt.listener);
    Ok(changed)
}

/// `table` with the key changed that the end of a variable names; `None` when there is no such key.
/// The name stays: the variable names the table by it.
///
/// # Errors
/// When the text cannot be read as a value of the key.
pub(super) fn changed<T>(table: &T, wanted: &str, text: &str) -> anyhow::Result<Option<T>>
where
    T: Serialize + DeserializeOwned,
{
    let mut tree = toml::Table::try_from(table).context("settings are a table")?;
    let found = tree.iter().find(|(key, _)| *key != "name" && key.to_uppercase() == wanted);
    let Some((key, old)) = found.map(|(key, old)| (key.clone(), old.clone())) else { return Ok(None) };
    tree.insert(key.clone(), read_as(&old, &key, text)?);
    tree.try_into().map(Some).map_err(|error| refused(&key, text, &error))
}

/// The error of a key whose text was read but is not accepted.
pub(super) fn refused(key: &str, text: &str, error: &toml::de::Error) -> anyhow::Error {
    // Texts that may be secrets have no other form, so they are never refused here.
    anyhow::anyhow!("`{key}` = {text:?}: {}", error.message().lines().next().unwrap_or_default())
}

/// The text as a value of the same type as `old`.
pub(super) fn read_as(old: &toml::Value, key: &str, text: &str) -> anyhow::Result<toml::Value> {
    Ok(match old {
        toml::Value::Integer(_) => text
            .trim()
            .parse()
            .map(toml::Value::Integer)
            .with_context(|| format!("`{key}` takes a whole number, not {text:?}"))?,
        toml::Value::Float(_) => text
            .trim()
            .parse()
            .map(toml::Value::Float)
            .with_context(|| format!("`{key}` takes a number, not {text:?}"))?,
        toml::Value::Boolean(_) => match text.trim().to_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => toml::Value::Boolean(true),
            "false" | "0" | "no" | "off" => toml::Value::Boolean(false),
            _ => anyhow::bail!("`{key}` takes true or false, not {text:?}"),
        },
        toml::Value::Array(_) => {
            toml::Value::Array(text.split(',').map(|item| toml::Value::String(item.trim().to_owned())).collect())
        }
        _ => toml::Value::String(text.to_owned()),
    })
}
