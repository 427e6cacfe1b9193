//! `[[route]]` tables as written.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One `[[route]]` table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Route {
    /// Topic templates: levels are literal, `+`, `#` (last), text with `{capture}` for a level or a part of one, or `{capture...}`
    /// for one or more levels.
    pub topic: OneOrMany,
    /// What to do with what it takes.
    pub kind: Kind,
    /// Conditions on captures and on the payload; all have to hold.
    pub when: BTreeMap<String, Condition>,
    /// Later routes see the message too.
    #[serde(rename = "continue")]
    pub go_on: bool,
    /// How the payload is written.
    pub format: Format,
    /// Template of the device id.
    pub device: String,
    /// Template; put before every name of the payload, with a dot.
    pub prefix: String,
    /// Paths of the rows, each of which is a reading; the document when empty.
    pub each: OneOrMany,
    /// Paths below which a row's values lie; the row when empty.
    pub root: OneOrMany,
    /// Template; the whole name of a bare value or of what `value` finds. When empty `value`, or for presence `online`.
    pub field: String,
    /// Paths of a row's one value, the first that is there.
    pub value: OneOrMany,
    /// Where a reading's time is: names, paths or templates, the first that is there.
    pub time: OneOrMany,
    /// `auto`, `s`, `ms`, `us`, `ns`, or a strptime pattern.
    pub time_format: String,
    /// Zone of local times without an offset.
    pub zone: String,
    /// Names to take, as globs; all when empty.
    pub include: Vec<String>,
    /// Names to leave out, as globs.
    pub exclude: Vec<String>,
    /// What is done with a value, by its name; of several globs the most exact counts.
    pub fields: BTreeMap<String, FieldRule>,
    /// Text values.
    pub strings: Strings,
    /// Messages with the retain flag.
    pub retained: RetainedMessages,
    /// Presence: a path or a template of the word; the payload, or its member `state`, when empty.
    pub state: String,
    /// Presence: the words for online.
    pub online: Vec<Literal>,
    /// Presence: the words for offline.
    pub offline: Vec<Literal>,
}

impl Default for Route {
    fn default() -> Self {
        let words = |words: &[&str]| words.iter().map(|w| Literal::Text((*w).into())).collect();
        Self {
            topic: OneOrMany::default(),
            kind: Kind::Data,
            when: BTreeMap::new(),
            go_on: false,
            format: Format::JsonOrValue,
            device: "{device}".into(),
            prefix: String::new(),
            each: OneOrMany::default(),
            root: OneOrMany::default(),
            field: String::new(),
            value: OneOrMany::default(),
            time: OneOrMany::Many(["ts", "time", "timestamp"].map(Into::into).into()),
            time_format: "auto".into(),
            zone: "UTC".into(),
            include: Vec::new(),
            exclude: Vec::new(),
            fields: BTreeMap::new(),
            strings: Strings::Keep,
            retained: RetainedMessages::Accept,
            state: String::new(),
            online: words(&["online", "connected", "connect", "ready", "alive", "on", "true", "1"]),
            offline: words(&["offline", "disconnected", "disconnect", "lost", "stopped", "dead", "off", "false", "0"]),
        }
    }
}

/// A string or a list of strings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum OneOrMany {
    /// One.
    One(String),
    /// A list.
    Many(Vec<String>),
}

impl OneOrMany {
    pub(crate) fn all(&self) -> &[String] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

impl Default for OneOrMany {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

impl From<&str> for OneOrMany {
    fn from(one: &str) -> Self {
        Self::One(one.into())
    }
}

/// What a route is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Readings.
    Data,
    /// Whether the device is online, as a boolean reading.
    Presence,
    /// Not telemetry, whatever later routes say: a plain message for subscribers.
    Ignore,
}

/// How a payload is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// A JSON document.
    Json,
    /// A bare value: number, boolean or text.
    Value,
    /// A JSON document when it begins with `{`, `[` or `"`, else a bare value.
    JsonOrValue,
}

/// Text values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strings {
    /// Are stored as they are.
    Keep,
    /// Are stored as numbers when they cannot be anything else, see the guide; else as they are.
    Numbers,
    /// Are left out; a time or a device id is still read from them.
    Drop,
}

/// Messages with the retain flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RetainedMessages {
    /// Are read like any other.
    Accept,
    /// Are not taken by this route.
    Skip,
}

/// A value in a configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Literal {
    /// Boolean.
    Bool(bool),
    /// Integer.
    Int(i64),
    /// Number.
    Float(f64),
    /// Text.
    Text(String),
}

impl Literal {
    /// As a payload would show it.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Bool(v) => v.to_string(),
            Self::Int(v) => v.to_string(),
            Self::Float(v) => v.to_string(),
            Self::Text(v) => v.clone(),
        }
    }
}

/// A condition: a value or a list of values, one of which has to be there. `"exists"` and `"missing"` ask for no value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Condition {
    /// This one.
    One(Literal),
    /// One of these.
    Many(Vec<Literal>),
}

/// What is done with a value.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FieldRule {
    /// Another name for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The type it is stored with; what cannot be one is not stored.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<FieldType>,
    /// Multiplies; the result is floating point.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale: Option<f64>,
    /// Added after `scale`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<f64>,
    /// Values that mean none.
    pub null: Vec<Literal>,
    /// Values that mean true.
    #[serde(rename = "true")]
    pub true_words: Vec<Literal>,
    /// Values that mean false.
    #[serde(rename = "false")]
    pub false_words: Vec<Literal>,
    /// What is stored instead of a value.
    pub map: BTreeMap<String, Literal>,
    /// Not stored at all.
    pub drop: bool,
}

/// A type that a route asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FieldType {
    /// Floating point.
    Float,
    /// Integer.
    Int,
    /// Boolean.
    Bool,
    /// Text.
    String,
}

/// The routes of a configuration that has none.
pub fn default_routes() -> Vec<Route> {
    let route = |topic: &str| Route { topic: topic.into(), ..Route::default() };
    vec![
        route("devices/{device}/telemetry"),
        Route { prefix: "{name}".into(), field: "{name}".into(), ..route("devices/{device}/telemetry/{name}") },
    ]
}
