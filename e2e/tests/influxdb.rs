//! Weir with an export to InfluxDB.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use weir_e2e::play::{self, grown};
use weir_e2e::services::{Influxd, skipped};
use weir_e2e::{Weir, tail_of_log};

/// Some readings have a text where the field is a float.
const FLIPS: &str = r#"
name = "flips"
seed = 5
duration = "4s"

[[group]]
name = "flip"
count = 5
interval = "100ms"

[group.values]
level = { model = "random_walk", start = 5.0, step = 0.1 }

[group.faults]
type_flip = 0.05
"#;

/// More than a few segments of the log.
const MANY: &str = r#"
name = "many"
seed = 7
duration = "10s"

[[group]]
name = "many"
count = 200
interval = "50ms"

[group.values]
a = { model = "random_walk", start = 5.0, step = 0.1 }
b = { model = "random_walk", start = 5.0, step = 0.1 }
c = { model = "random_walk", start = 5.0, step = 0.1 }
d = { model = "random_walk", start = 5.0, step = 0.1 }
"#;

/// Bound for progress of the devices.
const PATIENCE: Duration = Duration::from_secs(60);

fn start(dir: &Path, mqtt: &str, influxd: &Influxd, more: &[(&str, &str)]) -> anyhow::Result<Weir> {
    let url = influxd.url();
    let mut environment = vec![
        ("WEIR_INFLUXDB_URL", url.as_str()),
        ("WEIR_INFLUXDB_TOKEN", &influxd.token),
        ("WEIR_INFLUXDB_ORG", &influxd.org),
        ("WEIR_INFLUXDB_BUCKET", &influxd.bucket),
        ("WEIR_INFLUXDB_FLUSH_INTERVAL_MS", "300"),
        ("WEIR_INFLUXDB_REQUEST_TIMEOUT_MS", "2000"),
        ("WEIR_LOG_SEGMENT_BYTES", "4194304"),
    ];
    environment.extend_from_slice(more);
    Weir::start_with(dir, mqtt, &environment)
}

fn verify(weir: &Weir, influxd: &Influxd, ledger: &Path) -> anyhow::Result<()> {
    play::verify(weir, ledger, "60s", &influxd.options(&influxd.url()), &["weir", "influxdb"])
}

#[test]
fn every_reading_becomes_one_point_though_influxdb_and_weir_are_killed_and_frozen() -> anyhow::Result<()> {
    if skipped("every_reading_becomes_one_point", &["influxd"])? {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let mut influxd = Influxd::start(&dir.path().join("influxd"))?;
    let weir = start(dir.path(), "127.0.0.1:0", &influxd, &[])?;
    let mqtt = weir.mqtt.to_string();
    let ledger = dir.path().join("ledger");
    let mut run = play::play(&weir, ("flaky-cellular", "0.5", "90s"), &ledger, Stdio::null())?;
    grown(&ledger, 6_000, PATIENCE)?;
    influxd.server.kill()?;
    grown(&ledger, 11_000, PATIENCE).context("devices notice nothing while InfluxDB is dead")?;
    let ready = weir.get("/health/ready")?;
    ensure!(ready.contains("sink influxdb") && ready.contains("200 OK"), "readiness names the sink: {ready}");
    influxd.server.start_again()?;
    grown(&ledger, 14_000, PATIENCE)?;
    weir.kill()?;
    let weir = start(dir.path(), &mqtt, &influxd, &[])?;
    grown(&ledger, 18_000, PATIENCE)?;
    influxd.server.freeze()?;
    grown(&ledger, 22_000, PATIENCE).context("devices notice nothing while InfluxDB does not answer")?;
    influxd.server.thaw()?;
    let status = run.0.wait()?;
    ensure!(status.success(), "{status}\n{}", tail_of_log(dir.path()));
    verify(&weir, &influxd, &ledger)?;
    println!("{}", weir.cli(&["books", "--check"])?);
    weir.stop()
}

#[test]
fn readings_of_a_wrong_type_become_dead_letters_of_influxdb_alone() -> anyhow::Result<()> {
    if skipped("readings_of_a_wrong_type", &["influxd"])? {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let influxd = Influxd::start(&dir.path().join("influxd"))?;
    let weir = start(dir.path(), "127.0.0.1:0", &influxd, &[])?;
    let ledger = dir.path().join("ledger");
    let scenario = dir.path().join("flips.toml");
    std::fs::write(&scenario, FLIPS)?;
    let scenario = scenario.to_str().context("a path that is text")?;
    let status = play::play(&weir, (scenario, "1", "90s"), &ledger, Stdio::null())?.0.wait()?;
    ensure!(status.success(), "{status}");
    // Readings that InfluxDB lacks are its dead letters; the history has all of them.
    verify(&weir, &influxd, &ledger)?;
    let letters = weir.cli(&["dead-letters", "list", "--format", "json"])?;
    let refused = letters.lines().filter(|line| line.contains("\"stage\":\"influxdb\"")).count();
    ensure!((1..30).contains(&refused) && letters.contains("float"), "{refused} letters: {letters}");
    weir.stop()
}

#[test]
fn a_wrong_token_or_bucket_is_one_line_at_the_start_that_names_the_key() -> anyhow::Result<()> {
    if skipped("a_wrong_token_or_bucket", &["influxd"])? {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let influxd = Influxd::start(&dir.path().join("influxd"))?;
    let cases = [
        (("WEIR_INFLUXDB_TOKEN", "wrong"), "influxdb.token"),
        (("WEIR_INFLUXDB_BUCKET", "none"), "influxdb.bucket"),
        (("WEIR_INFLUXDB_ORG", "unknown"), "influxdb.org"),
        (("WEIR_INFLUXDB_TYPES", "a=number"), "influxdb.types"),
    ];
    for (number, (wrong, key)) in cases.into_iter().enumerate() {
        let folder = dir.path().join(number.to_string());
        std::fs::create_dir(&folder)?;
        let error = start(&folder, "127.0.0.1:0", &influxd, &[wrong]).err().context("it must not start")?;
        let error = format!("{error:#}");
        ensure!(error.contains(key), "{key}: {error}");
    }
    Ok(())
}

#[test]
fn a_bucket_made_anew_is_reported_and_filled_again_from_the_log_and_the_history() -> anyhow::Result<()> {
    if skipped("a_bucket_made_anew", &["influxd"])? {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let influxd = Influxd::start(&dir.path().join("influxd"))?;
    // The log keeps little of what is delivered: the history has the rest.
    let small = [("WEIR_LOG_SEGMENT_BYTES", "1048576"), ("WEIR_LOG_RETAIN_BYTES", "65536")];
    let weir = start(dir.path(), "127.0.0.1:0", &influxd, &small)?;
    let mqtt = weir.mqtt.to_string();
    let ledger = dir.path().join("ledger");
    let scenario = dir.path().join("many.toml");
    std::fs::write(&scenario, MANY)?;
    let scenario = scenario.to_str().context("a path that is text")?;
    let status = play::play(&weir, (scenario, "1", "90s"), &ledger, Stdio::null())?.0.wait()?;
    ensure!(status.success(), "{status}");
    verify(&weir, &influxd, &ledger)?;
    influxd.make_bucket_anew()?;
    reported(&weir)?;
    ensure!(tail_of_log(dir.path()).contains("it was deleted and made anew"), "{}", tail_of_log(dir.path()));
    ensure!(weir.cli(&["books", "--check"]).is_err(), "the books name an empty bucket");
    weir.stop()?;
    let weir = start(dir.path(), &mqtt, &influxd, &small)?;
    reported(&weir).context("after a restart")?;
    let since = ["refill", "influxdb", "--since", "1d"];
    let refill = || {
        let mut command = std::process::Command::new(weir_e2e::program("weir")?);
        command.args(since).args(["--server", &weir.url()]).env("WEIR_INFLUXDB_URL", influxd.url());
        command.env("WEIR_INFLUXDB_TOKEN", &influxd.token).env("WEIR_INFLUXDB_ORG", &influxd.org);
        let output = command.env("WEIR_INFLUXDB_BUCKET", &influxd.bucket).output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "{said}");
        anyhow::Ok(said)
    };
    let said = refill()?;
    ensure!(said.contains("filled in from the history") && said.contains("balance"), "{said}");
    println!("{said}");
    verify(&weir, &influxd, &ledger)?;
    let ready = weir.get("/health/ready")?;
    ensure!(!ready.contains("made anew"), "the books balance: {ready}");
    refill().context("the same again")?;
    verify(&weir, &influxd, &ledger)?;
    println!("{}", weir.cli(&["books", "--check"])?);
    weir.stop()
}

/// Waits until readiness says that the bucket was made anew; devices are accepted meanwhile.
fn reported(weir: &Weir) -> anyhow::Result<()> {
    let begun = std::time::Instant::now();
    loop {
        let ready = weir.get("/health/ready")?;
        if ready.contains("the bucket `weir` was deleted and made anew") && ready.contains("200 OK") {
            return Ok(());
        }
        ensure!(begun.elapsed() < PATIENCE, "{ready}");
        std::thread::yield_now();
    }
}
