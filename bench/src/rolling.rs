//! A rolling restart of three nodes of a fleet, behind a load balancer, with devices that publish.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde::Deserialize;
use serde_json::Value;

use crate::node::{Node, PATIENCE, connections, wait};
use crate::process::{Guarded, program};
use crate::site::{Servers, pause};

/// Options of the measurement.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// URL of a Redis server without data.
    #[arg(long)]
    redis: String,
    /// URI of a MongoDB replica set without data.
    #[arg(long)]
    mongodb: String,
    /// Devices; without the ones whose session lasts, half of them speak MQTT 3.1.1. Each is two
    /// open files of a balancer, of which there are two.
    #[arg(long, default_value_t = 10_000)]
    devices: usize,
    /// Devices among them whose session lasts, with a subscription to commands; of MQTT 5.
    #[arg(long, default_value_t = 2_000)]
    lasting: usize,
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
    let servers = Servers { redis: options.redis.clone(), mongodb: options.mongodb.clone() };
    let mut nodes: Vec<Node> = Vec::new();
    for number in 0..NODES {
        let node = Node::new(&dir, number).of_fleet(number, &servers).with(&[
            ("WEIR_MQTT_DRAIN_SECS", &*options.drain_secs.to_string()),
            ("WEIR_MQTT_DRAIN_CONNECTIONS_PER_SECOND", &options.rate.to_string()),
            ("WEIR_SHUTDOWN_DELAY_MS", "1000"),
        ]);
        nodes.push(node);
    }
    for node in &mut nodes {
        // Each simulator has topics of its own, so that its subscriber knows every message.
        let routes = (0..FLEETS).map(|number| format!("[[route]]\ntopic = \"site{number}/{{device}}/telemetry\"\n"));
        std::fs::create_dir_all(&node.dir)?;
        std::fs::write(node.dir.join("weir.toml"), routes.collect::<String>())?;
        node.start()?;
    }
    let files: Vec<PathBuf> = nodes.iter().map(Node::file).collect();
    let fleets = (0..FLEETS).map(|number| Fleet::start(options, &dir, number, &files, &nodes[0]));
    let mut fleets = fleets.collect::<anyhow::Result<Vec<_>>>()?;
    let begun = Instant::now();
    // With a subscriber of each simulator.
    let devices = (options.devices / FLEETS * FLEETS + FLEETS) as u64;
    wait("all devices are connected", || Ok(connections(&nodes) >= devices))?;
    pause(Duration::from_secs(STEADY));
    println!(
        "{} devices, {} of them with sessions that last, {FLEETS} subscribers of all messages, {NODES} nodes, a message \
         each {} s, {} connections/s at a drain of at most {} s",
        options.devices, options.lasting, options.interval, options.rate, options.drain_secs
    );
    println!("| node | connections | drained after | stopped after | ready after | all back after | most away |");
    println!("|---|---|---|---|---|---|---|");
    let from = begun.elapsed().as_secs_f64();
    for number in 0..NODES {
        let restart = restart(&mut nodes, number, devices)?;
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
    let (mut before, mut during, mut acknowledged, mut deliveries) = (Vec::new(), Vec::new(), 0, Vec::new());
    for fleet in &mut fleets {
        let (summary, samples) = fleet.ended(&dir)?;
        acknowledged += summary["total"]["acknowledged"].as_u64().context("acknowledged messages")?;
        deliveries.push(summary["subscribers"].to_string());
        let within = |from: f64, until: f64| {
            samples.iter().filter(move |s| s.at_secs >= from && s.at_secs < until).cloned().collect::<Vec<_>>()
        };
        before.push(within(from - STEADY as f64, from));
        during.push(within(from, until));
    }
    println!("{}", row("before", &before));
    println!("{}", row("during", &during));
    println!("\n{acknowledged} messages acknowledged; all of them stored once and unaltered");
    println!("subscribers: {}", deliveries.join(", "));
    Ok(())
}

/// Restarts a node, and waits until all devices are connected again.
fn restart(nodes: &mut [Node], number: usize, devices: u64) -> anyhow::Result<Restart> {
    let held = nodes[number].figure("weir_broker_connections").context("the node answers")?;
    let pid = nodes[number].pid()?.to_string();
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
    nodes[number].start()?;
    let ready = begun.elapsed().as_secs_f64();
    wait("all devices are back", || {
        let seen = connections(nodes);
        away = away.max(devices.saturating_sub(seen));
        Ok(seen >= devices)
    })?;
    let all_back = begun.elapsed().as_secs_f64();
    Ok(Restart { connections: held, drained: drained.unwrap_or(stopped), stopped, ready, all_back, away })
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
        simulator.arg(address.trim()).arg("--server").arg(format!("http://{}", server.grpc()));
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
    let (count, lasting) = (options.devices / FLEETS, options.lasting.min(options.devices) / FLEETS);
    // A device leaves after its last message, which is due within the last interval.
    let duration = RAMP + STEADY + within + 2 * interval;
    let mut text = format!(
        "name = \"rolling\"\nseed = {number}\nduration = \"{duration}s\"\ndrain = \"60s\"\n\
         [[subscriber]]\nname = \"dashboard{number}\"\nfilter = \"site{number}/#\"\nqos = 1\nmqtt = \"5\"\n"
    );
    let brief = count - lasting;
    let lasts = "clean_start = false\nsession_expiry = \"1h\"\nsubscribe = \"commands/#\"\n";
    let groups =
        [("three", "3.1.1", brief / 2, ""), ("five", "5", brief - brief / 2, ""), ("lasting", "5", lasting, lasts)];
    for (name, version, count, more) in groups.into_iter().filter(|(_, _, count, _)| *count > 0) {
        text.push_str(&format!(
            "[[group]]\nname = \"{name}\"\ncount = {count}\nid = \"{name}{number}-{{n:5}}\"\ninterval = \"{interval}s\"\n\
             topic = \"site{number}/{{device}}/telemetry\"\n{more}\
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
