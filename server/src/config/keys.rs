//! Unknown keys in a file, with line and the nearest known key.

use std::path::Path;

use anyhow::Context;
use toml::de::{DeTable, DeValue};

use super::docs;

/// Refuses keys that no key of the configuration is.
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
        if key == "route" {
            check_routes(path, text, value.get_ref())?;
            continue;
        }
        let is_section = docs::SECTIONS.iter().any(|(s, _)| *s == key);
        match value.get_ref() {
            DeValue::Table(inner) if is_section => walk(path, text, &key, inner)?,
            _ if docs::KEYS.iter().any(|(k, _)| *k == key) => {}
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

fn check_routes(path: &Path, text: &str, value: &DeValue<'_>) -> anyhow::Result<()> {
    let known = toml::Table::try_from(ingest::Route::default()).context("a route is a table")?;
    for route in value.as_array().into_iter().flat_map(|routes| routes.iter()) {
        for name in route.get_ref().as_table().into_iter().flat_map(|table| table.keys()) {
            let key: &str = name.get_ref();
            if known.contains_key(key) {
                continue;
            }
            let near =
                known.keys().max_by(|a, b| strsim::jaro_winkler(a, key).total_cmp(&strsim::jaro_winkler(b, key)));
            let near = near.filter(|near| strsim::jaro_winkler(near, key) > 0.7);
            let message = match near {
                Some(near) => format!("unknown key `{key}` of a route; did you mean `{near}`?"),
                None => {
                    let all: Vec<&str> = known.keys().map(String::as_str).collect();
                    format!("unknown key `{key}` of a route; there are {}", all.join(", "))
                }
            };
            return Err(located(path, text, Some(name.span()), &message));
        }
    }
    Ok(())
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
    let sections = docs::SECTIONS.iter().map(|(s, _)| *s).filter(|s| !s.is_empty());
    let known = docs::KEYS.iter().map(|(k, _)| *k).chain(sections).chain(["route"]);
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
