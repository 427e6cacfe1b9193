//! A bridge whose other broker is away for long: what waits for it is on the disk of the edge, and
//! takes no memory there.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use weir_e2e::device::Device;
use weir_e2e::{Weir, read, wait_until};

const BOUND: Duration = Duration::from_secs(90);
/// `memory.max_bytes` of the edge, the least that is possible.
const MEMORY: usize = 64 << 20;
/// Of it, what all queues together may hold.
const QUEUES: usize = MEMORY / 4 * 3 / 8 * 3 / 4;
/// Bytes of a message: all of them are more than twice what the queues may hold.
const MESSAGE: usize = 4 << 10;
const MESSAGES: u64 = 2_800;
/// Messages between two looks.
const PART: u64 = 400;

fn start_edge(dir: &Path, mqtt: &str) -> anyhow::Result<Weir> {
    let file = dir.join("weir.toml");
    Weir::start_with(dir, mqtt, &[("WEIR_CONFIG", file.to_str().context("a path is text")?)])
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_centre_that_is_away_is_on_the_disk_and_arrives_once() -> anyhow::Result<()> {
    let (edge_dir, centre_dir) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let centre = Weir::start(centre_dir.path())?;
    let address = centre.mqtt.to_string();
    let text = format!(
        "[memory]\nmax_bytes = {MEMORY}\n[[bridge]]\nname = \"centre\"\naddress = \"mqtt://{address}\"\n\
         client_id = \"edge-7\"\nmax_wait_secs = 1\n[[bridge.topic]]\nfilter = \"devices/#\"\nqos = 2\n"
    );
    std::fs::write(edge_dir.path().join("weir.toml"), text)?;
    let mut edge = start_edge(edge_dir.path(), "127.0.0.1:0")?;
    let mqtt = edge.mqtt.to_string();
    let connected = async |edge: &Weir| {
        let metrics = edge.get("/metrics")?;
        ensure!(metrics.contains("weir_bridge_connected{bridge=\"centre\"} 1"), "the bridge is not connected");
        Ok(())
    };
    wait_until("the bridge", BOUND, async || connected(&edge).await).await?;
    centre.kill()?;

    let mut device = Device::new("d", edge.mqtt);
    let (mut sent, mut since) = (0, 0);
    let before = edge.resident_bytes()?;
    let mut most = 0;
    while sent < MESSAGES {
        for number in sent..sent + PART {
            let payload = format!("{{\"n\":{number}}}{}", " ".repeat(MESSAGE));
            device.send(number, "devices/d/telemetry", payload.as_bytes())?;
            if device.in_flight() == 10 {
                device.acknowledged_until_lost()?;
            }
        }
        while device.in_flight() > 0 {
            device.acknowledged_until_lost()?;
        }
        sent += PART;
        // The store has them after some seconds.
        let put_away = wait_until("the messages are put away", BOUND, async || {
            let put_away = edge.metric("weir_broker_put_away_total")?;
            ensure!(put_away + 400.0 >= (sent - since) as f64, "{put_away} of {}", sent - since);
            Ok(put_away)
        })
        .await?;
        most = most.max(edge.resident_bytes()?);
        let held = edge.metric("weir_broker_session_bytes")?;
        println!("{sent} sent, {put_away} put away, {held} bytes of queues, {} MiB", edge.resident_bytes()? >> 20);
        ensure!(held < QUEUES as f64, "the queues hold {held} bytes");
        if sent == MESSAGES / 2 {
            edge.kill()?;
            edge = start_edge(edge_dir.path(), &mqtt)?;
            since = sent;
            device = Device::new("d", edge.mqtt);
            let held = edge.metric("weir_broker_session_bytes")?;
            ensure!(held < f64::from(1 << 20), "after a start, the queues hold {held} bytes of {sent} messages");
        }
    }
    let waited = usize::try_from(MESSAGES)? * MESSAGE;
    ensure!(waited > 2 * QUEUES, "{waited} bytes have waited, and the queues may hold {QUEUES}");
    ensure!(most < before + MEMORY as u64, "the edge has grown from {before} to {most} bytes");
    ensure!(edge.metric("weir_broker_dropped_total{reason=\"memory\"}")? == 0.0, "messages were dropped");

    let centre = Weir::start_with(centre_dir.path(), &address, &[])?;
    let channel = centre.channel().await?;
    let found = wait_until("all are at the centre", BOUND, async || {
        let mut found: HashMap<i64, usize> = HashMap::new();
        for row in read::all_readings(&channel, "d").await? {
            *found.entry(row.int("n")?).or_default() += 1;
        }
        ensure!(found.len() as u64 == MESSAGES, "{} of {MESSAGES}", found.len());
        Ok(found)
    })
    .await?;
    ensure!(found.values().all(|count| *count == 1), "each once");
    edge.stop()?;
    centre.stop()
}
