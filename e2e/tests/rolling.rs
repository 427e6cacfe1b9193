//! A rolling restart of a fleet behind a load balancer, under load.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use weir_e2e::fire::{self, Fire};
use weir_e2e::play::Run;
use weir_e2e::services::skipped;
use weir_e2e::site::Site;
use weir_e2e::{Weir, program, wait_until};

const WAIT: Duration = Duration::from_secs(60);
const NAMES: [&str; 3] = ["node-a", "node-b", "node-c"];
/// Devices; half of them speak MQTT 3.1.1, half MQTT 5.
const DEVICES: u64 = 300;
/// Connections that a node closes in a second.
const RATE: u64 = 100;

/// A process that is ended when dropped.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// A TCP load balancer over the nodes that are ready, and its address.
fn balancer(site: &Site) -> anyhow::Result<(Ended, String)> {
    let files = NAMES.map(|name| site.folder(name).join("data/addresses.json"));
    let mut command = Command::new(program("weir-bench")?);
    let mut child = command.arg("balancer").args(files).stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().context("stdout was piped")?).read_line(&mut line)?;
    Ok((Ended(child), line.trim().to_owned()))
}

fn devices(site: &Site, broker: &str) -> anyhow::Result<Run> {
    let group = |name: &str, version: &str| {
        format!(
            "[[group]]\nname = \"{name}\"\ncount = {}\nid = \"{name}{{n:3}}\"\ninterval = \"1s\"\njitter = 0.5\n\
             ramp = \"2s\"\nmqtt = \"{version}\"\n[group.values]\nn = {{ model = \"counter\" }}\n[group.faults]\n\
             reconnect = \"100ms\"\nreconnect_max = \"1s\"\n",
            DEVICES / 2
        )
    };
    let scenario = site.dir.path().join("rolling.toml");
    let head = "name = \"rolling\"\nseed = 1\nduration = \"60s\"\ndrain = \"60s\"\n";
    std::fs::write(&scenario, format!("{head}{}{}", group("three", "3.1.1"), group("five", "5")))?;
    let mut command = Command::new(program("weir-sim")?);
    command.arg("run").arg(scenario).args(["--quiet", "--json", "--broker", broker, "--ledger"]).arg(site.ledger());
    let summary = std::fs::File::create(site.dir.path().join("summary.json"))?;
    Ok(Run(command.stdin(Stdio::null()).stdout(summary).spawn()?))
}

async fn all_connected(nodes: &[Weir], clients: u64) -> anyhow::Result<()> {
    wait_until("all clients are connected", WAIT, || async {
        let each = nodes.iter().map(|node| node.metric("weir_broker_connections"));
        let each: Vec<f64> = each.collect::<anyhow::Result<_>>()?;
        ensure!(each.iter().sum::<f64>() >= clients as f64, "{each:?}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_moves_all_devices_at_a_bounded_rate_and_loses_nothing() -> anyhow::Result<()> {
    if skipped("a_rolling_restart", &["redis-server", "mongod"])? {
        return Ok(());
    }
    // Longer than a check of the load balancer.
    let rate = RATE.to_string();
    let settings = [("WEIR_SHUTDOWN_DELAY_MS", "500"), ("WEIR_MQTT_DRAIN_CONNECTIONS_PER_SECOND", &*rate)];
    let site = Site::new(false, &settings).await?;
    let start = |name: &str| site.start(name, "all", "127.0.0.1:0");
    let mut nodes = NAMES.iter().map(|name| start(name)).collect::<anyhow::Result<Vec<_>>>()?;
    let (_balancer, address) = balancer(&site)?;
    let mut run = devices(&site, &address)?;
    all_connected(&nodes, DEVICES).await?;
    for (number, name) in NAMES.iter().enumerate() {
        let held = nodes[number].metric("weir_broker_connections")? as u64;
        ensure!(held > 0, "{name} has no connections");
        nodes.remove(number).stop().with_context(|| site.logs_of(&NAMES))?;
        let log = std::fs::read_to_string(site.folder(name).join("weir.log"))?;
        let drained = log.lines().rfind(|line| line.contains("\"drained\"")).context("the end of the drain")?;
        println!("{name} had {held} connections: {drained}");
        ensure!(!log.contains("closing the rest at once") && !log.contains("did not drain"), "{log}");
        let line: serde_json::Value = serde_json::from_str(drained)?;
        let closed = line["weir.closed"].as_u64().context("a count")?;
        // Some devices may be between two connections.
        ensure!(closed + 5 >= held && closed <= held + 5, "{closed} of {held} were closed in slices");
        let lasting = line["weir.milliseconds"].as_str().context("a time")?.parse::<u64>()?;
        ensure!(lasting + 200 >= closed * 1000 / RATE, "{closed} connections in {lasting} ms at {RATE}/s");
        nodes.insert(number, start(name)?);
        all_connected(&nodes, DEVICES).await?;
    }
    ensure!(run.0.try_wait()?.is_none(), "the devices have ended before the last restart was over");
    let status = run.0.wait()?;
    println!("{}", site.summary()?);
    ensure!(status.success(), "{status}\n{}", site.logs_of(&NAMES));
    site.verify(&nodes[0]).with_context(|| site.logs_of(&NAMES))?;
    println!("{}", nodes[0].cli(&["books", "--check"])?);
    nodes.into_iter().try_for_each(Weir::stop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_loses_and_doubles_nothing_of_sessions_that_last() -> anyhow::Result<()> {
    if skipped("a_rolling_restart_loses_and_doubles_nothing", &["redis-server", "mongod"])? {
        return Ok(());
    }
    let site = Site::new(false, &[]).await?;
    let start = |name: &str, mqtt: &str| site.start(name, "all", mqtt);
    let mut nodes = NAMES.iter().map(|name| start(name, "127.0.0.1:0")).collect::<anyhow::Result<Vec<_>>>()?;
    let addresses: Vec<SocketAddr> = nodes.iter().map(|node| node.mqtt).collect();
    let mut fire = Fire::begin(site.dir.path(), &addresses, 40, Duration::from_millis(100))?;
    all_connected(&nodes, fire::CLIENTS).await?;
    for (number, name) in NAMES.iter().enumerate() {
        nodes.remove(number).stop().with_context(|| site.logs_of(&NAMES))?;
        nodes.insert(number, start(name, &addresses[number].to_string())?);
        all_connected(&nodes, fire::CLIENTS).await.with_context(|| site.logs_of(&NAMES))?;
    }
    ensure!(fire.plays()?, "the devices have ended before the last restart was over");
    fire.end(1).with_context(|| site.logs_of(&NAMES))?;
    nodes.into_iter().try_for_each(Weir::stop)
}
