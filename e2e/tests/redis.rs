//! Weir with its log on Redis.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use weir_e2e::play::{self, grown};
use weir_e2e::services::{Mongod, Redis, skipped};
use weir_e2e::{Weir, tail_of_log};

/// Bound for progress of the devices.
const PATIENCE: Duration = Duration::from_secs(60);

fn start(dir: &Path, mqtt: &str, redis: &Redis, mongod: Option<&Mongod>) -> anyhow::Result<Weir> {
    let mut environment = vec![
        ("WEIR_REDIS_URLS", redis.url()),
        ("WEIR_REDIS_SPILL_PATIENCE_MS", "300".to_owned()),
        ("WEIR_REDIS_RESPONSE_TIMEOUT_MS", "1000".to_owned()),
        ("WEIR_HISTORY_FLUSH_INTERVAL_MS", "1000".to_owned()),
        ("WEIR_LOG_SEGMENT_BYTES", "4194304".to_owned()),
    ];
    if let Some(mongod) = mongod {
        environment.push(("WEIR_MONGODB_URI", mongod.uri()));
    }
    let environment: Vec<(&str, &str)> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
    Weir::start_with(dir, mqtt, &environment)
}

fn verify(weir: &Weir, mongod: Option<&Mongod>, ledger: &Path) -> anyhow::Result<()> {
    let uri = mongod.map(Mongod::uri);
    let directly: Vec<&str> = uri.iter().flat_map(|uri| ["--mongodb", uri]).collect();
    play::verify(weir, ledger, "60s", &directly, &["weir"])
}

#[test]
fn nothing_is_lost_or_doubled_though_redis_and_weir_are_killed_and_frozen() -> anyhow::Result<()> {
    if skipped("nothing_is_lost_or_doubled_though_redis", &["redis-server"])? {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let mut redis = Redis::start(&dir.path().join("redis"), "")?;
    let weir = start(dir.path(), "127.0.0.1:0", &redis, None)?;
    let mqtt = weir.mqtt.to_string();
    let ledger = dir.path().join("ledger");
    let mut run = play::play(&weir, ("flaky-cellular", "0.6", "90s"), &ledger, Stdio::null())?;
    grown(&ledger, 6_000, PATIENCE)?;
    redis.0.kill()?;
    grown(&ledger, 11_000, PATIENCE).context("devices notice nothing while Redis is dead")?;
    redis.0.start_again()?;
    grown(&ledger, 15_000, PATIENCE)?;
    weir.kill()?;
    let weir = start(dir.path(), &mqtt, &redis, None)?;
    grown(&ledger, 19_000, PATIENCE)?;
    redis.0.freeze()?;
    grown(&ledger, 24_000, PATIENCE).context("devices notice nothing while Redis does not answer")?;
    redis.0.thaw()?;
    let status = run.0.wait()?;
    ensure!(status.success(), "{status}\n{}", tail_of_log(dir.path()));
    verify(&weir, None, &ledger)?;
    println!("{}", weir.cli(&["books", "--check"])?);
    weir.stop()
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_and_mongodb_together_hold_everything_over_kills_of_all_three() -> anyhow::Result<()> {
    if skipped("redis_and_mongodb_together", &["redis-server", "mongod"])? {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let mut redis = Redis::start(&dir.path().join("redis"), "")?;
    let mut mongod = Mongod::start(&dir.path().join("mongod")).await?;
    let weir = start(dir.path(), "127.0.0.1:0", &redis, Some(&mongod))?;
    let mqtt = weir.mqtt.to_string();
    let ledger = dir.path().join("ledger");
    let mut run = play::play(&weir, ("flaky-cellular", "0.5", "90s"), &ledger, Stdio::null())?;
    grown(&ledger, 5_000, PATIENCE)?;
    mongod.0.kill()?;
    redis.0.kill()?;
    grown(&ledger, 9_000, PATIENCE)?;
    redis.0.start_again()?;
    mongod.0.start_again()?;
    mongod.primary().await?;
    grown(&ledger, 13_000, PATIENCE)?;
    weir.kill()?;
    redis.0.kill()?;
    redis.0.start_again()?;
    let weir = start(dir.path(), &mqtt, &redis, Some(&mongod))?;
    let status = run.0.wait()?;
    ensure!(status.success(), "{status}\n{}", tail_of_log(dir.path()));
    verify(&weir, Some(&mongod), &ledger)?;
    println!("{}", weir.cli(&["books", "--check"])?);
    weir.stop()
}

#[test]
fn a_redis_without_durable_writes_is_refused_in_one_line() -> anyhow::Result<()> {
    if skipped("a_redis_that_would_lose", &["redis-server"])? {
        return Ok(());
    }
    for (settings, needed) in [
        ("--appendfsync everysec", "appendfsync"),
        ("--maxmemory 50mb --maxmemory-policy allkeys-lru", "maxmemory-policy"),
        ("--requirepass secret", "redis.password"),
    ] {
        let dir = tempfile::tempdir()?;
        let redis = Redis::start(&dir.path().join("redis"), settings)?;
        let error = start(dir.path(), "127.0.0.1:0", &redis, None).err().context("it must not start")?;
        let error = format!("{error:#}");
        ensure!(error.contains(needed), "{settings}: {error}");
    }
    Ok(())
}
