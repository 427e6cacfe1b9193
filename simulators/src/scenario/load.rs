//! Loads and checks a scenario from a file or by a built-in name.

use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};

use super::{Scenario, shipped};

/// Reads a scenario, by a built-in name or from a TOML file. Returns it with the folder of its CSV
/// files.
///
/// # Errors
/// The error is one line with the file, the line, the key and the fault.
pub fn load(name: &str) -> anyhow::Result<(Scenario, PathBuf)> {
    let (text, folder) = match shipped(name) {
        Some(text) => (text.to_owned(), PathBuf::from(".")),
        // The parent of a bare name is empty.
        None => (read(name)?, Path::new(".").join(Path::new(name).parent().unwrap_or(Path::new("")))),
    };
    let scenario = parse(&text).with_context(|| name.to_owned())?;
    scenario.check(&folder).with_context(|| name.to_owned())?;
    Ok((scenario, folder))
}

fn read(name: &str) -> anyhow::Result<String> {
    if !Path::new(name).exists() {
        let shipped: Vec<_> = super::SHIPPED.iter().map(|(name, _)| *name).collect();
        bail!("{name} is neither a file nor a built-in scenario; built-in scenarios: {}", shipped.join(", "));
    }
    std::fs::read_to_string(name).with_context(|| format!("read {name}"))
}

/// Reads TOML without checking its contents.
pub(crate) fn parse(text: &str) -> anyhow::Result<Scenario> {
    let document = toml::de::Deserializer::parse(text).map_err(|error| located(&error, text, ""))?;
    serde_path_to_error::deserialize(document).map_err(|error| {
        let path = error.path().to_string();
        located(error.inner(), text, if path == "." { "" } else { &path })
    })
}

/// The error as one line, with the line of the file and the key.
fn located(error: &toml::de::Error, text: &str, key: &str) -> anyhow::Error {
    let line = error.span().map(|span| text[..span.start.min(text.len())].matches('\n').count() + 1);
    let message = nearest(&error.message().replace('\n', " "));
    match (key.is_empty(), line) {
        (true, Some(line)) => anyhow!("line {line}: {message}"),
        (true, None) => anyhow!("{message}"),
        (false, Some(line)) => anyhow!("line {line}: `{key}`: {message}"),
        (false, None) => anyhow!("`{key}`: {message}"),
    }
}

/// Reduces the list of known keys in an error to the nearest one.
fn nearest(message: &str) -> String {
    let Some((unknown, known)) = message.strip_prefix("unknown field `").and_then(|m| m.split_once("`, expected "))
    else {
        return message.to_owned();
    };
    let known = known.split('`').skip(1).step_by(2);
    match known.min_by_key(|name| strsim::damerau_levenshtein(unknown, name)) {
        Some(name) => format!("unknown key `{unknown}`; the nearest known one is `{name}`"),
        None => format!("unknown key `{unknown}`"),
    }
}
