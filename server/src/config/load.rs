//! Flags over environment over file over default.

use std::path::{Path, PathBuf};

use anyhow::Context;

use super::{Config, docs, keys};

/// The file that is read when it is there and no other was named.
const USUAL_FILE: &str = "weir.toml";

/// Variables of ours that are no keys.
const OTHER_VARIABLES: &[&str] = &["WEIR_CONFIG", "WEIR_LOG", "WEIR_SERVER", "WEIR_FORMAT", "WEIR_TENANT"];

/// Where the configuration comes from.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    /// `--config`.
    pub(crate) file: Option<PathBuf>,
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
        Self { file, flags: Vec::new(), environment }
    }
}

/// What was read, and what a person should know about it.
#[derive(Debug)]
pub(crate) struct Loaded {
    /// The configuration, checked.
    pub(crate) config: Config,
    /// The file it came from, if any.
    pub(crate) file: Option<PathBuf>,
    /// Variables that look like keys and are none.
    pub(crate) warnings: Vec<String>,
}

/// Reads and checks the configuration.
///
/// # Errors
/// One line that names the place (file and line, variable or flag) and what to do.
pub(crate) fn load(sources: &Sources) -> anyhow::Result<Loaded> {
    let file = match &sources.file {
        Some(path) => Some(path.clone()),
        None => Some(PathBuf::from(USUAL_FILE)).filter(|path| path.is_file()),
    };
    let mut config = match &file {
        Some(path) => read_file(path)?,
        None => Config::default(),
    };
    let mut warnings = Vec::new();
    for (name, value) in &sources.environment {
        match key_of(name) {
            Some(key) => config = set(&config, key, value).with_context(|| format!("environment variable {name}"))?,
            None if name == "WEIR_LOG" => config.logging.level.clone_from(value),
            None if OTHER_VARIABLES.contains(&name.as_str()) || name.starts_with("WEIR_TEST_") => {}
            None => {
                let guess = name.trim_start_matches("WEIR_").to_lowercase();
                if let Some(near) = keys::nearest(&guess.replacen('_', ".", 1)).or_else(|| keys::nearest(&guess)) {
                    warnings.push(format!("environment variable {name} is no key; did you mean {}?", variable(near)));
                }
            }
        }
    }
    for (key, value) in &sources.flags {
        config = set(&config, key, value).with_context(|| format!("flag for `{key}`"))?;
    }
    config.check().map_err(|error| match &file {
        Some(path) => error.context(format!("configuration with {}", path.display())),
        None => error,
    })?;
    Ok(Loaded { config, file, warnings })
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
    keys::check(path, text)?;
    toml::from_str(text).map_err(|error| keys::located(path, text, error.span(), error.message()))
}

/// The variable of a key.
pub(crate) fn variable(key: &str) -> String {
    format!("WEIR_{}", key.replace('.', "_").to_uppercase())
}

fn key_of(variable_name: &str) -> Option<&'static str> {
    docs::KEYS.iter().map(|(key, _)| *key).find(|key| variable(key) == variable_name)
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
    let new = match old {
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
    };
    place.insert(name.to_owned(), new);
    let mut changed: Config = tree.try_into().map_err(|error: toml::de::Error| {
        anyhow::anyhow!("`{key}` = {text:?}: {}", error.message().lines().next().unwrap_or_default())
    })?;
    // Routes are not part of the written tree.
    changed.route.clone_from(&config.route);
    Ok(changed)
}
