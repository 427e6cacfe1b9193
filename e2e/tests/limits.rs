//! One tenant floods Weir; its limits slow it down, and no other tenant.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use weir_e2e::device::Device;
use weir_e2e::keyed::Keyed;
use weir_e2e::quiet::{Quiet, show};

/// Messages of each device that floods.
const MESSAGES: u64 = 300;
const DEVICES: usize = 4;
/// One of which floods.
const TENANTS: usize = 20;
const RATE: u64 = 200;
const BURST: u64 = 50;
/// Unacknowledged messages of a device that floods.
const WINDOW: usize = 100;

struct Site(Keyed);

impl Site {
    fn cli(&self, arguments: &[&str]) -> anyhow::Result<String> {
        self.0.cli(&self.0.key, arguments)
    }

    fn device(&self, tenant: &str, id: &str) -> anyhow::Result<Device> {
        let (_, password) = self.0.add_device_of(tenant, id)?;
        Ok(Device::new(id, self.0.weir.mqtt).with_password(id, &password))
    }

    fn readings(&self, tenant: &str, device: &str) -> anyhow::Result<usize> {
        let rows = self.cli(&["query", device, "--tenant", tenant, "--format", "csv", "--limit", "100000"])?;
        Ok(rows.lines().count().saturating_sub(1))
    }
}

/// Sends messages as fast as the window allows, until all are acknowledged.
fn flood(device: &mut Device, id: &str, numbers: Range<u64>) -> anyhow::Result<()> {
    let topic = format!("devices/{id}/telemetry");
    let mut acknowledged = 0;
    for number in numbers.clone() {
        while device.in_flight() >= WINDOW {
            acknowledged += device.acknowledged()?.len();
        }
        device.send(number, &topic, format!("{{\"n\":{number}}}").as_bytes())?;
    }
    while device.in_flight() > 0 {
        acknowledged += device.acknowledged()?.len();
    }
    ensure!(numbers.count() == acknowledged, "{id}: {acknowledged}");
    Ok(())
}

/// Sends messages of quiet devices until the floods have ended. Returns the time of each, and of
/// all.
fn beside_floods(
    quiet: &mut Quiet,
    noisy: &mut [Device],
    numbers: &Range<u64>,
) -> anyhow::Result<(Vec<Duration>, Duration)> {
    let left = AtomicUsize::new(noisy.len());
    let (begun, mut times) = (Instant::now(), Vec::new());
    thread::scope(|scope| {
        let floods: Vec<_> = noisy
            .iter_mut()
            .enumerate()
            .map(|(n, device)| {
                scope.spawn({
                    let left = &left;
                    move || {
                        let ended = flood(device, &noisy_id(n), numbers.clone());
                        left.fetch_sub(1, Ordering::SeqCst);
                        ended
                    }
                })
            })
            .collect();
        while left.load(Ordering::SeqCst) > 0 {
            times.push(quiet.round_trip()?);
        }
        floods.into_iter().try_for_each(|flood| flood.join().expect("a flood does not panic"))
    })?;
    Ok((times, begun.elapsed()))
}

fn noisy_id(n: usize) -> String {
    format!("noisy{n}")
}

#[test]
fn a_flood_of_one_tenant_is_slowed_down_without_a_loss_and_delays_no_other() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let site = Site(Keyed::start(dir.path())?);
    let calm: Vec<_> = (1..TENANTS).map(|n| format!("calm{n}")).collect();
    for tenant in calm.iter().map(String::as_str).chain(["flood"]) {
        site.cli(&["tenants", "add", tenant])?;
    }
    let (rate, burst) = (format!("messages_per_second={RATE}"), format!("message_burst={BURST}"));
    let set = site.cli(&["tenants", "set", "flood", "--limit", &rate, "--limit", &burst, "--format", "csv"])?;
    ensure!(set == format!("name,value\nmessages_per_second,{RATE}\nmessage_burst,{BURST}\n"), "{set}");
    let mut quiet = Quiet::of(&site.0, &calm)?;
    let alone = (0..2000).map(|_| quiet.round_trip()).collect::<anyhow::Result<Vec<_>>>()?;
    show("alone", alone);

    let noisy = (0..DEVICES).map(|n| site.device("flood", &noisy_id(n)));
    let mut noisy = noisy.collect::<anyhow::Result<Vec<_>>>()?;
    let (beside, lasted) = beside_floods(&mut quiet, &mut noisy, &(0..MESSAGES))?;
    let all = DEVICES as u64 * MESSAGES;
    println!("the flood: {all} messages in {lasted:?}");
    let least = Duration::from_millis((all - BURST) * 1000 / RATE);
    ensure!(lasted >= least, "{lasted:?} for what takes {least:?} at the rate");
    // Behind the flood, they would have had a fifth of its rate.
    ensure!(beside.len() as u64 > all / 4, "{} messages in {lasted:?}", beside.len());
    show("beside the flood", beside);
    let usage = site.cli(&["tenants", "usage", "flood", "--format", "csv"])?;
    let of = |name: &str| usage.lines().find(|line| line.starts_with(name)).map(str::to_owned);
    ensure!(of("messages,") == Some(format!("messages,{all},,0")), "{usage}");
    let limited = of("messages_per_second,").context("a limit")?;
    ensure!(limited.starts_with(&format!("messages_per_second,,{RATE},")) && !limited.ends_with(",0"), "{usage}");

    // The open connections notice that the limit is lifted.
    let set = site.cli(&["tenants", "set", "flood", "--limit", "messages_per_second=none", "--format", "csv"])?;
    ensure!(!set.contains("messages_per_second"), "{set}");
    let (beside, lasted) = beside_floods(&mut quiet, &mut noisy, &(MESSAGES..10 * MESSAGES))?;
    println!("the flood without a limit: {} messages in {lasted:?}", 9 * all);
    show("beside the flood without a limit", beside);

    for n in 0..DEVICES {
        let stored = site.readings("flood", &noisy_id(n))?;
        ensure!(stored as u64 == 10 * MESSAGES, "{stored} of {} are stored", 10 * MESSAGES);
    }
    let stored = calm.iter().map(|tenant| site.readings(tenant, "quiet")).sum::<anyhow::Result<usize>>()?;
    ensure!(stored as u64 == quiet.sent, "{stored} of {} are stored", quiet.sent);
    let usage = site.cli(&["tenants", "usage", "calm1", "--format", "csv"])?;
    ensure!(usage.contains("connections,1,,0"), "{usage}");
    site.0.weir.stop()
}

/// Publishes with mosquitto_pub over MQTT 5; returns what it reports.
fn publish(site: &Site, device: &str, password: &str, message: &str) -> anyhow::Result<String> {
    let (port, topic) = (site.0.weir.mqtt.port().to_string(), format!("devices/{device}/telemetry"));
    let output = std::process::Command::new("mosquitto_pub")
        .args(["-h", "127.0.0.1", "-p", &port, "-V", "mqttv5", "-q", "1", "-i", device, "-t", &topic])
        .args(["-u", device, "-P", password, "-m", message])
        .output()?;
    Ok(String::from_utf8(output.stderr)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn new_devices_and_series_are_refused_before_they_are_acknowledged_and_known_ones_go_on() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let mut site = Site(Keyed::start(dir.path())?);
    site.cli(&["tenants", "add", "acme"])?;
    let mut passwords = Vec::new();
    for device in ["d1", "d2", "d3"] {
        passwords.push(site.0.add_device_of("acme", device)?.1);
    }
    for (device, password) in ["d1", "d2"].iter().zip(&passwords) {
        let reported = publish(&site, device, password, r#"{"a":1,"b":2}"#)?;
        ensure!(reported.is_empty(), "{reported}");
    }
    site.cli(&["tenants", "set", "acme", "--limit", "devices=2", "--limit", "series=4"])?;
    for start in 0..2 {
        let usage = async || {
            // One message, so that the tenant is in use in this process.
            publish(&site, "d1", &passwords[0], r#"{"a":3}"#)?;
            let usage = site.cli(&["tenants", "usage", "acme", "--format", "csv"])?;
            let has = |line: &str| usage.lines().any(|found| found.starts_with(line));
            ensure!(has("devices,2,2,") && has("series,4,4,"), "{usage}");
            anyhow::Ok(())
        };
        weir_e2e::wait_until("the devices are counted", Duration::from_secs(30), usage).await?;
        for (device, password, message) in [
            ("d3", &passwords[2], r#"{"a":1}"#),
            ("d1", &passwords[0], r#"{"a":1,"c":1}"#),
            ("d2", &passwords[1], r#"{"a":1,"d":1}"#),
        ] {
            let reported = publish(&site, device, password, message)?;
            ensure!(reported.to_lowercase().contains("quota"), "{device} {message}: {reported:?}");
        }
        let known = publish(&site, "d2", &passwords[1], r#"{"b":4,"a":5}"#)?;
        ensure!(known.is_empty(), "a known device goes on: {known}");
        let stored = site.readings("acme", "d3").map_err(|error| error.to_string());
        let none = |error: &String| error.contains("no reading was ever accepted from d3");
        ensure!(stored.as_ref().is_err_and(none), "a refused reading is stored: {stored:?}");
        if start == 0 {
            let Site(Keyed { weir, key }) = site;
            weir.kill()?;
            site = Site(Keyed { weir: weir_e2e::keyed::run(dir.path())?, key });
        }
    }
    let usage = site.cli(&["tenants", "usage", "acme", "--format", "csv"])?;
    ensure!(usage.contains("devices,2,2,1") && usage.contains("series,4,4,2"), "{usage}");
    site.cli(&["tenants", "set", "acme", "--limit", "devices=none", "--limit", "series=none"])?;
    let reported = publish(&site, "d3", &passwords[2], r#"{"a":1}"#)?;
    ensure!(reported.is_empty(), "the limit is lifted: {reported}");
    site.0.weir.stop()
}
