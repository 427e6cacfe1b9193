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
const PATIENCE: Duration = Duration::from_secs(120);

/// Weir with authentication and TLS on every port; MQTT also has a port without. One process in a
/// folder of its own, or several as a fleet.
pub(crate) struct Site {
    dir: PathBuf,
    key: String,
    environment: Vec<(String, String)>,
    nodes: Vec<Node>,
}

/// A process, in the folder of the site if it is the first.
struct Node {
    dir: PathBuf,
    running: Option<Guarded>,
    addresses: Vec<(&'static str, String)>,
}

/// The servers of a fleet, without data.
#[derive(Debug, Clone)]
pub(crate) struct Servers {
    /// URL of Redis, for the logs.
    pub(crate) redis: String,
    /// URI of MongoDB, for the data and the registry.
    pub(crate) mongodb: String,
}

/// Options for the servers of a fleet.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct FleetOptions {
    /// URL of a Redis server without data, for a fleet; without one, each node is one of its own.
    #[arg(long, requires = "mongodb")]
    redis: Option<String>,
    /// URI of a MongoDB replica set without data.
    #[arg(long, requires = "redis")]
    mongodb: Option<String>,
}

impl FleetOptions {
    /// The servers; None without a fleet.
    pub(crate) fn servers(&self) -> Option<Servers> {
        let servers = self.redis.clone().zip(self.mongodb.clone());
        servers.map(|(redis, mongodb)| Servers { redis, mongodb })
    }
}

fn checked(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output().with_context(|| format!("start {command:?}"))?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{:?}: {}", command.get_args().collect::<Vec<_>>(), error.trim());
    Ok(String::from_utf8(output.stdout)?)
}

impl Site {
    /// Makes the registry, the certificate and the configuration, and starts one Weir.
    pub(crate) fn start(dir: &Path) -> anyhow::Result<Self> {
        Self::start_all(dir, 1, None)
    }

    /// Like [`Site::start`], with so many processes; more than one need `servers`.
    pub(crate) fn start_all(dir: &Path, processes: usize, servers: Option<&Servers>) -> anyhow::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let dir = std::path::absolute(dir)?;
        let mut environment = Vec::new();
        if let Some(servers) = servers {
            let peppers = dir.join("data/peppers").display().to_string();
            let settings = [
                ("WEIR_REDIS_URLS", &*servers.redis),
                ("WEIR_MONGODB_URI", &servers.mongodb),
                ("WEIR_AUTH_REGISTRY", "mongodb"),
                ("WEIR_AUTH_PEPPERS", &peppers),
                ("WEIR_FLEET_ADDRESS", "127.0.0.1:0"),
                ("WEIR_FLEET_SECRET", "known to all processes of this measurement"),
            ];
            environment.extend(settings.map(|(name, value)| (name.to_owned(), value.to_owned())));
        }
        let weir = |arguments: &[&str]| {
            let set = environment.iter().map(|(name, value): &(String, String)| (name, value));
            checked(Command::new(program("weir")?).current_dir(&dir).envs(set).args(arguments))
        };
        let key = weir(&["init", "--data-dir", "data"])?.trim().to_owned();
        weir(&["tls", "create"])?;
        let mut text = std::fs::read_to_string(dir.join("weir.toml"))?;
        let tls = dir.join("tls");
        text.push_str(&format!(
            "\n[tls]\ncertificate = {:?}\nkey = {:?}\n",
            tls.join("server.pem"),
            tls.join("server.key")
        ));
        let mut site = Self { dir, key, environment, nodes: Vec::new() };
        for number in 0..processes {
            let dir = if number == 0 { site.dir.clone() } else { site.dir.join(format!("node-{number}")) };
            std::fs::create_dir_all(&dir)?;
            std::fs::write(dir.join("weir.toml"), &text)?;
            let ports = ["WEIR_MQTT_ADDRESS", "WEIR_MQTT_TLS_ADDRESS", "WEIR_GRPC_ADDRESS", "WEIR_HTTP_ADDRESS"];
            let addresses = ports.map(|name| (name, "127.0.0.1:0".to_owned())).to_vec();
            site.nodes.push(Node { dir, running: None, addresses });
        }
        site.run()?;
        Ok(site)
    }

    /// Starts the processes; from the second time on with the addresses of the first.
    pub(crate) fn run(&mut self) -> anyhow::Result<Duration> {
        let begun = Instant::now();
        for (number, node) in self.nodes.iter_mut().enumerate() {
            node.spawn(number, &self.environment)?;
        }
        for node in &mut self.nodes {
            node.started()?;
        }
        Ok(begun.elapsed())
    }

    /// Ends the processes with kill -9.
    pub(crate) fn kill(&mut self) {
        self.nodes.iter_mut().for_each(|node| node.running = None);
    }

    /// The ids of the processes.
    pub(crate) fn pids(&self) -> anyhow::Result<Vec<u32>> {
        self.nodes.iter().map(|node| Ok(node.running.as_ref().context("weir runs")?.0.id())).collect()
    }

    /// The broker of the first process as `--broker` of the simulator.
    pub(crate) fn broker(&self, encrypted: bool) -> anyhow::Result<String> {
        self.broker_of(0, encrypted)
    }

    /// The broker of a process.
    pub(crate) fn broker_of(&self, node: usize, encrypted: bool) -> anyhow::Result<String> {
        let node = &self.nodes[node];
        Ok(match encrypted {
            true => format!("mqtts://localhost:{}", node.port("WEIR_MQTT_TLS_ADDRESS")?),
            false => format!("127.0.0.1:{}", node.port("WEIR_MQTT_ADDRESS")?),
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
        Ok(format!("https://localhost:{}", self.nodes[0].port("WEIR_GRPC_ADDRESS")?))
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

impl Node {
    fn spawn(&mut self, number: usize, environment: &[(String, String)]) -> anyhow::Result<()> {
        std::fs::remove_file(self.dir.join("data/addresses.json")).ok();
        let log = OpenOptions::new().create(true).append(true).open(self.dir.join("weir.log"))?;
        let mut command = Command::new(program("weir")?);
        command.arg("run").current_dir(&self.dir).envs(self.addresses.iter().map(|(name, text)| (*name, text)));
        command.envs(environment.iter().map(|(name, text)| (name, text)));
        if !environment.is_empty() {
            command.env("WEIR_REDIS_NODE", format!("node-{number}")).env("WEIR_DATA_DIR", self.dir.join("data"));
        }
        self.running = Some(Guarded(command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?));
        Ok(())
    }

    /// Waits until it has its addresses.
    fn started(&mut self) -> anyhow::Result<()> {
        let (file, log) = (self.dir.join("data/addresses.json"), self.dir.join("weir.log"));
        let found = addresses(self.running.as_mut().context("weir runs")?, &file, &log, PATIENCE)?;
        for (name, address) in &mut self.addresses {
            let key = match *name {
                "WEIR_MQTT_TLS_ADDRESS" => "mqtts",
                "WEIR_GRPC_ADDRESS" => "grpc",
                "WEIR_HTTP_ADDRESS" => "http",
                _ => "mqtt",
            };
            found[key].as_str().with_context(|| format!("addresses.json names {key}"))?.clone_into(address);
        }
        Ok(())
    }

    fn port(&self, name: &str) -> anyhow::Result<u16> {
        let (_, text) = self.addresses.iter().find(|(known, _)| *known == name).context("a known address")?;
        Ok(text.parse::<SocketAddr>()?.port())
    }
}

/// Waits between two samples.
#[expect(clippy::disallowed_methods, reason = "the time between two samples is not a state")]
pub(crate) fn pause(time: Duration) {
    std::thread::sleep(time);
}
