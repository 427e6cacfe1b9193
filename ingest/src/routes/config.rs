//! `[[route]]` tables.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One `[[route]]` table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Route {
    /// Topic templates: levels are literal, `+`, `#` (last), text with `{capture}` for a level or a
    /// part of one, or `{capture...}` for one or more levels.
    pub topic: OneOrMany,
    /// The use of matching messages.
    pub kind: Kind,
    /// Conditions on captures and on the payload; all have to be met.
    pub when: BTreeMap<String, Condition>,
    /// Later routes read the message too.
    #[serde(rename = "continue")]
    pub go_on: bool,
    /// Format of the payload.
    pub format: Format,
    /// JSON may have the usual faults of firmware; false reads RFC 8259 only.
    pub lenient: bool,
    /// Globs of names whose text is a JSON document, read as part of the payload.
    pub json_text: Vec<String>,
    /// Template of the device id.
    pub device: String,
    /// Template of a prefix for every name of the payload, joined with a dot.
    pub prefix: String,
    /// Paths of the rows, each of which is a reading; the document when empty.
    pub each: OneOrMany,
    /// Paths of the objects that hold a row's values; the row when empty.
    pub root: OneOrMany,
    /// Template of the whole name of a bare value, or of the value that `value` finds. When empty
    /// `value`, or `online` for presence.
    pub field: String,
    /// Paths of the only value of a row; the first one present counts.
    pub value: OneOrMany,
    /// Names, paths or templates of a reading's time; the first one that can be used counts.
    pub time: OneOrMany,
    /// `auto`, `s`, `ms`, `us`, `ns`, or a strptime pattern.
    pub time_format: String,
    /// Time zone of local times without an offset.
    pub zone: String,
    /// Start of times that are numbers.
    pub epoch: Epoch,
    /// Globs of names to store; all when empty.
    pub include: Vec<String>,
    /// Globs of names to leave out.
    pub exclude: Vec<String>,
    /// Rules for values by glob of their name; the most exact glob counts.
    pub fields: BTreeMap<String, FieldRule>,
    /// Treatment of text values.
    pub strings: Strings,
    /// Texts with a number and its unit are numbers: `19.5°C`.
    pub unit_suffix: bool,
    /// Decimal separator of numbers in texts.
    pub decimal: Decimal,
    /// Texts that mean null.
    pub null_values: Vec<String>,
    /// Treatment of messages with the retain flag.
    pub retained: RetainedMessages,
    /// Presence: path or template of the state; when empty the payload, or its member `state`.
    pub state: String,
    /// Presence: states that mean online.
    pub online: Vec<Literal>,
    /// Presence: states that mean offline.
    pub offline: Vec<Literal>,
}

/// States that mean online, of the sources that the guide names and of Z-Wave, Homie and Home
/// Assistant. A sleeping device is one that its network still counts on.
const ONLINE: &[&str] = &[
    "online",
    "connected",
    "connect",
    "ready",
    "alive",
    "awake",
    "asleep",
    "sleeping",
    "available",
    "reachable",
    "active",
    "running",
    "up",
    "on",
    "yes",
    "true",
    "1",
    "2",
];

const OFFLINE: &[&str] = &[
    "offline",
    "disconnected",
    "disconnect",
    "lost",
    "stopped",
    "dead",
    "unavailable",
    "unreachable",
    "inactive",
    "down",
    "off",
    "no",
    "false",
    "0",
];

impl Default for Route {
    fn default() -> Self {
        let words = |words: &[&str]| words.iter().map(|w| Literal::Text((*w).into())).collect();
        Self {
            topic: OneOrMany::default(),
            kind: Kind::Data,
            when: BTreeMap::new(),
            go_on: false,
            format: Format::JsonOrValue,
            lenient: true,
            json_text: Vec::new(),
            device: "{device}".into(),
            prefix: String::new(),
            each: OneOrMany::default(),
            root: OneOrMany::default(),
            field: String::new(),
            value: OneOrMany::default(),
            time: OneOrMany::Many(["ts", "time", "timestamp"].map(Into::into).into()),
            time_format: "auto".into(),
            zone: "UTC".into(),
            epoch: Epoch::Utc,
            include: Vec::new(),
            exclude: Vec::new(),
            fields: BTreeMap::new(),
            strings: Strings::Keep,
            unit_suffix: false,
            decimal: Decimal::Point,
            null_values: Vec::new(),
            retained: RetainedMessages::Accept,
            state: String::new(),
            online: words(ONLINE),
            offline: words(OFFLINE),
        }
    }
}

/// A string or a list of strings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum OneOrMany {
    /// A string.
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

/// The use of a route's messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Readings.
    Data,
    /// Whether the device is online, as a reading with a boolean value.
    Presence,
    /// None: a plain message for subscribers, even if a later route matches.
    Ignore,
}

/// Format of a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// A JSON document.
    Json,
    /// A bare value: number, boolean or text.
    Value,
    /// A JSON document if it begins with `{`, `[` or `"`, otherwise a bare value.
    JsonOrValue,
}

/// Start of times that are numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Epoch {
    /// 1970-01-01 UTC.
    Utc,
    /// 1970-01-01 in the zone of the route, as of devices whose clocks show local time.
    Local,
}

/// Decimal separator of numbers in texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Decimal {
    /// `19.5`
    #[serde(rename = ".")]
    Point,
    /// `19,5`
    #[serde(rename = ",")]
    Comma,
}

/// Treatment of text values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strings {
    /// Text is stored as it is.
    Keep,
    /// Text that can only be a number is stored as a number (see the guide), other text as it is.
    Numbers,
    /// Text is left out; times and device ids are still read from it.
    Drop,
}

/// Treatment of messages with the retain flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RetainedMessages {
    /// They are read like any other.
    Accept,
    /// They do not match this route.
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
    /// Returns the text of the value in a payload.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Bool(v) => v.to_string(),
            Self::Int(v) => v.to_string(),
            Self::Float(v) => v.to_string(),
            Self::Text(v) => v.clone(),
        }
    }
}

/// A condition: a value, or a list of values of which one is required. `"exists"` and `"missing"`
/// test for presence.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Condition {
    /// This value.
    One(Literal),
    /// One of these values.
    Many(Vec<Literal>),
}

/// Rule for a value.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FieldRule {
    /// New name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Type to store; a value that cannot be converted is not stored.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<FieldType>,
    /// Factor; the result is floating point.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale: Option<f64>,
    /// Added after `scale`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<f64>,
    /// Values that mean null.
    pub null: Vec<Literal>,
    /// Values that mean true.
    #[serde(rename = "true")]
    pub true_words: Vec<Literal>,
    /// Values that mean false.
    #[serde(rename = "false")]
    pub false_words: Vec<Literal>,
    /// Replacements by value.
    pub map: BTreeMap<String, Literal>,
    /// The value is not stored.
    pub drop: bool,
}

/// A type of values.
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

/// Returns the routes of a configuration without any.
pub fn default_routes() -> Vec<Route> {
    let route = |topic: &str| Route { topic: topic.into(), ..Route::default() };
    vec![
        route("devices/{device}/telemetry"),
        Route { prefix: "{name}".into(), field: "{name}".into(), ..route("devices/{device}/telemetry/{name}") },
    ]
}
