//! The drill of docs/guides/backup.md: a backup under load, kill -9, a restore to another folder,
//! and every reading that was acknowledged before the backup began is there exactly once.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use mongodb::bson::Document;
use weir_e2e::device::Device;
use weir_e2e::services::{Mongod, Redis, skipped};
use weir_e2e::{Weir, checked, program, read, wait_until};

const DEVICES: usize = 4;
const BACKUPS: usize = 4;
const BOUND: Duration = Duration::from_secs(60);

/// Short intervals and small files, so that backups meet flushes, new segments, deleted ones, and
/// dead letters.
const ENVIRONMENT: [(&str, &str); 4] = [
    ("WEIR_HISTORY_FLUSH_INTERVAL_MS", "100"),
    ("WEIR_LATEST_FLUSH_INTERVAL_MS", "100"),
    ("WEIR_LOG_SEGMENT_BYTES", "1048576"),
    ("WEIR_LOG_RETAIN_BYTES", "1048576"),
];

/// The numbers of acknowledged messages of each device.
type Ledgers = Arc<Vec<Mutex<HashSet<u64>>>>;

fn backup(data: &Path, to: &Path) -> anyhow::Result<Output> {
    Ok(Command::new(program("weir")?).arg("backup").arg(to).arg("--data-dir").arg(data).output()?)
}

fn restore(from: &Path, to: &Path) -> anyhow::Result<Output> {
    Ok(Command::new(program("weir")?).arg("restore").arg(from).arg("--to").arg(to).output()?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_under_load_is_restored_with_every_acknowledged_reading_once() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let weir = Weir::start_with(dir.path(), "127.0.0.1:0", &ENVIRONMENT)?;
    let mqtt = weir.mqtt;
    let ledgers: Ledgers = Arc::new((0..DEVICES).map(|_| Mutex::default()).collect());
    let stop = Arc::new(AtomicBool::new(false));
    let devices: Vec<_> = (0..DEVICES)
        .map(|number| {
            let (ledgers, stop) = (Arc::clone(&ledgers), Arc::clone(&stop));
            std::thread::spawn(move || play(number, mqtt, &ledgers, &stop))
        })
        .collect();
    // A device whose PUBACKs are lost, so that it sends everything again after the restore.
    let mut unlucky = Device::new("unlucky", mqtt);
    let mut backups: Vec<(PathBuf, Vec<HashSet<u64>>, u64)> = Vec::new();
    let mut sent = 0;
    for number in 0..BACKUPS {
        let goal = count(&ledgers) + 1_000;
        let begun = Instant::now();
        while count(&ledgers) < goal {
            ensure!(begun.elapsed() < BOUND, "no progress before backup {number}");
            tokio::task::yield_now().await;
        }
        for _ in 0..10 {
            unlucky.send(sent, "devices/unlucky/telemetry", format!(r#"{{"n":{sent}}}"#).as_bytes())?;
            sent += 1;
        }
        let channel = weir.channel().await?;
        wait_until("the messages without a PUBACK are durable", BOUND, async || {
            let found = read::all_readings(&channel, "unlucky").await?.len();
            ensure!(found as u64 == sent, "{found} of {sent}");
            Ok(())
        })
        .await?;
        let acknowledged = ledgers.iter().map(|ledger| ledger.lock().expect("not poisoned").clone()).collect();
        let to = dir.path().join(format!("backup-{number}"));
        let (data, copy) = (dir.path().join("data"), to.clone());
        let taken = tokio::task::spawn_blocking(move || backup(&data, &copy)).await??;
        println!("{}", String::from_utf8_lossy(&taken.stderr));
        checked("weir backup", taken)?;
        backups.push((to, acknowledged, sent));
    }
    weir.kill()?;
    stop.store(true, Ordering::Relaxed);
    for device in devices {
        device.join().expect("a device does not panic")?;
    }

    let (last, ..) = backups.last().context("a backup")?.clone();
    for (number, (from, acknowledged, sent)) in backups.iter().enumerate() {
        let place = dir.path().join(format!("restored-{number}"));
        std::fs::create_dir(&place)?;
        checked("weir restore", restore(from, &place.join("data"))?)?;
        let restored = Weir::start_with(&place, &mqtt.to_string(), &ENVIRONMENT)?;
        if *from == last {
            unlucky.disconnect();
            resend(&mut unlucky)?;
        }
        let channel = restored.channel().await?;
        for (device, acknowledged) in acknowledged.iter().enumerate() {
            once(&channel, &format!("d{device}"), acknowledged).await.with_context(|| format!("backup {number}"))?;
        }
        let of_unlucky = read::all_readings(&channel, "unlucky").await?;
        let numbers: HashSet<i64> = of_unlucky.iter().map(|row| row.int("n")).collect::<anyhow::Result<_>>()?;
        ensure!(
            numbers.len() as u64 == *sent && of_unlucky.len() as u64 == *sent,
            "backup {number}: {} readings, {} different ones, of {sent} messages",
            of_unlucky.len(),
            numbers.len()
        );
        println!("backup {number}:\n{}", balanced(&restored).await?);
        restored.stop()?;
    }
    Ok(())
}

fn count(ledgers: &Ledgers) -> usize {
    ledgers.iter().map(|ledger| ledger.lock().expect("not poisoned").len()).sum()
}

/// Asserts that the device has each of these readings, and none twice.
async fn once(channel: &tonic::transport::Channel, device: &str, numbers: &HashSet<u64>) -> anyhow::Result<()> {
    let mut found: HashMap<u64, usize> = HashMap::new();
    for row in read::all_readings(channel, device).await? {
        *found.entry(u64::try_from(row.int("n")?)?).or_default() += 1;
    }
    let lost: Vec<_> = numbers.iter().filter(|n| !found.contains_key(n)).collect();
    let doubled: Vec<_> = found.iter().filter(|(_, count)| **count > 1).collect();
    println!("{device}: acknowledged {}, found {}", numbers.len(), found.len());
    ensure!(lost.is_empty() && doubled.is_empty(), "{device} lost {lost:?}, doubled {doubled:?}");
    Ok(())
}

/// Sends all messages without a PUBACK again, and waits for their acknowledgements.
fn resend(device: &mut Device) -> anyhow::Result<()> {
    let begun = Instant::now();
    while device.in_flight() > 0 {
        ensure!(begun.elapsed() < BOUND, "{} are not acknowledged", device.in_flight());
        device.connect()?;
        device.acknowledged()?;
    }
    device.disconnect();
    Ok(())
}

/// Publishes until `stop` is set or the broker ends. One of fifty messages becomes a dead letter.
fn play(number: usize, mqtt: SocketAddr, ledgers: &Ledgers, stop: &AtomicBool) -> anyhow::Result<()> {
    let mut device = Device::new(&format!("client-{number}"), mqtt);
    let topic = format!("devices/d{number}/telemetry");
    let mut sent = 0;
    device.connect()?;
    while !stop.load(Ordering::Relaxed) {
        while device.in_flight() < 20 {
            let payload = if sent % 50 == 7 { "{".to_owned() } else { format!(r#"{{"n":{sent},"temperature":21.5}}"#) };
            if device.send(sent, &topic, payload.as_bytes()).is_err() {
                return Ok(());
            }
            sent += 1;
        }
        // The end of the connection is the kill.
        let Ok(acknowledged) = device.acknowledged() else { return Ok(()) };
        ledgers[number].lock().expect("not poisoned").extend(acknowledged.into_iter().filter(|n| n % 50 != 7));
    }
    Ok(())
}

/// MongoDB is copied after the backup: here it stays as it is when Weir is killed.
#[tokio::test(flavor = "multi_thread")]
async fn a_later_copy_of_mongodb_and_the_backup_belong_together() -> anyhow::Result<()> {
    if skipped("a_later_copy_of_mongodb_and_the_backup_belong_together", &["mongod"])? {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let mongod = Mongod::start(&dir.path().join("mongod")).await?;
    let uri = mongod.uri();
    let environment: Vec<(&str, &str)> = ENVIRONMENT.into_iter().chain([("WEIR_MONGODB_URI", uri.as_str())]).collect();
    let weir = Weir::start_with(dir.path(), "127.0.0.1:0", &environment)?;
    let mqtt = weir.mqtt;
    let ledgers: Ledgers = Arc::new((0..DEVICES).map(|_| Mutex::default()).collect());
    let devices: Vec<_> = (0..DEVICES)
        .map(|number| {
            let ledgers = Arc::clone(&ledgers);
            std::thread::spawn(move || play(number, mqtt, &ledgers, &AtomicBool::new(false)))
        })
        .collect();
    let progress = async |goal: usize| {
        let reached = async || {
            ensure!(count(&ledgers) >= goal, "{} of {goal}", count(&ledgers));
            Ok(())
        };
        wait_until("devices are acknowledged", BOUND, reached).await
    };
    progress(1_000).await?;
    let acknowledged: Vec<HashSet<u64>> = ledgers.iter().map(|l| l.lock().expect("not poisoned").clone()).collect();
    let (data, copy) = (dir.path().join("data"), dir.path().join("backup"));
    checked("weir backup", backup(&data, &copy)?)?;
    let (database, rest) = (mongod.client().await?.database("weir"), rest(&copy)?);
    wait_until("MongoDB goes on after the backup", BOUND, async || {
        for (name, filter) in &rest {
            let more = database.collection::<Document>(name).count_documents(filter.clone()).await?;
            ensure!(more > 0, "no more {name}");
        }
        Ok(())
    })
    .await?;
    weir.kill()?;
    devices.into_iter().try_for_each(|device| device.join().expect("a device does not panic"))?;

    let place = dir.path().join("restored");
    std::fs::create_dir(&place)?;
    checked("weir restore", restore(&copy, &place.join("data"))?)?;
    // With the driver in place of mongosh.
    for (name, filter) in rest {
        let removed = database.collection::<Document>(name).delete_many(filter).await?;
        println!("{name}: {} removed", removed.deleted_count);
    }
    let restored = Weir::start_with(&place, "127.0.0.1:0", &environment)?;
    let channel = restored.channel().await?;
    for (device, acknowledged) in acknowledged.iter().enumerate() {
        once(&channel, &format!("d{device}"), acknowledged).await?;
    }
    let books = balanced(&restored).await?;
    println!("{books}");
    restored.stop()
}

/// The cursors are on Redis then: one program cannot copy them and a store of this process at one
/// moment, but the spill can be copied at any time.
#[tokio::test(flavor = "multi_thread")]
async fn with_the_log_on_redis_a_running_process_copies_its_spill_and_a_stopped_one_its_store() -> anyhow::Result<()> {
    if skipped("with_the_log_on_redis", &["redis-server"])? {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let redis = Redis::start(&dir.path().join("redis"), "")?;
    let url = redis.url();
    let on_redis: Vec<(&str, &str)> = ENVIRONMENT.into_iter().chain([("WEIR_REDIS_URLS", url.as_str())]).collect();
    let (data, copy) = (dir.path().join("data"), dir.path().join("backup"));
    let weir = Weir::start_with(dir.path(), "127.0.0.1:0", &on_redis)?;
    let mut device = Device::new("d", weir.mqtt);
    for n in 0..20 {
        device.send(n, "devices/d/telemetry", format!(r#"{{"n":{n}}}"#).as_bytes())?;
    }
    device.wait_for_all()?;
    let refused = backup(&data, &copy)?;
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(!refused.status.success() && text.contains("on Redis") && text.contains("stop weir"), "{text}");
    weir.stop()?;
    let mut command = Command::new(program("weir")?);
    command.arg("backup").arg(&copy).arg("--data-dir").arg(&data).envs(on_redis.clone());
    checked("weir backup", command.output()?)?;
    ensure!(servers(&copy)? == ["Flushers", "Redis", "Flushers"], "{:?}", servers(&copy)?);
    ensure!(copy.join("spill/log.json").exists(), "the spill is copied");
    let place = dir.path().join("restored");
    std::fs::create_dir(&place)?;
    checked("weir restore", restore(&copy, &place.join("data"))?)?;
    let restored = Weir::start_with(&place, "127.0.0.1:0", &on_redis)?;
    once(&restored.channel().await?, "d", &(0..20).collect()).await?;
    balanced(&restored).await?;
    restored.stop()?;

    // Nothing waits for MongoDB here, and no store is in the data folder.
    let place = dir.path().join("ingest");
    std::fs::create_dir(&place)?;
    let in_fleet = on_redis.iter().copied().chain([
        ("WEIR_MONGODB_URI", "mongodb://127.0.0.1:1"),
        ("WEIR_ROLES", "ingest"),
        ("WEIR_REDIS_NODE", "ingest"),
        ("WEIR_FLEET_SECRET", "known to all of them"),
    ]);
    let ingest = Weir::start_with(&place, "127.0.0.1:0", &in_fleet.collect::<Vec<_>>())?;
    let copy = dir.path().join("spill");
    checked("weir backup", backup(&place.join("data"), &copy)?)?;
    ensure!(servers(&copy)? == ["Flushers", "Redis", "MongoDB", "Flushers"], "{:?}", servers(&copy)?);
    ensure!(copy.join("spill/log.json").exists() && !copy.join("store").exists(), "the spill is copied");
    ingest.kill()?;
    checked("weir restore", restore(&copy, &dir.path().join("of-ingest"))?)?;
    Ok(())
}

/// The servers of the steps, in order.
fn servers(copy: &Path) -> anyhow::Result<Vec<String>> {
    let manifest: serde_json::Value = serde_json::from_slice(&std::fs::read(copy.join("manifest.json"))?)?;
    let steps = manifest["servers"].as_array().context("steps")?;
    Ok(steps.iter().map(|step| step["server"].as_str().unwrap_or_default().to_owned()).collect())
}

/// The collections and filters of the printed commands.
fn rest(copy: &Path) -> anyhow::Result<Vec<(&'static str, Document)>> {
    let manifest: serde_json::Value = serde_json::from_slice(&std::fs::read(copy.join("manifest.json"))?)?;
    let text = manifest["servers"][0]["restore"].as_str().context("the steps of MongoDB")?;
    let command = |name: &'static str| {
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("d.{name}.deleteMany(")));
        let filter = line.and_then(|line| line.split_once(");")).context("a command for each collection")?.0;
        let filter: serde_json::Value = serde_json::from_str(filter)?;
        Ok((name, mongodb::bson::serialize_to_document(&filter)?))
    };
    ["blocks", "dead_letters"].into_iter().map(command).collect()
}

/// Waits until the books balance, row by row, and nothing is pending.
async fn balanced(weir: &Weir) -> anyhow::Result<String> {
    wait_until("the books balance, row by row", BOUND, async || {
        let books = weir.cli(&["books", "--check", "--format", "csv"])?;
        let fields = books.lines().map(|line| line.split(',').collect::<Vec<_>>());
        let lines = fields.filter_map(|all| Some(all[all.iter().position(|field| *field == "history")?..].to_vec()));
        // Sink, accepted, stored, merged, pending, dead-lettered, balanced, expected, held.
        let whole =
            |line: &Vec<&str>| matches!(line[..], [_, _, _, _, "0", _, "true", expected, held] if expected == held);
        ensure!(lines.collect::<Vec<_>>().iter().any(whole), "{books}");
        Ok(books)
    })
    .await
}

/// A small file system for one test.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(dir: &Path, bytes: u32) -> anyhow::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let size = format!("size={bytes}");
        checked("mount", Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(dir).output()?)?;
        Ok(Self(dir.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        Command::new("umount").arg("-l").arg(&self.0).status().ok();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_leaves_no_half_backup_and_no_half_restore() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let disk = match SmallDisk::mount(&dir.path().join("small"), 256 << 10) {
        Ok(disk) => disk,
        Err(error) => {
            ensure!(std::env::var_os("CI").is_none(), "{error:#}");
            println!("skipped: a_full_disk_leaves_no_half_backup_and_no_half_restore: {error:#}");
            return Ok(());
        }
    };
    let weir = Weir::start_with(dir.path(), "127.0.0.1:0", &ENVIRONMENT)?;
    let mut device = Device::new("d", weir.mqtt);
    let text = "x".repeat(10_000);
    for n in 0..40 {
        device.send(n, "devices/d/telemetry", format!(r#"{{"n":{n},"text":"{text}"}}"#).as_bytes())?;
    }
    device.wait_for_all()?;
    let data = dir.path().join("data");
    let refused = |output: Output| {
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(!output.status.success() && text.contains("space"), "{text}");
        println!("{text}");
        let left: Vec<_> = std::fs::read_dir(&disk.0)?.collect::<Result<_, _>>()?;
        ensure!(left.is_empty(), "{left:?} is left");
        Ok(())
    };
    refused(backup(&data, &disk.0.join("backup"))?).context("while it runs")?;
    let whole = dir.path().join("backup");
    checked("weir backup", backup(&data, &whole)?)?;
    ensure!(weir.get("/health/ready")?.starts_with("HTTP/1.1 200"), "the process runs on");
    weir.stop()?;
    refused(backup(&data, &disk.0.join("backup"))?).context("stopped")?;
    refused(restore(&whole, &disk.0.join("data"))?).context("restore")
}
