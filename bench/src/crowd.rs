//! Many idle devices at one or several nodes: how fast they connect, the memory of a connection,
//! and PUBACKs of devices that publish beside them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde::Deserialize;

use crate::hold::{self, Holder, Way};
use crate::node::Node;
use crate::process::{Guarded, cpu_seconds, program, resident_bytes};
use crate::site::{FleetOptions, pause};

/// Options of the measurement.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// Nodes.
    #[arg(long, default_value_t = 6)]
    nodes: usize,
    /// Devices at all nodes together. Each is an open file of a node and of a process that holds
    /// them; a node takes seven eighths of its limit (`ulimit -n`).
    #[arg(long, default_value_t = 100_000)]
    devices: usize,
    /// Way to connect.
    #[arg(long, value_enum, default_value = "plain")]
    way: Way,
    /// Devices that publish beside them, over plain TCP, at QoS 1; 0 only connects.
    #[arg(long, default_value_t = 600)]
    publishers: usize,
    /// Their readings per second.
    #[arg(long, default_value_t = 5000.0)]
    rate: f64,
    /// Seconds that they publish, before and beside the others.
    #[arg(long, default_value_t = 20.0)]
    secs: f64,
    /// Memory is measured when it has not fallen for so many seconds: what a start or a handshake
    /// has used goes back to the system later.
    #[arg(long, default_value_t = 5)]
    settle: u64,
    #[command(flatten)]
    fleet: FleetOptions,
    /// Folder for the data; a temporary one by default.
    #[arg(long)]
    data_dir: Option<PathBuf>,
}

/// Listener for WebSocket.
const BROWSERS: &str = "browsers";

/// The part of `all` of one of `nodes`: parts differ by one at most.
fn part(all: usize, nodes: usize, number: usize) -> usize {
    all / nodes + usize::from(number < all % nodes)
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    ensure!(options.nodes > 0 && options.devices >= options.nodes, "--devices is at least one for each node");
    let temporary = tempfile::tempdir()?;
    let dir = std::path::absolute(options.data_dir.as_deref().unwrap_or(temporary.path()))?;
    let servers = options.fleet.servers();
    let mut nodes = Vec::new();
    for number in 0..options.nodes {
        let mut node = prepare(Node::new(&dir, number), options.way)?;
        if let Some(servers) = &servers {
            node = node.of_fleet(number, servers);
        }
        node.start()?;
        nodes.push(node);
    }
    let form = if servers.is_some() { "a fleet" } else { "each alone" };
    println!("{} idle devices ({}) at {} nodes, {form}", options.devices, options.way.name(), options.nodes);
    let beside = options.publishers >= options.nodes;
    if beside {
        println!(
            "| publishers | readings/s | PUBACK p50 | p99 | p99 of the worst node | max | CPU of Weir per reading |"
        );
        println!("|---|---|---|---|---|---|---|");
        println!("| alone {}", publish(options, &nodes)?);
    }
    rest(options, &nodes)?;
    let before = usage(&nodes)?;
    let begun = Instant::now();
    let mut holders = hold_all(options, &nodes)?;
    for holder in &mut holders {
        holder.connected()?;
    }
    let seconds = begun.elapsed().as_secs_f64();
    let (connected, clients) = (usage(&nodes)?, holders.iter().filter_map(|h| cpu_seconds(h.pid())).sum::<f64>());
    rest(options, &nodes)?;
    let idle = usage(&nodes)?;
    if beside {
        println!("| beside them {}", publish(options, &nodes)?);
    }
    let after = usage(&nodes)?;
    let mut open = 0;
    for holder in holders {
        open += holder.end()?.open;
    }
    ensure!(open == options.devices, "{open} of {} idle connections are open at the end", options.devices);
    let each = |what: f64| what / options.devices as f64;
    println!(
        "\nconnected in {seconds:.1} s: {:.0}/s, CPU for each {:.0} us of Weir, {:.0} us of the clients",
        options.devices as f64 / seconds,
        each((connected.cpu - before.cpu) * 1e6),
        each(clients * 1e6),
    );
    println!(
        "memory of the nodes: {:.1} MB before, {:.1} MB with all: {:.0} bytes each; {:.1} MB after the load",
        before.resident / 1e6,
        idle.resident / 1e6,
        each(idle.resident - before.resident),
        after.resident / 1e6,
    );
    println!("all {open} are still connected at the end");
    Ok(())
}

/// Writes what the way needs into the folder of a node.
fn prepare(node: Node, way: Way) -> anyhow::Result<Node> {
    std::fs::create_dir_all(&node.dir)?;
    match way {
        Way::Plain => Ok(node),
        Way::Websocket => {
            let text =
                format!("[[mqtt.listener]]\nname = \"{BROWSERS}\"\naddress = \"127.0.0.1:0\"\nwebsocket = true\n");
            std::fs::write(node.dir.join("weir.toml"), text)?;
            Ok(node)
        }
        Way::Tls => {
            let made = Command::new(program("weir")?).current_dir(&node.dir).args(["tls", "create"]).output()?;
            ensure!(made.status.success(), "weir tls create: {}", String::from_utf8_lossy(&made.stderr).trim());
            Ok(node.with(&[
                ("WEIR_MQTT_TLS_ADDRESS", "127.0.0.1:0"),
                ("WEIR_TLS_CERTIFICATE", "tls/server.pem"),
                ("WEIR_TLS_KEY", "tls/server.key"),
            ]))
        }
    }
}

fn hold_all(options: &Options, nodes: &[Node]) -> anyhow::Result<Vec<Holder>> {
    let mut first_device = 0;
    let start = |(number, node): (usize, &Node)| {
        let connections = part(options.devices, nodes.len(), number);
        let broker = match options.way {
            Way::Plain => node.mqtt(),
            Way::Tls => node.mqtts()?,
            Way::Websocket => node.listener(BROWSERS)?,
        };
        let ca = (options.way == Way::Tls).then(|| authority(&node.dir));
        let options = hold::Options { broker: broker.parse()?, connections, first_device, way: options.way, ca };
        first_device += connections;
        Holder::start(&options)
    };
    nodes.iter().enumerate().map(start).collect()
}

fn authority(dir: &Path) -> PathBuf {
    dir.join("tls/ca.pem")
}

/// Most seconds until memory no longer falls.
const REST_SECS: u64 = 60;

/// Waits until the memory of the nodes falls no longer, or for a minute.
fn rest(options: &Options, nodes: &[Node]) -> anyhow::Result<()> {
    let (begun, mut since) = (Instant::now(), Instant::now());
    let mut least = f64::MAX;
    while since.elapsed().as_secs() < options.settle && begun.elapsed().as_secs() < REST_SECS {
        let now = usage(nodes)?.resident;
        // Less than one part in 200 is noise.
        if now < least * 0.995 {
            (least, since) = (now, Instant::now());
        }
        pause(Duration::from_millis(200));
    }
    Ok(())
}

/// CPU seconds and bytes of memory of all nodes together.
struct Usage {
    cpu: f64,
    resident: f64,
}

fn usage(nodes: &[Node]) -> anyhow::Result<Usage> {
    let mut usage = Usage { cpu: 0.0, resident: 0.0 };
    for node in nodes {
        let pid = node.pid()?;
        usage.cpu += cpu_seconds(pid).context("CPU time of a node")?;
        usage.resident += resident_bytes(pid).context("memory of a node")? as f64;
    }
    Ok(usage)
}

/// Output of a load generator.
#[derive(Debug, Deserialize)]
struct Figures {
    per_second: f64,
    puback_p50_us: u64,
    puback_p99_us: u64,
    puback_max_us: u64,
    broker_cpu_us: Option<f64>,
    failed_connections: usize,
    first_failure: String,
}

/// Publishes at every node at the same time, and returns the rest of a row.
fn publish(options: &Options, nodes: &[Node]) -> anyhow::Result<String> {
    let mut loads = Vec::new();
    for (number, node) in nodes.iter().enumerate() {
        let publishers = part(options.publishers, nodes.len(), number);
        let rate = options.rate * publishers as f64 / options.publishers as f64;
        let first = options.devices + options.publishers / nodes.len() * number + number;
        let mut command = Command::new(program("weir-sim")?);
        command.args(["bench", "--json", "--threads", "1", "--inflight", "10", "--per-source", "1000000"]);
        command.args(["--broker", node.mqtt(), "--pid", &node.pid()?.to_string(), "--secs", &options.secs.to_string()]);
        command.args(["--conns", &publishers.to_string(), "--first-device", &first.to_string()]);
        command.args(["--rate", &rate.to_string()]).stdin(Stdio::null()).stdout(Stdio::piped());
        loads.push(Guarded(command.spawn().context("start the load generator")?));
    }
    let mut all = Vec::new();
    for mut load in loads {
        let text = std::io::read_to_string(load.0.stdout.take().context("stdout was piped")?)?;
        let figures: Figures = serde_json::from_str(&text).context("the load generator prints one line of JSON")?;
        ensure!(figures.failed_connections == 0, "a publisher has failed: {}", figures.first_failure);
        all.push(figures);
    }
    Ok(row(&all))
}

/// The sum of readings, the medians of the nodes, and the worst of them.
fn row(all: &[Figures]) -> String {
    let sorted = |of: fn(&Figures) -> f64| {
        let mut values: Vec<f64> = all.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values
    };
    let ms = |values: &[f64], at: usize| values.get(at).map_or(f64::NAN, |us| us / 1000.0);
    let (middle, last) = (all.len() / 2, all.len().saturating_sub(1));
    let (p99, cpu) = (sorted(|f| f.puback_p99_us as f64), sorted(|f| f.broker_cpu_us.unwrap_or(f64::NAN)));
    format!(
        "| {:.0} | {:.2} ms | {:.2} ms | {:.2} ms | {:.1} ms | {:.1} us |",
        all.iter().map(|figures| figures.per_second).sum::<f64>(),
        ms(&sorted(|f| f.puback_p50_us as f64), middle),
        ms(&p99, middle),
        ms(&p99, last),
        ms(&sorted(|f| f.puback_max_us as f64), last),
        cpu.get(middle).copied().unwrap_or(f64::NAN),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_device_is_at_one_node_and_parts_differ_by_one_at_most() {
        let parts: Vec<usize> = (0..6).map(|number| part(100_000, 6, number)).collect();
        assert_eq!(parts.iter().sum::<usize>(), 100_000);
        assert_eq!((parts.iter().min(), parts.iter().max()), (Some(&16_666), Some(&16_667)));
    }

    #[test]
    fn a_row_has_the_sum_the_medians_and_the_worst_node() {
        let figures = |p99| Figures {
            per_second: 100.0,
            puback_p50_us: p99 / 10,
            puback_p99_us: p99,
            puback_max_us: p99 * 2,
            broker_cpu_us: Some(20.0),
            failed_connections: 0,
            first_failure: String::new(),
        };
        let row = row(&[figures(3000), figures(1000), figures(9000)]);
        assert_eq!(row, "| 300 | 0.30 ms | 3.00 ms | 9.00 ms | 18.0 ms | 20.0 us |");
    }
}
