//! Servers that stall, step down, are full or slow. All roles are in one process here; `fleet` has
//! them in separate ones.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use mongodb::bson::doc;
use weir_e2e::play::{self, Run, grown};
use weir_e2e::services::skipped;
use weir_e2e::site::Site;
use weir_e2e::{Weir, checked, wait_until};

const WAIT: Duration = Duration::from_secs(90);
/// Bound for progress of the devices.
const PATIENCE: Duration = Duration::from_secs(20);

/// Duration of a stall; 75 s in manual runs.
fn stall() -> Duration {
    let secs = std::env::var("WEIR_TEST_STALL_SECS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(secs.unwrap_or(8))
}

/// Factor for the minute of a scenario, so that it outlasts the stall.
fn time() -> String {
    format!("{}", (stall().as_secs_f64() + 8.0) / 60.0)
}

fn bytes_of(ledger: &Path) -> u64 {
    std::fs::metadata(ledger).map_or(0, |metadata| metadata.len())
}

/// Waits until `/health/ready` contains `words`. Returns the whole response.
async fn until_ready_says(weir: &Weir, what: &str, words: &str) -> anyhow::Result<String> {
    wait_until(what, WAIT, || async {
        let ready = weir.get("/health/ready")?;
        ensure!(ready.contains(words), "{ready}");
        Ok(ready)
    })
    .await
}

/// Lag of a sink in records, from the status.
fn lag(weir: &Weir, sink: &str) -> anyhow::Result<i64> {
    let answer = weir.get("/status.json")?;
    let body = answer.split_once("\r\n\r\n").context("an answer with a head")?.1;
    let status: serde_json::Value = serde_json::from_str(body).with_context(|| answer.clone())?;
    let sinks = status["sinks"].as_array().context("sinks")?;
    let lags = sinks.iter().filter(|s| s["sink"] == sink).map(|s| s["lag_records"].as_i64().unwrap_or(0));
    Ok(lags.sum())
}

/// Waits for the end of a stall while devices make progress and queries are answered.
fn outlast(weir: &Weir, site: &Site) -> anyhow::Result<()> {
    let (begun, mut slowest) = (Instant::now(), Duration::ZERO);
    while begun.elapsed() < stall() {
        let before = bytes_of(&site.ledger());
        grown(&site.ledger(), before + 200, PATIENCE).context("devices notice nothing")?;
        let asked = Instant::now();
        weir.cli(&["latest", "room-001"]).context("latest values are answered")?;
        slowest = slowest.max(asked.elapsed());
    }
    println!("slowest `weir latest` during the stall: {slowest:?}");
    Ok(())
}

/// Asserts that devices are done, that none waited as long as `patience`, and that each reading is
/// stored once.
fn done(site: &Site, mut run: Run, weir: &Weir, patience: Duration) -> anyhow::Result<()> {
    let status = run.0.wait()?;
    ensure!(status.success(), "{status}\n{}", site.logs_of(&["weir"]));
    let summary = site.summary()?;
    println!("PUBACK {}, {} messages", summary["latency"], summary["total"]["acknowledged"]);
    let longest = Duration::from_micros(summary["latency"]["max_micros"].as_u64().context("a latency")?);
    ensure!(longest < patience, "a device waited {longest:?}");
    site.verify(weir).with_context(|| site.logs_of(&["weir"]))?;
    println!("{}", weir.cli(&["books", "--check"])?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_and_the_other_store_are_not_affected_by_a_mongodb_that_stalls() -> anyhow::Result<()> {
    if skipped("a_mongodb_that_stalls", &["redis-server", "mongod", "influxd"])? {
        return Ok(());
    }
    let request = [("WEIR_MONGODB_REQUEST_TIMEOUT_MS", "4000")];
    let site = Site::new(true, &request).await?;
    let weir = site.start("weir", "all", "127.0.0.1:0")?;
    let run = site.play(&weir, "steady", &time())?;
    grown(&site.ledger(), 500, PATIENCE)?;
    wait_until("the first range is stored", WAIT, || async {
        ensure!(weir.cli(&["books"])?.contains("history"));
        Ok(())
    })
    .await?;
    site.mongod.0.freeze()?;
    let ready = until_ready_says(&weir, "readiness names the sink", "sink history").await?;
    ensure!(ready.contains("200 OK") && !ready.contains("sink influxdb"), "{ready}");
    outlast(&weir, &site)?;
    let (influxdb, history) = (lag(&weir, "influxdb")?, lag(&weir, "history")?);
    println!("lag: influxdb {influxdb}, history {history}");
    ensure!(influxdb < 400 && history > influxdb, "InfluxDB keeps up: {influxdb}, {history}");
    site.mongod.0.thaw()?;
    done(&site, run, &weir, stall() / 4)?;
    weir.stop()
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_and_the_other_store_are_not_affected_by_an_influxdb_that_stalls() -> anyhow::Result<()> {
    if skipped("an_influxdb_that_stalls", &["redis-server", "mongod", "influxd"])? {
        return Ok(());
    }
    let site = Site::new(true, &[("WEIR_INFLUXDB_REQUEST_TIMEOUT_MS", "4000")]).await?;
    let weir = site.start("weir", "all", "127.0.0.1:0")?;
    let run = site.play(&weir, "steady", &time())?;
    grown(&site.ledger(), 500, PATIENCE)?;
    let influxd = site.influxd.as_ref().context("there is one")?;
    influxd.server.freeze()?;
    let ready = until_ready_says(&weir, "readiness names the sink", "sink influxdb").await?;
    ensure!(ready.contains("200 OK") && !ready.contains("sink history"), "{ready}");
    outlast(&weir, &site)?;
    let (influxdb, history) = (lag(&weir, "influxdb")?, lag(&weir, "history")?);
    println!("lag: influxdb {influxdb}, history {history}");
    ensure!(history < 800 && influxdb > history, "MongoDB keeps up: {influxdb}, {history}");
    influxd.server.thaw()?;
    done(&site, run, &weir, stall() / 4)?;
    weir.stop()
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_are_not_affected_by_a_redis_that_stalls() -> anyhow::Result<()> {
    if skipped("a_redis_that_stalls", &["redis-server", "mongod"])? {
        return Ok(());
    }
    let site = Site::new(false, &[]).await?;
    let weir = site.start("weir", "all", "127.0.0.1:0")?;
    let run = site.play(&weir, "steady", &time())?;
    grown(&site.ledger(), 500, PATIENCE)?;
    site.redis.0.freeze()?;
    let begun = Instant::now();
    while begun.elapsed() < stall() {
        let before = bytes_of(&site.ledger());
        grown(&site.ledger(), before + 200, PATIENCE)
            .context("devices notice nothing: the data folder takes their readings")?;
    }
    site.redis.0.thaw()?;
    // A device waits for at most one time-out.
    done(&site, run, &weir, stall() / 2)?;
    weir.stop()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_out_of_memory_sends_readings_to_the_data_folder_and_gets_them_later() -> anyhow::Result<()> {
    if skipped("a_redis_out_of_memory", &["redis-server", "mongod"])? {
        return Ok(());
    }
    let site = Site::new(false, &[]).await?;
    let weir = site.start("weir", "all", "127.0.0.1:0")?;
    let run = site.play(&weir, "flaky-cellular", "0.4")?;
    grown(&site.ledger(), 500, PATIENCE)?;
    set_memory(&site, "1mb")?;
    wait_until("readings are spilled", WAIT, || async {
        let metrics = weir.get("/metrics")?;
        ensure!(
            metrics.lines().any(|line| line.starts_with("weir_buffer_spilling") && line.ends_with(" 1")),
            "{metrics}"
        );
        Ok(())
    })
    .await?;
    let before = bytes_of(&site.ledger());
    grown(&site.ledger(), before + 300, PATIENCE).context("devices go on")?;
    set_memory(&site, "0")?;
    done(&site, run, &weir, WAIT)?;
    weir.stop()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mongodb_that_steps_down_under_load_loses_and_doubles_nothing() -> anyhow::Result<()> {
    if skipped("a_mongodb_that_steps_down", &["redis-server", "mongod"])? {
        return Ok(());
    }
    let site = Site::new(false, &[]).await?;
    let weir = site.start("weir", "all", "127.0.0.1:0")?;
    let run = site.play(&weir, "flaky-cellular", "0.3")?;
    let client = site.mongod.client().await?;
    for round in 1..4 {
        grown(&site.ledger(), round * 1_500, PATIENCE)?;
        let down = doc! { "replSetStepDown": 2, "secondaryCatchUpPeriodSecs": 0, "force": true };
        client.database("admin").run_command(down).await?;
        site.mongod.primary().await?;
    }
    done(&site, run, &weir, WAIT)?;
    weir.stop()
}

/// Sets the memory limit of Redis.
fn set_memory(site: &Site, most: &str) -> anyhow::Result<()> {
    let mut redis = TcpStream::connect(site.redis.0.address)?;
    write!(redis, "CONFIG SET maxmemory {most}\r\n")?;
    let mut answer = [0; 5];
    redis.read_exact(&mut answer)?;
    ensure!(&answer == b"+OK\r\n", "{answer:?}");
    Ok(())
}

/// A tmpfs for one test.
struct SmallDisk<'a>(&'a Path);

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        Command::new("umount").arg("-l").arg(self.0).status().ok();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_of_redis_slows_devices_when_the_data_folder_is_full_too_and_drops_nothing() -> anyhow::Result<()> {
    if skipped("a_full_disk_of_redis", &["redis-server", "mongod"])? {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let disk = dir.path().join("redis");
    std::fs::create_dir(&disk)?;
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=2m", "tmpfs"]).arg(&disk).output()?;
    if let Err(error) = checked("mount", mounted) {
        ensure!(std::env::var_os("CI").is_none(), "{error:#}");
        println!("skipped: a_full_disk_of_redis: {error:#}");
        return Ok(());
    }
    let held = disk.clone();
    let _disk = SmallDisk(&held);
    let small = [("WEIR_LOG_CAPACITY_BYTES", "2097152"), ("WEIR_HISTORY_FLUSH_INTERVAL_MS", "600000")];
    let mut site = Site::in_folder(dir, "", false, &small).await?;
    let weir = site.start("weir", "all", "127.0.0.1:0")?;
    let load = play::load(&weir, &["--inflight", "20", "--conns", "200"])?;
    // With `appendfsync always` a Redis that cannot write exits.
    wait_until("Redis has ended", WAIT, || async {
        ensure!(TcpStream::connect(site.redis.0.address).is_err(), "Redis still listens");
        Ok(())
    })
    .await?;
    until_ready_says(&weir, "devices wait", "503").await?;
    let memory = weir.resident_bytes()?;
    println!("memory with both full: {} MiB", memory >> 20);
    ensure!(memory < 200 << 20, "{memory} bytes");
    checked("mount", Command::new("mount").args(["-o", "remount,size=512m"]).arg(&disk).output()?)?;
    site.redis.0.kill().ok();
    site.redis.0.start_again()?;
    until_ready_says(&weir, "devices go on", "200 OK").await?;
    drop(load);
    balanced(&weir).await?;
    weir.stop()
}

/// Asserts that all acknowledged readings are stored, according to the books and to the store.
async fn balanced(weir: &Weir) -> anyhow::Result<()> {
    wait_until("the books balance", WAIT, || async {
        let books = weir.cli(&["books", "--check", "--format", "csv"])?;
        ensure!(books.contains("history") && !books.contains("false"), "{books}");
        println!("{books}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_mongodb_slows_devices_when_the_log_is_full_and_memory_stays_bounded() -> anyhow::Result<()> {
    if skipped("a_slow_mongodb", &["redis-server", "mongod"])? {
        return Ok(());
    }
    let small = [
        ("WEIR_REDIS_MAX_BYTES", "4194304"),
        ("WEIR_LOG_CAPACITY_BYTES", "2097152"),
        ("WEIR_LOG_RETAIN_SECS", "0"),
        ("WEIR_MONGODB_REQUEST_TIMEOUT_MS", "30000"),
    ];
    let site = Arc::new(Site::new(false, &small).await?);
    let weir = site.start("weir", "all", "127.0.0.1:0")?;
    let load = play::load(&weir, &["--inflight", "20", "--conns", "200"])?;
    // Running for a tenth of the time.
    let slow = Arc::new(AtomicBool::new(true));
    let throttle = {
        let (site, slow) = (Arc::clone(&site), Arc::clone(&slow));
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(Duration::from_millis(50));
            let mut tick = 0_u32;
            while slow.load(Ordering::Relaxed) {
                ticks.tick().await;
                let turned = if tick.is_multiple_of(10) { site.mongod.0.thaw() } else { site.mongod.0.freeze() };
                turned.ok();
                tick += 1;
            }
            site.mongod.0.thaw().ok();
        })
    };
    until_ready_says(&weir, "devices wait", "503").await?;
    let (begun, mut most) = (Instant::now(), 0);
    while begun.elapsed() < stall() {
        most = most.max(weir.resident_bytes()?);
        tokio::task::yield_now().await;
    }
    println!("memory with a slow MongoDB and full logs: {} MiB at most", most >> 20);
    ensure!(most < 300 << 20, "{most} bytes");
    slow.store(false, Ordering::Relaxed);
    throttle.await?;
    until_ready_says(&weir, "devices go on", "200 OK").await?;
    drop(load);
    balanced(&weir).await?;
    weir.stop()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_wrong_type_among_five_thousand_is_one_letter_and_lands_after_the_mapping_is_repaired() -> anyhow::Result<()>
{
    if skipped("one_wrong_type_among_five_thousand", &["redis-server", "mongod", "influxd"])? {
        return Ok(());
    }
    let site = Site::new(true, &[]).await?;
    let weir = site.start("weir", "all", "127.0.0.1:0")?;
    let mut device = weir_e2e::device::Device::new("d", weir.mqtt);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_millis() as u64;
    for n in 0..5_000_u64 {
        let level = if n == 2_500 { "\"high\"".to_owned() } else { n.to_string() };
        let payload = format!(r#"{{"ts":{},"seq":{n},"level":{level}}}"#, now - 5_000 + n);
        device.connect()?;
        device.send(n, "devices/d/telemetry", payload.as_bytes())?;
        while device.in_flight() > 50 {
            device.acknowledged()?;
        }
    }
    device.wait_for_all()?;
    let letters = wait_until("one dead letter", WAIT, || async {
        ensure!(lag(&weir, "influxdb")? == 0 && lag(&weir, "history")? == 0, "not all is stored");
        let letters = weir.cli(&["dead-letters", "list", "--format", "json"])?;
        ensure!(letters.lines().filter(|line| line.contains("\"stage\"")).count() == 1, "{letters}");
        Ok(letters)
    })
    .await?;
    println!("{letters}");
    ensure!(letters.contains("\"stage\":\"influxdb\"") && letters.contains("level"), "{letters}");
    balanced(&weir).await?;
    weir.stop()?;

    // The mapping is repaired: a value of another type goes into a side field.
    let mut site = site;
    site.environment.push(("WEIR_INFLUXDB_ON_CONFLICT".into(), "side_field".into()));
    let weir = site.start("weir", "all", "127.0.0.1:0")?;
    let replayed = weir.cli(&["dead-letters", "replay", "--all"])?;
    println!("{replayed}");
    let influxd = site.influxd.as_ref().context("there is one")?;
    let query = format!(
        r#"{{"query":"from(bucket:\"{}\") |> range(start:-1h) |> filter(fn:(r) => r._value == \"high\")"}}"#,
        influxd.bucket
    );
    let found = influxd.post(&format!("/api/v2/query?org={}", influxd.org), "application/json", &query)?;
    ensure!(found.lines().filter(|line| line.contains("high")).count() == 1, "{found}");
    balanced(&weir).await?;
    let letters = weir.cli(&["dead-letters", "list", "--filter", "replayed = false", "--format", "csv"])?;
    ensure!(!letters.contains("influxdb"), "{letters}");
    weir.stop()
}
