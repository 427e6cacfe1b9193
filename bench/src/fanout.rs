//! Fan-out: one publisher and many subscribers, many publishers and one subscriber; Weir beside
//! another broker in the same run.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tokio::task::JoinSet;

use crate::client::{Client, Pace, Samples, percentile};
use crate::process::{self, cpu_seconds};

/// Options of the measurement.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Clients on the side of the many.
    #[arg(long, default_value_t = 1000)]
    clients: usize,
    /// Deliveries per second: with one publisher, it sends this number divided by the subscribers.
    #[arg(long, default_value_t = 20_000)]
    rate: usize,
    /// Seconds of each run.
    #[arg(long, default_value_t = 10)]
    secs: u64,
    /// Rounds; in each, the brokers take turns.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Address of another broker, for example a Mosquitto, to which every client may connect.
    #[arg(long)]
    other: Option<SocketAddr>,
    /// Its process, for the CPU time.
    #[arg(long, requires = "other")]
    other_pid: Option<u32>,
    /// Its name in the table.
    #[arg(long, default_value = "other")]
    other_name: String,
    /// Folder for Weir's data; a temporary one by default.
    #[arg(long)]
    data_dir: Option<std::path::PathBuf>,
}

const TOPIC: &str = "bench/fan";
/// Time without a delivery after which the rest counts as lost.
const SILENCE: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Copy)]
struct Shape {
    publishers: usize,
    subscribers: usize,
    qos: u8,
}

struct Broker {
    name: String,
    address: SocketAddr,
    pid: Option<u32>,
}

struct Figures {
    delivered_per_second: f64,
    p50: f64,
    p99: f64,
    cpu_micros: Option<f64>,
    lost: u64,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    ensure!(options.clients > 0 && options.rate >= options.clients, "--rate is at least one message for each client");
    let temporary = tempfile::tempdir()?;
    let dir = options.data_dir.as_deref().unwrap_or(temporary.path()).join("fanout");
    std::fs::create_dir_all(&dir)?;
    let weir = process::weir(&dir)?;
    let mut brokers = vec![Broker { name: "Weir".into(), address: weir.mqtt, pid: Some(weir.child.0.id()) }];
    if let Some(address) = options.other {
        brokers.push(Broker { name: options.other_name.clone(), address, pid: options.other_pid });
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    println!("{} deliveries/s offered, {} s, {} rounds", options.rate, options.secs, options.rounds);
    println!(
        "| clients | QoS | broker | deliveries/s | p50 | p99 | CPU per delivery | lost |\n|---|---|---|---|---|---|---|---|"
    );
    for (publishers, subscribers) in [(1, options.clients), (options.clients, 1)] {
        for qos in [0, 1] {
            let shape = Shape { publishers, subscribers, qos };
            let mut all: Vec<Vec<Figures>> = brokers.iter().map(|_| Vec::new()).collect();
            for _ in 0..options.rounds {
                for (broker, figures) in brokers.iter().zip(&mut all) {
                    figures.push(runtime.block_on(measure(options, shape, broker)).context(broker.name.clone())?);
                }
            }
            for (broker, figures) in brokers.iter().zip(all) {
                row(shape, broker, figures);
            }
        }
    }
    drop(weir);
    remove(&dir)
}

fn remove(dir: &Path) -> anyhow::Result<()> {
    std::fs::remove_dir_all(dir).with_context(|| format!("remove {}", dir.display()))
}

/// Prints the round with the median p99; messages lost in any round count.
fn row(shape: Shape, broker: &Broker, mut figures: Vec<Figures>) {
    let lost: u64 = figures.iter().map(|figures| figures.lost).sum();
    figures.sort_by(|a, b| a.p99.total_cmp(&b.p99));
    let Figures { delivered_per_second, p50, p99, cpu_micros, .. } = &figures[figures.len() / 2];
    println!(
        "| {} to {} | {} | {} | {delivered_per_second:.0} | {p50:.2} ms | {p99:.2} ms | {} | {lost} |",
        shape.publishers,
        shape.subscribers,
        shape.qos,
        broker.name,
        cpu_micros.map_or("-".to_owned(), |micros| format!("{micros:.2} us")),
    );
}

async fn measure(options: &Options, shape: Shape, broker: &Broker) -> anyhow::Result<Figures> {
    let (base, samples) = (Instant::now(), Samples::default());
    let mut subscribers = JoinSet::new();
    for number in 0..shape.subscribers {
        let mut client = Client::connect(broker.address, &format!("sub-{number}")).await?;
        client.subscribe(TOPIC, shape.qos).await?;
        subscribers.spawn(client.listen(base, Arc::clone(&samples)));
    }
    let mut clients = Vec::new();
    for number in 0..shape.publishers {
        clients.push(Client::connect(broker.address, &format!("pub-{number}")).await?);
    }
    let cpu = || broker.pid.and_then(cpu_seconds);
    let (cpu_before, begun) = (cpu(), Instant::now());
    let each = options.rate as f64 / shape.subscribers as f64 / shape.publishers as f64;
    let end = begun + Duration::from_secs(options.secs);
    let mut publishers = JoinSet::new();
    for (number, client) in clients.into_iter().enumerate() {
        // Spread over the time between two messages, so that clients do not send in step.
        let offset = Duration::from_secs_f64(number as f64 / shape.publishers as f64 / each);
        let pace = Pace { topic: TOPIC, qos: shape.qos, per_second: each, begin: begun + offset, end, base };
        publishers.spawn(client.publish(pace));
    }
    let mut sent = 0;
    while let Some(done) = publishers.join_next().await {
        sent += done??;
    }
    let expected = sent * shape.subscribers as u64;
    let lasted = drained(&samples, expected).await.duration_since(begun);
    let cpu_after = cpu();
    if let Some(ended) = subscribers.try_join_next() {
        // None ends by itself.
        ended??;
    }
    let mut latencies = std::mem::take(&mut *samples.lock().expect("no thread panics with it"));
    let delivered = latencies.len() as u64;
    ensure!(delivered > 0, "nothing was delivered");
    latencies.sort_unstable();
    Ok(Figures {
        delivered_per_second: delivered as f64 / lasted.as_secs_f64(),
        p50: percentile(&latencies, 0.5),
        p99: percentile(&latencies, 0.99),
        cpu_micros: cpu_before.zip(cpu_after).map(|(before, after)| (after - before) * 1e6 / delivered as f64),
        lost: expected.saturating_sub(delivered),
    })
}

/// Waits until all are delivered, or none comes any longer. Returns the time of the last one.
async fn drained(samples: &Samples, expected: u64) -> Instant {
    let (mut last, mut since) = (0, Instant::now());
    loop {
        let now = samples.lock().expect("no thread panics with it").len() as u64;
        if now > last {
            (last, since) = (now, Instant::now());
        }
        if now >= expected || since.elapsed() >= SILENCE {
            return since;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
