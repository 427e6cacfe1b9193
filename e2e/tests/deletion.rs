//! A tenant is deleted: its data leaves every place while the process is killed again and again,
//! and no other tenant loses anything.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use weir_e2e::device::Device;
use weir_e2e::keyed::{Keyed, init, run};
use weir_e2e::services::{Influxd, Mongod, skipped};
use weir_e2e::{checked, wait_until};

const BOUND: Duration = Duration::from_secs(60);
const TENANTS: [&str; 2] = ["acme", "acme.2"];
const DEVICES: usize = 3;
const MESSAGES: u64 = 400;
/// Kills while data is removed.
const KILLS: u32 = 12;

struct Site(Keyed);

/// A device, its password and what it sent.
struct Pump {
    tenant: &'static str,
    id: String,
    password: String,
}

impl Site {
    fn start(dir: &Path, settings: &str) -> anyhow::Result<Self> {
        let key = init(dir)?;
        let config = dir.join("weir.toml");
        let text = std::fs::read_to_string(&config)?;
        std::fs::write(&config, format!("{text}\n[history]\nflush_interval_ms = 300\n{settings}"))?;
        Ok(Self(Keyed { weir: run(dir)?, key }))
    }

    fn cli(&self, arguments: &[&str]) -> anyhow::Result<String> {
        self.0.cli(&self.0.key, arguments)
    }

    fn refused(&self, arguments: &[&str]) -> anyhow::Result<String> {
        self.0.refused(&self.0.key, arguments)
    }

    fn pump(&self, tenant: &'static str, id: String) -> anyhow::Result<Pump> {
        let (_, password) = self.0.add_device_of(tenant, &id)?;
        Ok(Pump { tenant, id, password })
    }

    fn readings(&self, pump: &Pump) -> anyhow::Result<usize> {
        let query = ["query", &pump.id, "--tenant", pump.tenant, "--format", "csv", "--limit", "100000"];
        Ok(self.cli(&query)?.lines().count().saturating_sub(1))
    }

    /// Sends messages until all are acknowledged.
    fn send(&self, pump: &Pump) -> anyhow::Result<()> {
        let mut device = Device::new(&pump.id, self.0.weir.mqtt).with_password(&pump.id, &pump.password);
        let topic = format!("devices/{}/telemetry", pump.id);
        for number in 0..MESSAGES {
            while device.in_flight() >= 50 {
                device.acknowledged()?;
            }
            device.send(number, &topic, format!("{{\"n\":{number}}}").as_bytes())?;
        }
        device.wait_for_all()?;
        device.disconnect();
        Ok(())
    }

    fn publish(&self, pump: &Pump, message: &str, more: &[&str]) -> anyhow::Result<std::process::Output> {
        let (port, topic) = (self.0.weir.mqtt.port().to_string(), format!("devices/{}/telemetry", pump.id));
        let mut command = Command::new("mosquitto_pub");
        command.args(["-h", "127.0.0.1", "-p", &port, "-V", "mqttv5", "-q", "1", "-i", &pump.id, "-t", &topic]);
        command.args(["-u", &pump.id, "-P", &pump.password, "-m", message]).args(more);
        Ok(command.output()?)
    }

    /// The value of a row of the report.
    fn report(&self, what: &str, place: &str) -> anyhow::Result<Option<String>> {
        let report = self.cli(&["tenants", "deletion", TENANTS[0], "--format", "csv"])?;
        let row = format!("{what},{place},");
        Ok(report.lines().find_map(|line| line.strip_prefix(&row)).map(str::to_owned))
    }

    fn state(&self) -> anyhow::Result<String> {
        self.report("state", "")?.context("a state")
    }
}

/// Fills both tenants alike: readings, states, a letter and a retained message of each device.
fn fill(site: &Site) -> anyhow::Result<Vec<Pump>> {
    let mut pumps = Vec::new();
    for tenant in TENANTS {
        site.cli(&["tenants", "add", tenant])?;
        for n in 0..DEVICES {
            let pump = site.pump(tenant, format!("pump-{n}"))?;
            site.send(&pump)?;
            checked("a letter", site.publish(&pump, "{not json", &[])?)?;
            checked("a retained message", site.publish(&pump, r#"{"n":1000}"#, &["-r"])?)?;
            pumps.push(pump);
        }
    }
    Ok(pumps)
}

async fn delete_and_check(mut site: Site, dir: &Path, pumps: &[Pump], exported: &str) -> anyhow::Result<()> {
    let (gone, kept) = pumps.split_at(DEVICES);
    let all = MESSAGES as usize + 1;
    wait_until("everything is stored", BOUND, async || {
        for pump in pumps {
            ensure!(site.readings(pump)? == all, "readings of {}", pump.id);
        }
        let books = site.cli(&["books", "--check", "--tenant", TENANTS[0], "--format", "csv"])?;
        let pending = |line: &str| line.split(',').nth(4).is_some_and(|pending| pending != "0");
        ensure!(!books.lines().skip(1).any(pending), "{books}");
        Ok(())
    })
    .await?;

    // Taken back in time, nothing is lost.
    site.cli(&["tenants", "delete", TENANTS[0], "--reason", "contract ended"])?;
    ensure!(site.state()? == "deleting");
    ensure!(!site.publish(&gone[0], r#"{"n":1}"#, &[])?.status.success(), "a device of a deleted tenant was admitted");
    site.cli(&["tenants", "undelete", TENANTS[0]])?;
    // A connection may be closed for the deletion when that is noticed after the undeletion.
    wait_until("the device is admitted again", BOUND, async || {
        checked("a message", site.publish(&gone[0], r#"{"n":2000}"#, &[])?)
    })
    .await?;
    ensure!(site.refused(&["tenants", "deletion", TENANTS[0]])?.contains("not"));
    ensure!(site.refused(&["tenants", "delete", "default", "--now"])?.contains("own tenant"));

    site.cli(&["tenants", "delete", TENANTS[0], "--reason", "contract ended", "--now"])?;
    let begun = Instant::now();
    let mut kills = 0;
    while site.state()? != "deleted" {
        ensure!(begun.elapsed() < BOUND, "{}", site.cli(&["tenants", "deletion", TENANTS[0]])?);
        if kills < KILLS && site.state()? == "purging" {
            kills += 1;
            let Site(Keyed { weir, key }) = site;
            weir.kill()?;
            site = Site(Keyed { weir: run(dir)?, key });
        }
    }
    println!("deleted after {:?} and {kills} kills", begun.elapsed());
    for (what, place, count) in [
        ("latest_states", "store", DEVICES),
        ("dead_letters", "store", DEVICES),
        ("readings", "store", DEVICES * all + 1),
    ] {
        let place = format!("{place} {}", if exported.contains("mongodb") { "mongodb" } else { "embedded" });
        let found = site.report(what, &place)?.with_context(|| what.to_owned())?;
        ensure!(found == count.to_string(), "{what}: {found}, not {count}");
    }
    // With the records of sessions.
    let place = format!("store {}", if exported.contains("mongodb") { "mongodb" } else { "embedded" });
    let retained = site.report("retained_messages", &place)?.context("retained_messages")?;
    ensure!(retained.parse::<usize>()? >= DEVICES, "retained_messages: {retained}, not {DEVICES} or more");
    ensure!(site.report("rows", "registry")? == Some(DEVICES.to_string()));
    ensure!(site.report("reason", "")?.as_deref() == Some("contract ended"));
    ensure!(site.report("stays", "log")?.is_some() && site.report("stays", "backups")?.is_some());
    if exported.contains("influxdb") {
        ensure!(site.report("readings", "export plant")? == Some((DEVICES * all + 1).to_string()));
    }
    // Nothing comes back from the log at another start, and nothing of another tenant is gone.
    let Site(Keyed { weir, key }) = site;
    weir.kill()?;
    let site = Site(Keyed { weir: run(dir)?, key });
    for pump in gone {
        let query = site.refused(&["query", &pump.id, "--tenant", pump.tenant])?;
        ensure!(query.contains("no reading was ever accepted"), "readings of {} are back: {query}", pump.id);
        ensure!(!site.publish(pump, r#"{"n":1}"#, &[])?.status.success(), "a device of a deleted tenant was admitted");
    }
    for pump in kept {
        ensure!(site.readings(pump)? == all, "{} of {all} readings of {}", site.readings(pump)?, pump.id);
        checked("the other tenant goes on", site.publish(pump, r#"{"n":3000}"#, &[])?)?;
    }
    for tenant in TENANTS {
        // Fails when they do not balance.
        site.cli(&["books", "--check", "--tenant", tenant])?;
    }
    ensure!(site.refused(&["tenants", "add", TENANTS[0]])?.contains("exists"), "the id is not given again");
    let tenants = site.cli(&["tenants", "list", "--format", "csv"])?;
    ensure!(!tenants.lines().any(|line| line.starts_with("acme,")), "{tenants}");
    ensure!(site.cli(&["tenants", "list", "--deleted", "--format", "csv"])?.contains("acme,,deleted"));
    for chain in [TENANTS[0], "#installation"] {
        let events = site.cli(&["audit", "--tenant", chain, "--format", "csv"])?;
        ensure!(events.contains("PurgeTenant") && events.contains("contract ended"), "{chain}: {events}");
        site.cli(&["audit", "verify", "--tenant", chain])?;
    }
    site.0.weir.stop()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_leaves_every_place_through_kills_and_no_other_loses_anything() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let site = Site::start(dir.path(), "")?;
    let pumps = fill(&site)?;
    delete_and_check(site, dir.path(), &pumps, "").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_leaves_mongodb_and_a_bucket_of_influxdb() -> anyhow::Result<()> {
    if skipped("a_tenant_leaves_mongodb_and_a_bucket_of_influxdb", &["mongod", "influxd"])? {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let (mongo_dir, influx_dir) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let mongo = Mongod::start(mongo_dir.path()).await?;
    mongo.primary().await?;
    let influxd = Influxd::start(influx_dir.path())?;
    let (uri, url, Influxd { token, org, bucket, .. }) = (mongo.uri(), influxd.url(), &influxd);
    let settings = format!(
        "[mongodb]\nuri = {uri:?}\n[[export]]\nname = \"plant\"\ntype = \"influxdb\"\nflush_interval_ms = 300\n\
         url = {url:?}\ntoken = {token:?}\norg = {org:?}\nbucket = {bucket:?}\n"
    );
    let site = Site::start(dir.path(), &settings)?;
    let pumps = fill(&site)?;
    delete_and_check(site, dir.path(), &pumps, "mongodb influxdb").await
}
