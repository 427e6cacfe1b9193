//! A publisher and a subscriber beside clients that disturb a broker: their latency, and the
//! memory of Weir.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;

use crate::client::{Client, Pace, Samples, percentile};
use crate::process::{self, resident_bytes};
use crate::site::pause;

/// Options of the measurement.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Messages per second of the publisher that is measured, at QoS 1.
    #[arg(long, default_value_t = 200.0)]
    rate: f64,
    /// Seconds of each run.
    #[arg(long, default_value_t = 10)]
    secs: u64,
    /// Messages per second of 1 KiB for clients that do not read, or read slowly.
    #[arg(long, default_value_t = 1000)]
    flood: usize,
    /// Clients that announce the largest packet and send all of it but one byte.
    #[arg(long, default_value_t = 1000)]
    unfinished: usize,
    /// Bound of Weir's memory, in MiB.
    #[arg(long, default_value_t = 512)]
    memory_mib: u64,
    /// Folder for Weir's data; a temporary one by default.
    #[arg(long)]
    data_dir: Option<PathBuf>,
}

/// A kind of clients that disturb.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    None,
    Slow,
    NeverReads,
    StuckPublisher,
    HalfPacket,
    LargestPacket,
}

const KINDS: [(Kind, &str); 7] = [
    (Kind::None, "no disturber"),
    (Kind::Slow, "a subscriber that reads 1 KiB/s"),
    (Kind::NeverReads, "10 subscribers that never read"),
    (Kind::StuckPublisher, "10 publishers that read no PUBACK"),
    (Kind::HalfPacket, "1,000 half-written packets"),
    (Kind::LargestPacket, "largest packets without their last byte"),
    (Kind::None, "no disturber, at the end"),
];

const STEADY: &str = "steady/one";
const FLOODED: &str = "flood/one";
/// Largest packet that Weir accepts by default.
const LARGEST: usize = 1 << 20;

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let temporary = tempfile::tempdir()?;
    let dir = options.data_dir.as_deref().unwrap_or(temporary.path()).join("disturb");
    std::fs::create_dir_all(&dir)?;
    let bound = options.memory_mib << 20;
    let weir = process::weir_with(&dir, &[("WEIR_MEMORY_MAX_BYTES", bound.to_string())])?;
    let pid = weir.child.0.id();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    println!(
        "{} messages/s at QoS 1, {} s each; memory.max_bytes {} MiB",
        options.rate, options.secs, options.memory_mib
    );
    println!("| beside | p50 | p99 | max | delivered | peak of Weir's memory |\n|---|---|---|---|---|---|");
    for (kind, name) in KINDS {
        let peak = Peak::watch(pid);
        let mut latencies = runtime.block_on(measure(options, weir.mqtt, kind)).context(name)?;
        let peak = peak.end();
        latencies.sort_unstable();
        println!(
            "| {name} | {:.2} ms | {:.2} ms | {:.2} ms | {} | {:.0} MiB |",
            percentile(&latencies, 0.5),
            percentile(&latencies, 0.99),
            percentile(&latencies, 1.0),
            latencies.len(),
            peak as f64 / f64::from(1 << 20)
        );
    }
    drop(weir);
    std::fs::remove_dir_all(&dir).with_context(|| format!("remove {}", dir.display()))
}

/// Watches the memory of a process.
struct Peak {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<u64>,
}

impl Peak {
    fn watch(pid: u32) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut peak = 0;
            while !stopped.load(Ordering::Relaxed) {
                peak = peak.max(resident_bytes(pid).unwrap_or_default());
                pause(Duration::from_millis(20));
            }
            peak
        });
        Self { stop, thread }
    }

    fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_default()
    }
}

/// Returns the latencies of the steady messages beside such clients.
async fn measure(options: &Options, broker: SocketAddr, kind: Kind) -> anyhow::Result<Vec<u32>> {
    let (base, samples) = (Instant::now(), Samples::default());
    let mut subscriber = Client::connect(broker, "steady-subscriber").await?;
    subscriber.subscribe(STEADY, 1).await?;
    let mut listening = JoinSet::new();
    listening.spawn(subscriber.listen(base, Arc::clone(&samples)));
    let publisher = Client::connect(broker, "steady-publisher").await?;
    let mut disturbers = JoinSet::new();
    let at_work = Arc::<AtomicU64>::default();
    let clients = disturb(options, broker, kind, &at_work, &mut disturbers).await?;
    // All of them are at work when the measurement begins.
    while at_work.load(Ordering::Relaxed) < clients {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let begin = Instant::now();
    let end = begin + Duration::from_secs(options.secs);
    let sent = publisher.publish(Pace { topic: STEADY, qos: 1, per_second: options.rate, begin, end, base }).await?;
    let waited = Instant::now();
    while (samples.lock().expect("no thread panics with it").len() as u64) < sent {
        ensure!(waited.elapsed() < Duration::from_secs(10), "not all of {sent} messages were delivered");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    disturbers.shutdown().await;
    listening.shutdown().await;
    let latencies = std::mem::take(&mut *samples.lock().expect("no thread panics with it"));
    Ok(latencies)
}

/// Starts clients that disturb. Returns the number of those that report when they are `at_work`.
async fn disturb(
    options: &Options,
    broker: SocketAddr,
    kind: Kind,
    at_work: &Arc<AtomicU64>,
    tasks: &mut JoinSet<()>,
) -> anyhow::Result<u64> {
    let count = match kind {
        Kind::None => return Ok(0),
        Kind::Slow => 1,
        Kind::NeverReads | Kind::StuckPublisher => 10,
        Kind::HalfPacket => 1000,
        Kind::LargestPacket => options.unfinished,
    };
    if matches!(kind, Kind::Slow | Kind::NeverReads) {
        for number in 0..count {
            let mut client = Client::connect(broker, &format!("slow-{number}")).await?;
            client.subscribe(FLOODED, 1).await?;
            tasks.spawn(read_slowly(client, kind == Kind::Slow));
        }
        let flood = Client::connect(broker, "flood").await?;
        tasks.spawn(send_without_end(flood, options.flood, false));
        return Ok(0);
    }
    for number in 0..count {
        let at_work = Arc::clone(at_work);
        let client = Client::connect(broker, &format!("disturber-{number}")).await?;
        match kind {
            Kind::StuckPublisher => {
                tasks.spawn(send_without_end(client, options.flood, true));
            }
            Kind::HalfPacket => {
                tasks.spawn(leave_unfinished(client, 512, 256, at_work));
            }
            _ => {
                tasks.spawn(leave_unfinished(client, LARGEST, LARGEST - 1, at_work));
            }
        }
    }
    Ok(if kind == Kind::StuckPublisher { 0 } else { count as u64 })
}

/// Reads 1 KiB each second, or nothing.
async fn read_slowly(mut client: Client, reads: bool) {
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        // It stays when the broker has closed it.
        if reads {
            client.stream.read_exact(&mut [0; 1024]).await.ok();
        }
    }
}

/// Sends messages of 1 KiB at QoS 1, and reads acknowledgements unless it is `stuck`. A connection
/// that the broker has ended sends no more.
async fn send_without_end(mut client: Client, per_second: usize, stuck: bool) {
    let payload = [b'x'; 1024];
    let (mut number, begun, mut input) = (0_u32, Instant::now(), [0; 4096]);
    loop {
        let due = begun + Duration::from_secs_f64(f64::from(number) / per_second as f64);
        tokio::time::sleep_until(due.into()).await;
        number += 1;
        let mut out = Vec::new();
        let packet_id = (number % u32::from(u16::MAX)) as u16 + 1;
        let publish =
            mqtt_client::Publish { topic: FLOODED, payload: &payload, qos: 1, packet_id, ..Default::default() };
        mqtt_client::publish(&mut out, mqtt_client::Version::V4, &publish);
        if client.stream.write_all(&out).await.is_err() {
            return;
        }
        if !stuck && matches!(client.stream.try_read(&mut input), Ok(0)) {
            return;
        }
    }
}

/// Announces a packet of `bytes`, sends `sent` of them, and stays. The broker may close it.
async fn leave_unfinished(mut client: Client, bytes: usize, sent: usize, at_work: Arc<AtomicU64>) {
    let mut packet = vec![0x30];
    // A length of three bytes, and four in all before the body.
    let length = bytes - 4;
    packet.extend([length as u8 & 0x7F | 0x80, (length >> 7) as u8 & 0x7F | 0x80, (length >> 14) as u8]);
    packet.extend_from_slice(b"\0\x05large");
    packet.resize(sent, b'x');
    let written = client.stream.write_all(&packet).await;
    drop(packet);
    at_work.fetch_add(1, Ordering::Relaxed);
    if written.is_ok() {
        // Nothing comes, or the end.
        client.stream.read_exact(&mut [0; 64]).await.ok();
    }
    std::future::pending().await
}
