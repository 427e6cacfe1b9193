//! Every key with its text and its default, from the settings' own types: behind `weir config`, the
//! messages about unknown keys and the environment.

use std::sync::LazyLock;

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::Serialize;

use super::Config;

/// A table of the file.
#[derive(Debug)]
pub(crate) struct Section {
    /// Name; empty at the top of the file.
    pub(crate) name: String,
    /// Subject of its keys.
    pub(crate) text: String,
    /// In declared order.
    pub(crate) keys: Vec<Key>,
}

/// A documented key of the configuration.
#[derive(Debug)]
pub(crate) struct Key {
    /// Name, with that of the section in front: `mqtt.address`.
    pub(crate) name: String,
    /// Meaning, for the operator.
    pub(crate) text: String,
    /// Default, as it is written in a file.
    pub(crate) default: String,
}

impl Key {
    /// Name without that of the section.
    pub(crate) fn short(&self) -> &str {
        self.name.rsplit('.').next().unwrap_or(&self.name)
    }
}

/// Every section; the first is the top of the file. `[[route]]` and `[[export]]` are not among
/// them.
pub(crate) static SECTIONS: LazyLock<Vec<Section>> = LazyLock::new(sections_of::<Config>);

/// Every key of [`SECTIONS`].
pub(crate) fn all() -> impl Iterator<Item = &'static Key> {
    SECTIONS.iter().flat_map(|section| &section.keys)
}

/// The keys of one table.
pub(crate) fn of<T: Default + Serialize + JsonSchema>() -> Vec<Key> {
    sections_of::<T>().into_iter().flat_map(|section| section.keys).collect()
}

/// Order and defaults come from the serialized default, texts from the schema.
fn sections_of<T: Default + Serialize + JsonSchema>() -> Vec<Section> {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let schema = settings.into_generator().into_root_schema_for::<T>();
    let defaults = toml::to_string(&T::default()).expect("settings can be written");
    let mut sections = vec![Section { name: String::new(), text: String::new(), keys: Vec::new() }];
    for line in defaults.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            let text = text_of(schema.as_value(), &[name]);
            sections.push(Section { name: name.to_owned(), text, keys: Vec::new() });
        } else if let (Some((short, default)), Some(section)) = (line.split_once(" = "), sections.last_mut()) {
            let (name, text) = if section.name.is_empty() {
                (short.to_owned(), text_of(schema.as_value(), &[short]))
            } else {
                (format!("{}.{short}", section.name), text_of(schema.as_value(), &[&section.name, short]))
            };
            section.keys.push(Key { name, text, default: default.to_owned() });
        }
    }
    sections
}

/// The first paragraph of a field's comment, in one line.
fn text_of(schema: &serde_json::Value, path: &[&str]) -> String {
    let field = path.iter().try_fold(schema, |schema, name| schema.get("properties")?.get(name));
    let text = field.and_then(|field| field.get("description")?.as_str()).unwrap_or_default();
    let first = text.split("\n\n").next().unwrap_or_default();
    first.split_whitespace().collect::<Vec<_>>().join(" ")
}
