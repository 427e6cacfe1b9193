//! Faults of the servers, planted while readings arrive: what an operator reads about them in the
//! log, the readiness, the books, the doctor and the metrics behind the alerts, in one process and
//! in a fleet.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use weir_e2e::device::Device;
use weir_e2e::services::skipped;
use weir_e2e::site::Site;
use weir_e2e::{Weir, program, wait_until};

/// Time in which a fault is said everywhere.
const WAIT: Duration = Duration::from_secs(60);

/// A fault, and a part of what is said about it.
#[derive(Clone, Copy)]
struct Fault {
    name: &'static str,
    kind: Kind,
    /// In the log of some process.
    log: &'static str,
    /// In the readiness or the output of the doctor of some process.
    state: &'static str,
    /// A metric behind the alert that is not zero; empty when Weir mends the fault or the books say
    /// it.
    metric: &'static str,
    alert: &'static str,
    /// The books balance by themselves, or once the setting is as before.
    heals: bool,
}

#[derive(Clone, Copy)]
enum Kind {
    Flushall,
    StartWithoutAof,
    AppendonlyNo,
    TokenDeleted,
    IndexDropped,
    CollectionDropped,
    BucketMadeAnew,
}

const FAULTS: [Fault; 7] = [
    Fault {
        name: "FLUSHALL on Redis",
        kind: Kind::Flushall,
        log: "redis has lost data",
        state: "redis has lost data",
        metric: "weir_buffer_losses_total",
        alert: "WeirLogLost",
        heals: true,
    },
    Fault {
        name: "Redis starts again without its AOF",
        kind: Kind::StartWithoutAof,
        log: "redis has lost data",
        state: "redis has lost data",
        metric: "weir_buffer_losses_total",
        alert: "WeirLogLost",
        heals: true,
    },
    Fault {
        name: "CONFIG SET appendonly no on Redis",
        kind: Kind::AppendonlyNo,
        log: "appendonly",
        state: "appendonly",
        metric: "weir_buffer_spilling",
        alert: "WeirSpilling",
        heals: true,
    },
    Fault {
        name: "the token of InfluxDB is deleted",
        kind: Kind::TokenDeleted,
        log: "influxdb",
        state: "influxdb",
        metric: "weir_flusher_paused",
        alert: "WeirSinkPaused",
        heals: false,
    },
    Fault {
        name: "the indexes of MongoDB are dropped",
        kind: Kind::IndexDropped,
        log: "index `by_device_time_and_size` of `blocks`",
        state: "",
        metric: "",
        alert: "none: they are made again",
        heals: true,
    },
    Fault {
        name: "a collection of MongoDB is dropped",
        kind: Kind::CollectionDropped,
        log: "it was deleted and made anew",
        state: "the collection `blocks` was deleted and made anew",
        metric: "",
        alert: "none: `weir books --check` fails",
        heals: false,
    },
    Fault {
        name: "the bucket of InfluxDB is made anew",
        kind: Kind::BucketMadeAnew,
        log: "it was deleted and made anew",
        state: "the bucket `weir` was deleted and made anew",
        metric: "",
        alert: "none: `weir books --check` fails",
        heals: false,
    },
];

/// Sends a command to Redis.
fn redis(site: &Site, words: &[&str]) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(site.redis.url().trim_start_matches("redis://"))?;
    let words: String = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len())).collect();
    write!(stream, "*{}\r\n{words}", words.matches('$').count())?;
    let mut answer = [0; 5];
    stream.read_exact(&mut answer)?;
    ensure!(answer.starts_with(b"+OK"), "{:?}", String::from_utf8_lossy(&answer));
    Ok(())
}

async fn plant(site: &mut Site, kind: Kind) -> anyhow::Result<()> {
    let blocks = site.mongod.client().await?.database("weir").collection::<mongodb::bson::Document>("blocks");
    match kind {
        Kind::Flushall => redis(site, &["FLUSHALL"]),
        Kind::StartWithoutAof => {
            site.redis.0.kill()?;
            std::fs::remove_dir_all(site.dir.path().join("redis/appendonlydir"))?;
            site.redis.0.start_again()
        }
        Kind::AppendonlyNo => redis(site, &["CONFIG", "SET", "appendonly", "no"]),
        Kind::TokenDeleted => site.influxd.as_ref().context("there is one")?.delete_token(),
        Kind::IndexDropped => Ok(blocks.drop_indexes().await?),
        Kind::CollectionDropped => Ok(blocks.drop().await?),
        Kind::BucketMadeAnew => site.influxd.as_ref().context("there is one")?.make_bucket_anew(),
    }
}

/// The processes of a site.
struct Processes(Vec<(String, Weir)>);

impl Processes {
    fn start(site: &Site, roles: &[&str]) -> anyhow::Result<Self> {
        let start = |role: &&str| Ok(((*role).to_owned(), site.start(role, role, "127.0.0.1:0")?));
        Ok(Self(roles.iter().map(start).collect::<anyhow::Result<_>>()?))
    }

    fn each(&self, say: impl Fn(&str, &Weir) -> anyhow::Result<String>) -> String {
        let text = self.0.iter().map(|(name, weir)| match say(name, weir) {
            Ok(text) => format!("[{name}] {}\n", text.trim()),
            Err(error) => format!("[{name}] {error:#}\n"),
        });
        text.collect()
    }

    fn readiness(&self) -> String {
        self.each(|_, weir| {
            let answer = weir.get("/health/ready")?;
            let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
            Ok(format!("{} {body}", head.lines().next().unwrap_or_default()))
        })
    }

    /// Values of a metric that are not zero.
    fn metric(&self, name: &str) -> String {
        self.each(|_, weir| {
            let text = weir.get("/metrics")?;
            let lines = text.lines().filter(|line| line.starts_with(name) && !line.ends_with(" 0"));
            Ok(lines.collect::<Vec<_>>().join("; "))
        })
    }

    /// Different messages of warnings and errors.
    fn logs(&self, site: &Site) -> String {
        self.each(|name, _| {
            let text = std::fs::read_to_string(site.folder(name).join("weir.log"))?;
            let lines = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
            let bad = lines.filter(|line| matches!(line["log.level"].as_str(), Some("warn" | "error")));
            let say = |line: serde_json::Value| {
                let reason = line["weir.reason"].as_str().or(line["weir.error"].as_str()).unwrap_or_default();
                format!("{}: {} {reason}", line["log.level"], line["message"])
            };
            Ok(bad.map(say).collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join("\n    "))
        })
    }

    fn doctor(&self, site: &Site) -> String {
        self.each(|name, weir| {
            let environment = site.environment.iter().map(|(name, value)| (name.as_str(), value.as_str()));
            let mut doctor = Command::new(program("weir")?);
            doctor
                .arg("doctor")
                .arg("--data-dir")
                .arg(site.folder(name).join("data"))
                .args((weir.grpc.port() != 0).then(|| format!("--server={}", weir.url())));
            let output = doctor.envs(environment).env("WEIR_ROLES", name).env("WEIR_REDIS_NODE", name).output()?;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let lines = text.lines().filter(|line| !line.trim_start().starts_with("ok"));
            Ok(lines.collect::<Vec<_>>().join("\n    "))
        })
    }

    /// The process that answers gRPC calls.
    fn api(&self) -> anyhow::Result<&Weir> {
        self.0.last().map(|(_, weir)| weir).context("there is a process")
    }

    fn books(&self) -> String {
        self.api().and_then(|api| api.cli(&["books", "--check"])).unwrap_or_else(|error| format!("{error:#}\n"))
    }
}

#[expect(clippy::disallowed_methods, reason = "the time between two readings is not a state")]
fn pace() {
    std::thread::sleep(Duration::from_millis(50));
}

async fn drill(fault: Fault, roles: &[&str]) -> anyhow::Result<()> {
    // Manual runs let each fault last for a minute.
    let secs = std::env::var("WEIR_TEST_FAULT_SECS").ok().and_then(|secs| secs.parse().ok()).unwrap_or(0);
    let mut site = Site::new(true, &[]).await?;
    let processes = Processes::start(&site, roles)?;
    let mqtt = processes.0[0].1.mqtt;
    let over = AtomicBool::new(false);
    let handle = tokio::runtime::Handle::current();
    tokio::task::block_in_place(|| {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut device = Device::new("d", mqtt);
                for number in 0_u64.. {
                    if over.load(Ordering::Relaxed) {
                        return;
                    }
                    // Unacknowledged messages are sent again with the next one.
                    let payload = format!("{{\"n\":{number}}}");
                    if device.send(number, "devices/d/telemetry", payload.as_bytes()).is_ok() && device.in_flight() > 0
                    {
                        device.acknowledged().ok();
                    }
                    pace();
                }
            });
            let said = handle.block_on(async {
                wait_until("readings are flushed", WAIT, || async {
                    let stored = processes.metric("weir_flusher_items_total");
                    ensure!(stored.contains("history") && stored.contains("influxdb"), "{stored}");
                    Ok(())
                })
                .await?;
                plant(&mut site, fault.kind).await?;
                let planted = Instant::now();
                wait_until(fault.name, WAIT, || async {
                    let metric = if fault.metric.is_empty() { String::new() } else { processes.metric(fault.metric) };
                    let logs = processes.logs(&site);
                    ensure!(logs.contains(fault.log), "log: {logs}");
                    let state = format!("{}{}", processes.readiness(), processes.doctor(&site));
                    ensure!(state.contains(fault.state), "state: {state}");
                    ensure!(metric.contains(fault.metric), "metric: {}\nlog: {logs}", processes.metric("weir_"));
                    Ok(())
                })
                .await?;
                println!("\n=== {} ({})\nsaid everywhere after {:?}", fault.name, roles.join(", "), planted.elapsed());
                tokio::time::sleep(Duration::from_secs(secs).saturating_sub(planted.elapsed())).await;
                println!("log:\n{}readiness:\n{}", processes.logs(&site), processes.readiness());
                println!("books:\n{}doctor:\n{}", processes.books(), processes.doctor(&site));
                if fault.metric.is_empty() {
                    println!("alert: {}", fault.alert);
                } else {
                    println!("alert: {} by {}", fault.alert, processes.metric(fault.metric));
                }
                if matches!(fault.kind, Kind::AppendonlyNo) {
                    redis(&site, &["CONFIG", "SET", "appendonly", "yes"])?;
                }
                if fault.metric.is_empty() && !fault.heals {
                    let unbalanced = || async {
                        ensure!(processes.api()?.cli(&["books", "--check"]).is_err(), "{}", processes.books());
                        Ok(())
                    };
                    wait_until("the books do not balance", WAIT, unbalanced).await?;
                }
                if fault.heals {
                    wait_until("the books balance", WAIT, || async { processes.api()?.cli(&["books", "--check"]) })
                        .await?;
                }
                Ok(())
            });
            over.store(true, Ordering::Relaxed);
            said
        })
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn one_process_says_what_is_wrong_with_its_servers() -> anyhow::Result<()> {
    if skipped("one_process_says_what_is_wrong", &["redis-server", "mongod", "influxd"])? {
        return Ok(());
    }
    for fault in FAULTS {
        drill(fault, &["all"]).await.with_context(|| fault.name)?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_says_what_is_wrong_with_its_servers() -> anyhow::Result<()> {
    if skipped("a_fleet_says_what_is_wrong", &["redis-server", "mongod", "influxd"])? {
        return Ok(());
    }
    for fault in FAULTS {
        drill(fault, &["ingest", "flusher", "api"]).await.with_context(|| fault.name)?;
    }
    Ok(())
}
