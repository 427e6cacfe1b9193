//! Weir with the embedded log and MongoDB: an edge box.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use weir_e2e::services::{Mongod, skipped};
use weir_e2e::{Weir, program, tail_of_log};

struct Run(Child);

impl Drop for Run {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn environment(mongod: &Mongod) -> Vec<(&'static str, String)> {
    vec![
        ("WEIR_MONGODB_URI", mongod.uri()),
        ("WEIR_HISTORY_FLUSH_INTERVAL_MS", "1000".to_owned()),
        ("WEIR_LATEST_FLUSH_INTERVAL_MS", "300".to_owned()),
        ("WEIR_MONGODB_SERVER_SELECTION_TIMEOUT_MS", "1000".to_owned()),
        ("WEIR_MONGODB_REQUEST_TIMEOUT_MS", "2000".to_owned()),
    ]
}

fn start(dir: &Path, mqtt: &str, mongod: &Mongod) -> anyhow::Result<Weir> {
    let environment = environment(mongod);
    let environment: Vec<(&str, &str)> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
    Weir::start_with(dir, mqtt, &environment)
}

fn play(weir: &Weir, scenario: &str, time: &str, ledger: &Path) -> anyhow::Result<Run> {
    let mut command = Command::new(program("weir-sim")?);
    command.args(["run", scenario, "--time", time, "--drain", "90s", "--quiet", "--broker", &weir.mqtt.to_string()]);
    Ok(Run(command.arg("--ledger").arg(ledger).stdin(Stdio::null()).stdout(Stdio::null()).spawn()?))
}

/// Compares what was acknowledged with what Weir gives and with what MongoDB holds.
fn verify(weir: &Weir, mongod: &Mongod, ledger: &Path) -> anyhow::Result<()> {
    let output = Command::new(program("weir-sim")?)
        .args(["verify", "--within", "60s", "--server", &weir.url(), "--mongodb", &mongod.uri(), "--ledger"])
        .arg(ledger)
        .output()?;
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{text}");
    ensure!(output.status.success() && text.contains("weir: ") && text.contains("mongodb: "), "{text}");
    Ok(())
}

fn grown(ledger: &Path, bytes: u64) -> anyhow::Result<()> {
    let begun = Instant::now();
    while std::fs::metadata(ledger).map_or(0, |m| m.len()) < bytes {
        ensure!(begun.elapsed() < Duration::from_secs(60), "the run does not get on");
        std::thread::yield_now();
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_lands_in_mongodb_though_it_and_weir_are_killed_and_frozen() -> anyhow::Result<()> {
    if skipped("everything_lands_in_mongodb", &["mongod"])? {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let mut mongod = Mongod::start(&dir.path().join("mongod")).await?;
    let weir = start(dir.path(), "127.0.0.1:0", &mongod)?;
    let mqtt = weir.mqtt.to_string();
    let ledger = dir.path().join("ledger");
    let mut run = play(&weir, "flaky-cellular", "0.6", &ledger)?;
    grown(&ledger, 6_000)?;
    mongod.0.kill()?;
    grown(&ledger, 12_000).context("devices notice nothing while MongoDB is dead")?;
    let ready = weir.get("/health/ready")?;
    ensure!(ready.contains("sink history"), "readiness names the sink: {ready}");
    mongod.0.start_again()?;
    mongod.primary().await?;
    grown(&ledger, 17_000)?;
    weir.kill()?;
    let weir = start(dir.path(), &mqtt, &mongod)?;
    grown(&ledger, 22_000)?;
    mongod.0.freeze()?;
    grown(&ledger, 27_000).context("devices notice nothing while MongoDB does not answer")?;
    mongod.0.thaw()?;
    let status = run.0.wait()?;
    ensure!(status.success(), "{status}\n{}", tail_of_log(dir.path()));
    verify(&weir, &mongod, &ledger)?;
    let books = weir.cli(&["books", "--check"])?;
    println!("{books}");
    weir.stop()
}

#[tokio::test(flavor = "multi_thread")]
async fn types_names_and_dead_letters_survive_mongodb() -> anyhow::Result<()> {
    if skipped("types_names_and_dead_letters", &["mongod"])? {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let mongod = Mongod::start(&dir.path().join("mongod")).await?;
    let weir = start(dir.path(), "127.0.0.1:0", &mongod)?;
    for scenario in ["garbage-device", "mixed-fleet", "clock-drift"] {
        let ledger = dir.path().join(scenario);
        let status = play(&weir, scenario, "0.1", &ledger)?.0.wait()?;
        ensure!(status.success(), "{scenario}: {status}");
        verify(&weir, &mongod, &ledger).with_context(|| scenario.to_owned())?;
    }
    weir.stop()
}

#[test]
fn a_wrong_address_is_one_clear_line_at_the_start() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let environment = [
        ("WEIR_MONGODB_URI", "mongodb://127.0.0.1:9/?replicaSet=x"),
        ("WEIR_MONGODB_SERVER_SELECTION_TIMEOUT_MS", "300"),
    ];
    let error = Weir::start_with(dir.path(), "127.0.0.1:0", &environment).err().context("it must not start")?;
    let error = format!("{error:#}");
    ensure!(error.contains("mongodb.uri"), "{error}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_that_somebody_deletes_from_mongodb_is_missed_there() -> anyhow::Result<()> {
    if skipped("a_block_that_somebody_deletes", &["mongod"])? {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let mongod = Mongod::start(&dir.path().join("mongod")).await?;
    let weir = start(dir.path(), "127.0.0.1:0", &mongod)?;
    let ledger = dir.path().join("ledger");
    let status = play(&weir, "steady", "0.05", &ledger)?.0.wait()?;
    ensure!(status.success(), "{status}");
    verify(&weir, &mongod, &ledger)?;
    let blocks = mongod.client().await?.database("weir").collection::<mongodb::bson::Document>("blocks");
    let deleted = blocks.delete_one(mongodb::bson::doc! {}).await?.deleted_count;
    ensure!(deleted == 1, "{deleted} blocks deleted");
    let output = Command::new(program("weir-sim")?)
        .args(["verify", "--json", "--within", "0", "--mongodb", &mongod.uri(), "--ledger"])
        .arg(&ledger)
        .output()?;
    ensure!(!output.status.success(), "a store without a block is not clean");
    let reports: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    ensure!(reports[0]["findings"]["counts"]["missing"].as_u64() >= Some(1), "{reports}");
    // The books know of which hour.
    let books = Command::new(program("weir")?).args(["books", "--check", "--server", &weir.url()]).output()?;
    let text = String::from_utf8_lossy(&books.stdout);
    let hour = text.lines().find(|line| line.contains(":00:00") && line.contains("false"));
    ensure!(!books.status.success() && hour.is_some(), "{text}");
    println!("{text}");
    weir.stop()
}
