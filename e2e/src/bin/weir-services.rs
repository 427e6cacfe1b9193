//! Starts servers for manual tests of Weir: `cargo xtask services up DIR`.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use weir_e2e::services::{Influxd, Kafka, Mongod, Redis};

/// File with the process ids of started servers.
const STATE: &str = "services.json";

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments[..] {
        [word, dir] if word == "up" => up(Path::new(dir)).await?,
        [word, dir] if word == "down" => down(Path::new(dir))?,
        _ => bail!("usage: weir-services up|down DIR"),
    }
    Ok(ExitCode::SUCCESS)
}

async fn up(dir: &Path) -> anyhow::Result<()> {
    let state = dir.join(STATE);
    if state.exists() {
        bail!("{} exists, so servers are running: stop them with `cargo xtask services down`", state.display());
    }
    let redis = Redis::start(&dir.join("redis"), "")?;
    let mongod = Mongod::start(&dir.join("mongod")).await?;
    let influxd = Influxd::start(&dir.join("influxd"))?;
    let kafka = Kafka::start(&dir.join("kafka"))?;
    let variables = [
        ("WEIR_REDIS_URLS", redis.url()),
        ("WEIR_MONGODB_URI", mongod.uri()),
        ("WEIR_INFLUXDB_URL", influxd.url()),
        ("WEIR_INFLUXDB_TOKEN", influxd.token.clone()),
        ("WEIR_INFLUXDB_ORG", influxd.org.clone()),
        ("WEIR_INFLUXDB_BUCKET", influxd.bucket.clone()),
        // For `brokers` of an export of the type "kafka".
        ("KAFKA_BROKERS", kafka.brokers()),
    ];
    let pids = [&redis.0, &mongod.0, &influxd.server, &kafka.server].map(weir_e2e::services::Server::pid);
    std::fs::write(&state, serde_json::to_vec(&pids)?).with_context(|| format!("write {}", state.display()))?;
    for (name, value) in variables {
        println!("export {name}='{value}'");
    }
    redis.0.leave();
    mongod.0.leave();
    influxd.server.leave();
    kafka.server.leave();
    Ok(())
}

fn down(dir: &Path) -> anyhow::Result<()> {
    let state = dir.join(STATE);
    let text =
        std::fs::read(&state).with_context(|| format!("read {}: no servers were started there", state.display()))?;
    let pids: Vec<i32> = serde_json::from_slice(&text)?;
    for pid in pids.into_iter().filter_map(Pid::from_raw) {
        // An error means that it has already ended.
        if kill_process(pid, Signal::TERM).is_ok() {
            while test_kill_process(pid).is_ok() {
                std::thread::yield_now();
            }
        }
    }
    std::fs::remove_file(&state).with_context(|| format!("remove {}", state.display()))
}
