//! `[[mqtt.listener]]`: ways in for devices besides `mqtt.address` and `mqtt.tls_address`, each
//! with settings of its own.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Config, Key, keys, load};

/// Name of the listener at `mqtt.address`.
pub(crate) const PLAIN: &str = "mqtt";
/// Name of the listener at `mqtt.tls_address`.
pub(crate) const ENCRYPTED: &str = "mqtts";
/// Begins the variables of listeners: `WEIR_LISTENER_<NAME>_<KEY>`.
pub(super) const VARIABLE: &str = "WEIR_LISTENER_";
/// More listeners than this are not needed by one process.
const MOST: usize = 32;
const MOST_NETWORKS: usize = 256;
/// The longest path of a Unix socket that the system accepts, with the name that it has at first.
const MOST_PATH_BYTES: usize = 90;

/// One `[[mqtt.listener]]` table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub(crate) struct Listener {
    /// Name in logs, metrics, `weir status` and addresses.json: lowercase letters, digits and
    /// dashes.
    pub(crate) name: String,
    /// IP address and port, as 0.0.0.0:8884; the path of a Unix socket, as
    /// unix:/run/weir/mqtt.sock; or the name of a socket that systemd passes on
    /// (`FileDescriptorName=`), as systemd:plant.
    pub(crate) address: String,
    /// Connections are encrypted, with the certificate of `[tls]`, or with that of
    /// `tls_certificate`.
    pub(crate) tls: bool,
    /// PEM file with a certificate for this listener in place of `tls.certificate`.
    pub(crate) tls_certificate: PathBuf,
    /// PEM file with the private key of `tls_certificate`.
    pub(crate) tls_key: PathBuf,
    /// PEM file with the authorities of the certificates of this listener's devices. Empty:
    /// `tls.client_ca`.
    pub(crate) tls_client_ca: PathBuf,
    /// Clients speak MQTT over WebSocket, at the path /mqtt.
    pub(crate) websocket: bool,
    /// Origins of web pages that may connect over WebSocket, as `https://app.example.com`; `"*"`
    /// allows every page. Clients that are no browsers need none, nor do pages of this listener's
    /// own host, if that is an IP address, a name without a dot, or the connection is encrypted.
    pub(crate) origins: Vec<String>,
    /// Every connection is from a load balancer, and begins with a header of the PROXY protocol
    /// (version 1 or 2): the client's address is the one in it.
    pub(crate) proxy_protocol: bool,
    /// Addresses or networks (CIDR) of these load balancers; others are closed. A Unix socket has
    /// none: its permissions decide.
    pub(crate) trusted: Vec<String>,
    /// Addresses or networks (CIDR) of clients; others are closed. Empty: all.
    pub(crate) allowed: Vec<String>,
    /// Clients without a certificate are closed. Needs `tls`, and `auth.required` or
    /// `tls.client_ca`.
    pub(crate) client_certificate: bool,
    /// Maximum number of connections of this listener, within `mqtt.max_connections`. 0: no other
    /// limit than that.
    pub(crate) max_connections: usize,
    /// Longest keep-alive, in seconds. 0: `mqtt.max_keep_alive_secs`.
    pub(crate) max_keep_alive_secs: u16,
    /// Permissions of a Unix socket, octal.
    pub(crate) mode: String,
}

impl Default for Listener {
    fn default() -> Self {
        Self {
            name: String::new(),
            address: String::new(),
            tls: false,
            tls_certificate: PathBuf::new(),
            tls_key: PathBuf::new(),
            tls_client_ca: PathBuf::new(),
            websocket: false,
            origins: Vec::new(),
            proxy_protocol: false,
            trusted: Vec::new(),
            allowed: Vec::new(),
            client_certificate: false,
            max_connections: 0,
            max_keep_alive_secs: 0,
            mode: "660".to_owned(),
        }
    }
}

/// Where a listener is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Site {
    /// At a port.
    Tcp(SocketAddr),
    /// At the path of a Unix socket, with its permissions.
    Unix(PathBuf, u32),
    /// At a socket that systemd passes on under a name.
    Systemd(String),
}

impl Listener {
    /// Returns where it is.
    ///
    /// # Errors
    /// Names the key.
    pub(crate) fn site(&self) -> anyhow::Result<Site> {
        if let Some(path) = self.address.strip_prefix("unix:") {
            ensure!(
                path.starts_with('/') && !path.ends_with('/') && path.len() <= MOST_PATH_BYTES,
                "`address` is {:?}: give the path of a Unix socket from the root on, of at most {MOST_PATH_BYTES} bytes, as \
                 unix:/run/weir/mqtt.sock",
                self.address
            );
            let mode = u32::from_str_radix(&self.mode, 8).ok().filter(|mode| (1..=0o777).contains(mode));
            let mode = mode.with_context(|| format!("`mode` is {:?}: give three octal digits, as 660", self.mode))?;
            return Ok(Site::Unix(path.into(), mode));
        }
        if let Some(name) = self.address.strip_prefix("systemd:") {
            ensure!(
                !name.is_empty(),
                "`address` is \"systemd:\": give the `FileDescriptorName=` of the socket, as systemd:plant"
            );
            return Ok(Site::Systemd(name.to_owned()));
        }
        let address = self.address.parse().ok();
        address.map(Site::Tcp).with_context(|| {
            format!(
                "`address` is {:?}: give an IP address and a port, as 0.0.0.0:8884, or unix:/run/weir/mqtt.sock, or systemd:plant",
                self.address
            )
        })
    }

    /// The files of its encryption where they are not those of `[tls]`; `None` when they are.
    pub(crate) fn files(&self, config: &Config) -> Option<tls::ServerFiles> {
        let is_set = |path: &Path| !path.as_os_str().is_empty();
        let named = |key: &str, path: &Path| tls::Named::new(format!("mqtt.listener.{}.{key}", self.name), path);
        let shared = config.tls.files();
        if !self.tls || !is_set(&self.tls_certificate) && !is_set(&self.tls_client_ca) {
            return None;
        }
        let (certificate, key) = match is_set(&self.tls_certificate) {
            true => (named("tls_certificate", &self.tls_certificate), named("tls_key", &self.tls_key)),
            false => shared.as_ref().map(|files| (files.certificate.clone(), files.key.clone()))?,
        };
        let client_ca = match is_set(&self.tls_client_ca) {
            true => Some(named("tls_client_ca", &self.tls_client_ca)),
            false => shared.and_then(|files| files.client_ca),
        };
        Some(tls::ServerFiles { certificate, key, client_ca })
    }

    /// True when it has a file of its own.
    pub(super) fn has_files(&self) -> bool {
        [&self.tls_certificate, &self.tls_key, &self.tls_client_ca].iter().any(|path| !path.as_os_str().is_empty())
    }

    /// The settings for the broker.
    ///
    /// # Errors
    /// Names the key.
    pub(crate) fn settings(&self) -> anyhow::Result<broker::Settings> {
        Ok(broker::Settings {
            name: self.name.as_str().into(),
            websocket: self.websocket.then(|| broker::Origins::new(&self.origins)),
            proxies: if self.proxy_protocol { Some(networks("trusted", &self.trusted)?) } else { None },
            allowed: networks("allowed", &self.allowed)?,
            max_connections: (self.max_connections > 0).then_some(self.max_connections),
            max_keep_alive_secs: (self.max_keep_alive_secs > 0).then_some(self.max_keep_alive_secs),
            requires_certificate: self.client_certificate,
        })
    }

    /// Checks the keys, also against each other and the rest of the configuration.
    fn check(&self, config: &Config) -> anyhow::Result<()> {
        let is_unix = matches!(self.site()?, Site::Unix(..));
        self.settings()?;
        let has_own = !self.tls_certificate.as_os_str().is_empty();
        ensure!(
            has_own != self.tls_key.as_os_str().is_empty(),
            "`tls_certificate` and `tls_key` belong together: give both, or none"
        );
        ensure!(
            !self.tls || has_own || config.tls.is_used(),
            "`tls` needs a certificate: set `tls.certificate` and `tls.key`, or `tls_certificate` and `tls_key` (`weir tls create` \
             makes them)"
        );
        ensure!(self.tls || !self.has_files(), "`tls_certificate`, `tls_key` and `tls_client_ca` need `tls = true`");
        ensure!(!self.tls || !is_unix, "`tls` is for ports: what passes through a Unix socket stays on this machine");
        ensure!(self.websocket || self.origins.is_empty(), "`origins` needs `websocket = true`");
        for origin in &self.origins {
            let host = origin.split_once("://").map(|(_, host)| host.trim_end_matches('/'));
            ensure!(
                origin == "*" || host.is_some_and(|host| !host.is_empty() && !host.contains('/')),
                "`origins` holds {origin:?}: give scheme and host, as https://app.example.com, or \"*\""
            );
        }
        ensure!(
            self.proxy_protocol || self.trusted.is_empty(),
            "`trusted` needs `proxy_protocol = true`: without it, the address of a client is that of its connection"
        );
        ensure!(
            !self.proxy_protocol || is_unix || !self.trusted.is_empty(),
            "`proxy_protocol` needs the addresses of the load balancers in `trusted`: others could claim to be any client"
        );
        ensure!(
            self.allowed.is_empty() || !is_unix || self.proxy_protocol,
            "`allowed` is for ports: the permissions of a Unix socket (`mode`) decide who connects"
        );
        ensure!(!self.client_certificate || self.tls, "`client_certificate` needs `tls = true`");
        ensure!(
            !self.client_certificate
                || config.auth.required
                || [&self.tls_client_ca, &config.tls.client_ca].iter().any(|path| !path.as_os_str().is_empty()),
            "`client_certificate` needs `auth.required = true`, `tls_client_ca` or `tls.client_ca`: without them, no certificate is \
             asked for"
        );
        Ok(())
    }
}

/// Addresses and networks of a key.
fn networks(key: &str, texts: &[String]) -> anyhow::Result<Vec<IpNet>> {
    ensure!(texts.len() <= MOST_NETWORKS, "`{key}` has {} networks: give at most {MOST_NETWORKS}", texts.len());
    let network = |text: &String| {
        let address = text.parse::<IpAddr>().ok().map(IpNet::from);
        address.or_else(|| text.parse().ok()).with_context(|| {
            format!(
                "`{key}` holds {text:?}, which is not an address or a network: use 10.0.0.7, 10.0.0.0/8 or fd00::/8"
            )
        })
    };
    texts.iter().map(network).collect()
}

/// Checks all listeners.
///
/// # Errors
/// Names the listener and the key.
pub(super) fn check(config: &Config) -> anyhow::Result<()> {
    let listeners = &config.mqtt.listener;
    ensure!(listeners.len() <= MOST, "there are {} [[mqtt.listener]]: give at most {MOST}", listeners.len());
    let mut names = BTreeSet::from([PLAIN, ENCRYPTED]);
    for (number, listener) in listeners.iter().enumerate() {
        let name = listener.name.as_str();
        let is_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        ensure!(
            !name.is_empty() && name.len() <= 40 && name.bytes().all(is_name),
            "`name` of [[mqtt.listener]] number {} is {name:?}: give at most 40 lowercase letters, digits and dashes",
            number + 1
        );
        ensure!(
            names.insert(name),
            "two listeners have the `name` {name:?} ({PLAIN} is that of `mqtt.address`, {ENCRYPTED} that of \
             `mqtt.tls_address`): give each one of its own"
        );
        listener.check(config).with_context(|| format!("[[mqtt.listener]] {name}"))?;
    }
    Ok(())
}

/// Sets the key of a listener that a variable names. False when it names none.
///
/// # Errors
/// When the text cannot be read as a value of the key.
pub(super) fn set(config: &mut Config, variable: &str, text: &str) -> anyhow::Result<bool> {
    let Some(rest) = variable.strip_prefix(VARIABLE) else { return Ok(false) };
    for listener in &mut config.mqtt.listener {
        let name = listener.name.replace('-', "_").to_uppercase();
        let Some(wanted) = rest.strip_prefix(name.as_str()).and_then(|rest| rest.strip_prefix('_')) else { continue };
        if let Some(changed) =
            load::changed(listener, wanted, text).with_context(|| format!("[[mqtt.listener]] {}", listener.name))?
        {
            *listener = changed;
            return Ok(true);
        }
    }
    Ok(false)
}

/// The documented keys.
pub(super) fn documented() -> Vec<Key> {
    keys::of::<Listener>()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TLS: &str = "[tls]\ncertificate = 'server.pem'\nkey = 'server.key'\n";

    fn read(base: &str, text: &str) -> anyhow::Result<Config> {
        let config: Config = toml::from_str(&format!("{base}{text}"))?;
        config.check()?;
        config.check_exposure()?;
        Ok(config)
    }

    fn listener(text: &str) -> String {
        format!("[[mqtt.listener]]\nname = 'a'\n{text}\n")
    }

    #[test]
    fn listeners_have_settings_of_their_own() {
        let text = "[[mqtt.listener]]\nname = 'browsers'\naddress = '127.0.0.1:9001'\nwebsocket = true\n\
                    origins = ['https://app.example.com']\nmax_connections = 7\n\
                    [[mqtt.listener]]\nname = 'local'\naddress = 'unix:/run/weir.sock'\nmode = '600'\nproxy_protocol = true\n\
                    allowed = ['10.0.0.0/8']\n\
                    [[mqtt.listener]]\nname = 'plant'\naddress = 'systemd:plant'\ntls = true\nproxy_protocol = true\n\
                    trusted = ['10.0.0.7', 'fd00::/8']\nmax_keep_alive_secs = 60\n";
        let config = read(TLS, text).unwrap();
        let [browsers, local, plant] = &config.mqtt.listener[..] else { panic!("three") };
        assert_eq!(browsers.site().unwrap(), Site::Tcp("127.0.0.1:9001".parse().unwrap()));
        assert_eq!(browsers.settings().unwrap().max_connections, Some(7));
        assert_eq!(local.site().unwrap(), Site::Unix("/run/weir.sock".into(), 0o600));
        assert_eq!(plant.site().unwrap(), Site::Systemd("plant".into()));
        let settings = plant.settings().unwrap();
        assert_eq!(settings.proxies.unwrap().len(), 2);
        assert_eq!((settings.max_keep_alive_secs, settings.max_connections), (Some(60), None));
    }

    #[test]
    fn variables_set_keys_of_a_listener() {
        let mut config = read(TLS, &listener("address = '127.0.0.1:9001'").replace("'a'", "'to-plant'")).unwrap();
        for (key, text) in [
            ("ADDRESS", "127.0.0.1:9002"),
            ("TLS", "true"),
            ("TLS_CERTIFICATE", "/tls/plant.pem"),
            ("TLS_KEY", "/tls/plant.key"),
            ("ALLOWED", "10.0.0.0/8, fd00::/8"),
            ("MAX_CONNECTIONS", "7"),
        ] {
            assert!(set(&mut config, &format!("WEIR_LISTENER_TO_PLANT_{key}"), text).unwrap(), "{key}");
        }
        config.check().unwrap();
        let listener = &config.mqtt.listener[0];
        assert_eq!(listener.site().unwrap(), Site::Tcp("127.0.0.1:9002".parse().unwrap()));
        assert_eq!((listener.allowed.len(), listener.max_connections, listener.tls), (2, 7, true));
        assert_eq!(listener.files(&config).unwrap().certificate.path, PathBuf::from("/tls/plant.pem"));
        assert!(!set(&mut config, "WEIR_LISTENER_TO_PLANT_NAME", "x").unwrap());
        assert!(!set(&mut config, "WEIR_LISTENER_OTHER_TLS", "true").unwrap());
        let error = format!("{:#}", set(&mut config, "WEIR_LISTENER_TO_PLANT_TLS", "maybe").unwrap_err());
        assert!(error.contains("[[mqtt.listener]] to-plant") && error.contains("`tls`"), "{error}");
    }

    #[test]
    fn a_listener_has_files_of_its_own_or_those_of_the_installation() {
        let port = "address = '127.0.0.1:9001'\ntls = true\n";
        let files = |base: &str, keys: &str| {
            let config = read(base, &listener(&format!("{port}{keys}"))).unwrap();
            config.mqtt.listener[0].files(&config).map(|files| {
                let key = |file: &tls::Named| (file.key.clone(), file.path.display().to_string());
                [Some(key(&files.certificate)), Some(key(&files.key)), files.client_ca.as_ref().map(key)]
            })
        };
        let file = |key: &str, path: &str| Some((key.to_owned(), path.to_owned()));
        let of_a = |key: &str, path: &str| file(&format!("mqtt.listener.a.{key}"), path);
        assert_eq!(files(TLS, ""), None);
        let own = "tls_certificate = 'a.pem'\ntls_key = 'a.key'\n";
        let pair = [of_a("tls_certificate", "a.pem"), of_a("tls_key", "a.key")];
        assert_eq!(files("", own).unwrap(), [pair[0].clone(), pair[1].clone(), None]);
        let shared = format!("{TLS}client_ca = 'devices.pem'\n");
        let [_, _, ca] = files(&shared, own).unwrap();
        assert_eq!(ca, file("tls.client_ca", "devices.pem"));
        let [certificate, _, ca] = files(TLS, "tls_client_ca = 'plant.pem'\nclient_certificate = true").unwrap();
        assert_eq!((certificate, ca), (file("tls.certificate", "server.pem"), of_a("tls_client_ca", "plant.pem")));
    }

    #[test]
    fn what_cannot_be_is_refused_with_the_listener_and_the_key() {
        let port = "address = '127.0.0.1:9001'\n";
        let unix = "address = 'unix:/run/weir.sock'\n";
        for (text, words) in [
            ("[[mqtt.listener]]\naddress = '127.0.0.1:1'\n".to_owned(), "`name` of [[mqtt.listener]] number 1"),
            (listener(port) + &listener(port), "two listeners have the `name` \"a\""),
            (listener(port).replace("'a'", "'mqtts'"), "`mqtt.tls_address`"),
            (listener(port).replace("'a'", "'A b'"), "lowercase"),
            (listener(""), "`address` is \"\""),
            (listener("address = 'localhost:1'"), "`address` is \"localhost:1\""),
            (listener("address = 'unix:weir.sock'"), "from the root on"),
            (listener("address = 'systemd:'"), "FileDescriptorName="),
            (listener(&format!("{unix}mode = '999'")), "`mode` is \"999\""),
            (listener(&format!("{unix}mode = '0'")), "`mode`"),
            (listener(&format!("{port}tls = true")), "`tls.certificate`"),
            (TLS.to_owned() + &listener(&format!("{unix}tls = true")), "stays on this machine"),
            (listener(&format!("{port}origins = ['*']")), "`websocket = true`"),
            (listener(&format!("{port}websocket = true\norigins = ['app.example.com']")), "https://app.example.com"),
            (listener(&format!("{port}websocket = true\norigins = ['https://a/b']")), "`origins` holds"),
            (listener(&format!("{port}trusted = ['10.0.0.1']")), "`proxy_protocol = true`"),
            (listener(&format!("{port}proxy_protocol = true")), "`trusted`"),
            (listener(&format!("{port}proxy_protocol = true\ntrusted = ['here']")), "`trusted` holds \"here\""),
            (listener(&format!("{port}allowed = ['10.0.0.0/40']")), "`allowed` holds"),
            (listener(&format!("{unix}allowed = ['10.0.0.0/8']")), "`mode`"),
            (listener(&format!("{port}client_certificate = true")), "`tls = true`"),
            (listener(&format!("{port}tls = true\ntls_certificate = 'a.pem'")), "`tls_key` belong together"),
            (TLS.to_owned() + &listener(&format!("{port}tls_client_ca = 'a.pem'")), "need `tls = true`"),
            (TLS.to_owned() + &listener(&format!("{port}tls = true\nclient_certificate = true")), "`tls.client_ca`"),
        ] {
            let error = format!("{:#}", read("", &text).unwrap_err());
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn a_listener_that_others_can_reach_needs_encryption_and_authentication() {
        let open = "address = '0.0.0.0:9001'\nwebsocket = true\n";
        let error = |base: &str, text: &str| format!("{:#}", read(base, &listener(text)).unwrap_err());
        assert!(error("", open).contains("[[mqtt.listener]] a"), "{}", error("", open));
        assert!(error("[auth]\nrequired = true\n", open).contains("`tls = true`"));
        assert!(error(TLS, &format!("{open}tls = true\n")).contains("`auth.required = true`"));
        let authenticated = format!("{TLS}[auth]\nrequired = true\n");
        read(&authenticated, &listener(&format!("{open}tls = true\n"))).unwrap();
        read("insecure = true\n", &listener(open)).unwrap();
    }
}
