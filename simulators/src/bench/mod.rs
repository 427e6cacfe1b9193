//! Throughput and latency of any broker, at QoS 1.
//!
//! Each connection keeps a number of messages in flight, or all connections together keep a rate.
//! The client is lean, because the load generator shares the machine with the broker.

mod calls;
mod connection;
mod payload;
mod report;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::sync::{Barrier, Semaphore, mpsc, watch};

use crate::broker::{Address, Broker};
use crate::credentials::Credentials;
use crate::oracle::Weir;
use connection::{Connection, Outcome, Phase};
pub use report::Report;

/// A load for a broker.
#[derive(Debug, Clone, clap::Args)]
pub struct Load {
    /// Address of the broker; mqtts://host:port is encrypted. Of several, separated by commas, each
    /// connection is made to a random one.
    #[arg(long, default_value = "127.0.0.1:1883", value_delimiter = ',')]
    pub broker: Vec<Address>,
    /// PEM file with the authorities of the servers; without it, the public ones.
    #[arg(long, env = "WEIR_CA")]
    pub ca: Option<PathBuf>,
    /// Connections; each is a device `sim-N`.
    #[arg(long, default_value_t = 1000)]
    pub conns: usize,
    /// Messages in flight on each connection; 0 connects and stays idle.
    #[arg(long, default_value_t = 5)]
    pub inflight: usize,
    /// Messages per second of all connections together; without it, as fast as PUBACKs arrive.
    #[arg(long)]
    pub rate: Option<f64>,
    /// Seconds to measure.
    #[arg(long, default_value_t = 10.0)]
    pub secs: f64,
    /// Seconds of warm-up.
    #[arg(long, default_value_t = 2.0)]
    pub warmup_secs: f64,
    /// Topic; `{}` is replaced by the device id.
    #[arg(long, default_value = "devices/{}/telemetry")]
    pub topic: String,
    /// Process id of the broker, to report its CPU time per message.
    #[arg(long)]
    pub pid: Option<u32>,
    /// Number of the first device.
    #[arg(long, default_value_t = 0)]
    pub first_device: usize,
    /// Connections for each source address 127.0.0.x, to exceed the ports of one address.
    #[arg(long, default_value_t = 20_000)]
    pub per_source: usize,
    /// Number of threads.
    #[arg(long, default_value_t = 2)]
    pub threads: usize,
    /// Credentials of the devices, as `weir-sim credentials` prints them.
    #[arg(long)]
    pub credentials: Option<PathBuf>,
    /// gRPC address of Weir: measures calls meanwhile, which read the devices of the load.
    #[arg(long)]
    pub server: Option<String>,
    /// Calls per second to --server.
    #[arg(long, default_value_t = 50.0)]
    pub calls: f64,
    /// API key for --server.
    #[arg(long, env = "WEIR_API_KEY", hide_env_values = true)]
    pub token: Option<String>,
    /// Print one line of JSON.
    #[arg(long)]
    pub json: bool,
}

/// Applies the load and reports.
///
/// # Errors
/// When no connection can be made. The report counts connections that end early.
pub fn run(load: &Load) -> anyhow::Result<Report> {
    raise_descriptor_limit();
    let credentials = load.credentials.as_deref().map(Credentials::read).transpose()?.unwrap_or_default();
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(load.threads)
        .enable_all()
        .build()
        .context("start the runtime")?
        .block_on(play(Arc::new(load.clone()), credentials))
}

/// Counters shared by all connections.
#[derive(Debug, Default)]
struct Shared {
    acknowledged: AtomicU64,
    connected: AtomicU64,
    stop: AtomicBool,
}

async fn play(load: Arc<Load>, credentials: Credentials) -> anyhow::Result<Report> {
    let broker = Broker::open(&load.broker, load.ca.as_deref(), load.per_source)?;
    let weir = match &load.server {
        Some(address) => Some(Weir::connect(address, load.token.as_deref(), load.ca.as_deref()).await?),
        None => None,
    };
    let shared = Arc::new(Shared::default());
    let (phase, phases) = watch::channel(Phase::Connecting);
    let (outcomes, mut results) = mpsc::channel::<Outcome>(load.conns.max(1));
    let barrier = Arc::new(Barrier::new(load.conns + 1));
    let connecting = Arc::new(Semaphore::new(256));
    let began = Instant::now();
    for index in 0..load.conns {
        let device = load.first_device + index;
        let dialer = broker.dialer(device, credentials.identity(&format!("sim-{device}")));
        let dialer = dialer.with_context(|| format!("the device sim-{device}"))?;
        let connection = Connection::new(index, Arc::clone(&load), dialer, phases.clone());
        let connection = connection.with(credentials.clone());
        let (shared, outcomes) = (Arc::clone(&shared), outcomes.clone());
        let (barrier, connecting) = (Arc::clone(&barrier), Arc::clone(&connecting));
        tokio::spawn(async move {
            let outcome = connection.play(&shared, &barrier, &connecting).await;
            // The receiver lives until every connection has reported.
            outcomes.send(outcome).await.ok();
        });
    }
    drop(outcomes);
    barrier.wait().await;
    let connect_time = began.elapsed();
    let cpu_at = |pid: Option<u32>| pid.and_then(cpu_micros);
    phase.send_replace(Phase::Warming);
    tokio::time::sleep(Duration::from_secs_f64(load.warmup_secs)).await;
    let (sent_before, cpu_before, from) =
        (shared.acknowledged.load(Ordering::Relaxed), cpu_at(load.pid), Instant::now());
    phase.send_replace(Phase::Measuring);
    let calls = match &weir {
        Some(weir) => Some(calls::measure(weir, &load).await),
        None => {
            tokio::time::sleep(Duration::from_secs_f64(load.secs)).await;
            None
        }
    };
    let measured = from.elapsed();
    let acknowledged = shared.acknowledged.load(Ordering::Relaxed) - sent_before;
    let cpu = cpu_at(load.pid).zip(cpu_before).map(|(after, before)| after - before);
    let memory = load.pid.and_then(resident_bytes);
    shared.stop.store(true, Ordering::Relaxed);
    phase.send_replace(Phase::Stopping);
    let mut report = Report::new(&load, measured, connect_time, acknowledged, cpu, memory);
    report.calls = calls;
    while let Some(outcome) = results.recv().await {
        report.add(outcome)?;
    }
    Ok(report)
}

pub(crate) fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).is_err() {
        eprintln!("the limit of open files is {:?}: it may be too low for the connections", limit.current);
    }
}

/// User and system time that a process has used.
fn cpu_micros(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in brackets, may contain blanks: fields are counted after it. Times are fields 14
    // and 15 of proc(5).
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let ticks: u64 = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    Some(ticks * 1_000_000 / rustix::param::clock_ticks_per_second())
}

fn resident_bytes(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests;
