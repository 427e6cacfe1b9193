//! A rolling restart of three nodes of a fleet, behind a load balancer, with devices that publish.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde::Deserialize;
use serde_json::Value;

use crate::process::{Guarded, addresses, program};
use crate::site::pause;

/// Options of the measurement.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// URL of a Redis server without data.
    #[arg(long)]
    redis: String,
    /// URI of a MongoDB replica set without data.
    #[arg(long)]
    mongodb: String,
    /// Devices; half of them speak MQTT 3.1.1, half MQTT 5. Each is two open files of a balancer,
    /// of which there are two.
    #[arg(long, default_value_t = 10_000)]
    devices: usize,
    /// Seconds between two messages of a device.
    #[arg(long, default_value_t = 10)]
    interval: u64,
    /// `mqtt.drain_connections_per_second` of the nodes.
    #[arg(long, default_value_t = 500)]
    rate: u32,
    /// `mqtt.drain_secs` of the nodes; 0 closes all connections of a node at once.
    #[arg(long, default_value_t = 60)]
    drain_secs: u32,
    /// Seconds for the three restarts; the measurement ends when they are over.
    #[arg(long, default_value_t = 120)]
    within: u64,
    /// Folder for the data; a temporary one by default.
    #[arg(long)]
    data_dir: Option<PathBuf>,
}

const NODES: usize = 3;
/// Simulators, each with a balancer: a process has 20,000 open files on many machines.
const FLEETS: usize = 2;
/// Seconds over which the devices connect first.
const RAMP: u64 = 15;
/// Seconds before the first restart, and after each.
const STEADY: u64 = 10;
/// Time for a state that is waited for.
const PATIENCE: Duration = Duration::from_secs(120);

/// A node, which keeps its addresses.
struct Node {
    dir: PathBuf,
    number: usize,
    running: Option<Guarded>,
    at: [String; 3],
}

/// A restart, in seconds after SIGTERM.
struct Restart {
    connections: u64,
    drained: f64,
    stopped: f64,
    ready: f64,
    all_back: f64,
    away: u64,
}

/// A line of `--samples`.
#[derive(Debug, Clone, Deserialize)]
struct Sample {
    at_secs: f64,
    failures: u64,
    latency: Latency,
}

#[derive(Debug, Clone, Deserialize)]
struct Latency {
    p50_micros: u64,
    p99_micros: u64,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let temporary = tempfile::tempdir()?;
    let dir = std::path::absolute(options.data_dir.as_deref().unwrap_or(temporary.path()))?;
    let mut nodes: Vec<Node> = (0..NODES).map(|number| Node::new(&dir, number)).collect();
    for node in &mut nodes {
        node.start(options)?;
    }
    let files: Vec<PathBuf> = nodes.iter().map(Node::file).collect();
    let fleets = (0..FLEETS).map(|number| Fleet::start(options, &dir, number, &files, &nodes[0]));
    let mut fleets = fleets.collect::<anyhow::Result<Vec<_>>>()?;
    let begun = Instant::now();
    let devices = (options.devices / FLEETS * FLEETS) as u64;
    wait("all devices are connected", || Ok(connections(&nodes) >= devices))?;
    pause(Duration::from_secs(STEADY));
    println!(
        "{devices} devices, {NODES} nodes, a message each {} s, {} connections/s at a drain of at most {} s",
        options.interval, options.rate, options.drain_secs
    );
    println!("| node | connections | drained after | stopped after | ready after | all back after | most away |");
    println!("|---|---|---|---|---|---|---|");
    let from = begun.elapsed().as_secs_f64();
    for number in 0..NODES {
        let restart = restart(options, &mut nodes, number, devices)?;
        println!(
            "| {number} | {} | {:.1} s | {:.1} s | {:.1} s | {:.1} s | {} |",
            restart.connections, restart.drained, restart.stopped, restart.ready, restart.all_back, restart.away
        );
        pause(Duration::from_secs(STEADY));
    }
    let until = begun.elapsed().as_secs_f64();
    ensure!(until - from < options.within as f64, "the restarts took {:.0} s: raise --within", until - from);
    println!("\n| PUBACK | p50 of a second: median, most | p99 of a second: median, most | broken connections |");
    println!("|---|---|---|---|");
    let (mut before, mut during, mut acknowledged) = (Vec::new(), Vec::new(), 0);
    for fleet in &mut fleets {
        let (summary, samples) = fleet.ended(&dir)?;
        acknowledged += summary["total"]["acknowledged"].as_u64().context("acknowledged messages")?;
        let within = |from: f64, until: f64| {
            samples.iter().filter(move |s| s.at_secs >= from && s.at_secs < until).cloned().collect::<Vec<_>>()
        };
        before.push(within(from - STEADY as f64, from));
        during.push(within(from, until));
    }
    println!("{}", row("before", &before));
    println!("{}", row("during", &during));
    println!("\n{acknowledged} messages acknowledged; all of them stored once and unaltered");
    Ok(())
}

/// Restarts a node, and waits until all devices are connected again.
fn restart(options: &Options, nodes: &mut [Node], number: usize, devices: u64) -> anyhow::Result<Restart> {
    let held = nodes[number].figure("weir_broker_connections").context("the node answers")?;
    let pid = nodes[number].running.as_ref().context("it runs")?.0.id().to_string();
    let sent = Command::new("kill").args(["-TERM", &pid]).status().context("send SIGTERM")?;
    ensure!(sent.success(), "cannot send SIGTERM to {pid}");
    let begun = Instant::now();
    let (mut drained, mut away) = (None, 0);
    loop {
        let seen = connections(nodes);
        away = away.max(devices.saturating_sub(seen));
        if drained.is_none() && nodes[number].figure("weir_broker_connections").is_none_or(|open| open == 0) {
            drained = Some(begun.elapsed().as_secs_f64());
        }
        if let Some(status) = nodes[number].running.as_mut().context("it runs")?.0.try_wait()? {
            if !status.success() {
                println!("node {number} ended with {status}: see its log, with --data-dir");
            }
            break;
        }
        ensure!(begun.elapsed() < PATIENCE, "node {number} does not stop");
        pause(Duration::from_millis(100));
    }
    let stopped = begun.elapsed().as_secs_f64();
    nodes[number].running = None;
    nodes[number].start(options)?;
    let ready = begun.elapsed().as_secs_f64();
    wait("all devices are back", || {
        let seen = connections(nodes);
        away = away.max(devices.saturating_sub(seen));
        Ok(seen >= devices)
    })?;
    let all_back = begun.elapsed().as_secs_f64();
    Ok(Restart { connections: held, drained: drained.unwrap_or(stopped), stopped, ready, all_back, away })
}

/// Connections of all nodes that answer.
fn connections(nodes: &[Node]) -> u64 {
    nodes.iter().filter_map(|node| node.figure("weir_broker_connections")).sum()
}

fn wait(what: &str, mut state: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let begun = Instant::now();
    while !state()? {
        ensure!(begun.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        pause(Duration::from_millis(100));
    }
    Ok(())
}

impl Node {
    fn new(dir: &Path, number: usize) -> Self {
        let at = ["127.0.0.1:0"; 3].map(str::to_owned);
        Self { dir: dir.join(format!("node-{number}")), number, running: None, at }
    }

    fn file(&self) -> PathBuf {
        self.dir.join("data/addresses.json")
    }

    /// Starts it, from the second time on at the addresses of the first, and waits until it is
    /// ready.
    fn start(&mut self, options: &Options) -> anyhow::Result<()> {
        std::fs::create_dir_all(&self.dir)?;
        std::fs::remove_file(self.file()).ok();
        let path = self.dir.join("weir.log");
        let log = std::fs::OpenOptions::new().create(true).append(true).open(&path)?;
        let [mqtt, grpc, http] = &self.at;
        let mut command = Command::new(program("weir")?);
        command.args(["run", "--mqtt", mqtt, "--grpc", grpc, "--http", http, "--data-dir"]);
        command.arg(self.dir.join("data")).envs([
            ("WEIR_REDIS_URLS", &*options.redis),
            ("WEIR_MONGODB_URI", &options.mongodb),
            ("WEIR_REDIS_NODE", &format!("node-{}", self.number)),
            ("WEIR_FLEET_ADDRESS", "127.0.0.1:0"),
            ("WEIR_FLEET_SECRET", "known to all nodes of this measurement"),
            ("WEIR_MQTT_DRAIN_SECS", &options.drain_secs.to_string()),
            ("WEIR_MQTT_DRAIN_CONNECTIONS_PER_SECOND", &options.rate.to_string()),
            ("WEIR_SHUTDOWN_DELAY_MS", "1000"),
        ]);
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        let running = self.running.insert(Guarded(child));
        let found = addresses(running, &self.dir.join("data/addresses.json"), &path, PATIENCE)?;
        for (at, key) in self.at.iter_mut().zip(["mqtt", "grpc", "http"]) {
            found[key].as_str().with_context(|| format!("addresses.json names {key}"))?.clone_into(at);
        }
        wait("the node is ready", || Ok(self.get("/health/ready").is_some_and(|text| text.starts_with("HTTP/1.1 200"))))
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

    fn figure(&self, name: &str) -> Option<u64> {
        let text = self.get("/metrics")?;
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
    }
}

/// Devices behind a balancer of their own.
struct Fleet {
    number: usize,
    simulator: Guarded,
    _balancer: Guarded,
}

impl Fleet {
    fn start(options: &Options, dir: &Path, number: usize, nodes: &[PathBuf], server: &Node) -> anyhow::Result<Self> {
        let mut balancer = Command::new(program("weir-bench")?);
        balancer.arg("balancer").args(nodes).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut balancer = Guarded(balancer.spawn().context("start the balancer")?);
        let mut address = String::new();
        BufReader::new(balancer.0.stdout.take().context("stdout was piped")?).read_line(&mut address)?;
        let file = |name: &str| dir.join(format!("{name}-{number}"));
        std::fs::write(file("scenario").with_extension("toml"), scenario(options, number))?;
        let mut simulator = Command::new(program("weir-sim")?);
        simulator.args(["run", "--json", "--quiet", "--sample-every", "1s", "--within", "120s", "--broker"]);
        simulator.arg(address.trim()).arg("--server").arg(format!("http://{}", server.at[1]));
        simulator.arg("--ledger").arg(file("ledger")).arg("--samples").arg(file("samples"));
        simulator.arg(file("scenario").with_extension("toml")).stdin(Stdio::null());
        simulator.stdout(std::fs::File::create(file("summary"))?).stderr(std::fs::File::create(file("simulator"))?);
        let simulator = Guarded(simulator.spawn().context("start the simulator")?);
        Ok(Self { number, simulator, _balancer: balancer })
    }

    /// Returns its summary and its samples.
    fn ended(&mut self, dir: &Path) -> anyhow::Result<(Value, Vec<Sample>)> {
        let (status, number) = (self.simulator.0.wait()?, self.number);
        let read = |name: &str| std::fs::read_to_string(dir.join(format!("{name}-{number}")));
        let summary: Value = serde_json::from_str(&read("summary")?)
            .with_context(|| format!("the simulator ended with {status}: {}", read("simulator").unwrap_or_default()))?;
        ensure!(status.success(), "readings were lost, doubled or altered: {}", summary["stores"]);
        let samples: Result<Vec<Sample>, _> = read("samples")?.lines().map(serde_json::from_str).collect();
        Ok((summary, samples?))
    }
}

fn scenario(options: &Options, number: usize) -> String {
    let Options { interval, within, .. } = options;
    let count = options.devices / FLEETS;
    // A device leaves after its last message, which is due within the last interval.
    let duration = RAMP + STEADY + within + 2 * interval;
    let mut text = format!("name = \"rolling\"\nseed = {number}\nduration = \"{duration}s\"\ndrain = \"60s\"\n");
    for (version, count) in [("3.1.1", count / 2), ("5", count - count / 2)] {
        let name = if version == "5" { "five" } else { "three" };
        text.push_str(&format!(
            "[[group]]\nname = \"{name}\"\ncount = {count}\nid = \"{name}{number}-{{n:5}}\"\ninterval = \"{interval}s\"\n\
             jitter = 0.5\nramp = \"{RAMP}s\"\nmqtt = \"{version}\"\n[group.values]\nn = {{ model = \"counter\" }}\n\
             [group.faults]\nreconnect = \"1s\"\nreconnect_max = \"15s\"\n"
        ));
    }
    text
}

/// The figures of some seconds, of all fleets.
fn row(name: &str, fleets: &[Vec<Sample>]) -> String {
    let figures = |of: fn(&Latency) -> u64| {
        let mut all: Vec<u64> = fleets.iter().flatten().map(|sample| of(&sample.latency)).filter(|n| *n > 0).collect();
        all.sort_unstable();
        let at = |n: usize| all.get(n).copied().unwrap_or_default() as f64 / 1000.0;
        format!("{:.1} ms, {:.1} ms", at(all.len() / 2), at(all.len().saturating_sub(1)))
    };
    let broken: u64 =
        fleets.iter().map(|f| f.last().map_or(0, |l| l.failures) - f.first().map_or(0, |f| f.failures)).sum();
    format!("| {name} | {} | {} | {broken} |", figures(|l| l.p50_micros), figures(|l| l.p99_micros))
}
