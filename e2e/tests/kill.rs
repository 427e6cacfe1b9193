//! kill -9 under load, at random moments, with devices that send unacknowledged messages again.

use std::collections::{HashMap, HashSet};
use std::fs::Permissions;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use mqtt_client::{Connect, Packet, Publish, Subscription, Version, Will};
use weir_e2e::device::Device;
use weir_e2e::{Weir, program, read};

const KILLS: usize = 20;
const DEVICES: usize = 6;

/// Messages of a device.
#[derive(Debug, Default)]
struct Ledger {
    sent: u64,
    acknowledged: HashSet<u64>,
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_kills_lose_no_acknowledged_reading_and_double_none() -> anyhow::Result<()> {
    kills(false).await
}

/// Each kill meets a rotation of the key-encryption key.
#[tokio::test(flavor = "multi_thread")]
async fn twenty_kills_with_encryption_lose_no_acknowledged_reading_and_double_none() -> anyhow::Result<()> {
    kills(true).await
}

async fn kills(is_sealed: bool) -> anyhow::Result<()> {
    let seed = SystemTime::now().duration_since(UNIX_EPOCH)?.subsec_nanos();
    println!("seed {seed}");
    let dir = tempfile::tempdir()?;
    let key_file = dir.path().join("kek");
    let key_text = key_file.to_str().context("a path is text")?.to_owned();
    keys(&key_file, false)?;
    // A short flush interval, so that kills also hit the seal, the write and the trim.
    let environment = [("WEIR_HISTORY_FLUSH_INTERVAL_MS", "300"), ("WEIR_ENCRYPTION_KEY_FILE", key_text.as_str())];
    let environment = &environment[..if is_sealed { 2 } else { 1 }];
    let mut weir = Weir::start_with(dir.path(), "127.0.0.1:0", environment)?;
    let mqtt = weir.mqtt;
    let stop = Arc::new(AtomicBool::new(false));
    let total = Arc::new(AtomicU64::new(0));
    let devices: Vec<_> = (0..DEVICES)
        .map(|number| {
            let (stop, total) = (Arc::clone(&stop), Arc::clone(&total));
            std::thread::spawn(move || play(number, mqtt, &stop, &total))
        })
        .collect();
    let mut random = u64::from(seed) | 1;
    for kill in 0..KILLS {
        // Some progress, then a random moment.
        let goal = total.load(Ordering::Relaxed) + 500;
        let begun = Instant::now();
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let moment = Duration::from_micros(random % 400_000);
        while total.load(Ordering::Relaxed) < goal || begun.elapsed() < moment {
            ensure!(begun.elapsed() < Duration::from_secs(60), "no progress before kill {kill}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let rotating = if is_sealed { Some(rotate(dir.path(), &key_file, kill % 2 == 0)?) } else { None };
        if let Some(mut rotating) = rotating {
            // Every third rotation is complete.
            if kill % 3 == 0 {
                ensure!(rotating.wait()?.success(), "rotation {kill}");
            } else {
                tokio::time::sleep(moment / 20).await;
            }
            weir.kill()?;
            rotating.wait()?;
        } else {
            weir.kill()?;
        }
        weir = Weir::start_with(dir.path(), &mqtt.to_string(), environment)
            .with_context(|| format!("start after kill {kill}, seed {seed}"))?;
    }
    stop.store(true, Ordering::Relaxed);
    let ledgers: Vec<Ledger> =
        devices.into_iter().map(|d| d.join().expect("a device does not panic")).collect::<anyhow::Result<_>>()?;

    let channel = weir.channel().await?;
    for (number, ledger) in ledgers.iter().enumerate() {
        let mut found: HashMap<u64, usize> = HashMap::new();
        for row in read::all_readings(&channel, &format!("d{number}")).await? {
            *found.entry(u64::try_from(row.int("n")?)?).or_default() += 1;
        }
        let lost: Vec<_> = ledger.acknowledged.iter().filter(|n| !found.contains_key(n)).collect();
        let doubled: Vec<_> = found.iter().filter(|(_, count)| **count > 1).collect();
        let unexpected: Vec<_> = found.keys().filter(|n| **n >= ledger.sent).collect();
        println!("d{number}: sent {}, acknowledged {}, found {}", ledger.sent, ledger.acknowledged.len(), found.len());
        ensure!(lost.is_empty(), "seed {seed}: d{number} lost {lost:?}");
        ensure!(doubled.is_empty(), "seed {seed}: d{number} doubled {doubled:?}");
        ensure!(unexpected.is_empty(), "seed {seed}: d{number} has what was never sent: {unexpected:?}");
    }
    let books = weir.cli(&["books", "--check"])?;
    println!("{books}");
    weir.stop()
}

/// Writes two key-encryption keys; which one is current is up to `turned`.
fn keys(path: &Path, turned: bool) -> anyhow::Result<()> {
    let mut keys = ["11".repeat(32), "22".repeat(32)];
    if turned {
        keys.reverse();
    }
    std::fs::write(path, keys.join("\n"))?;
    Ok(std::fs::set_permissions(path, Permissions::from_mode(0o600))?)
}

/// Begins a rotation by the process that runs.
fn rotate(dir: &Path, key_file: &Path, turned: bool) -> anyhow::Result<Child> {
    keys(key_file, turned)?;
    let mut command = Command::new(program("weir")?);
    command.args(["encryption", "rotate", "--data-dir"]).arg(dir.join("data")).stderr(Stdio::null());
    Ok(command.spawn()?)
}

/// Publishes until `stop` is set, then waits until everything is acknowledged. Devices with odd
/// numbers send no time.
fn play(number: usize, mqtt: SocketAddr, stop: &AtomicBool, total: &AtomicU64) -> anyhow::Result<Ledger> {
    let mut device = Device::new(&format!("client-{number}"), mqtt);
    let topic = format!("devices/d{number}/telemetry");
    let mut ledger = Ledger::default();
    let begun = Instant::now();
    loop {
        let stopping = stop.load(Ordering::Relaxed);
        if stopping && device.in_flight() == 0 {
            return Ok(ledger);
        }
        ensure!(begun.elapsed() < Duration::from_secs(240), "device {number} is not done in time");
        if device.connect().is_err() {
            // The broker is restarting: retry at once, but yield the processor.
            std::thread::yield_now();
            continue;
        }
        while !stopping && device.in_flight() < 20 {
            let n = ledger.sent;
            let payload = if number.is_multiple_of(2) {
                let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros();
                format!(r#"{{"ts":{now},"n":{n},"temperature":21.5}}"#)
            } else {
                format!(r#"{{"n":{n},"temperature":21.5}}"#)
            };
            ledger.sent += 1;
            // The device sends it again after the next connect.
            if device.send(n, &topic, payload.as_bytes()).is_err() {
                break;
            }
        }
        let numbers = device.acknowledged_until_lost()?;
        total.fetch_add(numbers.len() as u64, Ordering::Relaxed);
        ledger.acknowledged.extend(numbers);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn retained_messages_and_wills_outlast_a_kill_right_after_their_acknowledgement() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let mut weir = Weir::start(dir.path())?;
    let mqtt = weir.mqtt.to_string();
    for round in 0..3 {
        let mut device = session("d", weir.mqtt, Some(&format!("offline {round}")))?;
        let mut out = Vec::new();
        for (packet_id, topic, payload) in [(1, "presence/d", "online"), (2, "other", "kept")] {
            let payload = format!("{payload} {round}");
            let publish =
                Publish { topic, payload: payload.as_bytes(), qos: 1, retain: true, packet_id, ..Publish::default() };
            mqtt_client::publish(&mut out, Version::V4, &publish);
        }
        device.write_all(&out)?;
        device.read_exact(&mut [0; 8]).context("two PUBACKs")?;
        weir.kill()?;
        weir = Weir::start_with(dir.path(), &mqtt, &[])?;
        let expected = [("other", format!("kept {round}")), ("presence/d", format!("offline {round}"))];
        ensure!(
            retained(weir.mqtt, 2)? == expected.map(|(topic, payload)| (topic.to_owned(), payload)),
            "round {round}"
        );
    }
    // The device is back and leaves in order: no start publishes a will of the lives before.
    let mut device = session("d", weir.mqtt, None)?;
    let mut out = Vec::new();
    let publish =
        Publish { topic: "presence/d", payload: b"online", qos: 1, retain: true, packet_id: 1, ..Publish::default() };
    mqtt_client::publish(&mut out, Version::V4, &publish);
    device.write_all(&out)?;
    device.read_exact(&mut [0; 4]).context("a PUBACK")?;
    weir.kill()?;
    let weir = Weir::start_with(dir.path(), &mqtt, &[])?;
    ensure!(retained(weir.mqtt, 2)?[1] == ("presence/d".to_owned(), "online".to_owned()));
    weir.stop()
}

/// An open connection with a retained will message.
fn session(client: &str, mqtt: SocketAddr, will: Option<&str>) -> anyhow::Result<TcpStream> {
    let mut stream = TcpStream::connect(mqtt)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut out = Vec::new();
    let will = will.map(|will| Will {
        topic: "presence/d",
        payload: will.as_bytes(),
        qos: 1,
        retain: true,
        ..Will::default()
    });
    mqtt_client::connect(&mut out, &Connect { client_id: client, will, ..Connect::default() });
    stream.write_all(&out)?;
    stream.read_exact(&mut [0; 4]).context("a CONNACK")?;
    Ok(stream)
}

/// The retained messages that a new subscriber gets, by topic.
fn retained(mqtt: SocketAddr, count: usize) -> anyhow::Result<Vec<(String, String)>> {
    let mut stream = session("reader", mqtt, None)?;
    let mut out = Vec::new();
    let subscription = Subscription { filter: "#", qos: 0, ..Subscription::default() };
    mqtt_client::subscribe(&mut out, Version::V4, 1, &[], &[subscription]);
    stream.write_all(&out)?;
    let (mut input, mut messages) = (Vec::new(), Vec::new());
    while messages.len() < count {
        let mut part = [0; 4096];
        let read = stream.read(&mut part).with_context(|| format!("only {messages:?} is retained"))?;
        input.extend_from_slice(&part[..read]);
        while let Some((packet, length)) = mqtt_client::decode(&input, Version::V4)? {
            if let Packet::Publish(message) = packet {
                messages.push((message.topic.to_owned(), String::from_utf8_lossy(message.payload).into_owned()));
            }
            input.drain(..length);
        }
    }
    messages.sort();
    Ok(messages)
}
