//! Weir with the embedded log and MongoDB: an edge box.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use weir_e2e::device::Device;
use weir_e2e::play::{self, grown};
use weir_e2e::services::{Mongod, skipped};
use weir_e2e::{Weir, program, read, tail_of_log, wait_until};

/// Bound for progress of the devices.
const PATIENCE: Duration = Duration::from_secs(60);

fn environment(mongod: &Mongod) -> Vec<(&'static str, String)> {
    vec![
        ("WEIR_MONGODB_URI", mongod.uri()),
        ("WEIR_HISTORY_FLUSH_INTERVAL_MS", "1000".to_owned()),
        ("WEIR_LATEST_FLUSH_INTERVAL_MS", "300".to_owned()),
        ("WEIR_MONGODB_SERVER_SELECTION_TIMEOUT_MS", "1000".to_owned()),
        ("WEIR_MONGODB_REQUEST_TIMEOUT_MS", "2000".to_owned()),
    ]
}

fn start(dir: &Path, mqtt: &str, mongod: &Mongod) -> anyhow::Result<Weir> {
    let environment = environment(mongod);
    let environment: Vec<(&str, &str)> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
    Weir::start_with(dir, mqtt, &environment)
}

/// Compares acknowledged readings with Weir and with MongoDB.
fn verify(weir: &Weir, mongod: &Mongod, ledger: &Path) -> anyhow::Result<()> {
    play::verify(weir, ledger, "60s", &["--mongodb", &mongod.uri()], &["weir", "mongodb"])
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_lands_in_mongodb_though_it_and_weir_are_killed_and_frozen() -> anyhow::Result<()> {
    if skipped("everything_lands_in_mongodb", &["mongod"])? {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let mut mongod = Mongod::start(&dir.path().join("mongod")).await?;
    let weir = start(dir.path(), "127.0.0.1:0", &mongod)?;
    let mqtt = weir.mqtt.to_string();
    let ledger = dir.path().join("ledger");
    let mut run = play::play(&weir, ("flaky-cellular", "0.6", "90s"), &ledger, Stdio::null())?;
    grown(&ledger, 6_000, PATIENCE)?;
    mongod.0.kill()?;
    grown(&ledger, 12_000, PATIENCE).context("devices notice nothing while MongoDB is dead")?;
    let ready = weir.get("/health/ready")?;
    ensure!(ready.contains("sink history"), "readiness names the sink: {ready}");
    mongod.0.start_again()?;
    mongod.primary().await?;
    grown(&ledger, 17_000, PATIENCE)?;
    weir.kill()?;
    let weir = start(dir.path(), &mqtt, &mongod)?;
    grown(&ledger, 22_000, PATIENCE)?;
    mongod.0.freeze()?;
    grown(&ledger, 27_000, PATIENCE).context("devices notice nothing while MongoDB does not answer")?;
    mongod.0.thaw()?;
    let status = run.0.wait()?;
    ensure!(status.success(), "{status}\n{}", tail_of_log(dir.path()));
    verify(&weir, &mongod, &ledger)?;
    let books = weir.cli(&["books", "--check"])?;
    println!("{books}");
    weir.stop()
}

#[tokio::test(flavor = "multi_thread")]
async fn types_names_and_dead_letters_survive_mongodb() -> anyhow::Result<()> {
    if skipped("types_names_and_dead_letters", &["mongod"])? {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let mongod = Mongod::start(&dir.path().join("mongod")).await?;
    let weir = start(dir.path(), "127.0.0.1:0", &mongod)?;
    for scenario in ["garbage-device", "mixed-fleet", "clock-drift"] {
        let ledger = dir.path().join(scenario);
        let status = play::play(&weir, (scenario, "0.1", "90s"), &ledger, Stdio::null())?.0.wait()?;
        ensure!(status.success(), "{scenario}: {status}");
        verify(&weir, &mongod, &ledger).with_context(|| scenario.to_owned())?;
    }
    weir.stop()
}

/// Publishes a retained message, or returns the one that a new subscriber receives.
async fn mqtt(weir: &Weir, publish: Option<&str>) -> anyhow::Result<String> {
    use rumqttc::{AsyncClient, Event, Incoming, MqttOptions, QoS};
    const TOPIC: &str = "devices/d1/state";
    let (client, mut events) = AsyncClient::new(MqttOptions::new("retained", "127.0.0.1", weir.mqtt.port()), 10);
    match publish {
        Some(text) => client.publish(TOPIC, QoS::AtLeastOnce, true, text).await?,
        None => client.subscribe(TOPIC, QoS::AtLeastOnce).await?,
    }
    let answer = async {
        loop {
            match events.poll().await? {
                Event::Incoming(Incoming::PubAck(_)) => return anyhow::Ok(String::new()),
                Event::Incoming(Incoming::Publish(message)) => {
                    ensure!(message.retain, "{message:?}");
                    return Ok(String::from_utf8(message.payload.to_vec())?);
                }
                _ => {}
            }
        }
    };
    tokio::time::timeout(PATIENCE, answer).await.context("no answer over MQTT")?
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_do_not_wait_for_a_mongodb_that_is_away_at_the_start() -> anyhow::Result<()> {
    if skipped("devices_do_not_wait_for_a_mongodb", &["mongod"])? {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let mut mongod = Mongod::start(&dir.path().join("mongod")).await?;
    let weir = start(dir.path(), "127.0.0.1:0", &mongod)?;
    mqtt(&weir, Some("open")).await?;
    weir.stop()?;
    mongod.0.kill()?;
    let base = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_millis();
    let publish = |weir: &Weir, from: u32| {
        let mut device = Device::new("d1", weir.mqtt);
        device.connect()?;
        for n in from..from + 10 {
            let payload = format!(r#"{{"ts":{},"n":{n}}}"#, base + u128::from(n));
            device.send(n.into(), "devices/d1/telemetry", payload.as_bytes())?;
        }
        device.wait_for_all()?;
        anyhow::Ok(())
    };
    // A start that is killed, and one that is stopped by SIGTERM.
    std::fs::remove_dir_all(dir.path().join("data"))?;
    let weir = start(dir.path(), "127.0.0.1:0", &mongod)?;
    publish(&weir, 0)?;
    let ready = weir.get("/health/ready")?;
    ensure!(ready.contains("200 OK") && ready.contains("MongoDB") && ready.contains("mongodb.uri"), "{ready}");
    let page = weir.get("/status.json")?;
    ensure!(page.contains(r#""state":"degraded""#) && page.contains("MongoDB: waiting for it"), "{page}");
    let begun = Instant::now();
    let error = weir.cli(&["latest", "d1"]).err().context("queries are unavailable")?;
    ensure!(begun.elapsed() < Duration::from_secs(10), "the caller does not wait: {error:#}");
    weir.kill()?;
    let weir = start(dir.path(), "127.0.0.1:0", &mongod)?;
    publish(&weir, 10)?;
    weir.stop()?;
    let weir = start(dir.path(), "127.0.0.1:0", &mongod)?;
    publish(&weir, 20)?;
    mongod.0.start_again()?;
    mongod.primary().await?;
    let found = wait_until("queries are answered", Duration::from_secs(60), || async {
        read::all_readings(&weir.channel().await?, "d1").await
    });
    let found = found.await?.len();
    ensure!(found == 30, "{found} readings\n{}", tail_of_log(dir.path()));
    wait_until("readiness names nothing", Duration::from_secs(60), || async {
        let ready = weir.get("/health/ready")?;
        ensure!(ready.ends_with(r#"{"ready":true,"reasons":[]}"#), "{ready}");
        Ok(())
    })
    .await?;
    ensure!(mqtt(&weir, None).await? == "open", "what was retained before all this");
    let books = wait_until("everything is stored", Duration::from_secs(60), || async {
        let books = weir.cli(&["books", "--check", "--format", "csv"])?;
        ensure!(books.contains("history,30,30,0,0,0,true,30,30"), "{books}");
        Ok(books)
    })
    .await?;
    println!("{books}");
    weir.stop()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_deleted_from_mongodb_is_missing_in_the_books() -> anyhow::Result<()> {
    if skipped("a_block_deleted_from_mongodb", &["mongod"])? {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let mongod = Mongod::start(&dir.path().join("mongod")).await?;
    let weir = start(dir.path(), "127.0.0.1:0", &mongod)?;
    let ledger = dir.path().join("ledger");
    let status = play::play(&weir, ("steady", "0.05", "90s"), &ledger, Stdio::null())?.0.wait()?;
    ensure!(status.success(), "{status}");
    verify(&weir, &mongod, &ledger)?;
    let blocks = mongod.client().await?.database("weir").collection::<mongodb::bson::Document>("blocks");
    let deleted = blocks.delete_one(mongodb::bson::doc! {}).await?.deleted_count;
    ensure!(deleted == 1, "{deleted} blocks deleted");
    let output = Command::new(program("weir-sim")?)
        .args(["verify", "--json", "--within", "0", "--mongodb", &mongod.uri(), "--ledger"])
        .arg(&ledger)
        .output()?;
    ensure!(!output.status.success(), "a store without a block is not clean");
    let reports: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    ensure!(reports[0]["findings"]["counts"]["missing"].as_u64() >= Some(1), "{reports}");
    // The books name the hour.
    let books = Command::new(program("weir")?).args(["books", "--check", "--server", &weir.url()]).output()?;
    let text = String::from_utf8_lossy(&books.stdout);
    let hour = text.lines().find(|line| line.contains(":00:00") && line.contains("false"));
    ensure!(!books.status.success() && hour.is_some(), "{text}");
    println!("{text}");
    weir.stop()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_dropped_underneath_costs_no_query_and_a_dropped_collection_is_reported() -> anyhow::Result<()> {
    if skipped("an_index_dropped_underneath", &["mongod"])? {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let mongod = Mongod::start(&dir.path().join("mongod")).await?;
    let weir = start(dir.path(), "127.0.0.1:0", &mongod)?;
    let mqtt = weir.mqtt.to_string();
    let ledger = dir.path().join("ledger");
    let status = play::play(&weir, ("steady", "0.05", "90s"), &ledger, Stdio::null())?.0.wait()?;
    ensure!(status.success(), "{status}");
    verify(&weir, &mongod, &ledger)?;
    let database = mongod.client().await?.database("weir");
    let blocks = database.collection::<mongodb::bson::Document>("blocks");
    blocks.drop_indexes().await?;
    let rows = weir.cli(&["query", "room-001", "--since", "1d", "--format", "csv"])?;
    ensure!(rows.contains("room-001,"), "{rows}");
    ensure!(
        tail_of_log(dir.path()).contains("index `by_device_time_and_size` of `blocks`"),
        "{}",
        tail_of_log(dir.path())
    );
    weir.stop()?;
    blocks.drop_indexes().await?;
    let weir = start(dir.path(), &mqtt, &mongod)?;
    verify(&weir, &mongod, &ledger).context("a start makes the indexes again")?;
    weir.cli(&["books", "--check"])?;
    blocks.drop().await?;
    let lost = "the collection `blocks` was deleted and made anew";
    let said = || async {
        let ready = weir.get("/health/ready")?;
        ensure!(ready.contains(lost) && ready.contains("200 OK"), "{ready}");
        Ok(())
    };
    wait_until("the loss is reported", PATIENCE, said).await?;
    ensure!(weir.cli(&["books", "--check"]).is_err(), "the books name an empty store");
    weir.stop()?;
    let weir = start(dir.path(), &mqtt, &mongod)?;
    let ready = weir.get("/health/ready")?;
    ensure!(ready.contains(lost), "a restart does not hide it: {ready}");
    let doctor = weir.cli(&["doctor"]).err().map(|error| format!("{error:#}")).unwrap_or_default();
    ensure!(doctor.contains(lost) && doctor.contains("do not balance"), "doctor names it: {doctor}");
    weir.stop()
}
