//! Pools: a store that is away, and a log that is full, are felt by the tenants of one pool alone.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use mongodb::bson::{Document, doc};
use serde_json::Value;
use weir_e2e::device::Device;
use weir_e2e::keyed::{self, Keyed};
use weir_e2e::load::{Load, RoundTrips, check_beside};
use weir_e2e::services::{Mongod, skipped};
use weir_e2e::{checked, program, tail_of_log, wait_until};

/// The device of each tenant, with its pool: a database of its own, the shared one, a folder.
const TENANTS: [(&str, &str); 3] = [("acme", "gold"), ("globex", ""), ("initech", "files")];
const ACME: usize = 0;
const GLOBEX: usize = 1;
const INITECH: usize = 2;
const PATIENCE: Duration = Duration::from_secs(120);

/// Gold has a log of 3 MiB: it is full soon.
fn configuration(dir: &Path, shared: &Mongod, gold: &Mongod) -> anyhow::Result<()> {
    let path = dir.join("weir.toml");
    let init = std::fs::read_to_string(&path)?;
    let (shared, gold) = (shared.uri(), gold.uri());
    let pools = format!(
        "\n[mongodb]\nuri = {shared:?}\nserver_selection_timeout_ms = 1000\nrequest_timeout_ms = 2000\n[history]\n\
         flush_interval_ms = 300\n[latest]\nflush_interval_ms = 300\n[[pool]]\nname = \"gold\"\n[pool.mongodb]\n\
         uri = {gold:?}\ndatabase = \"gold\"\n[pool.log]\nsegment_bytes = 1048576\ncapacity_bytes = 3145728\n\
         tenant_share_percent = 100\n[[pool]]\nname = \"files\"\n"
    );
    Ok(std::fs::write(path, init + &pools)?)
}

struct Site {
    keyed: Keyed,
    passwords: Vec<String>,
}

impl Site {
    fn cli(&self, arguments: &[&str]) -> anyhow::Result<String> {
        self.keyed.cli(&self.keyed.key, arguments)
    }

    fn device(&self, number: usize) -> Device {
        let tenant = TENANTS[number].0;
        Device::new(tenant, self.keyed.weir.mqtt).with_password(tenant, &self.passwords[number])
    }

    fn quiet(&self, number: usize, sent: u64) -> RoundTrips {
        RoundTrips::new(self.device(number), TENANTS[number].0, sent)
    }

    fn readings(&self, number: usize) -> anyhow::Result<u64> {
        let tenant = TENANTS[number].0;
        let rows = self.cli(&["query", tenant, "--tenant", tenant, "--format", "csv", "--limit", "1000000"])?;
        Ok(rows.lines().count().saturating_sub(1) as u64)
    }

    /// The books of a tenant with what the stores count.
    fn balances(&self, number: usize, readings: u64) -> anyhow::Result<()> {
        let tenant = TENANTS[number].0;
        // Unbalanced books are a failure of the command.
        let books = self.cli(&["books", "--check", "--tenant", tenant, "--format", "csv"])?;
        let history = books.lines().find(|line| line.starts_with("history,")).context("a line")?;
        ensure!(history.starts_with(&format!("history,{readings},")), "{tenant} has {readings}: {books}");
        Ok(())
    }
}

fn blocks(client: &mongodb::Client, database: &str) -> mongodb::Collection<Document> {
    client.database(database).collection("blocks")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_whose_store_is_away_and_whose_log_is_full_delays_no_other() -> anyhow::Result<()> {
    if skipped("pools", &["mongod"])? {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let dir = dir.path();
    let (shared, mut gold) = tokio::try_join!(async { Mongod::start(&dir.join("shared")).await }, async {
        Mongod::start(&dir.join("gold")).await
    })?;
    let key = keyed::init(dir)?;
    configuration(dir, &shared, &gold)?;
    let keyed = Keyed { weir: keyed::run(dir)?, key };
    let mut site = Site { keyed, passwords: Vec::new() };
    let unknown = site.keyed.refused(&site.keyed.key, &["tenants", "add", "x", "--pool", "silver"])?;
    ensure!(unknown.contains("silver") && unknown.contains("gold"), "{unknown}");
    for (tenant, pool) in TENANTS {
        site.cli(&["tenants", "add", tenant, "--pool", pool])?;
        let (_, password) = site.keyed.add_device_of(tenant, tenant)?;
        site.passwords.push(password);
    }
    let list = site.cli(&["tenants", "list", "--format", "csv"])?;
    ensure!(list.contains("acme,,active,gold,") && list.contains("globex,,active,shared,"), "{list}");
    let mut quiet = [site.quiet(GLOBEX, 0), site.quiet(INITECH, 0)];
    let mut alone = Vec::new();
    for device in &mut quiet {
        alone.push(device.round_trips(300, "alone")?);
    }

    let load: &'static Load = Box::leak(Box::new(Load::new(site.keyed.weir.mqtt)));
    let loading = thread::spawn({
        let device = site.device(ACME);
        move || load.run(device, TENANTS[ACME].0)
    });
    load.grown(200, PATIENCE).await?;
    wait_until("readings in the database of gold", PATIENCE, async || {
        let count = blocks(&gold.client().await?, "gold").count_documents(doc! {}).await?;
        ensure!(count > 0, "{count}");
        Ok(())
    })
    .await?;

    // The store of gold does not answer: its log fills up, and its device waits.
    gold.0.freeze()?;
    wait_until("a full log of gold", PATIENCE, async || {
        let blocked = site.keyed.weir.metric("weir_buffer_blocked{pool=\"gold\"}")?;
        ensure!(blocked == 1.0, "{blocked}");
        Ok(())
    })
    .await?;
    let waits_at = load.acknowledged.load(Ordering::SeqCst);
    check_beside(&mut quiet, &alone, "beside a full log of another pool")?;
    ensure!(load.acknowledged.load(Ordering::SeqCst) == waits_at, "the device of gold waits");
    ensure!(site.keyed.weir.metric("weir_buffer_blocked")? == 0.0, "the shared log takes records");
    let ready = site.keyed.weir.get("/health/ready")?;
    ensure!(ready.starts_with("HTTP/1.1 200") && ready.contains("log of pool gold"), "{ready}");
    for (number, device) in [(GLOBEX, &quiet[0]), (INITECH, &quiet[1])] {
        let sent = device.sent;
        wait_until("books beside a store that is away", PATIENCE, async || site.balances(number, sent)).await?;
        ensure!(site.readings(number)? == sent);
    }
    let refused = site.keyed.refused(&site.keyed.key, &["books", "--check", "--tenant", "acme"])?;
    ensure!(!refused.is_empty());

    // A start with a full log and a store that is away.
    let Keyed { weir, key } = site.keyed;
    weir.kill()?;
    let begun = Instant::now();
    site.keyed = Keyed { weir: keyed::run(dir)?, key };
    println!("started again in {:?} beside a store that is away", begun.elapsed());
    load.reach(site.keyed.weir.mqtt);
    for (number, device) in [GLOBEX, INITECH].into_iter().zip(&mut quiet) {
        let sent = device.sent;
        *device = site.quiet(number, sent);
        device.round_trips(300, "after a restart beside a full log of another pool")?;
    }
    gold.0.kill()?;
    for device in &mut quiet {
        device.round_trips(300, "beside a dead store of another pool")?;
    }

    // The store is back: everything arrives once.
    gold.0.start_again()?;
    gold.primary().await?;
    load.grown(500, PATIENCE).await?;
    load.stop.store(true, Ordering::SeqCst);
    loading.join().expect("the load does not panic")?;
    let sent = load.sent.load(Ordering::SeqCst);
    println!("gold: {sent} readings");
    wait_until("the books of gold", PATIENCE, async || site.balances(ACME, sent)).await?;
    ensure!(site.readings(ACME)? == sent, "{} of {sent}", site.readings(ACME)?);
    for (number, device) in [(GLOBEX, &quiet[0]), (INITECH, &quiet[1])] {
        wait_until("the books", PATIENCE, async || site.balances(number, device.sent)).await?;
        ensure!(site.readings(number)? == device.sent);
    }
    let of = async |mongod: &Mongod, database: &str, tenant: &str| {
        let client = mongod.client().await?;
        anyhow::Ok(blocks(&client, database).count_documents(doc! { "w": tenant }).await?)
    };
    let fields = blocks(&gold.client().await?, "gold").find_one(doc! {}).await?.context("a block")?;
    ensure!(fields.get_str("w")? == "acme", "{fields}");
    ensure!(of(&shared, "weir", "acme").await? == 0 && of(&gold, "gold", "globex").await? == 0);
    ensure!(of(&shared, "weir", "globex").await? > 0 && of(&shared, "weir", "initech").await? == 0);

    // A key of one tenant reads no other, in whichever pool.
    let answer = site.cli(&["keys", "add", "dashboard", "--role", "viewer", "--tenant", "acme", "--format", "json"])?;
    let answer: Value = serde_json::from_str(&answer)?;
    let viewer = answer["key"].as_str().context("a key")?;
    let own = site.keyed.cli(viewer, &["query", "acme", "--tenant", "acme", "--format", "csv", "--limit", "5"])?;
    ensure!(own.lines().count() == 6, "{own}");
    for tenant in ["globex", "initech"] {
        site.keyed.refused(viewer, &["query", tenant, "--tenant", tenant])?;
    }
    // Dead letters and latest states are those of the pool.
    let mut command = Command::new("mosquitto_pub");
    command.args(["-h", "127.0.0.1", "-p", &site.keyed.weir.mqtt.port().to_string(), "-q", "1", "-i", "acme:x"]);
    command.args(["-t", "devices/acme/telemetry", "-m", "{broken", "-u", "acme", "-P", &site.passwords[ACME]]);
    checked("mosquitto_pub", command.output()?)?;
    let letters = site.cli(&["dead-letters", "--tenant", "acme", "--format", "csv"])?;
    ensure!(letters.lines().count() == 2, "{letters}");
    let letters = site.cli(&["dead-letters", "--tenant", "initech", "--format", "csv"])?;
    ensure!(letters.lines().count() == 1, "{letters}");
    for (number, (tenant, _)) in TENANTS.iter().enumerate() {
        let latest = site.cli(&["latest", tenant, "--tenant", tenant, "--format", "csv"])?;
        let last = [sent, quiet[0].sent, quiet[1].sent][number] - 1;
        ensure!(latest.contains(&last.to_string()), "{latest}");
    }

    // A backup has every pool; what is restored is complete.
    let backup = dir.join("backup");
    let config = dir.join("weir.toml");
    let mut command = Command::new(program("weir")?);
    command.current_dir(dir).args(["backup"]).arg(&backup).args(["--data-dir", "data", "--config"]).arg(&config);
    checked("weir backup", command.output()?)?;
    ensure!(backup.join("pools/files/store").is_dir() && backup.join("pools/gold/log").is_dir());

    // Without its [[pool]] table, a pool is neither written nor read.
    let Keyed { weir, key } = site.keyed;
    weir.stop()?;
    let text = std::fs::read_to_string(&config)?;
    std::fs::write(&config, text.replace("[[pool]]\nname = \"files\"\n", ""))?;
    site.keyed = Keyed { weir: keyed::run(dir)?, key };
    let mut device = site.device(INITECH);
    let refused = device.connect().unwrap_err().to_string();
    ensure!(refused.contains("20, 02, 00, 03"), "{refused}");
    let refused = site.keyed.refused(&site.keyed.key, &["query", "initech", "--tenant", "initech"])?;
    ensure!(refused.contains("files"), "{refused}");
    let log = tail_of_log(dir);
    ensure!(log.contains("initech") && log.contains("files"), "{log}");
    site.quiet(GLOBEX, 0).round_trips(20, "beside a pool that is not there")?;

    // The restored folder, with the pool again.
    let Keyed { weir, key } = site.keyed;
    weir.stop()?;
    std::fs::write(&config, text)?;
    let data = dir.join("data");
    std::fs::remove_dir_all(&data)?;
    let mut command = Command::new(program("weir")?);
    checked("weir restore", command.arg("restore").arg(&backup).arg("--to").arg(&data).output()?)?;
    site.keyed = Keyed { weir: keyed::run(dir)?, key };
    ensure!(site.readings(INITECH)? == quiet[1].sent, "{} of {}", site.readings(INITECH)?, quiet[1].sent);
    site.keyed.weir.stop()
}
