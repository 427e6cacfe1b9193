//! What a person may set, and what is wrong with it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::types::FieldType;

/// Settings of the InfluxDB 2 store. Faults name their keys as `influxdb.<key>`.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where it answers: `http://host:port` or `https://host:port`, with a path when a proxy adds one.
    pub url: String,
    /// Token that may write to the bucket; may it read the bucket too, then field types are known from the start and the
    /// books can be checked.
    pub token: String,
    /// Name of the organization.
    pub org: String,
    /// Name of the bucket.
    pub bucket: String,
    /// Measurement of all points.
    pub measurement: String,
    /// Tag keys.
    pub tags: Tags,
    /// Lines sent in one request.
    pub batch_lines: usize,
    /// Requests under way at once for one write.
    pub in_flight: usize,
    /// How long one request may take, from connecting to the last byte of the answer, in seconds.
    pub timeout_secs: f64,
    /// Field types by value name, for values that are to be something else than what they are by themselves: numbers
    /// are floats, booleans booleans, texts strings.
    pub types: BTreeMap<String, FieldType>,
    /// What becomes of a reading with a value that its field's type cannot hold exactly.
    pub on_conflict: OnConflict,
    /// Certificates (PEM) that are trusted besides the public ones, for `https`.
    pub ca_file: Option<PathBuf>,
}

/// Tag keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tags {
    /// Holds the tenant.
    pub tenant: String,
    /// Holds the device id.
    pub device: String,
}

/// What becomes of a reading with a value that its field's type cannot hold exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnConflict {
    /// The reading becomes a dead letter, which tells the type and since when the field has it.
    #[default]
    DeadLetter,
    /// The value is made to fit, digits may be lost; a dead letter when it cannot be made to.
    Coerce,
    /// The value goes into a field beside it: `<name>_str`, `<name>_float`, `<name>_int`, `<name>_bool`.
    SideField,
}

/// A setting that cannot be used; the message names its key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub(super) String);

impl Default for Config {
    fn default() -> Self {
        Self {
            url: "http://127.0.0.1:8086".to_owned(),
            token: String::new(),
            org: String::new(),
            bucket: String::new(),
            measurement: "telemetry".to_owned(),
            tags: Tags::default(),
            batch_lines: 5_000,
            in_flight: 4,
            timeout_secs: 30.0,
            types: BTreeMap::new(),
            on_conflict: OnConflict::default(),
            ca_file: None,
        }
    }
}

impl Default for Tags {
    fn default() -> Self {
        Self { tenant: "tenant".to_owned(), device: "device".to_owned() }
    }
}

impl fmt::Debug for Config {
    /// Without the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("url", &self.url)
            .field("org", &self.org)
            .field("bucket", &self.bucket)
            .field("measurement", &self.measurement)
            .field("tags", &self.tags)
            .field("batch_lines", &self.batch_lines)
            .field("in_flight", &self.in_flight)
            .field("timeout_secs", &self.timeout_secs)
            .field("types", &self.types)
            .field("on_conflict", &self.on_conflict)
            .field("ca_file", &self.ca_file)
            .finish_non_exhaustive()
    }
}

impl Config {
    /// Says what is wrong with it as far as can be told without the server.
    ///
    /// # Errors
    /// [`ConfigError`] naming the key.
    pub fn check(&self) -> Result<(), ConfigError> {
        let fault = |text: String| Err(ConfigError(text));
        for (key, value) in [("token", &self.token), ("org", &self.org), ("bucket", &self.bucket)] {
            if value.is_empty() {
                return fault(format!("set influxdb.{key}"));
            }
        }
        if self.token.bytes().any(|b| !(b' '..=b'~').contains(&b)) {
            return fault("influxdb.token holds a character that no token has".to_owned());
        }
        for (key, name) in
            [("measurement", &self.measurement), ("tags.tenant", &self.tags.tenant), ("tags.device", &self.tags.device)]
        {
            check_name(name).map_err(|reason| ConfigError(format!("influxdb.{key} = {name:?} {reason}")))?;
        }
        if self.tags.tenant == self.tags.device {
            return fault("influxdb.tags.tenant and influxdb.tags.device are the same: give them two names".to_owned());
        }
        if self.batch_lines == 0 || self.in_flight == 0 {
            return fault("influxdb.batch_lines and influxdb.in_flight have to be at least 1".to_owned());
        }
        if !(self.timeout_secs.is_finite() && self.timeout_secs >= 0.01 && self.timeout_secs <= 86_400.0) {
            return fault("influxdb.timeout_secs has to be between 0.01 and 86400".to_owned());
        }
        Ok(())
    }
}

/// Measurement and tag keys are the operator's to choose, so they are kept to what every query language writes plainly.
fn check_name(name: &str) -> Result<(), &'static str> {
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '/' | ':');
    if name.is_empty() || name.len() > 256 || !name.chars().all(plain) {
        return Err("is no name: use letters, digits and _-./: , 256 bytes at most");
    }
    if name.starts_with('_') || name == "time" {
        return Err("is a name that InfluxDB keeps for itself: choose another");
    }
    Ok(())
}
