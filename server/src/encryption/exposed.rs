//! Copies of readings that encryption at rest does not cover.

use stores::contract::ExportType;

use crate::config::{Config, Export};

/// Names of the exports that write files in plain.
pub(crate) fn plain_exports(config: &Config) -> Vec<String> {
    let is_plain = |export: &Export| {
        let sealed = export.settings.get("sealed").and_then(toml::Value::as_bool);
        export.kind == stores::file::Config::TYPE && sealed == Some(false)
    };
    let exports = config.exports().unwrap_or_default();
    exports.into_iter().filter(is_plain).map(|export| export.name).collect()
}
