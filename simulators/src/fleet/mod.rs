//! Plays a scenario against a broker.

mod audience;
mod device;
mod flight;
mod lean;
mod library;
mod packet;
mod progress;
mod stats;
mod subscriber;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use hdrhistogram::Histogram;
use model::Nanos;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::broker::{Broker, Dialer};
use crate::credentials::Credentials;
use crate::ledger::{Header, Recorder, Writer};
use crate::plan::{self, Device, Messages};
use crate::scenario::{Client, Scenario};
use audience::Audience;
pub(crate) use flight::Outbox;
use flight::Queue;
use progress::Progress;
pub(crate) use progress::micros;
pub use stats::{Latency, Sample, Stats};

/// Options of a run.
#[derive(Debug, Clone)]
pub struct Options {
    /// The broker.
    pub broker: Broker,
    /// Number of threads.
    pub threads: usize,
    /// Hides the progress.
    pub quiet: bool,
    /// Time after which a run ends when no device could connect.
    pub patience: Duration,
    /// Time between two samples of the counters.
    pub sample_every: Duration,
    /// Credentials of the devices.
    pub credentials: Credentials,
}

/// The broker as one device sees it, and the credentials of all.
#[derive(Debug)]
struct Target {
    dialer: Dialer,
    credentials: Credentials,
}

/// How a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Ended {
    /// All messages are acknowledged.
    Done,
    /// The scenario disconnects the device.
    Away,
    /// A fault of the scenario broke the connection.
    Dropped,
    /// A fault of the scenario left the connection open.
    HalfOpen,
    /// The connection could not be made, or broke.
    Failed(String),
}

/// The result of a run.
#[derive(Debug, Clone)]
pub struct Played {
    /// Start time, nanoseconds since 1970.
    pub start: Nanos,
    /// Number of devices.
    pub devices: usize,
    /// Duration of the run.
    pub lasted: Duration,
    /// One sample a second, the last at the end.
    pub samples: Vec<Sample>,
    /// Latency of the whole run.
    pub latency: Latency,
    /// The last failure.
    pub last_failure: String,
    /// True when it was interrupted (Ctrl-C).
    pub interrupted: bool,
}

/// Plays `scenario`, with CSV files from `folder`, and writes the outcome of every message into
/// `ledger`.
///
/// # Errors
/// When the ledger cannot be written, a CSV file cannot be read, or no device ever connects. A
/// broker that becomes unavailable is not an error: devices retry until the time for draining is
/// over.
pub fn run(scenario: &Scenario, folder: &Path, ledger: &Path, options: &Options) -> anyhow::Result<Played> {
    crate::bench::raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(options.threads).enable_all().build();
    let played = runtime.context("start the runtime")?.block_on(play(scenario, folder, ledger, options))?;
    Ok(played)
}

async fn play(scenario: &Scenario, folder: &Path, ledger: &Path, options: &Options) -> anyhow::Result<Played> {
    let audience = Audience::open(scenario, ledger, options).await?;
    let start = Start::now()?;
    let devices = plan::devices(scenario, folder, start.nanos)?;
    let header = Header {
        scenario: scenario.clone(),
        folder: std::path::absolute(folder).context("folder of the scenario")?,
        start: start.nanos,
        broker: options.broker.name(),
    };
    let (writer, recorder) = Writer::create(ledger, &header)?;
    let fleet = devices.into_iter().map(|device| {
        let messages: Outbox = Box::new(Messages::new(&device));
        (device, messages)
    });
    let times = (scenario.duration, scenario.drain);
    let played = send(&scenario.name, fleet.collect(), recorder, start, times, options).await?;
    tokio::task::spawn_blocking(move || writer.finish()).await.context("the ledger")??;
    if let Some(audience) = audience {
        let deadline = if played.interrupted { Instant::now() } else { Instant::now() + scenario.drain };
        audience.close(scenario, ledger, deadline).await?;
    }
    Ok(played)
}

/// The start of a run on both clocks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Start {
    at: Instant,
    /// Nanoseconds since 1970.
    pub(crate) nanos: Nanos,
}

impl Start {
    pub(crate) fn now() -> anyhow::Result<Self> {
        let (at, wall) = (Instant::now(), SystemTime::now());
        let nanos = wall.duration_since(UNIX_EPOCH).context("the clock is before 1970")?.as_nanos();
        Ok(Self { at, nanos: Nanos::try_from(nanos).context("the clock is far in the future")? })
    }
}

/// Runs the devices. `times` is the time in which messages are due, and the time after that for the
/// last acknowledgements.
pub(crate) async fn send(
    name: &str,
    fleet: Vec<(Device, Outbox)>,
    recorder: Recorder,
    start: Start,
    times: (Duration, Duration),
    options: &Options,
) -> anyhow::Result<Played> {
    let Start { at: start, nanos } = start;
    let stats = Arc::new(Stats::default());
    let deadline = start + times.0 + times.1;
    let devices = fleet.len();
    let mut tasks = JoinSet::new();
    let (stop, stopped) = watch::channel(false);
    for (device, messages) in fleet {
        ensure!(
            device.kind.group.client == Client::Lean || !options.broker.is_encrypted(),
            "the client of the device {} cannot encrypt: use `client = \"lean\"` in its group, or another --broker than {}",
            device.id,
            options.broker.name()
        );
        let dialer = options.broker.dialer(device.index as usize, options.credentials.identity(&device.id));
        let dialer = dialer.with_context(|| format!("the device {}", device.id))?;
        let target = Target { dialer, credentials: options.credentials.clone() };
        let queue = Queue::new(device, messages, Arc::clone(&stats), recorder.clone(), start);
        let mut stopped = stopped.clone();
        tasks.spawn(async move {
            let mut queue = queue;
            tokio::select! {
                () = device::play(&mut queue, &target, start, deadline) => {}
                _ = stopped.wait_for(|stopped| *stopped) => {}
            }
            queue.forget().await;
        });
    }
    drop(recorder);
    let mut interrupts = signal(SignalKind::interrupt()).context("listen for ctrl-c")?;
    let mut interrupted = false;
    let mut progress = Progress::new(name, times.0, options.quiet);
    let (mut samples, mut all) = (Vec::new(), stats::histogram());
    let every = options.sample_every.max(Duration::from_millis(50));
    let mut ticks = tokio::time::interval_at((start + every).into(), every);
    loop {
        tokio::select! {
            done = tasks.join_next() => match done {
                None => break,
                Some(result) => result.context("a device's task")?,
            },
            _ = ticks.tick() => {
                look(&stats, start, &mut all, &mut samples, &mut progress);
                if stats.never_connected() && start.elapsed() >= options.patience {
                    stop.send_replace(true);
                }
            }
            _ = interrupts.recv() => {
                ensure!(!interrupted, "interrupted twice: ended without a summary");
                interrupted = true;
                stop.send_replace(true);
            }
        }
    }
    look(&stats, start, &mut all, &mut samples, &mut progress);
    progress.end();
    ensure!(
        interrupted || !stats.never_connected(),
        "no device could connect to {}: start a broker there (`weir run`), or name another with --broker (last failure: {})",
        options.broker.name(),
        stats.last_failure()
    );
    Ok(Played {
        start: nanos,
        devices,
        lasted: start.elapsed(),
        samples,
        latency: Latency::of(&all),
        last_failure: stats.last_failure(),
        interrupted,
    })
}

fn look(stats: &Stats, start: Instant, all: &mut Histogram<u64>, samples: &mut Vec<Sample>, progress: &mut Progress) {
    let sample = stats.sample(start.elapsed(), all);
    progress.show(samples.last(), &sample);
    samples.push(sample);
}
