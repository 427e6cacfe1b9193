//! A Weir at the edge that bridges to a central one: each reading that was acknowledged at the edge
//! is at the centre, and once when only the centre is killed. After a kill of the edge, devices
//! send messages of QoS 1 again, of which the edge may forward some again.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use weir_e2e::device::Device;
use weir_e2e::{Weir, read, wait_until};

const DEVICES: usize = 4;
/// Readings of each device between two kills at most.
const READINGS: u64 = 200;
const BOUND: Duration = Duration::from_secs(60);

/// Processes that are killed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Killed {
    Centre,
    Both,
}

#[tokio::test(flavor = "multi_thread")]
async fn each_reading_of_the_edge_is_at_the_centre_once_although_the_centre_is_killed() -> anyhow::Result<()> {
    bridged(Killed::Centre, 6).await
}

#[tokio::test(flavor = "multi_thread")]
async fn no_reading_of_the_edge_is_lost_although_both_are_killed() -> anyhow::Result<()> {
    bridged(Killed::Both, 8).await
}

fn start_edge(dir: &Path, mqtt: &str) -> anyhow::Result<Weir> {
    let file = dir.join("weir.toml");
    Weir::start_with(dir, mqtt, &[("WEIR_CONFIG", file.to_str().context("a path is text")?)])
}

async fn bridged(killed: Killed, kills: usize) -> anyhow::Result<()> {
    let seed = SystemTime::now().duration_since(UNIX_EPOCH)?.subsec_nanos();
    println!("seed {seed}");
    let (edge_dir, centre_dir) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let mut centre = Weir::start(centre_dir.path())?;
    let text = format!(
        "[[bridge]]\nname = \"centre\"\naddress = \"mqtt://{}\"\nclient_id = \"edge-7\"\nmax_wait_secs = 1\n\
         [[bridge.topic]]\nfilter = \"devices/#\"\nqos = 2\n",
        centre.mqtt
    );
    std::fs::write(edge_dir.path().join("weir.toml"), text)?;
    let mut edge = start_edge(edge_dir.path(), "127.0.0.1:0")?;
    wait_until("the bridge", BOUND, async || connected(&edge)).await?;
    let (stop, total) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let most = Arc::new(AtomicU64::new(0));
    let mqtt = edge.mqtt;
    let devices: Vec<_> = (0..DEVICES)
        .map(|number| {
            let (stop, total, most) = (Arc::clone(&stop), Arc::clone(&total), Arc::clone(&most));
            std::thread::spawn(move || play(number, mqtt, &stop, (&total, &most)))
        })
        .collect();
    let mut random = u64::from(seed) | 1;
    for kill in 0..kills {
        wait_until("the bridge", BOUND, async || connected(&edge)).await?;
        // Some progress, then a random moment.
        let goal = total.load(Ordering::Relaxed) + 300;
        most.fetch_add(READINGS, Ordering::Relaxed);
        let begun = Instant::now();
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let moment = Duration::from_micros(random % 500_000);
        while total.load(Ordering::Relaxed) < goal || begun.elapsed() < moment {
            ensure!(begun.elapsed() < BOUND, "no progress before kill {kill}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        if killed == Killed::Centre || kill % 2 == 0 {
            let address = centre.mqtt.to_string();
            centre.kill()?;
            centre = Weir::start_with(centre_dir.path(), &address, &[])?;
        } else {
            edge.kill()?;
            edge = start_edge(edge_dir.path(), &mqtt.to_string())?;
        }
    }
    stop.store(true, Ordering::Relaxed);
    let sent: Vec<u64> = devices
        .into_iter()
        .map(|device| device.join().expect("a device does not panic"))
        .collect::<anyhow::Result<_>>()?;
    let channel = centre.channel().await?;
    for (number, sent) in sent.iter().enumerate() {
        let device = format!("d{number}");
        let count = async || -> anyhow::Result<HashMap<u64, usize>> {
            let mut found = HashMap::new();
            for row in read::all_readings(&channel, &device).await? {
                *found.entry(u64::try_from(row.int("n")?)?).or_default() += 1;
            }
            Ok(found)
        };
        let found = wait_until("all readings are at the centre", BOUND, async || {
            let found = count().await?;
            let lost: BTreeSet<u64> = (0..*sent).filter(|n| !found.contains_key(n)).collect();
            ensure!(lost.is_empty(), "seed {seed}: {device} lost {} of {sent}: {lost:?}", lost.len());
            Ok(found)
        })
        .await?;
        let doubled: Vec<_> = found.iter().filter(|(_, count)| **count > 1).collect();
        ensure!(killed == Killed::Both || doubled.is_empty(), "seed {seed}: {device} doubled {doubled:?}");
        println!("{device}: {sent} sent, {} at the centre", found.len());
    }
    edge.stop()?;
    centre.stop()
}

fn connected(edge: &Weir) -> anyhow::Result<()> {
    let metrics = edge.get("/metrics")?;
    ensure!(metrics.contains("weir_bridge_connected{bridge=\"centre\"} 1"), "the bridge is not connected");
    Ok(())
}

/// Publishes until `stop` is set, then waits until everything is acknowledged. Returns the number
/// of readings; they have no time of their own, so that equal ones are not merged.
fn play(
    number: usize,
    mqtt: SocketAddr,
    stop: &AtomicBool,
    (total, most): (&AtomicU64, &AtomicU64),
) -> anyhow::Result<u64> {
    let mut device = Device::new(&format!("client-{number}"), mqtt);
    let topic = format!("devices/d{number}/telemetry");
    let mut sent = 0;
    let begun = Instant::now();
    loop {
        let stopping = stop.load(Ordering::Relaxed);
        if stopping && device.in_flight() == 0 {
            return Ok(sent);
        }
        ensure!(begun.elapsed() < Duration::from_secs(240), "device {number} is not done in time");
        if device.connect().is_err() {
            // The broker is restarting: retry at once, but yield the processor.
            std::thread::yield_now();
            continue;
        }
        while !stopping && device.in_flight() < 10 && sent < most.load(Ordering::Relaxed) {
            // The device sends it again after the next connect.
            let payload = format!(r#"{{"n":{sent}}}"#);
            sent += 1;
            if device.send(sent - 1, &topic, payload.as_bytes()).is_err() {
                break;
            }
        }
        if device.in_flight() == 0 {
            // It may not send yet.
            std::thread::yield_now();
            continue;
        }
        let numbers = device.acknowledged_until_lost()?;
        total.fetch_add(numbers.len() as u64, Ordering::Relaxed);
    }
}
