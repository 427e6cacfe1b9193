//! Keys that are limited to groups of devices, by the commands.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use weir_e2e::keyed::Keyed;
use weir_e2e::{checked, program, wait_until};

const BOUND: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_a_group_reads_its_devices_until_they_leave_it() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let site = Keyed::start(dir.path())?;
    for device in ["pump-1", "pump-2", "valve-1"] {
        let (_, password) = site.add_device(device)?;
        let topic = format!("devices/{device}/telemetry");
        checked("the device publishes", site.publish("mqttv5", Some((device, &password)), device, &topic)?)?;
    }
    let cli = |arguments: &[&str]| site.json(&site.key, arguments);
    let made = cli(&["groups", "add", "hall", "--name", "Hall", "--pattern", "pump-*", "--member", "valve-1"])?;
    ensure!(made["group"] == "hall" && made["members"] == 1 && made["patterns"] == "pump-*", "{made}");
    let key = cli(&["keys", "add", "contractor", "--group", "hall"])?;
    let key = key["key"].as_str().context("a key")?.to_owned();
    let devices = |csv: String| {
        csv.lines().skip(1).map(|line| line.split(',').next().unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    let own = || anyhow::Ok(devices(site.cli(&key, &["devices", "--format", "csv"])?));
    ensure!(own()? == ["pump-1", "pump-2", "valve-1"], "{:?}", own()?);

    let mut follower = Command::new(program("weir")?)
        .args(["tail", "valve-1", "--server", &site.weir.url()])
        .env("WEIR_API_KEY", &key)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    wait_until("the stream is open", BOUND, async || {
        let metrics = site.weir.get("/metrics")?;
        ensure!(metrics.lines().any(|line| line == "weir_api_streams_open 1"), "no stream is open");
        Ok(())
    })
    .await?;
    let left = cli(&["groups", "members", "hall", "--remove", "valve-1", "--add", "pump-9"])?;
    ensure!(left["members"] == 1, "{left}");
    let ended = wait_until("the stream ends", BOUND, || {
        std::future::ready(follower.try_wait().map_err(Into::into).and_then(|status| status.context("it runs")))
    })
    .await;
    follower.kill().ok();
    let output = follower.wait_with_output()?;
    ended?;
    let error = String::from_utf8(output.stderr)?;
    ensure!(!output.status.success() && error.contains("valve-1"), "{error}");
    ensure!(own()? == ["pump-1", "pump-2"], "{:?}", own()?);
    for arguments in [&["query", "valve-1"][..], &["query", "missing"], &["keys", "list"], &["groups", "list"]] {
        let error = site.refused(&key, arguments)?;
        ensure!(error.contains("permission") && error.lines().count() == 1, "{arguments:?}: {error}");
    }

    cli(&["groups", "set", "hall", "--pattern", "pump-2"])?;
    ensure!(own()? == ["pump-2"], "{:?}", own()?);
    ensure!(cli(&["groups", "members", "hall"])?["device"] == "pump-9", "its one member");
    ensure!(cli(&["groups", "show", "hall"])?["patterns"] == "pump-2", "its one pattern");
    let listed = cli(&["groups", "list"])?;
    ensure!(listed["group"] == "hall", "{listed}");
    let error = site.refused(&site.key, &["groups", "delete", "hall"])?;
    ensure!(error.contains("apiKeys/") && error.contains("delete them first"), "{error}");
    site.weir.stop()
}
