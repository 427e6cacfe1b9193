//! Measures the database load that write-behind saves: 10,000 devices with a reading a second
//! through Weir into MongoDB, compared with a writer that inserts each reading separately.
//!
//! Receives: `weir-write-behind [--devices 10000] [--secs 120]`, with weir and weir-sim in the same
//! folder.
//! Promises: each run uses its own mongod of the same version on this machine; commands, documents
//! and processor time are counted by the server.
//! Hands on: a table.
//! Never: uses a server that it did not start.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use mongodb::bson::{Document, doc};
use mongodb::options::WriteConcern;
use weir_e2e::services::Mongod;
use weir_e2e::{Weir, program, wait_until};

/// Concurrent inserts: more do not increase the throughput.
const WRITERS: usize = 64;

/// Counters of the server.
struct Done {
    micros: i64,
    commands: i64,
    documents: i64,
}

fn number(document: &Document, path: &[&str]) -> i64 {
    let Some((last, above)) = path.split_last() else { return 0 };
    let inner = above.iter().try_fold(document, |document, key| document.get_document(key).ok());
    inner.and_then(|d| d.get(last)).and_then(|v| v.as_i64().or(v.as_i32().map(Into::into))).unwrap_or_default()
}

async fn look(mongod: &Mongod) -> anyhow::Result<Done> {
    let admin = mongod.client().await?.database("admin");
    // Writes that are not in place yet would cost processor time later.
    admin.run_command(doc! { "fsync": 1 }).await?;
    let status = admin.run_command(doc! { "serverStatus": 1 }).await?;
    let commands = |name: &str| number(&status, &["metrics", "commands", name, "total"]);
    let documents = |name: &str| number(&status, &["metrics", "document", name]);
    let time = |name: &str| number(&status, &["extra_info", name]);
    Ok(Done {
        micros: time("user_time_us") + time("system_time_us"),
        commands: commands("insert") + commands("update") + commands("delete"),
        documents: documents("inserted") + documents("updated"),
    })
}

struct Figures {
    readings: u64,
    micros: f64,
    commands: f64,
    documents: f64,
}

fn figures(what: &str, readings: u64, took: Duration, before: &Done, after: &Done) -> Figures {
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    let each = |from: i64, to: i64| (to - from) as f64 / readings as f64;
    let figures = Figures {
        readings,
        micros: each(before.micros, after.micros),
        commands: each(before.commands, after.commands),
        documents: each(before.documents, after.documents),
    };
    println!(
        "{what:<24} {:>9} readings in {:>5.1} s  {:>10.6} commands  {:>9.6} documents  {:>8.2} µs of mongod each",
        figures.readings,
        took.as_secs_f64(),
        figures.commands,
        figures.documents,
        figures.micros
    );
    figures
}

async fn behind(devices: f64, secs: u64) -> anyhow::Result<Figures> {
    let dir = tempfile::tempdir()?;
    let mongod = Mongod::start(&dir.path().join("mongod")).await?;
    let weir = Weir::start_with(dir.path(), "127.0.0.1:0", &[("WEIR_MONGODB_URI", &mongod.uri())])?;
    let (before, begun) = (look(&mongod).await?, Instant::now());
    let output = Command::new(program("weir-sim")?)
        .args(["run", "ten-thousand", "--quiet", "--json", "--broker", &weir.mqtt.to_string()])
        .args(["--devices", &(devices / 10_000.0).to_string(), "--time", &format!("{}", secs as f64 / 120.0)])
        .arg("--ledger")
        .arg(dir.path().join("ledger"))
        .stdin(Stdio::null())
        .output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let summary: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let readings = summary["total"]["acknowledged"].as_u64().context("a count")?;
    println!("PUBACK: {}", summary["latency"]);
    wait_until("everything is in MongoDB", Duration::from_secs(120), || async {
        let books = weir.cli(&["books", "--check", "--format", "csv"])?;
        let history = books.lines().find(|line| line.starts_with("history")).context("a line")?.to_owned();
        ensure!(history.ends_with(&format!("{readings},{readings}")), "{history}");
        Ok(())
    })
    .await?;
    let took = begun.elapsed();
    Ok(figures("Weir", readings, took, &before, &look(&mongod).await?))
}

async fn one_by_one(devices: u64, secs: u64) -> anyhow::Result<Figures> {
    let dir = tempfile::tempdir()?;
    let mongod = Mongod::start(&dir.path().join("mongod")).await?;
    let database = mongod.client().await?.database("weir");
    database.run_command(doc! { "create": "readings" }).await?;
    let keys =
        doc! { "createIndexes": "readings", "indexes": [{ "key": { "w": 1, "d": 1, "t": 1 }, "name": "device" }] };
    database.run_command(keys).await?;
    let mut durable = WriteConcern::majority();
    durable.journal = Some(true);
    let options = mongodb::options::CollectionOptions::builder().write_concern(durable).build();
    let readings = database.collection_with_options::<Document>("readings", options);
    let (before, begun, sent) = (look(&mongod).await?, Instant::now(), Arc::new(AtomicU64::new(0)));
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..WRITERS {
        let (readings, sent) = (readings.clone(), Arc::clone(&sent));
        writers.spawn(async move {
            loop {
                let n = sent.fetch_add(1, Ordering::Relaxed);
                // As fast as the devices, and as long.
                let due = begun + Duration::from_secs_f64(n as f64 / devices as f64);
                if due > begun + Duration::from_secs(secs) || begun.elapsed() > Duration::from_secs(secs) {
                    sent.fetch_sub(1, Ordering::Relaxed);
                    return anyhow::Ok(());
                }
                tokio::time::sleep_until(due.into()).await;
                let n = i64::try_from(n)?;
                let reading = doc! {
                    "w": "default", "d": format!("node-{:05}", n % 10_000), "t": 1_700_000_000_000 + n, "temperature": 20.5,
                    "humidity": 50.25, "battery": 80.0, "uptime": n,
                };
                readings.insert_one(reading).await?;
            }
        });
    }
    while let Some(ended) = writers.join_next().await {
        ended??;
    }
    let took = begun.elapsed();
    Ok(figures("one insert per reading", sent.load(Ordering::Relaxed), took, &before, &look(&mongod).await?))
}

fn argument(name: &str, usual: u64) -> anyhow::Result<u64> {
    let mut arguments = std::env::args().skip_while(|argument| argument != name);
    match (arguments.next(), arguments.next()) {
        (Some(_), Some(value)) => value.parse().with_context(|| format!("{name} {value}")),
        _ => Ok(usual),
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let (devices, secs) = (argument("--devices", 10_000)?, argument("--secs", 120)?);
    let single = one_by_one(devices, secs).await?;
    #[expect(clippy::cast_precision_loss, reason = "a part of the devices")]
    let weir = behind(devices as f64, secs).await?;
    let less = |ours: f64, theirs: f64| 100.0 * (1.0 - ours / theirs);
    println!(
        "Weir: {:.3} % fewer commands, {:.1} % fewer documents, {:.1} % less processor time of mongod (1/{:.0}). Goal: 99 % fewer \
         commands, 1/5 of the time. The case study had 60 % fewer writes.",
        less(weir.commands, single.commands),
        less(weir.documents, single.documents),
        less(weir.micros, single.micros),
        single.micros / weir.micros
    );
    Ok(())
}
