//! Weir with exports to Kafka and to files: the whole path, from PUBLISH to a consumer that is not
//! ours.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use weir_e2e::device::Device;
use weir_e2e::services::{Kafka, Record, skipped};
use weir_e2e::{Weir, tail_of_log, wait_until};

const DEVICES: usize = 4;
/// Everything sent is to be seen within this.
const PATIENCE: Duration = Duration::from_secs(90);

/// A configuration with one export in transactions, one without, and one into files.
fn configure(dir: &Path, kafka: &Kafka, more: &str) -> anyhow::Result<PathBuf> {
    let brokers = kafka.brokers();
    let archive = dir.join("archive");
    let mut text = String::new();
    for (name, topic, transactional) in [("once", "once.{tenant}", true), ("often", "often.{tenant}", false)] {
        write!(
            text,
            "[[export]]\nname = \"{name}\"\ntype = \"kafka\"\nbrokers = [\"{brokers}\"]\ntopic = \"{topic}\"\n\
             transactional = {transactional}\nstart = \"beginning\"\nflush_interval_ms = 200\ndelivery_timeout_ms = 5000\n{more}\n"
        )?;
    }
    write!(
        text,
        "[[export]]\nname = \"archive\"\ntype = \"file\"\nfolder = {:?}\nrotate_bytes = 20000\nstart = \"beginning\"\nflush_interval_ms = 20\n",
        archive.display().to_string()
    )?;
    let path = dir.join("weir.toml");
    std::fs::write(&path, text)?;
    Ok(path)
}

fn start(dir: &Path, mqtt: &str, config: &Path) -> anyhow::Result<Weir> {
    let config = config.to_str().context("a path that is text")?;
    let environment =
        [("WEIR_CONFIG", config), ("WEIR_HISTORY_FLUSH_INTERVAL_MS", "300"), ("WEIR_LOG_SEGMENT_BYTES", "4194304")];
    Weir::start_with(dir, mqtt, &environment)
}

/// Messages of a device: sent and acknowledged.
#[derive(Debug, Default)]
struct Ledger {
    sent: u64,
    acknowledged: HashSet<u64>,
}

/// Devices that publish `n` upwards at a moderate pace until they are stopped or have sent `most`,
/// and end when everything is acknowledged.
struct Fleet {
    stop: Arc<AtomicBool>,
    total: Arc<AtomicU64>,
    devices: Vec<JoinHandle<anyhow::Result<Ledger>>>,
}

impl Fleet {
    fn start(mqtt: SocketAddr, most: u64) -> Self {
        let (stop, total) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let devices = (0..DEVICES).map(|number| {
            let (stop, total) = (Arc::clone(&stop), Arc::clone(&total));
            std::thread::spawn(move || publish(number, mqtt, most, &stop, &total))
        });
        Self { devices: devices.collect(), stop, total }
    }

    fn end(self) -> anyhow::Result<Vec<Ledger>> {
        self.stop.store(true, Ordering::Relaxed);
        self.devices.into_iter().map(|device| device.join().expect("a device does not panic")).collect()
    }
}

fn publish(number: usize, mqtt: SocketAddr, most: u64, stop: &AtomicBool, total: &AtomicU64) -> anyhow::Result<Ledger> {
    let mut device = Device::new(&format!("client-{number}"), mqtt);
    let topic = format!("devices/d{number}/telemetry");
    let mut ledger = Ledger::default();
    let begun = Instant::now();
    loop {
        let stopping = stop.load(Ordering::Relaxed);
        if (stopping || ledger.sent == most) && device.in_flight() == 0 {
            return Ok(ledger);
        }
        ensure!(begun.elapsed() < Duration::from_secs(600), "device {number} is not done in time");
        if device.connect().is_err() {
            std::thread::yield_now();
            continue;
        }
        while !stopping && ledger.sent < most && device.in_flight() < 5 {
            let (n, now) = (ledger.sent, SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros());
            ledger.sent += 1;
            let payload = format!(r#"{{"ts":{now},"n":{n},"temperature":21.5}}"#);
            if device.send(n, &topic, payload.as_bytes()).is_err() {
                break;
            }
        }
        let numbers = device.acknowledged_until_lost()?;
        total.fetch_add(numbers.len() as u64, Ordering::Relaxed);
        ledger.acknowledged.extend(numbers);
    }
}

/// The values `n` by device, in the order of the records.
fn by_device(records: &[Record]) -> anyhow::Result<BTreeMap<String, Vec<u64>>> {
    let mut found: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for record in records {
        found.entry(record.key.clone()).or_default().push(u64::try_from(record.int("n")?)?);
    }
    Ok(found)
}

/// As a consumer does that drops repeats.
fn without_repeats(records: Vec<Record>) -> Vec<Record> {
    let mut known = HashSet::new();
    records.into_iter().filter(|record| known.insert(record.headers["weir-message-id"].clone())).collect()
}

/// Lines of closed and open files, in the order of the names.
fn lines(folder: &Path) -> anyhow::Result<Vec<(String, u64)>> {
    let mut names = std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<anyhow::Result<Vec<_>>>()?;
    names.retain(|path| path.to_string_lossy().contains(".ndjson"));
    names.sort();
    let mut found = Vec::new();
    for name in names {
        for line in std::fs::read_to_string(&name)?.lines() {
            let json: serde_json::Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
            found.push((
                json["device"].as_str().context("a device")?.to_owned(),
                json["values"]["n"].as_u64().context("n")?,
            ));
        }
    }
    Ok(found)
}

/// Each acknowledged message once, and nothing that was not sent.
fn each_once(what: &str, found: &BTreeMap<String, Vec<u64>>, ledgers: &[Ledger]) -> anyhow::Result<()> {
    for (number, ledger) in ledgers.iter().enumerate() {
        let found = found.get(&format!("d{number}")).map(Vec::as_slice).unwrap_or_default();
        let distinct: HashSet<u64> = found.iter().copied().collect();
        let lost = ledger.acknowledged.iter().filter(|n| !distinct.contains(n)).count();
        ensure!(lost == 0, "{what}: d{number} lacks {lost} of {}", ledger.acknowledged.len());
        ensure!(found.len() == distinct.len(), "{what}: d{number} has {} twice", found.len() - distinct.len());
        ensure!(distinct.iter().all(|n| *n < ledger.sent), "{what}: d{number} has what was never sent");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn readings_reach_two_exports_to_kafka_and_one_to_files_once_and_in_order() -> anyhow::Result<()> {
    if skipped("readings_reach_two_exports", &["kafka-server"])? {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let kafka = Kafka::start(&dir.path().join("kafka"))?;
    let config = configure(dir.path(), &kafka, "")?;
    let weir = start(dir.path(), "127.0.0.1:0", &config)?;
    let ledgers = Fleet::start(weir.mqtt, 500).end_when(2_000).await?;
    let archive = dir.path().join("archive");
    wait_until("every reading is exported", PATIENCE, async || {
        for topic in ["once", "often"] {
            let found = by_device(&kafka.committed(&format!("{topic}\\.default"))?)?;
            each_once(topic, &found, &ledgers)?;
            ensure!(found.values().all(|n| n.is_sorted()), "{topic}: the order of a device: {found:?}");
        }
        let mut found: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        lines(&archive)?.into_iter().for_each(|(device, n)| found.entry(device).or_default().push(n));
        each_once("archive", &found, &ledgers)?;
        ensure!(found.values().all(|n| n.is_sorted()), "archive: the order of a device");
        Ok(())
    })
    .await
    .with_context(|| tail_of_log(dir.path()))?;
    let records = kafka.committed("once\\.default")?;
    let first = &records[0];
    ensure!(first.headers["weir-tenant"] == "default" && first.headers["weir-schema"].contains("json"), "{first:?}");
    ensure!(first.headers["weir-message-id"].contains(':'), "{first:?}");
    // A file is closed after the batch that fills it, so the count depends on how quick the devices
    // are.
    let names: Vec<_> = std::fs::read_dir(&archive)?.filter_map(Result::ok).map(|entry| entry.path()).collect();
    let is_closed = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "ndjson");
    ensure!(names.iter().any(is_closed) && names.len() > 1, "files rotate: {names:?}");
    let listed = weir.cli(&["exports"])?;
    ensure!(["once", "often", "archive"].iter().all(|name| listed.contains(name)), "{listed}");
    weir.stop()
}

impl Fleet {
    /// Lets it run until so many messages are acknowledged.
    async fn end_when(self, messages: u64) -> anyhow::Result<Vec<Ledger>> {
        let total = Arc::clone(&self.total);
        wait_until("messages are acknowledged", PATIENCE, async || {
            let total = total.load(Ordering::Relaxed);
            ensure!(total >= messages, "{total} of {messages}");
            Ok(())
        })
        .await?;
        self.end()
    }
}

/// Publishes one message, which is acknowledged when it returns.
fn publish_one(device: &mut Device, n: u64, text: &str) -> anyhow::Result<()> {
    device.connect()?;
    device.send(n, "devices/d0/telemetry", format!(r#"{{"n":{n},"text":"{text}"}}"#).as_bytes())?;
    device.wait_for_all()?;
    Ok(())
}

/// Waits until this many records of the topics are committed.
async fn counted(kafka: &Kafka, dir: &Path, topics: &str, wanted: usize) -> anyhow::Result<()> {
    wait_until(&format!("{wanted} records"), PATIENCE, async || {
        let found = kafka.committed(topics)?.len();
        ensure!(found == wanted, "{found} records in {topics}");
        Ok(())
    })
    .await
    .with_context(|| tail_of_log(dir))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_too_large_becomes_a_dead_letter_of_each_export_that_refuses_it() -> anyhow::Result<()> {
    if skipped("a_record_that_is_too_large_becomes_a_dead_letter", &["kafka-server"])? {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let kafka = Kafka::start(&dir.path().join("kafka"))?;
    let config = configure(dir.path(), &kafka, "message_max_bytes = 3000")?;
    let weir = start(dir.path(), "127.0.0.1:0", &config)?;
    let mut device = Device::new("client", weir.mqtt);
    (0..10).try_for_each(|n| publish_one(&mut device, n, "small"))?;
    publish_one(&mut device, 10, &"x".repeat(4_000))?;
    publish_one(&mut device, 11, "small")?;
    for topics in ["once\\..*", "often\\..*"] {
        counted(&kafka, dir.path(), topics, 11).await?;
    }
    let letters = weir.cli(&["dead-letters", "list", "--format", "json"])?;
    for (stage, wanted) in [("once", 1), ("often", 1), ("archive", 0)] {
        let of: Vec<_> = letters.lines().filter(|line| line.contains(&format!("\"stage\":\"{stage}\""))).collect();
        ensure!(of.len() == wanted && of.iter().all(|l| l.contains("message_max_bytes")), "{stage}: {letters}");
    }
    weir.stop()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_export_resumes_where_it_was_and_the_other_goes_on() -> anyhow::Result<()> {
    if skipped("a_paused_export_resumes", &["kafka-server"])? {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let kafka = Kafka::start(&dir.path().join("kafka"))?;
    let config = configure(dir.path(), &kafka, "")?;
    let weir = start(dir.path(), "127.0.0.1:0", &config)?;
    let mut device = Device::new("client", weir.mqtt);
    (0..10).try_for_each(|n| publish_one(&mut device, n, "small"))?;
    counted(&kafka, dir.path(), "once\\..*", 10).await?;
    weir.cli(&["exports", "pause", "once"])?;
    wait_until("the export is paused", PATIENCE, async || {
        let listed = weir.cli(&["exports"])?;
        let paused = |line: &str| line.contains("once") && line.to_lowercase().contains("paused");
        ensure!(listed.lines().any(paused), "{listed}");
        Ok(())
    })
    .await?;
    // The pause takes effect within a few seconds: from the first reading that the other export
    // alone delivers.
    let (mut sent, mut held) = (10, 10);
    while held == sent {
        ensure!(sent < 100, "the export delivers though it is paused");
        publish_one(&mut device, sent, "small")?;
        sent += 1;
        counted(&kafka, dir.path(), "often\\..*", usize::try_from(sent)?).await?;
        held = kafka.committed("once\\..*")?.len() as u64;
    }
    (sent..sent + 10).try_for_each(|n| publish_one(&mut device, n, "small"))?;
    sent += 10;
    counted(&kafka, dir.path(), "often\\..*", usize::try_from(sent)?).await?;
    counted(&kafka, dir.path(), "once\\..*", usize::try_from(held)?).await?;
    weir.cli(&["exports", "resume", "once"])?;
    counted(&kafka, dir.path(), "once\\..*", usize::try_from(sent)?).await?;
    weir.stop()
}

#[tokio::test(flavor = "multi_thread")]
async fn random_kills_of_weir_and_of_kafka_lose_nothing_and_double_nothing() -> anyhow::Result<()> {
    if skipped("random_kills_of_weir_and_of_kafka", &["kafka-server"])? {
        return Ok(());
    }
    let secs = std::env::var("WEIR_TEST_CHAOS_SECS").ok().and_then(|secs| secs.parse().ok()).unwrap_or(20);
    let seed = SystemTime::now().duration_since(UNIX_EPOCH)?.subsec_nanos();
    println!("seed {seed}, {secs} s");
    let dir = tempfile::tempdir()?;
    let mut kafka = Kafka::start(&dir.path().join("kafka"))?;
    let config = configure(dir.path(), &kafka, "")?;
    let mut weir = start(dir.path(), "127.0.0.1:0", &config)?;
    let mqtt = weir.mqtt;
    let fleet = Fleet::start(mqtt, u64::MAX);
    let (begun, mut random) = (Instant::now(), u64::from(seed) | 1);
    let (mut weirs, mut kafkas) = (0, 0);
    while begun.elapsed() < Duration::from_secs(secs) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let goal = fleet.total.load(Ordering::Relaxed) + 100;
        let moment = Instant::now() + Duration::from_millis(300 + random % 2_500);
        wait_until("progress", PATIENCE, async || {
            ensure!(fleet.total.load(Ordering::Relaxed) >= goal && Instant::now() >= moment, "no progress");
            Ok(())
        })
        .await?;
        if random >> 32 & 1 == 0 {
            weir.kill()?;
            weir = start(dir.path(), &mqtt.to_string(), &config)?;
            weirs += 1;
        } else {
            kafka.server.kill()?;
            // Sometimes Weir dies while Kafka is away.
            if random >> 33 & 1 == 0 {
                weir.kill()?;
                weir = start(dir.path(), &mqtt.to_string(), &config)?;
                weirs += 1;
            }
            kafka.server.start_again()?;
            kafkas += 1;
        }
    }
    let ledgers = fleet.end()?;
    let sent: usize = ledgers.iter().map(|ledger| ledger.acknowledged.len()).sum();
    let archive = dir.path().join("archive");
    wait_until("every reading is exported", PATIENCE, async || {
        each_once("once", &by_device(&kafka.committed("once\\.default")?)?, &ledgers)?;
        let often = kafka.committed("often\\.default")?;
        let all = often.len();
        let often = without_repeats(often);
        each_once("often", &by_device(&often)?, &ledgers)?;
        let mut found: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        lines(&archive)?.into_iter().for_each(|(device, n)| found.entry(device).or_default().push(n));
        each_once("archive", &found, &ledgers)?;
        println!("{} repeats without transactions", all - often.len());
        Ok(())
    })
    .await
    .with_context(|| format!("seed {seed}:\n{}", tail_of_log(dir.path())))?;
    println!("{sent} readings, {weirs} kills of Weir, {kafkas} of Kafka");
    weir.stop()
}
