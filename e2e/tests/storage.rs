//! A tenant fills its storage: further readings are refused before they are acknowledged, nothing
//! that was acknowledged is lost, and room is used again.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use mqtt_client::{Ack, Connect, Packet, Publish, Version};
use weir_e2e::device::Device;
use weir_e2e::keyed::{self, Keyed};
use weir_e2e::services::{Mongod, skipped};
use weir_e2e::wait_until;

/// Bytes of a reading: 32, its name and its text.
const SIZE: u64 = 32 + 4 + 900;
const LIMIT: u64 = 20_000;
const MOST: u64 = LIMIT / SIZE;
const PATIENCE: Duration = Duration::from_secs(120);
const DAY: i64 = 86_400;

struct Site(Keyed);

impl Site {
    fn start(dir: &Path, more: &str) -> anyhow::Result<Self> {
        let key = keyed::init(dir)?;
        let path = dir.join("weir.toml");
        let text = std::fs::read_to_string(&path)? + "\n[history]\nflush_interval_ms = 300\n" + more;
        std::fs::write(&path, text)?;
        Ok(Self(Keyed { weir: keyed::run(dir)?, key }))
    }

    fn killed_and_run_again(self, dir: &Path) -> anyhow::Result<Self> {
        let Self(Keyed { weir, key }) = self;
        weir.kill()?;
        Ok(Self(Keyed { weir: keyed::run(dir)?, key }))
    }

    fn cli(&self, arguments: &[&str]) -> anyhow::Result<String> {
        self.0.cli(&self.0.key, arguments)
    }

    fn set(&self, tenant: &str, limit: &str) -> anyhow::Result<()> {
        self.cli(&["tenants", "set", tenant, "--limit", limit]).map(drop)
    }

    fn readings(&self, tenant: &str) -> anyhow::Result<u64> {
        let rows = self.cli(&["query", "d1", "--tenant", tenant, "--format", "csv", "--limit", "1000"])?;
        Ok(rows.lines().count().saturating_sub(1) as u64)
    }

    /// Waits until the use is reported.
    async fn uses(&self, tenant: &str, bytes: u64) -> anyhow::Result<()> {
        wait_until(&format!("{bytes} bytes"), PATIENCE, async || {
            let usage = self.cli(&["tenants", "usage", tenant, "--format", "csv"])?;
            let line = usage.lines().find(|line| line.starts_with("storage_bytes,")).context("no limit")?;
            ensure!(line.starts_with(&format!("storage_bytes,{bytes},{LIMIT},")), "{line}");
            Ok(())
        })
        .await
    }

    fn connect(&self, password: &str) -> anyhow::Result<Client> {
        let mut stream = TcpStream::connect(self.0.weir.mqtt)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        let mut out = Vec::new();
        let password = Some(password.as_bytes());
        let (version, username) = (Version::V5, Some("d1"));
        mqtt_client::connect(&mut out, &Connect { version, client_id: "d1", username, password, ..Connect::default() });
        stream.write_all(&out)?;
        let mut client = Client { stream, now: now()? };
        let connack = client.packet(|packet| match packet {
            Packet::Connack { reason, .. } => Some(*reason),
            _ => None,
        })?;
        ensure!(connack.0 == 0, "{connack:?}");
        // The tenant is in use from now on.
        ensure!(client.note()? < 0x80, "a message without readings is accepted");
        Ok(client)
    }
}

fn now() -> anyhow::Result<i64> {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    Ok(i64::try_from(since.as_secs())?)
}

/// The device `d1` over MQTT 5.
struct Client {
    stream: TcpStream,
    now: i64,
}

impl Client {
    /// Reads one packet; returns what is wanted of it, and its bytes as text.
    fn packet<T>(&mut self, want: impl Fn(&Packet<'_>) -> Option<T>) -> anyhow::Result<(T, String)> {
        let mut input = Vec::new();
        loop {
            let mut byte = [0];
            self.stream.read_exact(&mut byte)?;
            input.push(byte[0]);
            if let Some((packet, _)) = mqtt_client::decode(&input, Version::V5)? {
                let found = want(&packet).with_context(|| format!("{packet:?}"))?;
                return Ok((found, String::from_utf8_lossy(&input).into_owned()));
            }
        }
    }

    fn publish(&mut self, topic: &str, payload: &str, retain: bool) -> anyhow::Result<(u8, String)> {
        let mut out = Vec::new();
        let publish =
            Publish { topic, payload: payload.as_bytes(), qos: 1, packet_id: 1, retain, ..Publish::default() };
        mqtt_client::publish(&mut out, Version::V5, &publish);
        self.stream.write_all(&out)?;
        self.packet(|packet| match packet {
            Packet::Ack { ack: Ack::Puback, reason, .. } => Some(*reason),
            _ => None,
        })
    }

    /// Sends a retained message that is no telemetry.
    fn note(&mut self) -> anyhow::Result<u8> {
        Ok(self.publish("devices/d1/note", "hello", true)?.0)
    }

    /// Sends a reading of two days ago; false when it is refused, with the limit.
    fn reading(&mut self, number: u64) -> anyhow::Result<bool> {
        let (time, text) = (self.now - 2 * DAY, format!("{number:0>900}"));
        let payload = format!(r#"{{"ts":{},"text":"{text}"}}"#, time * 1000 + i64::try_from(number)?);
        match self.publish("devices/d1/telemetry", &payload, false)? {
            (0 | 0x10, _) => Ok(true),
            (0x97, reason) => {
                ensure!(reason.contains("the limit storage_bytes of the tenant is reached"), "{reason}");
                Ok(false)
            }
            other => bail!("{other:?}"),
        }
    }

    /// Sends readings until there are so many; a reading may count twice while it is written.
    async fn fill(&mut self, from: u64, to: u64) -> anyhow::Result<()> {
        let mut number = from;
        let begun = std::time::Instant::now();
        while number < to {
            ensure!(begun.elapsed() < PATIENCE, "{number} readings");
            if self.reading(number)? {
                number += 1;
            }
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_fills_its_storage_and_is_refused_until_retention_makes_room() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let site = Site::start(dir.path(), "")?;
    let mut passwords = Vec::new();
    for tenant in ["acme", "other"] {
        site.cli(&["tenants", "add", tenant])?;
        passwords.push(site.0.add_device_of(tenant, "d1")?.1);
    }
    let old = site.0.add_device_of("acme", "d2")?.1;
    site.set("acme", &format!("storage_bytes={LIMIT}"))?;
    let mut device = site.connect(&passwords[0])?;
    site.uses("acme", 0).await?;
    device.fill(0, MOST).await?;
    ensure!(!device.reading(MOST)?, "the storage is full");
    site.uses("acme", MOST * SIZE).await?;
    for _ in 0..20 {
        ensure!(!device.reading(MOST)?, "it is full for good");
        ensure!(device.note()? < 0x80, "messages without readings go on");
    }
    let mut other = site.connect(&passwords[1])?;
    ensure!((0..2 * MOST).all(|number| other.reading(number).is_ok_and(|stored| stored)), "another tenant is refused");
    // MQTT 3.1.1 has no answer: the connection ends.
    let mut simple = Device::new("d2", site.0.weir.mqtt).with_password("d2", &old);
    simple.send(1, "devices/d2/note", b"hello")?;
    ensure!(simple.acknowledged()? == [1]);
    let text = "x".repeat(900);
    let lost = simple.send(2, "devices/d2/telemetry", format!(r#"{{"text":"{text}"}}"#).as_bytes());
    ensure!(lost.is_err() || simple.acknowledged().is_err(), "a reading was acknowledged");
    ensure!(site.readings("acme")? == MOST, "{} of {MOST} are stored", site.readings("acme")?);

    let site = site.killed_and_run_again(dir.path())?;
    let mut device = site.connect(&passwords[0])?;
    site.uses("acme", MOST * SIZE).await?;
    ensure!(!device.reading(MOST)?, "a start makes no room");

    // Deleted at the start, and every hour.
    site.set("acme", &format!("retention_seconds={DAY}"))?;
    let site = site.killed_and_run_again(dir.path())?;
    let mut device = site.connect(&passwords[0])?;
    site.uses("acme", 0).await?;
    ensure!(device.reading(MOST)?, "there is room");
    site.uses("acme", SIZE).await?;
    ensure!(site.readings("other")? == 2 * MOST);
    let usage = site.cli(&["tenants", "usage", "acme", "--format", "csv"])?;
    ensure!(usage.contains(&format!("storage_bytes,{SIZE},{LIMIT},0")), "{usage}");
    site.0.weir.stop()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_storage_of_a_pool_in_mongodb_holds_while_its_store_is_away() -> anyhow::Result<()> {
    if skipped("the_storage_of_a_pool_in_mongodb_holds_while_its_store_is_away", &["mongod"])? {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let mut mongod = Mongod::start(&dir.path().join("mongod")).await?;
    let pool = format!(
        "[[pool]]\nname = \"gold\"\n[pool.mongodb]\nuri = {:?}\nserver_selection_timeout_ms = 1000\n\
         request_timeout_ms = 2000\n",
        mongod.uri()
    );
    let site = Site::start(dir.path(), &pool)?;
    site.cli(&["tenants", "add", "acme", "--pool", "gold"])?;
    site.cli(&["tenants", "add", "globex"])?;
    let passwords = [site.0.add_device_of("acme", "d1")?.1, site.0.add_device_of("globex", "d1")?.1];
    for tenant in ["acme", "globex"] {
        site.set(tenant, &format!("storage_bytes={LIMIT}"))?;
    }
    let (mut acme, mut globex) = (site.connect(&passwords[0])?, site.connect(&passwords[1])?);
    site.uses("acme", 0).await?;
    acme.fill(0, MOST / 2).await?;
    // All of it is in the store, and counted there.
    wait_until("the readings are stored", PATIENCE, async || {
        let client = mongod.client().await?;
        let blocks = client.database("weir").collection::<mongodb::bson::Document>("blocks");
        let mut cursor = blocks.find(mongodb::bson::doc! {}).await?;
        let mut rows = 0;
        while cursor.advance().await? {
            rows += u64::from(cursor.deserialize_current()?.get_i32("n")?.unsigned_abs());
        }
        ensure!(rows == MOST / 2, "{rows}");
        Ok(())
    })
    .await?;
    site.uses("acme", MOST / 2 * SIZE).await?;
    mongod.0.kill()?;
    let mut stored = MOST / 2;
    while acme.reading(stored)? {
        stored += 1;
        ensure!(stored <= MOST, "more than the limit is acknowledged");
    }
    println!("{stored} of {MOST} readings while the store is away");
    ensure!(stored > MOST / 2, "there was room");
    globex.fill(0, MOST).await?;
    mongod.0.start_again()?;
    mongod.primary().await?;
    acme.fill(stored, MOST).await?;
    site.uses("acme", MOST * SIZE).await?;
    ensure!(!acme.reading(MOST)?, "the storage is full");
    let site = site.killed_and_run_again(dir.path())?;
    let mut acme = site.connect(&passwords[0])?;
    site.uses("acme", MOST * SIZE).await?;
    ensure!(!acme.reading(MOST)?, "a start makes no room");
    ensure!(site.readings("acme")? == MOST && site.readings("globex")? == MOST);
    site.set("acme", "storage_bytes=none")?;
    ensure!(acme.reading(MOST)?, "the limit is lifted");
    site.0.weir.stop()
}
