//! Unknown keys in a file, with line and the nearest known key.

use std::path::Path;

use anyhow::Context;
use toml::de::{DeTable, DeValue};

use super::{Config, bridges, export, keys, listener, pool};

/// Refuses unknown keys.
///
/// # Errors
/// Names file, line, key and the nearest known key of the same section.
pub(super) fn check(path: &Path, text: &str) -> anyhow::Result<()> {
    let table = DeTable::parse(text).map_err(|error| located(path, text, error.span(), error.message()))?;
    walk(path, text, "", table.get_ref())
}

fn walk(path: &Path, text: &str, section: &str, table: &DeTable<'_>) -> anyhow::Result<()> {
    for (name, value) in table {
        let key = join(section, name.get_ref());
        match key.as_str() {
            "route" => {
                let known = toml::Table::try_from(ingest::Route::default()).context("a route is a table")?;
                let known: Vec<String> = known.keys().cloned().collect();
                check_tables(path, text, value.get_ref(), "a route", |_| known.clone())?;
                continue;
            }
            "export" => {
                check_tables(path, text, value.get_ref(), "an export", |table| {
                    export::keys_of(table.get("type").and_then(|kind| kind.get_ref().as_str()))
                })?;
                continue;
            }
            "mqtt.listener" => {
                let known: Vec<String> = listener::documented().iter().map(|key| key.short().to_owned()).collect();
                check_tables(path, text, value.get_ref(), "a listener", |_| known.clone())?;
                continue;
            }
            "pool" => {
                let known: Vec<String> = pool::KEYS.map(str::to_owned).to_vec();
                check_tables(path, text, value.get_ref(), "a pool", |_| known.clone())?;
                continue;
            }
            "bridge" => {
                check_tables(path, text, value.get_ref(), "a bridge", |_| bridges::keys())?;
                let tables = value.get_ref().as_array().into_iter().flat_map(|tables| tables.iter());
                let topics = tables.filter_map(|table| table.get_ref().as_table()?.get("topic"));
                for topics in topics {
                    check_tables(path, text, topics.get_ref(), "a topic of a bridge", |_| bridges::topic_keys())?;
                }
                continue;
            }
            _ => {}
        }
        let is_section = keys::SECTIONS.iter().any(|section| section.name == key);
        match value.get_ref() {
            DeValue::Table(inner) if is_section => walk(path, text, &key, inner)?,
            _ if keys::all().any(|known| known.name == key) => {}
            _ if is_section => {
                let message = format!("`{key}` is a section: write [{key}]");
                return Err(located(path, text, Some(name.span()), &message));
            }
            _ => {
                let message = unknown("key", &key);
                return Err(located(path, text, Some(name.span()), &message));
            }
        }
    }
    Ok(())
}

/// Checks the keys of an array of tables.
fn check_tables(
    path: &Path,
    text: &str,
    value: &DeValue<'_>,
    owner: &str,
    known: impl Fn(&DeTable<'_>) -> Vec<String>,
) -> anyhow::Result<()> {
    for table in value.as_array().into_iter().flat_map(|tables| tables.iter()) {
        let Some(table) = table.get_ref().as_table() else { continue };
        let known = known(table);
        if let Some(name) = table.keys().find(|name| !known.iter().any(|known| known.as_str() == name.get_ref())) {
            let key: &str = name.get_ref();
            let near = known.iter().map(|known| (strsim::jaro_winkler(known, key), known));
            let near = near.filter(|(likeness, _)| *likeness > 0.7).max_by(|a, b| a.0.total_cmp(&b.0));
            let message = match near {
                Some((_, near)) => format!("unknown key `{key}` of {owner}; did you mean `{near}`?"),
                None => format!("unknown key `{key}` of {owner}; there are {}", known.join(", ")),
            };
            return Err(located(path, text, Some(name.span()), &message));
        }
    }
    Ok(())
}

/// The place of the first value that alone is not accepted. Errors of nested settings do not carry
/// their place.
pub(super) fn locate(path: &Path, text: &str) -> Option<anyhow::Error> {
    let spans = DeTable::parse(text).ok()?;
    let values: toml::Table = text.parse().ok()?;
    for (section, value) in spans.get_ref() {
        let name: &str = section.get_ref();
        let written = values.get(name)?;
        let wrong = |alone: toml::Value, span| {
            let error = toml::Table::from_iter([(name.to_owned(), alone)]).try_into::<Config>().err()?;
            Some(located(path, text, Some(span), error.message()))
        };
        let found = match (value.get_ref(), written) {
            (DeValue::Table(inner), toml::Value::Table(table)) => inner.iter().find_map(|(key, value)| {
                let key: &str = key.get_ref();
                let alone = toml::Table::from_iter([(key.to_owned(), table.get(key)?.clone())]);
                wrong(toml::Value::Table(alone), value.span())
            }),
            _ => wrong(written.clone(), value.span()),
        };
        if found.is_some() {
            return found;
        }
    }
    None
}

/// `unknown key X; did you mean Y?`
pub(super) fn unknown(what: &str, key: &str) -> String {
    match nearest(key) {
        Some(near) => format!("unknown {what} `{key}`; did you mean `{near}`?"),
        None => format!("unknown {what} `{key}`; `weir config` prints every key"),
    }
}

/// The known key or section most like `key`.
pub(super) fn nearest(key: &str) -> Option<&'static str> {
    let sections = keys::SECTIONS.iter().map(|section| section.name.as_str()).filter(|name| !name.is_empty());
    let known = keys::all().map(|key| key.name.as_str()).chain(sections).chain([
        "route",
        "export",
        "pool",
        "bridge",
        "mqtt.listener",
    ]);
    let last = |k: &str| k.rsplit('.').next().unwrap_or_default().to_owned();
    let best = known
        .map(|candidate| {
            let whole = strsim::jaro_winkler(key, candidate);
            // The right name in the wrong section is a near miss too.
            let name = if last(key) == last(candidate) { 0.95 } else { 0.0 };
            (whole.max(name), candidate)
        })
        .max_by(|a, b| a.0.total_cmp(&b.0))?;
    (best.0 > 0.8).then_some(best.1)
}

/// `file:line: message`
pub(super) fn located(path: &Path, text: &str, span: Option<std::ops::Range<usize>>, message: &str) -> anyhow::Error {
    let message = message.lines().next().unwrap_or_default();
    match span {
        None => anyhow::anyhow!("{}: {message}", path.display()),
        Some(span) => {
            let before = text.get(..span.start).unwrap_or(text);
            let line = before.bytes().filter(|b| *b == b'\n').count() + 1;
            anyhow::anyhow!("{}:{line}: {message}", path.display())
        }
    }
}

fn join(section: &str, name: &str) -> String {
    if section.is_empty() { name.to_owned() } else { format!("{section}.{name}") }
}
