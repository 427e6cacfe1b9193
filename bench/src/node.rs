//! Nodes of a measurement, which keep their addresses over a restart, and what they report.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::Value;

use crate::process::{Guarded, addresses, program};
use crate::site::{Servers, pause};

/// Time for a state that is waited for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// A node without authentication. Its folder may have a `weir.toml`.
pub(crate) struct Node {
    pub(crate) dir: PathBuf,
    pub(crate) running: Option<Guarded>,
    environment: Vec<(String, String)>,
    at: [String; 3],
    found: Value,
}

impl Node {
    /// A node in a folder of its own below `dir`.
    pub(crate) fn new(dir: &Path, number: usize) -> Self {
        let at = ["127.0.0.1:0"; 3].map(str::to_owned);
        Self { dir: dir.join(format!("node-{number}")), running: None, environment: Vec::new(), at, found: Value::Null }
    }

    /// The same node as one of a fleet over these servers.
    pub(crate) fn of_fleet(self, number: usize, servers: &Servers) -> Self {
        self.with(&[
            ("WEIR_REDIS_URLS", &*servers.redis),
            ("WEIR_MONGODB_URI", &servers.mongodb),
            ("WEIR_REDIS_NODE", &format!("node-{number}")),
            ("WEIR_FLEET_ADDRESS", "127.0.0.1:0"),
            ("WEIR_FLEET_SECRET", "known to all nodes of this measurement"),
        ])
    }

    /// The same node with further environment variables.
    pub(crate) fn with(mut self, environment: &[(&str, &str)]) -> Self {
        self.environment.extend(environment.iter().map(|(name, value)| (name.to_string(), value.to_string())));
        self
    }

    /// The file with its addresses, which is there while it runs.
    pub(crate) fn file(&self) -> PathBuf {
        self.dir.join("data/addresses.json")
    }

    /// Starts it, from the second time on at the addresses of the first, and waits until it is
    /// ready.
    pub(crate) fn start(&mut self) -> anyhow::Result<()> {
        std::fs::create_dir_all(&self.dir)?;
        std::fs::remove_file(self.file()).ok();
        let path = self.dir.join("weir.log");
        let log = OpenOptions::new().create(true).append(true).open(&path)?;
        let [mqtt, grpc, http] = &self.at;
        let mut command = Command::new(program("weir")?);
        command.current_dir(&self.dir).args(["run", "--mqtt", mqtt, "--grpc", grpc, "--http", http]);
        command.args(["--data-dir", "data"]).envs(self.environment.iter().map(|(name, value)| (name, value)));
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        let (file, running) = (self.file(), self.running.insert(Guarded(child)));
        self.found = addresses(running, &file, &path, PATIENCE)?;
        for (at, key) in self.at.iter_mut().zip(["mqtt", "grpc", "http"]) {
            self.found[key].as_str().with_context(|| format!("addresses.json names {key}"))?.clone_into(at);
        }
        if self.found["tls"] == true {
            // HTTP is encrypted as well; a node alone accepts devices when it has its addresses.
            return Ok(());
        }
        wait("the node is ready", || Ok(self.get("/health/ready").is_some_and(|text| text.starts_with("HTTP/1.1 200"))))
    }

    /// Its address for devices over TLS.
    pub(crate) fn mqtts(&self) -> anyhow::Result<&str> {
        self.found["mqtts"].as_str().context("the node has a port for TLS")
    }

    /// The address of a listener of its `weir.toml`.
    pub(crate) fn listener(&self, name: &str) -> anyhow::Result<&str> {
        self.found["listeners"][name].as_str().with_context(|| format!("the node has the listener {name}"))
    }

    /// Its address for devices without TLS.
    pub(crate) fn mqtt(&self) -> &str {
        &self.at[0]
    }

    /// Its address for gRPC.
    pub(crate) fn grpc(&self) -> &str {
        &self.at[1]
    }

    /// Its process.
    pub(crate) fn pid(&self) -> anyhow::Result<u32> {
        Ok(self.running.as_ref().context("the node runs")?.0.id())
    }

    /// The answer to a GET; `None` when the node does not answer.
    fn get(&self, path: &str) -> Option<String> {
        let address: SocketAddr = self.at[2].parse().ok()?;
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        Some(text)
    }

    /// The value of a metric without labels; `None` when the node does not answer.
    pub(crate) fn figure(&self, name: &str) -> Option<u64> {
        let text = self.get("/metrics")?;
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
    }
}

/// Connections of all nodes that answer.
pub(crate) fn connections(nodes: &[Node]) -> u64 {
    nodes.iter().filter_map(|node| node.figure("weir_broker_connections")).sum()
}

/// Waits for a state.
///
/// # Errors
/// When it is not there in time.
pub(crate) fn wait(what: &str, mut state: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let begun = Instant::now();
    while !state()? {
        ensure!(begun.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        pause(Duration::from_millis(100));
    }
    Ok(())
}
