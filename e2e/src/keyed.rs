//! Weir with authentication.

use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context, ensure};
use serde_json::Value;

use crate::{Weir, checked, program};

/// Weir with authentication, and the key of its operator.
pub struct Keyed {
    /// The process.
    pub weir: Weir,
    /// The key of the operator.
    pub key: String,
}

/// Makes a registry in `dir/data`, and the key of its operator; writes `dir/weir.toml`.
///
/// # Errors
/// When `weir init` fails.
pub fn init(dir: &Path) -> anyhow::Result<String> {
    let mut command = Command::new(program("weir")?);
    command.current_dir(dir).args(["init", "--data-dir", "data"]);
    let key = checked("weir init", command.output()?)?.trim().to_owned();
    ensure!(key.starts_with("weir_") && key.lines().count() == 1, "{key:?}");
    Ok(key)
}

/// Starts Weir with the configuration `dir/weir.toml`.
///
/// # Errors
/// When it does not start.
pub fn run(dir: &Path) -> anyhow::Result<Weir> {
    let config = dir.join("weir.toml");
    let config = config.to_str().context("a path in UTF-8")?;
    Weir::start_with(dir, "127.0.0.1:0", &[("WEIR_CONFIG", config)])
}

/// Weir with authentication and TLS on every port; `tls/ca.pem` in its folder is the authority of
/// its certificate.
pub struct Encrypted {
    /// The process, and the key of the operator.
    pub keyed: Keyed,
    /// Port of MQTT over TLS.
    pub mqtts: u16,
}

impl Encrypted {
    /// Makes the registry and the certificate, and starts Weir.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(dir: &Path) -> anyhow::Result<Self> {
        let key = init(dir)?;
        checked("weir tls create", Command::new(program("weir")?).current_dir(dir).args(["tls", "create"]).output()?)?;
        let mut text = std::fs::read_to_string(dir.join("weir.toml"))?;
        let (certificate, key_file) = (dir.join("tls/server.pem"), dir.join("tls/server.key"));
        text.push_str(&format!("\n[tls]\ncertificate = {certificate:?}\nkey = {key_file:?}\n"));
        text.push_str("\n[mqtt]\ntls_address = \"127.0.0.1:0\"\n");
        std::fs::write(dir.join("weir.toml"), text)?;
        let weir = run(dir)?;
        let addresses: Value = serde_json::from_str(&std::fs::read_to_string(dir.join("data/addresses.json"))?)?;
        let port = addresses["mqtts"].as_str().and_then(|text| text.rsplit_once(':')).context("a port for TLS")?.1;
        Ok(Self { keyed: Keyed { weir, key }, mqtts: port.parse()? })
    }

    /// The server as commands name it; they also need `tls/ca.pem`.
    pub fn url(&self) -> String {
        format!("https://localhost:{}", self.keyed.weir.grpc.port())
    }
}

impl Keyed {
    /// Makes the registry and starts Weir.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(dir: &Path) -> anyhow::Result<Self> {
        let key = init(dir)?;
        Ok(Self { weir: run(dir)?, key })
    }

    /// Runs a command with a key.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn output(&self, key: &str, arguments: &[&str]) -> anyhow::Result<Output> {
        let mut command = Command::new(program("weir")?);
        command.args(arguments).args(["--server", &self.weir.url()]);
        Ok(command.env("WEIR_API_KEY", key).output()?)
    }

    /// Runs a command that succeeds; returns what it prints.
    ///
    /// # Errors
    /// When it fails.
    pub fn cli(&self, key: &str, arguments: &[&str]) -> anyhow::Result<String> {
        checked(&format!("weir {arguments:?}"), self.output(key, arguments)?)
    }

    /// Runs a command that is refused; returns its error.
    ///
    /// # Errors
    /// When it succeeds.
    pub fn refused(&self, key: &str, arguments: &[&str]) -> anyhow::Result<String> {
        let output = self.output(key, arguments)?;
        ensure!(!output.status.success(), "weir {arguments:?} succeeded");
        Ok(String::from_utf8(output.stderr)?)
    }

    /// Runs a command that succeeds; returns its JSON.
    ///
    /// # Errors
    /// When it fails.
    pub fn json(&self, key: &str, arguments: &[&str]) -> anyhow::Result<Value> {
        let text = self.cli(key, &[arguments, &["--format", "json"]].concat())?;
        serde_json::from_str(&text).with_context(|| text.clone())
    }

    /// Creates a key; returns its id and the key.
    ///
    /// # Errors
    /// When the command fails.
    pub fn add_key(&self, name: &str, role: &str) -> anyhow::Result<(String, String)> {
        let answer = self.json(&self.key, &["keys", "add", name, "--role", role])?;
        Ok((text(&answer, "id")?, text(&answer, "key")?))
    }

    /// Adds a device of the operator's tenant; returns the id of its credential, and its password.
    ///
    /// # Errors
    /// When the command fails.
    pub fn add_device(&self, device: &str) -> anyhow::Result<(String, String)> {
        self.add_device_of("-", device)
    }

    /// As [`Keyed::add_device`], for a device of another tenant.
    ///
    /// # Errors
    /// When the command fails.
    pub fn add_device_of(&self, tenant: &str, device: &str) -> anyhow::Result<(String, String)> {
        let answer = self.json(&self.key, &["devices", "add", device, "--tenant", tenant])?;
        ensure!(text(&answer, "user")? == device, "{answer}");
        Ok((text(&answer, "id")?, text(&answer, "password")?))
    }

    /// Publishes a reading with mosquitto_pub.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn publish(
        &self,
        version: &str,
        user: Option<(&str, &str)>,
        client: &str,
        topic: &str,
    ) -> anyhow::Result<Output> {
        let port = self.weir.mqtt.port().to_string();
        let mut command = Command::new("mosquitto_pub");
        command.args(["-h", "127.0.0.1", "-p", &port, "-V", version, "-q", "1", "-i", client, "-t", topic]);
        command.args(["-m", r#"{"n":1}"#]);
        if let Some((user, password)) = user {
            command.args(["-u", user, "-P", password]);
        }
        Ok(command.output()?)
    }
}

fn text(answer: &Value, name: &str) -> anyhow::Result<String> {
    Ok(answer[name].as_str().with_context(|| format!("{name} in {answer}"))?.to_owned())
}
