//! A Weir with authentication for a measurement, and the commands of its operator.

use std::fs::{File, OpenOptions};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::Value;

use crate::process::{Guarded, addresses, program};

/// Time for a start.
const PATIENCE: Duration = Duration::from_secs(60);

/// Weir in a folder of its own, with authentication and TLS on every port; MQTT also has a port
/// without.
pub(crate) struct Site {
    dir: PathBuf,
    key: String,
    running: Option<Guarded>,
    addresses: Vec<(&'static str, String)>,
}

fn checked(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output().with_context(|| format!("start {command:?}"))?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{:?}: {}", command.get_args().collect::<Vec<_>>(), error.trim());
    Ok(String::from_utf8(output.stdout)?)
}

impl Site {
    /// Makes the registry, the certificate and the configuration, and starts Weir.
    pub(crate) fn start(dir: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let dir = std::path::absolute(dir)?;
        let weir = |arguments: &[&str]| checked(Command::new(program("weir")?).current_dir(&dir).args(arguments));
        let key = weir(&["init", "--data-dir", "data"])?.trim().to_owned();
        weir(&["tls", "create"])?;
        let mut text = std::fs::read_to_string(dir.join("weir.toml"))?;
        let tls = dir.join("tls");
        text.push_str(&format!(
            "\n[tls]\ncertificate = {:?}\nkey = {:?}\n",
            tls.join("server.pem"),
            tls.join("server.key")
        ));
        std::fs::write(dir.join("weir.toml"), text)?;
        let any = "127.0.0.1:0".to_owned();
        let ports = ["WEIR_MQTT_ADDRESS", "WEIR_MQTT_TLS_ADDRESS", "WEIR_GRPC_ADDRESS", "WEIR_HTTP_ADDRESS"];
        let addresses = ports.map(|name| (name, any.clone())).to_vec();
        let mut site = Self { dir, key, running: None, addresses };
        site.run()?;
        Ok(site)
    }

    /// Starts the process; from the second time on with the addresses of the first.
    pub(crate) fn run(&mut self) -> anyhow::Result<Duration> {
        let begun = Instant::now();
        let file = self.dir.join("data/addresses.json");
        std::fs::remove_file(&file).ok();
        let path = self.dir.join("weir.log");
        let log = OpenOptions::new().create(true).append(true).open(&path)?;
        let mut command = Command::new(program("weir")?);
        command.arg("run").current_dir(&self.dir).envs(self.addresses.iter().map(|(name, text)| (*name, text)));
        let mut child = Guarded(command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?);
        let found = addresses(&mut child, &file, &path, PATIENCE)?;
        self.running = Some(child);
        for (name, address) in &mut self.addresses {
            let key = match *name {
                "WEIR_MQTT_TLS_ADDRESS" => "mqtts",
                "WEIR_GRPC_ADDRESS" => "grpc",
                "WEIR_HTTP_ADDRESS" => "http",
                _ => "mqtt",
            };
            found[key].as_str().with_context(|| format!("addresses.json names {key}"))?.clone_into(address);
        }
        Ok(begun.elapsed())
    }

    /// Ends the process with kill -9.
    pub(crate) fn kill(&mut self) {
        self.running = None;
    }

    /// The id of the process.
    pub(crate) fn pid(&self) -> anyhow::Result<u32> {
        Ok(self.running.as_ref().context("weir runs")?.0.id())
    }

    fn port(&self, name: &str) -> anyhow::Result<u16> {
        let (_, text) = self.addresses.iter().find(|(known, _)| *known == name).context("a known address")?;
        Ok(text.parse::<SocketAddr>()?.port())
    }

    /// The broker as `--broker` of the simulator.
    pub(crate) fn broker(&self, encrypted: bool) -> anyhow::Result<String> {
        Ok(match encrypted {
            true => format!("mqtts://localhost:{}", self.port("WEIR_MQTT_TLS_ADDRESS")?),
            false => format!("127.0.0.1:{}", self.port("WEIR_MQTT_ADDRESS")?),
        })
    }

    /// `weir-sim` in the folder, with the key and the authority of the site.
    pub(crate) fn simulator(&self, arguments: &[&str]) -> anyhow::Result<Command> {
        let mut command = Command::new(program("weir-sim")?);
        command.current_dir(&self.dir).args(arguments).stdin(Stdio::null());
        command.env("WEIR_API_KEY", &self.key).env("WEIR_CA", self.dir.join("tls/ca.pem"));
        Ok(command)
    }

    /// The same with `--server`.
    pub(crate) fn simulator_of_server(&self, arguments: &[&str]) -> anyhow::Result<Command> {
        let mut command = self.simulator(arguments)?;
        command.args(["--server", &self.url()?]);
        Ok(command)
    }

    /// The address for gRPC clients.
    pub(crate) fn url(&self) -> anyhow::Result<String> {
        Ok(format!("https://localhost:{}", self.port("WEIR_GRPC_ADDRESS")?))
    }

    /// Runs a command of the operator and returns its JSON: of several lines, the first.
    pub(crate) fn weir(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        let mut command = Command::new(program("weir")?);
        command.current_dir(&self.dir).env("WEIR_API_KEY", &self.key).args(arguments);
        command.args(["--server", &self.url()?, "--ca", "tls/ca.pem", "--format", "json"]);
        let text = checked(&mut command)?;
        let mut lines = serde_json::Deserializer::from_str(&text).into_iter();
        lines.next().unwrap_or(Ok(Value::Null)).with_context(|| format!("{arguments:?} prints JSON, not {text:.80?}"))
    }

    /// Creates credentials and appends them to a file; its first line is the header of the first.
    pub(crate) fn credentials(&self, file: &str, arguments: &[&str]) -> anyhow::Result<()> {
        let text = checked(self.simulator_of_server(&["credentials"])?.args(arguments))?;
        let path = self.dir.join(file);
        let text = if path.exists() { text.split_once('\n').map_or("", |(_, rows)| rows) } else { &text };
        let mut out = OpenOptions::new().create(true).append(true).open(&path)?;
        std::io::Write::write_all(&mut out, text.as_bytes())?;
        Ok(())
    }

    /// A file of the folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// A new file of the folder, for the output of a process.
    pub(crate) fn file(&self, name: &str) -> anyhow::Result<File> {
        Ok(File::create(self.path(name))?)
    }
}

/// Waits between two samples.
#[expect(clippy::disallowed_methods, reason = "the time between two samples is not a state")]
pub(crate) fn pause(time: Duration) {
    std::thread::sleep(time);
}
