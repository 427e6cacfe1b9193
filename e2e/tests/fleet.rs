//! Roles in separate processes over one Redis and one MongoDB.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use weir_e2e::device::Device;
use weir_e2e::play::{self, grown};
use weir_e2e::services::skipped;
use weir_e2e::site::Site;
use weir_e2e::{Weir, read, wait_until};

const WAIT: Duration = Duration::from_secs(60);
/// Bound for progress of the devices.
const PATIENCE: Duration = Duration::from_secs(20);

/// Publishes `count` readings of a device and waits for their acknowledgements.
fn publish(device: &mut Device, name: &str, from: u64, count: u64) -> anyhow::Result<()> {
    let base = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_millis();
    for n in from..from + count {
        let topic = format!("devices/{name}/telemetry");
        let payload = format!(r#"{{"ts":{},"n":{n}}}"#, base + u128::from(n - from));
        device.connect()?;
        device.send(n, &topic, payload.as_bytes())?;
    }
    device.wait_for_all()?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ingest_acknowledged_is_read_through_the_api_at_once_with_and_without_a_flusher() -> anyhow::Result<()> {
    if skipped("what_ingest_acknowledged_is_read", &["redis-server", "mongod"])? {
        return Ok(());
    }
    // The flush interval is longer than the test.
    let slow = [("WEIR_HISTORY_FLUSH_INTERVAL_MS", "600000"), ("WEIR_LATEST_FLUSH_INTERVAL_MS", "600000")];
    let site = Site::new(false, &slow).await?;
    let ingest = site.start("ingest", "ingest", "127.0.0.1:0")?;
    let flusher = site.start("flusher", "flusher", "127.0.0.1:0")?;
    let api = site.start("api", "api", "127.0.0.1:0")?;
    let channel = api.channel().await?;
    let mut device = Device::new("d1", ingest.mqtt);

    let mut sent = 0;
    let mut look = async |what: &str| -> anyhow::Result<()> {
        publish(&mut device, "d1", sent, 5)?;
        sent += 5;
        let begun = Instant::now();
        let rows = read::all_readings(&channel, "d1").await.with_context(|| what.to_owned())?;
        println!("{what}: {} readings in {:?}", rows.len(), begun.elapsed());
        let numbers = rows.iter().map(|row| row.int("n")).collect::<anyhow::Result<Vec<_>>>()?;
        ensure!(numbers == (0..i64::try_from(sent)?).collect::<Vec<_>>(), "{what}: {numbers:?}");
        let begun = Instant::now();
        let latest = api.cli(&["latest", "d1", "--format", "csv"])?;
        println!("{what}: latest in {:?}", begun.elapsed());
        ensure!(latest.contains(&format!(",{}", sent - 1)), "{what}: {latest}");
        Ok(())
    };
    for round in 0..5 {
        look(&format!("round {round}")).await?;
    }
    flusher.kill()?;
    look("the flusher is dead and has its lease").await?;
    look("and again").await?;
    let flusher = site.start("flusher2", "flusher", "127.0.0.1:0")?;
    wait_until("the new flusher has the log", WAIT, || async {
        let status = api.cli(&["status", "--format", "json"])?;
        ensure!(status.contains("\"history\""), "{status}");
        Ok(())
    })
    .await?;
    look("another flusher has taken over").await?;
    flusher.freeze()?;
    look("the flusher does not answer").await?;
    flusher.thaw()?;
    look("it answers again").await?;
    let books = api.cli(&["books"])?;
    ensure!(books.contains("50"), "{books}");
    flusher.stop()?;
    look("flushed and gone").await?;
    ingest.stop()?;
    api.stop()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_doubled_though_processes_and_servers_are_killed_in_random_order() -> anyhow::Result<()> {
    if skipped("nothing_is_lost_or_doubled_though_processes", &["redis-server", "mongod", "influxd"])? {
        return Ok(());
    }
    // Manual runs take two minutes.
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
    let secs = number("WEIR_TEST_CHAOS_SECS").unwrap_or(25);
    let seed = number("WEIR_TEST_CHAOS_SEED").unwrap_or(7);
    let mut site = Site::new(true, &[]).await?;
    let (names, roles) = (["ingest", "flusher-a", "flusher-b", "api"], ["ingest", "flusher", "flusher", "api"]);
    let first = site.start(names[0], roles[0], "127.0.0.1:0")?;
    let mqtt = first.mqtt.to_string();
    let mut running = vec![first];
    for (name, role) in names.iter().zip(roles).skip(1) {
        running.push(site.start(name, role, "127.0.0.1:0")?);
    }
    // The scenario is a minute long.
    let mut run = site.play(&running[0], "flaky-cellular", &format!("{}", f64::from(secs) / 60.0))?;
    let (begun, mut kills, mut random) = (Instant::now(), [0; 7], u64::from(seed));
    while begun.elapsed() < Duration::from_secs(secs.into()) && run.0.try_wait()?.is_none() {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // Processes are killed four times as often as servers.
        let place = [0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 6][(random >> 33) as usize % 15];
        kills[place] += 1;
        match place {
            4 => {
                site.redis.0.kill()?;
                site.redis.0.start_again()?;
            }
            5 => {
                site.mongod.0.kill()?;
                site.mongod.0.start_again()?;
                site.mongod.primary().await?;
            }
            6 => {
                let influxd = site.influxd.as_mut().context("there is one")?;
                influxd.server.kill()?;
                influxd.server.start_again()?;
            }
            _ => {
                running.remove(place).kill()?;
                running.insert(place, site.start(names[place], roles[place], &mqtt)?);
            }
        }
        let before = std::fs::metadata(site.ledger())?.len();
        // Each runs for some time, so that devices make progress.
        if let Err(error) = grown(&site.ledger(), before + 300 + (random >> 20) % 1_200, PATIENCE) {
            ensure!(run.0.try_wait()?.is_some(), "{error:#}\n{}", site.logs_of(&names));
        }
    }
    let status = run.0.wait()?;
    println!("kills of {names:?}, Redis, MongoDB, InfluxDB: {kills:?}, seed {seed}");
    ensure!(status.success(), "{status}\n{}", site.logs_of(&names));
    ensure!(kills.iter().sum::<i32>() >= 4, "{kills:?}");
    site.verify(&running[3]).with_context(|| site.logs_of(&names))?;
    let books = running[3].cli(&["books", "--check"])?;
    println!("{books}");
    running.reverse();
    running.into_iter().try_for_each(Weir::stop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flusher_that_sleeps_past_its_lease_and_returns_changes_nothing() -> anyhow::Result<()> {
    if skipped("a_flusher_that_sleeps", &["redis-server", "mongod", "influxd"])? {
        return Ok(());
    }
    let site = Site::new(true, &[]).await?;
    let ingest = site.start("ingest", "ingest", "127.0.0.1:0")?;
    let a = site.start("flusher-a", "flusher", "127.0.0.1:0")?;
    let b = site.start("flusher-b", "flusher", "127.0.0.1:0")?;
    let api = site.start("api", "api", "127.0.0.1:0")?;
    let mut run = site.play(&ingest, "flaky-cellular", "0.5")?;
    let mut bytes = 0;
    for round in 0..3 {
        let (sleeper, other) = if round % 2 == 0 { (&a, "flusher-b") } else { (&b, "flusher-a") };
        grown(&site.ledger(), bytes + 800, PATIENCE)?;
        let taken = || -> anyhow::Result<usize> {
            let log = std::fs::read_to_string(site.folder(other).join("weir.log"))?;
            Ok(log.matches("flushes this log").count())
        };
        let before = taken()?;
        sleeper.freeze()?;
        let frozen = wait_until("the other flusher has the log", WAIT, || async {
            ensure!(taken()? > before, "{}", site.logs_of(&["flusher-a", "flusher-b"]));
            Ok(())
        });
        let frozen = frozen.await;
        bytes = std::fs::metadata(site.ledger())?.len();
        grown(&site.ledger(), bytes + 400, PATIENCE)?;
        sleeper.thaw()?;
        frozen?;
    }
    let status = run.0.wait()?;
    ensure!(status.success(), "{status}");
    site.verify(&api).with_context(|| site.logs_of(&["flusher-a", "flusher-b"]))?;
    println!("{}", api.cli(&["books", "--check"])?);
    for weir in [ingest, a, b, api] {
        weir.stop()?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_an_ingest_node_left_is_drained_and_removed_and_stays_in_the_books() -> anyhow::Result<()> {
    if skipped("a_log_that_an_ingest_node_left", &["redis-server", "mongod"])? {
        return Ok(());
    }
    let site = Site::new(false, &[("WEIR_LOG_RETAIN_SECS", "0")]).await?;
    let flusher = site.start("flusher", "flusher", "127.0.0.1:0")?;
    let api = site.start("api", "api", "127.0.0.1:0")?;
    for round in 0..2_u64 {
        let ingest = site.start("ingest", "ingest", "127.0.0.1:0")?;
        publish(&mut Device::new("d1", ingest.mqtt), "d1", round * 10, 10)?;
        ingest.stop()?;
    }
    wait_until("both logs are gone", WAIT, || async {
        let status = api.cli(&["status", "--format", "json"])?;
        ensure!(!status.contains("ingest."), "{status}");
        Ok(())
    })
    .await?;
    let books = api.cli(&["books", "--check", "--format", "csv"])?;
    ensure!(books.contains("history") && books.contains("20"), "{books}");
    let channel = api.channel().await?;
    ensure!(read::all_readings(&channel, "d1").await?.len() == 20);
    flusher.stop()?;
    api.stop()
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_are_acknowledged_while_mongodb_is_away_and_a_wrong_secret_is_refused() -> anyhow::Result<()> {
    if skipped("devices_are_taken_while_mongodb_is_away", &["redis-server", "mongod"])? {
        return Ok(());
    }
    let mut site = Site::new(false, &[]).await?;
    site.mongod.0.kill()?;
    let ingest = site.start("ingest", "ingest", "127.0.0.1:0")?;
    publish(&mut Device::new("d1", ingest.mqtt), "d1", 0, 10)?;
    ensure!(ingest.get("/health/ready")?.contains("200 OK"), "ingest is ready without MongoDB");
    // A process with all roles accepts devices too.
    let all = site.start("all", "all", "127.0.0.1:0")?;
    publish(&mut Device::new("d2", all.mqtt), "d2", 0, 10)?;
    site.mongod.0.start_again()?;
    site.mongod.primary().await?;
    let flusher = site.start("flusher", "flusher", "127.0.0.1:0")?;
    let api = site.start("api", "api", "127.0.0.1:0")?;
    let channel = api.channel().await?;
    ensure!(read::all_readings(&channel, "d1").await?.len() == 10);
    let asked = wait_until("the process that waited answers", WAIT, || async {
        let channel = all.channel().await?;
        Ok((read::all_readings(&channel, "d1").await?.len(), read::all_readings(&channel, "d2").await?.len()))
    });
    ensure!(asked.await? == (10, 10), "{}", site.logs_of(&["all"]));

    let addresses = std::fs::read_to_string(site.folder("flusher").join("data/addresses.json"))?;
    let addresses: serde_json::Value = serde_json::from_str(&addresses)?;
    let url = format!("http://{}", addresses["fleet"].as_str().context("a flusher listens for the fleet")?);
    let stranger = tonic::transport::Endpoint::from_shared(url)?.connect().await?;
    let mut stranger = proto::internal::v1::fleet_service_client::FleetServiceClient::new(stranger);
    let answer =
        stranger.status(proto::internal::v1::StatusRequest {}).await.err().context("it must not be answered")?;
    ensure!(answer.code() == tonic::Code::Unauthenticated, "{answer}");
    for weir in [ingest, flusher, api, all] {
        weir.stop()?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_for_the_operator_ends_the_start_at_once_with_one_line() -> anyhow::Result<()> {
    if skipped("an_error_for_the_operator", &["redis-server", "mongod"])? {
        return Ok(());
    }
    let mut site = Site::new(false, &[("WEIR_INSECURE", "true")]).await?;
    let user = mongodb::bson::doc! { "createUser": "reader", "pwd": "pw", "roles": [{ "role": "read", "db": "weir" }] };
    site.mongod.client().await?.database("admin").run_command(user).await?;
    let wrong = |text: String| text.replace("://", "://weir:wrong@");
    let cases = [
        ("WEIR_REDIS_URLS", wrong(site.redis.url()), "redis.password"),
        ("WEIR_MONGODB_URI", wrong(site.mongod.uri()), "mongodb.uri"),
        ("WEIR_FLEET_ADDRESS", "0.0.0.0:0".to_owned(), "fleet.advertise"),
        ("WEIR_FLEET_SECRET", "two lines of a\nlong secret".to_owned(), "fleet.secret"),
    ];
    for (number, (name, value, key)) in cases.into_iter().enumerate() {
        site.environment.push((name.to_owned(), value));
        let error = site.start(&format!("weir{number}"), "flusher,api", "127.0.0.1:0").err();
        site.environment.pop();
        let error = format!("{:#}", error.with_context(|| format!("with {name} it must not start"))?);
        ensure!(error.contains(key), "{name}: {error}");
    }
    Ok(())
}

/// The alert about the books depends on this.
#[tokio::test(flavor = "multi_thread")]
async fn the_books_balance_in_every_process_while_readings_are_ingested() -> anyhow::Result<()> {
    if skipped("the_books_balance_in_every_process", &["redis-server", "mongod"])? {
        return Ok(());
    }
    let site = Site::new(false, &[("WEIR_HISTORY_FLUSH_INTERVAL_MS", "100")]).await?;
    let ingest = site.start("ingest", "ingest", "127.0.0.1:0")?;
    let others = [site.start("flusher", "flusher", "127.0.0.1:0")?, site.start("api", "api", "127.0.0.1:0")?];
    let options = ["--conns", "50", "--inflight", "5", "--rate", "5000", "--threads", "1"];
    let mut load = play::load(&ingest, &options)?;
    let (begun, mut looks, mut taken) = (Instant::now(), 0, 0);
    while looks < 100 || taken < 20_000 {
        ensure!(begun.elapsed() < WAIT && load.0.try_wait()?.is_none(), "{looks} looks, {taken} readings");
        for weir in &others {
            let text = weir.get("/metrics")?;
            let lines = || text.lines().filter(|line| line.starts_with("weir_books_imbalance_readings{"));
            ensure!(
                lines().count() >= 3 && lines().all(|line| line.ends_with(" 0")),
                "{:?}",
                lines().collect::<Vec<_>>()
            );
        }
        (looks, taken) = (looks + 1, ingest.metric("weir_ingest_readings_total")? as u64);
    }
    println!("{looks} looks at the books of each while {taken} readings came in");
    Ok(())
}
