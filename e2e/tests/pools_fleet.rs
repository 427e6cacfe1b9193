//! Pools of a fleet: several processes over one Redis, one of whose pools has a store that is away
//! and a log that is full, another one a Redis of its own.

use std::cell::Cell;
use std::process::Command;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use anyhow::{Context, ensure};
use mongodb::bson::{Document, doc};
use weir_e2e::device::Device;
use weir_e2e::load::{Load, RoundTrips, check_beside};
use weir_e2e::services::{Mongod, Redis, skipped};
use weir_e2e::site::Site;
use weir_e2e::{Weir, checked, program, wait_until};

/// The device of each tenant, with its pool: a MongoDB of its own, the shared one, a database and a
/// Redis of its own.
const TENANTS: [(&str, &str); 3] = [("acme", "gold"), ("globex", ""), ("initech", "silver")];
const ACME: usize = 0;
const GLOBEX: usize = 1;
const INITECH: usize = 2;
const PATIENCE: Duration = Duration::from_secs(120);
const ROLES: [(&str, &str); 3] = [("n0", "ingest,api"), ("n1", "flusher"), ("n2", "flusher,api")];

struct Fleet {
    site: Site,
    nodes: Vec<Weir>,
    key: String,
    passwords: Vec<String>,
}

/// Gold has logs of 2 MiB on Redis and a spill of as much: they are full soon.
fn pools(gold: &Mongod, silver: &Redis) -> String {
    format!(
        "[[pool]]\nname = \"gold\"\n[pool.mongodb]\nuri = {:?}\ndatabase = \"gold\"\n[pool.redis]\nmax_bytes = 2097152\n\
         [pool.log]\nsegment_bytes = 1048576\ncapacity_bytes = 2097152\ntenant_share_percent = 100\n{}",
        gold.uri(),
        silver_pool(&silver.url())
    )
}

fn silver_pool(redis: &str) -> String {
    format!("[[pool]]\nname = \"silver\"\n[pool.mongodb]\ndatabase = \"silver\"\n[pool.redis]\nurls = [{redis:?}]\n")
}

impl Fleet {
    async fn start(gold: &Mongod, silver: &Redis) -> anyhow::Result<Self> {
        let settings = [
            ("WEIR_AUTH_REQUIRED", "true"),
            ("WEIR_AUTH_REGISTRY", "mongodb"),
            ("WEIR_HISTORY_FLUSH_INTERVAL_MS", "300"),
            ("WEIR_LATEST_FLUSH_INTERVAL_MS", "300"),
            ("WEIR_MONGODB_REQUEST_TIMEOUT_MS", "2000"),
        ];
        let mut site = Site::new(false, &settings).await?;
        let first = site.folder("n0");
        std::fs::create_dir_all(&first)?;
        let config = site.dir.path().join("weir.toml");
        std::fs::write(&config, pools(gold, silver))?;
        let mut command = Command::new(program("weir")?);
        command.current_dir(&first).args(["init", "--data-dir", "data"]);
        command.envs(site.environment.iter().map(|(name, value)| (name, value)));
        let key = checked("weir init", command.output()?)?.trim().to_owned();
        site.environment.push(("WEIR_AUTH_PEPPERS".into(), first.join("data/peppers").display().to_string()));
        site.environment.push(("WEIR_CONFIG".into(), config.display().to_string()));
        let nodes = ROLES.iter().map(|(name, roles)| site.start(name, roles, "127.0.0.1:0"));
        let nodes = nodes.collect::<anyhow::Result<Vec<_>>>()?;
        Ok(Self { site, nodes, key, passwords: Vec::new() })
    }

    /// Kills a process with SIGKILL and starts it again.
    fn restart(&mut self, node: usize) -> anyhow::Result<()> {
        let (name, roles) = ROLES[node];
        self.nodes.remove(node).kill()?;
        self.nodes.insert(node, self.site.start(name, roles, "127.0.0.1:0")?);
        Ok(())
    }

    fn cli(&self, node: usize, arguments: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new(program("weir")?);
        command.args(arguments).args(["--server", &self.nodes[node].url()]).env("WEIR_API_KEY", &self.key);
        checked(&format!("weir {arguments:?}"), command.output()?)
    }

    fn add(&mut self, tenant: &str, pool: &str) -> anyhow::Result<()> {
        self.cli(0, &["tenants", "add", tenant, "--pool", pool])?;
        let added = self.cli(0, &["devices", "add", tenant, "--tenant", tenant, "--format", "json"])?;
        let added: serde_json::Value = serde_json::from_str(&added)?;
        self.passwords.push(added["password"].as_str().context("a password")?.to_owned());
        Ok(())
    }

    fn device(&self, number: usize, broker: &Weir) -> Device {
        let tenant = TENANTS[number].0;
        Device::new(tenant, broker.mqtt).with_password(tenant, &self.passwords[number])
    }

    fn quiet(&self, number: usize, sent: u64) -> RoundTrips {
        RoundTrips::new(self.device(number, &self.nodes[0]), TENANTS[number].0, sent)
    }

    fn readings(&self, node: usize, number: usize) -> anyhow::Result<u64> {
        let tenant = TENANTS[number].0;
        let rows = self.cli(node, &["query", tenant, "--tenant", tenant, "--format", "csv", "--limit", "1000000"])?;
        Ok(rows.lines().count().saturating_sub(1) as u64)
    }

    /// The books of a tenant with what the stores count.
    fn balances(&self, node: usize, number: usize, readings: u64) -> anyhow::Result<()> {
        let tenant = TENANTS[number].0;
        let books = self.cli(node, &["books", "--check", "--tenant", tenant, "--format", "csv"])?;
        let history = books.lines().find(|line| line.starts_with("history,")).context("a line")?;
        ensure!(history.starts_with(&format!("history,{readings},")), "{tenant} has {readings}: {books}");
        Ok(())
    }

    async fn balance(&self, what: &str, number: usize, readings: u64) -> anyhow::Result<()> {
        wait_until(what, PATIENCE, async || self.balances(0, number, readings)).await?;
        for node in [0, 2] {
            let found = self.readings(node, number)?;
            ensure!(found == readings, "{what}: {found} of {readings} through {node}");
        }
        Ok(())
    }
}

async fn blocks_of(mongod: &Mongod, database: &str, tenant: &str) -> anyhow::Result<u64> {
    let blocks: mongodb::Collection<Document> = mongod.client().await?.database(database).collection("blocks");
    Ok(blocks.count_documents(doc! { "w": tenant }).await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_of_a_fleet_whose_store_is_away_and_whose_logs_are_full_delays_no_other() -> anyhow::Result<()> {
    if skipped("pools_fleet", &["redis-server", "mongod"])? {
        return Ok(());
    }
    let servers = tempfile::tempdir()?;
    let mut gold = Mongod::start(&servers.path().join("gold")).await?;
    let mut silver = Redis::start(&servers.path().join("silver"), "")?;
    let mut fleet = Fleet::start(&gold, &silver).await?;
    for (tenant, pool) in TENANTS {
        fleet.add(tenant, pool)?;
    }
    let mut quiet = [fleet.quiet(GLOBEX, 0), fleet.quiet(INITECH, 0)];
    let mut alone = Vec::new();
    for (number, device) in [GLOBEX, INITECH].into_iter().zip(&mut quiet) {
        alone.push(device.round_trips(300, "alone")?);
        // What was acknowledged is found at once, wherever its log is flushed.
        for node in [0, 2] {
            ensure!(fleet.readings(node, number)? == device.sent);
        }
    }
    let load: &'static Load = Box::leak(Box::new(Load::new(fleet.nodes[0].mqtt)));
    let loading = thread::spawn({
        let device = fleet.device(ACME, &fleet.nodes[0]);
        move || load.run(device, TENANTS[ACME].0)
    });
    load.grown(200, PATIENCE).await?;
    wait_until("readings in the database of gold", PATIENCE, async || {
        let count = blocks_of(&gold, "gold", "acme").await?;
        ensure!(count > 0, "{count}");
        Ok(())
    })
    .await?;

    // The store of gold does not answer: its log fills up, and its device waits.
    gold.0.freeze()?;
    // On Redis, then in the files: seen several times, since an append that is retried is blocked.
    let seen = Cell::new(0);
    wait_until("full logs of gold", PATIENCE, async || {
        let full = fleet.nodes[0].metric("weir_buffer_blocked{pool=\"gold\"}")? == 1.0;
        let spills = fleet.nodes[0].metric("weir_buffer_spilling{pool=\"gold\"}")? == 1.0;
        seen.set(if full && spills { seen.get() + 1 } else { 0 });
        ensure!(seen.get() > 10, "full: {full}, spills: {spills}");
        Ok(())
    })
    .await?;
    let waits_at = load.acknowledged.load(Ordering::SeqCst);
    check_beside(&mut quiet, &alone, "beside a full log of another pool")?;
    ensure!(load.acknowledged.load(Ordering::SeqCst) == waits_at, "the device of gold waits");
    ensure!(fleet.nodes[0].metric("weir_buffer_blocked")? == 0.0, "the shared log takes records");
    let ready = fleet.nodes[0].get("/health/ready")?;
    ensure!(ready.starts_with("HTTP/1.1 200") && ready.contains("log of pool gold"), "{ready}");
    let spill = fleet.site.folder("n0").join("data/pools/gold/spill");
    ensure!(spill.is_dir(), "{} is the spill of gold", spill.display());

    // The Redis of silver is away: its records go to its own spill.
    silver.0.kill()?;
    for device in &mut quiet {
        device.round_trips(300, "beside a dead Redis of silver")?;
    }
    ensure!(fleet.nodes[0].metric("weir_buffer_spilling{pool=\"silver\"}")? == 1.0, "silver spills");
    ensure!(fleet.nodes[0].metric("weir_buffer_spilling")? == 0.0, "the shared pool does not");
    silver.0.start_again()?;

    // A flusher dies, and then the process of the devices.
    fleet.restart(1)?;
    for device in &mut quiet {
        device.round_trips(300, "beside a flusher that was killed")?;
    }
    for (number, device) in [(GLOBEX, &quiet[0]), (INITECH, &quiet[1])] {
        fleet.balance("books beside a store that is away", number, device.sent).await?;
    }
    fleet.restart(0)?;
    load.reach(fleet.nodes[0].mqtt);
    for (number, device) in [GLOBEX, INITECH].into_iter().zip(&mut quiet) {
        *device = fleet.quiet(number, device.sent);
        device.round_trips(300, "after a restart beside a full log of another pool")?;
    }

    // The store is back: everything arrives once.
    gold.0.kill()?;
    gold.0.start_again()?;
    gold.primary().await?;
    load.grown(500, PATIENCE).await?;
    load.stop.store(true, Ordering::SeqCst);
    loading.join().expect("the load does not panic")?;
    let sent = load.sent.load(Ordering::SeqCst);
    println!("gold: {sent} readings, {waits_at} of them when its log was full");
    fleet.balance("the books of gold", ACME, sent).await?;
    for (number, device) in [(GLOBEX, &quiet[0]), (INITECH, &quiet[1])] {
        fleet.balance("the books", number, device.sent).await?;
    }
    let shared = &fleet.site.mongod;
    for (mongod, database, tenant) in
        [(&gold, "gold", "acme"), (shared, "weir", "globex"), (shared, "silver", "initech")]
    {
        ensure!(blocks_of(mongod, database, tenant).await? > 0, "{tenant} in {database}");
        for other in TENANTS.iter().filter(|(other, _)| *other != tenant) {
            ensure!(blocks_of(mongod, database, other.0).await? == 0, "{other:?} in {database}");
        }
    }

    // A process without one of the pools refuses its tenants, and all of them say so.
    let text = pools(&gold, &silver).replace(&silver_pool(&silver.url()), "");
    let config = fleet.site.dir.path().join("without.toml");
    std::fs::write(&config, text)?;
    let config = config.to_str().context("a path in UTF-8")?;
    let without = fleet.site.start_with("n3", "ingest", &[("WEIR_CONFIG", config)])?;
    let refused = fleet.device(INITECH, &without).connect().unwrap_err().to_string();
    ensure!(refused.contains("20, 02, 00, 03"), "{refused}");
    RoundTrips::new(fleet.device(GLOBEX, &without), "globex", quiet[0].sent).round_trips(20, "through another node")?;
    for node in [&without, &fleet.nodes[0]] {
        wait_until("a report of different pools", PATIENCE, async || {
            let ready = node.get("/health/ready")?;
            ensure!(ready.contains("different pools") && ready.contains("silver"), "{ready}");
            Ok(())
        })
        .await?;
    }
    let mut doctor = Command::new(program("weir")?);
    doctor.current_dir(fleet.site.folder("n0")).args(["doctor", "--config", config]);
    doctor.envs(fleet.site.environment.iter().map(|(name, value)| (name, value)));
    let found = String::from_utf8(doctor.output()?.stdout)?;
    ensure!(found.contains("different pools"), "{found}");
    without.stop()?;
    wait_until("the end of the report", PATIENCE, async || {
        let ready = fleet.nodes[0].get("/health/ready")?;
        ensure!(!ready.contains("different pools"), "{ready}");
        Ok(())
    })
    .await?;
    fleet.nodes.into_iter().try_for_each(Weir::stop)
}
