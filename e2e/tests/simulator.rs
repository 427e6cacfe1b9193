//! The simulator with a real Weir: it reports each kind of difference, and none in a correct store.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use weir_e2e::device::Device;
use weir_e2e::{Weir, checked, program, read, wait_until};

/// A scenario with the played shares of its devices and its time.
const SHIPPED: [(&str, &str, &str); 10] = [
    ("steady", "1", "0.1"),
    ("morning-burst", "0.5", "0.1"),
    ("reconnect-storm", "0.5", "0.1"),
    ("flaky-cellular", "1", "0.15"),
    ("backfill", "0.5", "0.1"),
    ("garbage-device", "1", "0.15"),
    ("clock-drift", "1", "0.15"),
    ("mixed-fleet", "0.5", "0.1"),
    ("ten-thousand", "0.05", "0.06"),
    ("soak", "0.2", "0.0004"),
];

/// A scenario with so few readings that a report lists all.
const SMALL: &str = r#"
name = "small"
seed = 77
duration = "2s"

[[group]]
name = "small"
count = 3
interval = "100ms"
mqtt = "3.1.1"

[group.values]
count = { model = "counter" }
level = { model = "random_walk", start = 5.0, step = 0.1 }
"#;

/// Kills its process when dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn sim(arguments: &[&str]) -> anyhow::Result<Command> {
    let mut command = Command::new(program("weir-sim")?);
    command.args(arguments).stdin(Stdio::null());
    Ok(command)
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn each_shipped_scenario_verifies_clean_against_weir() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let mut runs = Vec::new();
    for (name, devices, time) in SHIPPED {
        let folder = dir.path().join(name);
        std::fs::create_dir(&folder)?;
        let weir = Weir::start(&folder)?;
        let arguments = ["run", name, "--devices", devices, "--time", time, "--drain", "60s", "--quiet", "--json"];
        let report = folder.join("report.html");
        let child = sim(&arguments)?
            .args(["--broker", &weir.mqtt.to_string(), "--server", &weir.url(), "--report"])
            .arg(&report)
            .stdout(File::create(folder.join("out"))?)
            .stderr(File::create(folder.join("err"))?)
            .spawn()?;
        runs.push((name, folder, weir, Process(child)));
    }
    for (name, folder, weir, mut process) in runs {
        let status = process.0.wait()?;
        let out = std::fs::read_to_string(folder.join("out"))?;
        ensure!(status.success(), "{name}: {status}\n{out}{}", std::fs::read_to_string(folder.join("err"))?);
        let summary: serde_json::Value = serde_json::from_str(&out)?;
        let store = &summary["stores"][0];
        println!("{name}: {} acknowledged, {} held", store["acknowledged"], store["held"]);
        ensure!(store["acknowledged"].as_u64() > Some(20), "{name} sent too little to show anything: {out}");
        let known = (&summary["total"]["quarantined"], &store["dead_letters"]);
        ensure!(name != "garbage-device" || known.0 == known.1 && known.1.as_u64() > Some(0), "{name}: {out}");
        let page = std::fs::read_to_string(folder.join("report.html"))?;
        ensure!(page.contains("<svg") && page.contains("clean"), "{name} has a report");
        weir.stop().with_context(|| name.to_owned())?;
    }
    Ok(())
}

#[test]
fn a_broker_that_goes_away_and_comes_back_ends_in_a_verified_run() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let weir = Weir::start(dir.path())?;
    let mqtt = weir.mqtt.to_string();
    let ledger = dir.path().join("ledger");
    let mut process = Process(
        sim(&["run", "flaky-cellular", "--time", "0.25", "--drain", "60s", "--quiet", "--broker", &mqtt])?
            .arg("--ledger")
            .arg(&ledger)
            .stdout(Stdio::null())
            .spawn()?,
    );
    // During the run: the ledger has grown beyond its header and first blocks.
    let begun = Instant::now();
    let grown = |least: u64| std::fs::metadata(&ledger).is_ok_and(|m| m.len() > least);
    while !grown(8_000) {
        ensure!(begun.elapsed() < Duration::from_secs(60), "the run does not get going");
        std::thread::yield_now();
    }
    weir.kill()?;
    // In its place a listener that closes connections, until every device has retried several
    // times.
    let elsewhere = TcpListener::bind(&mqtt)?;
    for _ in 0..400 {
        drop(elsewhere.accept()?);
    }
    drop(elsewhere);
    let weir = Weir::start_with(dir.path(), &mqtt, &[])?;
    let status = process.0.wait()?;
    ensure!(status.success(), "the run ended with {status}");
    let verified = sim(&["verify", "--server", &weir.url(), "--ledger"])?.arg(&ledger).output()?;
    println!("{}", text(&verified));
    ensure!(verified.status.success(), "{}", text(&verified));
    weir.stop()
}

#[test]
fn readings_that_a_broker_acknowledged_and_dropped_are_missing() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let (scenario, ledger) = (dir.path().join("small.toml"), dir.path().join("ledger"));
    std::fs::write(&scenario, SMALL)?;
    let mut null = Process(Command::new(program("weir-bench")?).arg("null-broker").stdout(Stdio::piped()).spawn()?);
    let mut address = String::new();
    BufReader::new(null.0.stdout.take().context("its output")?).read_line(&mut address)?;
    let run =
        sim(&["run", "--quiet", "--broker", address.trim()])?.arg(&scenario).arg("--ledger").arg(&ledger).output()?;
    ensure!(run.status.success(), "{}", text(&run));
    let weir = Weir::start(dir.path())?;
    let report = verified(&weir, &ledger, false)?;
    let acknowledged = report["acknowledged"].as_u64().context("a count")?;
    ensure!(acknowledged >= 55, "{report}");
    ensure!(report["findings"]["counts"]["missing"] == acknowledged, "{report}");
    ensure!(report["findings"]["named"]["missing"].as_array().is_some_and(|named| named.len() == 10), "{report}");
    weir.stop()
}

#[test]
fn readings_of_other_writers_are_unexpected_and_doubled() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let (scenario, ledger) = (dir.path().join("small.toml"), dir.path().join("ledger"));
    std::fs::write(&scenario, SMALL)?;
    let weir = Weir::start(dir.path())?;
    let run = sim(&["run", "--quiet", "--broker", &weir.mqtt.to_string()])?
        .arg(&scenario)
        .arg("--ledger")
        .arg(&ledger)
        .output()?;
    ensure!(run.status.success(), "{}", text(&run));
    let report = verified(&weir, &ledger, true)?;
    ensure!(report["findings"]["counts"].as_object().is_some_and(serde_json::Map::is_empty), "{report}");
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
    let mut other = Device::new("other", weir.mqtt);
    // The same sequence with another time, and a sequence that was never sent.
    for (number, payload) in
        [format!(r#"{{"ts":{now},"seq":3,"count":3}}"#), format!(r#"{{"ts":{now},"seq":900,"count":3}}"#)]
            .iter()
            .enumerate()
    {
        other.send(number as u64, "devices/small-1/telemetry", payload.as_bytes())?;
        other.wait_for_all()?;
    }
    let report = verified(&weir, &ledger, false)?;
    let counts = &report["findings"]["counts"];
    ensure!(counts["doubled"] == 1 && counts["unexpected"] == 1, "{report}");
    ensure!(report["findings"]["named"]["doubled"][0]["device"] == "small-1", "{report}");
    ensure!(report["findings"]["named"]["doubled"][0]["sequence"] == 3, "{report}");
    weir.stop()
}

/// Returns the report of `weir-sim verify`; its exit code must agree.
fn verified(weir: &Weir, ledger: &Path, clean: bool) -> anyhow::Result<serde_json::Value> {
    let output =
        sim(&["verify", "--json", "--within", "200ms", "--server", &weir.url(), "--ledger"])?.arg(ledger).output()?;
    ensure!(output.status.success() == clean, "{}", text(&output));
    let mut reports: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    Ok(reports[0].take())
}

#[tokio::test]
async fn a_session_that_mosquitto_recorded_is_replayed() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let (first, second) = (dir.path().join("first"), dir.path().join("second"));
    std::fs::create_dir(&first)?;
    std::fs::create_dir(&second)?;
    let weir = Weir::start(&first)?;
    let recording = dir.path().join("session.jsonl");
    let port = weir.mqtt.port().to_string();
    let recorder = Command::new("mosquitto_sub")
        .args(["-p", &port, "-t", "devices/#", "-F", "%j", "-C", "20", "-W", "60"])
        .stdout(File::create(&recording)?)
        .spawn();
    let mut recorder = Process(recorder.context("mosquitto_sub")?);
    // The retained message arrives once the subscription is active.
    let retain = ["-p", &port, "-t", "devices/x/state", "-m", "here", "-r", "-q", "1"];
    checked("mosquitto_pub", Command::new("mosquitto_pub").args(retain).output()?)?;
    wait_until("the subscription", Duration::from_secs(20), || async {
        ensure!(std::fs::metadata(&recording)?.len() > 0, "nothing recorded");
        Ok(())
    })
    .await?;
    for number in 0..19 {
        let payload = format!(r#"{{"seq":{number},"t":{number}.5}}"#);
        let publish = ["-p", &port, "-t", "devices/d1/telemetry", "-m", &payload, "-q", "1"];
        checked("mosquitto_pub", Command::new("mosquitto_pub").args(publish).output()?)?;
    }
    ensure!(recorder.0.wait()?.success(), "mosquitto_sub saw fewer than 20 messages");
    weir.stop()?;

    let weir = Weir::start(&second)?;
    let play = sim(&["replay", "--speed", "max", "--quiet", "--json", "--broker", &weir.mqtt.to_string()])?
        .arg(&recording)
        .output()?;
    ensure!(play.status.success(), "{}", text(&play));
    let rows = read::all_readings(&weir.channel().await?, "d1").await?;
    let sequences: Vec<_> = rows.iter().filter_map(|row| row.sequence).collect();
    ensure!(sequences == (0..19).collect::<Vec<_>>(), "{sequences:?}");
    weir.stop()
}
