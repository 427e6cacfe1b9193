//! Settings.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tls::{ClientFiles, Named};

use crate::rules::Rules;

/// Topics of one bridge.
const MOST_TOPICS: usize = 64;
/// The port of MQTT.
const PORT: u16 = 1883;
/// The port of MQTT over TLS.
const TLS_PORT: u16 = 8883;
/// The ports of WebSocket.
const WEB_PORTS: (u16, u16) = (80, 443);
/// The path of MQTT over WebSocket.
const WEB_PATH: &str = "/mqtt";

/// One `[[bridge]]` table.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Config {
    /// Name of the bridge: lowercase letters, digits and dashes. Its session here, its metrics and
    /// its variables have it, so a new name begins a new bridge.
    pub name: String,
    /// Address of the other broker: mqtt://host:1883, mqtts://host:8883 for TLS, or over WebSocket
    /// ws://host:80/mqtt and wss://host:443/mqtt.
    pub address: String,
    /// Version of MQTT that the other broker speaks: `"5"` or `"3.1.1"`.
    pub version: Protocol,
    /// Client id at the other broker: another one for each bridge to it, and always the same, since
    /// the other broker knows by it what has arrived.
    pub client_id: String,
    /// User name at the other broker; empty gives none.
    pub username: String,
    /// Password at the other broker; empty gives none. The variable keeps it out of the file.
    pub password: String,
    /// File with the password, in place of `password`; it is read at each attempt to connect.
    pub password_file: PathBuf,
    /// PEM file with the authorities of the other broker; empty: those that browsers trust.
    pub ca: PathBuf,
    /// PEM file with the certificate of this side, when the other broker asks for one.
    pub certificate: PathBuf,
    /// PEM file with its key.
    pub key: PathBuf,
    /// Tenant whose topics are bridged; empty without `auth.required`.
    pub tenant: String,
    /// Messages of QoS 1 and 2 in flight in each direction, at most.
    pub max_in_flight: u16,
    /// Silence after which the other broker is asked whether it is there, in seconds; as long a
    /// silence after that ends the connection.
    pub keep_alive_secs: u16,
    /// Time that both brokers keep the sessions of the bridge while it is not connected, in
    /// seconds.
    pub session_expiry_secs: u32,
    /// Time for a connection, its TLS handshake and each answer before messages, in milliseconds.
    pub connect_timeout_ms: u64,
    /// Longest wait between two attempts to connect, in seconds. Waits begin with half a second and
    /// double.
    pub max_wait_secs: u64,
    /// `[[bridge.topic]]`: topics that are bridged.
    #[serde(skip_serializing)]
    #[schemars(skip)]
    pub topic: Vec<Topic>,
}

/// One `[[bridge.topic]]` table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Topic {
    /// Topic filter, as devices/#.
    pub filter: String,
    /// Direction: `"out"` to the other broker, `"in"` from it, or `"both"`.
    pub direction: Direction,
    /// QoS of messages, at most: 0, 1 or 2. With 2, each message arrives once.
    pub qos: u8,
    /// Begins these topics here, before the filter, as plant-7/.
    pub local_prefix: String,
    /// Begins these topics at the other broker in its place.
    pub remote_prefix: String,
}

/// Direction of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// To the other broker.
    #[default]
    Out,
    /// From the other broker.
    In,
    /// Both.
    Both,
}

/// Version of MQTT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum Protocol {
    /// MQTT 5.
    #[default]
    #[serde(rename = "5")]
    V5,
    /// MQTT 3.1.1.
    #[serde(rename = "3.1.1")]
    V4,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            name: String::new(),
            address: String::new(),
            version: Protocol::default(),
            client_id: String::new(),
            username: String::new(),
            password: String::new(),
            password_file: PathBuf::new(),
            ca: PathBuf::new(),
            certificate: PathBuf::new(),
            key: PathBuf::new(),
            tenant: String::new(),
            max_in_flight: 100,
            keep_alive_secs: 30,
            session_expiry_secs: 30 * 24 * 3600,
            connect_timeout_ms: 10_000,
            max_wait_secs: 60,
            topic: Vec::new(),
        }
    }
}

impl Default for Topic {
    fn default() -> Self {
        Self {
            filter: String::new(),
            direction: Direction::default(),
            qos: 2,
            local_prefix: String::new(),
            remote_prefix: String::new(),
        }
    }
}

impl fmt::Debug for Config {
    /// Without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config").field("name", &self.name).field("address", &self.address).finish_non_exhaustive()
    }
}

/// Where the other broker is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) is_encrypted: bool,
    /// The path of a WebSocket.
    pub(crate) path: Option<String>,
}

impl Config {
    /// Returns where the other broker is; `None` when the address cannot be read.
    pub(crate) fn place(&self) -> Option<Address> {
        let (scheme, rest) = self.address.split_once("://")?;
        let (is_encrypted, usual, is_web) = match scheme {
            "mqtt" => (false, PORT, false),
            "mqtts" => (true, TLS_PORT, false),
            "ws" => (false, WEB_PORTS.0, true),
            "wss" => (true, WEB_PORTS.1, true),
            _ => return None,
        };
        let (rest, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        let is_of_url =
            |c: char| c.is_ascii_graphic() && !matches!(c, '#' | '"' | '<' | '>' | '\\' | '^' | '`' | '{' | '|' | '}');
        let path = match path {
            "" | "/" => is_web.then(|| WEB_PATH.to_owned()),
            path if is_web && path.chars().all(is_of_url) => Some(path.to_owned()),
            _ => return None,
        };
        // An address of IPv6 is in brackets.
        let end = rest.rfind(']').map_or(0, |at| at + 1);
        let (host, port) = match rest[end..].rfind(':') {
            Some(at) => (&rest[..end + at], rest[end + at + 1..].parse().ok().filter(|port| *port > 0)?),
            None => (rest, usual),
        };
        let host = host.trim_matches(['[', ']']);
        let is_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
        let is_valid = !host.is_empty() && host.chars().all(is_host);
        is_valid.then(|| Address { host: host.to_owned(), port, is_encrypted, path })
    }

    /// True when a password would pass over a network in plain.
    pub fn shows_password(&self) -> bool {
        let has_password = !self.password.is_empty() || !self.password_file.as_os_str().is_empty();
        let is_here = |host: &str| host == "localhost" || host.parse::<IpAddr>().is_ok_and(|host| host.is_loopback());
        has_password && self.place().is_some_and(|place| !place.is_encrypted && !is_here(&place.host))
    }

    /// The files of the TLS client.
    pub(crate) fn files(&self) -> ClientFiles {
        let is_set = |path: &PathBuf| !path.as_os_str().is_empty();
        let named = |key: &str, path: &PathBuf| Named::new(format!("{key} of [[bridge]] {}", self.name), path);
        ClientFiles {
            ca: is_set(&self.ca).then(|| named("ca", &self.ca)),
            identity: is_set(&self.certificate)
                .then(|| (named("certificate", &self.certificate), named("key", &self.key))),
        }
    }

    /// Checks the keys, also against each other.
    ///
    /// # Errors
    /// Names the key and what to do.
    pub fn check(&self) -> Result<(), String> {
        let Some(place) = self.place() else {
            return Err(format!(
                "`address` is {:?}: give mqtt://HOST:PORT, or mqtts://HOST:PORT for TLS, or ws://HOST:PORT/PATH and wss://HOST:PORT/PATH \
                 for WebSocket",
                self.address
            ));
        };
        if self.client_id.is_empty() {
            return Err(
                "`client_id` is missing: give the id that this bridge has at the other broker, another one for \
                        each bridge to it"
                    .into(),
            );
        }
        let is_set = |path: &PathBuf| !path.as_os_str().is_empty();
        if is_set(&self.certificate) != is_set(&self.key) {
            return Err("`certificate` and `key` belong together: give both, or none".into());
        }
        let files = [("ca", &self.ca), ("certificate", &self.certificate)];
        if let Some((key, _)) = files.into_iter().find(|(_, path)| is_set(path) && !place.is_encrypted) {
            return Err(format!("`{key}` is for TLS: begin `address` with mqtts:// or wss://"));
        }
        let has_password = !self.password.is_empty() || is_set(&self.password_file);
        if !self.password.is_empty() && is_set(&self.password_file) {
            return Err("`password` and `password_file` are both set: give one of them".into());
        }
        if has_password && self.username.is_empty() && self.version == Protocol::V4 {
            return Err("`password` needs a `username` in MQTT 3.1.1: give both".into());
        }
        let texts = [("client_id", &self.client_id), ("username", &self.username), ("password", &self.password)];
        if let Some((key, _)) = texts.into_iter().find(|(_, text)| text.len() > usize::from(u16::MAX)) {
            return Err(format!("`{key}` is longer than 65,535 bytes, the most that MQTT has room for"));
        }
        let numbers = [
            ("max_in_flight", u64::from(self.max_in_flight)),
            ("keep_alive_secs", self.keep_alive_secs.into()),
            ("session_expiry_secs", self.session_expiry_secs.into()),
            ("connect_timeout_ms", self.connect_timeout_ms),
            ("max_wait_secs", self.max_wait_secs),
        ];
        if let Some((key, _)) = numbers.into_iter().find(|(_, value)| *value == 0) {
            return Err(format!("`{key}` is 0: give at least 1"));
        }
        if self.topic.is_empty() || self.topic.len() > MOST_TOPICS {
            return Err(format!(
                "it has {} [[bridge.topic]] tables: give 1 to {MOST_TOPICS}, each with a `filter`",
                self.topic.len()
            ));
        }
        Rules::check(&self.topic)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(change: impl FnOnce(&mut Config)) -> Config {
        let topic = vec![Topic { filter: "devices/#".into(), ..Topic::default() }];
        let mut config = Config {
            name: "centre".into(),
            address: "mqtt://centre.example".into(),
            client_id: "edge-7".into(),
            topic,
            ..Config::default()
        };
        change(&mut config);
        config
    }

    #[test]
    fn addresses_name_the_scheme_the_host_and_maybe_the_port() {
        for (text, host, port, is_encrypted) in [
            ("mqtt://centre.example", "centre.example", 1883, false),
            ("mqtt://centre.example:1884/", "centre.example", 1884, false),
            ("mqtts://10.0.0.7", "10.0.0.7", 8883, true),
            ("mqtts://[::1]", "::1", 8883, true),
            ("mqtts://[fd00::7]:8884", "fd00::7", 8884, true),
        ] {
            let place = config(|c| c.address = text.into()).place();
            assert_eq!(place, Some(Address { host: host.into(), port, is_encrypted, path: None }), "{text}");
        }
        for (text, host, port, is_encrypted, path) in [
            ("ws://centre.example", "centre.example", 80, false, "/mqtt"),
            ("wss://centre.example/", "centre.example", 443, true, "/mqtt"),
            ("wss://[::1]:8443/a/b?c=d", "::1", 8443, true, "/a/b?c=d"),
        ] {
            let place = config(|c| c.address = text.into()).place();
            let path = Some(path.to_owned());
            assert_eq!(place, Some(Address { host: host.into(), port, is_encrypted, path }), "{text}");
        }
        for text in [
            "",
            "centre",
            "centre:1883",
            "http://centre",
            "mqtt://",
            "mqtt://a:0",
            "mqtt://a:x",
            "mqtt://a/b",
            "ws://a/b#c",
        ] {
            assert_eq!(config(|c| c.address = text.into()).place(), None, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused_with_the_key() {
        config(|_| ()).check().unwrap();
        let refused = |change: fn(&mut Config)| config(change).check().unwrap_err();
        for (error, words) in [
            (refused(|c| c.address = "centre".into()), "`address` is \"centre\""),
            (refused(|c| c.client_id.clear()), "`client_id` is missing"),
            (refused(|c| c.key = "k".into()), "`certificate` and `key`"),
            (refused(|c| c.ca = "ca.pem".into()), "mqtts://"),
            (refused(|c| (c.password, c.password_file) = ("p".into(), "f".into())), "`password_file`"),
            (refused(|c| (c.password, c.version) = ("p".into(), Protocol::V4)), "`username`"),
            (refused(|c| c.username = "u".repeat(70_000)), "`username` is longer"),
            (refused(|c| c.max_in_flight = 0), "`max_in_flight` is 0"),
            (refused(|c| c.topic.clear()), "0 [[bridge.topic]]"),
            (refused(|c| c.topic[0].filter.clear()), "topic is empty"),
            (refused(|c| c.topic[0].filter = "a/#/b".into()), "`#` the last one"),
            (refused(|c| c.topic[0].filter = "$share/g/a".into()), "shared"),
            (refused(|c| c.topic[0].qos = 3), "`qos` is 3"),
            (refused(|c| c.topic[0].local_prefix = "a".into()), "end it with /"),
            (refused(|c| c.topic[0].remote_prefix = "+/".into()), "wildcard"),
            (refused(|c| c.topic.push(c.topic[0].clone())), "twice"),
        ] {
            assert!(error.contains(words), "{error}");
        }
        assert!(!format!("{:?}", config(|c| c.password = "secret".into())).contains("secret"));
    }
}
