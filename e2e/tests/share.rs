//! One of 20 tenants of a log floods it while the store is slow or away: with a share, the others
//! do not wait. `WEIR_TEST_FIGURES=1` also prints the lag behind a slow store.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::ensure;
use weir_e2e::device::Device;
use weir_e2e::keyed::{self, Keyed};
use weir_e2e::quiet::{Quiet, show};
use weir_e2e::services::{Mongod, skipped};
use weir_e2e::wait_until;

/// One of which floods, with as many messages as all others would have in 19 times the time.
const TENANTS: usize = 20;
const FLOODS: usize = 4;
const PATIENCE: Duration = Duration::from_secs(120);
/// The slow store runs for this part of each second.
const RUNS: Duration = Duration::from_millis(40);
const FIGURES: Duration = Duration::from_secs(30);

struct Site {
    keyed: Keyed,
    mongod: Mongod,
}

impl Site {
    /// Weir with a log of 32 MiB, of which a tenant may fill this percentage.
    async fn start(dir: &Path, percent: u32) -> anyhow::Result<Self> {
        let mongod = Mongod::start(&dir.join("mongod")).await?;
        let key = keyed::init(dir)?;
        let path = dir.join("weir.toml");
        let text = format!(
            "{}\n[mongodb]\nuri = {:?}\nserver_selection_timeout_ms = 5000\n[history]\nflush_interval_ms = 300\n[log]\n\
             segment_bytes = 1048576\ncapacity_bytes = 33554432\ntenant_share_percent = {percent}\n",
            std::fs::read_to_string(&path)?,
            mongod.uri()
        );
        std::fs::write(&path, text)?;
        Ok(Self { keyed: Keyed { weir: keyed::run(dir)?, key }, mongod })
    }

    fn cli(&self, arguments: &[&str]) -> anyhow::Result<String> {
        self.keyed.cli(&self.keyed.key, arguments)
    }

    fn device(&self, tenant: &str, id: &str) -> anyhow::Result<Device> {
        let (_, password) = self.keyed.add_device_of(tenant, id)?;
        Ok(Device::new(id, self.keyed.weir.mqtt).with_password(id, &password))
    }
}

/// Sends messages of 2 KB as fast as the window allows, until it is stopped and all are
/// acknowledged.
fn flood(mut device: Device, id: &str, stop: &AtomicBool, sent: &AtomicU64) -> anyhow::Result<()> {
    let (topic, mut state) = (format!("devices/{id}/telemetry"), 0x9e37_79b9_7f4a_7c15_u64);
    let mut number = 0;
    while !stop.load(Ordering::SeqCst) || device.in_flight() > 0 {
        device.connect()?;
        while !stop.load(Ordering::SeqCst) && device.in_flight() < 100 {
            // Random text: the log is compressed.
            let text: String = std::iter::repeat_with(|| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                char::from(b'a' + (state >> 56) as u8 % 26)
            })
            .take(2000)
            .collect();
            device.send(number, &topic, format!("{{\"n\":{number},\"text\":\"{text}\"}}").as_bytes())?;
            number += 1;
            sent.fetch_add(1, Ordering::SeqCst);
        }
        device.acknowledged_until_lost()?;
    }
    Ok(())
}

/// Runs the store for a part of each second only.
#[expect(clippy::disallowed_methods, reason = "the store is slow by the clock")]
fn slow(mongod: &Mongod, stop: &AtomicBool) -> anyhow::Result<()> {
    while !stop.load(Ordering::SeqCst) {
        mongod.0.freeze()?;
        thread::sleep(Duration::from_secs(1) - RUNS);
        mongod.0.thaw()?;
        thread::sleep(RUNS);
    }
    Ok(())
}

async fn beside_a_flood(percent: u32) -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let site = Site::start(dir.path(), percent).await?;
    let calm: Vec<_> = (1..TENANTS).map(|n| format!("calm{n}")).collect();
    for tenant in calm.iter().map(String::as_str).chain(["flood"]) {
        site.cli(&["tenants", "add", tenant])?;
    }
    let mut quiet = Quiet::of(&site.keyed, &calm)?;
    show("alone", (0..500).map(|_| quiet.round_trip()).collect::<anyhow::Result<_>>()?);
    let ids: Vec<String> = (0..FLOODS).map(|n| format!("noisy{n}")).collect();
    let noisy = ids.iter().map(|id| site.device("flood", id)).collect::<anyhow::Result<Vec<_>>>()?;
    let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    site.mongod.0.freeze()?;
    thread::scope(|scope| -> anyhow::Result<()> {
        let floods: Vec<_> = ids
            .iter()
            .zip(noisy)
            .map(|(id, device)| {
                let (stop, sent) = (&stop, &sent);
                scope.spawn(move || flood(device, id, stop, sent))
            })
            .collect();
        let measured = measure(&site, &mut quiet, percent);
        stop.store(true, Ordering::SeqCst);
        site.mongod.0.thaw()?;
        measured?;
        floods.into_iter().try_for_each(|flood| flood.join().expect("a flood does not panic"))
    })?;
    let all = sent.load(Ordering::SeqCst);
    println!("the flood: {all} messages");
    for (tenant, total) in [("flood", all), ("calm1", quiet.sent.div_ceil(calm.len() as u64))] {
        wait_until("the books", PATIENCE, async || {
            let books = site.cli(&["books", "--check", "--tenant", tenant, "--format", "csv"])?;
            ensure!(books.contains(&format!("history,{total},{total},")), "{total}: {books}");
            Ok(())
        })
        .await?;
    }
    site.keyed.weir.stop()
}

fn measure(site: &Site, quiet: &mut Quiet, percent: u32) -> anyhow::Result<()> {
    // The store is away until the flood waits.
    let begun = Instant::now();
    let waits = if percent == 100 { "weir_buffer_blocked" } else { "weir_buffer_share_waits_total" };
    while site.keyed.weir.metric(waits)? == 0.0 {
        ensure!(begun.elapsed() < PATIENCE, "the flood never waits");
        thread::yield_now();
    }
    if percent == 100 {
        let device = quiet.send()?;
        let late = device.acknowledged_within(Duration::from_secs(2))?;
        ensure!(late.is_empty(), "a full log lets every tenant wait");
        println!("without a share: no PUBACK within 2 s");
        site.mongod.0.thaw()?;
        while device.in_flight() > 0 {
            device.connect()?;
            device.acknowledged_until_lost()?;
        }
    } else {
        let times = (0..2000).map(|_| quiet.round_trip()).collect::<anyhow::Result<_>>()?;
        let p99 = show("beside a flood that waits for the store", times).p99;
        ensure!(p99 < Duration::from_secs(1), "{p99:?}");
        ensure!(site.keyed.weir.metric("weir_buffer_blocked")? == 0.0, "the log takes records");
    }
    if std::env::var_os("WEIR_TEST_FIGURES").is_none() {
        return Ok(());
    }
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let slowed = scope.spawn(|| slow(&site.mongod, &stop));
        let (begun, mut times, mut lags, mut looked) = (Instant::now(), Vec::new(), Vec::new(), Instant::now());
        let measured = loop {
            if begun.elapsed() > FIGURES {
                break Ok(());
            }
            match quiet.round_trip() {
                Ok(time) => times.push(time),
                Err(error) => break Err(error),
            }
            if looked.elapsed() > Duration::from_millis(100) {
                looked = Instant::now();
                lags.push(Duration::from_secs_f64(
                    site.keyed.weir.metric("weir_flusher_lag_seconds{sink=\"history\"}")?,
                ));
            }
        };
        stop.store(true, Ordering::SeqCst);
        slowed.join().expect("the store is slowed without a panic")?;
        show(&format!("share {percent}: PUBACK beside a slow store"), times);
        show(&format!("share {percent}: lag of the history beside a slow store"), lags);
        measured
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_floods_a_log_waits_at_its_share_and_the_others_go_on() -> anyhow::Result<()> {
    if skipped("share", &["mongod"])? {
        return Ok(());
    }
    beside_a_flood(50).await
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_share_the_flood_of_one_tenant_fills_the_log_for_all() -> anyhow::Result<()> {
    if skipped("share", &["mongod"])? {
        return Ok(());
    }
    beside_a_flood(100).await
}
