//! Settings and their check.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use model::setting::{empty_is_none, secs_as_ms};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::types::FieldType;

/// Settings of the InfluxDB 2 store. Errors name their keys as `<section>.<key>`.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Config {
    /// The section of the configuration that these settings are from, for errors; not a key.
    #[serde(skip)]
    pub section: String,
    /// Address, as `http://host:8086` or `https://host`, with a path when a proxy adds one. Empty:
    /// InfluxDB is not used.
    pub url: String,
    /// Token that may write to the bucket. If it may read the bucket too, field types are known
    /// from the start and the books can be checked.
    pub token: String,
    /// Name of the organization.
    pub org: String,
    /// Name of the bucket, which has to exist.
    pub bucket: String,
    /// Measurement of every point.
    pub measurement: String,
    /// Tag keys.
    #[serde(flatten)]
    pub tags: Tags,
    /// Points in one request.
    pub batch_lines: usize,
    /// Requests under way at one time.
    pub in_flight: usize,
    /// Longest time to wait for an answer, in milliseconds; the request is then repeated.
    #[serde(rename = "request_timeout_ms", with = "secs_as_ms")]
    #[schemars(with = "u64")]
    pub timeout_secs: f64,
    /// Fields whose type differs from that of their values, as `["count=integer"]`: float, integer,
    /// boolean or string. Numbers are floats otherwise. Where the bucket has another type already,
    /// values go to the field beside it, as `count_int`.
    #[serde(with = "super::types::declarations")]
    #[schemars(with = "Vec<String>")]
    pub types: BTreeMap<String, FieldType>,
    /// Handling of a value that its field cannot hold: `"dead_letter"`, `"coerce"` (made to fit if
    /// possible), `"side_field"` (stored in a field beside it).
    pub on_conflict: OnConflict,
    /// PEM file with certificates that are trusted for https besides the public ones.
    #[serde(with = "empty_is_none")]
    #[schemars(with = "String")]
    pub ca_file: Option<PathBuf>,
    /// PEM file with the certificate of this client, for servers that ask for one.
    #[serde(with = "empty_is_none")]
    #[schemars(with = "String")]
    pub cert_file: Option<PathBuf>,
    /// PEM file with its private key.
    #[serde(with = "empty_is_none")]
    #[schemars(with = "String")]
    pub key_file: Option<PathBuf>,
}

/// Tag keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Tags {
    /// Tag that holds the tenant.
    #[serde(rename = "tenant_tag")]
    pub tenant: String,
    /// Tag that holds the device id.
    #[serde(rename = "device_tag")]
    pub device: String,
}

/// Handling of a reading with a value that its field's type cannot hold exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnConflict {
    /// The reading becomes a dead letter, whose reason gives the type and since when the field has
    /// it.
    #[default]
    DeadLetter,
    /// The value is converted, digits may be lost; a dead letter when it cannot be converted.
    Coerce,
    /// The value is written to another field: `<name>_str`, `<name>_float`, `<name>_int`,
    /// `<name>_bool`.
    SideField,
}

/// Paths of InfluxDB and of its pages, which are not part of the address.
const OWN_PATHS: [&str; 9] = ["/api", "/write", "/query", "/ping", "/health", "/ready", "/metrics", "/orgs", "/signin"];

/// A setting that cannot be used; the message names its key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub(super) String);

impl Default for Config {
    fn default() -> Self {
        Self {
            section: "influxdb".to_owned(),
            url: String::new(),
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
            cert_file: None,
            key_file: None,
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
            .field("section", &self.section)
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
    /// The settings, with errors that name the keys of the export `name`.
    pub(super) fn of_export(mut self, name: &str) -> Self {
        // The section [influxdb] is the export of this name.
        self.section = if name == "influxdb" { name.to_owned() } else { format!("export.{name}") };
        self
    }

    /// Returns the path of the address, without a slash at its end.
    pub(super) fn path(&self) -> &str {
        let rest = self.url.split_once("://").map_or(&*self.url, |(_, rest)| rest);
        rest.find('/').map_or("", |at| rest[at..].trim_end_matches('/'))
    }

    /// Checks the address as far as possible without the server.
    fn check_url(&self) -> Result<(), ConfigError> {
        let (key, url) = (self.key("url"), &self.url);
        let rest = url.split_once("://").map_or(&**url, |(_, rest)| rest);
        let host = rest.split('/').next().unwrap_or_default();
        if host.contains('@') {
            return Err(ConfigError(format!(
                "{key} contains a user or a password: take them out, and set {} and {}",
                self.key("token"),
                self.key("org")
            )));
        }
        let path = self.path();
        let below =
            |base: &&&str| path.strip_prefix(**base).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        match OWN_PATHS.iter().find(below) {
            Some(_) => {
                let base = &url[..url.len() - rest.len() + host.len()];
                Err(ConfigError(format!(
                    "{key} = {url:?} has the path {path:?}, which InfluxDB has of its own: write {base}, Weir adds the paths"
                )))
            }
            None => Ok(()),
        }
    }

    /// Returns the full name of a key.
    pub(super) fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.section)
    }

    pub(super) fn bad_token(&self) -> ConfigError {
        ConfigError(format!("{} contains a character that is not allowed in a token", self.key("token")))
    }

    /// Checks the settings as far as possible without the server.
    ///
    /// # Errors
    /// [`ConfigError`] naming the key.
    pub fn check(&self) -> Result<(), ConfigError> {
        let fault = |text: String| Err(ConfigError(text));
        for (key, value) in [("token", &self.token), ("org", &self.org), ("bucket", &self.bucket)] {
            if value.is_empty() {
                return fault(format!("set {}", self.key(key)));
            }
        }
        self.check_url()?;
        if self.token.bytes().any(|b| !(b' '..=b'~').contains(&b)) {
            return Err(self.bad_token());
        }
        for (key, name) in
            [("measurement", &self.measurement), ("tenant_tag", &self.tags.tenant), ("device_tag", &self.tags.device)]
        {
            check_name(name).map_err(|reason| ConfigError(format!("{} = {name:?} {reason}", self.key(key))))?;
        }
        if self.tags.tenant == self.tags.device {
            let (tenant, device) = (self.key("tenant_tag"), self.key("device_tag"));
            return fault(format!("{tenant} and {device} are the same: give them different names"));
        }
        if self.cert_file.is_some() != self.key_file.is_some() {
            return fault(format!("{} and {} belong together: give both", self.key("cert_file"), self.key("key_file")));
        }
        if self.batch_lines == 0 || self.in_flight == 0 {
            let (lines, requests) = (self.key("batch_lines"), self.key("in_flight"));
            return fault(format!("{lines} and {requests} must be at least 1"));
        }
        if !(self.timeout_secs.is_finite() && self.timeout_secs >= 0.01 && self.timeout_secs <= 86_400.0) {
            return fault(format!("{} must be between 10 and 86400000", self.key("request_timeout_ms")));
        }
        Ok(())
    }
}

/// Checks a measurement or a tag key. The operator chooses them, so they are limited to characters
/// that no query language quotes.
fn check_name(name: &str) -> Result<(), &'static str> {
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '/' | ':');
    if name.is_empty() || name.len() > 256 || !name.chars().all(plain) {
        return Err("is not a name: use letters, digits and _-./: , 256 bytes at most");
    }
    if name.starts_with('_') || name == "time" {
        return Err("is a name that InfluxDB reserves: choose another");
    }
    Ok(())
}
