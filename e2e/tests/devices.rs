//! Devices that are registered, by the commands.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use weir_e2e::keyed::{self, Keyed};
use weir_e2e::{checked, program, wait_until};

const BOUND: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn a_device_is_registered_found_by_its_labels_and_restored_by_the_commands() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let site = Keyed::start(dir.path())?;
    for device in ["pump-1", "valve-1"] {
        let (_, password) = site.add_device(device)?;
        let topic = format!("devices/{device}/telemetry");
        checked("the device publishes", site.publish("mqttv5", Some((device, &password)), device, &topic)?)?;
    }
    let cli = |arguments: &[&str]| site.json(&site.key, arguments);
    let made =
        cli(&["devices", "set", "pump-1", "--name", "Pump of hall 3", "--label", "site=b1", "--label", "rack=7"])?;
    ensure!(made["labels"] == "rack=7 site=b1" && made["name"] == "Pump of hall 3" && made["readings"] == 1, "{made}");
    let made = cli(&["devices", "set", "pump-2", "--label", "site=b1", "--type", "pump", "--interval", "10m"])?;
    ensure!(made["device"] == "pump-2" && made["type"] == "pump" && made["interval"] == "10 min", "{made}");
    let listed = |arguments: &[&str]| {
        let all = [&["devices", "list", "--format", "csv"], arguments].concat();
        let csv = site.cli(&site.key, &all)?;
        let ids = csv.lines().skip(1).map(|line| line.split(',').next().unwrap_or_default().to_owned());
        anyhow::Ok(ids.collect::<Vec<_>>())
    };
    for (filter, devices) in [
        ("", &["pump-1", "pump-2", "valve-1"][..]),
        ("labels.site = b1", &["pump-1", "pump-2"]),
        ("PUMP hall", &["pump-1"]),
        ("registered = false", &["valve-1"]),
        ("device_type = pump", &["pump-2"]),
    ] {
        ensure!(listed(&["--filter", filter])? == devices, "{filter}: {:?}", listed(&["--filter", filter])?);
    }
    let changed = cli(&["devices", "set", "pump-1", "--label", "rack=", "--name", ""])?;
    ensure!(changed["labels"] == "site=b1" && changed.get("name").is_none(), "{changed}");
    site.cli(&site.key, &["devices", "delete", "pump-1"])?;
    ensure!(listed(&[])? == ["pump-2", "valve-1"], "{:?}", listed(&[])?);
    ensure!(listed(&["--deleted"])? == ["pump-1", "pump-2", "valve-1"], "{:?}", listed(&["--deleted"])?);
    let shown = cli(&["devices", "show", "pump-1"])?;
    ensure!(shown["deleted"].is_string() && shown["readings"] == 1, "its readings stay: {shown}");
    for (arguments, part) in [
        (&["devices", "set", "pump-1", "--label", "site"][..], "--label KEY=VALUE"),
        (&["devices", "set", "pump-1", "--label", "site=b2"], "does not exist"),
        (&["devices", "set", "pump-1"], "nothing to set"),
        (&["devices", "set", "pump-2", "--label", "Site=b2"], "not a key of a label"),
        (&["devices", "list", "--filter", "labels.site >"], "column"),
    ] {
        let error = site.refused(&site.key, arguments)?;
        ensure!(error.contains(part) && error.lines().count() == 1, "{arguments:?}: {error}");
    }
    let restored = cli(&["devices", "undelete", "pump-1"])?;
    ensure!(restored["labels"] == "site=b1" && restored.get("deleted").is_none(), "{restored}");

    // What is registered outlasts a crash, and so does the audit of it.
    let Keyed { weir, key } = site;
    weir.kill()?;
    let site = Keyed { weir: keyed::run(dir.path())?, key };
    let latest = site.cli(&site.key, &["devices", "list", "--filter", "labels.site = b1", "--format", "csv"])?;
    ensure!(latest.lines().count() == 3, "{latest}");
    let audit = site.cli(&site.key, &["audit", "--format", "csv"])?;
    for part in ["devices/pump-1", "UpdateDevice", "DeleteDevice", "UndeleteDevice", "CreateDevice"] {
        ensure!(audit.contains(part), "{part} is not in {audit}");
    }
    site.weir.stop()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_refuses_devices_admits_those_that_are_registered() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let site = Keyed::start(dir.path())?;
    let (_, password) = site.add_device("pump-1")?;
    let cli = |arguments: &[&str]| site.cli(&site.key, arguments);
    let publishes = |version: &str| {
        let output = site.publish(version, Some(("pump-1", &password)), "pump-1", "devices/pump-1/telemetry")?;
        anyhow::Ok((output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned()))
    };
    ensure!(publishes("mqttv5")?.0, "it need not be registered");
    let set = cli(&["tenants", "set", "default", "--device-admission", "refuse"])?;
    ensure!(set.contains("device_admission") && set.contains("refuse"), "{set}");
    for version in ["mqttv5", "mqttv311"] {
        let (done, error) = publishes(version)?;
        let reason = error.to_lowercase();
        ensure!(!done && reason.contains("not authori"), "{version}: {error}");
    }
    cli(&["devices", "set", "pump-1", "--name", "Pump of hall 3"])?;
    ensure!(publishes("mqttv311")?.0, "it is registered");
    cli(&["devices", "delete", "pump-1"])?;
    ensure!(!publishes("mqttv5")?.0, "it is deleted");
    let audit = cli(&["audit", "--format", "csv"])?;
    ensure!(audit.contains("device_admission"), "{audit}");
    let error = site.refused(&site.key, &["tenants", "set", "default", "--device-admission", "maybe"])?;
    ensure!(error.contains("auto") && error.contains("refuse"), "{error}");
    cli(&["tenants", "set", "default", "--device-admission", "auto"])?;
    ensure!(publishes("mqttv5")?.0, "all are admitted again");
    let shown = site.json(&site.key, &["devices", "show", "pump-1"])?;
    ensure!(shown["readings"] == 3, "what was refused is not there: {shown}");
    site.weir.stop()
}

#[tokio::test(flavor = "multi_thread")]
async fn readings_of_devices_in_quarantine_appear_when_these_are_adopted() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let site = Keyed::start(dir.path())?;
    let cli = |arguments: &[&str]| site.cli(&site.key, arguments);
    let set = cli(&["tenants", "set", "default", "--device-admission", "quarantine"])?;
    ensure!(set.contains("quarantine"), "{set}");
    let publish = |device: &str, password: &str| {
        let topic = format!("devices/{device}/telemetry");
        checked("the device publishes", site.publish("mqttv5", Some((device, password)), device, &topic)?)
    };
    let mut passwords = Vec::new();
    for device in DEVICES {
        let (_, password) = site.add_device(device)?;
        publish(device, &password)?;
        passwords.push(password);
    }
    let csv = cli(&["devices", "list", "--filter", "quarantined = true", "--format", "csv"])?;
    ensure!(csv.lines().count() == 5 && csv.contains("pump-2"), "{csv}");
    let letters = || cli(&["dead-letters", "list", "--filter", "replayed = false", "--format", "csv"]);
    wait_until("what is held is listed", BOUND, async || {
        let letters = letters()?;
        ensure!(letters.matches("the device is in quarantine").count() == 4, "{letters}");
        Ok(())
    })
    .await?;
    let held = site.json(&site.key, &["devices", "show", "pump-1"])?;
    ensure!(held["readings"].as_u64().unwrap_or_default() == 0 && held["quarantined"].is_string(), "{held}");
    let replayed = site.refused(&site.key, &["dead-letters", "replay", "--filter", "device_id = \"pump-1\""])?;
    ensure!(replayed.contains("0 dead letters replayed"), "{replayed}");

    let adopted = site.json(&site.key, &["devices", "adopt", "pump-1"])?;
    ensure!(adopted["device"] == "pump-1" && adopted.get("quarantined").is_none(), "{adopted}");
    let adopted = cli(&["devices", "adopt", "--all", "--filter", "device_id = \"hall-*\"", "--format", "csv"])?;
    ensure!(adopted.lines().count() == 3, "{adopted}");
    publish("pump-1", &passwords[2])?;
    has_readings(&site, [1, 1, 2, 0]).await?;
    ensure!(letters()?.matches("the device is in quarantine").count() == 1, "{}", letters()?);

    // Adopted a moment before the end: the next start releases what is held.
    cli(&["devices", "set", "pump-2", "--name", "Pump of hall 2"])?;
    let Keyed { weir, key } = site;
    weir.kill()?;
    let site = Keyed { weir: keyed::run(dir.path())?, key };
    has_readings(&site, [1, 1, 2, 1]).await?;
    site.weir.stop()
}

/// Devices that are not registered at first.
const DEVICES: [&str; 4] = ["hall-1", "hall-2", "pump-1", "pump-2"];

/// Waits until each of them has so many readings.
async fn has_readings(site: &Keyed, expected: [u64; 4]) -> anyhow::Result<()> {
    wait_until("the readings of adopted devices are there", BOUND, async || {
        for (device, readings) in DEVICES.into_iter().zip(expected) {
            let shown = site.json(&site.key, &["devices", "show", device])?;
            ensure!(shown["readings"].as_u64().unwrap_or_default() == readings, "{shown}");
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_of_a_file_are_imported_also_when_weir_is_killed_meanwhile() -> anyhow::Result<()> {
    const DEVICES: usize = 5_000;
    let dir = tempfile::tempdir()?;
    let site = Keyed::start(dir.path())?;
    let (csv, json) = (dir.path().join("devices.csv"), dir.path().join("more.ndjson"));
    let mut text = "device,name,type,interval,label.site,label.rack\n".to_owned();
    for n in 0..DEVICES {
        text.push_str(&format!("hall/{n:04},\"Pump {n}, hall\",pump,10m,site-{},\n", n % 10));
    }
    std::fs::write(&csv, text)?;
    let arguments = ["devices", "import", csv.to_str().context("a path")?];
    let mut import = Command::new(program("weir")?)
        .args(arguments)
        .args(["--server", &site.weir.url()])
        .env("WEIR_API_KEY", &site.key)
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()?;
    let first = ["devices", "list", "--limit", "1", "--format", "csv"];
    wait_until("some devices are there", BOUND, async || {
        ensure!(site.cli(&site.key, &first)?.lines().count() > 1, "none");
        Ok(())
    })
    .await?;
    let Keyed { weir, key } = site;
    weir.kill()?;
    // It may have been quicker.
    let ended = import.wait()?;
    let site = Keyed { weir: keyed::run(dir.path())?, key };
    let made = site.json(&site.key, &arguments)?;
    let number = |name: &str| made[name].as_u64().unwrap_or_default();
    let before = number("unchanged");
    ensure!(before > 0 && before % 1000 == 0 && before + number("created") == DEVICES as u64, "{made}");
    ensure!(!ended.success() || before == DEVICES as u64, "{ended}: {made}");
    let again = site.json(&site.key, &arguments)?;
    ensure!(again["unchanged"] == DEVICES, "{again}");
    let found =
        site.cli(&site.key, &["devices", "list", "--filter", "labels.site = site-3 pump", "--format", "csv"])?;
    ensure!(found.lines().count() == 1 + DEVICES / 10, "{}", found.lines().count());
    let shown = site.json(&site.key, &["devices", "show", "hall/0003"])?;
    ensure!(shown["name"] == "Pump 3, hall" && shown["labels"] == "site=site-3", "{shown}");

    std::fs::write(&json, "{\"device\": \"hall/0003\", \"labels\": {\"rack\": \"7\"}}\n\n{\"device\": \"x\"}\n")?;
    let json = json.to_str().context("a path")?;
    let made = site.json(&site.key, &["devices", "import", json])?;
    ensure!(made["created"] == 1 && made["updated"] == 1, "{made}");
    let shown = site.json(&site.key, &["devices", "show", "hall/0003"])?;
    ensure!(shown["labels"] == "rack=7" && shown.get("type").is_none(), "all fields are those of the file: {shown}");
    for (content, part) in [
        ("device,colour\na,red\n", "there is no column \"colour\""),
        ("name\na\n", "no column \"device\""),
        ("device,interval\na,10m\nb,often\n", "line 3"),
        ("device,label.Site\na,b1\n", "not a key of a label"),
    ] {
        std::fs::write(&csv, content)?;
        let error = site.refused(&site.key, &arguments)?;
        ensure!(error.contains(part) && error.contains("nothing was imported"), "{part}: {error}");
    }
    site.weir.stop()
}
